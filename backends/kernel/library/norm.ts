import {
  type Expr,
  type Kernel,
  type KernelBuilder,
  kernel,
  type Readable,
  range,
  twoWords,
} from "../lang/index.ts";
import { numberName } from "./format.ts";
import { bf16Parts } from "./products/to-bf16.ts";

export interface NormShape {
  readonly columns: number;
  readonly eps: number;
  /** Added after the norm. */
  readonly residual: boolean;
}

/** One group for each row: y = x / √(mean(x²) + eps) · scale, in f32. */
export function rmsNorm(s: NormShape, threads: number): Kernel {
  const name = `rms_norm_${s.columns}_eps${numberName(s.eps)}${s.residual ? "_add" : ""}`;
  const doc = `${s.residual ? "residual + " : ""}each row of ${s.columns} over its root mean square, times scale`;
  return kernel(name, { doc, threads }, (k) => {
    const x = k.input("x", "f32");
    const scale = k.weight("scale", "f32");
    const residual = s.residual ? k.input("residual", "f32") : undefined;
    const y = k.output("y", "f32");
    const start = k.let("start", k.group.x.mul(s.columns));
    const squares = k.zero("squares", "f32");
    k.for("i", { from: k.thread, to: s.columns, step: threads }, (i) => {
      const value = k.let("value", x.at(start.add(i)));
      squares.inc(value.mul(value));
    });
    const [square] = k.reduce("+", [{ name: "square", value: squares }]);
    if (!square) return;
    const root = k.let("inverse_root", square.div(s.columns).add(s.eps).rsqrt());
    k.for("i", { from: k.thread, to: s.columns, step: threads }, (i) => {
      const at = k.let("at", start.add(i));
      const value = x.at(at).mul(root).mul(scale.at(i));
      y.set(at, residual ? residual.at(at).add(value) : value);
    });
  });
}

/** The same without a residual, in the bf16 that tensor cores multiply; see `toBf16`. Columns are a multiple of 64. */
export function rmsNormBf16({ columns, eps }: NormShape, parts: 1 | 2, threads: number): Kernel {
  const name = `rms_norm_${columns}_eps${numberName(eps)}_bf16${parts > 1 ? "_pair" : ""}`;
  const doc = `each row of ${columns} over its root mean square, times scale, in ${parts > 1 ? "two " : ""}bf16`;
  return kernel(name, { doc, threads }, (k) => {
    const x = k.input("x", "f32x4");
    const scale = k.weight("scale", "f32x4");
    const y = k.output("y", "u32x2");
    const tokens = k.uniform("tokens");
    const quads = { from: k.thread, to: columns / 4, step: threads } as const;
    const squares = k.zero("squares", "f32x4");
    k.for("i", quads, (i) => {
      const value = k.let("value", x.at(k.group.x.mul(columns / 4).add(i)));
      squares.inc(value.mul(value));
    });
    const [square] = k.reduce("+", [{ name: "square", value: squares.sum() }]);
    if (!square) return;
    const root = k.let("inverse_root", square.div(columns).add(eps).rsqrt());
    k.for("i", quads, (i) => {
      const value = x
        .at(k.group.x.mul(columns / 4).add(i))
        .mul(root)
        .mul(scale.at(i));
      const [a, b, c, d] = k.let("four", value).lanes() as [
        Expr<"f32">,
        Expr<"f32">,
        Expr<"f32">,
        Expr<"f32">,
      ];
      const [low, high] = [bf16Parts(a, b, parts), bf16Parts(c, d, parts)];
      for (const p of range(parts)) {
        const row = k.group.x.add(tokens.mul(p)).mul(columns / 4);
        y.set(row.add(i), twoWords(low[p] as Expr<"u32">, high[p] as Expr<"u32">));
      }
    });
  });
}

/** What a product of one vector does with it first: divides it by its root mean square and scales it. */
export interface InputNorm {
  readonly eps: number;
  /** Before that a branch, normalised likewise, is added; the sum goes on as the residual stream, so it is stored. */
  readonly branch?: { readonly eps: number };
}

export const inputNormName = ({ eps, branch }: InputNorm): string =>
  `${branch ? `_add_norm${numberName(branch.eps)}` : ""}_norm${numberName(eps)}`;

export const inputNormDoc = ({ branch }: InputNorm): string =>
  `${branch ? "plus a branch over its root mean square, scaled; that sum " : ""}divided by its root mean square and scaled`;

/** A vector as a product reads it. */
export interface InputVector {
  readonly scale: Readable<"f32x4"> | undefined;
  readonly eps: number;
  /**
   * Makes ready what `at` needs: to be called where inputs may be read and all threads come by. The first group of the
   * launch stores the sum.
   */
  begin(): void;
  /** Four of its numbers, before the norm. */
  at(quad: Expr<"u32">): Expr<"f32x4">;
}

/** Declares the buffers `x` and, as the norm needs them, `norm`, `branch`, `branch_norm` and `sum`. */
export function inputVector(k: KernelBuilder, columns: number, norm: InputNorm | undefined): InputVector {
  const x = k.input("x", "f32x4");
  const scale = norm && k.weight("norm", "f32x4");
  const eps = norm?.eps ?? 0;
  if (!norm?.branch) return { scale, eps, begin: () => {}, at: (quad) => x.at(quad) };
  const { branch: branchNorm } = norm;
  const branch = k.input("branch", "f32x4");
  const branchScale = k.weight("branch_norm", "f32x4");
  const sum = k.output("sum", "f32x4");
  const each = { from: k.thread, to: columns / 4, step: k.threads } as const;
  let root: Expr<"f32"> | undefined;
  const at = (quad: Expr<"u32">) => {
    if (!root) throw new Error("begin() was not called");
    return x.at(quad).add(branch.at(quad).mul(root).mul(branchScale.at(quad)));
  };
  return {
    scale,
    eps,
    at,
    begin: () => {
      const squares = k.zero("branch_squares", "f32x4");
      k.for("i", each, (i) => {
        const value = k.let("of_branch", branch.at(i));
        squares.inc(value.mul(value));
      });
      const [square] = k.reduce("+", [{ name: "branch_square", value: squares.sum() }]);
      if (!square) return;
      root = k.let("branch_root", square.div(columns).add(branchNorm.eps).rsqrt());
      k.if(k.group.x.eq(0), () => k.for("i", each, (i) => sum.set(i, at(i))));
    },
  };
}

import type { Expr, Memory } from "./expr.ts";
import type { Type } from "./type.ts";

/** One step of a kernel. Names are unique within it. */
export type Stmt =
  | { readonly kind: "let"; readonly name: string; readonly value: Expr }
  | { readonly kind: "var"; readonly name: string; readonly value: Expr }
  | { readonly kind: "set"; readonly name: string; readonly value: Expr }
  | { readonly kind: "store"; readonly memory: Memory; readonly index: Expr; readonly value: Expr }
  /** For name = from; name < to; name += step. A u32. */
  | {
      readonly kind: "for";
      readonly name: string;
      readonly from: Expr<"u32">;
      readonly to: Expr<"u32">;
      readonly step: Expr<"u32">;
      readonly body: readonly Stmt[];
    }
  | {
      readonly kind: "if";
      readonly cond: Expr<"bool">;
      readonly yes: readonly Stmt[];
      readonly no: readonly Stmt[];
    }
  /** Every thread of the group gets here, and sees what the others wrote, before any goes on. */
  | { readonly kind: "barrier" }
  /**
   * Adds up (or takes the largest of) `value` over each `lanes` neighbouring threads; all of them get the result. By
   * subgroup operations where a target has them, through `scratch` where not; the result may differ in the last bits.
   */
  | {
      readonly kind: "reduce";
      readonly op: "+" | "max" | "min";
      readonly lanes: number;
      readonly results: readonly {
        readonly name: string;
        readonly value: Expr<"f32" | "u32" | "i32">;
      }[];
    }
  /**
   * Adds to `acc` a product of matrices of bf16 by a warp of 32 threads: 16 × 16 by 16 × 8. Thread l, with g = l / 4 and
   * t = l % 4, brings of the first rows g and g + 8, columns 2t, 2t + 1, and then the same eight columns on; of the second
   * rows 2t, 2t + 1, 2t + 8, 2t + 9 of column g; it gets columns 2t, 2t + 1 of rows g and g + 8 (PTX, mma.m16n8k16).
   */
  | {
      readonly kind: "mma";
      readonly acc: string;
      readonly a: readonly [Expr<"u32">, Expr<"u32">, Expr<"u32">, Expr<"u32">];
      readonly b: readonly [Expr<"u32">, Expr<"u32">];
    }
  /**
   * Reads four matrices of 8 × 8 numbers of 16 bits from shared memory by a warp: the 16 bytes at `index` of thread l are row
   * l % 8 of matrix l / 8, and it gets numbers 2t, 2t + 1 of row g of each, as `mma` has its operands (PTX, ldmatrix).
   */
  | {
      readonly kind: "matrices";
      readonly names: readonly [string, string, string, string];
      readonly memory: Memory<"u32x4">;
      readonly index: Expr<"u32">;
    }
  /** Adds to a counter that all groups share; `name` is what it held before. */
  | {
      readonly kind: "count";
      readonly name: string;
      readonly memory: Memory<"u32">;
      readonly index: Expr<"u32">;
      readonly by: Expr<"u32">;
    }
  /**
   * Begins to copy 16 bytes of `from`, or as many zeros where `some` is false, into shared memory from `index`, a multiple
   * of 16 bytes. Whoever does not wait for it goes on meanwhile.
   */
  | {
      readonly kind: "copy";
      readonly memory: Memory;
      readonly index: Expr<"u32">;
      readonly from: Memory;
      readonly at: Expr<"u32">;
      readonly some: Expr<"bool">;
    }
  /** The copies that this thread began since the last one are a batch. */
  | { readonly kind: "batch" }
  /** All but the `left` newest batches of this thread have arrived; other threads see them after a barrier. */
  | { readonly kind: "arrive"; readonly left: number }
  /** What other groups wrote before they counted is seen after this. */
  | { readonly kind: "fence" }
  /** From here on results of earlier kernels may be read. What stands before may run while they still do. */
  | { readonly kind: "await" }
  | { readonly kind: "comment"; readonly text: string };

/** A number that the launch passes, the same for all threads. */
export interface Uniform {
  readonly name: string;
  readonly type: "u32" | "f32";
}

/**
 * One function that many threads run. A launch has a grid of groups of `threads` each. The buffers are bound in the
 * order given here.
 */
export interface Kernel {
  /** Unique for what it computes: sizes and formats are part of the name. */
  readonly name: string;
  /** One line for whoever reads the artifact. */
  readonly doc: string;
  readonly threads: number;
  /** Groups that a multiprocessor of CUDA is to hold at once: threads may have the registers that this leaves. */
  readonly atOnce?: number;
  readonly buffers: readonly Memory[];
  readonly uniforms: readonly Uniform[];
  readonly shared: readonly Memory[];
  readonly tables: readonly Memory[];
  readonly body: readonly Stmt[];
  /**
   * The same for devices that are faster at f16, which rounds more: equal in name, buffers, uniforms and grid, so that
   * either can be launched.
   */
  readonly half?: Kernel;
}

/** Every statement, outer before inner. */
export function* statements(body: readonly Stmt[]): Generator<Stmt> {
  for (const s of body) {
    yield s;
    if (s.kind === "for") yield* statements(s.body);
    if (s.kind === "if") {
      yield* statements(s.yes);
      yield* statements(s.no);
    }
  }
}

/** Whether threads meet in `s`: then all of them must get there. */
export function meets(s: Stmt): boolean {
  if (s.kind === "barrier" || s.kind === "reduce" || s.kind === "mma" || s.kind === "matrices") return true;
  if (s.kind === "for") return s.body.some(meets);
  return s.kind === "if" && (s.yes.some(meets) || s.no.some(meets));
}

/** The expressions that `s` itself reads, not those of statements inside it. */
export function reads(s: Stmt): readonly Expr[] {
  switch (s.kind) {
    case "let":
    case "var":
    case "set":
      return [s.value];
    case "store":
      return [s.index, s.value];
    case "for":
      return [s.from, s.to, s.step];
    case "if":
      return [s.cond];
    case "reduce":
      return s.results.map((r) => r.value);
    case "count":
      return [s.index, s.by];
    case "mma":
      return [...s.a, ...s.b];
    case "copy":
      return [s.index, s.at, s.some];
    case "matrices":
      return [s.index];
    default:
      return [];
  }
}

/** The variables that `s` itself declares. */
export function declares(s: Stmt): readonly { readonly name: string; readonly type: Type }[] {
  switch (s.kind) {
    case "let":
    case "var":
      return [{ name: s.name, type: s.value.type }];
    case "for":
    case "count":
      return [{ name: s.name, type: "u32" }];
    case "reduce":
      return s.results.map((r) => ({ name: r.name, type: r.value.type }));
    case "matrices":
      return s.names.map((name) => ({ name, type: "u32" }));
    default:
      return [];
  }
}

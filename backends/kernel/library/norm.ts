import { type Kernel, kernel } from "../lang/index.ts";
import { numberName } from "./format.ts";

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

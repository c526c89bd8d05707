import { type Expr, f32, select } from "../lang/index.ts";

/** Between the two products of a gated layer: `gate` is what it is applied to. */
export const activations = {
  gelu: (x) => {
    const cubic = x.add(x.mul(x).mul(x).mul(0.044715));
    return x.mul(0.5).mul(
      cubic
        .mul(Math.sqrt(2 / Math.PI))
        .tanh()
        .add(1),
    );
  },
  gelu_erf: (x) => x.mul(0.5).mul(erf(x.mul(Math.SQRT1_2)).add(1)),
  silu: (x) => x.div(x.neg().exp().add(1)),
} as const satisfies Record<string, (x: Expr<"f32">) => Expr<"f32">>;
export type Activation = keyof typeof activations;

/** cap · tanh(x / cap). */
export const softcap = (x: Expr<"f32">, cap: number): Expr<"f32"> => x.div(cap).tanh().mul(cap);

/** Gauss error function, within 2e-7 (Abramowitz & Stegun 7.1.26). */
export function erf(x: Expr<"f32">): Expr<"f32"> {
  const z = x.abs();
  const t = f32(1).div(z.mul(0.3275911).add(1));
  const series = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
  const sum = series.reduce<Expr<"f32">>((acc, c) => acc.mul(t).add(c), f32(0));
  const y = f32(1).sub(sum.mul(t).mul(z.mul(z).neg().exp()));
  return select(x.lt(0), y.neg(), y);
}

/** 2π in three parts, the first two short enough that small multiples of them are exact (Cody & Waite 1980). */
const twoPi = [6.28125, 0.0019350051879882812, 3.0199159795074593e-7] as const;

/** Sine and cosine of radians. Some devices are exact between -π and π only, so whole turns are taken off first. */
export function turn(angle: Expr<"f32">): { sin: Expr<"f32">; cos: Expr<"f32"> } {
  const turns = angle
    .mul(1 / (2 * Math.PI))
    .add(0.5)
    .floor();
  const rest = twoPi.reduce<Expr<"f32">>((left, part) => left.sub(turns.mul(part)), angle);
  return { sin: rest.sin(), cos: rest.cos() };
}

/** theta^(-2i/D) / factor for each i < D/2, rounded at each step as the op `rope` does. */
export function frequencies(D: number, theta: number, factor: number): number[] {
  const half = D / 2;
  const f = Math.fround;
  return Array.from({ length: half }, (_, i) => f(f(1 / f(f(theta) ** f(i / half))) / f(factor)));
}

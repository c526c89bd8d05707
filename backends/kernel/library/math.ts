import { type Expr, f32, select, type Type } from "../lang/index.ts";

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

/** π/2 in three parts, the first two short enough that small multiples of them are exact (Cody & Waite 1980). */
const quarter = [1.5703125, 0.0004837512969970703, 7.549789948768648e-8] as const;

/**
 * Sine and cosine of radians, within 2e-7. WGSL promises 2^-11 only, and some devices give no more, so they are
 * computed here: quarter turns are taken off, and polynomials do the rest (Moshier's Cephes, sinf.c). `named` may
 * give names to what is used more than once.
 */
export function turn(
  angle: Expr<"f32">,
  named: <T extends Type>(name: string, e: Expr<T>) => Expr<T> = (_, e) => e,
): { sin: Expr<"f32">; cos: Expr<"f32"> } {
  const turns = named(
    "quarter_turns",
    angle
      .mul(2 / Math.PI)
      .add(0.5)
      .floor(),
  );
  const x = named(
    "rest",
    quarter.reduce<Expr<"f32">>((left, part) => left.sub(turns.mul(part)), angle),
  );
  const z = named("squared", x.mul(x));
  const sine = named(
    "rest_sine",
    series(z, [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1]).mul(z).mul(x).add(x),
  );
  const cosine = named(
    "rest_cosine",
    series(z, [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2])
      .mul(z)
      .mul(z)
      .sub(z.mul(0.5))
      .add(1),
  );
  const quadrant = named("quadrant", turns.to("i32"));
  const odd = named("odd", quadrant.and(1).eq(1));
  const signed = (flipped: Expr<"bool">, value: Expr<"f32">) => select(flipped, value.neg(), value);
  return {
    sin: signed(quadrant.and(2).eq(2), select(odd, cosine, sine)),
    cos: signed(quadrant.add(1).and(2).eq(2), select(odd, sine, cosine)),
  };
}

const series = (z: Expr<"f32">, [first = 0, ...terms]: readonly number[]): Expr<"f32"> =>
  terms.reduce<Expr<"f32">>((sum, c) => sum.mul(z).add(c), f32(first));

/** theta^(-2i/D) / factor for each i < D/2, rounded at each step as the op `rope` does. */
export function frequencies(D: number, theta: number, factor: number): number[] {
  const half = D / 2;
  const f = Math.fround;
  return Array.from({ length: half }, (_, i) => f(f(1 / f(f(theta) ** f(i / half))) / f(factor)));
}

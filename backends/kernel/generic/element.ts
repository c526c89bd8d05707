import type { Value } from "../../../ir/graph.ts";
import { concat, constant, gather, iota, mod, slice, transpose, update } from "../../../ir/ops/index.ts";
import { roundTo } from "../../../ir/tensor.ts";
import { type DType, isFloat } from "../../../ir/type.ts";
import type { PrimitiveName } from "../../backend.ts";
import {
  type Expr,
  f32,
  i32,
  type KernelBuilder,
  literal,
  packHalves,
  pair,
  select,
  unpack,
} from "../lang/index.ts";
import { erf, turn } from "../library/math.ts";
import type { Place, Sizes } from "./place.ts";

/** An element in a register: floats as f32, whole numbers as i32. */
export type Element = Expr<"f32" | "i32" | "bool">;
export const registerOf = (d: DType): "f32" | "i32" | "bool" =>
  isFloat(d) ? "f32" : d === "bool" ? "bool" : "i32";

/** What the emitters of elements write with. */
export interface Elements {
  readonly k: KernelBuilder;
  readonly sizes: Sizes;
  /** One element of `v`: loaded where v stands in memory, else computed from its operands. */
  at(v: Value, place: Place): Element;
}

type EmitElement = (cx: Elements, v: Value, place: Place) => Element;
/** Ops that walk over many elements: they get a kernel of their own. */
export type Walker = "sum" | "mean" | "max" | "matmul" | "param";

const float = (e: Element): Expr<"f32"> => {
  if (e.type !== "f32") throw new TypeError(`${e.type} where a float should be`);
  return e as Expr<"f32">;
};
const whole = (e: Element): Expr<"i32"> => {
  if (e.type !== "i32") throw new TypeError(`${e.type} where a whole number should be`);
  return e as Expr<"i32">;
};
const operand = (cx: Elements, v: Value, i: number, place: Place): Element => {
  const x = v.inputs[i] as Value;
  return cx.at(x, place.shrunk(x.shape));
};

const unary =
  (f: (x: Expr<"f32">) => Expr<"f32">): EmitElement =>
  (cx, v, place) =>
    f(float(operand(cx, v, 0, place)));

const binary =
  (
    f: (a: Expr<"f32">, b: Expr<"f32">) => Expr<"f32">,
    g: (a: Expr<"i32">, b: Expr<"i32">) => Expr<"i32">,
  ): EmitElement =>
  (cx, v, place) => {
    const [a, b] = [operand(cx, v, 0, place), operand(cx, v, 1, place)];
    if (a.type === "f32") return f(float(a), float(b));
    if (a.type === "i32") return g(whole(a), whole(b));
    return converted(g(whole(converted(a, "i32")), whole(converted(b, "i32"))), "bool");
  };

/** Powers of negative numbers are real where the exponent is whole. */
function power(a: Expr<"f32">, b: Expr<"f32">): Expr<"f32"> {
  const size = a.abs().pow(b);
  const odd = b.sub(b.mul(0.5).floor().mul(2)).ne(0);
  const negative = select(b.floor().eq(b), select(odd, size.neg(), size), f32(Number.NaN));
  return select(a.lt(0), negative, size);
}

/** An element converted as `cast` does, before it is rounded to a narrow type. */
export function converted(e: Element, to: "f32" | "i32" | "bool"): Element {
  if (e.type === to) return e;
  if (to === "bool") return e.type === "f32" ? (e as Expr<"f32">).ne(0) : (e as Expr<"i32">).ne(0);
  if (e.type === "bool") return select(e as Expr<"bool">, literal(to, 1), literal(to, 0));
  return e.to(to);
}

/** What an element becomes when a type holds it. */
const rounding: Readonly<Record<DType, (e: Element) => Element>> = {
  f32: (e) => e,
  i32: (e) => e,
  bool: (e) => e,
  bf16: (e) => {
    const bits = float(e).bits("u32");
    return bits.add(0x7fff).add(bits.shr(16).and(1)).and(0xffff0000).bits("f32");
  },
  f16: (e) => unpack("f16x2", packHalves(pair(float(e), f32(0)))).lane(0),
  i8: (e) => whole(e).shl(24).shr(24),
  i4: (e) => whole(e).shl(28).shr(28),
  u8: (e) => whole(e).and(255),
};
export const rounded = (e: Element, dtype: DType): Element => rounding[dtype](e);

/** How each primitive makes one element of its result. */
export const elements = {
  constant: (_, v) => {
    const { attrs } = operands(constant, v);
    return literal(registerOf(v.dtype), roundTo(v.dtype, attrs.value));
  },
  iota: (_, v, place) => {
    const { attrs } = operands(iota, v);
    const at = place.coordinates[v.type.axis(attrs.axis)] as Expr<"u32">;
    return converted(at.to("i32"), registerOf(v.dtype));
  },
  exp: unary((x) => x.exp()),
  tanh: unary((x) => x.tanh()),
  erf: unary(erf),
  sin: unary((x) => turn(x).sin),
  cos: unary((x) => turn(x).cos),
  sqrt: unary((x) => x.sqrt()),
  rsqrt: unary((x) => x.rsqrt()),
  add: binary(
    (a, b) => a.add(b),
    (a, b) => a.add(b),
  ),
  sub: binary(
    (a, b) => a.sub(b),
    (a, b) => a.sub(b),
  ),
  mul: binary(
    (a, b) => a.mul(b),
    (a, b) => a.mul(b),
  ),
  div: binary(
    (a, b) => a.div(b),
    (a, b) => a.div(b),
  ),
  pow: binary(power, (a, b) => power(a.to("f32"), b.to("f32")).to("i32")),
  maximum: binary(
    (a, b) => a.max(b),
    (a, b) => a.max(b),
  ),
  minimum: binary(
    (a, b) => a.min(b),
    (a, b) => a.min(b),
  ),
  mod: (cx, v, place) => {
    const { by } = operands(mod, v).attrs;
    const x = whole(operand(cx, v, 0, place));
    return x.mod(by).add(by).mod(by);
  },
  less_equal: (cx, v, place) => {
    const [a, b] = [operand(cx, v, 0, place), operand(cx, v, 1, place)];
    if (a.type === "f32") return float(a).le(float(b));
    return whole(converted(a, "i32")).le(whole(converted(b, "i32")));
  },
  select: (cx, v, place) => {
    const [cond, a, b] = [0, 1, 2].map((i) => operand(cx, v, i, place)) as [Element, Element, Element];
    return select(cond as Expr<"bool">, a as Expr<"f32">, b as Expr<"f32">);
  },
  cast: (cx, v, place) => converted(operand(cx, v, 0, place), registerOf(v.dtype)),
  reshape: (cx, v, place) => {
    const x = v.inputs[0] as Value;
    return cx.at(x, place.reshaped(x.shape));
  },
  transpose: (cx, v, place) => {
    const { x, attrs } = operands(transpose, v);
    const from = x.shape.map((_, axis) => place.coordinates[attrs.perm.indexOf(axis)] as Expr<"u32">);
    return cx.at(x, place.moved(x.shape, from));
  },
  slice: (cx, v, place) => {
    const { x, attrs } = operands(slice, v);
    const axis = x.type.axis(attrs.axis);
    const at = along(place, axis, (c) => c.add(cx.sizes.of(attrs.from)));
    return cx.at(x, place.moved(x.shape, at));
  },
  concat: (cx, v, place) => {
    const { a, b, attrs } = operands(concat, v);
    const axis = v.type.axis(attrs.axis);
    // What is empty has no place to look at.
    if (a.type.at(axis) === 0) return cx.at(b, place.moved(b.shape, place.coordinates));
    if (b.type.at(axis) === 0) return cx.at(a, place.moved(a.shape, place.coordinates));
    const [first, second] = [cx.sizes.of(a.type.at(axis)), cx.sizes.of(b.type.at(axis))];
    const inFirst = (place.coordinates[axis] as Expr<"u32">).lt(first);
    // Both are computed, so each looks at a place that it has.
    const left = cx.at(
      a,
      place.moved(
        a.shape,
        along(place, axis, (c) => c.min(first.sub(1))),
      ),
    );
    const right = cx.at(
      b,
      place.moved(
        b.shape,
        along(place, axis, (c) => c.max(first).sub(first).min(second.sub(1))),
      ),
    );
    return select(inFirst, left as Expr<"f32">, right as Expr<"f32">);
  },
  gather: (cx, v, place) => {
    const { table, index } = operands(gather, v);
    const [rows, rest] = [
      place.coordinates.slice(0, index.type.rank),
      place.coordinates.slice(index.type.rank),
    ];
    const row = whole(cx.at(index, place.moved(index.shape, rows)));
    const inside = row
      .max(0)
      .to("u32")
      .min(cx.sizes.of(table.type.at(0)).sub(1));
    return cx.at(table, place.moved(table.shape, [cx.k.let("row", inside), ...rest]));
  },
  update: (cx, v, place) => {
    const { dest, src, start, attrs } = operands(update, v);
    const axis = v.type.axis(attrs.axis);
    const [count, all] = [src.type.at(axis), dest.type.at(axis)].map((d) => cx.sizes.of(d).to("i32")) as [
      Expr<"i32">,
      Expr<"i32">,
    ];
    const from = whole(cx.at(start, place.moved([], [])));
    const behind = (place.coordinates[axis] as Expr<"u32">).to("i32").sub(from);
    // In a ring the last of the numbers that fall on one place wins.
    const ring = behind.mod(all).add(all).mod(all);
    const at = cx.k.let(
      "written",
      attrs.wrap ? ring.add(count.sub(1).sub(ring).max(0).div(all).mul(all)) : behind,
    );
    const fresh = i32(0).le(at).and(at.lt(count));
    const inside = at.max(0).min(count.sub(1)).to("u32");
    const value = cx.at(
      src,
      place.moved(
        src.shape,
        along(place, axis, () => inside),
      ),
    );
    return select(fresh, value as Expr<"f32">, cx.at(dest, place) as Expr<"f32">);
  },
  dequantize: (cx, v, place) => {
    const [codes, scale, zero] = v.inputs as [Value, Value, Value];
    const block = codes.fixed(1) / scale.fixed(1);
    const [row, column] = place.coordinates as [Expr<"u32">, Expr<"u32">];
    const of = (x: Value) =>
      cx.at(x, x.type.rank === 0 ? place.moved([], []) : place.moved(x.shape, [row, column.div(block)]));
    const number = (e: Element) => float(converted(e, "f32"));
    return number(cx.at(codes, place))
      .sub(number(of(zero)))
      .mul(float(of(scale)));
  },
} as const satisfies { readonly [K in Exclude<PrimitiveName, Walker>]: EmitElement };

/** `place`'s coordinates with one of them changed. */
const along = (place: Place, axis: number, change: (c: Expr<"u32">) => Expr<"u32">): Expr<"u32">[] =>
  place.coordinates.map((c, i) => (i === axis ? change(c) : c));

/** The operands and attributes of `v`, which the table says is `op`. */
export function operands<T>(op: { of(v: Value): T | undefined }, v: Value): T {
  const found = op.of(v);
  if (!found) throw new Error(`the table lists ${v.op.name} under another op`);
  return found;
}

/** Whether an element of `v` costs next to nothing to compute again. */
export const isCheap = (v: Value): boolean => cheap.has(v.op.name);
const cheap: ReadonlySet<string> = new Set([
  "constant",
  "iota",
  "reshape",
  "transpose",
  "slice",
  "concat",
  "cast",
  "gather",
] satisfies PrimitiveName[]);

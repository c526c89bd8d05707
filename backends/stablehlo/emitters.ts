import type { Value } from "../../ir/graph.ts";
import {
  cast,
  concat,
  constant,
  dequantize,
  gather,
  iota,
  linear,
  matmul,
  mod,
  quant_gather,
  quant_linear,
  slice,
  update,
} from "../../ir/ops/index.ts";
import { type Emit, type Emitters, operands } from "../backend.ts";
import { overwrite, ring, rows } from "./pieces.ts";
import { dot, product, products } from "./products.ts";
import type { Body, Ssa } from "./text/body.ts";
import { decimal, identifier, sizes, typed } from "./text/dialect.ts";

type EmitLine = Emit<Body>;

/** An operation of StableHLO that takes operands of one type, which ours stretch to. */
const same =
  (op: string): EmitLine =>
  (b, v) =>
    b.same(
      op,
      v.inputs.map((i) => b.stretched(i, sizes(v.type))),
      v,
    ).name;

const reduce =
  (op: "add" | "maximum", first: number, last = (_: Body, x: Ssa, _n: number) => x): EmitLine =>
  (b, v) => {
    const x = b.of(v.inputs[0] as Value);
    const axis = x.type.axis(Number(v.attrs.axis));
    const made = last(b, b.reduce(x, axis, op, first), Number(x.type.at(axis)));
    return b.reshape(made, sizes(v.type), v).name;
  };

/** A composite under its own name; what it stands for is a function beside. */
export const named: EmitLine = (b, v) => {
  const args = v.inputs.map((i) => b.of(i));
  const attributes = Object.entries(v.attrs).map(
    ([k, x]) => `${k} = ${attribute(x, v.op.attrs[k]?.kind ?? "")}`,
  );
  const parts = [
    ...(attributes.length ? [`composite_attributes = {${attributes.join(", ")}}`] : []),
    `decomposition = @${b.outline(v)}`,
  ];
  return b.op(`composite "gemmac.${identifier(v.op.name)}"`, args, v.type, ` {${parts.join(", ")}}`, v).name;
};

/** Abramowitz & Stegun 7.1.26, off by 1.5e-7 at most; StableHLO has no operation for it. */
function erf(b: Body, x: Ssa, v: Value): Ssa {
  const number = (value: number) => b.splat(value, x.type);
  const size = b.same("abs", [x]);
  const t = b.same("divide", [
    number(1),
    b.same("add", [number(1), b.same("multiply", [number(0.3275911), size])]),
  ]);
  const coefficients = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
  const sum = coefficients.reduce(
    (acc: Ssa | undefined, c) => b.same("multiply", [acc ? b.same("add", [acc, number(c)]) : number(c), t]),
    undefined,
  ) as Ssa;
  const tail = b.same("exponential", [b.same("negate", [b.same("multiply", [x, x])])]);
  const rest = b.same("subtract", [number(1), b.same("multiply", [sum, tail])]);
  return b.same("multiply", [b.same("sign", [x]), rest], v);
}

/** An attribute of ours as one of MLIR; numbers keep the digits that they are written with. */
const attribute = (x: unknown, kind: string): string => {
  if (typeof x === "boolean") return String(x);
  if (typeof x !== "number") return JSON.stringify(String(x));
  return kind === "float" ? `${decimal(x)} : f64` : `${x} : i64`;
};

/**
 * Every primitive in StableHLO, products as single operations, and the other composites under their own names.
 * Operations: https://openxla.org/stablehlo/spec
 */
export const emitters = {
  param: (_, v) => {
    throw new Error(`${v.attrs.name} is neither an input nor a weight`);
  },
  constant: (b, v) => b.splat(Number(v.attrs.value), v.type).name,
  iota: (b, v) => {
    const { attrs } = operands(iota, v);
    return b.iota(v.type, v.type.axis(attrs.axis), v).name;
  },

  exp: same("exponential"),
  tanh: same("tanh"),
  erf: (b, v) => erf(b, b.of(v.inputs[0] as Value), v).name,
  sin: same("sine"),
  cos: same("cosine"),
  sqrt: same("sqrt"),
  rsqrt: same("rsqrt"),
  add: same("add"),
  sub: same("subtract"),
  mul: same("multiply"),
  div: same("divide"),
  pow: same("power"),
  /** The remainder has the sign of what is divided; ours is never negative. */
  mod: (b, v) => {
    const { x, attrs } = operands(mod, v);
    const by = b.splat(attrs.by, v.type);
    const rest = b.same("remainder", [b.of(x), by]);
    const negative = b.compare("LT", rest, b.splat(0, v.type));
    return b.select(negative, b.same("add", [rest, by]), rest, v).name;
  },
  maximum: same("maximum"),
  minimum: same("minimum"),
  less_equal: (b, v) => {
    const shape = sizes(v.type);
    const [left, right] = v.inputs.map((i) => b.stretched(i, shape)) as [Ssa, Ssa];
    return b.compare("LE", left, right, v).name;
  },
  select: (b, v) => {
    const [cond, left, right] = v.inputs.map((i) => b.stretched(i, sizes(v.type))) as [Ssa, Ssa, Ssa];
    return b.select(cond, left, right, v).name;
  },

  cast: (b, v) => b.convert(b.of(operands(cast, v).x), v.dtype, v).name,
  reshape: (b, v) => b.reshape(b.of(v.inputs[0] as Value), sizes(v.type), v).name,
  transpose: (b, v) => {
    const perm = v.attrs.perm as readonly number[];
    return b.op("transpose", [b.of(v.inputs[0] as Value)], v.type, `, dims = [${perm.join(", ")}]`, v).name;
  },
  slice: (b, v) => {
    const { x, attrs } = operands(slice, v);
    return b.slice(b.of(x), x.type.axis(attrs.axis), Number(attrs.from), Number(attrs.to), v).name;
  },
  concat: (b, v) => {
    const { a, b: other, attrs } = operands(concat, v);
    return b.op("concatenate", [b.of(a), b.of(other)], v.type, `, dim = ${v.type.axis(attrs.axis)}`, v).name;
  },
  gather: (b, v) => {
    const { table, index } = operands(gather, v);
    return rows(b, b.of(table), b.of(index), v).name;
  },
  update: (b, v) => {
    const { dest, src, start, attrs } = operands(update, v);
    const axis = v.type.axis(attrs.axis);
    if (attrs.wrap && src.fixed(axis) > 1) return ring(b, v, axis).name;
    const size = () => b.splat(dest.fixed(axis), typed("i32", []));
    const from = attrs.wrap ? b.same("remainder", [b.of(start), size()]) : b.of(start);
    return overwrite(b, b.of(dest), b.of(src), from, axis, v).name;
  },

  sum: reduce("add", 0),
  mean: reduce("add", 0, (b, x, n) => b.same("divide", [x, b.splat(n, x.type)])),
  max: reduce("maximum", Number.NEGATIVE_INFINITY),
  matmul: (b, v) => {
    const { a, b: other } = operands(matmul, v);
    return products(b, a, other, v).name;
  },
  linear: (b, v) => {
    const { x, w } = operands(linear, v);
    return product(b, x, w, v).name;
  },

  dequantize: (b, v) => {
    const { codes, scale, zero } = operands(dequantize, v);
    const [n, columns] = sizes(v.type) as [number, number];
    const blocks = scale.fixed(1);
    const split = [n, blocks, columns / blocks];
    const spread = (x: Value) => b.broadcast(b.convert(b.of(x), "f32"), split, x.type.rank ? [0, 1] : []);
    const numbers = b.reshape(b.convert(b.of(codes), "f32"), split);
    const isZero = zero.op === constant && zero.attrs.value === 0;
    const moved = isZero ? numbers : b.same("subtract", [numbers, spread(zero)]);
    return b.reshape(b.same("multiply", [moved, spread(scale)]), [n, columns], v).name;
  },
  /** The scale of a row is that of an output channel, so it multiplies the result; the codes are never widened whole. */
  quant_linear: (b, v) => {
    const { x, codes, scale } = operands(quant_linear, v);
    const made = dot(b, x, b.of(codes), v.type);
    const channel = b.reshape(b.of(scale), [codes.fixed(0)]);
    return b.same("multiply", [made, b.broadcast(channel, sizes(v.type))], v).name;
  },
  quant_gather: (b, v) => {
    const { codes, scale, index } = operands(quant_gather, v);
    const at = b.of(index);
    const numbers = b.convert(rows(b, b.of(codes), at), "f32");
    const scales = rows(b, b.of(scale), at);
    return b.same("multiply", [numbers, b.broadcast(scales, sizes(v.type))], v).name;
  },

  rms_norm: named,
  softcap: named,
  gelu_erf: named,
  silu: named,
  residual_rms_norm: named,
  softmax: named,
  gelu: named,
  geglu: named,
  rope: named,
  attention: named,
} as const satisfies Emitters<Body>;

/** Why a composite is better decomposed. */
export function tooGeneral(v: Value): boolean {
  const coded = quant_linear.of(v) ?? quant_gather.of(v);
  // One scale a row goes to the product's result; blocks within a row do not.
  return coded !== undefined && (coded.scale.fixed(1) !== 1 || !isPlainZero(coded.zero));
}

const isPlainZero = (v: Value): boolean => v.op === constant && v.attrs.value === 0;

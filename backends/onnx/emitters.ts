import type { Value } from "../../ir/graph.ts";
import {
  concat,
  constant,
  dequantize,
  gather,
  iota,
  linear,
  mod,
  reshape,
  rms_norm,
  slice,
  transpose,
  update,
} from "../../ir/ops/index.ts";
import type { DType } from "../../ir/type.ts";
import { type Emit, type Emitters, operands } from "../backend.ts";
import type { Builder } from "./builder.ts";
import { elementType } from "./proto.ts";

type EmitNode = Emit<Builder>;

/** An ONNX operator that takes the same operands and has no attributes to set. */
const same =
  (opType: string): EmitNode =>
  (b, v) =>
    b.result(
      v,
      opType,
      v.inputs.map((i) => b.name(i)),
    );

const reduce =
  (opType: "ReduceSum" | "ReduceMean" | "ReduceMax"): EmitNode =>
  (b, v) =>
    b.result(v, opType, [...v.inputs.map((i) => b.name(i)), b.ints([Number(v.attrs.axis)])], { keepdims: 1 });

const isZero = (v: Value) => v.op === constant && v.attrs.value === 0;

const cast = (b: Builder, v: Value, x: string, to: DType) => b.step(v, "Cast", [x], { to: elementType[to] });

/** A slice of one axis between sizes given as int64 vectors. */
const between = (b: Builder, v: Value, x: string, from: string, to: string, axis: number) =>
  b.step(v, "Slice", [x, from, to, b.ints([axis])]);

/** Each slot of a ring takes the last row written to it, where there is one among the new rows, or stays as it is. */
function ring(b: Builder, v: Value, from: string): string {
  const { dest, src, attrs } = operands(update, v);
  const step = (opType: string, ...inputs: string[]) => b.step(v, opType, inputs);
  const [all, last] = [
    b.size(dest.type.at(attrs.axis)),
    step("Sub", b.size(src.type.at(attrs.axis)), b.ints([1])),
  ];
  const slots = step("Range", b.index(0), step("Squeeze", all), b.index(1));
  const row = step("Sub", last, step("Mod", step("Sub", step("Add", from, last), slots), all));
  const index = step("Where", step("Less", row, b.ints([0])), slots, step("Add", row, all));
  const both = b.step(v, "Concat", [b.name(dest), b.name(src)], { axis: attrs.axis });
  return b.result(v, "Gather", [both, index], { axis: attrs.axis });
}

/** Every primitive in the standard operator set, and the composites that it has (or that runtimes fuse) as one piece. */
export const emitters = {
  param: (b, v) => {
    throw new Error(`${v.attrs.name} is neither an input nor a weight (${b.nodes.length} nodes emitted)`);
  },
  constant: (b, v) => b.scalar(Number(v.attrs.value), v.dtype),
  iota: (b, v) => {
    const { attrs } = operands(iota, v);
    const axis = v.type.axis(attrs.axis);
    const length = b.step(v, "Squeeze", [b.size(v.type.at(axis))]);
    const range = b.step(v, "Range", [b.index(0), length, b.index(1)]);
    const numbers = cast(b, v, range, attrs.dtype);
    const column = v.shape.map((_, k) => (k === axis ? -1 : 1));
    const stood = b.step(v, "Reshape", [numbers, b.ints(column)]);
    return b.result(v, "Expand", [stood, b.sizes(v.shape)]);
  },

  exp: same("Exp"),
  tanh: same("Tanh"),
  erf: same("Erf"),
  sin: same("Sin"),
  cos: same("Cos"),
  sqrt: same("Sqrt"),
  rsqrt: (b, v) =>
    b.result(v, "Reciprocal", [
      b.step(
        v,
        "Sqrt",
        v.inputs.map((i) => b.name(i)),
      ),
    ]),
  add: same("Add"),
  sub: same("Sub"),
  mul: same("Mul"),
  div: same("Div"),
  pow: same("Pow"),
  mod: (b, v) => {
    const { x, attrs } = operands(mod, v);
    return b.result(v, "Mod", [b.name(x), b.scalar(attrs.by, x.dtype)]);
  },
  maximum: same("Max"),
  minimum: same("Min"),
  less_equal: same("LessOrEqual"),
  select: same("Where"),

  cast: (b, v) =>
    b.result(
      v,
      "Cast",
      v.inputs.map((i) => b.name(i)),
      { to: elementType[v.dtype] },
    ),
  reshape: (b, v) => {
    const { x, attrs } = operands(reshape, v);
    return b.result(v, "Reshape", [b.name(x), b.shape(x, attrs.shape)]);
  },
  transpose: (b, v) => {
    const { x, attrs } = operands(transpose, v);
    return b.result(v, "Transpose", [b.name(x)], { perm: attrs.perm });
  },
  slice: (b, v) => {
    const { x, attrs } = operands(slice, v);
    return b.result(v, "Slice", [b.name(x), b.size(attrs.from), b.size(attrs.to), b.ints([attrs.axis])]);
  },
  concat: (b, v) => {
    const { a, b: other, attrs } = operands(concat, v);
    return b.result(v, "Concat", [b.name(a), b.name(other)], { axis: attrs.axis });
  },
  gather: (b, v) => {
    const { table, index } = operands(gather, v);
    return b.result(v, "Gather", [b.name(table), b.name(index)], { axis: 0 });
  },
  update: (b, v) => {
    const { dest, src, start, attrs } = operands(update, v);
    const from = b.step(v, "Reshape", [b.step(v, "Cast", [b.name(start)], { to: 7 }), b.ints([1])]);
    if (attrs.wrap) return ring(b, v, from);
    const to = b.step(v, "Add", [from, b.size(src.type.at(attrs.axis))]);
    const before = between(b, v, b.name(dest), b.ints([0]), from, attrs.axis);
    const after = between(b, v, b.name(dest), to, b.size(dest.type.at(attrs.axis)), attrs.axis);
    return b.result(v, "Concat", [before, b.name(src), after], { axis: attrs.axis });
  },
  sum: reduce("ReduceSum"),
  mean: reduce("ReduceMean"),
  max: reduce("ReduceMax"),
  matmul: same("MatMul"),
  dequantize: (b, v) => {
    const { codes, scale, zero } = operands(dequantize, v);
    const block = codes.fixed(1) / scale.fixed(1);
    const inputs = [b.name(codes), b.name(scale), ...(isZero(zero) ? [] : [b.name(zero)])];
    return b.result(v, "DequantizeLinear", inputs, { axis: 1, block_size: block });
  },

  softmax: (b, v) =>
    b.result(
      v,
      "Softmax",
      v.inputs.map((i) => b.name(i)),
      { axis: -1 },
    ),
  gelu: (b, v) =>
    b.result(
      v,
      "Gelu",
      v.inputs.map((i) => b.name(i)),
      { approximate: "tanh" },
    ),
  gelu_erf: same("Gelu"),
  /** Pow, ReduceMean, Add, Sqrt, Div, Mul: the spelling that ONNX Runtime fuses to SimplifiedLayerNormalization. */
  rms_norm: (b, v) => {
    const { x, scale, attrs } = operands(rms_norm, v);
    const h = x.dtype === "f32" ? b.name(x) : cast(b, v, b.name(x), "f32");
    const square = b.step(v, "Pow", [h, b.scalar(2, "f32")]);
    const mean = b.step(v, "ReduceMean", [square, b.ints([-1])], { keepdims: 1 });
    const root = b.step(v, "Sqrt", [b.step(v, "Add", [mean, b.scalar(attrs.eps, "f32")])]);
    const unit = b.step(v, "Div", [h, root]);
    if (x.dtype === "f32") return b.result(v, "Mul", [unit, b.name(scale)]);
    return b.result(v, "Cast", [b.step(v, "Mul", [unit, b.name(scale)])], { to: elementType[x.dtype] });
  },
  /** Gemm reads the weight as the checkpoint stores it; only a plain matrix fits it, so x is flattened around it. */
  linear: (b, v) => {
    const { x, w } = operands(linear, v);
    if (x.type.rank === 2) return b.result(v, "Gemm", [b.name(x), b.name(w)], { transB: 1 });
    const rows = b.step(v, "Reshape", [b.name(x), b.ints([-1, w.fixed(1)])]);
    const product = b.step(v, "Gemm", [rows, b.name(w)], { transB: 1 });
    return b.result(v, "Reshape", [product, b.sizes(v.shape)]);
  },
} as const satisfies Emitters<Builder>;

import { constant, dims, dtype, int, primitive, string, type } from "../op.ts";
import { offsets } from "../tensor.ts";
import { TensorType } from "../type.ts";

export { constant };

export const param = primitive("param", {
  doc: "A named runtime input or weight. Its bytes live outside the graph.",
  inputs: [],
  attrs: { name: string(), type: type() },
  example: [[], { name: "x", type: new TensorType("f32", [2]) }],
  infer: (_, a) => {
    if (!/^[A-Za-z_][\w./-]*$/.test(a.name))
      throw new TypeError(`${a.name} is not a name such as layers.0/norm.weight`);
    return a.type;
  },
  eval: () => {
    throw new Error("a param is bound by the environment");
  },
});

export const iota = primitive("iota", {
  doc: "0, 1, 2, … along one axis, repeated along the others.",
  inputs: [],
  attrs: { shape: dims(), dtype: dtype(), axis: int(-1) },
  example: [[], { shape: [2, 3], dtype: "i32" }],
  infer: (_, a) => {
    const t = new TensorType(a.dtype, a.shape);
    t.at(a.axis);
    return t;
  },
  eval: (_, a, { shape }) => {
    const axis = a.axis < 0 ? a.axis + shape.length : a.axis;
    return {
      shape,
      data: Float64Array.from(
        offsets(
          shape,
          shape.map((_, k) => (k === axis ? 1 : 0)),
        ),
      ),
    };
  },
});

import { dim, plus, size } from "../../ir/dim.ts";
import { Graph, type OpDef, type Value } from "../../ir/graph.ts";
import { type Op, registry } from "../../ir/op.ts";
import { cast, iota, param, preparations, reshape, slice } from "../../ir/ops/index.ts";
import { count, type HostTensor, roundTo } from "../../ir/tensor.ts";
import { parseType, tensor } from "../../ir/type.ts";

/** What the symbolic sizes of the graphs below stand for. */
export const sizes = { T: 3, P: 2 };

/** Small deterministic values that suit the dtype: integers are valid positions and indices. */
export const fill = (v: Value, salt: number): HostTensor => {
  const shape = v.shape.map((d) => size(d, sizes));
  const value = (i: number) => {
    if (v.dtype === "bool") return (i + salt) % 2;
    if (v.dtype === "i32") return (i + salt) % 3;
    if (v.dtype === "i8" || v.dtype === "i4") return ((i * 7 + salt) % 16) - 8;
    return roundTo("f32", 0.6 + Math.sin(i * 1.7 + salt) / 2);
  };
  return { shape, data: Float64Array.from({ length: count(shape) }, (_, i) => value(i)) };
};

/** Every output goes out as f32: the runtimes cannot hand out bf16. */
export const graphOf = (v: Value, inputs: readonly Value[]): Graph =>
  new Graph("op", { inputs, outputs: { y: cast(v, { to: "f32" }) } });

export const onlyPrepares = (op: OpDef): boolean => Object.hasOwn(preparations, op.name);

/** The example of every op in the table, as a graph. */
export const opCases: readonly (readonly [name: string, op: OpDef, make: () => Graph])[] = [
  ...registry.values(),
]
  .filter((op) => op !== param)
  .map((op) => {
    const make = () => {
      const [types, attrs = {}] = op.example;
      const inputs = types.map((t, i) => param({ name: `x${i}`, type: parseType(t) }));
      const v = (op as unknown as Op<readonly string[], {}>)(...inputs, attrs as never) as Value;
      return graphOf(v, inputs);
    };
    return [op.name, op, make] as const;
  });

const [T, P] = [dim("T"), dim("P")];
const x = param({ name: "x", type: tensor("f32", 2, T, 4) });
const past = param({ name: "past", type: tensor("f32", P) });

/** Graphs whose sizes are known only when they run. */
export const symbolicCases: readonly (readonly [name: string, make: () => Graph])[] = [
  ["reshape to two symbolic sizes", () => graphOf(reshape(x, { shape: [T, 4, 2] }), [x])],
  ["iota over a sum of sizes", () => graphOf(iota({ shape: [plus(T, P)], dtype: "i32" }), [x, past])],
  ["slice up to a symbolic size", () => graphOf(slice(x, { axis: 1, to: T, from: 1 }), [x])],
  [
    "a symbolic iota along the first axis",
    () => graphOf(iota({ shape: [T, 2], dtype: "f32", axis: 0 }), [x]),
  ],
];

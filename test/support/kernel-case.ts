import { dim } from "../../ir/dim.ts";
import { Graph, type Value } from "../../ir/graph.ts";
import { cast, param, rms_norm } from "../../ir/ops/index.ts";
import { type DType, tensor } from "../../ir/type.ts";

/** A graph that kernels are tried on, and with what. */
export interface KernelCase {
  readonly name: string;
  readonly graph: Graph;
  /** How many tokens to try it with. */
  readonly tokens: readonly number[];
  /** What B is; 1 when left out. */
  readonly batch?: number;
  /** The most bytes of one binding. */
  readonly limit?: number;
  /** What some tensors hold, where anything will not do. */
  readonly values?: Readonly<Record<string, (shape: readonly number[], T: number) => Float64Array>>;
}

export const T = dim("T");
export const input = (name: string, dtype: DType, ...shape: (number | typeof T)[]) =>
  param({ name, type: tensor(dtype, ...shape) });
export const weight = (dtype: DType, ...shape: number[]) => {
  const w = param({ name: `w.${dtype}.${shape.join("x")}`, type: tensor(dtype, ...shape) });
  return w;
};
export const f32 = (v: Value) => cast(v, { to: "f32" });
export const graph = (y: Value, ...inputs: Value[]) => new Graph("case", { inputs, outputs: { y } });

export const x = (columns: number) => input("x", "f32", 1, T, columns);
export const r = (columns: number) => input("r", "f32", 1, T, columns);
export const norm = (v: Value) => rms_norm(v, param({ name: "norm", type: tensor("f32", v.fixed(-1)) }));

export const wholes = (low: number, high: number) => (shape: readonly number[]) =>
  Float64Array.from(
    { length: shape.reduce((a, b) => a * b, 1) },
    (_, i) => low + ((i * 7919) % (high - low + 1)),
  );

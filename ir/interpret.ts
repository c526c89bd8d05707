import { type Sizes, size } from "./dim.ts";
import { type Graph, postorder, type Value } from "./graph.ts";
import { type HostTensor, store } from "./tensor.ts";
import type { TensorType } from "./type.ts";

/** What a graph is run on: its symbolic sizes, and a tensor for each param. */
export interface Env {
  readonly sizes: Sizes;
  tensor(name: string, type: TensorType): HostTensor | undefined;
}

/** The definition of what a graph means. Primitives evaluate, composites run their decomposition. */
export function interpret(g: Graph, env: Env): Record<string, HostTensor> {
  const done = new Map<Value, HostTensor>();
  const run = (root: Value): HostTensor => {
    for (const v of postorder([root], done)) done.set(v, evaluate(v));
    return done.get(root) as HostTensor;
  };
  const evaluate = (v: Value): HostTensor => {
    const { op, type } = v;
    const shape = type.shape.map((d) => size(d, env.sizes));
    if (op.name === "param") return bound(v, shape);
    if (op.decompose) return run(op.decompose(v.inputs, v.attrs));
    if (!op.eval) throw new Error(`${op.name} has neither a meaning nor a decomposition`);
    const operands = v.inputs.map((i) => done.get(i) as HostTensor);
    return store(op.eval(operands, v.attrs, { dtype: type.dtype, shape, sizes: env.sizes }), type.dtype);
  };
  const bound = (v: Value, shape: readonly number[]): HostTensor => {
    const name = String(v.attrs.name);
    const made = g.setup[name];
    if (made) return run(made);
    const t = env.tensor(name, v.type);
    if (!t) throw new Error(`no tensor for param ${name} : ${v.type}`);
    if (String(t.shape) !== String(shape))
      throw new Error(`param ${name} : ${v.type} is bound to shape [${t.shape}]`);
    return t;
  };
  return Object.fromEntries(Object.entries(g.outputs).map(([name, v]) => [name, run(v)]));
}

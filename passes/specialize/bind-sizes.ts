import { type Dim, type Sizes, Sym, size } from "../../ir/dim.ts";
import { type Graph, intern, type Value } from "../../ir/graph.ts";
import { TensorType } from "../../ir/type.ts";
import { keepReached, mapped } from "../pass.ts";

/** `g` for texts of these sizes: every size that they decide is a number, in types and in attributes. */
export function bindSizes(g: Graph, sizes: Sizes): Graph {
  const bound = (d: Dim): Dim =>
    d instanceof Sym && [...d.terms.keys()].every((m) => m === "" || m.split("*").every((n) => n in sizes))
      ? size(d, sizes)
      : d;
  const attribute = (x: unknown): unknown => {
    if (x instanceof Sym) return bound(x);
    if (x instanceof TensorType) return x.with({ shape: x.shape.map(bound) });
    return Array.isArray(x) ? x.map(attribute) : x;
  };
  const done = new Map<Value, Value>();
  const rebuild = (v: Value): Value => {
    const inputs = v.inputs.map((i) => done.get(i) as Value);
    const attrs = Object.fromEntries(Object.entries(v.attrs).map(([k, x]) => [k, attribute(x)]));
    return intern(v.op, inputs, attrs);
  };
  for (const v of [...g.inputs, ...g.values()]) if (!done.has(v)) done.set(v, rebuild(v));
  const final = (v: Value) => done.get(v) as Value;
  return mapped(keepReached(g, done), final).with({ inputs: g.inputs.map(final) });
}

import { type Graph, intern, type Value } from "../ir/graph.ts";
import { type AttrsOf, complete, type Schema } from "../ir/op.ts";

/** A pure function from graph to graph, with a name. Verifying, timing and printing happen around it. */
export interface Pass {
  readonly name: string;
  readonly doc: string;
  run(g: Graph): Graph;
}

/** Declare a pass. Calling the result with options gives a Pass; missing options take their defaults. */
export const pass =
  <A extends Schema = {}>(
    name: string,
    spec: { doc: string; options?: A; run(g: Graph, options: AttrsOf<A>): Graph },
  ) =>
  (given: Partial<AttrsOf<A>> = {}): Pass => {
    const options = complete(name, spec.options ?? ({} as A), given);
    return { name, doc: spec.doc, run: (g) => spec.run(g, options) };
  };

/** `g` with its outputs replaced by what `change` makes of them; origins follow the values they name. */
export function mapped(g: Graph, change: (v: Value) => Value): Graph {
  const outputs = Object.fromEntries(Object.entries(g.outputs).map(([k, v]) => [k, change(v)]));
  const origins = new Map<Value, string>();
  for (const [v, origin] of g.origins) {
    const now = change(v);
    if (!origins.has(now)) origins.set(now, origin);
  }
  return g.with({ outputs, origins });
}

/**
 * Rebuild the graph, operands before users, giving each node to `visit` once its operands are final. `swap` may
 * replace a node whole, before its operands are looked at.
 */
export function map(
  g: Graph,
  visit: (v: Value) => Value,
  swap: (v: Value) => Value | undefined = () => undefined,
): Graph {
  const done = new Map<Value, Value>();
  const final = (v: Value) => done.get(v) as Value;
  for (const v of g.values()) done.set(v, swap(v) ?? visit(rebuilt(v, v.inputs.map(final))));
  return mapped(keepReached(g, done), final);
}

/** The same op over other operands; the very same node when they are the old ones. */
export const rebuilt = (v: Value, inputs: readonly Value[]): Value =>
  inputs.every((x, i) => x === v.inputs[i]) ? v : intern(v.op, inputs, v.attrs);

/** Drops the names of values that the graph no longer reaches. */
const keepReached = (g: Graph, reached: { has(v: Value): boolean }): Graph =>
  g.with({ origins: new Map([...g.origins].filter(([v]) => reached.has(v))) });

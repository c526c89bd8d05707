import { type Attrs, type Graph, intern, type Value } from "../ir/graph.ts";
import { type AttrsOf, complete, type Schema } from "../ir/op.ts";

/**
 * What a pass promises about results. "exact": not one bit changes. { close }: values move by at most that share of
 * the largest one. "free": the pass changes what the model computes, and says so.
 */
export type Law = "exact" | "free" | { readonly close: number };

/** A pure function from graph to graph, with a name. Verifying, timing and printing happen around it. */
export interface Pass {
  readonly name: string;
  readonly doc: string;
  readonly law: Law;
  /** The options it was made with, defaults included. */
  readonly options: Attrs;
  run(g: Graph): Graph;
}

/** Makes a Pass from options, and tells of them. */
export interface PassMaker<A extends Schema = Schema> {
  (given?: Partial<AttrsOf<A>>): Pass;
  readonly name: string;
  readonly doc: string;
  readonly law: Law;
  readonly options: Schema;
}

/** A PassMaker whose options are not known at compile time. */
export type AnyPassMaker = PassMaker<any>;

/** Declare a pass, "exact" unless `law` says otherwise. Options left out when it is made take their defaults. */
export function pass<A extends Schema = {}>(
  name: string,
  spec: { doc: string; law?: Law; options?: A; run(g: Graph, options: AttrsOf<A>): Graph },
): PassMaker<A> {
  const { doc, law = "exact" } = spec;
  const schema = spec.options ?? ({} as A);
  const make = (given: Partial<AttrsOf<A>> = {}): Pass => {
    const options = complete(name, schema, given);
    return { name, doc, law, options, run: (g) => spec.run(g, options) };
  };
  const maker = Object.assign(make, { doc, law, options: schema });
  return Object.defineProperty(maker, "name", { value: name });
}

/** `g` with its outputs replaced by what `change` makes of them; origins and shardings follow their values. */
export function mapped(g: Graph, change: (v: Value) => Value): Graph {
  const changed = Object.entries(g.outputs).map(([k, v]) => [k, change(v)] as const);
  const outputs = changed.every(([k, v]) => v === g.outputs[k]) ? g.outputs : Object.fromEntries(changed);
  const follow = <T>(facts: ReadonlyMap<Value, T>): Map<Value, T> => {
    const moved = new Map<Value, T>();
    for (const [v, fact] of facts) {
      const now = change(v);
      if (!moved.has(now)) moved.set(now, fact);
    }
    return moved;
  };
  return g.with({ outputs, origins: follow(g.origins), shardings: follow(g.shardings) });
}

/**
 * Rebuild the graph, operands before users, giving each node to `visit` once its operands are final. `visit` also
 * hears what stood there before. `swap` may replace a node whole, before its operands are looked at.
 */
export function map(
  g: Graph,
  visit: (v: Value, before: Value) => Value,
  swap: (v: Value) => Value | undefined = () => undefined,
): Graph {
  const done = new Map<Value, Value>();
  const final = (v: Value) => done.get(v) as Value;
  for (const v of g.values()) done.set(v, swap(v) ?? visit(rebuilt(v, v.inputs.map(final)), v));
  return mapped(keepReached(g, done), final);
}

/** The same op over other operands; the very same node when they are the old ones. */
export const rebuilt = (v: Value, inputs: readonly Value[]): Value =>
  inputs.every((x, i) => x === v.inputs[i]) ? v : intern(v.op, inputs, v.attrs);

/** Drops what is said of values that the graph no longer reaches. */
export function keepReached(g: Graph, reached: { has(v: Value): boolean }): Graph {
  const kept = <T>(facts: ReadonlyMap<Value, T>) => new Map([...facts].filter(([v]) => reached.has(v)));
  return g.with({ origins: kept(g.origins), shardings: kept(g.shardings) });
}

import { type Attrs, type Graph, type OpDef, OpError, type Value } from "../ir/graph.ts";
import type { AttrsOf, Op, Schema } from "../ir/op.ts";
import { any, type Bindings, type Pattern, scalar } from "../ir/pattern.ts";
import { keepReached, type Law, mapped, type PassMaker, pass, rebuilt } from "./pass.ts";

/** An equation, read left to right. */
export interface Rule {
  readonly name: string;
  readonly pattern: Pattern<any>;
  /** The replacement of a match, or undefined when the match does not count after all. */
  readonly build: (m: any, root: Value) => Value | undefined;
}
export const rule = <C>(
  name: string,
  pattern: Pattern<C>,
  build: (m: C, root: Value) => Value | undefined,
): Rule => ({
  name,
  pattern,
  build,
});

/**
 * Recognise a composite by its own decomposition. A match counts only if rebuilding it gives back the very same
 * node. `finder` spells the shape to look for when the decomposition reads sizes and so cannot be matched blind.
 */
export function raise<I extends readonly string[], A extends Schema>(
  op: Op<I, A>,
  finder?: Pattern<any>,
): Rule {
  const holes = Object.fromEntries(Object.keys(op.attrs).map((k) => [k, scalar(k)])) as never;
  const blind = () =>
    op.decompose?.(op.inputs.map((n) => any(n, true)) as never, holes) as unknown as Pattern<any>;
  return rule(`raise ${op.name}`, finder ?? blind(), (m, root) => {
    const inputs = op.inputs.map((n) => m[n] as Value);
    const attrs = Object.fromEntries(
      Object.entries(op.attrs).map(([k, a]) => [k, m[k] ?? a.default]),
    ) as AttrsOf<A>;
    return rebuilds(op, inputs, attrs, root) ? (op as any)(...inputs, attrs) : undefined;
  });
}

function rebuilds(op: OpDef, inputs: readonly Value[], attrs: Attrs, root: Value): boolean {
  try {
    return op.decompose?.(inputs, attrs) === root;
  } catch (e) {
    // The match was looser than the op's own types.
    if (e instanceof OpError || e instanceof TypeError) return false;
    throw e;
  }
}

const patience = 100;

/** A pass that applies `rules`, outermost match first so that the largest wins, until none applies anywhere. */
export const rewrite = (
  name: string,
  spec: { doc: string; law?: Law; rules: readonly Rule[] },
): PassMaker<{}> =>
  pass(name, {
    doc: spec.doc,
    ...(spec.law && { law: spec.law }),
    run: (g) => {
      for (let now = g, n = 0; ; n++) {
        const next = sweep(name, spec.rules, now);
        if (Object.entries(next.outputs).every(([k, v]) => v === now.outputs[k])) return next;
        if (n > patience) throw new Error(`${name}: the rules never come to rest`);
        now = next;
      }
    },
  });

function sweep(name: string, rules: readonly Rule[], g: Graph): Graph {
  const done = new Map<Value, Value>();
  const step = (v: Value): Value | undefined => {
    for (const r of rules) {
      const m: Bindings = {};
      const w = r.pattern.match(v, m) ? r.build(m, v) : undefined;
      if (!w || w === v) continue;
      if (!w.type.equals(v.type))
        throw new Error(`rule "${r.name}" turned ${v.type} into ${w.type} at ${v.op.name}`);
      return w;
    }
    return undefined;
  };
  const go = (v: Value): Value => {
    const known = done.get(v);
    if (known) return known;
    let w = v;
    for (let n = 0, next = step(w); next; next = step(w)) {
      if (++n > patience) throw new Error(`${name}: rules chase each other at ${v.op.name}`);
      w = next;
    }
    const out = rebuilt(w, w.inputs.map(go));
    done.set(v, out);
    return out;
  };
  for (const v of Object.values(g.outputs)) go(v);
  // A name inside a match goes with it; only values that the sweep came by keep theirs.
  return mapped(keepReached(g, done), go);
}

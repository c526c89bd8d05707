import type { Graph, Value } from "../ir/graph.ts";
import { map, pass, rebuilt } from "./pass.ts";

export const decompose = pass("decompose", {
  doc: "Every composite becomes its decomposition; only primitives remain.",
  run: (g) => decomposeExcept(g, () => false),
});

/** Lower every composite that `keep` does not hold on to. */
export function decomposeExcept(g: Graph, keep: (v: Value) => boolean): Graph {
  const lowered = new Map<Value, Value>();
  const lower = (v: Value): Value => {
    const known = lowered.get(v);
    if (known) return known;
    const w = rebuilt(v, v.inputs.map(lower));
    const out = w.op.decompose && !keep(w) ? lower(w.op.decompose(w.inputs, w.attrs)) : w;
    lowered.set(v, out);
    return out;
  };
  return map(g, lower);
}

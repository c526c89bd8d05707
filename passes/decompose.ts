import type { Value } from "../ir/graph.ts";
import { map, type Pass, rebuilt } from "./pass.ts";

/** Lower every composite that `keep` does not hold on to. With nothing kept, only primitives remain. */
export const decompose = (keep: (v: Value) => boolean = () => false): Pass => ({
  name: "decompose",
  doc: "Replace composites by their decompositions.",
  run: (g) => {
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
  },
});

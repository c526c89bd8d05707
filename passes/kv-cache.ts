import { dim } from "../ir/dim.ts";
import type { Value } from "../ir/graph.ts";
import { attention, concat, param } from "../ir/ops/index.ts";
import { tensor } from "../ir/type.ts";
import { map, pass } from "./pass.ts";

/** The names that the Hugging Face runtimes give to the cache of layer `i`. */
export const cacheNames = (i: number) =>
  ({
    key: `past_key_values.${i}.key`,
    value: `past_key_values.${i}.value`,
    nextKey: `present.${i}.key`,
    nextValue: `present.${i}.value`,
  }) as const;

export const insertKvCache = pass("insert-kv-cache", {
  doc:
    "Each attention also sees the keys and values of the P tokens before: they come in as past_key_values.N, and " +
    "go out joined with this step's as present.N. `past_positions` i32[B,P] says where those tokens stand.",
  run(g) {
    const first = g.inputs[0];
    if (!first) return g;
    const [B, P] = [first.type.at(0), dim("P")];
    const pastPositions = param({ name: "past_positions", type: tensor("i32", B, P) });
    const inputs: Value[] = [...g.inputs, pastPositions];
    const next: Record<string, Value> = {};

    const remember = (name: string, nextName: string, fresh: Value) => {
      const past = param({ name, type: fresh.type.resized(2, P) });
      inputs.push(past);
      const joined = concat(past, fresh, { axis: 2 });
      next[nextName] = joined;
      return joined;
    };
    let layer = 0;
    const cached = map(g, (v) => {
      const a = attention.of(v);
      if (!a) return v;
      const at = cacheNames(layer++);
      const k = remember(at.key, at.nextKey, a.k);
      const values = remember(at.value, at.nextValue, a.v);
      return attention(a.q, k, values, a.qpos, concat(pastPositions, a.kpos), a.attrs);
    });
    if (layer === 0) return g;
    return cached.with({ inputs, outputs: { ...cached.outputs, ...next } });
  },
});

import { dim } from "../ir/dim.ts";
import type { Graph, Value } from "../ir/graph.ts";
import { int } from "../ir/op.ts";
import { attention, concat, iota, param, update } from "../ir/ops/index.ts";
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
    "Each attention also sees the keys and values of the tokens before: they come in as past_key_values.N and go out " +
    "with this step's as present.N. By default caches grow by concatenation, and `past_positions` i32[B,P] says where " +
    "their P tokens stand. With a capacity they have that many slots, written in place from slot `start` i32[].",
  options: { capacity: int(0) },
  run: (g, { capacity }) => {
    if (capacity < 0)
      throw new TypeError(`capacity is ${capacity}; give the number of slots, or 0 for caches that grow`);
    return capacity > 0 ? insert(g, inPlace(g, capacity)) : insert(g, growing(g));
  },
});

/** How fresh keys or values join those of before. */
interface Style {
  readonly inputs: readonly Value[];
  /** Positions of all slots, given those of the fresh tokens. */
  positions(fresh: Value): Value;
  /** The cache's param, and what it holds after this step. */
  join(name: string, fresh: Value): { past: Value; joined: Value };
  readonly overwrites: boolean;
}

function growing(g: Graph): Style {
  const P = dim("P");
  const pastPositions = param({ name: "past_positions", type: tensor("i32", batch(g), P) });
  return {
    inputs: [pastPositions],
    overwrites: false,
    positions: (fresh) => concat(pastPositions, fresh),
    join(name, fresh) {
      const past = param({ name, type: fresh.type.resized(2, P) });
      return { past, joined: concat(past, fresh, { axis: 2 }) };
    },
  };
}

/** Slot s holds position s. Slots past the last token lie in the future of every query, so the mask hides them. */
function inPlace(g: Graph, capacity: number): Style {
  const start = param({ name: "start", type: tensor("i32") });
  return {
    inputs: [start],
    overwrites: true,
    positions: () => iota({ shape: [batch(g), capacity], dtype: "i32" }),
    join(name, fresh) {
      const past = param({ name, type: fresh.type.resized(2, capacity) });
      return { past, joined: update(past, fresh, start, { axis: 2 }) };
    },
  };
}

const batch = (g: Graph) => g.inputs[0]?.type.at(0) ?? 1;

function insert(g: Graph, style: Style): Graph {
  const inputs = [...g.inputs, ...style.inputs];
  const next: Record<string, Value> = {};
  const aliases: Record<string, string> = { ...g.aliases };
  const remember = (name: string, nextName: string, fresh: Value) => {
    const { past, joined } = style.join(name, fresh);
    inputs.push(past);
    next[nextName] = joined;
    if (style.overwrites) aliases[nextName] = name;
    return joined;
  };
  let layer = 0;
  const cached = map(g, (v) => {
    const a = attention.of(v);
    if (!a) return v;
    const at = cacheNames(layer++);
    const keys = remember(at.key, at.nextKey, a.k);
    const values = remember(at.value, at.nextValue, a.v);
    return attention(a.q, keys, values, a.qpos, style.positions(a.kpos), a.attrs);
  });
  if (layer === 0) return g;
  return cached.with({ inputs, outputs: { ...cached.outputs, ...next }, aliases });
}

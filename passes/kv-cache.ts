import { dim } from "../ir/dim.ts";
import type { Graph, Value } from "../ir/graph.ts";
import { int } from "../ir/op.ts";
import {
  attention,
  cast,
  concat,
  decode_rows,
  iota,
  less_equal,
  mod,
  param,
  row_codes,
  row_scale,
  select,
  sub,
  update,
} from "../ir/ops/index.ts";
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

/** Whether a graph's input is a cache, or part of one. */
export const isCache = (input: Value): boolean => isCacheName(String(input.attrs.name));
export const isCacheName = (name: string): boolean => name.startsWith("past_key_values.");
/** The output that the next step is fed as the cache of this name. */
export const nextCache = (name: string): string => name.replace(/^past_key_values/, "present");

/** Whether caches have a fixed size, of slots that a step writes over. */
export const hasSlots = (g: Graph): boolean => g.inputs.some((v) => v.attrs.name === "start");

export const insertKvCache = pass("insert-kv-cache", {
  doc:
    "Each attention also sees the keys and values of the tokens before: they come in as past_key_values.N and go out " +
    "with this step's as present.N. By default caches grow by concatenation, and `past_positions` i32[B,P] says where " +
    "their P tokens stand. With a capacity they have that many slots, written in place from slot `start` i32[]; " +
    "attention with a smaller window gets a ring of as many slots as the window has. Keys that were widened from bf16 " +
    "or f16 are kept as that there. Where attention reads what quantize-cache rounded, the cache holds codes, and " +
    "past_key_values.N.key_scale and value_scale their scales.",
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
  /** Positions of all slots that attention with this window sees, given those of the fresh tokens. */
  positions(fresh: Value, window: number): Value;
  /** The cache's param, what attention sees, and what the cache holds after this step. */
  join(name: string, fresh: Value, window: number): { past: Value; seen: Value; next: Value };
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
      const seen = concat(past, fresh, { axis: 2 });
      return { past, seen, next: seen };
    },
  };
}

/** `v` before it was widened, if it was: nothing is lost by keeping that. */
function narrow(v: Value): Value {
  const wide = cast.of(v);
  return wide && v.dtype === "f32" && (wide.x.dtype === "bf16" || wide.x.dtype === "f16") ? wide.x : v;
}

/** A slot whose position lies in the future of every query is hidden by the causal mask. */
const hidden = 1 << 30;

/**
 * The position that each slot of a ring of `window` holds before the token at `start` is written: the latest before
 * `start` that is the slot's index modulo its length. Slots that hold nothing yet say `hidden`.
 */
export function ringPositions(start: Value, window: number, slots: Value): Value {
  const latest = sub(start, 1);
  const held = sub(latest, mod(sub(latest, slots), { by: window }));
  return select(less_equal(0, held), held, hidden);
}

/**
 * Slot s holds position s; slots past the last token lie in the future. Fresh keys stand beside a ring, as they may
 * push out what the first of their own queries still see.
 */
function inPlace(g: Graph, capacity: number): Style {
  const start = param({ name: "start", type: tensor("i32") });
  const isRing = (window: number) => window > 0 && window < capacity;
  const slots = (n: number) => iota({ shape: [batch(g), n], dtype: "i32" });
  return {
    inputs: [start],
    overwrites: true,
    positions(fresh, window) {
      if (!isRing(window)) return slots(capacity);
      return concat(ringPositions(start, window, slots(window)), fresh);
    },
    join(name, fresh, window) {
      const ring = isRing(window);
      const kept = narrow(fresh);
      const wide = (v: Value) => cast(v, { to: fresh.dtype });
      const past = param({ name, type: kept.type.resized(2, ring ? window : capacity) });
      const next = update(past, kept, start, { axis: 2, wrap: ring });
      return { past, seen: ring ? concat(wide(past), fresh, { axis: 2 }) : wide(next), next };
    },
  };
}

const batch = (g: Graph) => g.inputs[0]?.type.at(0) ?? 1;

function insert(g: Graph, style: Style): Graph {
  const inputs = [...g.inputs, ...style.inputs];
  const next: Record<string, Value> = {};
  const aliases: Record<string, string> = { ...g.aliases };
  const remember = (name: string, nextName: string, fresh: Value, window: number): Value => {
    const coded = decode_rows.of(fresh);
    if (coded) {
      const codes = remember(name, nextName, coded.codes, window);
      return decode_rows(codes, remember(`${name}_scale`, `${nextName}_scale`, coded.scale, window));
    }
    const joined = style.join(name, fresh, window);
    inputs.push(joined.past);
    next[nextName] = joined.next;
    if (style.overwrites) aliases[nextName] = name;
    return joined.seen;
  };
  let layer = 0;
  const cached = map(g, (v) => {
    const a = attention.of(v);
    if (!a) return v;
    const at = cacheNames(layer++);
    const { window } = a.attrs;
    const keys = remember(at.key, at.nextKey, a.k, window);
    const values = remember(at.value, at.nextValue, a.v, window);
    return attention(a.q, keys, values, a.qpos, style.positions(a.kpos, window), a.attrs);
  });
  if (layer === 0) return g;
  return cached.with({ inputs, outputs: { ...cached.outputs, ...next }, aliases });
}

export const quantizeCache = pass("quantize-cache", {
  doc:
    "Attention reads keys and values rounded to 8 bits, with a scale for each head of each token. insert-kv-cache, which " +
    "comes later, then keeps codes and scales: about a quarter of the memory.",
  law: "free",
  run(g) {
    if (g.inputs.some(isCache))
      throw new TypeError("there are caches already; put quantize-cache before insert-kv-cache");
    return map(g, (v) => {
      const a = attention.of(v);
      return a ? attention(a.q, rounded(a.k), rounded(a.v), a.qpos, a.kpos, a.attrs) : v;
    });
  },
});

function rounded(x: Value): Value {
  if (decode_rows.of(x)) return x;
  const scale = row_scale(x);
  return cast(decode_rows(row_codes(x, scale), scale), { to: x.dtype });
}

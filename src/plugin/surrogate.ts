import { names, type Sizes, size } from "../../ir/dim.ts";
import type { Graph } from "../../ir/graph.ts";
import type { Env } from "../../ir/interpret.ts";
import { count, type HostTensor, store } from "../../ir/tensor.ts";
import { type DType, isFloat } from "../../ir/type.ts";
import { insertKvCache } from "../../passes/kv-cache.ts";
import type { Pass } from "../../passes/pass.ts";
import type { GemmaConfig } from "../model/config.ts";
import { gemma, type StoredAs } from "../model/gemma.ts";

const vocab = 64;
/** Quantization works on blocks of so many elements. */
const block = 32;
/** Keys that a sliding layer's queries see: few enough for windows to matter in so short a text. */
const window = 2;
/** Tokens that the caches hold already. */
const past = 3;
const slots = 16;
const usual: Sizes = { B: 1, T: 4, P: past };

/** A model like that of `c` that runs in no time: as many layers and heads, with next to nothing in them. */
export function surrogate(c: GemmaConfig, storedAs: StoredAs): Graph {
  let headDim = 8;
  while ((headDim * c.heads) % block) headDim += 8;
  const small = { ...c, vocab, width: block, hidden: 2 * block, headDim };
  return gemma("window" in small ? { ...small, window } : small, storedAs);
}

/** The same pass on the surrogate's scale. */
export const scaled = (pass: Pass): Pass =>
  pass.name === insertKvCache.name && Number(pass.options.capacity) > slots
    ? insertKvCache({ capacity: slots })
    : pass;

/**
 * What to run `before` and `after` on, a pass between them: random weights and tokens, with the past that belongs
 * to them. An input that the pass adds is zero, a size that it adds is none, as for caches that hold nothing yet.
 */
export function surroundings(before: Graph, after: Graph): Env {
  const sizes = { ...unbound(after, 0), ...unbound(before, past), ...usual };
  const old = new Set(before.inputs);
  const inputs = new Map([...after.inputs, ...old].map((v) => [String(v.attrs.name), v]));
  const made = new Map<string, HostTensor>();
  return {
    sizes,
    tensor(name, type) {
      const known = made.get(`${name} ${type}`);
      if (known) return known;
      const shape = type.shape.map((d) => size(d, sizes));
      const input = inputs.get(name);
      const added = input !== undefined && !old.has(input);
      const entry = added ? () => 0 : entries(name, type.dtype, shape);
      const data = Float64Array.from({ length: count(shape) }, (_, i) => entry(i));
      const tensor = store({ shape, data }, type.dtype);
      made.set(`${name} ${type}`, tensor);
      return tensor;
    },
  };
}

/** What stands at each place of an input or a weight. */
function entries(name: string, dtype: DType, shape: readonly number[]): (i: number) => number {
  const columns = shape.at(-1) ?? 1;
  const next = random(name);
  if (name === "tokens") return () => Math.floor(next() * vocab);
  if (name === "positions") return (i) => past + (i % columns);
  if (name === "past_positions") return (i) => i % columns;
  if (name === "start") return () => past;
  if (!isFloat(dtype)) return () => Math.floor(next() * 256);
  // Rows of a matrix make values about as large as those they are given.
  const scale = shape.length > 1 ? Math.sqrt(3 / columns) : 0.5;
  return () => scale * (2 * next() - 1);
}

/** Every size that the inputs of `g` name, set to `value`. */
const unbound = (g: Graph, value: number): Sizes =>
  Object.fromEntries(g.inputs.flatMap((v) => v.shape.flatMap(names).map((name) => [name, value])));

/** Numbers in [0, 1), the same ones for the same name (FNV-1a, then mulberry32). */
function random(name: string): () => number {
  let state = 2166136261;
  for (const c of name) state = Math.imul(state ^ (c.codePointAt(0) ?? 0), 16777619);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

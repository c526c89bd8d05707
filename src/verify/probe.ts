import type { ModelFacts, Named } from "../../backends/backend.ts";
import { Parts } from "../../backends/onnx/index.ts";
import { evaluate } from "../../backends/reference/index.ts";
import type { Weights } from "../../backends/weights.ts";
import { type Sizes, size } from "../../ir/dim.ts";
import { type Graph, postorder, type Value } from "../../ir/graph.ts";
import { add, attention, param, rms_norm } from "../../ir/ops/index.ts";
import { count, type HostTensor } from "../../ir/tensor.ts";
import { fuseRmsNorm } from "../../passes/fusion/fuse.ts";
import { cacheNames, insertKvCache } from "../../passes/kv-cache.ts";
import { map } from "../../passes/pass.ts";
import { difference } from "./compare.ts";
import { clientFeeds } from "./feeds.ts";
import type { Proof } from "./proof.ts";

export interface ProbeRequest {
  /** The artifact. */
  readonly dir: string;
  /** What each origin's value is called in it. */
  readonly activations: Readonly<Record<string, string>>;
  /** The model as the checkpoint defines it. */
  readonly original: Graph;
  readonly facts: ModelFacts;
  readonly weights: Weights;
  /** Whether to try attention past its window too. What a cache holds is then taken to be keys and values as they are. */
  readonly windows: boolean;
}

/** A value of the artifact that differs from what the model's definition makes of the same operands. */
export interface Fault {
  readonly origin: string;
  /** The largest difference, and what is allowed. */
  readonly maxDifference: number;
  readonly tolerance: number;
}

/**
 * The last token that sees all keys before it, and the first that does not. Norms get one: where only the last token is
 * scored, rows of others may be missing.
 */
const tokens = 2;
const allowed = 2e-4;

/**
 * Tries what a usual text does not tell apart, one operation of the artifact at a time, on made-up operands: norms of
 * rows so small that eps counts, and attention over a cache as long as the longest window. Gives the first fault.
 */
export async function probe(request: ProbeRequest): Promise<Fault | undefined> {
  const model = fuseRmsNorm().run(request.original);
  const parts = await Parts.open(request.dir);
  // A ring's slots stand where its tokens stood; attention over one is tried as a whole.
  const window = request.windows && !parts.hasSlots ? longestWindow(model) : 0;
  let layer = 0;
  for (const v of model.values()) {
    const norm = rms_norm.of(v);
    const mixed = attention.of(v);
    const trial: Trial | undefined = norm
      ? { v, reach: Math.sqrt(3 * norm.attrs.eps) }
      : mixed && {
          v: named(model, v),
          reach: 1,
          cache: { layer: layer++, past: pastFor(window, request.facts) },
        };
    const origin = trial && model.origins.get(trial.v);
    if (!trial || !origin || !Object.hasOwn(request.activations, origin)) continue;
    const fault = mixed && window === 0 ? undefined : await tried(request, parts, model, origin, trial);
    if (fault) return fault;
  }
  return undefined;
}

/** The longest window of any attention; 0 when there is none. */
export const longestWindow = (g: Graph): number =>
  g.values().reduce((most, v) => Math.max(most, attention.of(v)?.attrs.window ?? 0), 0);

/** With so many tokens before it, a text goes past the window. */
const pastFor = (window: number, { context }: ModelFacts): number =>
  Math.max(0, Math.min(window - 1, context - tokens));

/** `proof`, or that it fails by `fault`. */
export const failedBy = (proof: Proof, { origin, maxDifference, tolerance }: Fault): Proof => ({
  ...proof,
  ok: false,
  worst: { origin, share: (maxDifference / tolerance) * allowed, allowed },
});

interface Trial {
  readonly v: Value;
  /** Operands lie between -reach and reach. */
  readonly reach: number;
  /** The cache that it reads, and how many tokens are in it. */
  readonly cache?: { readonly layer: number; readonly past: number };
}

/** What `v` becomes on the way to the first value that has a name. */
function named(g: Graph, v: Value): Value {
  const users = new Map(g.values().flatMap((u) => u.inputs.map((i) => [i, u] as const)));
  let now = v;
  for (let next = users.get(now); next && !g.origins.has(now); next = users.get(now)) now = next;
  return now;
}

async function tried(
  { activations, facts, weights }: ProbeRequest,
  parts: Parts,
  model: Graph,
  origin: string,
  { v, reach, cache }: Trial,
): Promise<Fault | undefined> {
  const known = (u: Value) =>
    u !== v && u.type.rank === 3 && Object.hasOwn(activations, model.origins.get(u) ?? "");
  const [T, past] = [cache ? tokens : 1, cache?.past ?? 0];
  const sizes: Sizes = { B: 1, T, P: past };
  const made = new Map<Value, HostTensor>();
  const operandsOf = (root: Value): Value[] => {
    const stop = new Set(model.values().filter(known));
    return [...new Set(postorder([root], stop).flatMap((u) => u.inputs.filter((i) => stop.has(i))))];
  };
  const entry = (u: Value): HostTensor => {
    const shape = u.shape.map((d) => size(d, sizes));
    return { shape, data: entries(String(model.origins.get(u)), count(shape), reach) };
  };
  for (const u of operandsOf(v)) {
    // A sum may come out of the same operator as its norm, which then reads what is summed.
    const summands = add.of(u) && [add.of(u)?.a, add.of(u)?.b].filter((x): x is Value => !!x && known(x));
    const pair = summands?.length === 2 ? summands : [];
    const [a, b] = pair.map((x) => made.get(x) ?? entry(x));
    for (const [i, x] of pair.entries()) made.set(x, (i ? b : a) as HostTensor);
    made.set(
      u,
      a && b
        ? { shape: a.shape, data: a.data.map((x, i) => Math.fround(x + (b.data[i] as number))) }
        : entry(u),
    );
  }
  const holes = new Map([...made.keys()].map((u, i) => [u, param({ name: `operand.${i}`, type: u.type })]));
  const cut = map(
    model.with({ inputs: [], outputs: { y: v } }),
    (u) => u,
    (u) => holes.get(u),
  ).with({
    inputs: [...holes.values(), ...model.inputs],
  });
  const graph = !cache ? cut : insertKvCache().run(cut);
  const rows = (from: number, n: number): HostTensor => ({
    shape: [1, n],
    data: Float64Array.from({ length: n }, (_, i) => from + i),
  });
  const caches = !cache ? {} : pastOf(facts, past);
  const inputs: Record<string, HostTensor> = {
    ...{ tokens: rows(0, T), positions: rows(past, T), past_positions: rows(0, past) },
    ...caches,
    ...Object.fromEntries(
      [...holes].map(([u, hole]) => [String(hole.attrs.name), made.get(u) as HostTensor]),
    ),
  };
  const { y: want } = await evaluate(graph.with({ outputs: { y: graph.outputs.y as Value } }), {
    sizes,
    weights,
    tensor: (name) => inputs[name],
  });
  const given: Named[] = [...made].map(([u, { shape, data }]) => ({
    name: activations[model.origins.get(u) ?? ""] as string,
    dims: shape,
    data: Float32Array.from(data),
  }));
  const own = Object.fromEntries(
    Object.entries(caches).map(([name, t]) => [
      name.replace(".0.", `.${cache?.layer}.`),
      Float32Array.from(t.data),
    ]),
  );
  const tensor = activations[origin] as string;
  const ids = Array.from({ length: T }, () => 0);
  const feeds = await clientFeeds(facts, ids, past, own);
  const got = (await parts.run(given, feeds, [tensor])).get(tensor);
  if (!want || !got) throw new Error(`${origin} cannot be computed on its own`);
  const exact = Float32Array.from(want.data);
  const tolerance = allowed * exact.reduce((most, x) => Math.max(most, Math.abs(x)), 1);
  const max = exact.length === got.length ? difference(exact, got).max : Number.POSITIVE_INFINITY;
  return max > tolerance ? { origin, maxDifference: max, tolerance } : undefined;
}

/** How many of the oldest keys come into a window's edge while the probe's tokens pass it. */
const edge = tokens + 2;

/** A layer's cache. The oldest values are large, so that one of them more or less shows among thousands. */
function pastOf({ kvHeads, headDim }: ModelFacts, past: number): Record<string, HostTensor> {
  const shape = [1, kvHeads, past, headDim];
  const n = count(shape);
  const { key, value } = cacheNames(0);
  const values = entries(value, n, 1);
  const slotOf = (i: number) => Math.floor(i / headDim) % past;
  return {
    [key]: { shape, data: entries(key, n, 1) },
    [value]: { shape, data: values.map((x, i) => (slotOf(i) < edge ? Math.fround(x * past) : x)) },
  };
}

/** Numbers between -reach and reach, the same ones for the same name. */
function entries(name: string, n: number, reach: number): Float64Array {
  let state = 2166136261;
  for (const c of name) state = Math.imul(state ^ (c.codePointAt(0) ?? 0), 16777619);
  return Float64Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return Math.fround(reach * (state / 2 ** 31));
  });
}

import { size } from "../../ir/dim.ts";
import type { Graph } from "../../ir/graph.ts";
import { count, type HostTensor } from "../../ir/tensor.ts";
import { fuseLinear } from "../../passes/fusion/fuse.ts";
import { insertKvCache, isCache, nextCache } from "../../passes/kv-cache.ts";
import type { ModelFacts, Session, Step } from "../backend.ts";
import type { Weights } from "../weights.ts";
import { evaluate } from "./evaluate.ts";

export interface ReferenceOptions {
  readonly facts: ModelFacts;
  /** Origins of values to hand out with each step. */
  readonly watch?: readonly string[];
  /** Watched values of another's run on the same tokens, which what follows is computed from; what is handed out is its own. */
  readonly follow?: ReadonlyMap<string, Float32Array>;
}

/**
 * Runs a model's graph as it is defined, on the weights of its checkpoint: slow, and the yardstick of all targets.
 * The graph may be fresh or have gone through passes already.
 */
export function openReference(
  graph: Graph,
  weights: Weights,
  { facts, watch = [], follow }: ReferenceOptions,
): Session {
  const hasCache = graph.inputs.some((v) => v.attrs.name === "past_positions");
  const cached = hasCache ? graph : insertKvCache().run(fuseLinear().run(graph));
  const wanted = new Set(watch);
  const watched = [...cached.origins].filter(([, origin]) => wanted.has(origin));
  const observed = cached.with({
    outputs: {
      ...cached.outputs,
      ...Object.fromEntries(watched.map(([v, origin]) => [`watch:${origin}`, v])),
    },
  });
  const origins = new Map(watched.map(([, origin]) => [`watch:${origin}`, origin]));

  const caches = cached.inputs.filter(isCache);
  const empty = (): Record<string, HostTensor> =>
    Object.fromEntries(
      caches.map((v) => {
        const shape = v.shape.map((d) => size(d, { B: 1, P: 0 }));
        return [String(v.attrs.name), { shape, data: new Float64Array(count(shape)) }];
      }),
    );
  const kept = new Set(["logits", ...caches.map((v) => nextCache(String(v.attrs.name)))]);
  let cache = empty();
  let fed = 0;
  const row = (values: readonly number[]): HostTensor => ({
    shape: [1, values.length],
    data: Float64Array.from(values),
  });
  const upTo = (from: number, n: number) => row(Array.from({ length: n }, (_, i) => from + i));

  return {
    facts,
    async append(ids, { last = false } = {}): Promise<Step> {
      const inputs: Record<string, HostTensor> = {
        ...cache,
        tokens: row(ids),
        positions: upTo(fed, ids.length),
        past_positions: upTo(0, fed),
      };
      // R: how many of the last tokens a graph after last-logits scores.
      const sizes = { B: 1, T: ids.length, P: fed, R: ids.length };
      const out: Record<string, HostTensor> = {};
      const seen = new Map<string, Float32Array>();
      // Watched values may be as many as a model has: each is kept as the f32 numbers that it is.
      const deliver = (name: string, value: HostTensor) => {
        const origin = origins.get(name);
        if (origin !== undefined) seen.set(origin, Float32Array.from(value.data));
        else if (kept.has(name)) out[name] = value;
        const other = origin === undefined ? undefined : follow?.get(origin);
        return other?.length === value.data.length
          ? { shape: value.shape, data: Float64Array.from(other) }
          : undefined;
      };
      await evaluate(observed, { sizes, weights, tensor: (name) => inputs[name], deliver });
      fed += ids.length;
      const result = (name: string): HostTensor => {
        const t = out[name];
        if (!t) throw new Error(`the graph gives no output ${name}`);
        return t;
      };
      cache = Object.fromEntries(Object.keys(cache).map((name) => [name, result(nextCache(name))]));
      return {
        logits: Float32Array.from(result("logits").data.subarray(last ? -facts.vocab : 0)),
        watched: new Map(watched.map(([, origin]) => [origin, seen.get(origin) as Float32Array])),
      };
    },
    reset() {
      cache = empty();
      fed = 0;
    },
    close: () => weights.close(),
  };
}

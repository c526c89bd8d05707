import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type * as ort from "onnxruntime-node";
import { UserError } from "../../ir/error.ts";
import { cacheNames } from "../../passes/kv-cache.ts";
import type { ModelFacts, Session, Step } from "../backend.ts";
import { modelFile } from "./emit.ts";
import { decodeModel, encodeProto, untyped } from "./proto.ts";

type Ort = typeof ort;
export type Tensor = ort.Tensor;

/** onnxruntime-node, an optional peer. Throws UserError when it is not installed. */
export async function loadRuntime(): Promise<Ort> {
  try {
    return await import("onnxruntime-node");
  } catch (cause) {
    throw new UserError(
      "environment",
      "running ONNX needs the package onnxruntime-node, which is not here or does not load",
      "npm install onnxruntime-node",
      { cause },
    );
  }
}

export interface OpenOptions {
  readonly facts: ModelFacts;
  /** Values to hand out with each step: origin → tensor name in the file. */
  readonly watch?: Readonly<Record<string, string>>;
}

/** Opens the artifact in `dir`. Throws UserError when the runtime is missing or refuses the file. */
export async function openSession(dir: string, { facts, watch = {} }: OpenOptions): Promise<Session> {
  const { Tensor } = await loadRuntime();
  const path = join(dir, modelFile);
  let session: ort.InferenceSession;
  try {
    const tensors = Object.values(watch);
    session = await createSession(tensors.length ? await withOutputs(path, tensors) : path, dirname(path));
  } catch (cause) {
    const why = cause instanceof Error ? cause.message.replace(/\s+/g, " ") : String(cause);
    throw new UserError(
      "input",
      `${path}: ONNX Runtime cannot open it: ${why}`,
      "compile the checkpoint again",
      { cause },
    );
  }

  const empty = () => {
    const size = [1, facts.kvHeads, 0, facts.headDim];
    const names = Array.from({ length: facts.layers }, (_, i) => cacheNames(i)).flatMap((n) => [
      n.key,
      n.value,
    ]);
    return Object.fromEntries(names.map((name) => [name, new Tensor("float32", new Float32Array(0), size)]));
  };
  let cache: Record<string, ort.Tensor> = empty();
  let fed = 0;
  const row = (values: readonly number[]) =>
    new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);

  // Some profiles score the last token only; then rows for all tokens take one run each.
  const scores = session.outputMetadata.find((m) => m.name === "logits");
  const lastOnly = scores?.isTensor && scores.shape[1] === 1;

  /** How many rows of numbers each token has in a watched value: one for each head where those come first. */
  const heads = new Map<string, number>();
  const run = async (ids: readonly number[]): Promise<Step> => {
    const mask = row(new Array<number>(fed + ids.length).fill(1));
    const out = await session.run({ input_ids: row(ids), attention_mask: mask, ...cache });
    fed += ids.length;
    const data = (name: string): Float32Array => {
      const t = out[name];
      if (!(t?.data instanceof Float32Array)) throw new Error(`the artifact gives no f32 output ${name}`);
      return t.data;
    };
    const next = Array.from({ length: facts.layers }, (_, i) => cacheNames(i)).flatMap((n) => [
      [n.key, out[n.nextKey]],
      [n.value, out[n.nextValue]],
    ]);
    cache = Object.fromEntries(next);
    const watched = Object.entries(watch).map(([origin, tensor]) => [origin, data(tensor)] as const);
    for (const [origin, tensor] of Object.entries(watch)) {
      const dims = out[tensor]?.dims ?? [];
      heads.set(origin, dims.length === 4 && dims[2] === ids.length ? Number(dims[1]) : 1);
    }
    return { logits: data("logits"), watched: new Map(watched) };
  };

  return {
    facts,
    async append(ids, { last = false } = {}): Promise<Step> {
      if (last || !lastOnly) {
        const step = await run(ids);
        return last ? { ...step, logits: step.logits.subarray(-facts.vocab) } : step;
      }
      const steps: Step[] = [];
      for (const id of ids) steps.push(await run([id]));
      const watched = Object.keys(watch).map((origin) => {
        const parts = steps.map((s) => s.watched.get(origin) ?? new Float32Array());
        return [origin, joined(parts, heads.get(origin) ?? 1)] as const;
      });
      return {
        logits: joined(
          steps.map((s) => s.logits),
          1,
        ),
        watched: new Map(watched),
      };
    },
    reset() {
      cache = empty();
      fed = 0;
    },
    async close() {
      await session.release();
    },
  };
}

/** One token's values after the other's, for each head on its own. */
function joined(parts: readonly Float32Array[], heads: number): Float32Array {
  const out = new Float32Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (let h = 0; h < heads; h++)
    for (const p of parts) {
      const size = p.length / heads;
      out.set(p.subarray(h * size, (h + 1) * size), at);
      at += size;
    }
  return out;
}

/** A session over a graph file, or over a graph in memory whose data files lie in `folder`. */
export async function createSession(
  graph: string | Uint8Array,
  folder: string,
): Promise<ort.InferenceSession> {
  const { InferenceSession } = await loadRuntime();
  if (typeof graph === "string") return InferenceSession.create(graph, { logSeverityLevel: 3 });
  const extra = { session: { model_external_initializers_file_folder_path: folder } };
  return InferenceSession.create(graph, { logSeverityLevel: 3, extra });
}

/** Whole numbers for one text, as the runtime takes them. */
export async function int64Row(values: readonly number[]): Promise<Tensor> {
  const { Tensor } = await loadRuntime();
  return new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
}

/** The graph file with inner values declared as outputs too. It is opened from memory, its data from where it lies. */
async function withOutputs(path: string, tensors: readonly string[]): Promise<Uint8Array> {
  const model = decodeModel(await readFile(path));
  const { graph } = model;
  if (!graph) throw new Error("the file holds no graph");
  const declared = new Set(graph.output?.map((o) => o.name));
  graph.output = [...(graph.output ?? []), ...tensors.filter((t) => !declared.has(t)).map(untyped)];
  return encodeProto(model);
}

import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type * as ort from "onnxruntime-node";
import { UserError } from "../../ir/error.ts";
import { isCacheName, nextCache } from "../../passes/kv-cache.ts";
import type { ModelFacts, Session, Step } from "../backend.ts";
import { modelFile } from "./emit.ts";
import { decodeModel, encodeProto, inFloats, untyped } from "./proto.ts";

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
  /** Multiply by codes in f32, where the file asks for what is fastest. */
  readonly exact?: boolean;
}

/** Opens the artifact in `dir`. Throws UserError when the runtime is missing or refuses the file. */
export async function openSession(
  dir: string,
  { facts, watch = {}, exact = false }: OpenOptions,
): Promise<Session> {
  const { Tensor } = await loadRuntime();
  const path = join(dir, modelFile);
  let session: ort.InferenceSession;
  try {
    const tensors = Object.values(watch);
    const changed = tensors.length > 0 || exact;
    session = await createSession(changed ? await withOutputs(path, tensors, exact) : path, dirname(path));
  } catch (cause) {
    const why = cause instanceof Error ? cause.message.replace(/\s+/g, " ") : String(cause);
    throw new UserError(
      "input",
      `${path}: ONNX Runtime cannot open it: ${why}`,
      "compile the checkpoint again",
      { cause },
    );
  }

  const none = await emptyCaches(session.inputMetadata);
  const hasSlots = session.inputNames.includes("start");
  let cache = none;
  let fed = 0;
  const row = (values: readonly number[]) =>
    new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);

  // Some profiles score the last token only; then rows for all tokens take one run each.
  const scores = session.outputMetadata.find((m) => m.name === "logits");
  const lastOnly = scores?.isTensor && scores.shape[1] === 1;

  /** The wanted values of one run, by name in the file. */
  const run = async (ids: readonly number[]): Promise<ReadonlyMap<string, Floats>> => {
    if (hasSlots && fed + ids.length > facts.context)
      throw new UserError(
        "usage",
        `${ids.length} more tokens after ${fed} do not fit into caches of ${facts.context} slots`,
        "give a shorter text, or compile with a larger --capacity",
      );
    const mask = () => row(new Array<number>(fed + ids.length).fill(1));
    const text = hasSlots ? await placedText(ids, fed) : { input_ids: row(ids), attention_mask: mask() };
    const out = await session.run({ ...text, ...cache });
    fed += ids.length;
    const next = Object.keys(cache).map((name) => [name, out[nextCache(name)] as Tensor]);
    cache = Object.fromEntries(next);
    return new Map(wanted.map((name) => [name, floats(name, out[name])]));
  };
  const wanted = ["logits", ...Object.values(watch)];

  return {
    facts,
    async append(ids, { last = false } = {}): Promise<Step> {
      const alone = lastOnly && !last;
      const runs: ReadonlyMap<string, Floats>[] = [];
      for (const part of alone ? ids.map((id) => [id]) : [ids]) runs.push(await run(part));
      const all = (name: string) => joined(runs.flatMap((values) => values.get(name) ?? []));
      const watched = Object.entries(watch).map(([origin, name]) => [origin, all(name)] as const);
      const logits = all("logits");
      return { logits: last ? logits.subarray(-facts.vocab) : logits, watched: new Map(watched) };
    },
    reset() {
      cache = none;
      fed = 0;
    },
    async close() {
      await session.release();
    },
  };
}

interface Floats {
  readonly dims: readonly number[];
  readonly data: Float32Array;
}

function floats(name: string, t: Tensor | undefined): Floats {
  if (t?.data instanceof Float32Array) return { dims: t.dims, data: t.data };
  throw new Error(`the artifact gives no f32 output ${name}`);
}

/** The values of one token after another, as one run over all would give them: heads may come before tokens. */
function joined(parts: readonly Floats[]): Float32Array {
  const [first, ...others] = parts;
  if (!first || others.length === 0) return first?.data ?? new Float32Array(0);
  const heads = first.dims.length === 4 ? (first.dims[1] as number) : 1;
  const size = first.data.length / heads;
  const out = new Float32Array(parts.length * first.data.length);
  for (const [i, { data }] of parts.entries())
    for (let h = 0; h < heads; h++)
      out.set(data.subarray(h * size, (h + 1) * size), (h * parts.length + i) * size);
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

/**
 * What is fed as caches before the first token. Sizes that are not numbers are texts, and 1, or tokens, and 0; caches of a
 * fixed size are zero.
 */
export async function emptyCaches(
  inputs: readonly ort.InferenceSession.ValueMetadata[],
): Promise<Readonly<Record<string, Tensor>>> {
  const { Tensor } = await loadRuntime();
  const tensors = inputs.flatMap((input) => {
    if (!input.isTensor || !isCacheName(input.name)) return [];
    const dims = input.shape.map((d, axis) => (typeof d === "number" ? d : axis === 0 ? 1 : 0));
    const n = dims.reduce((a, b) => a * b, 1);
    const data = input.type === "int8" ? new Int8Array(n) : new Float32Array(n);
    return [[input.name, new Tensor(input.type, data, dims)] as const];
  });
  return Object.fromEntries(tensors);
}

/** One text as graphs with caches of a fixed size take it, the first token being at `start`. */
export async function placedText(ids: readonly number[], start: number): Promise<Record<string, Tensor>> {
  const { Tensor } = await loadRuntime();
  const row = (values: readonly number[]) => new Tensor("int32", Int32Array.from(values), [1, values.length]);
  return {
    tokens: row(ids),
    positions: row(ids.map((_, i) => start + i)),
    start: new Tensor("int32", Int32Array.of(start), []),
  };
}

/** Whole numbers for one text, as the runtime takes them. */
export async function int64Row(values: readonly number[]): Promise<Tensor> {
  const { Tensor } = await loadRuntime();
  return new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
}

/** The graph file with inner values declared as outputs too. It is opened from memory, its data from where it lies. */
async function withOutputs(path: string, tensors: readonly string[], exact: boolean): Promise<Uint8Array> {
  const model = decodeModel(await readFile(path));
  const { graph } = model;
  if (!graph) throw new Error("the file holds no graph");
  const declared = new Set(graph.output?.map((o) => o.name));
  graph.output = [...(graph.output ?? []), ...tensors.filter((t) => !declared.has(t)).map(untyped)];
  if (exact) graph.node = graph.node?.map(inFloats) ?? [];
  return encodeProto(model);
}

import type { ModelFacts } from "../../backends/backend.ts";
import { headRows } from "../../backends/backend.ts";
import { byteLength } from "../../backends/stream/index.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import { cast, dequantize, gather, quantize } from "../../ir/ops/index.ts";
import { dtypes } from "../../ir/type.ts";
import { codesOf, rowParts } from "../../passes/fold-weights.ts";
import { stages } from "../verify/stages.ts";
import type { Artifact } from "./artifact.ts";

export interface Cache {
  readonly dtype: string;
  readonly bytesPerToken: number;
  bytes(tokens: number): number;
}

/** The cache of one text. One with a capacity has its full size from the start. */
export function cacheOf(graph: Graph): Cache {
  const caches = graph.inputs.filter((v) => String(v.attrs.name).startsWith("past_key_values."));
  const one = (v: Value, tokens: number) =>
    v.shape.reduce<number>(
      (n, d, axis) => n * (axis === 0 ? 1 : typeof d === "number" ? d : tokens),
      dtypes[v.dtype] / 8,
    );
  const bytes = (tokens: number) => caches.reduce((sum, v) => sum + one(v, tokens), 0);
  return { dtype: caches[0]?.dtype ?? "none", bytesPerToken: bytes(2) - bytes(1), bytes };
}

const MB = 1e6;
/** Elements that the weight stream handles at once. */
const streamBlock = 1 << 21;

/** Bytes, as measured with Node 20 on Linux over checkpoints from 5 MB to 2 GB, in two threads. */
const measured = {
  /** Node with gemmac's modules loaded. */
  node: 62 * MB,
  /** The graph through the passes, and a node of it. */
  passes: 13 * MB,
  perNode: 6500,
  /** A thread that quantizes. */
  thread: 13 * MB,
  /** ONNX Runtime, loaded. */
  runtime: 50 * MB,
} as const;

/** What the collector leaves lying when `used` bytes were used one after another: it comes late, up to a most. */
const garbage = (used: number, most: number, slowness: number): number =>
  most * MB * (1 - Math.exp(-used / (slowness * MB)));
/** Buffers that outlive a block, blocks, and a thread's blocks. */
const oldGarbage = (used: number) => garbage(used, 40, 63);
const youngGarbage = (used: number) => garbage(used, 32, 120);
const threadGarbage = (elements: number) => garbage(elements, 49, 12);

interface Streamed {
  readonly elements: number;
  readonly stored: number;
  readonly widened: boolean;
  readonly codes: boolean;
  readonly side: number;
}

/** Of what is made: how much is read, what it becomes, and what is kept until it is written. */
function streamed(graph: Graph): Streamed[] {
  return graph.weights().flatMap((w) =>
    rowParts(graph.setup[String(w.attrs.name)] ?? w).map((part) => {
      const codes = part.op === quantize;
      const side = !codes && codesOf(part) !== undefined;
      const source = sourceOf(part);
      const elements = byteLength(source) / (dtypes[source.dtype] / 8);
      return {
        elements: side ? 0 : elements,
        stored: dtypes[source.dtype] / 8,
        widened: part.op.name !== "param" && !side && !codes,
        codes,
        side: side ? byteLength(part) : 0,
      };
    }),
  );
}

const sourceOf = (v: Value): Value => {
  const inner = v.inputs.find((i) => i.op.name !== "constant");
  return inner ? sourceOf(inner) : v;
};

/** Peak memory of writing the artifact, in `threads` threads where there is something to quantize. */
export function compileMemory(graph: Graph, artifact: Artifact, threads: number): number {
  const parts = streamed(graph);
  const tables = artifact.classes.tables ?? 0;
  const start =
    measured.node +
    measured.passes +
    measured.perNode * graph.values().length +
    tables +
    (artifact.classes.graph ?? 0);
  const floats = parts.filter((p) => !p.codes && p.elements > 0);
  const writing = start + Math.max(floatMemory(floats), floatMemory(floats.filter((p) => p.widened)));
  const coded = parts.filter((p) => p.codes);
  if (coded.length === 0) return writing;
  const all = sum(coded.map((p) => p.elements));
  const block = Math.min(streamBlock, Math.max(...coded.map((p) => p.elements)));
  const width = Math.min(threads, sum(coded.map((p) => Math.ceil(p.elements / streamBlock))));
  const side = Math.max(0, ...parts.map((p) => p.side));
  return writing + block * 8 + side + width * (measured.thread + threadGarbage(all / width));
}

/** Buffers of the tensor that takes most of them, and what tensors before it left. */
function floatMemory(parts: readonly Streamed[]): number {
  const buffers = parts.map((p) => Math.min(p.elements, 2 * streamBlock) * p.stored);
  const decoded = parts.map((p) => (p.widened ? Math.min(p.elements, streamBlock) * 4 : 0));
  const live = Math.max(0, ...buffers.map((bytes, i) => bytes + (decoded[i] as number)));
  const allWidened = parts.every((p) => p.widened);
  const made = allWidened ? sum(parts.map((p) => p.elements * 4)) : 0;
  return live + oldGarbage(Math.max(0, sum(buffers) - live)) + youngGarbage(made);
}

/** Memory that ONNX Runtime needs for these weights: as they lie, and as it keeps them ready. */
function loaded(graph: Graph, weights: readonly Value[]): number {
  const uses = new Map<Value, Value[]>();
  for (const v of graph.values()) for (const i of v.inputs) uses.set(i, [...(uses.get(i) ?? []), v]);
  const sizes = weights.map((w) => {
    const widened = (uses.get(w) ?? []).some((v) => v.op === cast || v.op === dequantize);
    const lookedUp = (uses.get(w) ?? []).every((v) => v.op === gather);
    const elements = byteLength(w) / (dtypes[w.dtype] / 8);
    const packed = lookedUp || w.type.rank < 2 || w.dtype === "f32" ? 0 : byteLength(w);
    return byteLength(w) + (widened ? elements * 4 : packed);
  });
  return sum(sizes);
}

/**
 * Peak memory of checking the artifact against the checkpoint after it was written in `before`: some weights at a time
 * or, on a GPU or from a file that is mapped, whole.
 */
export function proofMemory(
  graph: Graph,
  { vocab }: ModelFacts,
  before: number,
  { gpuBytes, mappedBytes }: Pick<Artifact, "gpuBytes" | "mappedBytes">,
): number {
  if (gpuBytes !== undefined) return before + measured.runtime + gpuBytes;
  if (mappedBytes !== undefined) return before + mappedBytes;
  const origins = graph.values().flatMap((v) => graph.origins.get(v) ?? []);
  // Of a large table few rows are looked up, and the head gives its first ones only.
  const share = (w: Value) => (w.shape[0] === vocab ? Math.min(1, headRows / vocab) : 1);
  const sizes = stages(graph, origins).map(({ weights }) => {
    const each = [...weights].map((w) => loaded(graph, [w]) * share(w));
    // The runtime makes ready one matrix after another, and then lets go of what it made that from.
    const passing = [...weights].map((w) => (loaded(graph, [w]) - byteLength(w)) * share(w));
    return sum(each) + Math.max(0, ...passing);
  });
  return before + measured.runtime + Math.max(0, ...sizes);
}

/** Memory to load the artifact and feed it texts of this length. */
export function runMemory(
  graph: Graph,
  cacheBytes: number,
  { gpuBytes, mappedBytes }: Pick<Artifact, "gpuBytes" | "mappedBytes">,
): number {
  if (gpuBytes !== undefined) return measured.node + measured.runtime + gpuBytes;
  if (mappedBytes !== undefined) return mappedBytes + cacheBytes;
  // A step reads the cache of before and writes that of after.
  return measured.node + measured.runtime + loaded(graph, graph.weights()) + 2 * cacheBytes;
}

const sum = (xs: readonly number[]): number => xs.reduce((a, b) => a + b, 0);

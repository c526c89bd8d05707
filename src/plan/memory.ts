import type { ModelFacts } from "../../backends/backend.ts";
import { sliceNumbers } from "../../backends/onnx/index.ts";
import { byteLength, tileElements } from "../../backends/stream/index.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import { cast, dequantize, gather, quant_linear, quantize } from "../../ir/ops/index.ts";
import { dtypes } from "../../ir/type.ts";
import { codesOf, rowParts } from "../../passes/fold-weights.ts";
import { proofTokens, roundingProducts } from "../verify/proof.ts";
import { stages } from "../verify/stages.ts";
import type { Artifact } from "./artifact.ts";
import { sum } from "./work.ts";

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

/** Bytes, as measured with Node 20 on Linux over checkpoints from 5 MB to 5 GB, in two threads. */
const measured = {
  /** Node with gemmac's modules loaded. */
  node: 66 * MB,
  /** The graph through the passes, and a node of it. */
  passes: 13 * MB,
  perNode: 6500,
  /** A thread. */
  thread: 12 * MB,
  /** ONNX Runtime, loaded. */
  runtime: 55 * MB,
  /** Scales and zeros that are written already, until the collector comes for them: this much at most. */
  garbage: 20 * MB,
} as const;

/** A tensor that the weight stream makes, or stored rows that it makes codes of; what comes along is kept until written. */
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

/** Memory of writing an artifact: at its peak, and what of that is still there when it is written. */
export interface Writing {
  readonly peak: number;
  readonly kept: number;
}

/** Memory of writing the artifact, in `threads` threads where there is something to quantize. */
export function compileMemory(graph: Graph, artifact: Artifact, threads: number): Writing {
  const parts = streamed(graph);
  const start =
    measured.node +
    measured.passes +
    measured.perNode * graph.values().length +
    (artifact.classes.tables ?? 0) +
    (artifact.classes.graph ?? 0);
  // Buffers of the workbench, which one tensor after another uses.
  const block = (p: Streamed) => Math.min(p.elements, tileElements);
  const floats = parts.filter((p) => !p.codes && p.elements > 0);
  const buffers = Math.max(0, ...floats.map((p) => block(p) * (2 * p.stored + (p.widened ? 4 : 0))));
  const coded = parts.filter((p) => p.codes);
  const tiles = 2 * threads * Math.max(0, ...coded.map((p) => block(p) * (p.stored + 1)));
  const sides = parts.map((p) => p.side);
  const largest = Math.max(0, ...sides);
  const kept = start + buffers + tiles + largest + Math.min(sum(sides) - largest, measured.garbage);
  return { peak: kept + (coded.length > 0 ? threads * measured.thread : 0), kept };
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
 * Peak memory of checking the artifact against the checkpoint after it was written: some rows of some weights at a time
 * or, on a GPU or from a file that is mapped, whole.
 */
export function proofMemory(
  graph: Graph,
  facts: ModelFacts,
  { peak, kept }: Writing,
  { gpuBytes, mappedBytes, activations: shown }: Pick<Artifact, "gpuBytes" | "mappedBytes" | "activations">,
): number {
  if (gpuBytes !== undefined) return peak + measured.runtime + gpuBytes;
  if (mappedBytes !== undefined) return peak + mappedBytes;
  const named = [...graph.origins];
  const rounding = roundingProducts({ compiled: graph, activations: shown, facts });
  const asRun = new Set(rounding.flatMap(({ product, factor }) => (factor ? [product] : [])));
  /** Codes, and whether their product is proven in f32, for which the runtime widens those of 8 bits and packs none. */
  const codes = new Map(
    graph.values().flatMap((v) => {
      const found = quant_linear.of(v)?.codes;
      return found ? [[found, !asRun.has(graph.origins.get(v) ?? "") && found.dtype === "i8"] as const] : [];
    }),
  );
  const sizes = stages(
    graph,
    graph.values().flatMap((v) => graph.origins.get(v) ?? []),
  ).map(({ weights }) => {
    const matrices = [...weights].map((w) => {
      const numbers = byteLength(w) / (dtypes[w.dtype] / 8);
      const share = Math.min(1, sliceNumbers / numbers);
      // The runtime widens a matrix to make ready what it multiplies with.
      const widened = codes.get(w) ?? (w.type.rank > 1 && w.dtype !== "f32");
      const lasting = codes.get(w) ? byteLength(w) : loaded(graph, [w]);
      return { lasting: lasting * share, passing: widened ? 4 * numbers * share : 0 };
    });
    return sum(matrices.map((m) => m.lasting)) + Math.max(0, ...matrices.map((m) => m.passing));
  });
  // What the interpreter computed, in f64 and as it is compared, in f32; scores are there once more as they are made.
  const features = sum(named.map(([v]) => (v.type.rank === 3 ? Number(v.shape[2]) : 0)));
  const activations = proofTokens * 12 * features + proofTokens * 8 * facts.vocab;
  return kept + measured.runtime + activations + Math.max(0, ...sizes);
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

import type { About, Emitted, ModelFacts } from "../../backends/backend.ts";
import { layOut, maxDataFile, modelFile, type Profile } from "../../backends/onnx/emit.ts";
import { emitters } from "../../backends/onnx/emitters.ts";
import { contrib } from "../../backends/onnx/ort/emitters.ts";
import type { DevicePlan } from "../../backends/stablehlo/index.ts";
import { byteLength } from "../../backends/stream/index.ts";
import { layOut as layOutWgsl, parseLimits } from "../../backends/wgsl/index.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import {
  block_scale,
  block_scale_search,
  block_zero,
  ggml_codes,
  ggml_scales,
  quant_gather,
  quant_linear,
  quantize,
} from "../../ir/ops/index.ts";
import { rowParts } from "../../passes/fold-weights.ts";

/** What the bytes of an artifact are for, in the order in which they are told. */
export const classes = [
  "embedding",
  "head",
  "attention",
  "mlp",
  "norms",
  "other weights",
  "scales",
  "zero points",
  "tables",
  "padding",
  "graph",
  "other files",
] as const;
export type TensorClass = (typeof classes)[number];

export interface PlannedFile {
  readonly path: string;
  readonly bytes: number;
}

/** What a target would write, and which of its limits are in the way. */
export interface Artifact {
  readonly files: readonly PlannedFile[];
  readonly classes: Readonly<Partial<Record<TensorClass, number>>>;
  readonly largest: { readonly name: string; readonly bytes: number } | undefined;
  readonly limits: readonly string[];
  readonly activations: Readonly<Record<string, string>>;
  readonly modules?: Emitted["modules"];
  /** Where it is compiled for a number of devices: what each holds. */
  readonly device?: DevicePlan;
  /** Memory of a GPU that running it takes, whatever the length of the text. */
  readonly gpuBytes?: number;
  /** The weights of a program that maps them and needs no runtime. */
  readonly mappedBytes?: number;
}

const profiles: Readonly<Record<"standard" | "ort", Profile>> = { standard: { emitters }, ort: contrib };

/** Adds up bytes by what they are for. */
export function tally() {
  const sums: Partial<Record<TensorClass, number>> = {};
  const count = (name: TensorClass, bytes: number) => void (sums[name] = (sums[name] ?? 0) + bytes);
  return { sums, count };
}

type Size = NonNullable<Artifact["largest"]>;

export const largestOf = (sizes: readonly Size[]): Size | undefined =>
  sizes.toSorted((a, b) => b.bytes - a.bytes)[0];

/** Weights that lie one by one, counted into `count`; gives the largest. */
export function countWeights(
  graph: Graph,
  weights: readonly Value[],
  count: ReturnType<typeof tally>["count"],
): Size | undefined {
  for (const w of weights) count(classOf(w, graph), byteLength(w));
  return largestOf(weights.map((w) => ({ name: String(w.attrs.name), bytes: byteLength(w) })));
}

/** The ONNX artifact of a graph that is ready to emit, to the byte. */
export function onnxArtifact(graph: Graph, facts: ModelFacts, profile: "standard" | "ort"): Artifact {
  const { model, stored, places, activations } = layOut({ graph, facts }, profiles[profile]);
  const weights = graph.weights();
  const { sums, count } = tally();
  const ends = new Map<string, number>();
  for (const [i, { location, offset, length }] of places.entries()) {
    const w = weights[i];
    count(w ? classOf(w, graph) : "tables", length);
    count("padding", offset - (ends.get(location) ?? 0));
    ends.set(location, offset + length);
  }
  count("graph", model.byteLength);
  const data = [...ends].map(([location, bytes]) => ({ path: `onnx/${location}`, bytes }));
  const sizes = stored.map(({ name, length }) => ({ name, bytes: length }));
  return {
    files: [{ path: modelFile, bytes: model.byteLength }, ...data],
    classes: sums,
    largest: largestOf(sizes),
    limits: limitsOf(graph, data, sizes, profile),
    activations,
  };
}

/** The WGSL artifact of a graph that is ready to emit, to the byte, for devices with these limits. */
export function wgslArtifact(graph: Graph, about: About, limits: string | undefined): Artifact {
  const { plan, chunks, texts, activations } = layOutWgsl(graph, about, parseLimits(limits ?? ""));
  const { sums, count } = tally();
  for (const { parts, rows, rowBytes } of plan.weights) {
    for (const part of parts) count(classOf(part, graph), byteLength(part));
    count("padding", rows * rowBytes - parts.reduce((sum, part) => sum + byteLength(part), 0));
  }
  // What hashes are is not known yet, but their length is.
  const written = texts(chunks.map((c) => ({ ...c, sha256: "0".repeat(64) })));
  const files = written.map(({ path, text }) => ({ path, bytes: Buffer.byteLength(text) }));
  for (const { bytes } of files) count("graph", bytes);
  const sizes = plan.weights.map(({ name, rows, rowBytes }) => ({ name, bytes: rows * rowBytes }));
  const held = [...plan.states.map((s) => s.bytes), ...sizes.map((s) => s.bytes), plan.arenaBytes];
  return {
    files: [...files, ...chunks.map(({ path, bytes }) => ({ path, bytes }))],
    classes: sums,
    largest: largestOf(sizes),
    limits: inPieces(plan.weights.filter((w) => w.chunks.length > 1).map((w) => w.name)),
    activations,
    gpuBytes: held.reduce((a, b) => a + b, 0),
  };
}

const inPieces = (names: readonly string[]): string[] =>
  names.length === 0
    ? []
    : [
        `${names.length === 1 ? names[0] : `${names.length} tensors, such as ${names[0]},`} bound in pieces, as no more is sure to fit; --limits takes what larger devices offer`,
      ];

function limitsOf(
  graph: Graph,
  data: readonly PlannedFile[],
  sizes: readonly { readonly name: string; readonly bytes: number }[],
  profile: "standard" | "ort",
): string[] {
  const limits: string[] = [];
  const parts = (n: number) => (n === 1 ? "1 data file" : `${n} data files`);
  if (data.length > 1)
    limits.push(`the weights are split into ${parts(data.length)}: Node and browsers read less than 2 GiB`);
  for (const { name, bytes } of sizes)
    if (bytes > maxDataFile)
      limits.push(
        `${name} alone has ${bytes} bytes, so its data file is over the 2 GiB that Node and browsers read; --quant makes it smaller`,
      );
  for (const w of graph.weights()) {
    const made = recipe(w, graph);
    if (made.op.name === "cast" && made.type.rank > 1 && made.inputs[0]?.dtype !== "f32")
      limits.push(`${String(w.attrs.name)} is written as ${w.dtype}, not as ${made.inputs[0]?.dtype}`);
  }
  const coded = graph.values().some((v) => quant_linear.of(v) || quant_gather.of(v));
  const codes = graph.weights().some((w) => coding.has(classedBy(w, graph)?.op));
  if (codes && !coded && profile === "ort")
    limits.push("no fast operator takes these blocks, so codes are widened when the artifact is loaded");
  return limits;
}

/** What a param of the graph is made by; itself when it lies as it is stored. */
const recipe = (w: Value, graph: Graph): Value => graph.setup[String(w.attrs.name)] ?? w;
const classedBy = (w: Value, graph: Graph): Value | undefined => rowParts(recipe(w, graph))[0];

const coding: ReadonlySet<unknown> = new Set([quantize, ggml_codes]);
const scaling: ReadonlySet<unknown> = new Set([block_scale, block_scale_search, ggml_scales]);

/** Names of weights begin with that of the stored one which they are made from. */
export function classOf(w: Value, graph: Graph): TensorClass {
  const made = classedBy(w, graph);
  if (made?.op === block_zero) return "zero points";
  if (made && scaling.has(made.op)) return "scales";
  const name = String(w.attrs.name);
  if (name.includes("embed_tokens")) return "embedding";
  if (name.includes("lm_head")) return "head";
  if (name.includes("norm")) return "norms";
  if (name.includes("attn")) return "attention";
  return name.includes("mlp") ? "mlp" : "other weights";
}

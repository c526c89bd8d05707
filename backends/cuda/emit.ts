import { readFile } from "node:fs/promises";
import { UserError } from "../../ir/error.ts";
import type { EmitRequest, Emitted, EmittedFile } from "../backend.ts";
import { runtimePart } from "../c/runtime.ts";
import { Checksum, type FileLayout, type FileTensor, layOutTensors, writeWeights } from "../c/weights.ts";
import { writeFileHashed } from "../files.ts";
import {
  alignment,
  bf16Pieces,
  cudaPrelude,
  type GemmShape,
  type Kernel,
  Names,
  type PackedWeight,
  type Phase,
  type Plan,
  packedBytes,
  plan,
  cuda as printKernel,
  type StepInput,
} from "../kernel/index.ts";
import { type Cut, cuts } from "./device.ts";
import { type Places, printSteps } from "./steps.ts";

/** Tokens that go through the model at once at most. */
const chunk = 1024;

type CudaTensor = FileTensor & { readonly weight: PackedWeight };

/** Everything an artifact holds but its weights, before their checksums are known. */
export interface CudaLayout {
  readonly weights: FileLayout<CudaTensor>;
  readonly facts: Pick<EmitRequest["facts"], "context">;
  readonly vocab: number;
  readonly plans: readonly { readonly cut: Cut; readonly plan: Plan }[];
  readonly arenaBytes: number;
  readonly stateBytes: number;
  readonly places: Places;
  readonly activations: Readonly<Record<string, string>>;
}

/** Lays out the program of `graph`. Reads no weights. */
export function layOutCuda({ graph, facts }: Pick<EmitRequest, "graph" | "facts">): CudaLayout {
  const { logits } = graph.outputs;
  if (!logits)
    throw new UserError(
      "input",
      "the cuda target compiles language models: the graph has no output logits",
      "compile a model that scores words",
    );
  const tokens = Math.min(chunk, facts.context);
  const names = new Names();
  const plans = cuts.map((cut) => ({ cut, plan: plan(graph, { device: cut.device, tokens, names }) }));
  const first = (plans[0] as (typeof plans)[number]).plan;
  const weights = layOutTensors(distinct(first.weights));
  const offsets = new Map(weights.tensors.map((t) => [t.weight.name, t.offset - weights.header.length]));
  const states = new Map<string, number>();
  let stateBytes = 0;
  for (const s of first.states) {
    states.set(s.name, stateBytes);
    stateBytes += Math.ceil(s.bytes / alignment) * alignment;
  }
  const found = (map: ReadonlyMap<string, number>) => (name: string) => {
    const at = map.get(name);
    if (at === undefined) throw new Error(`${name} has no place`);
    return at;
  };
  return {
    weights,
    facts,
    vocab: logits.fixed(-1),
    plans,
    arenaBytes: Math.max(...plans.map((p) => p.plan.arenaBytes)),
    stateBytes,
    places: { weight: found(offsets), state: found(states) },
    activations: Object.fromEntries(first.prefill.named.map(({ origin }) => [origin, origin])),
  };
}

/** Packed weights as tensors of a file: rows with their padding. */
function distinct(weights: readonly PackedWeight[]): CudaTensor[] {
  return weights.map((weight) => {
    const { name, dtype, rows, rowBytes } = weight;
    const each = rowBytes / (dtype === "i4" ? 0.5 : (bytesPer[dtype] ?? 4));
    return { name, dtype, shape: [rows, each], bytes: rows * rowBytes, weight };
  });
}
const bytesPer: Readonly<Record<string, number>> = { f32: 4, f16: 2, bf16: 2, i32: 4, i8: 1, u8: 1, bool: 1 };

/** Files that are the same for every model; those of the first list are shared with the C target. */
const sharedFiles = {
  "gemma.h": "gemma.h",
  "tokenizer.h": "tokenizer.h",
  "gemma.py": "gemma.py",
  "main.c": "main.cu",
};
const ownFiles = ["README.md", "Makefile", "CMakeLists.txt", "sample.cuh", "cublaslt.cuh"];
const ownPart = (name: string): Promise<string> =>
  readFile(new URL(`./runtime/${name}`, import.meta.url), "utf8");

/** Writes `gemma.cu`, the kernels, what goes with them, and the weights, which stream through. */
export async function emit(request: EmitRequest): Promise<Emitted> {
  const layout = layOutCuda(request);
  const { file, sums } = await writeWeights(request, layout.weights, ({ weight }, stream) =>
    packedBytes(weight, stream),
  );
  const files: EmittedFile[] = [file];
  for (const [path, text] of await textsCuda(layout, sums))
    files.push(await writeFileHashed(request.dir, path, text));
  return { files, activations: layout.activations };
}

/** What lies beside the weights; `sums` are their checksums. */
export async function textsCuda(
  layout: CudaLayout,
  sums: readonly number[],
): Promise<[path: string, text: string][]> {
  const texts = await sources(layout, sums);
  for (const [from, path] of Object.entries(sharedFiles)) texts.push([path, await runtimePart(from, "gpu")]);
  for (const path of ownFiles) texts.push([path, await ownPart(path)]);
  return texts;
}

/** The sources that are this model's own. */
export async function sources(
  layout: CudaLayout,
  sums: readonly number[],
): Promise<[path: string, text: string][]> {
  const part = async (name: string) => (await ownPart(name)).trimEnd();
  const shared = async (name: string) => (await runtimePart(name, "gpu")).trimEnd();
  const { headers, spelled } = printCuts(layout);
  const steps = layout.plans.map(({ cut, plan: own }, i) =>
    printSteps(`decode_${cut.name}`, own.decode, layout.places, spelled(i)),
  );
  const first = (layout.plans[0] as CudaLayout["plans"][number]).plan;
  const parts = [
    "/* A Gemma model for NVIDIA GPUs. Written by gemmac; the README beside it says how to build it. */",
    await part("prelude.cu"),
    headers.map(([path]) => `#include "${path}"`).join("\n"),
    constants(layout, first),
    await shared("weights.c"),
    tensorTable(layout, sums),
    await shared("map.c"),
    products(first),
    await part("launch.cu"),
    await shared("common.c"),
    "/* Many tokens at once: T of them. */",
    printSteps("prefill", first.prefill, layout.places, spelled(0)).trimEnd(),
    "/* One token, cut for as many threads to a group as the name says. */",
    ...steps.map((s) => s.trimEnd()),
    `/* Decoding in each of its cuts; --tune finds the fastest. */\nstatic const struct {\n  const char *name;\n  void (*launch)(gemma *g);\n  size_t scores; /* where in the arena they lie */\n} cuts[] = {\n${layout.plans.map(({ cut, plan: own }) => `  {"${cut.name}", decode_${cut.name}, ${scoresOf(own.decode)}},`).join("\n")}\n};`,
    await part("model.cu"),
    await part("tune.cu"),
  ];
  return [["gemma.cu", `${parts.join("\n\n")}\n`], ["device.cuh", deviceHeader], ...headers];
}

const deviceHeader = `/* What the kernels call. */\n#pragma once\n#include <cuda_runtime.h>\n${cudaPrelude}`;

/** Kernels of the first cut in one header; of the others what differs, each in a namespace. */
function printCuts({ plans }: CudaLayout): {
  headers: [path: string, text: string][];
  spelled: (cut: number) => (kernel: string) => string;
} {
  const texts = plans.map(
    ({ plan: own }, i) =>
      new Map((i === 0 ? own.kernels : used(own.decode)).map((k) => [k.name, printKernel(k)] as const)),
  );
  const base = texts[0] as Map<string, string>;
  const own = texts.map(
    (all, i) => new Map([...all].filter(([name, text]) => i === 0 || base.get(name) !== text)),
  );
  const headers = own.map((kernels, i): [string, string] => {
    const name = (plans[i] as CudaLayout["plans"][number]).cut.name;
    const body = [...kernels.values()].join("\n");
    return i === 0
      ? [
          "kernels.cuh",
          `/* The kernels, each named after what it computes. */\n#pragma once\n#include "device.cuh"\n\n${body}`,
        ]
      : [
          `kernels_${name}.cuh`,
          `/* The same for groups of ${name} threads, where that differs. */\n#pragma once\n#include "device.cuh"\n\nnamespace cut_${name} {\n${body}}\n`,
        ];
  });
  const spelled = (i: number) => (kernel: string) =>
    i > 0 && own[i]?.has(kernel) ? `cut_${plans[i]?.cut.name}::${kernel}` : kernel;
  return { headers, spelled };
}

function used({ dispatches }: Phase): Kernel[] {
  return [...new Map(dispatches.map((d) => [d.kernel.name, d.kernel])).values()];
}

function constants(layout: CudaLayout, { inputs, prefill, decode }: Plan): string {
  const { weights, vocab, facts, arenaBytes, stateBytes, places } = layout;
  const head = new Checksum(weights.header.length);
  head.add(weights.header);
  const input = (name: string): StepInput => {
    const found = inputs.find((i) => i.name === name);
    if (!found)
      throw new UserError("input", `the graph has no input ${name}`, "keep insert-kv-cache in the pipeline");
    return found;
  };
  const words = inputs.reduce((n, i) => Math.max(n, i.at + i.length), 0);
  const read = new Map(
    decode.dispatches.flatMap((d) =>
      d.bindings.flatMap((b) => (b.space === "weight" ? [[b.weight.name, b.bytes] as const] : [])),
    ),
  );
  for (const d of decode.dispatches)
    if (d.kernel.name.startsWith("embed_"))
      for (const b of d.bindings)
        if (b.space === "weight" && !otherReads(decode, d, b.weight))
          read.set(b.weight.name, b.weight.rowBytes);
  const bytes = [...read.values()].reduce((sum, n) => sum + n, 0);
  return `/* Sizes of this model. CHUNK tokens go through it at once at most. */
enum {
  VOCAB = ${vocab},
  CONTEXT = ${facts.context},
  CHUNK = ${Math.min(chunk, facts.context)},
};
/* The whole numbers of a step, 32 bits each, lie where these say. */
enum { STEP_START = ${input("start").at}, STEP_TOKENS = ${input("tokens").at}, STEP_POSITIONS = ${input("positions").at}, STEP_WORDS = ${words} };
#define STEP_AT ((size_t)${places.state("step")})
#define STATE_BYTES ((size_t)${stateBytes})
#define ARENA_BYTES ((size_t)${arenaBytes})
#define PREFILL_SCORES ((size_t)${scoresOf(prefill)})
#define FILE_BYTES ((uint64_t)${weights.bytes})
#define HEADER_BYTES ((uint64_t)${weights.header.length})
#define HEADER_SUM ${hex(head.end())}
#define BYTES_PER_TOKEN ${bytes}.0`;
}

/** What the library may do instead, where the program is built with it. */
function products({ prefill }: Plan): string {
  const found = new Map<string, string>();
  for (const { kernel, product, bindings } of prefill.dispatches) {
    const weight = bindings.find((b) => b.space === "weight")?.weight;
    if (!product || !weight || !libraryTakes(product)) continue;
    const { name } = kernel;
    const { rows, columns, rowBytes } = weight;
    const sizes = [rows, columns, rowBytes / 2, bf16Pieces(columns) * 8, product.rounds ? 1 : 2].join(", ");
    found.set(name, `  {(const void *)${name}, ${sizes}, ${product.epilogue.gate !== undefined}},`);
  }
  const body =
    found.size > 0
      ? `/* The products that cuBLASLt computes in the place of these kernels. */
static const struct product products[] = {\n${[...found.values()].join("\n")}\n};`
      : `#error "this model has no products for cuBLASLt, which takes matrices of bf16: build it without GEMMAC_CUBLASLT"`;
  return `#ifdef GEMMAC_CUBLASLT\n${body}\n#endif`;
}

/** It reads rows from multiples of 16 bytes. */
const libraryTakes = ({ format, columns, epilogue: { gate, softcap } }: GemmShape): boolean =>
  format.dtype === "bf16" &&
  columns % 8 === 0 &&
  (gate === undefined || gate === "gelu") &&
  softcap === undefined;

/** Where the scores of a phase lie in the arena. */
function scoresOf(phase: Phase): number {
  const { binding } = phase.outputs.logits as Phase["outputs"][string];
  if (binding.space !== "arena") throw new Error("the logits are not computed");
  return binding.offset;
}

const otherReads = (phase: Phase, but: Phase["dispatches"][number], weight: PackedWeight): boolean =>
  phase.dispatches.some(
    (d) => d !== but && d.bindings.some((b) => b.space === "weight" && b.weight === weight),
  );

const hex = (sum: number): string => `0x${sum.toString(16).padStart(8, "0")}u`;

const tensorTable = ({ weights }: CudaLayout, sums: readonly number[]): string =>
  `static const struct tensor tensors[] = {
${weights.tensors.map(({ name, offset, bytes }, i) => `  {"${name}", ${offset}, ${bytes}, ${hex(sums[i] ?? 0)}},`).join("\n")}
};`;

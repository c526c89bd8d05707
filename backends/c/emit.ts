import { UserError } from "../../ir/error.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import { gather, quant_gather } from "../../ir/ops/index.ts";
import type { EmitRequest, Emitted, EmittedFile } from "../backend.ts";
import { writeFileHashed } from "../files.ts";
import { emitters } from "./ops/emitters.ts";
import { grown, remember } from "./ops/fused.ts";
import { packedPlace } from "./ops/generic.ts";
import { Builder, type Cache } from "./program/builder.ts";
import { printProgram } from "./program/print.ts";
import { runtimePart } from "./runtime.ts";
import {
  Checksum,
  layOutWeights,
  type PlacedTensor,
  type WeightLayout,
  weightsFile,
  writeWeights,
} from "./weights.ts";

/** Tokens that go through the model at once at most, and those of them that can be scored at once. */
export const chunk = 256;
export const scored = 32;

/** Everything an artifact holds but its weights, before their checksums are known. */
export interface CLayout {
  readonly weights: WeightLayout;
  readonly arenaBytes: number;
  readonly caches: readonly Cache[];
  readonly vocab: number;
  readonly bytesPerToken: number;
  /** The functions that compute a step. */
  readonly program: string;
  readonly activations: Readonly<Record<string, string>>;
}

/** Lays out the program of `graph`. Reads no weights. */
export function layOutC({ graph, facts }: Pick<EmitRequest, "graph" | "facts">): CLayout {
  const bounds = { T: Math.min(chunk, facts.context), R: Math.min(scored, facts.context), P: facts.context };
  const cx = new Builder(graph, emitters, bounds);
  const { logits, ...others } = graph.outputs;
  if (!logits) throw new TypeError("the c target compiles language models: the graph has no output logits");
  const place = packedPlace(cx, logits);
  for (const [name, v] of Object.entries(others)) {
    const cache = grown(v);
    if (!cache)
      throw new UserError(
        "usage",
        `the output ${name} is no growing cache, the only kind that the c target takes`,
        "leave the capacity out of insert-kv-cache; the program makes its caches as large as it is told to",
      );
    remember(cx, cache);
  }
  // The scores are read after the step.
  cx.add([], [place.store], []);
  const weights = layOutWeights(graph.weights());
  const offsets = new Map(weights.tensors.map((t) => [t.name, t.offset]));
  const {
    text: steps,
    arenaBytes,
    offsets: memory,
  } = printProgram(cx.lines, (name) => offsets.get(name) as number);
  if (place.store.kind !== "arena") throw new TypeError("the logits are not computed");
  const scores = `static float *scores(const gemma *g) { return ARENA(float, ${memory.get(place.store)}); }\n`;
  const shown = cx.lines.flatMap(({ shows }) => (shows ? [shows.origin] : []));
  return {
    weights,
    arenaBytes,
    caches: cx.caches,
    vocab: logits.fixed(-1),
    bytesPerToken: bytesPerToken(graph, weights.tensors),
    program: `${steps}\n${scores}`,
    activations: Object.fromEntries(shown.map((origin) => [origin, origin])),
  };
}

/** What one step of one token reads: all weights, but of tables that are only looked up a row. */
function bytesPerToken(graph: Graph, tensors: readonly PlacedTensor[]): number {
  const users = new Map<Value, Value[]>();
  for (const v of graph.values()) for (const i of v.inputs) users.set(i, [...(users.get(i) ?? []), v]);
  const looked = (v: Value): boolean => {
    const all = users.get(v) ?? [];
    return (
      all.length > 0 &&
      all.every((u) => gather.of(u)?.table === v || quant_gather.of(u) || (u.op.name === "cast" && looked(u)))
    );
  };
  return tensors.reduce(
    (sum, { weight, bytes }) => sum + (looked(weight) ? bytes / weight.fixed(0) : bytes),
    0,
  );
}

/** The files that are the same for every model. */
const constantFiles = [
  "README.md",
  "gemma.h",
  "main.c",
  "tokenizer.h",
  "Makefile",
  "CMakeLists.txt",
  "gemma.py",
];

/** Writes `gemma.c`, what goes with it, and the weights, which stream through. */
export async function emit(request: EmitRequest): Promise<Emitted> {
  const layout = layOutC(request);
  const { file, sums } = await writeWeights(request, layout.weights, ({ weight }, stream) =>
    stream.blocks(weight),
  );
  const files: EmittedFile[] = [file];
  for (const [path, text] of await textsC(layout, request.facts.context, sums))
    files.push(await writeFileHashed(request.dir, path, text));
  return { files, activations: layout.activations };
}

/** What lies beside the weights; `sums` are their checksums. */
export async function textsC(
  layout: CLayout,
  context: number,
  sums: readonly number[],
): Promise<[path: string, text: string][]> {
  const constant = constantFiles.map(
    async (name): Promise<[string, string]> => [name, await runtimePart(name)],
  );
  return [["gemma.c", await modelSource(layout, context, sums)], ...(await Promise.all(constant))];
}

/** gemma.c: the parts that every model has, around those of this one. */
export async function modelSource(
  layout: CLayout,
  context: number,
  sums: readonly number[],
): Promise<string> {
  const part = async (name: string) => (await runtimePart(name)).trimEnd();
  const coded = /linear_i[48]/.test(layout.program);
  const parts = [
    "/* A Gemma model as one C file. Written by gemmac; the README beside it says how to build it. */",
    await part("prelude.c"),
    constants(layout, context),
    await part("vectors.c"),
    await part("team.c"),
    await part("products.c"),
    ...(coded ? [await part("codes.c")] : []),
    await part("rows.c"),
    await part("attention.c"),
    await part("weights.c"),
    tensorTable(layout, sums),
    await part("map.c"),
    await part("state.c"),
    layout.program.trimEnd(),
    await part("sample.c"),
    await part("common.c"),
    await part("model.c"),
  ];
  return `${parts.join("\n\n")}\n`;
}

function constants({ arenaBytes, caches, vocab, weights, bytesPerToken }: CLayout, context: number): string {
  const head = new Checksum(weights.header.length);
  head.add(weights.header);
  const dims = caches.map((c) => c.headDim);
  return `/* Sizes of this model. CHUNK tokens go through it at once at most; SCORED of them can be scored at once. */
enum {
  VOCAB = ${vocab},
  CONTEXT = ${context},
  CHUNK = ${Math.min(chunk, context)},
  SCORED = ${Math.min(scored, context)},
  CACHES = ${caches.length},
  MOST_HEAD_DIM = ${Math.max(1, ...dims)},
};
#define ARENA_BYTES ((size_t)${arenaBytes})
#define FILE_BYTES ((uint64_t)${weights.bytes})
#define HEADER_BYTES ((uint64_t)${weights.header.length})
#define HEADER_SUM ${hex(head.end())}
#define BYTES_PER_TOKEN ${Math.round(bytesPerToken)}.0`;
}

const hex = (sum: number): string => `0x${sum.toString(16).padStart(8, "0")}u`;

function tensorTable({ weights, caches }: CLayout, sums: readonly number[]): string {
  const rows = weights.tensors.map(
    ({ name, offset, bytes }, i) => `  {"${name}", ${offset}, ${bytes}, ${hex(sums[i] ?? 0)}},`,
  );
  const kept = caches.map(({ heads, headDim, window }) => `  {${heads}, ${headDim}, ${window}},`);
  return `static const struct tensor tensors[] = {
${rows.join("\n")}
};

/* The caches of keys and values. A window of 0 is all tokens. */
static const struct {
  int heads, head_dim, window;
} caches[] = {
${kept.join("\n") || "  {0, 0, 0},"}
};`;
}

export { weightsFile };

import type { Graph } from "../../ir/graph.ts";
import { update } from "../../ir/ops/index.ts";
import type { About, EmitRequest, Emitted, EmittedFile } from "../backend.ts";
import { writeFileHashed } from "../files.ts";
import { Names, type Plan, plan } from "../kernel/index.ts";
import { factOf, printKernels, type TextFile } from "./kernels.ts";
import { deviceOf, holdTo, type Limits, needsOf } from "./limits.ts";
import { declarationText, type ModuleFacts, moduleText } from "./package/module.ts";
import { packageText } from "./package/npm.ts";
import { pageText } from "./package/page.ts";
import { programOf } from "./program.ts";
import type { ChunkFile, Program } from "./runtime/program.ts";
import { samplerFor } from "./sampler.ts";
import { cutIntoChunks, weightBuffers, writeWeights } from "./weights.ts";

/** What the runtime runs, and the same with every named activation kept, for comparing with the original. */
export const programs = { lean: "program.json", watched: "program.watched.json" } as const;

/** Tokens that one run of prefill takes at most. */
const tokens = 128;

/** Everything an artifact will hold but the bytes of its weights. */
export interface Layout {
  readonly plan: Plan;
  /** The files of weights; what they hash to is known when they are written. */
  readonly chunks: readonly Omit<ChunkFile, "sha256">[];
  /** The other files, once hashes are known. */
  texts(chunks: readonly ChunkFile[]): TextFile[];
  readonly activations: Emitted["activations"];
}

/** Lays out the artifact of `graph` for devices with these limits. Reads no weights. */
export function layOut(graph: Graph, about: About, limits: Limits): Layout {
  const { facts } = about;
  const names = new Names();
  const planOf = (keep: readonly string[]): Plan =>
    plan(graph, { device: deviceOf(limits), tokens: Math.min(tokens, facts.context), keep, names });
  const lean = planOf([]);
  const watched = watchedPlan(graph, limits, planOf);
  const sampler = samplerFor(lean, deviceOf(limits), limits.maxComputeInvocationsPerWorkgroup);
  const { files, kernels } = printKernels(lean, sampler);
  const launched = [...lean.kernels, ...(sampler?.launches ?? []).map((l) => l.kernel)];
  const shaders = files.map((f) => f.text);
  holdTo(limits, needsOf(lean, launched, shaders), lean, facts.context);
  const texts = (chunks: readonly ChunkFile[]): TextFile[] => {
    const program = (path: string, p: Plan): TextFile => {
      const content: Program = {
        format: "gemmac-program/1",
        name: about.name,
        facts,
        text: about.text,
        limits: needsOf(p, launched, shaders),
        chunks,
        ring: shortestRing(graph),
        ...programOf(p, launched, sampler),
        kernels,
      };
      return { path, text: `${JSON.stringify(content)}\n` };
    };
    const main = program(programs.lean, lean);
    return [...files, main, program(programs.watched, watched), ...packageFiles(about, chunks, main)];
  };
  const kept = Object.keys(watched.prefill.kept);
  return {
    plan: lean,
    chunks: cutIntoChunks(weightBuffers(lean.weights)),
    texts,
    activations: Object.fromEntries(kept.map((origin) => [origin, origin])),
  };
}

/** Writes the folder that a browser runs: kernels, weights in chunks, the program, its module, its page. */
export async function emit(request: EmitRequest, limits: Limits): Promise<Emitted> {
  if (!request.about)
    throw new Error("a WGSL artifact runs by itself, so it must be told what the model is called");
  const layout = layOut(request.graph, await request.about(), limits);
  const { files, chunks } = await writeWeights(request, layout.plan.weights, layout.chunks);
  const written: EmittedFile[] = [];
  for (const { path, text } of layout.texts(chunks))
    written.push(await writeFileHashed(request.dir, path, text));
  return { files: [...files, ...written], activations: layout.activations };
}

/** The same with every named value kept; of large models those between layers, so that they fit one buffer. */
function watchedPlan(graph: Graph, limits: Limits, planOf: (keep: readonly string[]) => Plan): Plan {
  const all = [...graph.origins.values()];
  const made = planOf(all);
  const between = /^model\/(embed_tokens|layers\.\d+|norm)$/;
  return made.arenaBytes <= limits.maxBufferSize
    ? made
    : planOf(all.filter((origin) => between.test(origin)));
}

/** What people load: the module with its types, the npm package, the page. */
function packageFiles(about: About, chunks: readonly ChunkFile[], program: TextFile): TextFile[] {
  const { name, version, text, licences, facts } = about;
  const { vocab, context, layers, kvHeads, headDim } = facts;
  const bytes = chunks.reduce((sum, c) => sum + c.bytes, 0);
  const numbers = { vocab, context, layers, kvHeads, headDim };
  const module: ModuleFacts = { name, version, facts: numbers, bytes, program: factOf(program) };
  return [
    { path: "model.js", text: moduleText(module) },
    { path: "model.d.ts", text: declarationText(module) },
    { path: "package.json", text: packageText(about) },
    { path: "chat.html", text: pageText({ name, version, bytes, context, text, licences }) },
  ];
}

/** Slots of the shortest cache that goes round. */
function shortestRing(g: Graph): number | null {
  const rings = g.values().flatMap((v) => (update.of(v)?.attrs.wrap ? [v.fixed(2)] : []));
  return rings.length > 0 ? Math.min(...rings) : null;
}

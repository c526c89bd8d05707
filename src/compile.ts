import { mkdir, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { type Backend, type EmittedFile, legalize, type ModelFacts } from "../backends/backend.ts";
import { writeFileHashed } from "../backends/files.ts";
import { byteLength } from "../backends/stream/index.ts";
import { UserError } from "../ir/error.ts";
import type { Graph, Value } from "../ir/graph.ts";
import { primitives } from "../ir/ops/index.ts";
import { passes } from "../passes/index.ts";
import { hasSlots, insertKvCache } from "../passes/kv-cache.ts";
import type { Pass } from "../passes/pass.ts";
import { type Observer, type PassRecord, printPipeline, runPasses } from "../passes/pipeline.ts";
import { quantize } from "../passes/quantize.ts";
import { aboutOf, isLicence } from "./artifact/about.ts";
import { holdsCodes } from "./artifact/clients.ts";
import { type Manifest, manifestFile, manifestFormat } from "./artifact/manifest.ts";
import { checkOut, makeFolder, partialPath, putInPlace } from "./artifact/output.ts";
import { asksImportance, calibrationIds, measureImportance } from "./calibrate.ts";
import { type Checkpoint, openCheckpoint } from "./checkpoint/checkpoint.ts";
import type { Folder } from "./checkpoint/folder.ts";
import { checkStored, type Extra, openExtra, overlay } from "./checkpoint/overlay.ts";
import { modelGraph } from "./model/load.ts";
import { checkLaws } from "./plugin/laws.ts";
import { isTarget, type Target, type TargetName, type TargetOptions, targetTable } from "./target.ts";
import { failedBy } from "./verify/probe.ts";
import { type Proof, type ProofRequest, proofTokens, type Twin } from "./verify/proof.ts";
import { defaultIds } from "./verify/verify.ts";
import { version } from "./version.ts";

/** What can be compiled to. */
export const targets: readonly { readonly name: string; readonly doc: string }[] = Object.values(
  targetTable,
).map((t) => t.backend({}));

export interface CompileOptions extends TargetOptions {
  readonly targets: readonly string[];
  /** The folder to make. With several targets, each gets a folder of its name inside. */
  readonly out: string;
  /** Replace an artifact that stands there. */
  readonly force?: boolean;
  /** Whole numbers for weights, in the blocks that suit the target. */
  readonly quant?: "int8" | "int4";
  /** Passes to run in the place of the target's own. */
  readonly pipeline?: readonly Pass[];
  /** Passes to run after the target's fusions, before anything that is about storage. */
  readonly insert?: readonly Pass[];
  /** Files or folders of weights beside the checkpoint's, such as an adapter's, for passes to use. */
  readonly extraWeights?: readonly string[];
  /** A text like those the model will see, for quantize{method=search}; a built-in one when left out. */
  readonly calibration?: string;
  /** Whether to run the artifact against the checkpoint at the end; true when left out. */
  readonly verify?: boolean;
  /** Told of the graph after each pass. */
  readonly observe?: Observer;
  readonly progress?: (doneBytes: number, totalBytes: number, target: string) => void;
  readonly warn?: (message: string) => void;
  readonly signal?: AbortSignal;
}

export interface TargetReport {
  readonly target: string;
  readonly dir: string;
  readonly bytes: number;
  readonly files: readonly EmittedFile[];
  readonly passes: readonly PassRecord[];
  /** How the artifact compares with the checkpoint; absent when it was not verified. */
  readonly proof?: Proof;
}

export interface CompileReport {
  readonly out: string;
  readonly seconds: number;
  readonly targets: readonly TargetReport[];
  readonly warnings: readonly string[];
}

/**
 * Compiles the checkpoint in a folder. Writes beside `out` and renames at the end, so that nothing half-written is
 * left by a failure or an abort. Peak memory does not grow with the model. Throws UserError.
 */
export async function compile(checkpointDir: string, options: CompileOptions): Promise<CompileReport> {
  const start = performance.now();
  await checkOut(options.out, checkpointDir, options.force ?? false, Object.keys(targetTable));
  const checkpoint = await openCheckpoint(checkpointDir);
  const partial = partialPath(options.out);
  const extras: Extra[] = [];
  try {
    const chosen = chooseBackends(options.targets, { ...options, context: checkpoint.config.context });
    for (const path of options.extraWeights ?? []) extras.push(await openExtra(path));
    await makeFolder(partial);
    const warnings: string[] = [];
    const job: Job = {
      checkpoint,
      extras,
      options,
      warn(message) {
        if (warnings.includes(message)) return;
        warnings.push(message);
        options.warn?.(message);
      },
    };
    const reports: TargetReport[] = [];
    for (const backend of chosen) {
      const place = chosen.length > 1 ? backend.name : "";
      const report = await compileTarget(job, backend, join(partial, place));
      reports.push({ ...report, dir: join(options.out, place) });
    }
    options.signal?.throwIfAborted();
    await putInPlace(partial, resolve(options.out));
    return { out: options.out, seconds: (performance.now() - start) / 1000, targets: reports, warnings };
  } finally {
    await rm(partial, { recursive: true, force: true });
    await Promise.all([checkpoint, ...extras.map((extra) => extra.weights)].map((opened) => opened.close()));
  }
}

interface Job {
  readonly checkpoint: Checkpoint;
  readonly extras: readonly Extra[];
  readonly options: CompileOptions;
  readonly warn: (message: string) => void;
}

async function compileTarget(job: Job, backend: Backend, dir: string): Promise<TargetReport> {
  const { checkpoint, options, warn } = job;
  const { graph, facts: source, warnings } = modelGraph(checkpoint);
  for (const w of warnings) warn(w);
  const stored = job.extras.reduce((all, extra) => overlay(all, extra.weights), checkpoint.weights);
  const pipeline = pipelineOf(backend, options);
  const { graph: optimized, records } = runPasses(graph, pipeline, options.observe);
  checkLaws(checkpoint, pipeline, backend.passes, warn);
  const legal = legalize(optimized, backend);
  checkOps(legal, backend);
  const { vocab, context } = checkpoint.config;
  const calibration = asksImportance(legal)
    ? await calibrationIds(checkpoint.dir, vocab, context, options.calibration)
    : [];
  const weights = overlay(stored, await measureImportance(graph, legal, checkpoint.weights, calibration));
  checkStored(legal, weights);
  warnUnread(legal, job);
  const facts = factsOf(legal, source);
  const total = legal.weights().reduce((sum, w) => sum + byteLength(w), 0);
  let done = 0;
  const progress = (bytes: number) => {
    options.signal?.throwIfAborted();
    done += bytes;
    options.progress?.(done, total, backend.name);
  };
  await mkdir(dir, { recursive: true }); // inside the folder just made
  const copied = await copyCompanions(checkpoint.folder, dir);
  progress(0);
  const { files, activations, modules, mesh } = await backend.emit({
    graph: legal,
    weights,
    facts,
    about: () => aboutOf(checkpoint, facts, copied, warn),
    dir,
    progress,
    warn,
  });
  if (!copied.some((f) => f.path === "tokenizer.json"))
    warn("the checkpoint has no tokenizer.json, so the artifact takes token ids only");
  const target: Target = targetTable[backend.name as TargetName];
  const laws = pipeline.map((p) => p.law);
  const own = pipeline.every((p) => passes.has(p.name) || backend.passes.some((b) => b.name === p.name));
  const originals = { original: graph, originalFacts: source, own };
  // Caches of a fixed size would fill memory, and change nothing of what a fresh text gives: it is proven on growing ones.
  const growing = () => {
    const bare = pipeline.filter((p) => p.name !== insertKvCache.name);
    return insertKvCache().run(runPasses(graph, bare).graph);
  };
  const compiled = hasSlots(legal) ? legalize(growing(), backend) : legal;
  const made = { dir, files, activations, ...originals, compiled, laws, facts, weights };
  const proof = options.verify === false ? undefined : { ...made, ids: await proofIds(made, checkpoint) };
  const sides = await target.beside({
    checkpoint,
    facts,
    graph: legal,
    emitted: files,
    warn,
    ...(proof && { proof }),
  });
  const written: EmittedFile[] = [];
  for (const { path, content } of sides.files) written.push(await writeFileHashed(dir, path, content));
  const all = [...files, ...written, ...copied].sort((a, b) => (a.path < b.path ? -1 : 1));
  const described = {
    target: backend.name,
    pipeline,
    calibration,
    facts,
    files: all,
    activations,
    modules,
    mesh,
  };
  const manifest = await writeFileHashed(dir, manifestFile, await manifestText(job, described));
  const bytes = [...all, manifest].reduce((sum, f) => sum + f.bytes, 0);
  const found = proof && (await proven(job, target, proof, sides.twin));
  return {
    target: backend.name,
    dir,
    bytes,
    files: [...all, manifest],
    passes: records,
    ...(found && { proof: found }),
  };
}

async function proofIds({ facts }: Pick<ProofRequest, "facts">, { dir }: Checkpoint): Promise<number[]> {
  return (await defaultIds(facts.vocab, facts.context, dir)).slice(0, proofTokens);
}

/** The artifact's proof; undefined when there is no runtime. Throws UserError on a breach. */
async function proven(
  { warn }: Job,
  target: Target,
  request: ProofRequest,
  twin: Twin | undefined,
): Promise<Proof | undefined> {
  try {
    const whole = await target.prove(request, twin);
    const windows = !holdsCodes(request.compiled);
    const fault = request.own ? await target.probe?.({ ...request, windows }) : undefined;
    const proof = fault ? failedBy(whole, fault) : whole;
    if (proof.ok) return proof;
    const { origin, share, allowed } = proof.worst;
    throw new UserError(
      "verify",
      `the artifact differs from the checkpoint: ${origin} is off by ${share.toExponential(1)} of its largest value, where ${allowed.toExponential(1)} is allowed`,
      "mend the pass that did it (gemmac diff shows what each changed), or pass --no-verify to keep the artifact",
    );
  } catch (e) {
    if (!(e instanceof UserError) || e.trouble !== "environment") throw e;
    warn(`the artifact is not verified: ${e.message}`);
    return undefined;
  }
}

/** What the artifact's readers must know, as passes left it: one may have dropped layers. */
export function factsOf(g: Graph, source: ModelFacts): ModelFacts {
  const keys = Object.keys(g.outputs).filter((name) => /^present\.\d+\.key$/.test(name));
  if (keys.length === 0) return source;
  // Caches of a fixed size bound the text; rings are shorter and do not.
  const slots = keys.flatMap((name) => (g.aliases[name] ? Number(g.outputs[name]?.type.at(2)) : []));
  const context = Math.min(source.context, ...(slots.length ? [Math.max(...slots)] : []));
  return { ...source, layers: keys.length, context };
}

/** An op that a pass brings must be short for others, or be in the backend's table. */
function checkOps(g: Graph, backend: Backend): void {
  const known = (v: Value) => v.op.composite || Object.hasOwn(primitives, v.op.name);
  const stranger = g.values().find((v) => !known(v));
  if (stranger)
    throw new UserError(
      "input",
      `${backend.name} does not know the op ${stranger.op.name}`,
      "declare it as a composite, short for ops that there are",
    );
}

/** Tells of weights given beside the checkpoint's that no pass asked for. */
function warnUnread(g: Graph, { extras, warn }: Job): void {
  const read = new Set(g.stored().map((v) => String(v.attrs.name)));
  const unread = extras.flatMap(({ weights }) => [...weights.names()]).filter((name) => !read.has(name));
  if (unread.length > 0)
    warn(`no pass uses ${unread.length} of the weights beside the checkpoint, such as ${unread[0]}`);
}

/** What makes the weights that other passes asked for, each target's in its own way. */
const readying = ["fuse-quant", "fold-weights"];

/** The passes that compiling for `backend` runs. */
export function pipelineOf(
  backend: Backend,
  { pipeline, insert = [], quant }: Pick<CompileOptions, "pipeline" | "insert" | "quant">,
): readonly Pass[] {
  const { quantBlock: block = 32, quantScales: scales = "f32" } = backend;
  const quantized = quant ? [quantize({ scheme: quant, block, scales })] : [];
  const base = pipeline ?? backend.passes;
  const storage = base.findIndex((p) => p.name === "insert-kv-cache");
  const at = storage >= 0 ? storage : base.findLastIndex((p) => p.name.startsWith("fuse-")) + 1;
  const given = new Set(base.map((p) => p.name));
  const needs = [...readying, ...(backend.needs ?? [])];
  const missing = backend.passes.filter((p) => needs.includes(p.name) && !given.has(p.name));
  return [...base.slice(0, at), ...insert, ...quantized, ...base.slice(at), ...missing];
}

/**
 * The backends of these names, set up as the options say. Throws UserError for a name there is none of, and for caches
 * of more slots than the model's context.
 */
export function chooseBackends(
  names: readonly string[],
  { profile = "ort", weights = "stored", ...rest }: TargetOptions = {},
): Backend[] {
  const known = Object.keys(targetTable).join(", ");
  if (names.length === 0)
    throw new UserError("usage", "no target is given", `pass --target with one of: ${known}`);
  const { capacity = 0, context = Number.POSITIVE_INFINITY } = rest;
  if (capacity > context)
    throw new UserError(
      "usage",
      `a capacity of ${capacity} tokens is more than the model's context of ${context}`,
      `give --capacity ${context} or less`,
    );
  return [...new Set(names)].map((name) => {
    if (!isTarget(name)) throw new UserError("usage", `there is no target ${name}`, `choose from: ${known}`);
    return targetTable[name].backend({ ...rest, profile, weights });
  });
}

const companions =
  /^(tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|generation_config\.json|chat_template\.jinja)$/;

/** The tokenizer and licence files travel with the weights, unchanged. */
async function copyCompanions(from: Folder, to: string): Promise<EmittedFile[]> {
  const copied: EmittedFile[] = [];
  for (const path of await companionsOf(from))
    copied.push(await writeFileHashed(to, path, await from.bytes(path)));
  return copied;
}

/** Names of the files of a checkpoint that travel with the weights. */
export const companionsOf = async (folder: Folder): Promise<string[]> =>
  (await folder.names()).filter((name) => companions.test(name) || isLicence(name));

interface Made extends Pick<Manifest, "facts" | "files" | "activations" | "calibration"> {
  readonly modules: Manifest["modules"];
  readonly mesh: Manifest["mesh"];
  readonly target: string;
  readonly pipeline: readonly Pass[];
}

/** What `manifest.json` will say. */
export async function manifestText(
  {
    checkpoint,
    extras,
    options,
  }: Pick<Job, "checkpoint" | "extras"> & { options: Pick<CompileOptions, "profile"> },
  { target, pipeline, calibration, facts, files, activations, modules, mesh }: Made,
): Promise<string> {
  const manifest: Manifest = {
    format: manifestFormat,
    gemmac: version,
    target,
    profile: options.profile ?? "ort",
    model: checkpoint.config,
    config: checkpoint.keys,
    generation: checkpoint.generation,
    facts,
    passes: printPipeline(pipeline),
    calibration,
    source: describeSource({ checkpoint, extras }),
    licence: {
      files: files.map((f) => f.path).filter(isLicence),
      notice:
        "The weights stay under the licence of the checkpoint they come from. They were changed by the passes named here, and laid out anew.",
    },
    files,
    activations,
    ...(modules && { modules }),
    ...(mesh && { mesh }),
  };
  return `${JSON.stringify(manifest, null, 1)}\n`;
}

function describeSource({ checkpoint, extras }: Pick<Job, "checkpoint" | "extras">): Manifest["source"] {
  // The Hub's cache keeps a checkpoint under its revision.
  const revision = /[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]?$/.exec(resolve(checkpoint.dir))?.[1] ?? null;
  return { revision, files: [...checkpoint.files, ...extras.flatMap((extra) => extra.files)] };
}

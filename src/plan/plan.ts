import { stat } from "node:fs/promises";
import { availableParallelism } from "node:os";
import {
  type About,
  type Backend,
  type EmittedFile,
  legalize,
  type ModelFacts,
} from "../../backends/backend.ts";
import type { DevicePlan } from "../../backends/stablehlo/index.ts";
import type { Graph } from "../../ir/graph.ts";
import { block_scale, block_scale_search } from "../../ir/ops/index.ts";
import type { Pass } from "../../passes/pass.ts";
import { printPipeline, runPasses } from "../../passes/pipeline.ts";
import { aboutOf } from "../artifact/about.ts";
import { manifestFile } from "../artifact/manifest.ts";
import { type Checkpoint, openCheckpoint } from "../checkpoint/checkpoint.ts";
import {
  type CompileOptions,
  chooseBackends,
  companionsOf,
  factsOf,
  manifestText,
  pipelineOf,
} from "../compile.ts";
import { gemma } from "../model/gemma.ts";
import { modelGraph } from "../model/load.ts";
import { presets } from "../model/presets.ts";
import { type Target, type TargetName, type TargetOptions, targetTable } from "../target.ts";
import { version } from "../version.ts";
import { type Artifact, classes, type PlannedFile, type TensorClass } from "./artifact.ts";
import { cacheOf, compileMemory, proofMemory, runMemory } from "./memory.ts";
import { type TimeEstimate, timeOf } from "./time.ts";
import { type Work, workOf } from "./work.ts";

export interface PlanOptions extends TargetOptions, Pick<CompileOptions, "pipeline" | "insert" | "quant"> {
  readonly target: string;
  /** Lengths of text, in tokens, to tell the cache's size for. */
  readonly contexts?: readonly number[];
  /** Where the artifact would go: its disk is tried. The working folder when left out. */
  readonly folder?: string;
  /** Whether to try how fast this machine is; true when left out. */
  readonly time?: boolean;
}

/** What compiling would write and need. Sizes are bytes. */
export interface Plan {
  readonly model: string;
  readonly kind: "checkpoint" | "preset";
  readonly target: string;
  readonly profile: "standard" | "ort";
  /** The pipeline, as --passes takes it. */
  readonly passes: string;
  /** Exact; a preset has no tokenizer, config or manifest, so those are not counted. */
  readonly artifact: {
    readonly bytes: number;
    readonly classes: Readonly<Partial<Record<TensorClass, number>>>;
    readonly files: readonly PlannedFile[];
    readonly largest: { readonly name: string; readonly bytes: number } | undefined;
  };
  readonly cache: {
    readonly dtype: string;
    readonly bytesPerToken: number;
    readonly contexts: readonly { readonly tokens: number; readonly bytes: number }[];
  };
  /** Estimates of peaks. */
  readonly memory: {
    readonly compile: number;
    /** With the check at the end that --no-verify leaves out, where that was measured. */
    readonly verify?: number;
    readonly run: readonly { readonly tokens: number; readonly bytes: number }[];
  };
  /** What compiling does, counted. */
  readonly work: Work;
  readonly time?: TimeEstimate;
  /** Where it is compiled for a number of devices: what each holds, and what they tell each other. */
  readonly device?: DevicePlan;
  /** Limits that are met, one sentence each. */
  readonly limits: readonly string[];
}

/**
 * Says what compiling a checkpoint, or a preset such as gemma-2b, would write and need. Runs the same passes and
 * layout as `compile`; of weights only the headers are read, of a preset nothing. Throws UserError.
 */
export async function plan(name: string, options: PlanOptions): Promise<Plan> {
  const start = performance.now();
  const { profile = "ort", weights = "stored" } = options;
  const config = Object.hasOwn(presets, name) ? presets[name] : undefined;
  const checkpoint = config && !(await isThere(name)) ? undefined : await openCheckpoint(name);
  try {
    const { graph, facts: source } = checkpoint
      ? modelGraph(checkpoint)
      : { graph: gemma(config as NonNullable<typeof config>), facts: config as NonNullable<typeof config> };
    const sized = { ...options, context: source.context };
    const [backend] = chooseBackends([options.target], { ...sized, profile, weights }) as [Backend];
    const pipeline = pipelineOf(backend, options);
    const legal = legalize(runPasses(graph, pipeline).graph, backend);
    const { vocab, context, layers, kvHeads, headDim } = source;
    const facts = factsOf(legal, { vocab, context, layers, kvHeads, headDim });
    const copied = checkpoint ? await copiedFiles(checkpoint) : [];
    const about = checkpoint ? await aboutOf(checkpoint, facts, copied, () => {}) : aboutPreset(name, facts);
    const target: Target = targetTable[backend.name as TargetName];
    const { artifact, beside } = await target.plan({ graph: legal, about, options: sized, checkpoint });
    const written = [...beside, ...copied];
    const others = checkpoint
      ? [
          ...written,
          await plannedManifest(checkpoint, {
            backend,
            pipeline,
            profile,
            facts,
            mesh: legal.mesh,
            artifact,
            written,
          }),
        ]
      : [];
    const files = [...artifact.files, ...others];
    const bytes = total(files);
    const sums: Partial<Record<TensorClass, number>> = {
      ...artifact.classes,
      "other files": (artifact.classes["other files"] ?? 0) + total(others),
    };
    const contexts = options.contexts ?? usual(facts.context);
    const cache = cacheOf(legal);
    const compiling = compileMemory(legal, artifact, Math.max(2, Math.min(8, availableParallelism())));
    const planned = (performance.now() - start) / 1000;
    const work = workOf({
      ...{ original: graph, compiled: legal, facts, bytes },
      laws: pipeline.map((p) => p.law),
      activations: artifact.activations,
      onnx: backend.name === "onnx",
    });
    const time =
      options.time === false || artifact.device
        ? undefined
        : await timeOf(work, options.folder ?? ".", planned);
    return {
      model: name,
      kind: checkpoint ? "checkpoint" : "preset",
      target: backend.name,
      profile,
      passes: printPipeline(pipeline),
      artifact: {
        bytes,
        classes: Object.fromEntries(classes.flatMap((c) => (sums[c] ? [[c, sums[c]]] : []))),
        files,
        largest: artifact.largest,
      },
      cache: {
        dtype: cache.dtype,
        bytesPerToken: cache.bytesPerToken,
        contexts: contexts.map((tokens) => ({ tokens, bytes: cache.bytes(tokens) })),
      },
      memory: {
        compile: compiling.peak,
        ...(!artifact.device && { verify: proofMemory(legal, facts, compiling, artifact) }),
        run: artifact.device
          ? []
          : contexts.map((tokens) => ({ tokens, bytes: runMemory(legal, cache.bytes(tokens), artifact) })),
      },
      work,
      ...(time && { time }),
      ...(artifact.device && { device: artifact.device }),
      limits: [...artifact.limits, ...halved(legal, pipeline), ...beyond(contexts, facts.context)],
    };
  } finally {
    await checkpoint?.close();
  }
}

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );
const total = (files: readonly PlannedFile[]): number => files.reduce((sum, f) => sum + f.bytes, 0);

/** The lengths that are told of when none are asked for: up to the model's own. */
const usual = (context: number): number[] =>
  [...new Set([1024, 2048, 8192, context])].filter((n) => n <= context);

/** Hashes are not known yet, but their length is. */
const sha256 = "0".repeat(64);

/** The files of a checkpoint that go over into every artifact. */
const copiedFiles = async ({ folder }: Checkpoint): Promise<EmittedFile[]> =>
  Promise.all(
    (await companionsOf(folder)).map(async (path) => ({
      path,
      bytes: (await folder.bytes(path)).length,
      sha256,
    })),
  );

/** What is known of a model without a checkpoint. */
const aboutPreset = (name: string, facts: ModelFacts): About => ({
  name,
  version,
  facts,
  text: {
    bos: null,
    stops: [],
    sampling: { sample: false, temperature: null, topK: null, topP: null, maxTokens: null },
    chat: { missing: "a preset has no tokenizer" },
    tokenizer: null,
  },
  licences: [],
});

interface Written {
  readonly backend: Backend;
  readonly pipeline: readonly Pass[];
  readonly profile: "standard" | "ort";
  readonly facts: ModelFacts;
  readonly mesh: Graph["mesh"];
  readonly artifact: Artifact;
  readonly written: readonly PlannedFile[];
}

async function plannedManifest(
  checkpoint: Checkpoint,
  { backend, pipeline, profile, facts, mesh, artifact, written }: Written,
): Promise<PlannedFile> {
  const files = [...artifact.files, ...written]
    .sort((a, b) => (a.path < b.path ? -1 : 1))
    .map((f) => ({ ...f, sha256 }));
  const made = {
    target: backend.name,
    pipeline,
    calibration: [],
    facts,
    files,
    activations: artifact.activations,
    modules: artifact.modules,
    mesh,
  };
  const manifest = await manifestText({ checkpoint, extras: [], options: { profile } }, made);
  return { path: manifestFile, bytes: Buffer.byteLength(manifest) };
}

/** Rows that the asked-for block of the quantize pass does not divide. */
function halved(graph: Graph, pipeline: readonly Pass[]): string[] {
  const asked = pipeline.find((p) => p.name === "quantize")?.options.block;
  if (typeof asked !== "number" || asked === 0) return [];
  const found = new Map<string, number>();
  for (const made of Object.values(graph.setup)) {
    if (made.op !== block_scale && made.op !== block_scale_search) continue;
    const [block, columns] = [Number(made.attrs.block), made.inputs[0]?.fixed(1) ?? 0];
    if (block !== asked) {
      const what = `blocks of ${asked} do not divide rows of ${columns}, which get blocks of ${block}`;
      found.set(what, (found.get(what) ?? 0) + 1);
    }
  }
  return [...found].map(([what, n]) => `${what} (${n === 1 ? "1 matrix" : `${n} matrices`})`);
}

const beyond = (contexts: readonly number[], context: number): string[] =>
  contexts
    .filter((n) => n > context)
    .map((n) => `${n} tokens are more than the model's context of ${context}`);

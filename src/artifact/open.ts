import type { ModelFacts, Session } from "../../backends/backend.ts";
import { openReference } from "../../backends/reference/index.ts";
import { UserError } from "../../ir/error.ts";
import type { Pass } from "../../passes/pass.ts";
import { runPasses } from "../../passes/pipeline.ts";
import { measureImportance } from "../calibrate.ts";
import { type Checkpoint, type Generation, openCheckpoint } from "../checkpoint/checkpoint.ts";
import { overlay } from "../checkpoint/overlay.ts";
import { modelGraph } from "../model/load.ts";
import { isTarget, targetTable } from "../target.ts";
import { loadTokenizer, type Tokenizer } from "../tokenizer/tokenizer.ts";
import { checkSize, type Manifest, readManifest } from "./manifest.ts";

/** A checkpoint or an artifact, ready to run. */
export interface Model {
  readonly path: string;
  readonly kind: "artifact" | "checkpoint";
  readonly facts: ModelFacts;
  readonly generation: Generation;
  readonly session: Session;
  /** Size of the files it is made of. */
  readonly bytes: number;
  tokenizer(): Promise<Tokenizer>;
  close(): Promise<void>;
}

export interface OpenModelOptions {
  /** Origins of values that each step hands out. */
  readonly watch?: readonly string[];
  /** Whether products by codes are to be f32 where the artifact would round what they multiply. */
  readonly exact?: boolean;
}

/** Opens an artifact in its runtime, or a checkpoint on the reference interpreter. Throws UserError. */
export async function openModel(path: string, options: OpenModelOptions = {}): Promise<Model> {
  const manifest = await readManifest(path);
  return manifest
    ? openArtifact(path, manifest, options)
    : openOnReference(path, await openCheckpoint(path), options);
}

async function openArtifact(
  path: string,
  manifest: Manifest,
  { watch = [], exact = false }: OpenModelOptions,
): Promise<Model> {
  const { target, facts, generation, activations, modules, files } = manifest;
  for (const file of files) await checkSize(path, file);
  const watched = watch
    .filter((origin) => Object.hasOwn(activations, origin))
    .map((origin) => [origin, activations[origin] as string]);
  if (!isTarget(target))
    throw new UserError(
      "input",
      `${path}: this gemmac does not know the target ${target}`,
      "use a newer gemmac",
    );
  const session = await targetTable[target].open(path, {
    facts,
    files,
    watch: Object.fromEntries(watched),
    exact,
    ...(modules && { modules }),
  });
  const bytes = files.reduce((sum, f) => sum + f.bytes, 0);
  const close = () => session.close();
  return {
    path,
    kind: "artifact",
    facts,
    generation,
    session,
    bytes,
    tokenizer: () => loadTokenizer(path),
    close,
  };
}

/** What is done to a model before it runs, and the tokens that passes want it measured on. */
interface ChangedModel {
  readonly passes?: readonly Pass[];
  readonly calibration?: readonly number[];
}

/**
 * Runs an opened checkpoint on the interpreter, after `passes` if there are any; closing the model closes the
 * checkpoint.
 */
export async function openOnReference(
  path: string,
  checkpoint: Checkpoint,
  { watch = [], passes = [], calibration = [] }: OpenModelOptions & ChangedModel = {},
): Promise<Model> {
  const { graph, facts } = modelGraph(checkpoint);
  const changed = runPasses(graph, passes).graph;
  const measured = await measureImportance(graph, changed, checkpoint.weights, calibration);
  const session = openReference(changed, overlay(checkpoint.weights, measured), { facts, watch });
  return {
    path,
    kind: "checkpoint",
    facts,
    generation: checkpoint.generation,
    session,
    bytes: checkpoint.files.reduce((sum, f) => sum + f.bytes, 0),
    tokenizer: () => loadTokenizer(path),
    close: () => checkpoint.close(),
  };
}

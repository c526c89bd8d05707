import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import type { EmittedFile, ModelFacts, Session } from "../backends/backend.ts";
import { openSession } from "../backends/onnx/index.ts";
import { openReference } from "../backends/reference/index.ts";
import { UserError } from "../ir/error.ts";
import { type Checkpoint, type Generation, openCheckpoint } from "./checkpoint/checkpoint.ts";
import type { ConfigKey, GemmaConfig } from "./model/config.ts";
import { modelGraph } from "./model/load.ts";
import { loadTokenizer, type Tokenizer } from "./tokenizer/tokenizer.ts";

export const manifestFile = "manifest.json";
export const manifestFormat = "gemmac-artifact/1";

/** What `manifest.json` says of an artifact. */
export interface Manifest {
  readonly format: typeof manifestFormat;
  /** Version of gemmac that wrote it. */
  readonly gemmac: string;
  readonly target: string;
  readonly profile: string;
  readonly model: GemmaConfig;
  /** Every config key that was read, and whether the checkpoint states it. */
  readonly config: readonly ConfigKey[];
  readonly generation: Generation;
  readonly facts: ModelFacts;
  /** The pipeline, as `--passes` takes it. */
  readonly passes: string;
  readonly source: {
    readonly revision: string | null;
    readonly files: readonly { readonly path: string; readonly bytes: number }[];
  };
  readonly licence: { readonly files: readonly string[]; readonly notice: string };
  readonly files: readonly EmittedFile[];
  /** What each origin's value is called in the artifact. */
  readonly activations: Readonly<Record<string, string>>;
}

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
  { watch = [] }: OpenModelOptions,
): Promise<Model> {
  const { facts, generation, activations } = manifest;
  for (const file of manifest.files) await checkSize(path, file);
  const watched = watch
    .filter((origin) => Object.hasOwn(activations, origin))
    .map((origin) => [origin, activations[origin] as string]);
  const session = await openSession(path, { facts, watch: Object.fromEntries(watched) });
  const bytes = manifest.files.reduce((sum, f) => sum + f.bytes, 0);
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

/** Runs an opened checkpoint on the interpreter; closing the model closes the checkpoint. */
export async function openOnReference(
  path: string,
  checkpoint: Checkpoint,
  { watch = [] }: OpenModelOptions = {},
): Promise<Model> {
  const { graph, facts } = modelGraph(checkpoint);
  const session = openReference(graph, checkpoint.weights, { facts, watch });
  const sizes = await Promise.all(checkpoint.files.map(async (f) => (await stat(join(path, f))).size));
  return {
    path,
    kind: "checkpoint",
    facts,
    generation: checkpoint.generation,
    session,
    bytes: sizes.reduce((a, b) => a + b, 0),
    tokenizer: () => loadTokenizer(path),
    close: () => checkpoint.close(),
  };
}

/** The manifest of the artifact in `dir`; undefined when there is none. Throws UserError when it is damaged. */
export async function readManifest(dir: string): Promise<Manifest | undefined> {
  const path = join(dir, manifestFile);
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch {
    return undefined;
  }
  const again = "compile the checkpoint again";
  try {
    const manifest: Manifest = JSON.parse(text);
    if (manifest.format === manifestFormat && isManifest(manifest)) return manifest;
  } catch (cause) {
    throw new UserError("input", `${path}: not valid JSON`, again, { cause });
  }
  throw new UserError("input", `${path}: not a manifest of the format ${manifestFormat}`, again);
}

function isManifest(m: Manifest): boolean {
  const numbers = m.facts && [
    m.facts.vocab,
    m.facts.context,
    m.facts.layers,
    m.facts.kvHeads,
    m.facts.headDim,
  ];
  const plain = (f: EmittedFile) =>
    typeof f.path === "string" && !/(^|\/)\.\.(\/|$)|^\/|\\/.test(f.path) && Number.isSafeInteger(f.bytes);
  return (
    Boolean(numbers?.every((n) => Number.isSafeInteger(n) && n > 0)) &&
    Array.isArray(m.files) &&
    m.files.every(plain) &&
    typeof m.activations === "object" &&
    typeof m.generation === "object" &&
    Array.isArray(m.generation.eos)
  );
}

async function checkSize(dir: string, file: EmittedFile): Promise<void> {
  const path = join(dir, file.path);
  const found = await stat(path).catch(() => undefined);
  if (found?.size === file.bytes) return;
  const what = found ? `has ${found.size} bytes, but the manifest says ${file.bytes}` : "is missing";
  throw new UserError("input", `${path}: ${what}`, "copy the artifact again, or compile it again");
}

import { stat } from "node:fs/promises";
import { join } from "node:path";
import type { EmittedFile, ModelFacts, ModuleInterface } from "../../backends/backend.ts";
import { UserError } from "../../ir/error.ts";
import type { Mesh } from "../../ir/graph.ts";
import type { Generation } from "../checkpoint/checkpoint.ts";
import { isObject, type JsonObject, parseJsonFast, readText } from "../checkpoint/json.ts";
import type { GemmaConfig } from "../model/config.ts";
import type { ConfigKey } from "../model/reading/index.ts";

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
  /** Tokens that the model was measured on before it was quantized; empty when it was not. */
  readonly calibration: readonly number[];
  readonly source: {
    readonly revision: string | null;
    readonly files: readonly { readonly path: string; readonly bytes: number }[];
  };
  readonly licence: { readonly files: readonly string[]; readonly notice: string };
  readonly files: readonly EmittedFile[];
  /** What each origin's value is called in the artifact. */
  readonly activations: Readonly<Record<string, string>>;
  /** How programs call the functions of an artifact that has some. */
  readonly modules?: Readonly<Record<string, ModuleInterface>>;
  /** The devices that they run on together, by axis of their grid. */
  readonly mesh?: Mesh;
}

/** The manifest of the artifact in `dir`; undefined when there is none. Throws UserError when it is damaged. */
export async function readManifest(dir: string): Promise<Manifest | undefined> {
  const path = join(dir, manifestFile);
  const text = await readText(path).catch((e) => {
    // The path leads through a file, say: then there is no artifact here.
    if (e instanceof UserError && /ENOTDIR|EACCES/.test(e.message)) return undefined;
    throw e;
  });
  if (text === undefined) return undefined;
  const found = parseJsonFast(text, path);
  if (isObject(found) && isManifest(found)) return found as unknown as Manifest;
  throw new UserError(
    "input",
    `${path}: not a manifest of the format ${manifestFormat}`,
    "compile the checkpoint again",
  );
}

/** The file may come from anywhere: whatever is read of it later is checked here. */
function isManifest(m: JsonObject): boolean {
  const { facts, generation, source } = m;
  const plain = (f: unknown) =>
    isObject(f) &&
    typeof f.path === "string" &&
    !/(^|\/)\.\.(\/|$)|^\/|\\/.test(f.path) &&
    Number.isSafeInteger(f.bytes);
  const positive = (n: unknown) => Number.isSafeInteger(n) && Number(n) > 0;
  return (
    m.format === manifestFormat &&
    isObject(facts) &&
    ["vocab", "context", "layers", "kvHeads", "headDim"].every((key) => positive(facts[key])) &&
    isObject(generation) &&
    Array.isArray(generation.eos) &&
    isObject(source) &&
    [m.files, source.files].every((files) => Array.isArray(files) && files.every(plain)) &&
    [m.activations, m.model, m.licence].every(isObject) &&
    Array.isArray(m.config) &&
    Array.isArray(m.calibration) &&
    ["gemmac", "target", "profile", "passes"].every((key) => typeof m[key] === "string")
  );
}

/** Throws UserError unless the file is there and has the size the manifest says. */
export async function checkSize(dir: string, file: EmittedFile): Promise<void> {
  const path = join(dir, file.path);
  const found = await stat(path).catch(() => undefined);
  if (found?.size === file.bytes) return;
  const what = found ? `has ${found.size} bytes, but the manifest says ${file.bytes}` : "is missing";
  throw new UserError("input", `${path}: ${what}`, "copy the artifact again, or compile it again");
}

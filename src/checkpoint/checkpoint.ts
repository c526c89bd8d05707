import { type FileHandle, readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import type { TensorInfo, Weights } from "../../backends/weights.ts";
import type { UserError } from "../../ir/error.ts";
import { isFloat } from "../../ir/type.ts";
import { type ConfigReading, fitVocabulary, readConfig } from "../model/reading/index.ts";
import { type Folder, openFolder } from "./folder.ts";
import { type Generation, readGeneration } from "./generation.ts";
import type { GgufHeader } from "./gguf/header.ts";
import { ggufWeights } from "./gguf/tensors.ts";
import { codeOf, inputError, isObject, type JsonObject, openFile, quote, readJson } from "./json.ts";
import { type Entry, readExactly, readHeader } from "./safetensors.ts";

export type { Generation } from "./generation.ts";

/** A file of a checkpoint: its name in the folder, and its size in bytes. */
export interface CheckpointFile {
  readonly path: string;
  readonly bytes: number;
}

/** A folder in the layout of the Hugging Face Hub, or a GGUF file. */
export interface Checkpoint extends ConfigReading {
  /** The folder, or the GGUF file. */
  readonly dir: string;
  readonly folder: Folder;
  readonly generation: Generation;
  /** Under canonical names, such as `model.layers.0.mlp.up_proj.weight`. */
  readonly weights: Weights;
  /** The files read. */
  readonly files: readonly CheckpointFile[];
  close(): Promise<void>;
}

const configFile = "config.json";
const generationFile = "generation_config.json";
/** How sentence-transformers lists what follows the language model. */
const sentenceFile = "modules.json";
const single = "model.safetensors";
const indexFile = "model.safetensors.index.json";
const download = "download the whole checkpoint again";

/** Open a checkpoint and check all but its numbers. Throws UserError naming the file that is wrong. */
export async function openCheckpoint(dir: string): Promise<Checkpoint> {
  const folder = await openFolder(dir);
  const where = (name: string) => (folder.gguf ? dir : join(dir, name));
  const present = folder.gguf ? undefined : await list(dir);
  const json = await folder.json(configFile);
  if (!json) throw noConfig(dir, present ?? new Set());
  const reading = traced(readConfig(json, where(configFile)), folder);
  if (present?.has(sentenceFile))
    throw inputError(
      where(sentenceFile),
      "describes a model that embeds texts, as EmbeddingGemma does: pooling and dense layers are not there yet",
      "use a checkpoint of a language model, or remove this file if it is one",
    );
  const own = await folder.json(generationFile);
  const settings = where(own ? generationFile : configFile);
  const generation = readGeneration(own ?? {}, reading.json, settings, reading.config.vocab);
  const { weights, files } = await (folder.gguf ? openGguf(folder.gguf.header, dir) : openWeights(dir));
  const small = folder.gguf ? [] : own ? [configFile, generationFile] : [configFile];
  const fitted = fitVocabulary(reading, weights.info("model.embed_tokens.weight")?.shape[0]);
  const read = [...(await sized(dir, small)), ...files];
  return { ...fitted, dir, folder, generation, weights, files: read, close: () => weights.close() };
}

/** Where each key comes from in a GGUF file's metadata. */
function traced(reading: ConfigReading, { gguf }: Folder): ConfigReading {
  if (!gguf) return reading;
  const keys = reading.keys.map((key) => ({ ...key, ...gguf.config.origins.get(key.key) }));
  return { ...reading, keys };
}

async function openGguf(header: GgufHeader, path: string): Promise<OpenWeights> {
  const file = await openFile(path);
  if (!file) throw inputError(path, "there is no such file", download);
  try {
    const { size } = await file.stat();
    return { weights: ggufWeights(file, path, header), files: [{ path: basename(path), bytes: size }] };
  } catch (error) {
    await file.close();
    throw error;
  }
}

interface OpenWeights {
  readonly weights: Weights;
  readonly files: readonly CheckpointFile[];
}

const sized = (dir: string, names: Iterable<string>): Promise<CheckpointFile[]> =>
  Promise.all([...names].map(async (path) => ({ path, bytes: (await stat(join(dir, path))).size })));

/** Open only the weights of a folder: model.safetensors, or the shards its index names. Throws UserError. */
export async function openWeights(dir: string): Promise<OpenWeights> {
  const present = await list(dir);
  const weights = new SafetensorsWeights();
  try {
    if (present.has(single)) {
      await weights.add(join(dir, single));
      return { weights, files: await sized(dir, [single]) };
    }
    const index = await readJson(join(dir, indexFile));
    if (!index) throw noWeights(dir, present);
    const shards = readIndex(index, join(dir, indexFile));
    for (const [shard, names] of shards) {
      if (!present.has(shard))
        throw inputError(join(dir, indexFile), `shard ${quote(shard)} is not in the folder`, download);
      await weights.add(join(dir, shard), names);
    }
    return { weights, files: await sized(dir, [indexFile, ...shards.keys()]) };
  } catch (error) {
    await weights.close();
    throw error;
  }
}

class SafetensorsWeights implements Weights {
  readonly #files: FileHandle[] = [];
  readonly #tensors = new Map<string, Entry & { file: FileHandle; path: string }>();

  /** Add the tensors of one file, or only `wanted` of them, which it must then have. */
  async add(path: string, wanted?: readonly string[]): Promise<void> {
    const file = await openFile(path);
    if (!file) throw inputError(path, "there is no such file", download);
    this.#files.push(file);
    const { tensors } = await readHeader(file, path);
    for (const stored of wanted ?? tensors.keys()) {
      const entry = tensors.get(stored);
      const where = `${path}: tensor ${quote(stored)}`;
      if (!entry) throw inputError(where, `is missing, though ${indexFile} places it here`, download);
      const name = canonical(stored);
      if (this.#tensors.has(name))
        throw inputError(where, `is a second ${quote(name)}`, "remove one of them from the checkpoint");
      this.#tensors.set(name, { ...entry, file, path });
    }
  }

  names(): Iterable<string> {
    return this.#tensors.keys();
  }

  info(name: string): TensorInfo | undefined {
    const tensor = this.#tensors.get(name);
    return tensor && { dtype: tensor.dtype, shape: tensor.shape, bytes: tensor.end - tensor.begin };
  }

  async read(name: string, offset: number, into: Uint8Array): Promise<void> {
    const tensor = this.#tensors.get(name);
    if (!tensor) throw new RangeError(`there is no tensor ${name}`);
    const { file, path, begin, end } = tensor;
    if (!Number.isInteger(offset) || offset < 0 || offset + into.length > end - begin)
      throw new RangeError(`${name} has ${end - begin} bytes, not ${into.length} at ${offset}`);
    await readExactly(file, path, begin + offset, into);
  }

  async close(): Promise<void> {
    await Promise.all(this.#files.splice(0).map((file) => file.close()));
  }
}

/** Exports differ in what they put before a name: nothing, `model.`, or the place in a multimodal model. */
function canonical(name: string): string {
  const body = /^(?:model\.)?(?:language_model\.)?(?:model\.)?((?:layers|embed_tokens|norm)\..*)/s;
  const rest = body.exec(name)?.[1];
  return rest ? `model.${rest}` : name.replace(/^language_model\.(?=lm_head\.)/, "");
}

/** The tensor names of each shard. */
function readIndex({ weight_map: map }: JsonObject, path: string): Map<string, string[]> {
  if (!isObject(map)) throw inputError(path, "has no weight_map object", download);
  const shards = new Map<string, string[]>();
  for (const [name, shard] of Object.entries(map)) {
    // A plain name cannot leave the folder. It may be a link: in the Hub's cache every file is one.
    if (typeof shard !== "string" || !/^\w[\w.-]*\.safetensors$/.test(shard))
      throw inputError(
        `${path}: tensor ${quote(name)}`,
        `shard ${quote(shard)} is not the plain name of a .safetensors file in this folder`,
        "correct the index, and trust the checkpoint only if you know its origin",
      );
    const names = shards.get(shard);
    if (names) names.push(name);
    else shards.set(shard, [name]);
  }
  return shards;
}

async function list(dir: string): Promise<Set<string>> {
  try {
    return new Set(await readdir(dir));
  } catch (error) {
    const code = codeOf(error);
    if (code === "ENOTDIR") throw notFolder(dir);
    const next =
      /^[\w-][\w.-]*\/[\w.-]+$/.test(dir) && !/\.(safetensors|json|bin|gguf)$/.test(dir)
        ? `if it is a model on the Hub, first run \`hf download ${dir} --local-dir DIR\``
        : "pass the folder that holds config.json, or a GGUF file";
    throw inputError(
      dir || "the path given",
      code === "ENOENT" ? "there is no such folder" : `cannot be read (${code})`,
      next,
    );
  }
}

const needGguf = "pass the GGUF file itself: the path that ends in .gguf";
const needTorch = "convert it with transformers: model.save_pretrained(DIR, safe_serialization=True)";
const isGguf = (name: string) => name.endsWith(".gguf");
const isTorch = (name: string) => /\.(bin|pt|pth|ckpt)$/.test(name);

function notFolder(path: string): UserError {
  const next = isTorch(path)
    ? needTorch
    : "pass the folder that holds config.json and the weights, or a GGUF file";
  return inputError(path, "is not a folder", next);
}

function noConfig(dir: string, present: Set<string>): UserError {
  const next = [...present].some(isGguf)
    ? needGguf
    : present.has("snapshots")
      ? "pass one of the folders in its snapshots folder"
      : "pass a folder in the layout of the Hugging Face Hub";
  return inputError(dir, "has no config.json", next);
}

function noWeights(dir: string, present: Set<string>): UserError {
  const names = [...present];
  const compiled = "this is an artifact of gemmac; pass the checkpoint it was made from";
  const next = names.some(isTorch)
    ? needTorch
    : names.some(isGguf)
      ? needGguf
      : names.includes("manifest.json")
        ? compiled
        : download;
  return inputError(dir, `has neither ${single} nor ${indexFile}`, next);
}

/** The config keys that each axis of a tensor follows, by the last but one part of its name. */
const queries = "num_attention_heads and head_dim";
const groups = "num_key_value_heads and head_dim";
const axisKeys = new Map<string | undefined, readonly string[]>([
  ["embed_tokens", ["vocab_size", "hidden_size"]],
  ["lm_head", ["vocab_size", "hidden_size"]],
  ["q_proj", [queries, "hidden_size"]],
  ["k_proj", [groups, "hidden_size"]],
  ["v_proj", [groups, "hidden_size"]],
  ["o_proj", ["hidden_size", queries]],
  ["gate_proj", ["intermediate_size", "hidden_size"]],
  ["up_proj", ["intermediate_size", "hidden_size"]],
  ["down_proj", ["hidden_size", "intermediate_size"]],
  ["input_layernorm", ["hidden_size"]],
  ["post_attention_layernorm", ["hidden_size"]],
  ["pre_feedforward_layernorm", ["hidden_size"]],
  ["post_feedforward_layernorm", ["hidden_size"]],
  ["q_norm", ["head_dim"]],
  ["k_norm", ["head_dim"]],
  ["norm", ["hidden_size"]],
]);

/**
 * Check that a checkpoint has the tensors a model wants. Returns a warning for each kind of tensor that nobody
 * wants. Throws UserError when one is missing, or has another shape than the config asks for.
 */
export function checkWeights(
  wanted: Iterable<{ name: string; shape: readonly number[] }>,
  weights: Weights,
): string[] {
  const used = new Set<string>();
  for (const { name, shape } of wanted) {
    used.add(name);
    const found = weights.info(name);
    const where = `tensor ${quote(name)}`;
    const asked = `the config asks for [${shape}]`;
    if (!found) {
      const next = name.startsWith("lm_head.")
        ? "set tie_word_embeddings to true in config.json if the head is the embedding table"
        : "check num_hidden_layers in config.json, or download the whole checkpoint again";
      throw inputError(where, `is not in the checkpoint; ${asked}`, next);
    }
    if (found.shape.join() !== shape.join()) {
      const byAxis = axisKeys.get(name.split(".").at(-2)) ?? [];
      const keys = byAxis.filter((_, axis) => found.shape[axis] !== shape[axis]);
      const next = `check ${keys.join(", ") || "the sizes"} in config.json`;
      throw inputError(where, `has shape [${found.shape}], but ${asked}`, next);
    }
    if (found.format ? shape.length !== 2 : !isFloat(found.dtype))
      throw inputError(
        where,
        `is stored as ${found.format ?? found.dtype}`,
        "use a checkpoint that is not quantized",
      );
  }
  const kinds = new Map<string, number>();
  let seeing = 0;
  for (const name of weights.names()) {
    if (used.has(name)) continue;
    const kind = name.replace(/\.\d+\./g, ".*.");
    if (vision.test(name)) seeing++;
    else kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  const unused = [...kinds].map(([kind, n]) => `${quote(kind)} is not used (${n} tensor${n > 1 ? "s" : ""})`);
  if (seeing === 0) return unused;
  return [
    `the vision tower is left out (${seeing} tensors): gemmac compiles the language model only`,
    ...unused,
  ];
}

/** What a multimodal checkpoint has beside its language model. */
const vision = /^(model\.)?(vision_tower|multi_modal_projector)\./;

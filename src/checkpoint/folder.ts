import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { configOf, type GgufConfig } from "./gguf/config.ts";
import { type GgufHeader, readGguf } from "./gguf/header.ts";
import { tokenizerConfigOf, tokenizerOf } from "./gguf/vocabulary.ts";
import { inputError, type JsonObject, openFile, type parseJson, readJson, readText } from "./json.ts";

/**
 * The small files of a checkpoint in the layout of the Hugging Face Hub. A GGUF file counts as a folder: its metadata
 * stand for config.json, tokenizer.json and the like.
 */
export interface Folder {
  readonly path: string;
  /** What a GGUF file holds; undefined for a folder on disk. */
  readonly gguf?: { readonly header: GgufHeader; readonly config: GgufConfig };
  /** Names of the regular files in it. */
  names(): Promise<readonly string[]>;
  /** The text of a file; undefined where there is none. Throws UserError when it cannot be read. */
  text(name: string): Promise<string | undefined>;
  /** The object in a JSON file; undefined where there is none. Throws UserError when it holds anything else. */
  json(name: string, parse?: typeof parseJson): Promise<JsonObject | undefined>;
  /** Throws where there is none. */
  bytes(name: string): Promise<Uint8Array>;
}

const isFile = (path: string): Promise<boolean> =>
  stat(path).then(
    (found) => found.isFile(),
    () => false,
  );

/** The folder at `path`, or what a GGUF file there stands for. Throws UserError when such a file is damaged. */
export async function openFolder(path: string): Promise<Folder> {
  if (path.endsWith(".gguf") && (await isFile(path))) return ggufFolder(path);
  return {
    path,
    async names() {
      const found = await readdir(path);
      // A folder or a pipe may have any name too; reading a pipe would wait for ever.
      const regular = await Promise.all(found.map((name) => isFile(join(path, name))));
      return found.filter((_, i) => regular[i]).sort();
    },
    text: (name) => readText(join(path, name)),
    json: (name, parse) => readJson(join(path, name), parse),
    bytes: (name) => readFile(join(path, name)),
  };
}

async function ggufFolder(path: string): Promise<Folder> {
  const file = await openFile(path);
  if (!file) throw inputError(path, "there is no such file", "check the path");
  const header = await readGguf(file, path).finally(() => file.close());
  const config = configOf(header, path);
  const { bos_token_id, eos_token_id, pad_token_id } = config.json;
  const files: Readonly<Record<string, () => JsonObject | undefined>> = {
    "config.json": () => config.json,
    "generation_config.json": () => ({ bos_token_id, eos_token_id, pad_token_id }),
    "tokenizer.json": () => tokenizerOf(header, path),
    "tokenizer_config.json": () => tokenizerConfigOf(header),
  };
  const made = new Map<string, JsonObject | undefined>();
  const json = async (name: string) => {
    if (!made.has(name)) made.set(name, Object.hasOwn(files, name) ? files[name]?.() : undefined);
    return made.get(name);
  };
  const text = async (name: string) => {
    const found = await json(name);
    return found && `${JSON.stringify(found, null, name === "tokenizer.json" ? 0 : 2)}\n`;
  };
  return {
    path,
    gguf: { header, config },
    names: async () => {
      const names = Object.keys(files).sort();
      const found = await Promise.all(names.map(json));
      return names.filter((_, i) => found[i]);
    },
    text,
    json,
    bytes: async (name) => Buffer.from((await text(name)) ?? ""),
  };
}

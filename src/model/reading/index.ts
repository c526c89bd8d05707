import { inputError, isObject, type JsonObject } from "../../checkpoint/json.ts";
import type { GemmaConfig } from "../config.ts";
import { families } from "./families.ts";
import { recognise } from "./family.ts";
import { type ConfigKey, Keys } from "./keys.ts";

export type { ConfigKey } from "./keys.ts";

export interface ConfigReading {
  readonly config: GemmaConfig;
  readonly keys: readonly ConfigKey[];
  /** Keys of the file that have no effect on what gemmac builds, bookkeeping left out. */
  readonly ignored: readonly string[];
  /** The language model's keys as the file states them, where it is a part of a larger model too. */
  readonly json: JsonObject;
}

/** Keys beside text_config that a multimodal model's file has for its language model as well. */
const shared = [
  "architectures",
  "bos_token_id",
  "eos_token_id",
  "pad_token_id",
  "tie_word_embeddings",
  "dtype",
];

/**
 * Read config.json as transformers 4 or 5 writes it, `where` being its name for messages. What the file leaves out
 * gets the defaults of transformers' class for the family; `keys` tells of each. Throws UserError naming the key that
 * has a wrong type, is out of range, or asks for something gemmac does not do.
 */
export function readConfig(json: unknown, where: string): ConfigReading {
  if (!isObject(json))
    throw inputError(where, "is not a JSON object", "pass the config.json of a checkpoint");
  const { family, text } = recognise(json, where);
  const inner = text !== json;
  const own = inner ? { ...pick(json, shared), ...text } : json;
  const keys = new Keys(own, inner ? `${where} (text_config)` : where);
  for (const key of ["model_type", "architectures"]) keys.stated(key);
  const config = families[family](keys);
  const around = inner ? new Keys(json, where) : undefined;
  for (const key of ["model_type", "text_config", ...shared]) around?.stated(key);
  return { config, keys: keys.read, ignored: [...keys.ignored(), ...(around?.ignored() ?? [])], json: own };
}

const pick = (json: JsonObject, keys: readonly string[]): JsonObject =>
  Object.fromEntries(Object.entries(json).filter(([key]) => keys.includes(key)));

/** The released checkpoints differ in their tables' rows: where the file leaves the number out, the table has it. */
export function fitVocabulary(reading: ConfigReading, rows: number | undefined): ConfigReading {
  const name = "vocab_size";
  const key = reading.keys.find((k) => k.key === name);
  if (key?.source !== "defaulted" || rows === undefined || rows === key.value) return reading;
  const found: ConfigKey = { key: name, value: rows, source: "derived", note: "rows of the embedding table" };
  const keys = reading.keys.map((k) => (k === key ? found : k));
  return { ...reading, keys, config: { ...reading.config, vocab: rows } };
}

import { inputError, type JsonObject, quote } from "./json.ts";

/** How to generate text: what generation_config.json says, else config.json, else transformers' Gemma defaults. */
export interface Generation {
  readonly bos: number | null;
  /** Every id that ends a text. Empty when none does. */
  readonly eos: readonly number[];
  readonly pad: number | null;
  /** Whether to draw at random instead of taking the likeliest token. */
  readonly sample: boolean;
  readonly temperature: number | null;
  readonly topK: number | null;
  readonly topP: number | null;
  /** In tokens, the prompt not counted. */
  readonly maxNew: number | null;
}

/**
 * The settings of generation_config.json, `own`, and of config.json where that is silent. `path` is for messages.
 * Throws UserError naming the key that has a wrong type or is out of range.
 */
export function readGeneration(own: JsonObject, config: JsonObject, path: string, vocab: number): Generation {
  const bad = (key: string, value: unknown, what: string) =>
    inputError(
      path,
      `${key} is ${quote(value)}, not ${what}`,
      `correct ${key} in that file or in config.json`,
    );
  const ids = (key: string, gemma: number): number[] => {
    const value = own[key] === undefined ? config[key] : own[key];
    const list = value === undefined ? [gemma] : value === null ? [] : [value].flat();
    const isId = (id: unknown): id is number =>
      typeof id === "number" && Number.isInteger(id) && id >= 0 && id < vocab;
    if (!list.every(isId)) throw bad(key, value, `a token id below ${vocab}`);
    return list;
  };
  const number = (key: string, min: number, max: number): number | null => {
    const value = own[key] ?? null;
    if (value !== null && !(typeof value === "number" && value >= min && value <= max))
      throw bad(key, value, `a number from ${min} to ${max}`);
    return value;
  };
  const sample = own.do_sample ?? false;
  if (typeof sample !== "boolean") throw bad("do_sample", sample, "true or false");
  return {
    bos: ids("bos_token_id", 2)[0] ?? null,
    eos: ids("eos_token_id", 1),
    pad: ids("pad_token_id", 0)[0] ?? null,
    sample,
    temperature: number("temperature", 0, 1000),
    topK: number("top_k", 0, 2 ** 31),
    topP: number("top_p", 0, 1),
    maxNew: number("max_new_tokens", 0, 2 ** 31),
  };
}

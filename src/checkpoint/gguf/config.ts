import { inputError, type JsonObject, quote } from "../json.ts";
import type { GgufHeader, MetadataValue } from "./header.ts";

/** A config.json made from metadata, and where each of its keys comes from. */
export interface GgufConfig {
  readonly json: JsonObject;
  /** The GGUF key of what the file states; a note on what follows from other keys. */
  readonly origins: ReadonlyMap<string, { readonly source: "stated" | "derived"; readonly note: string }>;
}

/** model_type of each architecture; any other goes on as it is, to be refused by name. */
const families: ReadonlyMap<unknown, string> = new Map([
  ["gemma", "gemma"],
  ["gemma2", "gemma2"],
  ["gemma3", "gemma3_text"],
]);

/** Keys that say the same in both, by their part after the architecture. */
const same: readonly (readonly [gguf: string, hf: string])[] = [
  ["context_length", "max_position_embeddings"],
  ["embedding_length", "hidden_size"],
  ["block_count", "num_hidden_layers"],
  ["feed_forward_length", "intermediate_size"],
  ["attention.head_count", "num_attention_heads"],
  ["attention.head_count_kv", "num_key_value_heads"],
  ["attention.key_length", "head_dim"],
  ["attention.layer_norm_rms_epsilon", "rms_norm_eps"],
  ["rope.freq_base", "rope_theta"],
  ["rope.freq_base_swa", "rope_local_base_freq"],
  ["attn_logit_softcapping", "attn_logit_softcapping"],
  ["final_logit_softcapping", "final_logit_softcapping"],
  ["attention.sliding_window", "sliding_window"],
];

/** Models that scale attention by the width of a head's share of the residual stream: Gemma 2 and 3 with 27B parameters. */
const byWidth: ReadonlyMap<unknown, number> = new Map([
  ["gemma2", 46],
  ["gemma3", 62],
]);

/**
 * The config.json that a GGUF file's metadata stands for, `where` being the file's name for messages. What the metadata
 * cannot say, such as the attention scale, follows from sizes as it does in llama.cpp. Throws UserError.
 */
export function configOf({ metadata, tensors }: GgufHeader, where: string): GgufConfig {
  const architecture = metadata.get("general.architecture");
  if (typeof architecture !== "string")
    throw inputError(where, "does not say its general.architecture", "convert the model again");
  const json: Record<string, unknown> = {};
  const origins = new Map<string, { source: "stated" | "derived"; note: string }>();
  const put = (key: string, value: unknown, source: "stated" | "derived", note: string) => {
    json[key] = value;
    origins.set(key, { source, note });
  };
  const bad = (key: string, value: MetadataValue, what: string) =>
    inputError(where, `${key} is ${quote(shown(value))}, ${what}`, "convert the model again");
  const number = (part: string): number | undefined => {
    const key = `${architecture}.${part}`;
    const value = oneOf(metadata.get(key));
    if (value === undefined) return undefined;
    if (typeof value !== "number") throw bad(key, value, "not one number");
    return shortest(value);
  };

  put("model_type", families.get(architecture) ?? architecture, "stated", "general.architecture");
  for (const [part, key] of same) {
    const value = number(part);
    if (value !== undefined) put(key, value, "stated", `${architecture}.${part}`);
  }
  const causal = metadata.get(`${architecture}.attention.causal`);
  if (causal === false)
    put("use_bidirectional_attention", true, "derived", `${architecture}.attention.causal`);
  const values = number("attention.value_length");
  if (values !== undefined && values !== json.head_dim)
    throw bad(`${architecture}.attention.value_length`, values, `not the key length ${json.head_dim}`);
  const rotated = number("rope.dimension_count");
  if (rotated !== undefined && rotated !== json.head_dim)
    throw bad(`${architecture}.rope.dimension_count`, rotated, `not the key length ${json.head_dim}`);

  const table = tensors.get("token_embd.weight");
  const vocab = table?.shape[0];
  if (vocab !== undefined) put("vocab_size", vocab, "derived", "rows of token_embd.weight");
  const tied = !tensors.has("output.weight");
  put("tie_word_embeddings", tied, "derived", `there is ${tied ? "no" : "an"} output.weight`);
  if (families.has(architecture) && architecture !== "gemma") {
    const scale = number("attention.scale");
    const [width, heads] = [Number(json.hidden_size), Number(json.num_attention_heads)];
    if (scale !== undefined)
      put(
        "query_pre_attn_scalar",
        nearInteger(1 / scale ** 2),
        "derived",
        `from ${architecture}.attention.scale`,
      );
    else if (json.num_hidden_layers === byWidth.get(architecture))
      put("query_pre_attn_scalar", width / heads, "derived", "hidden_size over num_attention_heads at 27B");
    else if (json.head_dim !== undefined)
      put("query_pre_attn_scalar", json.head_dim, "derived", "head_dim but at 27B");
    readPattern();
  }
  readScaling();
  for (const [key, name] of [
    ["bos", "bos_token_id"],
    ["eos", "eos_token_id"],
    ["padding", "pad_token_id"],
  ] as const) {
    const id = metadata.get(`tokenizer.ggml.${key}_token_id`);
    if (id !== undefined) json[name] = id;
  }
  return { json, origins };

  /** One number: every how many layers one attends to everything. Or a list: whether each layer has a window. */
  function readPattern(): void {
    const key = `${architecture}.attention.sliding_window_pattern`;
    const value = metadata.get(key);
    if (value === undefined) return;
    if (typeof value === "number") put("sliding_window_pattern", value, "stated", key);
    else if (value instanceof Float64Array) {
      const types = [...value].map((slides) => (slides ? "sliding_attention" : "full_attention"));
      put("layer_types", types, "stated", key);
    } else throw bad(key, value, "neither a number nor a list");
  }

  function readScaling(): void {
    const type = metadata.get(`${architecture}.rope.scaling.type`);
    const factor = number("rope.scaling.factor");
    if (type === undefined || type === "none") return;
    if (typeof type !== "string") throw bad(`${architecture}.rope.scaling.type`, type, "not a string");
    put(
      "rope_scaling",
      { rope_type: type, ...(factor !== undefined && { factor }) },
      "stated",
      `${architecture}.rope.scaling`,
    );
  }
}

/** What a list of equal numbers says of every layer. */
function oneOf(value: MetadataValue | undefined): MetadataValue | undefined {
  if (!(value instanceof Float64Array)) return value;
  return value.length > 0 && value.every((x) => x === value[0]) ? value[0] : value;
}

const shown = (value: MetadataValue): unknown =>
  typeof value === "bigint" ? String(value) : ArrayBuffer.isView(value) ? [...value] : value;

/** The number of fewest digits that is the same f32: metadata holds f32, where config.json says 1e-6. */
function shortest(x: number): number {
  if (Number.isInteger(x)) return x;
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(x.toPrecision(digits));
    if (Math.fround(short) === x) return short;
  }
  return x;
}

/** An f32 scale gives back the scalar it was made from up to rounding. */
const nearInteger = (x: number): number => (Math.abs(x - Math.round(x)) < 1e-5 * x ? Math.round(x) : x);

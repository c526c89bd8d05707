import { inputError, isObject, quote } from "../checkpoint/json.ts";

export type Activation = "gelu_tanh" | "gelu_erf" | "silu";

/** The shape of a Gemma model. Sizes are counts of elements. */
export interface GemmaConfig {
  readonly family: "gemma";
  readonly vocab: number;
  /** Size of the residual stream. */
  readonly width: number;
  /** Size of the gate, and as much again of the up projection, in the feed-forward block. */
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Size of one head. `heads * headDim` need not equal `width`. */
  readonly headDim: number;
  /** Added to the mean square in RMSNorm. */
  readonly eps: number;
  /** Base of the rotary frequencies. */
  readonly theta: number;
  /** Longest sequence the model was made for, in tokens. */
  readonly context: number;
  readonly activation: Activation;
  /** Whether the output head is the embedding table. */
  readonly tied: boolean;
}

/** Where one setting came from: the file, the family's default, or another setting. */
export interface ConfigKey {
  readonly key: string;
  readonly value: string | number | boolean;
  readonly source: "stated" | "defaulted" | "derived";
  readonly note?: string;
}

export interface ConfigReading {
  readonly config: GemmaConfig;
  readonly keys: readonly ConfigKey[];
  /** Keys of the file that have no effect on what gemmac builds, bookkeeping left out. */
  readonly ignored: readonly string[];
}

/** What gemmac lacks for each relative of Gemma 1, by a pattern on model_type. The first match counts. */
const missing: readonly (readonly [RegExp, string, string])[] = [
  [/^gemma2$/, "Gemma 2", "sandwich norms, logit softcaps and sliding windows are not there yet"],
  [
    /^gemma3_text$/,
    "Gemma 3",
    "q/k norms, sandwich norms, sliding windows and two RoPE bases are not there yet",
  ],
  [
    /^gemma3$/,
    "Gemma 3",
    "q/k norms, sandwich norms, sliding windows, two RoPE bases and vision are not there yet",
  ],
  [/^gemma3n/, "Gemma 3n", "per-layer embeddings, AltUp and shared key/value layers are not there yet"],
  [
    /^gemma4/,
    "Gemma 4",
    "per-layer embeddings, shared key/value layers and wide global heads are not there yet",
  ],
  [/^paligemma/, "PaliGemma", "the vision tower is not there yet"],
  [/^recurrent_gemma/, "RecurrentGemma", "recurrent blocks are not there yet"],
  [/^vaultgemma/, "VaultGemma", "logit softcaps and sliding windows are not there yet"],
  [/^t5gemma/, "T5Gemma", "encoders and cross-attention are not there yet"],
  [/gemma/i, "a relative of Gemma", "its architecture is not there yet"],
];

/** Keys that say nothing about the computation. */
const bookkeeping = new Set([
  ...[
    "transformers_version",
    "use_cache",
    "cache_implementation",
    "initializer_range",
    "torch_dtype",
    "dtype",
  ],
  ...["attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "auto_map", "_name_or_path"],
]);

const useGemma = "use a Gemma 1 checkpoint, such as google/gemma-2b or google/gemma-7b";

/**
 * Read config.json as transformers 4 or 5 writes it, `where` being its name for messages. What the file leaves
 * out gets the defaults of transformers' GemmaConfig; `keys` tells of each. Throws UserError naming the key
 * that has a wrong type, is out of range, or asks for something gemmac does not do.
 */
export function readConfig(json: unknown, where: string): ConfigReading {
  if (!isObject(json))
    throw inputError(where, "is not a JSON object", "pass the config.json of a checkpoint");
  const keys: ConfigKey[] = [];
  const seen = new Set<string>(bookkeeping);
  const bad = (what: string, next = "correct the key in config.json") => inputError(where, what, next);

  const stated = (key: string): unknown => {
    seen.add(key);
    return Object.hasOwn(json, key) ? json[key] : undefined;
  };
  const read = <T extends number | boolean>(key: string, value: unknown, fallback: T): T => {
    if (value !== undefined && typeof value !== typeof fallback)
      throw bad(`${key} is ${quote(value)}, not a ${typeof fallback}`);
    // The line above is what makes the cast true.
    const result = value === undefined ? fallback : (value as T);
    keys.push({ key, value: result, source: value === undefined ? "defaulted" : "stated" });
    return result;
  };
  const size = (key: string, fallback: number, max: number): number => {
    const value = read(key, stated(key), fallback);
    if (!Number.isInteger(value) || value < 1 || value > max)
      throw bad(`${key} is ${value}, not an integer from 1 to ${max}`);
    return value;
  };

  checkFamily(stated("model_type"), stated("architectures"), where);
  for (const key of ["attention_bias", "use_bidirectional_attention", "quantization_config"]) {
    const value = stated(key);
    if (value !== undefined && value !== null && value !== false)
      throw bad(`${key} is ${quote(value)}, which gemmac does not support`, "use a checkpoint without it");
  }

  const config: GemmaConfig = {
    family: "gemma",
    vocab: size("vocab_size", 256_000, 2 ** 22),
    width: size("hidden_size", 3072, 2 ** 16),
    hidden: size("intermediate_size", 24_576, 2 ** 20),
    layers: size("num_hidden_layers", 28, 1024),
    heads: size("num_attention_heads", 16, 1024),
    kvHeads: size("num_key_value_heads", 16, 1024),
    headDim: size("head_dim", 256, 4096),
    context: size("max_position_embeddings", 8192, 2 ** 24),
    eps: read("rms_norm_eps", stated("rms_norm_eps"), 1e-6),
    theta: readTheta(),
    activation: readActivation(),
    tied: read("tie_word_embeddings", stated("tie_word_embeddings"), true),
  };
  const { heads, kvHeads, headDim, eps, theta } = config;
  if (heads % kvHeads)
    throw bad(`num_attention_heads ${heads} is not a multiple of num_key_value_heads ${kvHeads}`);
  if (headDim % 2) throw bad(`head_dim ${headDim} is odd, but rotary embedding splits it in half`);
  if (!(eps > 0 && eps < 1)) throw bad(`rms_norm_eps is ${eps}, not a number between 0 and 1`);
  if (!(theta >= 1 && theta <= 1e12)) throw bad(`rope_theta is ${theta}, not a number from 1 to 1e12`);
  return { config, keys, ignored: Object.keys(json).filter((key) => !seen.has(key)) };

  /** transformers 4 states rope_theta at the top, 5 inside rope_parameters. */
  function readTheta(): number {
    const found = new Map<string, unknown>();
    const top = stated("rope_theta");
    if (top !== undefined) found.set("rope_theta", top);
    for (const key of ["rope_parameters", "rope_scaling"]) {
      const rope = stated(key);
      if (rope === undefined || rope === null) continue;
      if (!isObject(rope)) throw bad(`${key} is ${quote(rope)}, not an object`);
      for (const [part, value] of Object.entries(rope)) {
        if (part === "rope_theta") found.set(`${key}.${part}`, value);
        else if (!((part === "rope_type" || part === "type") && value === "default"))
          throw bad(
            `${key}.${part} is ${quote(value)}, but gemmac has no RoPE scaling yet`,
            "use a checkpoint without RoPE scaling",
          );
      }
    }
    const [[key, value] = ["rope_theta", undefined], ...others] = found;
    for (const [other, again] of others)
      if (again !== value) throw bad(`${key} is ${quote(value)}, but ${other} is ${quote(again)}`);
    return read(key, value, 10_000);
  }

  /**
   * Gemma 1 computes tanh GELU. Early configs call it "gelu" or leave hidden_activation null, and transformers
   * reads both as tanh for this family.
   */
  function readActivation(): Activation {
    const fallback = "gelu_pytorch_tanh";
    const spelled = ["hidden_act", "hidden_activation"].filter((key) => stated(key) !== undefined);
    for (const key of spelled) {
      const value = stated(key);
      if (value === fallback) keys.push({ key, value: fallback, source: "stated" });
      else if (value === null || value === "gelu")
        keys.push({ key, value: fallback, source: "derived", note: `${value} means tanh GELU in Gemma 1` });
      else throw bad(`${key} is ${quote(value)}, but Gemma 1 computes gelu_pytorch_tanh`, useGemma);
    }
    if (!spelled.length) keys.push({ key: "hidden_act", value: fallback, source: "defaulted" });
    return "gelu_tanh";
  }
}

/** Refuse every architecture but the Gemma 1 language model, by name. */
function checkFamily(type: unknown, architectures: unknown, where: string): void {
  const kinds = Array.isArray(architectures) ? architectures : [];
  const causal = kinds.includes("GemmaForCausalLM");
  if (type === "gemma") {
    // A classifier shares the body, so that only this list tells it from a language model.
    if (kinds.length && !causal && !kinds.includes("GemmaModel"))
      throw inputError(where, `architectures is ${quote(kinds)}, not a language model`, useGemma);
    return;
  }
  if (type === undefined && causal) return;
  if (typeof type !== "string")
    throw inputError(where, `model_type is ${type === undefined ? "missing" : quote(type)}`, useGemma);
  const relative = missing.find(([pattern]) => pattern.test(type));
  const what = relative
    ? `is ${quote(type)} (${relative[1]}): ${relative[2]}`
    : `is ${quote(type)}, which is not a Gemma model`;
  throw inputError(where, `model_type ${what}`, useGemma);
}

import { quote } from "../../checkpoint/json.ts";
import type {
  Activation,
  Dimensions,
  Gemma1Config,
  Gemma2Config,
  Gemma3Config,
  GemmaConfig,
  LayerType,
  Windows,
} from "../config.ts";
import type { Keys } from "./keys.ts";
import { readRope, readRopes } from "./rope.ts";

/** Each family's config, with the defaults of transformers' class for it where the file is silent. */
export const families = { gemma: gemma1, gemma2, gemma3 } as const satisfies Record<
  GemmaConfig["family"],
  (keys: Keys) => GemmaConfig
>;

function gemma1(keys: Keys): Gemma1Config {
  const sizes = dimensions(keys, {
    ...{ vocab: 256_000, width: 3072, hidden: 24_576, layers: 28, heads: 16, kvHeads: 16, context: 8192 },
  });
  return { family: "gemma", ...sizes, rope: readRope(keys), activation: looseActivation(keys) };
}

function gemma2(keys: Keys): Gemma2Config {
  const sizes = dimensions(keys, { ...middling, vocab: 256_000, context: 8192 });
  return {
    family: "gemma2",
    ...sizes,
    rope: readRope(keys),
    activation: activation(keys),
    queryScalar: keys.positive("query_pre_attn_scalar", 256),
    attentionCap: keys.cap("attn_logit_softcapping", 50),
    finalCap: keys.cap("final_logit_softcapping", 30),
    ...windows(keys, sizes.layers, () => 2),
  };
}

function gemma3(keys: Keys): Gemma3Config {
  const sizes = dimensions(keys, { ...middling, vocab: 262_208, context: 131_072 });
  // The key is there, but no code of the family reads it.
  if (keys.stated("attn_logit_softcapping") !== undefined)
    keys.record("attn_logit_softcapping", null, "derived", "Gemma 3 has no bound on attention scores");
  return {
    family: "gemma3",
    ...sizes,
    ...readRopes(keys),
    activation: activation(keys),
    queryScalar: keys.positive("query_pre_attn_scalar", 256),
    finalCap: keys.cap("final_logit_softcapping", null),
    ...windows(keys, sizes.layers, () => {
      const spelled = ["sliding_window_pattern", "_sliding_window_pattern"];
      const key = spelled.find((k) => keys.stated(k) !== undefined) ?? "sliding_window_pattern";
      return keys.size(key, 6, 1024);
    }),
  };
}

type Defaults = Pick<Dimensions, "vocab" | "width" | "hidden" | "layers" | "heads" | "kvHeads" | "context">;
const middling = { width: 2304, hidden: 9216, layers: 26, heads: 8, kvHeads: 4 } as const;

/** Keys that ask for another computation when they are true, or say anything. */
const unsupported: readonly (readonly [key: string, why: string])[] = [
  ["attention_bias", ""],
  ["use_bidirectional_attention", ": EmbeddingGemma, whose tokens see those after them, is not there yet"],
  ["quantization_config", ""],
];

function dimensions(keys: Keys, d: Defaults): Omit<Dimensions, "activation"> {
  for (const [key, why] of unsupported) {
    const value = keys.stated(key);
    if (value !== undefined && value !== null && value !== false)
      throw keys.bad(
        `${key} is ${quote(value)}, which gemmac does not support${why}`,
        "use a checkpoint without it",
      );
  }
  const sizes = {
    vocab: keys.size("vocab_size", d.vocab, 2 ** 22),
    width: keys.size("hidden_size", d.width, 2 ** 16),
    hidden: keys.size("intermediate_size", d.hidden, 2 ** 20),
    layers: keys.size("num_hidden_layers", d.layers, 1024),
    heads: keys.size("num_attention_heads", d.heads, 1024),
    kvHeads: keys.size("num_key_value_heads", d.kvHeads, 1024),
    headDim: keys.size("head_dim", 256, 4096),
    context: keys.size("max_position_embeddings", d.context, 2 ** 24),
    eps: keys.positive("rms_norm_eps", 1e-6, 1),
    tied: keys.boolean("tie_word_embeddings", true),
  };
  const { heads, kvHeads, headDim } = sizes;
  if (heads % kvHeads)
    throw keys.bad(`num_attention_heads ${heads} is not a multiple of num_key_value_heads ${kvHeads}`);
  if (headDim % 2) throw keys.bad(`head_dim ${headDim} is odd, but rotary embedding splits it in half`);
  return sizes;
}

const layerTypes: Readonly<Record<string, LayerType>> = {
  full_attention: "full",
  sliding_attention: "sliding",
};

/** layer_types says it; without it the last of every `pattern` layers is full, and the others are sliding. */
function windows(keys: Keys, layers: number, pattern: () => number): Windows {
  const stated = keys.stated("layer_types") ?? undefined;
  const window = keys.size("sliding_window", 4096, 2 ** 24);
  if (stated === undefined) {
    const every = pattern();
    const types = Array.from({ length: layers }, (_, i): LayerType => ((i + 1) % every ? "sliding" : "full"));
    const full = types.flatMap((t, i) => (t === "full" ? [i] : []));
    const note = full.length ? `full: ${full.join(" ")}` : "no layer is full";
    const names = types.map((t) => `${t}_attention`);
    keys.record("layer_types", names, "derived", `layers count from 0; ${note}`);
    return { layerTypes: types, window };
  }
  if (!Array.isArray(stated)) throw keys.bad(`layer_types is ${quote(stated)}, not a list`);
  if (stated.length !== layers)
    throw keys.bad(
      `layer_types has ${stated.length} entries, but num_hidden_layers is ${layers}`,
      "correct one of the two in config.json",
    );
  // What follows from the list is not read again from the keys that would say the same.
  for (const key of ["sliding_window_pattern", "_sliding_window_pattern"]) keys.stated(key);
  const types = stated.map((name: unknown, i) => {
    const type = typeof name === "string" && Object.hasOwn(layerTypes, name) ? layerTypes[name] : undefined;
    if (!type)
      throw keys.bad(
        `layer_types[${i}] is ${quote(name)}, but gemmac knows ${Object.keys(layerTypes).join(" and ")}`,
      );
    return type;
  });
  keys.record("layer_types", stated as string[], "stated");
  return { layerTypes: types, window };
}

const tanh = "gelu_pytorch_tanh";

/** hidden_activation as it reads. hidden_act stands beside it in Gemma 2's files, and nothing reads it. */
function activation(keys: Keys): Activation {
  const names: Readonly<Record<string, Activation>> = { [tanh]: "gelu_tanh", gelu: "gelu_erf", silu: "silu" };
  const value = keys.stated("hidden_activation");
  if (keys.stated("hidden_act") !== undefined)
    keys.record("hidden_act", String(keys.stated("hidden_act")), "derived", "hidden_activation counts");
  if (value === undefined) {
    keys.record("hidden_activation", tanh, "defaulted");
    return "gelu_tanh";
  }
  const known = typeof value === "string" && Object.hasOwn(names, value) ? names[value] : undefined;
  if (!known)
    throw keys.bad(
      `hidden_activation is ${quote(value)}, but gemmac knows ${Object.keys(names).join(", ")}`,
      "use a checkpoint with one of these",
    );
  keys.record("hidden_activation", String(value), "stated");
  return known;
}

/**
 * Gemma 1 computes tanh GELU. Early configs call it "gelu" or leave hidden_activation null, and transformers reads
 * both as tanh for this family.
 */
function looseActivation(keys: Keys): Activation {
  const spelled = ["hidden_act", "hidden_activation"].filter((key) => keys.stated(key) !== undefined);
  for (const key of spelled) {
    const value = keys.stated(key);
    if (value === tanh) keys.record(key, tanh, "stated");
    else if (value === null || value === "gelu")
      keys.record(key, tanh, "derived", `${value} means tanh GELU in Gemma 1`);
    else
      throw keys.bad(
        `${key} is ${quote(value)}, but Gemma 1 computes ${tanh}`,
        "use a checkpoint of Gemma, such as google/gemma-2b",
      );
  }
  if (!spelled.length) keys.record("hidden_act", tanh, "defaulted");
  return "gelu_tanh";
}

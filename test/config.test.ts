import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { UserError } from "../ir/error.ts";
import { gemma } from "../src/model/gemma.ts";
import { preset, presets } from "../src/model/presets.ts";
import { readConfig } from "../src/model/reading/index.ts";

const models = join(import.meta.dirname, "data/models");
const json = async (...path: string[]) => JSON.parse(await readFile(join(models, ...path), "utf8"));
const read = (config: object) => readConfig(config, "config.json");
const keyOf = (config: object, name: string) => read(config).keys.find(({ key }) => key === name);

describe("both dialects", () => {
  test.each(["gemma1-mqa", "gemma1-mha", "gemma2", "gemma3"])("%s means the same in both", async (name) => {
    const old = read(await json(name, "config.json"));
    const v5 = read(await json(name, "config.v5.json"));
    expect(v5.config).toEqual(old.config);
    const junk = name === "gemma2" ? ["sliding_window_size"] : [];
    expect(old.ignored).toEqual(junk);
    expect(v5.ignored).toEqual(junk);
    expect(old.keys.find(({ key }) => key === "tie_word_embeddings")?.source).toBe("defaulted");
    expect(v5.keys.find(({ key }) => key === "tie_word_embeddings")?.source).toBe("stated");
  });

  test.each(["gemma1-mqa", "gemma1-mha", "gemma2", "gemma3"])(
    "%s is what transformers makes of it",
    async (name) => {
      const { config } = read(await json(name, "config.json"));
      const { effective: e } = await json(name, "golden.json");
      const stated: Record<string, unknown> = {
        ...{
          vocab: e.vocab_size,
          width: e.hidden_size,
          hidden: e.intermediate_size,
          tied: e.tie_word_embeddings,
        },
        ...{
          heads: e.num_attention_heads,
          kvHeads: e.num_key_value_heads,
          headDim: e.head_dim,
          eps: e.rms_norm_eps,
        },
        ...{ activation: "gelu_tanh", layers: e.num_hidden_layers, context: e.max_position_embeddings },
      };
      if (e.query_pre_attn_scalar) stated.queryScalar = e.query_pre_attn_scalar;
      if (e.attn_logit_softcapping) stated.attentionCap = e.attn_logit_softcapping;
      if (e.final_logit_softcapping) stated.finalCap = e.final_logit_softcapping;
      if (e.sliding_window) {
        stated.window = e.sliding_window;
        stated.layerTypes = e.layer_types.map((type: string) => type.replace("_attention", ""));
      }
      expect(config).toMatchObject(stated);
    },
  );
});

describe("defaults", () => {
  test("an empty Gemma config gets every default", () => {
    const { config, keys } = read({ model_type: "gemma" });
    expect(config).toEqual({ ...presets["gemma-7b"] });
    expect(keys.every(({ source }) => source === "defaulted")).toBe(true);
    expect(keys).toHaveLength(12);
  });

  test("an empty Gemma 2 config is the 2B model", () => {
    expect(read({ model_type: "gemma2" }).config).toEqual(presets["gemma-2-2b"]);
    expect(keyOf({ model_type: "gemma2" }, "attn_logit_softcapping")).toMatchObject({
      value: 50,
      source: "defaulted",
    });
  });

  const linear = { factor: 8, rope_type: "linear" };
  /** What the released checkpoints state of their language models, and no more. */
  const released: Record<string, object> = {
    "gemma-3-4b": { hidden_size: 2560, intermediate_size: 10240, num_hidden_layers: 34 },
    "gemma-3-12b": {
      ...{ hidden_size: 3840, intermediate_size: 15360, num_hidden_layers: 48 },
      ...{ num_attention_heads: 16, num_key_value_heads: 8 },
    },
    "gemma-3-27b": {
      ...{ hidden_size: 5376, intermediate_size: 21504, num_hidden_layers: 62, head_dim: 128 },
      ...{ num_attention_heads: 32, num_key_value_heads: 16, query_pre_attn_scalar: 168 },
    },
  };
  test.each(Object.keys(released))("the sparse config of %s", (name) => {
    const text = { model_type: "gemma3_text", rope_scaling: linear, sliding_window: 1024, ...released[name] };
    const whole = { eos_token_id: [1, 106], mm_tokens_per_image: 256, vision_config: { hidden_size: 1152 } };
    const { config, keys, ignored, json } = read({ model_type: "gemma3", text_config: text, ...whole });
    expect(config).toEqual(preset(name));
    expect(ignored).toEqual(["mm_tokens_per_image", "vision_config"]);
    expect(json.eos_token_id).toEqual([1, 106]);
    const source = (key: string) => keys.find((k) => k.key === key)?.source;
    expect(source("vocab_size")).toBe("defaulted");
    expect(source("rope_local_base_freq")).toBe("defaulted");
    expect(source("rope_scaling.factor")).toBe("stated");
    expect(source("layer_types")).toBe("derived");
  });

  test("the configs of the text-only sizes", () => {
    const common = {
      ...{
        model_type: "gemma3_text",
        vocab_size: 262144,
        max_position_embeddings: 32768,
        sliding_window: 512,
      },
      ...{ num_attention_heads: 4, num_key_value_heads: 1, rope_scaling: null },
    };
    const big = {
      hidden_size: 1152,
      intermediate_size: 6912,
      num_hidden_layers: 26,
      sliding_window_pattern: 6,
    };
    expect(read({ ...common, ...big }).config).toEqual(presets["gemma-3-1b"]);
    const types = Array.from({ length: 18 }, (_, i) =>
      i % 6 === 5 ? "full_attention" : "sliding_attention",
    );
    const small = { hidden_size: 640, intermediate_size: 2048, num_hidden_layers: 18, layer_types: types };
    expect(read({ ...common, ...small, _sliding_window_pattern: 6 }).config).toEqual(presets["gemma-3-270m"]);
  });

  test("presets have the released parameter counts", () => {
    const count = (name: string) =>
      gemma(preset(name))
        .stored()
        .reduce((sum, w) => sum + w.shape.reduce<number>((n, _, axis) => n * w.fixed(axis), 1), 0);
    expect(count("gemma-2b")).toBe(2_506_172_416);
    expect(count("gemma-7b")).toBe(8_537_680_896);
    expect(count("gemma-2-2b")).toBe(2_614_341_888);
    expect(count("gemma-2-9b")).toBe(9_241_705_984);
    expect(count("gemma-2-27b")).toBe(27_227_128_320);
    expect(count("gemma-3-270m")).toBe(268_098_176);
    expect(count("gemma-3-1b")).toBe(999_885_952);
    expect(preset("gemma-7b-paper").vocab).toBe(256_128);
    expect(() => preset("__proto__")).toThrow("there is no preset");
  });
});

describe("what keys mean", () => {
  test("the old spelling of GELU is noted", async () => {
    const { keys } = read(await json("gemma1-mqa", "config.json"));
    const derived = { value: "gelu_pytorch_tanh", source: "derived" };
    expect(keys.filter(({ source }) => source === "derived")).toEqual([
      { key: "hidden_act", ...derived, note: "gelu means tanh GELU in Gemma 1" },
      { key: "hidden_activation", ...derived, note: "null means tanh GELU in Gemma 1" },
    ]);
  });

  test.each([
    ["gelu_pytorch_tanh", "gelu_tanh"],
    ["gelu", "gelu_erf"],
    ["silu", "silu"],
  ])("hidden_activation %s is %s in Gemma 2 and 3, whatever hidden_act says", (name, activation) => {
    for (const model_type of ["gemma2", "gemma3_text"])
      expect(read({ model_type, hidden_activation: name, hidden_act: "relu" }).config).toMatchObject({
        activation,
      });
  });

  test("null switches a bound off", () => {
    const bounds = { attn_logit_softcapping: null, final_logit_softcapping: null };
    expect(read({ model_type: "gemma2", ...bounds }).config).toMatchObject({ attentionCap: 0, finalCap: 0 });
    const capped = { model_type: "gemma3_text", attn_logit_softcapping: 50, final_logit_softcapping: 30 };
    expect(read(capped).config).toMatchObject({ finalCap: 30 });
    expect(keyOf(capped, "attn_logit_softcapping")).toMatchObject({ value: null, source: "derived" });
  });

  test("ropes of Gemma 3, for each type of layer", () => {
    const full = { rope_theta: 5e5, rope_type: "linear", factor: 4 };
    const sliding_attention = { rope_theta: 2e4, rope_type: "default" };
    const want = { rope: { theta: 5e5, factor: 4 }, localRope: { theta: 2e4, factor: 1 } };
    const base = { model_type: "gemma3_text" };
    expect(
      read({ ...base, rope_parameters: { full_attention: full, sliding_attention } }).config,
    ).toMatchObject(want);
    const hub = { rope_theta: 5e5, rope_local_base_freq: 2e4, rope_scaling: { type: "linear", factor: 4 } };
    expect(read({ ...base, ...hub }).config).toMatchObject(want);
    expect(read(base).config).toMatchObject({
      rope: { theta: 1e6, factor: 1 },
      localRope: { theta: 1e4, factor: 1 },
    });
  });

  test("Gemma 1 and 2 scale too", () => {
    for (const model_type of ["gemma", "gemma2"]) {
      const config = { model_type, rope_scaling: { rope_type: "linear", factor: 2 } };
      expect(read(config).config).toMatchObject({ rope: { theta: 1e4, factor: 2 } });
    }
  });

  test("layer_types counts, and the pattern beside it does not", () => {
    const types = ["full_attention", "sliding_attention"];
    const config = {
      model_type: "gemma3_text",
      num_hidden_layers: 2,
      layer_types: types,
      sliding_window_pattern: 1,
    };
    expect(read(config).config).toMatchObject({ layerTypes: ["full", "sliding"] });
    expect(read({ ...config, layer_types: null }).config).toMatchObject({ layerTypes: ["full", "full"] });
  });

  test("keys without effect are listed", () => {
    expect(read({ model_type: "gemma", sliding_window: 4096 }).ignored).toEqual(["sliding_window"]);
  });
});

const gemma2 = { model_type: "gemma2", num_hidden_layers: 2 };
const gemma3 = { model_type: "gemma3_text", num_hidden_layers: 2 };
const refused: [Record<string, unknown>, ...string[]][] = [
  [{ model_type: "gemma3n_text" }, "Gemma 3n", "per-layer embeddings"],
  [{ model_type: "gemma4_text" }, "Gemma 4"],
  [{ model_type: "paligemma" }, "PaliGemma"],
  [{ model_type: "recurrent_gemma" }, "RecurrentGemma"],
  [{ model_type: "vaultgemma" }, "VaultGemma"],
  [{ model_type: "gemma_embedding" }, "EmbeddingGemma", "pooling"],
  [{ model_type: "shieldgemma2" }, "shieldgemma2", "relative"],
  [{ model_type: "llama" }, "llama", "not a Gemma model"],
  [{ model_type: "a\nb" }, "not a Gemma model"],
  [{ model_type: "__proto__" }, "not a Gemma model"],
  [{ model_type: undefined }, "model_type is missing"],
  [{ model_type: "gemma3" }, "text_config"],
  [{ model_type: "gemma3", text_config: { hidden_size: "1" } }, "config.json (text_config)", "hidden_size"],
  [{ architectures: ["GemmaForSequenceClassification"] }, "GemmaForSequenceClassification"],
  [{ ...gemma2, architectures: ["Gemma2ForTokenClassification"] }, "Gemma2ForTokenClassification"],
  [{ hidden_size: "2048" }, "hidden_size", "2048, not a number"],
  [{ hidden_size: null }, "hidden_size", "null"],
  [{ num_hidden_layers: 0 }, "num_hidden_layers"],
  [{ num_hidden_layers: 1e9 }, "num_hidden_layers"],
  [{ vocab_size: 2.5 }, "vocab_size"],
  [{ num_attention_heads: 8, num_key_value_heads: 3 }, "num_attention_heads", "num_key_value_heads"],
  [{ head_dim: 15 }, "head_dim"],
  [{ rms_norm_eps: 0 }, "rms_norm_eps"],
  [{ rope_theta: -1 }, "rope_theta"],
  [{ rope_theta: 1e4, rope_parameters: { rope_theta: 1e6 } }, "rope_parameters.rope_theta"],
  [{ rope_scaling: { type: "linear" } }, "rope_scaling.type", "no factor"],
  [{ rope_scaling: { factor: 8 } }, "rope_scaling.factor", "rope_type"],
  [{ rope_scaling: { rope_type: "linear", factor: 0 } }, "rope_scaling.factor"],
  [{ rope_scaling: { rope_type: "linear", type: "default", factor: 8 } }, "rope_scaling.type", "default"],
  [{ rope_scaling: { rope_type: "linear", factor: 8, beta_fast: 32 } }, "rope_scaling.beta_fast"],
  [{ rope_parameters: { rope_type: "yarn" } }, "rope_parameters.rope_type", "yarn"],
  [{ rope_parameters: [] }, "rope_parameters"],
  [{ ...gemma3, rope_parameters: { rope_theta: 1e6 } }, "rope_parameters.rope_theta", "each type of layer"],
  [{ ...gemma3, rope_parameters: { full_attention: 1 } }, "rope_parameters.full_attention"],
  [{ ...gemma3, rope_local_base_freq: "1e4" }, "rope_local_base_freq"],
  [{ attention_bias: true }, "attention_bias"],
  [{ use_bidirectional_attention: true }, "use_bidirectional_attention"],
  [{ ...gemma3, use_bidirectional_attention: true }, "use_bidirectional_attention", "EmbeddingGemma"],
  [{ quantization_config: { quant_method: "gptq" } }, "quantization_config", "gptq"],
  [{ hidden_act: "silu" }, "hidden_act", "silu"],
  [{ hidden_act: "gelu", hidden_activation: "relu" }, "hidden_activation", "relu"],
  [{ ...gemma2, hidden_activation: "relu" }, "hidden_activation", "relu"],
  [{ tie_word_embeddings: "yes" }, "tie_word_embeddings"],
  [{ ...gemma2, sliding_window: 0 }, "sliding_window is 0"],
  [{ ...gemma2, sliding_window: null }, "sliding_window is null"],
  [{ ...gemma2, layer_types: ["full_attention"] }, "layer_types has 1", "num_hidden_layers is 2"],
  [
    { ...gemma2, layer_types: ["full_attention", "chunked_attention"] },
    "layer_types[1]",
    "chunked_attention",
  ],
  [{ ...gemma2, layer_types: "full_attention" }, "layer_types"],
  [{ ...gemma2, attn_logit_softcapping: 0 }, "attn_logit_softcapping is 0"],
  [{ ...gemma2, final_logit_softcapping: -30 }, "final_logit_softcapping is -30"],
  [{ ...gemma2, query_pre_attn_scalar: 0 }, "query_pre_attn_scalar is 0"],
  [{ ...gemma3, sliding_window_pattern: 0 }, "sliding_window_pattern is 0"],
];

test.each(refused)("refused: %j", (keys, ...words) => {
  let thrown: unknown;
  try {
    read({ model_type: "gemma", ...keys });
  } catch (e) {
    thrown = e;
  }
  expect(thrown).toBeInstanceOf(UserError);
  for (const word of ["config.json", ...words]) expect((thrown as UserError).message).toContain(word);
});

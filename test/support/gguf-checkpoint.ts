import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { decode } from "../../backends/stream/index.ts";
import type { DType } from "../../ir/type.ts";
import { openWeights } from "../../src/checkpoint/checkpoint.ts";
import { encoders, f32, type Given, ggufFile, list, type TensorType } from "./gguf.mjs";

interface TokenizerJson {
  readonly model: {
    readonly vocab: Record<string, number>;
    readonly merges: readonly (string | [string, string])[];
  };
  readonly added_tokens: readonly {
    readonly id: number;
    readonly content: string;
    readonly special: boolean;
  }[];
}

/** `tokenizer.ggml.*` for a tokenizer.json, as llama.cpp's converter writes it from the SentencePiece model. */
export function vocabulary(dir: string): Record<string, Given> {
  const read = (name: string) => JSON.parse(readFileSync(join(dir, name), "utf8"));
  const { model, added_tokens }: TokenizerJson = read("tokenizer.json");
  const { chat_template } = read("tokenizer_config.json");
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(model.vocab)) tokens[id] = token;
  const kinds: number[] = tokens.map((token) => (/^<0x[0-9A-F]{2}>$/.test(token) ? 6 : 1));
  for (const { id, content, special } of added_tokens) {
    tokens[id] = content;
    kinds[id] = special || /^<(unused\d+|mask)>$/.test(content) ? 3 : 4;
  }
  // SentencePiece scores tokens by when they were learnt, which is when they are merged.
  const scores = new Map<string, number>();
  model.merges.forEach((merge, rank) => {
    const token = typeof merge === "string" ? merge.replace(" ", "") : merge.join("");
    if (!scores.has(token)) scores.set(token, -rank);
  });
  const never = -model.merges.length;
  return {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": list(
      "string",
      tokens.map((token, id) => (kinds[id] === 4 ? token.replaceAll("▁", " ") : token)),
    ),
    "tokenizer.ggml.scores": list(
      "f32",
      tokens.map((token, id) => (kinds[id] === 1 ? (scores.get(token) ?? never) : -1000)),
    ),
    "tokenizer.ggml.token_type": list("i32", kinds),
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.padding_token_id": 0,
    "tokenizer.ggml.unknown_token_id": 3,
    "tokenizer.ggml.add_bos_token": true,
    "tokenizer.ggml.add_space_prefix": false,
    "tokenizer.chat_template": chat_template,
  };
}

/** Metadata of a checkpoint's config.json, in the dialect of transformers 4. */
function metadata(c: Record<string, unknown>): Record<string, Given> {
  const family = String(c.model_type).replace("_text", "");
  const numbers = {
    context_length: c.max_position_embeddings,
    embedding_length: c.hidden_size,
    block_count: c.num_hidden_layers,
    feed_forward_length: c.intermediate_size,
    "attention.head_count": c.num_attention_heads,
    "attention.head_count_kv": c.num_key_value_heads,
    "attention.key_length": c.head_dim,
    "attention.value_length": c.head_dim,
    "attention.sliding_window": c.sliding_window,
    "attention.sliding_window_pattern": c.sliding_window_pattern,
  };
  const floats = {
    "attention.layer_norm_rms_epsilon": c.rms_norm_eps,
    "rope.freq_base": c.rope_theta,
    "rope.freq_base_swa": c.rope_local_base_freq,
    attn_logit_softcapping: c.attn_logit_softcapping,
    final_logit_softcapping: c.final_logit_softcapping,
    "attention.scale": c.query_pre_attn_scalar ? Number(c.query_pre_attn_scalar) ** -0.5 : undefined,
  };
  const stated = (entries: Record<string, unknown>) =>
    Object.entries(entries).filter((e): e is [string, number] => typeof e[1] === "number");
  return {
    "general.architecture": family,
    ...Object.fromEntries(stated(numbers).map(([key, n]) => [`${family}.${key}`, n])),
    ...Object.fromEntries(stated(floats).map(([key, x]) => [`${family}.${key}`, f32(x)])),
  };
}

const names: readonly (readonly [RegExp, string])[] = [
  [/^model\.embed_tokens\./, "token_embd."],
  [/^model\.norm\./, "output_norm."],
  [/^lm_head\./, "output."],
  [/^model\.layers\.(\d+)\./, "blk.$1."],
  [/input_layernorm/, "attn_norm"],
  [/pre_feedforward_layernorm/, "ffn_norm"],
  [/post_feedforward_layernorm/, "post_ffw_norm"],
  [/self_attn\.([qkv])_proj/, "attn_$1"],
  [/self_attn\.([qk])_norm/, "attn_$1_norm"],
  [/self_attn\.o_proj/, "attn_output"],
  [/mlp\.(gate|up|down)_proj/, "ffn_$1"],
];

/**
 * Writes a checkpoint of the Hub's layout as a GGUF file, the way llama.cpp's converter does: norms are f32 with their
 * one added, matrices of the type `typeOf` says.
 */
export async function writeGguf(
  dir: string,
  path: string,
  typeOf: (name: string, dtype: DType) => Extract<TensorType, keyof typeof encoders>,
  more: Readonly<Record<string, Given>> = {},
): Promise<string> {
  const config = JSON.parse(readFileSync(join(dir, "config.json"), "utf8"));
  const { weights } = await openWeights(dir);
  const tensors = [];
  for (const stored of weights.names()) {
    const { dtype, shape, bytes } = weights.info(stored) ?? { dtype: "f32", shape: [], bytes: 0 };
    const raw = new Uint8Array(bytes);
    await weights.read(stored, 0, raw);
    const values = decode(dtype, raw);
    // Gemma 1 has one norm before its feed-forward block, under the name that later models use behind attention.
    const after = config.model_type === "gemma" ? "ffn_norm" : "post_attention_norm";
    const named = names.reduce((name, [from, to]) => name.replace(from, to), stored);
    const name = named.replace("post_attention_layernorm", after);
    const type = shape.length === 1 ? "f32" : typeOf(name, dtype);
    const data = encoders[type](shape.length === 1 ? values.map((w) => 1 + w) : values);
    tensors.push({ name, type, shape, data });
  }
  await weights.close();
  await writeFile(path, ggufFile({ ...metadata(config), ...more }, tensors));
  return path;
}

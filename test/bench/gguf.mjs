// A Hugging Face Gemma 1 checkpoint (bf16) as GGUF version 3, for measuring llama.cpp on the same weights. Every
// matrix, the tied table included, is Q8_0, Q4_0 or f32; norms are f32 with their one added. The tokenizer is a dummy.

import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { open, readFile, rename, stat } from "node:fs/promises";
import { join } from "node:path";
import { bytesOf, encoders, f32, ggufHead, list, padding } from "../support/gguf.mjs";

const fileType = { f32: 0, q4_0: 2, q8_0: 7 };

/** Writes `file` unless it is there. `format` is "q8_0", "q4_0" or "f32". */
export async function gguf(checkpoint, file, format) {
  if (await stat(file).catch(() => undefined)) return file;
  const config = JSON.parse(await readFile(join(checkpoint, "config.json"), "utf8"));
  const source = await open(join(checkpoint, "model.safetensors"));
  const { header, start } = await readHeader(source);
  const tensors = plan(config, header, format);
  const out = createWriteStream(`${file}.tmp`);
  const put = async (bytes) => {
    if (!out.write(bytes)) await once(out, "drain");
  };
  await put(ggufHead(metadata(config, format), tensors));
  for (const tensor of tensors) {
    // Whole blocks, about 4 MB at a time.
    const { count, from } = tensor;
    const step = 1 << 21;
    for (let at = 0; at < count; at += step) {
      const n = Math.min(step, count - at);
      const raw = Buffer.alloc(2 * n);
      await source.read(raw, 0, raw.length, start + from + 2 * at);
      const x = widen(raw, n);
      await put(encoders[tensor.type](tensor.norm ? x.map((w) => 1 + w) : x));
    }
    await put(Buffer.alloc(padding(bytesOf(tensor))));
  }
  out.end();
  await once(out, "finish");
  await source.close();
  await rename(`${file}.tmp`, file);
  return file;
}

async function readHeader(source) {
  const length = Buffer.alloc(8);
  await source.read(length, 0, 8, 0);
  const json = Buffer.alloc(Number(length.readBigUInt64LE()));
  await source.read(json, 0, json.length, 8);
  return { header: JSON.parse(json.toString()), start: 8 + json.length };
}

/** Tensors in the order they are written, with llama.cpp's names for them. */
function plan(config, header, format) {
  const names = [["token_embd", "model.embed_tokens"]];
  const parts = {
    attn_norm: "input_layernorm",
    attn_q: "self_attn.q_proj",
    attn_k: "self_attn.k_proj",
    attn_v: "self_attn.v_proj",
    attn_output: "self_attn.o_proj",
    ffn_norm: "post_attention_layernorm",
    ffn_gate: "mlp.gate_proj",
    ffn_up: "mlp.up_proj",
    ffn_down: "mlp.down_proj",
  };
  for (let i = 0; i < config.num_hidden_layers; i++)
    for (const [to, from] of Object.entries(parts))
      names.push([`blk.${i}.${to}`, `model.layers.${i}.${from}`]);
  names.push(["output_norm", "model.norm"]);
  return names.map(([to, from]) => {
    const { dtype, shape, data_offsets } = header[`${from}.weight`];
    if (dtype !== "BF16") throw new Error(`${from} is ${dtype}; this script reads BF16`);
    const count = shape.reduce((a, b) => a * b, 1);
    const norm = shape.length === 1;
    return { name: `${to}.weight`, shape, count, type: norm ? "f32" : format, norm, from: data_offsets[0] };
  });
}

function metadata(c, format) {
  // Pad, end, begin, unknown, the bytes, and then words that mean nothing.
  const special = ["<pad>", "<eos>", "<bos>", "<unk>"];
  const byte = (i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`;
  const word = (i) => special[i] ?? (i < 260 ? byte(i - 4) : `w${i}`);
  const kind = (i) => (i === 3 ? 2 : i < 4 ? 3 : i < 260 ? 6 : 1);
  const vocab = Array.from({ length: c.vocab_size }, (_, i) => i);
  return {
    "general.architecture": "gemma",
    "general.name": "synthetic",
    "general.quantization_version": 2,
    "general.file_type": fileType[format],
    "gemma.context_length": c.max_position_embeddings,
    "gemma.embedding_length": c.hidden_size,
    "gemma.block_count": c.num_hidden_layers,
    "gemma.feed_forward_length": c.intermediate_size,
    "gemma.attention.head_count": c.num_attention_heads,
    "gemma.attention.head_count_kv": c.num_key_value_heads,
    "gemma.attention.key_length": c.head_dim,
    "gemma.attention.value_length": c.head_dim,
    "gemma.attention.layer_norm_rms_epsilon": f32(c.rms_norm_eps),
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": list("string", vocab.map(word)),
    "tokenizer.ggml.scores": list("f32", vocab.map((i) => -i)),
    "tokenizer.ggml.token_type": list("i32", vocab.map(kind)),
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.eos_token_id": 1,
  };
}

function widen(raw, n) {
  const out = new Float32Array(n);
  const bits = new Uint32Array(out.buffer);
  const half = new Uint16Array(raw.buffer, raw.byteOffset, n);
  for (let i = 0; i < n; i++) bits[i] = half[i] << 16;
  return out;
}

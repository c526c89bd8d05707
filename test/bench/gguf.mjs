// A Hugging Face Gemma 1 checkpoint (bf16) as GGUF version 3, for measuring llama.cpp on the same weights. Every
// matrix, the tied table included, is Q8_0 or Q4_0; norms are f32 with their one added. The tokenizer is a dummy.

import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { open, readFile, rename, stat } from "node:fs/promises";
import { join } from "node:path";

const type = { u32: 4, f32: 6, string: 8, array: 9, i32: 5 };
const ggml = { F32: 0, Q4_0: 2, Q8_0: 8 };
const fileType = { Q4_0: 2, Q8_0: 7 };
const block = 32;
const blockBytes = { Q4_0: 18, Q8_0: 34 };
const alignment = 32;

/** Writes `file` unless it is there. `format` is "Q8_0" or "Q4_0". */
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
  const head = Buffer.concat([preamble(tensors), ...metadata(config, format), ...tensors.map(describe)]);
  await put(Buffer.concat([head, Buffer.alloc(-head.length & (alignment - 1))]));
  for (const tensor of tensors) {
    // Whole blocks, about 4 MB at a time.
    const { count, from } = tensor;
    const step = 1 << 21;
    for (let at = 0; at < count; at += step) {
      const n = Math.min(step, count - at);
      const raw = Buffer.alloc(2 * n);
      await source.read(raw, 0, raw.length, start + from + 2 * at);
      await put(encoders[tensor.type](widen(raw, n)));
    }
    await put(Buffer.alloc(-tensor.bytes & (alignment - 1)));
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
  let offset = 0;
  return names.map(([to, from]) => {
    const { dtype, shape, data_offsets } = header[`${from}.weight`];
    if (dtype !== "BF16") throw new Error(`${from} is ${dtype}; this script reads BF16`);
    const count = shape.reduce((a, b) => a * b, 1);
    const kind = shape.length === 1 ? "F32" : format;
    const bytes = kind === "F32" ? 4 * count : (count / block) * blockBytes[format];
    const tensor = { name: `${to}.weight`, shape, count, type: kind, bytes, offset, from: data_offsets[0] };
    offset += Math.ceil(bytes / alignment) * alignment;
    return tensor;
  });
}

const u32 = (n) => Buffer.from(Uint32Array.of(n).buffer);
const u64 = (n) => Buffer.from(BigUint64Array.of(BigInt(n)).buffer);
const f32 = (x) => Buffer.from(Float32Array.of(x).buffer);
const string = (s) => Buffer.concat([u64(Buffer.byteLength(s)), Buffer.from(s)]);
const key = (name, t, value) => Buffer.concat([string(name), u32(t), value]);
const array = (t, n, body) => Buffer.concat([u32(t), u64(n), body]);

const preamble = (tensors) =>
  Buffer.concat([Buffer.from("GGUF"), u32(3), u64(tensors.length), u64(metadataCount)]);
const describe = ({ name, shape, type: t, offset }) =>
  Buffer.concat([string(name), u32(shape.length), ...shape.toReversed().map(u64), u32(ggml[t]), u64(offset)]);

const metadataCount = 20;
function metadata(c, format) {
  const number = {
    context_length: c.max_position_embeddings,
    embedding_length: c.hidden_size,
    block_count: c.num_hidden_layers,
    feed_forward_length: c.intermediate_size,
    "attention.head_count": c.num_attention_heads,
    "attention.head_count_kv": c.num_key_value_heads,
    "attention.key_length": c.head_dim,
    "attention.value_length": c.head_dim,
  };
  // Pad, end, begin, unknown, the bytes, and then words that mean nothing.
  const special = ["<pad>", "<eos>", "<bos>", "<unk>"];
  const byte = (i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`;
  const word = (i) => special[i] ?? (i < 260 ? byte(i - 4) : `w${i}`);
  const kind = (i) => (i === 3 ? 2 : i < 4 ? 3 : i < 260 ? 6 : 1);
  const vocab = Array.from({ length: c.vocab_size }, (_, i) => i);
  const made = [
    key("general.architecture", type.string, string("gemma")),
    key("general.name", type.string, string("synthetic")),
    key("general.alignment", type.u32, u32(alignment)),
    key("general.quantization_version", type.u32, u32(2)),
    key("general.file_type", type.u32, u32(fileType[format])),
    ...Object.entries(number).map(([k, n]) => key(`gemma.${k}`, type.u32, u32(n))),
    key("gemma.attention.layer_norm_rms_epsilon", type.f32, f32(c.rms_norm_eps)),
    key("tokenizer.ggml.model", type.string, string("llama")),
    key(
      "tokenizer.ggml.tokens",
      type.array,
      array(type.string, vocab.length, Buffer.concat(vocab.map((i) => string(word(i))))),
    ),
    key(
      "tokenizer.ggml.scores",
      type.array,
      array(type.f32, vocab.length, Buffer.from(Float32Array.from(vocab, (i) => -i).buffer)),
    ),
    key(
      "tokenizer.ggml.token_type",
      type.array,
      array(type.i32, vocab.length, Buffer.from(Int32Array.from(vocab, kind).buffer)),
    ),
    key("tokenizer.ggml.bos_token_id", type.u32, u32(2)),
    key("tokenizer.ggml.eos_token_id", type.u32, u32(1)),
  ];
  if (made.length !== metadataCount) throw new Error(`${made.length} keys`);
  return made;
}

function widen(raw, n) {
  const out = new Float32Array(n);
  const bits = new Uint32Array(out.buffer);
  const half = new Uint16Array(raw.buffer, raw.byteOffset, n);
  for (let i = 0; i < n; i++) bits[i] = half[i] << 16;
  return out;
}

/** f32 → f16 bits, to nearest; scales are small, normal or zero here. */
const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);
function half(x) {
  float[0] = x;
  const sign = (bits[0] >>> 16) & 0x8000;
  const abs = bits[0] & 0x7fffffff;
  if (abs < 0x38800000) return sign | Math.round(Math.abs(x) * 2 ** 24); // subnormal
  return sign | ((abs - 0x38000000 + 0xfff + ((abs >>> 13) & 1)) >>> 13);
}

const encoders = {
  F32: (x) => Buffer.from(x.map((w) => 1 + w).buffer),
  Q8_0(x) {
    const out = Buffer.alloc((x.length / block) * 34);
    for (let b = 0, at = 0; b < x.length; b += block, at += 34) {
      let top = 0;
      for (let i = 0; i < block; i++) top = Math.max(top, Math.abs(x[b + i]));
      const d = top / 127;
      const inverse = d ? 1 / d : 0;
      out.writeUInt16LE(half(d), at);
      for (let i = 0; i < block; i++) out[at + 2 + i] = Math.round(x[b + i] * inverse);
    }
    return out;
  },
  Q4_0(x) {
    const out = Buffer.alloc((x.length / block) * 18);
    for (let b = 0, at = 0; b < x.length; b += block, at += 18) {
      let top = 0;
      for (let i = 0; i < block; i++) if (Math.abs(x[b + i]) > Math.abs(top)) top = x[b + i];
      const d = top / -8;
      const inverse = d ? 1 / d : 0;
      out.writeUInt16LE(half(d), at);
      const code = (i) => Math.min(15, Math.floor(x[b + i] * inverse + 8.5));
      for (let i = 0; i < 16; i++) out[at + 2 + i] = code(i) | (code(i + 16) << 4);
    }
    return out;
  },
};

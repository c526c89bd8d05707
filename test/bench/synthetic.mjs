// A full-size random Gemma 1 checkpoint, for measuring: bf16, N(0, 0.02²), one file a model.
import { createWriteStream } from "node:fs";
import { mkdir, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { once } from "node:events";

const gemma2b = { width: 2048, hidden: 16384, layers: 18, heads: 8, kvHeads: 1, vocab: 256_000 };
const shapes = {
  "gemma-2b": gemma2b,
  "gemma-7b": { width: 3072, hidden: 24576, layers: 28, heads: 16, kvHeads: 16, vocab: 256_000 },
  "gemma-2b-4layer": { ...gemma2b, layers: 4 },
  // 122 MB, with matrices so large that the proof takes them in slices.
  "one-wide-layer": { width: 1024, hidden: 16384, layers: 1, heads: 4, kvHeads: 1, vocab: 8000 },
};
const headDim = 256;

/** Makes `dir/<name>` unless it is there. Deterministic: tiles of one pool of normals, each with its own signs. */
export async function synthetic(dir, name) {
  const path = join(dir, name);
  if (await stat(join(path, "config.json")).catch(() => undefined)) return path;
  const c = shapes[name];
  await mkdir(path, { recursive: true });
  const q = c.heads * headDim;
  const kv = c.kvHeads * headDim;
  const tensors = [["model.embed_tokens.weight", [c.vocab, c.width]]];
  for (let i = 0; i < c.layers; i++) {
    const at = `model.layers.${i}`;
    tensors.push(
      [`${at}.input_layernorm.weight`, [c.width]],
      [`${at}.mlp.down_proj.weight`, [c.width, c.hidden]],
      [`${at}.mlp.gate_proj.weight`, [c.hidden, c.width]],
      [`${at}.mlp.up_proj.weight`, [c.hidden, c.width]],
      [`${at}.post_attention_layernorm.weight`, [c.width]],
      [`${at}.self_attn.k_proj.weight`, [kv, c.width]],
      [`${at}.self_attn.o_proj.weight`, [c.width, q]],
      [`${at}.self_attn.q_proj.weight`, [q, c.width]],
      [`${at}.self_attn.v_proj.weight`, [kv, c.width]],
    );
  }
  tensors.push(["model.norm.weight", [c.width]]);
  const file = join(path, "model.safetensors");
  const out = createWriteStream(`${file}.tmp`);
  const put = (bytes) => (out.write(bytes) ? undefined : once(out, "drain"));
  let end = 0;
  const header = { __metadata__: { format: "pt" } };
  for (const [tensor, shape] of tensors) {
    const bytes = 2 * shape.reduce((a, b) => a * b, 1);
    header[tensor] = { dtype: "BF16", shape, data_offsets: [end, end + bytes] };
    end += bytes;
  }
  let json = JSON.stringify(header);
  json += " ".repeat((8 - (json.length % 8)) % 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  await put(length);
  await put(Buffer.from(json));
  const pool = normals(1 << 21);
  for (const [n, [, shape]] of tensors.entries()) {
    const count = shape.reduce((a, b) => a * b, 1);
    for (let from = 0; from < count; from += pool.length) {
      const tile = pool.slice(0, Math.min(pool.length, count - from));
      const flip = 0x8003 & ((n * 40503 + from / pool.length) * 2654435761);
      for (let i = 0; i < tile.length; i++) tile[i] ^= flip & (i * 0x9e37);
      await put(Buffer.from(tile.buffer));
    }
  }
  out.end();
  await once(out, "finish");
  await rename(`${file}.tmp`, file);
  await writeFile(join(path, "config.json"), JSON.stringify(config(c), null, 2));
  return path;
}

const config = (c) => ({
  architectures: ["GemmaForCausalLM"],
  model_type: "gemma",
  vocab_size: c.vocab,
  hidden_size: c.width,
  intermediate_size: c.hidden,
  num_hidden_layers: c.layers,
  num_attention_heads: c.heads,
  num_key_value_heads: c.kvHeads,
  head_dim: headDim,
  hidden_act: "gelu",
  max_position_embeddings: 8192,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  torch_dtype: "bfloat16",
});

/** bf16 bits of normals, by Box and Muller from a linear congruence. */
function normals(n) {
  const float = new Float32Array(1);
  const bits = new Uint32Array(float.buffer);
  let state = 1;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return Uint16Array.from({ length: n }, () => {
    float[0] = 0.02 * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
    return bits[0] >>> 16;
  });
}

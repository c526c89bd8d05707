import { expect, test } from "vitest";
import { UserError } from "../ir/error.ts";
import { blockFormat } from "../ir/ops/ggml.ts";
import { dtypes } from "../ir/type.ts";
import { configOf } from "../src/checkpoint/gguf/config.ts";
import { type GgufHeader, readGguf } from "../src/checkpoint/gguf/header.ts";
import { tokenizerConfigOf, tokenizerOf } from "../src/checkpoint/gguf/vocabulary.ts";
import { readConfig } from "../src/model/reading/index.ts";
import { random } from "./support/fuzz.ts";
import { bytesOf, f32, ggufFile, list, type TensorType } from "./support/gguf.mjs";

const seconds = Number(process.env.GEMMAC_FUZZ_SECONDS ?? 2);

const metadata = {
  "general.architecture": "gemma",
  "general.alignment": 32,
  "gemma.context_length": 64,
  "gemma.embedding_length": 32,
  "gemma.block_count": 1,
  "gemma.attention.head_count": list("i32", [4, 4]),
  "gemma.attention.layer_norm_rms_epsilon": f32(1e-6),
  "tokenizer.ggml.model": "llama",
  "tokenizer.ggml.tokens": list("string", ["<pad>", "<eos>", "a", "b", "ab", "<0x0A>"]),
  "tokenizer.ggml.scores": list("f32", [0, 0, -1, -2, -3, 0]),
  "tokenizer.ggml.token_type": list("i32", [3, 3, 1, 1, 1, 6]),
  "tokenizer.ggml.bos_token_id": 1,
  "tokenizer.ggml.add_bos_token": true,
  "tokenizer.chat_template": "{{ bos_token }}",
};
const shapes: readonly (readonly [string, TensorType, number[]])[] = [
  ["token_embd.weight", "q8_0", [6, 32]],
  ["output_norm.weight", "f32", [32]],
  ["blk.0.ffn_up.weight", "q4_k", [2, 256]],
  ["blk.0.attn_q.weight", "bf16", [4, 32]],
];
const original = ggufFile(
  metadata,
  shapes.map(([name, type, shape]) => ({ name, type, shape, data: Buffer.alloc(bytesOf({ type, shape })) })),
);

/** Numbers that are easily taken for small ones, as they lie in a file. */
const odd = [0n, 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 60n, 2n ** 63n, 2n ** 64n - 1n];

function mutate(bytes: Buffer, pick: (n: number) => number): Buffer {
  const out = Buffer.from(bytes);
  const at = pick(Math.max(1, out.length - 8));
  switch (pick(7)) {
    case 0:
      for (let n = 1 + pick(3); n > 0; n--) {
        const i = pick(out.length || 1);
        out[i] = (out[i] ?? 0) ^ (1 << pick(8));
      }
      return out;
    case 1:
      return out.subarray(0, pick(out.length + 1));
    case 2:
      if (out.length >= 8) out.writeBigUInt64LE(odd[pick(odd.length)] as bigint, at);
      return out;
    case 3:
      if (out.length >= 8) out.writeUInt32LE(pick(16), at);
      return out;
    case 4: // A stretch twice: keys, tensors and items repeat.
      return Buffer.concat([out.subarray(0, at + pick(64)), out.subarray(at)]);
    case 5: // A stretch gone.
      return Buffer.concat([out.subarray(0, at), out.subarray(at + pick(64))]);
    default:
      if (out.length >= 24) out.writeBigUInt64LE(odd[pick(odd.length)] as bigint, 8 + 8 * pick(2));
      return out;
  }
}

/** What readGguf promises of every file it accepts, checked without trusting how it checks. */
function checkHeader({ tensors }: GgufHeader, size: number): void {
  let last = 0;
  const inOrder = [...tensors.values()].filter((t) => t.end > t.begin).sort((a, b) => a.begin - b.begin);
  for (const { dtype, format, shape, begin, end } of inOrder) {
    expect(begin).toBeGreaterThanOrEqual(last);
    expect(end).toBeLessThanOrEqual(size);
    const elements = shape.reduce((a, b) => a * b, 1);
    const unit = format ? blockFormat(format) : { elements: 1, bytes: dtypes[dtype] / 8 };
    expect(end - begin).toBe((elements / unit.elements) * unit.bytes);
    last = end;
  }
}

test(`mutated GGUF files are parsed or refused, for ${seconds} s`, {
  timeout: seconds * 1000 + 60_000,
}, async () => {
  const file = (bytes: Buffer) => ({
    stat: async () => ({ size: bytes.length }),
    async read(into: Uint8Array, at: number, length: number, position: number) {
      if (into.length > Math.max(bytes.length, 24)) throw new Error(`asked for ${into.length} bytes`);
      const part = bytes.subarray(position, position + length);
      into.set(part, at);
      return { bytesRead: part.length };
    },
  });
  checkHeader(await readGguf(file(original), "original"), original.length);

  let [parsed, refused, used] = [0, 0, 0];
  for (let seed = 1, end = Date.now() + seconds * 1000; Date.now() < end; seed++) {
    const pick = random(seed);
    let bytes = original;
    for (let n = 1 + pick(3); n > 0; n--) bytes = mutate(bytes, pick);
    try {
      const header = await readGguf(file(bytes), "mutated.gguf");
      checkHeader(header, bytes.length);
      parsed++;
      tokenizerOf(header, "mutated.gguf");
      tokenizerConfigOf(header);
      readConfig(configOf(header, "mutated.gguf").json, "mutated.gguf");
      used++;
    } catch (error) {
      if (!(error instanceof UserError)) throw new Error(`seed ${seed}`, { cause: error });
      expect(error.message, `seed ${seed}`).toMatch(/^mutated\.gguf[^\p{Cc}\u2028\u2029]+$/u);
      expect(error.next, `seed ${seed}`).not.toBe("");
      refused++;
    }
  }
  for (const n of [parsed, refused, used]) expect(n).toBeGreaterThan(0);
});

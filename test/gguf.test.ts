import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { UserError } from "../ir/error.ts";
import { Graph } from "../ir/graph.ts";
import { interpret } from "../ir/interpret.ts";
import { type BlockFormatName, blockFormat, blockFormats } from "../ir/ops/ggml.ts";
import { constant, dequantize, ggml_codes, ggml_dequantize, ggml_scales, param } from "../ir/ops/index.ts";
import { tensor } from "../ir/type.ts";
import { openCheckpoint } from "../src/checkpoint/checkpoint.ts";
import { loadTokenizer } from "../src/tokenizer/tokenizer.ts";
import { f32, type Given, ggufFile, ggufHead, list } from "./support/gguf.mjs";

let root: string;
beforeAll(async () => void (root = await mkdtemp(join(tmpdir(), "gemmac-gguf-"))));
afterAll(() => rm(root, { recursive: true }));

const fixture: Record<BlockFormatName, { bytes: string; values: string }> = JSON.parse(
  readFileSync(join(import.meta.dirname, "data/ggml/blocks.json"), "utf8"),
);

describe.each(Object.keys(blockFormats) as BlockFormatName[])("%s", (format) => {
  const bytes = Buffer.from(fixture[format].bytes, "base64");
  const values = Buffer.from(fixture[format].values, "base64");
  const want = new Float32Array(new Uint8Array(values).buffer);
  const blocks = param({ name: "blocks", type: tensor("u8", 2, bytes.length / 2) });
  const run = (outputs: ConstructorParameters<typeof Graph>[1]["outputs"]) =>
    interpret(new Graph("g", { inputs: [blocks], outputs }), {
      sizes: {},
      tensor: () => ({ shape: [2, bytes.length / 2], data: Float64Array.from(bytes) }),
    });

  test("means what llama.cpp's own reader makes of it", () => {
    const { y } = run({ y: ggml_dequantize(blocks, { format }) });
    expect(y?.shape).toEqual([2, want.length / 2]);
    expect(y?.data.every((x, i) => x === want[i])).toBe(true);
  });

  test("codes times scales are the same numbers, or there are none", () => {
    const { codes: to } = blockFormat(format);
    if (!to) {
      expect(() => ggml_codes(blocks, { format })).toThrow("have offsets");
      expect(() => ggml_scales(blocks, { format })).toThrow("have offsets");
      return;
    }
    const zero = constant({ value: 0, dtype: to });
    const parts = [ggml_codes(blocks, { format }), ggml_scales(blocks, { format })] as const;
    const { y } = run({ y: dequantize(...parts, zero) });
    expect(y?.data.every((x, i) => x === want[i])).toBe(true);
  });

  test("must fill whole blocks", () => {
    const cut = param({ name: "cut", type: tensor("u8", 2, blockFormat(format).bytes + 1) });
    expect(() => ggml_dequantize(cut, { format })).toThrow(`no matrix of ${format} blocks`);
  });
});

const norm = { name: "output_norm.weight", type: "f32", shape: [8], data: Buffer.alloc(32) } as const;
const gemma: Record<string, Given> = {
  "general.architecture": "gemma",
  "gemma.context_length": 64,
  "gemma.embedding_length": 8,
  "gemma.block_count": 2,
  "gemma.feed_forward_length": 16,
  "gemma.attention.head_count": 2,
  "gemma.attention.head_count_kv": list("u32", [1, 1]),
  "gemma.attention.key_length": 4,
  "gemma.attention.value_length": 4,
  "gemma.attention.layer_norm_rms_epsilon": f32(1e-6),
};
let count = 0;
async function saved(bytes: Uint8Array): Promise<string> {
  const path = join(root, `${count++}.gguf`);
  await writeFile(path, bytes);
  return path;
}

test("metadata become config keys, each with its origin", async () => {
  const table = { name: "token_embd.weight", type: "q8_0", shape: [5, 32], data: Buffer.alloc(170) } as const;
  const path = await saved(ggufFile({ ...gemma, "gemma.embedding_length": 32 }, [table]));
  const checkpoint = await openCheckpoint(path);
  await checkpoint.close();
  expect(checkpoint.config).toMatchObject({
    vocab: 5,
    width: 32,
    layers: 2,
    kvHeads: 1,
    eps: 1e-6,
    tied: true,
  });
  const keys = Object.fromEntries(checkpoint.keys.map((k) => [k.key, k]));
  expect(keys.hidden_size).toMatchObject({ source: "stated", note: "gemma.embedding_length" });
  expect(keys.vocab_size).toMatchObject({ source: "derived", note: "rows of token_embd.weight" });
  expect(keys.rope_theta).toMatchObject({ source: "defaulted", value: 10_000 });
  expect(checkpoint.weights.info("model.embed_tokens.weight")).toEqual({
    ...{ dtype: "u8", format: "q8_0", shape: [5, 32], bytes: 170 },
  });
  expect(checkpoint.generation).toMatchObject({ bos: 2, eos: [1] });
});

test("a file without vocabulary takes token ids only", async () => {
  const path = await saved(ggufFile(gemma, [norm]));
  await expect(loadTokenizer(path)).rejects.toThrow("holds no vocabulary");
});

/** A valid head with `n` bytes at `at` replaced. */
function patched(at: number, value: bigint, width: 4 | 8 = 8): Buffer {
  const bytes = ggufFile(gemma, [norm]);
  if (width === 8) bytes.writeBigUInt64LE(value, at);
  else bytes.writeUInt32LE(Number(value), at);
  return bytes;
}
const firstKey = 24;
const afterKey = firstKey + 8 + "general.architecture".length;

test.each<[string, () => Buffer, string]>([
  ["nothing", () => Buffer.alloc(3), "too short"],
  ["another file", () => Buffer.alloc(64), "does not begin with GGUF"],
  ["version 1", () => patched(4, 1n, 4), "GGUF version 1"],
  ["big-endian", () => patched(4, 0x03000000n, 4), "big-endian"],
  ["2^64 - 1 tensors", () => patched(8, 2n ** 64n - 1n), "out of range"],
  ["too many tensors", () => patched(8, 10_000n), "no room for 10000 tensors"],
  ["too many keys", () => patched(16, 2n ** 40n), "no room for 1099511627776 keys"],
  ["a long key", () => patched(firstKey, 2n ** 50n), "no room"],
  ["an unknown type of value", () => patched(afterKey, 13n, 4), "unknown type 13"],
  ["a cut header", () => ggufFile(gemma, [norm]).subarray(0, 100), "no room"],
  ["data past the end", () => ggufHead(gemma, [norm]), "go past the end of the file"],
  ["a tensor twice", () => ggufFile(gemma, [norm, norm]), "appears twice"],
  ["a part of a split model", () => ggufFile({ ...gemma, "split.count": 3 }, [norm]), "one of 3 parts"],
  [
    "a strange alignment",
    () => ggufFile({ ...gemma, "general.alignment": 33 }, [norm]),
    "not a power of two",
  ],
  ["no architecture", () => ggufFile({ a: 1 }, [norm]), "general.architecture"],
  ["another architecture", () => ggufFile({ "general.architecture": "gemma4" }, [norm]), "Gemma 4"],
  ["an embedder", () => ggufFile({ "general.architecture": "gemma-embedding" }, [norm]), "EmbeddingGemma"],
  [
    "attention in both directions",
    () => ggufFile({ ...gemma, "gemma.attention.causal": false }, [norm]),
    "use_bidirectional_attention is true",
  ],
  ["a llama", () => ggufFile({ "general.architecture": "llama" }, [norm]), "not a Gemma"],
  [
    "heads that differ by layer",
    () => ggufFile({ ...gemma, "gemma.attention.head_count_kv": list("u32", [1, 2]) }, [norm]),
    "not one number",
  ],
  [
    "keys and values of different length",
    () => ggufFile({ ...gemma, "gemma.attention.value_length": 8 }, [norm]),
    "not the key length 4",
  ],
  [
    "a boolean of 2",
    () => {
      const bytes = ggufFile({ ...gemma, flag: true }, []);
      bytes[bytes.lastIndexOf(Buffer.from("flag")) + 8] = 2;
      return bytes;
    },
    "not a boolean",
  ],
])("%s is refused", async (_, make, what) => {
  const error: unknown = await openCheckpoint(await saved(make())).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof UserError)) throw error ?? new Error("it was accepted");
  expect(error.trouble).toBe("input");
  expect(error.message).toMatch(/\d\.gguf: /);
  expect(error.message).toContain(what);
});

test.each<[string, Record<string, Given>, string]>([
  ["of another kind", { "tokenizer.ggml.model": "gpt2" }, '"llama"'],
  [
    "with a score that is no number",
    { "tokenizer.ggml.scores": list("f32", [Number.NaN, 0]) },
    "scores holds NaN",
  ],
  ["without scores", { "tokenizer.ggml.scores": list("f32", [1]) }, "one for each token"],
  ["of numbers", { "tokenizer.ggml.tokens": list("u32", [1, 2]) }, "not a list of strings"],
  ["with a space before texts", { "tokenizer.ggml.add_space_prefix": true }, "no Gemma"],
])("a vocabulary %s is refused", async (_, part, what) => {
  const whole = {
    ...gemma,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": list("string", ["a", "b"]),
    "tokenizer.ggml.scores": list("f32", [0, -1]),
    "tokenizer.ggml.token_type": list("i32", [1, 1]),
  };
  await expect(loadTokenizer(await saved(ggufFile({ ...whole, ...part }, [])))).rejects.toThrow(what);
});

import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { UserError } from "../ir/error.ts";
import { checkWeights, openCheckpoint } from "../src/checkpoint/checkpoint.ts";

const models = join(import.meta.dirname, "data/models");
let root: string;
beforeAll(async () => void (root = await mkdtemp(join(tmpdir(), "gemmac-bad-"))));
afterAll(() => rm(root, { recursive: true }));

/** A folder that would be a good checkpoint, but for `files`; null removes one. */
async function broken(files: Record<string, string | Uint8Array | null>): Promise<string> {
  const dir = await mkdtemp(join(root, "case-"));
  for (const name of ["config.json", "generation_config.json", "model.safetensors"])
    if (files[name] === undefined) await cp(join(models, "gemma1-mqa", name), join(dir, name));
  for (const [name, content] of Object.entries(files))
    if (content !== null) await writeFile(join(dir, name), content);
  return dir;
}

/** A safetensors file of that header and that many bytes of data. */
function safetensors(header: unknown, data = 8, length?: bigint): Uint8Array {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(json.length));
  return Buffer.concat([prefix, json, Buffer.alloc(data)]);
}
const entry = (begin: unknown, end: unknown, shape: unknown = [2], dtype: unknown = "F32") => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});
const text = JSON.stringify;

async function refusal(run: () => unknown): Promise<UserError> {
  let caught: unknown;
  try {
    await run();
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(UserError);
  if (!(caught instanceof UserError)) throw caught;
  expect(caught.trouble).toBe("input");
  expect(caught.message).toMatch(/^[^\p{Cc}\u2028\u2029]+$/u);
  expect(caught.next).toMatch(/^[^\p{Cc}]+$/u);
  return caught;
}

const good = entry(0, 8);
const headers: Record<string, [Uint8Array, ...string[]]> = {
  "empty file": [Buffer.alloc(0), "0 bytes"],
  "truncated header": [safetensors({ x: good }).subarray(0, 20), "does not fit"],
  "header length 2^60": [safetensors({ x: good }, 8, 2n ** 60n), "over the limit"],
  "header that is not UTF-8": [safetensors("{}", 8, 6n).fill(0xff, 10), "not UTF-8"],
  "header that is not JSON": [safetensors('{"x": nope}'), "header:1:7", "unexpected n"],
  "header nested too deep": [safetensors("[".repeat(1_000_000)), "nested deeper"],
  "header that is an array": [safetensors("[]"), "object"],
  "header after a space": [safetensors(` ${text({ x: good })}`), "object"],
  "offsets past the end": [safetensors({ x: entry(0, 16, [4]) }), "tensor x", "past the end"],
  "overlapping tensors": [safetensors({ x: good, y: entry(4, 12) }, 12), "tensor y", "overlaps tensor x"],
  "negative offset": [safetensors({ x: entry(-8, 0) }), "tensor x", "[-8,0]"],
  "fractional offset": [safetensors({ x: entry(0, 8.5) }), "tensor x", "[0,8.5]"],
  "offset that is a string": [safetensors({ x: entry("0", 8) }), "tensor x", '["0",8]'],
  "three offsets": [safetensors({ x: { ...good, data_offsets: [0, 4, 8] } }), "tensor x"],
  "offsets that run backwards": [safetensors({ x: entry(8, 0) }), "tensor x", "backwards"],
  "duplicate name": [safetensors(`{"x":${text(good)},"x":${text(good)}}`), "x appears twice"],
  "duplicate name, escaped": [safetensors(`{"x":${text(good)},"\\u0078":${text(good)}}`), "x appears twice"],
  "wrong size": [safetensors({ x: entry(0, 8, [3]) }), "tensor x", "takes 12"],
  "wrong size for the dtype": [safetensors({ x: entry(0, 8, [2], "BF16") }), "tensor x", "takes 4"],
  "hole between tensors": [safetensors({ x: entry(0, 4, [1]), y: entry(8, 12, [1]) }, 12), "tensor y"],
  "hole at the start": [safetensors({ x: entry(4, 12) }, 12), "tensor x", "belong to no tensor"],
  "hole at the end": [safetensors({ x: good }, 9), "last 1 bytes"],
  "unknown dtype": [safetensors({ x: entry(0, 8, [1], "F64") }), "tensor x", "F64"],
  "dtype from the prototype": [safetensors({ x: entry(0, 8, [2], "toString") }), "tensor x", "toString"],
  "no dtype": [safetensors({ x: { shape: [2], data_offsets: [0, 8] } }), "tensor x", "no dtype"],
  "entry that is a number": [safetensors({ x: 5 }), "tensor x", "not an object"],
  "entry that is null": [safetensors('{"__proto__": null}'), "tensor __proto__", "not an object"],
  "negative shape": [safetensors({ x: entry(0, 8, [-2]) }), "tensor x", "[-2]"],
  "shape that overflows": [safetensors({ x: entry(0, 0, [2 ** 40, 2 ** 40, 0]) }), "tensor x", "overflows"],
  "name of two lines": [safetensors({ "a\nb\u2028": entry(0, 9) }, 9), 'tensor "a\\nb\\u{2028}"'],
  "very long name": [safetensors({ ["x".repeat(10_000)]: 5 }), "xxx..."],
  "metadata that is a list": [safetensors({ __metadata__: [], x: good }), "__metadata__"],
  "git-lfs pointer": [Buffer.from("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git-lfs"],
};

describe("safetensors", () => {
  test.each(Object.entries(headers))("%s", async (_, [bytes, ...words]) => {
    const dir = await broken({ "model.safetensors": bytes });
    const { message } = await refusal(() => openCheckpoint(dir));
    for (const word of ["model.safetensors", ...words]) expect(message).toContain(word);
    expect(message.length).toBeLessThan(400);
  });
});

const shards = (map: unknown, shard: Uint8Array | null = safetensors({ x: good })) => ({
  "model.safetensors": null,
  "a.safetensors": shard,
  "model.safetensors.index.json": text({ weight_map: map }),
});
const folders: Record<string, [Record<string, string | Uint8Array | null>, ...string[]]> = {
  "index path above the folder": [shards({ x: "../a.safetensors" }), "tensor x", "../a.safetensors"],
  "index path that is absolute": [shards({ x: "/tmp/a.safetensors" }), "tensor x", "/tmp/a.safetensors"],
  "index path in another folder": [shards({ x: "b/a.safetensors" }), "tensor x", "b/a.safetensors"],
  "index path of Windows": [shards({ x: "..\\a.safetensors" }), "tensor x"],
  "index value that is a number": [shards({ x: 1 }), "tensor x"],
  "index without a map": [shards([]), "index.json", "weight_map"],
  "missing shard": [shards({ x: "a.safetensors" }, null), "index.json", "a.safetensors"],
  "tensor that its shard lacks": [shards({ y: "a.safetensors" }), "a.safetensors", "tensor y"],
  "two names for one tensor": [
    { "model.safetensors": safetensors({ "norm.w": good, "model.norm.w": entry(8, 16) }, 16) },
    "tensor model.norm.w",
  ],
  "malformed config": [{ "config.json": '{\n  "a": 1,\n  "b" 2\n}' }, "config.json:3:7", "unexpected"],
  "config that ends early": [{ "config.json": '{"a": [1,' }, "config.json:1:10", "too early"],
  "config with NaN": [{ "config.json": '{"rms_norm_eps": NaN}' }, "config.json:1:18", "N"],
  "config with a repeated key": [
    { "config.json": '{"a": 1, "a": 2}' },
    "config.json:1:10",
    "a appears twice",
  ],
  "config that is a list": [{ "config.json": "[]" }, "config.json", "object"],
  "config that is a pointer": [{ "config.json": "version https://git-lfs.github.com/spec/v1\n" }, "git-lfs"],
  "an embedder": [{ "modules.json": "[]" }, "modules.json", "EmbeddingGemma"],
  "no config": [{ "config.json": null }, "no config.json"],
  "eos outside the vocabulary": [{ "generation_config.json": '{"eos_token_id": [1, 512]}' }, "eos_token_id"],
  "temperature in words": [{ "generation_config.json": '{"temperature": "hot"}' }, "temperature", "hot"],
  "only PyTorch weights": [
    { "model.safetensors": null, "pytorch_model.bin": "" },
    "neither model.safetensors",
  ],
};

describe("folder", () => {
  test.each(Object.entries(folders))("%s", async (_, [files, ...words]) => {
    const { message } = await refusal(async () => openCheckpoint(await broken(files)));
    for (const word of words) expect(message).toContain(word);
  });

  test("what to do next fits what is there", async () => {
    const next = async (dir: string) => (await refusal(() => openCheckpoint(dir))).next;
    const only = (name: string) =>
      broken({ "config.json": null, "generation_config.json": null, "model.safetensors": null, [name]: "x" });
    const gguf = await only("m.gguf");
    expect(await next(gguf)).toContain("GGUF");
    const cut = await refusal(() => openCheckpoint(join(gguf, "m.gguf")));
    expect(cut.message).toContain("too short for a GGUF file");
    const torch = await broken({ "model.safetensors": null, "pytorch_model.bin": "" });
    expect(await next(torch)).toContain("safe_serialization");
    expect(await next(join(torch, "pytorch_model.bin"))).toContain("safe_serialization");
    expect(await next("google/gemma-2b")).toContain("hf download google/gemma-2b");
    const cache = await only("refs");
    await mkdir(join(cache, "snapshots"));
    expect(await next(cache)).toContain("snapshots");
  });

  test("a folder in the place of a file", async () => {
    const dir = await broken({ "model.safetensors": null });
    await mkdir(join(dir, "model.safetensors"));
    expect((await refusal(() => openCheckpoint(dir))).message).toContain("not a file");
  });
});

describe("checkWeights", () => {
  const check = async (name: string, shape: number[], files = {}) => {
    const checkpoint = await openCheckpoint(await broken(files));
    try {
      return await refusal(() => checkWeights([{ name, shape }], checkpoint.weights));
    } finally {
      await checkpoint.close();
    }
  };
  test("missing tensor", async () => {
    const layer = await check("model.layers.3.input_layernorm.weight", [64]);
    expect(layer.message).toContain("tensor model.layers.3.input_layernorm.weight");
    expect(layer.message).toContain("[64]");
    expect(layer.next).toContain("num_hidden_layers");
    expect((await check("lm_head.weight", [512, 64])).next).toContain("tie_word_embeddings");
  });
  test("shape that differs from the config", async () => {
    const config = JSON.parse(await readFile(join(models, "gemma1-mqa/config.json"), "utf8"));
    const files = { "config.json": text({ ...config, vocab_size: 600 }) };
    const { message, next } = await check("model.embed_tokens.weight", [600, 64], files);
    expect(message).toBe(
      "tensor model.embed_tokens.weight: has shape [512,64], but the config asks for [600,64]",
    );
    expect(next).toBe("check vocab_size in config.json");
  });
  test("quantized tensor", async () => {
    const files = { "model.safetensors": safetensors({ x: entry(0, 8, [8], "I8") }) };
    expect((await check("x", [8], files)).message).toContain("i8");
  });
});

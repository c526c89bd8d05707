import { cp, mkdtemp, readFile, rename, rm, symlink, unlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Weights } from "../backends/weights.ts";
import { checkWeights, openCheckpoint, openWeights } from "../src/checkpoint/checkpoint.ts";
import { type Writable, writeSafetensors } from "../src/checkpoint/safetensors.ts";

const models = join(import.meta.dirname, "data/models");
let root: string;
beforeAll(async () => void (root = await mkdtemp(join(tmpdir(), "gemmac-checkpoint-"))));
afterAll(() => rm(root, { recursive: true }));

const json = async (...path: string[]) => JSON.parse(await readFile(join(models, ...path), "utf8"));

async function floats(weights: Weights, name: string): Promise<Float32Array> {
  const info = weights.info(name);
  if (!info) throw new Error(`no ${name}`);
  const bytes = new Uint8Array(info.bytes);
  await weights.read(name, 0, bytes);
  if (info.dtype === "f32") return new Float32Array(bytes.buffer);
  return Float32Array.from(new Uint16Array(bytes.buffer), (bits) => {
    const word = new Uint32Array([bits << 16]);
    return new Float32Array(word.buffer)[0] ?? Number.NaN;
  });
}

describe("checkpoint", () => {
  test.each(["gemma1-mqa", "gemma1-mha"])("%s opens, and its tensors fit its config", async (name) => {
    const checkpoint = await openCheckpoint(join(models, name));
    const { config, weights, generation, files } = checkpoint;
    expect(files.map((f) => f.path)).toEqual(["config.json", "generation_config.json", "model.safetensors"]);
    expect(generation).toMatchObject({ bos: 2, eos: [1], pad: 0, sample: false, temperature: null });
    const query = {
      name: "model.layers.2.self_attn.q_proj.weight",
      shape: [config.heads * config.headDim, config.width],
    };
    const warnings = checkWeights([query], weights);
    expect(warnings).toContain('"model.layers.*.self_attn.q_proj.weight" is not used (2 tensors)');
    await checkpoint.close();
  });

  test("the embedding is what the golden hidden state was scaled from", async () => {
    const name = "gemma1-mha";
    const checkpoint = await openCheckpoint(join(models, name));
    const { width } = checkpoint.config;
    const table = await floats(checkpoint.weights, "model.embed_tokens.weight");
    await checkpoint.close();

    await cp(join(models, name, "golden.safetensors"), join(root, "golden", "model.safetensors"));
    const { weights } = await openWeights(join(root, "golden"));
    const hidden = await floats(weights, "p2.hidden.embed");
    await weights.close();
    const { prompts } = await json(name, "golden.json");
    const ids: number[] = prompts[2].input_ids;
    expect(hidden).toHaveLength(ids.length * width);
    ids.forEach((id, row) => {
      for (let i = 0; i < width; i++)
        expect(hidden[row * width + i]).toBeCloseTo(
          (table[id * width + i] ?? Number.NaN) * Math.sqrt(width),
          5,
        );
    });
  });

  test("shards read as one", async () => {
    const { weights, files } = await openWeights(join(models, "gemma2"));
    const { weight_map: map } = await json("gemma2", "model.safetensors.index.json");
    expect([...weights.names()].sort()).toEqual(Object.keys(map).sort());
    expect(files).toHaveLength(4);
    const whole = await floats(weights, "model.layers.3.mlp.down_proj.weight");
    expect(whole).toHaveLength(64 * 128);
    const part = new Float32Array(5);
    await weights.read("model.layers.3.mlp.down_proj.weight", 400, new Uint8Array(part.buffer));
    expect(part).toEqual(whole.slice(100, 105));
    await expect(weights.read("model.norm.weight", 252, new Uint8Array(8))).rejects.toThrow(RangeError);
    await expect(weights.read("model.norm", 0, new Uint8Array(8))).rejects.toThrow(RangeError);
    await weights.close();
  });

  test("what is written reads back, and twice the same", async () => {
    const tensors: Record<string, Writable> = {
      "b\n": { dtype: "f32", shape: [2, 3], data: Float32Array.of(1, -2, 0.5, 4, 5, 6) },
      a: { dtype: "i32", shape: [], data: Int32Array.of(-7) },
      empty: { dtype: "f32", shape: [0, 3], data: new Float32Array() },
    };
    const path = join(root, "written", "model.safetensors");
    await cp(join(models, "gemma1-mqa"), join(root, "written"), { recursive: true });
    await writeSafetensors(path, tensors);
    const first = await readFile(path);
    await writeSafetensors(path, Object.fromEntries(Object.entries(tensors).reverse()));
    expect(await readFile(path)).toEqual(first);
    expect(first.readBigUInt64LE() % 8n).toBe(0n);
    const { weights } = await openWeights(join(root, "written"));
    expect([...weights.names()]).toEqual(["a", "b\n", "empty"]);
    expect(await floats(weights, "b\n")).toEqual(tensors["b\n"]?.data);
    await weights.close();
    const short = { x: { dtype: "f32", shape: [2], data: new Float32Array(3) } } as const;
    await expect(writeSafetensors(path, short)).rejects.toThrow(TypeError);
  });

  test.each(["", "model.", "language_model.model.", "model.language_model."])(
    "names that begin with %j become canonical",
    async (prefix) => {
      const dir = await mkdtemp(join(root, "prefix-"));
      const one: Writable = { dtype: "f32", shape: [1], data: Float32Array.of(1) };
      await writeSafetensors(join(dir, "model.safetensors"), {
        [`${prefix}norm.weight`]: one,
        [`${prefix}layers.0.mlp.up_proj.weight`]: one,
        "vision_tower.norm.weight": one,
      });
      const { weights } = await openWeights(dir);
      const names = ["model.layers.0.mlp.up_proj.weight", "model.norm.weight", "vision_tower.norm.weight"];
      expect([...weights.names()].sort()).toEqual(names);
      await weights.close();
    },
  );

  test("a vocabulary that the config does not state has as many entries as the table has rows", async () => {
    const dir = join(root, "vocabulary");
    await cp(join(models, "gemma3"), dir, { recursive: true });
    const { vocab_size: _, ...rest } = await json("gemma3", "config.json");
    await writeFile(join(dir, "config.json"), JSON.stringify(rest));
    const checkpoint = await openCheckpoint(dir);
    expect(checkpoint.config.vocab).toBe(600);
    expect(checkpoint.keys.find(({ key }) => key === "vocab_size")).toMatchObject({
      value: 600,
      source: "derived",
    });
    await checkpoint.close();
  });

  test("a file may be a link out of the folder, as in the Hub's cache", async () => {
    const dir = join(root, "linked");
    await cp(join(models, "gemma1-mqa"), dir, { recursive: true });
    await rename(join(dir, "model.safetensors"), join(root, "blob"));
    await symlink("../blob", join(dir, "model.safetensors"));
    await (await openCheckpoint(dir)).close();
  });

  test("generation settings come from config.json where there are no others, and a null means none", async () => {
    const dir = join(root, "generation");
    await cp(join(models, "gemma1-mqa"), dir, { recursive: true });
    const own = { eos_token_id: [1, 107], bos_token_id: null, do_sample: true, temperature: 0.7 };
    await writeFile(join(dir, "generation_config.json"), JSON.stringify(own));
    const stated = await openCheckpoint(dir);
    expect(stated.generation).toMatchObject({
      bos: null,
      eos: [1, 107],
      pad: 0,
      sample: true,
      temperature: 0.7,
    });
    await stated.close();
    await unlink(join(dir, "generation_config.json"));
    const fallback = await openCheckpoint(dir);
    expect(fallback.generation).toMatchObject({ bos: 2, eos: [1], pad: 0, sample: false });
    expect(fallback.files.map((f) => f.path)).toEqual(["config.json", "model.safetensors"]);
    await fallback.close();
  });
});

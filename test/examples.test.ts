import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeSafetensors } from "../src/checkpoint/safetensors.ts";
import { compile, openModel } from "../src/index.ts";
import { distance, readF32 } from "./support/goldens.ts";
import { random } from "./support/random-graph.ts";
import { library, tiny, Workbench } from "./support/workbench.ts";

const example = (name: string) => join(import.meta.dirname, "../examples", name);
const ids = [2, 17, 101, 5, 44];
let bench: Workbench;
beforeAll(async () => void (bench = await Workbench.make()));
afterAll(() => bench.remove());

async function logits(path: string): Promise<Float32Array> {
  const model = await openModel(path);
  try {
    return (await model.session.append(ids)).logits;
  } finally {
    await model.close();
  }
}

describe("examples", () => {
  let base: Float32Array;
  beforeAll(async () => {
    await compile(tiny, { targets: ["onnx"], profile: "standard", out: bench.path("base") });
    base = await logits(bench.path("base"));
  });

  /** Compiles with an example on the command line. */
  async function built(name: string, spec: string, ...args: string[]): Promise<string> {
    const { code, err } = await bench.compile(name, "--pass", example(spec), ...args);
    expect(err.replace(/^.*no tokenizer\.json.*\n/gm, "")).not.toContain("gemmac:");
    expect(code).toBe(0);
    return bench.path(name);
  }

  /** A checkpoint with other weights, all f32. */
  async function checkpoint(
    name: string,
    from: string,
    change: (tensors: Map<string, Float32Array>) => void,
    settings: object = {},
  ): Promise<string> {
    const dir = bench.path(name);
    await mkdir(dir);
    const config = JSON.parse(await readFile(join(from, "config.json"), "utf8"));
    await writeFile(join(dir, "config.json"), JSON.stringify({ ...config, ...settings }));
    const tensors = await readF32(join(from, "model.safetensors"));
    change(tensors);
    const width: number = config.hidden_size;
    const inner: number = config.num_attention_heads * config.head_dim;
    const columns = (key: string) =>
      key.includes("o_proj") ? inner : key.includes("down_proj") ? config.intermediate_size : width;
    const shape = (key: string, data: Float32Array) =>
      key.includes("norm") ? [data.length] : [data.length / columns(key), columns(key)];
    await writeSafetensors(
      join(dir, "model.safetensors"),
      Object.fromEntries(
        [...tensors].map(([key, data]) => [key, { dtype: "f32", shape: shape(key, data), data }]),
      ),
    );
    return dir;
  }

  test("scale-the-query leaves the logits", async () => {
    const dir = await built(
      "scaled",
      "scale-the-query.ts",
      "--print-after",
      "scale-the-query",
      "--print-to",
      "scaled-ir",
    );
    const [file = ""] = await readdir(bench.path("scaled-ir"));
    const text = await readFile(bench.path("scaled-ir", file), "utf8");
    expect(text.match(/= attention .* scale=1 /g)).toHaveLength(3);
    const moved = distance(await logits(dir), base);
    expect(moved).toBeLessThan(1e-5);
  });

  test("cap-logits bounds them", async () => {
    const capped = await logits(await built("capped", "cap-logits.ts{cap=0.5}"));
    const want = base.map((x) => 0.5 * Math.tanh(x / 0.5));
    expect(base.some((x) => Math.abs(x) > 0.5)).toBe(true);
    expect(capped.every((x) => Math.abs(x) <= 0.5)).toBe(true);
    expect(distance(capped, want)).toBeLessThan(1e-5);
  });

  test("new-op is found, and means what it is short for", async () => {
    const dir = await built(
      "fused",
      "new-op.ts",
      "--profile",
      "standard",
      "--print-after",
      "residual-linear",
      "--print-to",
      "fused-ir",
    );
    const [file = ""] = await readdir(bench.path("fused-ir"));
    const text = await readFile(bench.path("fused-ir", file), "utf8");
    expect(text.match(/= residual_linear /g)).toHaveLength(6);
    expect(distance(await logits(dir), base)).toBe(0);
  });

  test("prune-layers leaves the model that never had them", async () => {
    const dir = await built("pruned", "prune-layers.ts{from=1,to=2}");
    const hand = await checkpoint(
      "pruned-by-hand",
      tiny,
      (tensors) => {
        for (const key of [...tensors.keys()].filter((k) => k.startsWith("model.layers.1."))) {
          tensors.set(key, tensors.get(key.replace(".1.", ".2.")) as Float32Array);
          tensors.delete(key.replace(".1.", ".2."));
        }
      },
      { num_hidden_layers: 2 },
    );
    expect(distance(await logits(dir), await logits(hand))).toBeLessThan(1e-5);
    expect(JSON.parse(await readFile(join(dir, "config.json"), "utf8")).num_hidden_layers).toBe(2);
    const run = await bench.gemmac(
      "logits",
      "pruned",
      "--ids",
      "2,5",
      "--generate",
      "4",
      "--out",
      "pruned.safetensors",
    );
    expect([run.code, run.err]).toEqual([0, ""]);
    const wrong = await bench.compile("wrong", "--pass", example("prune-layers.ts{from=1,to=9}"));
    expect(wrong).toMatchObject({ code: 3, err: expect.stringContaining("the graph has no model/layers.8") });
  });

  test.each(["gemma1-mqa", "gemma1-mha"])("merge-lora equals %s merged by hand", async (name) => {
    const from = join(import.meta.dirname, "data/models", name);
    const [rank, alpha] = [2, 6];
    const next = random(5);
    const numbers = (n: number) => Float32Array.from({ length: n }, () => (2 * next() - 1) / 8);
    const tensors = await readF32(join(from, "model.safetensors"));
    const config = JSON.parse(await readFile(join(from, "config.json"), "utf8"));
    const width: number = config.hidden_size;
    const adapter: Record<string, { dtype: "f32"; shape: number[]; data: Float32Array }> = {};
    const hand = await checkpoint(`${name}-by-hand`, from, (mine) => {
      for (const [key, w] of tensors) {
        if (!/\.(q|v)_proj\.weight$/.test(key)) continue;
        const rows = w.length / width;
        const [a, b] = [numbers(rank * width), numbers(rows * rank)];
        const path = `base_model.model.${key.replace(/\.weight$/, "")}`;
        adapter[`${path}.lora_A.weight`] = { dtype: "f32", shape: [rank, width], data: a };
        adapter[`${path}.lora_B.weight`] = { dtype: "f32", shape: [rows, rank], data: b };
        const merged = w.map((x, i) => {
          const [row, column] = [Math.floor(i / width), i % width];
          let sum = 0;
          for (let r = 0; r < rank; r++) sum += (b[row * rank + r] ?? 0) * (a[r * width + column] ?? 0);
          return x + (alpha / rank) * sum;
        });
        mine.set(key, merged);
      }
    });
    const folder = bench.path(`${name}-adapter`);
    await mkdir(folder);
    await writeSafetensors(join(folder, "adapter_model.safetensors"), adapter);
    const spec = `${example("merge-lora.ts")}{rank=${rank},alpha=${alpha}}`;
    const args = ["compile", from, "--target", "onnx", "--pass", spec, "--weights-from", folder];
    const { code } = await bench.gemmac(...args, "--out", `${name}-tuned`);
    expect(code).toBe(0);
    const tuned = await logits(bench.path(`${name}-tuned`));
    expect(distance(tuned, await logits(hand))).toBeLessThan(1e-4);
    expect(distance(tuned, await logits(from))).toBeGreaterThan(0.01);
    if (name !== "gemma1-mqa") return;

    const script = `import { loadPasses, compile } from ${library};
      for (const [spec, extraWeights] of ${JSON.stringify([
        [spec, []],
        [spec.replace("rank=2", "rank=3"), [folder]],
      ])})
        await compile(${JSON.stringify(from)}, { targets: ["onnx"], out: "never", insert: await loadPasses(spec), extraWeights })
          .catch((e) => console.log(e.trouble, e.message));`;
    expect((await bench.script(script)).out.split("\n")).toEqual([
      expect.stringMatching(
        /^input weight \S+\.lora_[AB]\.weight : \S+: is asked for by a pass, but no file holds/,
      ),
      expect.stringMatching(/^input weight \S+: is f32\[\d+,2\], but a pass asks for f32\[\d+,3\]$/),
      "",
    ]);
    const source = JSON.parse(await readFile(bench.path(`${name}-tuned`, "manifest.json"), "utf8")).source;
    expect(source.files.map((f: { path: string }) => f.path)).toContain("adapter_model.safetensors");
  });
});

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { legalize } from "../backends/backend.ts";
import { modulesOf } from "../backends/stablehlo/emit.ts";
import { stablehlo } from "../backends/stablehlo/index.ts";
import { exportedBlob, treesOf } from "../backends/stablehlo/jax/exported.ts";
import { nameOfAll, nameOfOne } from "../backends/stablehlo/layers/names.ts";
import { literal } from "../backends/stablehlo/text/dialect.ts";
import { MainFunction } from "../backends/stablehlo/text/read.ts";
import { parsePipeline, runPasses } from "../passes/pipeline.ts";
import { compile } from "../src/compile.ts";
import type { GemmaConfig } from "../src/model/config.ts";
import { gemma } from "../src/model/gemma.ts";
import { preset } from "../src/model/presets.ts";
import { plan } from "../src/plan/plan.ts";
import { Workbench } from "./support/workbench.ts";

const root = mkdtempSync(join(tmpdir(), "gemmac-stablehlo-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const tiny = join(import.meta.dirname, "data/models/gemma1-mha");

const config = {
  ...preset("gemma-2b"),
  vocab: 64,
  width: 16,
  hidden: 32,
  layers: 1,
  heads: 4,
  headDim: 8,
  context: 32,
};
const tuning = { batch: 1, prefill: 4, rows: 1, scanLayers: false, arithmetic: "f32" } as const;
const backend = stablehlo({ capacity: 32 });
const graph = legalize(runPasses(gemma(config), backend.passes).graph, backend);
const modules = modulesOf(graph, tuning);

test.each(["prefill", "decode"] as const)("the text of %s", async (name) => {
  await expect(modules[name].text).toMatchFileSnapshot(`golden/stablehlo/${name}.mlir`);
});

describe("layers as a loop", () => {
  const looped = (model: GemmaConfig) => {
    const g = legalize(runPasses(gemma(model), backend.passes).graph, backend);
    return modulesOf(g, { ...tuning, scanLayers: true });
  };

  test("the text of decode", async () => {
    await expect(looped({ ...config, layers: 3 }).decode.text).toMatchFileSnapshot(
      "golden/stablehlo/decode-scan.mlir",
    );
  });

  test("is no longer for more layers", () => {
    const [a, b] = [4, 9].map((layers) => looped({ ...config, layers }).decode.text.length);
    expect(a).toBe(b);
  });

  test("is read as if each layer were written", () => {
    const layers = legalize(runPasses(gemma({ ...config, layers: 3 }), backend.passes).graph, backend);
    const [plain, scan] = [modulesOf(layers, tuning), looped({ ...config, layers: 3 })];
    for (const name of ["prefill", "decode"] as const) {
      const [a, b] = [plain, scan].map((m) => new MainFunction(m[name].text));
      expect(b?.args.map((x) => x.name).sort()).toEqual(a?.args.map((x) => x.name).sort());
      expect(b?.results.length).toBe(a?.results.length);
      const origins = Object.entries(scan[name].activations);
      // In prefill the last layer computes one row only, when it need not be like the others.
      if (name === "decode") expect(scan[name].activations).toEqual(plain[name].activations);
      for (const [, value] of origins) expect(b?.typeOf(value).rank).toBeGreaterThan(1);
      expect(b?.watching([])).toContain("stablehlo.while");
      expect(b?.watching([origins[0]?.[1] as string])).not.toContain("stablehlo.while");
    }
  });

  test("layers of two kinds take turns together", () => {
    const layerTypes = [0, 1, 2].flatMap(() => ["sliding", "full"] as const);
    const small = { ...config, kvHeads: 2, layers: 6, window: 8, layerTypes, family: "gemma2" };
    const { decode } = looped({ ...preset("gemma-2-2b"), ...small } as GemmaConfig);
    expect(decode.args.filter((a) => a.group === "caches").map((a) => [a.name, a.stack?.length])).toEqual([
      ["past_key_values.2n+1.key", 3],
      ["past_key_values.2n+1.value", 3],
      ["past_key_values.2n.key", 3],
      ["past_key_values.2n.value", 3],
    ]);
  });

  test("one layer is none", () => {
    expect(() => looped({ ...config, layers: 1 })).toThrow("no group of layers is followed by one like it");
  });
});

test.each<[string[], string | undefined, string[]]>([
  [["a.0.b", "a.1.b", "a.2.b"], "a.n.b", ["%a.0.b", "%a.1.b", "%a.2.b"]],
  [["a.1.b", "a.7.b"], "a.6n+1.b", ["%a.1.b", "%a.7.b"]],
  [["a.0.b", "a.2.b", "a.3.b"], undefined, []],
  [["a.0.b", "a.1.c"], undefined, []],
  [["a.x.b", "a.y.b"], undefined, []],
  [["a.3", "a.2"], undefined, []],
])("%j together are %s", (names, all, each) => {
  expect(nameOfAll(names)).toBe(all);
  expect(all === undefined ? [] : names.map((_, n) => nameOfOne(`%${all}`, n))).toEqual(each);
});

test("every function that a composite names is there, once", () => {
  for (const { text } of Object.values(modules)) {
    const named = new Set([...text.matchAll(/decomposition = @([\w.]+)/g)].map((m) => m[1]));
    const defined = [...text.matchAll(/func\.func private @([\w.]+)\(/g)].map((m) => m[1]);
    expect(new Set(defined)).toEqual(named);
    expect(defined.length).toBe(named.size);
  }
});

test.each<[number, Parameters<typeof literal>[1], string]>([
  [1, "f32", "1.0"],
  [1e-6, "f32", "9.999999974752427e-7"],
  [-0, "f32", "-0.0"],
  [1e30, "f32", "1.0000000150474662e+30"],
  [Number.NEGATIVE_INFINITY, "f32", "0xFF800000"],
  [Number.POSITIVE_INFINITY, "bf16", "0x7F80"],
  [1.001, "bf16", "1.0"],
  [-3, "i32", "-3"],
  [1, "bool", "true"],
])("%d as %s is written %s", (value, dtype, text) => expect(literal(value, dtype)).toBe(text));

describe("a module is read back", () => {
  const main = new MainFunction(modules.decode.text);

  test("whole", () => {
    expect(main.args.length).toBe(modules.decode.args.length);
    expect(main.results.map((r) => String(r.type))).toEqual(
      modules.decode.results.map((r) => String(r.type)),
    );
    const plain = modules.decode.text.replace(/ \{jax\.result_info = "[^"]*"\}/g, "");
    expect(main.watching([])).toBe(plain);
  });

  test("in part: only what lies between", () => {
    const norm = "%model.layers.0.post_attention_layernorm";
    const given = [{ name: norm, type: main.typeOf(norm) }];
    const part = main.part(given, ["%model.layers.0.mlp.geglu"]);
    expect(part.args.map((a) => a.name)).toEqual([
      "model.layers.0.mlp.gate_proj.weight",
      "model.layers.0.mlp.up_proj.weight",
      `given.${norm.slice(1)}`,
    ]);
    expect(part.text.match(/stablehlo\.dot_general/g)?.length).toBe(2 + 2); // attention's two stand beside
  });

  test("but not a text of someone else", () => {
    expect(() => new MainFunction("module {}")).toThrow(SyntaxError);
  });
});

test("the blob holds the text, a type for each argument and each result, and trees by name", () => {
  const { decode } = modules;
  const view = new Reader(exportedBlob({ name: "decode", ...decode, ...treesOf(decode) }));
  const slots = { name: 1, in: 2, text: 13, devices: 18, avals: 19, args: 22, results: 23 };
  expect(view.text(view.field(view.root, slots.name))).toBe("decode");
  expect(view.text(view.field(view.root, slots.text))).toBe(decode.text);
  expect(view.length(view.field(view.root, slots.args))).toBe(decode.args.length);
  expect(view.length(view.field(view.root, slots.results))).toBe(decode.results.length);
  const positional = view.item(view.children(view.field(view.root, slots.in)), 0);
  expect(view.length(view.children(positional))).toBe(4); // weights, caches, tokens, start
  const names = view.field(view.item(view.children(positional), 1), 2);
  expect([0, 1].map((i) => view.text(view.item(names, i)))).toEqual([
    "past_key_values.0.key",
    "past_key_values.0.value",
  ]);
});

/** As much of a FlatBuffer reader as looks at tables, lists and strings. */
class Reader {
  readonly bytes: Buffer;
  constructor(bytes: Uint8Array) {
    this.bytes = Buffer.from(bytes);
  }
  get root(): number {
    return this.bytes.readUInt32LE(0);
  }
  field(table: number, slot: number): number {
    const places = table - this.bytes.readInt32LE(table);
    const at = this.bytes.readUInt16LE(places + 4 + 2 * slot);
    expect(at).not.toBe(0);
    return table + at + this.bytes.readUInt32LE(table + at);
  }
  children = (tree: number) => this.field(tree, 1);
  length = (list: number) => this.bytes.readUInt32LE(list);
  item(list: number, i: number): number {
    const at = list + 4 + 4 * i;
    return at + this.bytes.readUInt32LE(at);
  }
  text(at: number): string {
    return this.bytes.toString("utf8", at + 4, at + 4 + this.bytes.readUInt32LE(at));
  }
}

test("an artifact: the same bytes each time, weights as stored, arguments in the manifest", async () => {
  const options = { targets: ["stablehlo"], capacity: 64, prefill: 8, verify: false };
  const [a, b] = [join(root, "a"), join(root, "b")];
  const report = await compile(tiny, { ...options, out: a });
  await compile(tiny, { ...options, out: b });
  const files = report.targets[0]?.files.map((f) => f.path) ?? [];
  expect(files).toEqual(expect.arrayContaining(["decode.jaxexp", "decode.mlir", "README.md", "run.py"]));
  for (const f of files) expect(readFileSync(join(a, f)).equals(readFileSync(join(b, f))), f).toBe(true);
  const manifest = JSON.parse(readFileSync(join(a, "manifest.json"), "utf8"));
  expect(manifest.facts.context).toBe(64);
  const [first] = manifest.modules.decode.args;
  expect(first).toEqual({
    group: "weights",
    name: "model.embed_tokens.weight",
    dtype: "bf16",
    shape: [512, 96],
  });
});

test("the plan of an artifact is that artifact to the byte, with scan and mesh", async () => {
  const shape = { batch: 2, capacity: 64, prefill: 8, mesh: "data=2,model=4", scanLayers: true };
  const planned = await plan(tiny, { target: "stablehlo", ...shape });
  const out = join(root, "planned");
  const report = await compile(tiny, { targets: ["stablehlo"], out, verify: false, ...shape });
  const sizes = (files: readonly { path: string; bytes: number }[]) =>
    Object.fromEntries(files.map(({ path, bytes }) => [path, bytes]));
  expect(sizes(planned.artifact.files)).toEqual(sizes(report.targets[0]?.files ?? []));
  const classes = Object.values(planned.artifact.classes);
  expect(classes.reduce((a, b) => a + b, 0)).toBe(planned.artifact.bytes);
  const rows = { decode: 1, prefill: 8 };
  const width = 96;
  // The table's rows are bf16, the sums of three layers f32.
  for (const [name, tokens] of Object.entries(rows) as ["decode" | "prefill", number][])
    expect(planned.device?.[name]).toEqual({ allReduces: 1 + 2 * 3, bytes: tokens * width * (2 + 6 * 4) });
  expect(planned.device?.caches).toBe(planned.cache.contexts[0] && (planned.cache.contexts[0].bytes * 2) / 8);
});

test("a plan says what XLA is free to choose", async () => {
  const { limits } = await plan("gemma-2-2b", { target: "stablehlo", mesh: "model=8,fsdp=2" });
  expect(limits).toEqual([expect.stringContaining("over fsdp"), expect.stringContaining("4 key heads")]);
});

test("a step of prefill is no longer than the caches that the passes made", async () => {
  const pipeline = parsePipeline("fuse,insert-kv-cache{capacity=24}");
  const out = join(root, "short");
  await compile(tiny, { targets: ["stablehlo"], out, pipeline, verify: false });
  expect(readFileSync(join(out, "README.md"), "utf8")).toContain("takes 24 tokens a step");
  const { modules } = JSON.parse(readFileSync(join(out, "manifest.json"), "utf8"));
  const tokens = modules.prefill.args.find((a: { name: string }) => a.name === "tokens");
  expect(tokens.shape).toEqual([1, 24]);
});

test("what it does not do is refused in a line", async () => {
  const bench = await Workbench.make();
  try {
    const compiling = (...args: string[]) =>
      bench.gemmac("compile", tiny, "-t", "stablehlo", "-o", "out", ...args);
    const batch = await compiling("--batch", "dynamic");
    expect([batch.code, batch.err]).toEqual([2, expect.stringContaining("fixed when a model is compiled")]);
    const codes = await compiling("--quant", "int4");
    expect([codes.code, codes.err]).toEqual([3, expect.stringContaining("use --quant int8")]);
    const growing = await compiling("--passes", "fuse,insert-kv-cache");
    expect([growing.code, growing.err]).toEqual([2, expect.stringContaining("caches of a fixed size")]);
  } finally {
    await bench.remove();
  }
});

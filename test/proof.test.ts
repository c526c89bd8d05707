import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, afterEach, expect, test, vi } from "vitest";
import { Parts } from "../backends/onnx/index.ts";
import { openReference } from "../backends/reference/index.ts";
import { decodeRows, encodeRows } from "../backends/stream/index.ts";
import { parsePipeline, runPasses } from "../passes/pipeline.ts";
import { readManifest } from "../src/artifact/manifest.ts";
import { openCheckpoint } from "../src/checkpoint/checkpoint.ts";
import { compile } from "../src/compile.ts";
import { modelGraph } from "../src/model/load.ts";
import { difference } from "../src/verify/compare.ts";
import { clientFeeds } from "../src/verify/feeds.ts";
import { shareOff } from "../src/verify/proof.ts";
import { codedProducts, roundedOrigin, withRounded } from "../src/verify/rounding.ts";
import { allowedByCodes } from "../src/verify/whole.ts";

const dir = join(import.meta.dirname, "data/models/gemma1-mqa");
const root = mkdtempSync(join(tmpdir(), "gemmac-proof-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
afterEach(() => vi.restoreAllMocks());
const ids = [2, 5, 7, 11];
/** What products multiply, by origin. */
const pairs: Readonly<Record<string, string>> = {
  "model/layers.0/self_attn/q_proj": "model/layers.0/input_layernorm",
  "model/layers.0/self_attn/o_proj": "model/layers.0/self_attn/attention",
  "model/layers.0/mlp/up_proj": "model/layers.0/post_attention_layernorm",
  "model/layers.0/mlp/down_proj": "model/layers.0/mlp/geglu",
  logits: "model/norm",
};
const isProduct = (name: string): boolean => /_proj$/.test(name);

test.each(["int8", "int4", "int4,range=middle"])(
  "%s: a rounded factor stays when it is rounded again",
  async (scheme) => {
    const checkpoint = await openCheckpoint(dir);
    const { graph, facts } = modelGraph(checkpoint);
    const passes = parsePipeline(
      `fuse-linear,quantize{scheme=${scheme}},fuse-quant,fold-weights{work=blockwise}`,
    );
    const quantized = runPasses(graph, passes).graph;
    const origins = [...quantized.origins.values()];
    const products = codedProducts(quantized, origins).filter((p) => p.factor);
    expect(products.map((p) => p.product).filter(isProduct)).toHaveLength(7 * facts.layers);
    const run = (g: typeof graph, watch: readonly string[]) =>
      openReference(g, checkpoint.weights, { facts, watch }).append(ids);
    const more = products.flatMap((p) => [p.product, p.factor as string]).map(roundedOrigin);
    const [plain, both] = [
      await run(quantized, origins),
      await run(withRounded(quantized, products), [...origins, ...more]),
    ];
    // What was there before is so to the bit.
    expect(both.logits).toEqual(plain.logits);
    for (const [origin, value] of plain.watched) expect(both.watched.get(origin), origin).toEqual(value);
    for (const { product, factor = "", block } of products) {
      const [x, y] = [factor, product].map((o) => both.watched.get(roundedOrigin(o)) as Float32Array);
      const bytes = new Uint8Array((x as Float32Array).slice().buffer);
      const job = { dtype: "f32", bytes, columns: block, block, to: "i8", around: "zero" } as const;
      const again = decodeRows(job, encodeRows(job));
      expect(difference(x as Float32Array, again).max, factor).toBeLessThan(1e-6);
      expect(y, product).not.toEqual(both.watched.get(product));
      expect(y, product).toHaveLength(both.watched.get(product)?.length ?? 0);
    }
    await checkpoint.close();
  },
);

const variants = [
  {},
  { quant: "int8" },
  { quant: "int4" },
  { insert: parsePipeline("quantize{scheme=int4,range=middle}") },
  { profile: "standard" },
  { profile: "standard", quant: "int8" },
] as const;

test.each(variants)(
  "a large product is the same in slices of its matrix's rows: $profile $quant",
  async (options) => {
    const { out } = await compile(dir, {
      targets: ["onnx"],
      out: join(mkdtempSync(join(root, "case-")), "out"),
      verify: false,
      ...options,
    });
    const { facts, activations = {} } = (await readManifest(out)) ?? {};
    if (!facts) throw new Error("there is no manifest");
    const [parts, feeds] = [await Parts.open(out), await clientFeeds(facts, ids)];
    const tensor = (origin: string) => activations[origin] ?? origin;
    const factors = await parts.run([], feeds, Object.values(pairs).map(tensor));
    const width = (factors.get(tensor("model/layers.0/input_layernorm"))?.length ?? 0) / ids.length;
    const job = fc.record({
      wanted: fc.constantFrom(...Object.keys(pairs)),
      numbers: fc.integer({ min: 1000, max: 50_000 }),
      asRun: fc.boolean(),
    });
    const law = fc.asyncProperty(job, async ({ wanted, numbers, asRun }) => {
      const name = tensor(pairs[wanted] ?? "");
      const data = factors.get(name) as Float32Array;
      // One profile scores the last token alone.
      const tokens = wanted === "logits" ? data.length / width : ids.length;
      const given = [{ name, data, dims: [1, tokens, data.length / tokens] }];
      const run = async (options: { numbers?: number }) =>
        (await parts.run(given, feeds, [tensor(wanted)], { asRun, ...options })).get(tensor(wanted));
      const [one, cut] = [await run({}), await run({ numbers })];
      if (!one || !cut) throw new Error(`${wanted} is not computed`);
      expect(cut).toHaveLength(one.length);
      // Kernels take rows in groups, and in each they add in another order.
      expect(shareOff(one, cut)).toBeLessThan(1e-5);
    });
    await fc.assert(law, { numRuns: 15, seed: 10 });
  },
);

test.skipIf(process.arch !== "x64")(
  "products by codes are proven as they run, and not in f32 too",
  async () => {
    const run = vi.spyOn(Parts.prototype, "run");
    const out = join(root, "as-run");
    const { targets } = await compile(dir, { targets: ["onnx"], out, quant: "int8" });
    const { activations = {}, facts } = (await readManifest(out)) ?? {};
    const asked = run.mock.calls.flatMap(([, , wanted, { asRun = false } = {}]) =>
      wanted.map((name) => ({ name, asRun })).filter(({ name }) => isProduct(name)),
    );
    const names = (some: typeof asked) => some.map(({ name }) => name).sort();
    const all = Object.values(activations).filter(isProduct).sort();
    expect(names(asked.filter(({ asRun }) => asRun))).toEqual(all);
    // What that one multiplies is the row of the last token, which has no name.
    const last = `/model/layers.${(facts?.layers ?? 0) - 1}/self_attn/o_proj`;
    expect(names(asked.filter(({ asRun }) => !asRun))).toEqual([last]);
    expect(targets[0]?.proof?.rounded?.share).toBeGreaterThan(1e-3);
  },
);

test("where a kernel rounds in another way, codes are held in f32 as well", async () => {
  const real = Parts.prototype.run;
  const run = vi.spyOn(Parts.prototype, "run").mockImplementation(async function (this: Parts, ...args) {
    const got = await real.apply(this, args);
    return args[3]?.asRun ? new Map([...got].map(([name, x]) => [name, x.map((v) => 1.01 * v)])) : got;
  });
  const options = { targets: ["onnx"], quant: "int8" } as const;
  const { targets } = await compile(dir, { ...options, out: join(root, "another-way") });
  expect(targets[0]?.proof).toMatchObject({ ok: true, worst: { allowed: 2e-4 } });
  const inFloats = run.mock.calls.flatMap(([, , wanted, { asRun = false } = {}]) => (asRun ? [] : wanted));
  expect(inFloats.filter(isProduct).length).toBeGreaterThan(7);
  run.mockImplementation(async function (this: Parts, ...args) {
    const got = await real.apply(this, args);
    return new Map([...got].map(([name, x]) => [name, isProduct(name) ? x.map((v) => 1.01 * v) : x]));
  });
  await expect(compile(dir, { ...options, out: join(root, "wrong") })).rejects.toThrow("_proj is off by");
});

test("what rounding to 16 bits may add up to grows with the root of the number of layers, and starts at 2e-3", () => {
  expect(allowedByCodes(1)).toBe(2e-3);
  expect(allowedByCodes(72) / allowedByCodes(18)).toBeCloseTo(2);
  expect(allowedByCodes(18)).toBeGreaterThan(1.7e-3 * 1.4);
});

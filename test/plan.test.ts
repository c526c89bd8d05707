import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { afterAll, expect, test } from "vitest";
import { parsePipeline } from "../passes/pipeline.ts";
import { compile } from "../src/compile.ts";
import { plan } from "../src/plan/plan.ts";
import { targetTable } from "../src/target.ts";
import { synthetic } from "./bench/synthetic.mjs";

const models = join(import.meta.dirname, "data/models");
const root = mkdtempSync(join(tmpdir(), "gemmac-plan-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const sizeOf = (files: readonly { readonly path: string; readonly bytes: number }[]) =>
  Object.fromEntries(files.map(({ path, bytes }) => [path, bytes]));

const cases = Object.keys(targetTable).flatMap((target) =>
  [
    { model: "gemma1-mha" },
    { model: "gemma3", capacity: 40 },
    { model: "gemma1-mqa", quant: "int8" as const, capacity: 40 },
  ].map(({ model, ...options }) => ({ target, model, options })),
);

test.each(cases)(
  "$target, $model $options: each file has the planned size",
  async ({ target, model, options }) => {
    const dir = join(models, model);
    const planned = await plan(dir, { target, time: false, ...options });
    const out = mkdtempSync(join(root, "case-"));
    const report = await compile(dir, {
      targets: [target],
      out: join(out, "artifact"),
      verify: false,
      ...options,
    });
    const { "selftest.bin": selftest, ...files } = sizeOf(planned.artifact.files);
    const written = sizeOf(report.targets[0]?.files ?? []);
    // The manifest tells of the file that only a proven artifact has.
    const told = (files["manifest.json"] ?? 0) - (written["manifest.json"] ?? 0);
    expect(told).toBeGreaterThanOrEqual(0);
    expect(told).toBeLessThan(selftest === undefined ? 1 : 200);
    expect({ ...files, "manifest.json": 0 }).toEqual({ ...written, "manifest.json": 0 });
    const classes = Object.values(planned.artifact.classes).reduce((a, b) => a + b, 0);
    expect(classes).toBe(planned.artifact.bytes);
  },
);

test.each(["", "quantize-cache"])("the cache has the planned size %s", async (passes) => {
  const dir = join(models, "gemma1-mqa");
  const insert = parsePipeline(passes);
  const planned = await plan(dir, { target: "onnx", insert, contexts: [7], time: false });
  const out = join(mkdtempSync(join(root, "case-")), "artifact");
  await compile(dir, { targets: ["onnx"], out, verify: false, insert });
  const session = await InferenceSession.create(join(out, "onnx/model.onnx"));
  const feeds: Record<string, Tensor> = {
    input_ids: new Tensor("int64", new BigInt64Array(7).fill(5n), [1, 7]),
    attention_mask: new Tensor("int64", new BigInt64Array(7).fill(1n), [1, 7]),
  };
  for (const input of session.inputMetadata) {
    if (!input.isTensor || !input.name.startsWith("past_key_values")) continue;
    const dims = input.shape.map((d, axis) => (axis === 0 ? 1 : typeof d === "number" ? d : 0));
    feeds[input.name] = new Tensor(
      input.type as "float32",
      input.type === "int8" ? new Int8Array(0) : new Float32Array(0),
      dims,
    );
  }
  const outputs = await session.run(feeds);
  const caches = Object.entries(outputs).filter(([name]) => name.startsWith("present."));
  const bytes = caches.reduce((sum, [, t]) => sum + (t.data as Float32Array).byteLength, 0);
  await session.release();
  expect(bytes).toBe(planned.cache.contexts[0]?.bytes);
});

test.each(Object.keys(targetTable))("%s: caches are no larger than the model's context", async (target) => {
  const demo = join(import.meta.dirname, "../examples/gemma-kjv-2m");
  const { cache } = await plan(demo, { target, time: false });
  expect(cache.contexts.map((c) => c.tokens)).toEqual([256]);
  await expect(plan(demo, { target, capacity: 257 })).rejects.toThrow(
    "a capacity of 257 tokens is more than the model's context of 256",
  );
});

/** A process of its own, so that its peak memory is that of the compiler alone. */
const script = `
  const [module, checkpoint, out, options] = process.argv.slice(1);
  const { compile } = await import(module);
  await compile(checkpoint, { targets: ["onnx"], out, ...JSON.parse(options) });
  console.log(process.resourceUsage().maxRSS * 1024);`;

test("peak memory is within a tenth of what is planned", { timeout: 120_000 }, async () => {
  const dir = await synthetic(root, "one-wide-layer");
  const rows: string[] = [];
  for (const options of [{}, { quant: "int8" as const }])
    for (const verify of [false, true]) {
      const { memory } = await plan(dir, { target: "onnx", time: false, ...options });
      const planned = verify ? (memory.verify ?? 0) : memory.compile;
      const module = new URL("../dist/src/compile.js", import.meta.url).href;
      const out = join(mkdtempSync(join(root, "case-")), "artifact");
      const settings = JSON.stringify({ ...options, verify });
      const args = ["--input-type=module", "-e", script, module, dir, out, settings];
      const measured = Number(execFileSync(process.execPath, args, { encoding: "utf8" }));
      const off = Math.abs(planned - measured) / measured;
      if (off > 0.1) rows.push(`${settings}: planned ${planned / 1e6} MB, measured ${measured / 1e6} MB`);
    }
  expect(rows).toEqual([]);
});

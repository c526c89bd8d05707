import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { onnx } from "onnx-proto";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { afterAll, afterEach, expect, test, vi } from "vitest";
import { HashedFile } from "../backends/files.ts";
import { decodeModel } from "../backends/onnx/proto.ts";
import { even, Workbench } from "../backends/stream/index.ts";
import { parsePipeline } from "../passes/pipeline.ts";
import { compile } from "../src/compile.ts";
import { plan } from "../src/plan/plan.ts";
import { targetTable } from "../src/target.ts";
import { synthetic } from "./bench/synthetic.mjs";

const models = join(import.meta.dirname, "data/models");
const root = mkdtempSync(join(tmpdir(), "gemmac-plan-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
afterEach(() => vi.restoreAllMocks());
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

const counted = [
  { model: "gemma1-mqa" },
  { model: "gemma1-mqa", quant: "int8" },
  { model: "gemma1-mha", quant: "int4" },
  { model: "gemma2", quant: "int8" },
  { model: "gemma3", profile: "standard", quant: "int8" },
] as const;

test.each(counted)(
  "compile does the work that is planned: $model $quant $profile",
  async ({ model, ...options }) => {
    const dir = join(models, model);
    const { work } = await plan(dir, { target: "onnx", time: false, ...options });
    const did = { written: 0, coded: 0, multiplied: 0, asRun: 0, inFloats: 0 };
    const { encode, dots } = Workbench.prototype;
    vi.spyOn(Workbench.prototype, "encode").mockImplementation(function (this: Workbench, ...args) {
      did.coded += args[2].length;
      encode.apply(this, args);
    });
    vi.spyOn(Workbench.prototype, "dots").mockImplementation(function (this: Workbench, ...args) {
      did.multiplied += args[0].length * even(args[2]);
      dots.apply(this, args);
    });
    const { write } = HashedFile.prototype;
    vi.spyOn(HashedFile.prototype, "write").mockImplementation(function (this: HashedFile, bytes) {
      did.written += bytes.byteLength;
      return write.call(this, bytes);
    });
    const create = InferenceSession.create.bind(InferenceSession);
    vi.spyOn(InferenceSession, "create").mockImplementation(async (graph: unknown, settings: unknown) => {
      const { graph: part } = decodeModel(graph as Uint8Array);
      for (const n of part?.node ?? []) did[level(n) === 4 ? "asRun" : "inFloats"] += matrixNumbers(part, n);
      return create(graph as Uint8Array, settings as InferenceSession.SessionOptions);
    });
    const out = join(mkdtempSync(join(root, "case-")), "out");
    await compile(dir, { targets: ["onnx"], out, ...options });
    const { coded, proof } = work;
    expect(did).toEqual({
      written: work.written,
      coded: coded.reduce((sum, c) => sum + c.numbers, 0),
      multiplied: proof.products.reduce((sum, p) => sum + p.numbers * even(p.rows), 0),
      asRun: proof.asRun,
      inFloats: proof.inFloats,
    });
  },
);

const attribute = (n: onnx.INodeProto, name: string): number =>
  Number(n.attribute?.find((a) => a.name === name)?.i ?? 0);
const level = (n: onnx.INodeProto): number => attribute(n, "accuracy_level");

/** Numbers of the matrix that a product of a graph multiplies with. */
function matrixNumbers(graph: onnx.IGraphProto | null | undefined, n: onnx.INodeProto): number {
  if (n.opType === "MatMulNBits") return attribute(n, "N") * attribute(n, "K");
  if (n.opType !== "Gemm") return 0;
  const made = graph?.node?.find((m) => m.output?.[0] === n.input?.[1]);
  const names = made ? made.input : n.input;
  const matrix = graph?.initializer?.find((t) => names?.includes(t.name ?? "") && t.dims?.length === 2);
  return matrix?.dims?.reduce<number>((count, d) => count * Number(d), 1) ?? 0;
}

/**
 * A process of its own, so that its peak memory is that of the compiler alone. Linux counts a parent's memory into what
 * resourceUsage tells of a child; VmHWM is the child's.
 */
const script = `
  import { readFileSync } from "node:fs";
  const [module, checkpoint, out, options] = process.argv.slice(1);
  const { compile } = await import(module);
  await compile(checkpoint, { targets: ["onnx"], out, ...JSON.parse(options) });
  const own = process.platform === "linux" && /VmHWM:\\s+(\\d+)/.exec(readFileSync("/proc/self/status", "utf8"));
  console.log((own ? Number(own[1]) : process.resourceUsage().maxRSS) * 1024);`;

test("peak memory is within a tenth of what is planned", { timeout: 120_000 }, async () => {
  const dir = await synthetic(root, "one-wide-layer");
  const rows: string[] = [];
  for (const options of [{}, { quant: "int8" as const }])
    for (const verify of [false, true]) {
      const { memory } = await plan(dir, { target: "onnx", time: false, ...options });
      const planned = verify ? (memory.verify ?? 0) : memory.compile;
      const module = new URL("../dist/src/compile.js", import.meta.url).href;
      const settings = JSON.stringify({ ...options, verify });
      const measure = () => {
        const out = join(mkdtempSync(join(root, "case-")), "artifact");
        const args = ["--input-type=module", "-e", script, module, dir, out, settings];
        return Number(execFileSync(process.execPath, args, { encoding: "utf8" }));
      };
      // Threads and the collector come when they like: the middle of three.
      const measured = [measure(), measure(), measure()].sort((a, b) => a - b)[1] ?? 0;
      const off = Math.abs(planned - measured) / measured;
      if (off > 0.1) rows.push(`${settings}: planned ${planned / 1e6} MB, measured ${measured / 1e6} MB`);
    }
  expect(rows).toEqual([]);
});

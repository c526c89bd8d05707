import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Emitted, legalize } from "../backends/backend.ts";
import { kernelPasses, plan } from "../backends/kernel/index.ts";
import { defaultLimits, wgsl } from "../backends/wgsl/index.ts";
import { deviceOf, holdTo, needsOf, parseLimits } from "../backends/wgsl/limits.ts";
import type { Program } from "../backends/wgsl/runtime/program.ts";
import { UserError } from "../ir/error.ts";
import { runPasses } from "../passes/pipeline.ts";
import { aboutOf } from "../src/artifact/about.ts";
import { openCheckpoint } from "../src/checkpoint/checkpoint.ts";
import { gemma } from "../src/model/gemma.ts";
import { modelGraph } from "../src/model/load.ts";
import { preset } from "../src/model/presets.ts";

const demo = new URL("../examples/gemma-kjv-2m", import.meta.url).pathname;
const dirs = ["first", "again"].map((name) => mkdtempSync(join(tmpdir(), `gemmac-wgsl-${name}-`)));
const [dir = ""] = dirs;
let emitted: Emitted;
const read = (path: string) => readFileSync(join(dir, path), "utf8");

beforeAll(async () => {
  const checkpoint = await openCheckpoint(demo);
  const { graph, facts } = modelGraph(checkpoint);
  const backend = wgsl({ capacity: 256 });
  for (const out of dirs) {
    const made = await backend.emit({
      graph: legalize(runPasses(graph, backend.passes).graph, backend),
      weights: checkpoint.weights,
      facts,
      about: () => aboutOf(checkpoint, facts, [], () => {}),
      dir: out,
      progress: () => {},
      warn: () => {},
    });
    emitted ??= made;
  }
  await checkpoint.close();
}, 60_000);
afterAll(() => {
  for (const out of dirs) rmSync(out, { recursive: true, force: true });
});

test("the same input gives the same bytes", () => {
  const files = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((f) => f.isFile());
  expect(files.length).toBe(emitted.files.length);
  for (const { path } of emitted.files)
    expect(readFileSync(join(dirs[1] as string, path)).equals(readFileSync(join(dir, path))), path).toBe(
      true,
    );
});

test("the module needs nothing, and with types and page stays below 60 KB", () => {
  const module = read("model.js");
  expect(module).not.toMatch(/^import |\beval\(|new Function|WebAssembly/m);
  expect(gzipSync(module + read("chat.html")).length).toBeLessThan(60_000);
});

test("default limits suffice, and a token takes at most seven launches a layer and six", () => {
  const program = JSON.parse(read("program.json")) as Program;
  expect(program.limits.maxStorageBuffersPerShaderStage).toBeLessThanOrEqual(8);
  expect(program.limits.maxComputeWorkgroupStorageSize).toBeLessThanOrEqual(16_384);
  expect(program.limits.maxStorageBufferBindingSize).toBeLessThanOrEqual(2 ** 27);
  expect(program.decode.dispatches.length).toBeLessThanOrEqual(7 * program.facts.layers + 6);
});

test("what a GPU may have is used by variants; the last one of each kernel needs nothing", () => {
  const { kernels, prefill } = JSON.parse(read("program.json")) as Program;
  const features = kernels.map((k) => k.variants.map((v) => v.features.join()));
  expect(features.every((all) => all.at(-1) === "")).toBe(true);
  expect(features.some((all) => all[0] === "subgroups")).toBe(true);
  const products = kernels.filter((k) => k.name.startsWith("gemm_"));
  expect(products.length).toBeGreaterThan(2);
  for (const k of products) {
    expect(k.variants[0]).toMatchObject({ path: `kernels/f16/${k.name}.wgsl`, features: ["shader-f16"] });
    expect(read(`kernels/f16/${k.name}.wgsl`)).toMatch(/^enable f16;/);
    expect(prefill.dispatches.some((d) => kernels[d.kernel] === k)).toBe(true);
  }
});

test.each(["gemma-2b", "gemma-2-2b", "gemma-3-1b"] as const)(
  "a token of %s takes at most seven launches a layer, and six",
  (name) => {
    const { graph } = runPasses(gemma(preset(name)), kernelPasses({ capacity: 1024 }));
    const { decode } = plan(graph, { device: deviceOf(defaultLimits), tokens: 128 });
    expect(decode.dispatches.length).toBeLessThanOrEqual(7 * preset(name).layers + 6);
    for (let layer = 0; layer < preset(name).layers; layer++)
      expect(decode.dispatches.filter((d) => d.layer === layer).length).toBeLessThanOrEqual(7);
  },
);

describe("limits", () => {
  const refused = (text: string) => {
    try {
      parseLimits(text);
    } catch (e) {
      if (e instanceof UserError) return `${e.message}; ${e.next}`;
    }
    return "nothing was refused";
  };
  test("are known, and numbers that a device may give", () => {
    expect(
      parseLimits("maxBufferSize=4294967296, maxStorageBufferBindingSize=4294967292").maxBufferSize,
    ).toBe(2 ** 32);
    expect(parseLimits("default")).toEqual(defaultLimits);
    expect(refused("maxbuffersize=4294967296")).toMatch(/is no limit .* choose from maxBufferSize,/);
    expect(refused("maxBufferSize=4e9")).toMatch(/no number .* from 268435456 to 1099511627776/);
    expect(refused("maxBufferSize=1")).toMatch(/less than every device gives/);
    expect(refused("maxBufferSize=99999999999999999999")).toMatch(/more than any device gives/);
    expect(refused("maxStorageBufferBindingSize=4294967296")).toMatch(/more than any .* to 4294967292/);
  });

  test("a cache beyond them is refused, with what would do", () => {
    const { graph } = runPasses(gemma(preset("gemma-3-1b")), kernelPasses({ capacity: 200_000 }));
    const made = plan(graph, { device: deviceOf(defaultLimits), tokens: 128 });
    const hold = (limits: string) => () => {
      const own = parseLimits(limits);
      holdTo(own, needsOf(made, made.kernels, []), made, 200_000);
    };
    expect(hold("default")).toThrow(
      /\.key of 200000 tokens takes 204800000 bytes, and max.*Size is 134217728/,
    );
    expect(hold("maxStorageBufferBindingSize=204800000")).not.toThrow();
  });
});

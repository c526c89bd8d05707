import { execFile } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildForProcessor, emulated } from "../backends/cuda/index.ts";
import { parsePipeline } from "../passes/pipeline.ts";
import { openModel } from "../src/artifact/open.ts";
import { compile } from "../src/compile.ts";
import { generate } from "../src/generate.ts";
import { verify } from "../src/verify/verify.ts";
import { cudaHere } from "./support/cuda.ts";
import { readF32 } from "./support/goldens.ts";

const run = promisify(execFile);
const root = join(import.meta.dirname, "..");
const demo = join(root, "examples/gemma-kjv-2m");
const scratch = mkdtempSync(join(tmpdir(), "gemmac-cuda-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const cxx = await emulated();
/** What builds the sources anew, in ways that take a C++ compiler a minute, is for the gate. */
const everything = process.env.GEMMAC_GOLDENS === "all";
const here = await cudaHere();
if (here !== "a GPU") console.warn(`CUDA: ${here}`);

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}
const started = (program: string, args: readonly string[], env: Record<string, string> = {}): Promise<Ran> =>
  run(program, [...args], { maxBuffer: 1 << 28, env: { ...process.env, ...env } }).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (e: { code: number; stdout: string; stderr: string }) => e,
  );

describe.runIf(cxx)("a CUDA artifact, its sources run on the processor", () => {
  const out = join(scratch, "demo");
  let program: string;
  const at = (...args: string[]) => started(program, ["--weights", join(out, "model.safetensors"), ...args]);

  beforeAll(async () => {
    const insert = parsePipeline("quantize{scheme=int8,embed=int8}");
    const report = await compile(demo, { targets: ["cuda"], out, insert, capacity: 256 });
    expect(report.warnings).toEqual([]);
    const { ok, instead } = report.targets[0]?.proof ?? {};
    expect(ok).toBe(true);
    if (here === "a GPU") expect(instead).toBeUndefined();
    else expect(instead).toMatch(/^on the processor.*no GPU has run it$/);
    program = await buildForProcessor(out);
    // The self-test lies beside the program.
    copyFileSync(program, join(out, "gemma"));
  }, 240_000);

  test("holds the model once, and layers as a loop", () => {
    const source = readFileSync(join(out, "gemma.cu"), "utf8");
    expect(source).toMatch(/for \(int n = 0; n < 4; n\+\+\) decode_256_layer\(g, n\);/);
  });

  test("passes its own test, layer by layer", async () => {
    copyFileSync(await buildForProcessor(out, { trace: true }), join(out, "gemma-test"));
    for (const name of ["gemma", "gemma-test"]) {
      const { code, stdout } = await started(join(out, name), ["--selftest"]);
      expect(stdout).toMatch(/^ok: 6 tokens/m);
      if (name === "gemma-test") expect(stdout).toMatch(/^ok: sums of 4 of 4 layers$/m);
      expect(code).toBe(0);
    }
  }, 60_000);

  test("gives the same scores in whatever order its threads take turns", async () => {
    const scores: (Float32Array | undefined)[] = [];
    for (const env of [{}, { GEMMA_BACKWARDS: "1" }]) {
      const file = join(scratch, "scores.safetensors");
      const args = ["--weights", join(out, "model.safetensors"), "--ids", "5,6,7,8", "--logits", file];
      expect((await started(program, args, env)).code).toBe(0);
      scores.push((await readF32(file)).get("logits"));
    }
    expect(scores[0]).toEqual(scores[1]);
  }, 60_000);

  test.each([
    { temperature: 0.8, topK: 40, topP: 0.9, seed: 7 },
    { temperature: 1.3, topK: 3, seed: 8 },
    { temperature: 1, topP: 0.5, seed: 9 },
    { temperature: 1, seed: 10 },
  ])(
    "draws on the device what gemmac draws from the same seed: %o",
    async (how) => {
      const model = await openModel(out);
      const drawn: number[] = [];
      for await (const { id } of generate(model.session, [73, 110], { ...how, maxTokens: 8 })) drawn.push(id);
      await model.close();
      const flags = [
        ["--temperature", how.temperature],
        ["--top-k", how.topK],
        ["--top-p", how.topP],
        ["--seed", how.seed],
      ].flatMap(([flag, value]) => (value === undefined ? [] : [String(flag), String(value)]));
      const { stdout } = await at("--ids", "73,110", ...flags, "-n", "8");
      expect(stdout.trim()).toBe(drawn.join());
    },
    60_000,
  );

  test.runIf(everything)(
    "runs clean under sanitizers, weights copied as to a GPU",
    async () => {
      // To optimize what the sanitizers add takes longer than to run it.
      const sanitize = [
        "-O0",
        "-g",
        "-UGEMMA_MAPPED_WEIGHTS",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
      ];
      const checked = await buildForProcessor(out, { optimize: sanitize });
      const args = [
        "--weights",
        join(out, "model.safetensors"),
        "--ids",
        "5,6,7,8",
        "-n",
        "3",
        "--temperature",
        "1",
      ];
      // Fibers are kept to the end, and run on stacks that the sanitizer does not know.
      const { code, stderr } = await started(checked, args, { ASAN_OPTIONS: "detect_leaks=0" });
      expect(stderr.replace(/^.*WARNING: ASan is ignoring[\s\S]*?issues\/189\n/m, "")).toMatch(
        /^\d+ tokens, .*\n$/,
      );
      expect(code).toBe(0);
    },
    240_000,
  );

  test("a step takes five launches a layer", () => {
    const source = readFileSync(join(out, "gemma.cu"), "utf8");
    const layer = /static void decode_256_layer\(gemma \*g, int n\) {([\s\S]*?)\n}/.exec(source)?.[1] ?? "";
    expect(layer.match(/launch\(/g)?.length).toBe(5);
  });

  test.runIf(everything)(
    "tunes, and remembers by the name of the device",
    async () => {
      const { code, stdout, stderr } = await started(join(out, "gemma"), ["--tune"]);
      expect([code, stderr]).toEqual([0, ""]);
      expect(stdout.match(/groups of \d+ threads: [\d.]+ ms a token$/gm)?.length).toBe(3);
      expect(readFileSync(join(out, "tuning.txt"), "utf8")).toMatch(/^no GPU: CUDA on the processor: \d+\n$/);
      rmSync(join(out, "tuning.txt"));
    },
    240_000,
  );

  test.runIf(everything)(
    "passes its own test with products through cuBLASLt, here a stand-in for it",
    async () => {
      const plain = join(scratch, "bf16");
      await compile(demo, { targets: ["cuda"], out: plain, capacity: 256 });
      const optimize = ["-O1", "-DGEMMAC_CUBLASLT"];
      copyFileSync(await buildForProcessor(plain, { trace: true, optimize }), join(plain, "gemma"));
      const { code, stdout } = await started(join(plain, "gemma"), ["--selftest"]);
      expect(stdout).toMatch(/^ok: sums of 4 of 4 layers\nok: 6 tokens/m);
      expect(code).toBe(0);
      // Codes are not for it, and who asks for it is told.
      const refused = buildForProcessor(out, { optimize });
      await expect(refused).rejects.toThrow(/no products for cuBLASLt/);
    },
    240_000,
  );

  test("with --arithmetic bf16 rounds what it multiplies once, keeps caches in it, and is proven value by value", async () => {
    const rounded = join(scratch, "rounded");
    const model = join(root, "test/data/models/gemma1-mha");
    const options = { targets: ["cuda"], out: rounded, capacity: 64, arithmetic: "bf16" } as const;
    const proof = (await compile(model, options)).targets[0]?.proof;
    expect(proof?.ok).toBe(true);
    // What weights of attention are rounded to is within 2^-9 of them, and so is their sum of values.
    expect(proof?.worst.share).toBeLessThan(5e-3);
    const source = readFileSync(join(rounded, "gemma.cu"), "utf8");
    expect(source).toMatch(/launch\(g, gemm_tensor_bf16_\w+_gelu_rounded_bf16, /);
    expect(source).not.toMatch(/_pair/);
    // The program scores one token after another, which is multiplied as it is: another rounding at each step.
    const report = await verify(rounded, model, { ids: [[2, 17, 90, 33, 64, 5, 80]] });
    expect(report.firstDivergence).toBeUndefined();
    expect(report.top1).toBe(1);
  }, 60_000);

  test.each<[string, string[], number, string]>([
    ["no weights", ["--weights", "/nowhere", "--ids", "1"], 3, "/nowhere: No such file or directory"],
    ["an id outside the vocabulary", ["--ids", "1,1024"], 3, "token id 1024 is outside the vocabulary"],
    ["a negative id", ["--ids", "-1"], 3, "token id -1 is outside the vocabulary"],
    ["too large a capacity", ["--capacity", "4096", "--ids", "1"], 3, "a capacity of 4096 tokens is beyond"],
    ["too long a text", ["--capacity", "3", "--ids", "1,2,3,4"], 3, "4 more tokens after 0 do not fit"],
    ["an unknown option", ["--threads", "2"], 2, "unknown option --threads"],
  ])("refuses %s with one line", async (_, args, code, said) => {
    const result = await at(...args);
    expect(result.stderr.split("\n")[0]).toContain(`gemma: ${said}`);
    expect(result.code).toBe(code);
    if (code === 3) expect(result.stderr.trim().split("\n").length).toBe(1);
  });

  test("refuses damaged weights, and says which", async () => {
    const copy = join(scratch, "damaged.safetensors");
    const bytes = readFileSync(join(out, "model.safetensors"));
    bytes[bytes.length - 3] = (bytes.at(-3) as number) ^ 0x80;
    writeFileSync(copy, bytes);
    const { stderr } = await started(program, ["--weights", copy, "--ids", "1"]);
    expect(stderr).toMatch(/is damaged, or belongs to another model: .* differs/);
  });
});

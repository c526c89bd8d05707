import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { legalize } from "../backends/backend.ts";
import { c, compiler, graphSource } from "../backends/c/index.ts";
import { runtimePart } from "../backends/c/runtime.ts";
import { encode } from "../backends/stream/index.ts";
import type { Graph, Value } from "../ir/graph.ts";
import { interpret } from "../ir/interpret.ts";
import {
  attention,
  cast,
  constant,
  linear,
  param,
  quant_gather,
  quant_linear,
  rms_norm,
} from "../ir/ops/index.ts";
import { count, type HostTensor, store } from "../ir/tensor.ts";
import { parseType } from "../ir/type.ts";
import { fill, graphOf, onlyPrepares, opCases, sizes, symbolicCases } from "./support/ops.ts";

const p = (name: string, type: string) => param({ name, type: parseType(type) });

/** A product by codes of an odd number of rows. */
function codes(
  dtype: "i8" | "i4",
  [rows, columns]: readonly [number, number],
  block: number,
  middle: boolean,
  { tokens = 5, scales = "f32" }: { tokens?: number; scales?: "f32" | "f16" } = {},
): Graph {
  const [x, w] = [p("x", `f32[${tokens},${columns}]`), p("w", `${dtype}[${rows},${columns}]`)];
  const scale = p("scale", `${scales}[${rows},${columns / block}]`);
  const zero = middle ? p("zero", `${dtype}[${rows},${columns / block}]`) : constant({ value: 0, dtype });
  const product = quant_linear(x, w, cast(scale, { to: "f32" }), zero);
  return graphOf(product, [x, w, scale, ...(middle ? [zero] : [])]);
}
function product(dtype: "f32" | "bf16" | "f16", tokens: number, rows: number, columns: number): Graph {
  const [x, w] = [p("x", `f32[${tokens},${columns}]`), p("w", `${dtype}[${rows},${columns}]`)];
  return graphOf(linear(x, cast(w, { to: "f32" })), [x, w]);
}
const shaped: [string, () => Graph][] = [
  ...(["i8", "i4"] as const).flatMap((dtype) =>
    [
      [13, 192],
      [7, 64],
      [9, 48],
      [4, 1024],
    ].flatMap(([rows = 0, columns = 0]) =>
      [16, 32, 64, columns].flatMap((block): [string, () => Graph][] =>
        columns % block || (dtype === "i4" && (columns / block) % 2)
          ? []
          : [false, true].map((middle) => [
              `${dtype}[${rows},${columns}] in blocks of ${block}${middle ? " with zeros" : ""}`,
              () => codes(dtype, [rows, columns], block, middle),
            ]),
      ),
    ),
  ),
  // Blocks that fill no group of scales, and those that fill several; narrower and wider than a vector, and too odd for any.
  ...(["i8", "i4"] as const).flatMap((dtype) =>
    (["f32", "f16"] as const).flatMap((scales) =>
      [1, 3].flatMap((tokens) =>
        [
          [9, 1152, 32],
          [5, 1152, 64],
          [3, 1152, 16],
          [7, 2048, 512],
          [4, 96, 48],
          [6, 24, 4],
        ].flatMap(([rows = 0, columns = 0, block = 0]) =>
          [false, true].map((middle): [string, () => Graph] => [
            `${tokens} by ${dtype}[${rows},${columns}] in blocks of ${block}, scales ${scales}${middle ? " with zeros" : ""}`,
            () => codes(dtype, [rows, columns], block, middle, { tokens, scales }),
          ]),
        ),
      ),
    ),
  ),
  ...(["f32", "bf16", "f16"] as const).flatMap((dtype): [string, () => Graph][] => [
    [`a product by ${dtype}, one token`, () => product(dtype, 1, 13, 72)],
    [`a product by ${dtype}, many tokens`, () => product(dtype, 9, 23, 2072)],
  ]),
  ...(["f32", "f16"] as const).map((scales): [string, () => Graph] => [
    `rows of 4-bit codes, scales ${scales}`,
    () => {
      const [w, scale, index] = [p("w", "i4[5,64]"), p("scale", `${scales}[5,2]`), p("index", "i32[3]")];
      const rows = quant_gather(w, cast(scale, { to: "f32" }), constant({ value: 0, dtype: "i4" }), index);
      return graphOf(rows, [w, scale, index]);
    },
  ]),
  [
    "a norm of odd rows",
    () => {
      const [x, scale] = [p("x", "f32[3,37]"), p("scale", "f32[37]")];
      return graphOf(rms_norm(x, scale), [x, scale]);
    },
  ],
  [
    "attention with window and cap, taken apart",
    () => {
      const [q, k, v] = [p("q", "f32[1,4,3,24]"), p("k", "f32[1,2,7,24]"), p("v", "f32[1,2,7,24]")];
      const [qpos, kpos] = [p("qpos", "i32[1,3]"), p("kpos", "i32[1,7]")];
      const out = attention(q, k, v, qpos, kpos, { scale: 0.2, window: 2, softcap: 5 });
      return graphOf(out, [q, k, v, qpos, kpos]);
    },
  ],
];

interface Case {
  readonly name: string;
  readonly graph: Graph;
  /** Inputs that are given as weights. */
  readonly weights: ReadonlySet<Value>;
}
const cases: Case[] = [
  ...opCases.flatMap(([name, op, make]) => (onlyPrepares(op) ? [] : [[name, make] as const])),
  ...symbolicCases,
  ...shaped,
].flatMap(([name, make]) => {
  const graph = make();
  // Codes and narrow floats are weights in every model.
  const coded = graph.inputs.filter((v) => v.dtype !== "f32" && v.dtype !== "i32" && v.dtype !== "bool");
  const floats = graph.inputs.slice(1).filter((v) => v.dtype === "f32");
  const plain = { name, graph, weights: new Set(coded) };
  return floats.length
    ? [plain, { name: `${name}, by weights`, graph, weights: new Set([...coded, ...floats]) }]
    : [plain];
});

const cc = await compiler();
if (!cc) console.warn("SKIPPED: ops in C, because there is no C compiler");

describe.runIf(cc)("c means what the interpreter means", () => {
  const scratch = mkdtempSync(join(tmpdir(), "gemmac-c-ops-"));
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));
  const results = new Map<Case, Float32Array>();

  // One program for all: a compiler call takes longer than everything else here.
  beforeAll(async () => {
    const made = cases.map(({ graph, weights }) => {
      const given = graph.with({ inputs: graph.inputs.filter((v) => !weights.has(v)) });
      return { graph: legalize(given, c()), weights };
    });
    const { source, data } = await graphSource(
      made.map(({ graph }) => graph),
      { ...sizes, R: 1 },
      (v) => bytesOf(v, tensorOf(v)),
    );
    writeFileSync(join(scratch, "ops.c"), source);
    writeFileSync(join(scratch, "ops.bin"), data);
    for (const name of readdirSync(join(import.meta.dirname, "../backends/c/runtime")))
      writeFileSync(join(scratch, name), await runtimePart(name));
    const program = join(scratch, "ops");
    const flags = [
      "-std=c11",
      "-march=native",
      "-O1",
      "-fsanitize=undefined",
      "-fno-sanitize-recover=undefined",
      "-pthread",
    ];
    execFileSync(cc as string, [...flags, "-o", program, join(scratch, "ops.c"), "-lm"], { stdio: "pipe" });
    const out = execFileSync(program, [join(scratch, "ops.bin"), join(scratch, "ops.out"), "3"]);
    expect(String(out)).toBe("");
    const bytes = readFileSync(join(scratch, "ops.out"));
    let at = 0;
    for (const one of cases) {
      const n = count(wanted(one).shape);
      results.set(
        one,
        new Float32Array(bytes.buffer.slice(bytes.byteOffset + at, bytes.byteOffset + at + 4 * n)),
      );
      at += 4 * n;
    }
    expect(at).toBe(bytes.length);
  }, 120_000);

  test.each(cases.map((one) => [one.name, one] as const))("%s", (_, one) => {
    const [want, got] = [wanted(one).data, results.get(one)];
    const largest = want.reduce((m, x) => Math.max(m, Math.abs(x)), 1);
    const coded = [...one.weights].some((v) => v.dtype === "i8" || v.dtype === "i4");
    want.forEach((x, i) => {
      expect(Math.abs(x - (got?.[i] as number)), `element ${i}`).toBeLessThanOrEqual(
        (coded ? 2e-4 : 1e-5) * largest,
      );
    });
  });
});

const salts = new Map<Value, number>();
function tensorOf(v: Value): HostTensor {
  return fill(v, salts.get(v) ?? 1);
}
for (const { graph } of cases) for (const [i, v] of graph.inputs.entries()) salts.set(v, i + 1);

function wanted({ graph }: Case): HostTensor {
  const inputs = new Map(graph.inputs.map((v) => [String(v.attrs.name), rounded(v)]));
  return interpret(graph, { sizes, tensor: (name) => inputs.get(name) }).y as HostTensor;
}
const rounded = (v: Value): HostTensor => store(tensorOf(v), v.dtype);

/** A tensor as it is stored. */
function bytesOf(v: Value, { data }: HostTensor): Uint8Array {
  if (v.dtype === "i4")
    return Uint8Array.from(
      { length: data.length / 2 },
      (_, i) => (Number(data[2 * i]) & 15) | ((Number(data[2 * i + 1]) & 15) << 4),
    );
  if (v.dtype === "i8" || v.dtype === "bool" || v.dtype === "u8")
    return new Uint8Array(Int8Array.from(data).buffer);
  if (v.dtype === "i32") return new Uint8Array(Int32Array.from(data).buffer);
  return encode(v.dtype, Float32Array.from(rounded(v).data));
}

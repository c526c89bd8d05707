import fc from "fast-check";
import { expect, test } from "vitest";
import { product } from "../backends/reference/product.ts";
import {
  type Codes,
  type CodesJob,
  decodeRows,
  encodeRows,
  encodeTile,
  even,
  inTile,
  interleaved,
  tilesFor,
  Workbench,
} from "../backends/stream/index.ts";
import { Graph } from "../ir/graph.ts";
import { interpret } from "../ir/interpret.ts";
import {
  block_scale,
  block_scale_search,
  block_zero,
  constant,
  dequantize,
  param,
  quantize,
} from "../ir/ops/index.ts";
import { tensor } from "../ir/type.ts";

const rows = 3;
const columns = 64;

/** What the interpreter makes of a matrix, as the fast encoder's job says. */
function meaning({ to, block, around, importance }: CodesJob, data: Float32Array) {
  const x = param({ name: "x", type: tensor("f32", rows, columns) });
  const weight = param({ name: "importance", type: tensor("f32", columns) });
  const scale = importance
    ? block_scale_search(x, weight, { to, block })
    : block_scale(x, { to, block, around });
  const zero = around === "middle" ? block_zero(x, scale, { to, block }) : constant({ value: 0, dtype: to });
  const codes = quantize(x, scale, zero, { to });
  const g = new Graph("q", {
    inputs: [x, weight],
    outputs: { codes, scale, back: dequantize(codes, scale, zero) },
  });
  const tensors: Record<string, { shape: number[]; data: Float64Array }> = {
    x: { shape: [rows, columns], data: Float64Array.from(data) },
    importance: { shape: [columns], data: Float64Array.from(importance ?? new Float32Array(columns)) },
  };
  return interpret(g, { sizes: {}, tensor: (name) => tensors[name] });
}

const floats = (n: number, options = {}) =>
  fc.array(fc.float({ noNaN: true, noDefaultInfinity: true, min: -100, max: 100, ...options }), {
    minLength: n,
    maxLength: n,
  });

test("the fast encoder is the interpreter, bit for bit", () => {
  const job = fc.record({
    to: fc.constantFrom("i8" as const, "i4" as const),
    block: fc.constantFrom(16, 32, 64),
    style: fc.constantFrom("zero" as const, "middle" as const, "search" as const),
    x: floats(rows * columns),
    importance: floats(columns, { min: 0 }),
  });
  const law = fc.property(job, ({ to, block, style, x, importance }) => {
    const data = Float32Array.from(x);
    const bytes = new Uint8Array(data.slice().buffer);
    const around = style === "middle" ? "middle" : "zero";
    const base = { dtype: "f32", bytes, columns, block, to, around } as const;
    const full: CodesJob = style === "search" ? { ...base, importance: Float32Array.from(importance) } : base;
    const slow = meaning(full, data);
    for (const fast of [encodeRows(full), byVectors(full)]) {
      expect([...fast.scales]).toEqual([...(slow.scale?.data ?? [])]);
      expect([...decodeRows(full, fast)]).toEqual([...(slow.back?.data ?? [])]);
    }
  });
  fc.assert(law, { numRuns: 400, seed: 7 });
});

const bench = new Workbench();
const [tile] = tilesFor(bench, rows * columns, 1) as [ReturnType<typeof tilesFor>[number]];

/** What the kernels on vectors make of a job. */
function byVectors(job: CodesJob): Codes {
  tile.bytes.set(job.bytes);
  const held = inTile(tile, { ...job, bytes: tile.bytes.subarray(0, job.bytes.length) }, rows);
  encodeTile(bench, held);
  const { codes, scales, zeros } = held.into;
  return { codes: codes.slice(), scales: scales.slice(), zeros: zeros.slice() };
}

const anyFloat = fc.oneof(
  { weight: 20, arbitrary: fc.float() },
  fc.constantFrom(Number.NaN, -0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1e-45, -1e-39, 3e38),
);

test("kernels on vectors encode what the encoder does, whatever the bits", () => {
  const job = fc.record({
    dtype: fc.constantFrom("f32" as const, "bf16" as const, "f16" as const),
    to: fc.constantFrom("i8" as const, "i4" as const),
    block: fc.constantFrom(8, 16, 32, 64),
    x: fc.array(anyFloat, { minLength: rows * columns, maxLength: rows * columns }),
  });
  const law = fc.property(job, ({ dtype, to, block, x }) => {
    const floats = new Uint8Array(Float32Array.from(x).buffer);
    const bytes = dtype === "f32" ? floats : floats.filter((_, i) => i % 4 > 1);
    const base: CodesJob = { dtype, bytes, columns, block, to, around: "zero" };
    expect(byVectors(base)).toEqual(encodeRows(base));
  });
  fc.assert(law, { numRuns: 300, seed: 8 });
});

test("kernels on vectors add up products in the order of columns, in f64", () => {
  const job = fc.record({
    m: fc.integer({ min: 1, max: 15 }),
    k: fc.constantFrom(5, 16, 33, 64),
    coding: fc.constantFrom(
      undefined,
      { to: "i8", block: 16, around: "zero" } as const,
      { to: "i4", block: 16, around: "middle" } as const,
    ),
    seed: fc.integer(),
  });
  const law = fc.property(job, ({ m, k, coding, seed }) => {
    const use = k % 16 === 0 ? coding : undefined;
    const at = (i: number) => Math.sin(seed + i * 12.9898) * 3;
    const x = Float64Array.from({ length: m * k }, (_, i) => at(i));
    const w = Float32Array.from({ length: rows * k }, (_, i) => at(i + 0.5));
    const bytes = new Uint8Array(w.slice().buffer);
    const plain = { dtype: "f32", bytes, columns: k } as const;
    const values = use ? decodeRows(use, encodeRows({ ...plain, ...use })) : w;
    const doubles = (n: number) => {
      const { buffer, byteOffset } = bench.take(8 * n);
      return new Float64Array(buffer, byteOffset, n);
    };
    const [factors, out] = [doubles(even(m) * even(k)), doubles(even(m) * rows)];
    interleaved(x, m, k, factors);
    tile.bytes.set(bytes);
    const stored = { ...plain, bytes: tile.bytes.subarray(0, bytes.length), ...(use && { coding: use }) };
    product(bench, { x: factors, m, rows: stored, row: tile.row.subarray(0, even(k)), out });
    for (let r = 0; r < rows; r++)
      for (let i = 0; i < m; i++) {
        let sum = 0;
        for (let j = 0; j < k; j++) sum += (x[i * k + j] as number) * (values[r * k + j] as number);
        expect(out[r * even(m) + i]).toBe(sum);
      }
  });
  fc.assert(law, { numRuns: 200, seed: 9 });
});

test("8 bits lose at most half a step, 4 bits at most half a step", () => {
  const x = Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i * 12.9898) * 3);
  for (const [to, steps] of [
    ["i8", 127],
    ["i4", 7],
  ] as const)
    for (const around of ["zero", "middle"] as const) {
      const job = {
        dtype: "f32",
        bytes: new Uint8Array(x.slice().buffer),
        columns,
        block: 32,
        to,
        around,
      } as const;
      const back = decodeRows(job, encodeRows(job));
      const worst = Math.max(...x.map((v, i) => Math.abs(v - (back[i] as number))));
      expect(worst).toBeLessThanOrEqual((3 / steps) * 1.01);
    }
});

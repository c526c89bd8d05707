import fc from "fast-check";
import { expect, test } from "vitest";
import { type CodesJob, decodeRows, encodeRows } from "../backends/stream/index.ts";
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
    const fast = encodeRows(full);
    const slow = meaning(full, data);
    expect([...fast.scales]).toEqual([...(slow.scale?.data ?? [])]);
    expect([...decodeRows(full, fast)]).toEqual([...(slow.back?.data ?? [])]);
  });
  fc.assert(law, { numRuns: 400, seed: 7 });
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

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { dim, minus, parseDim, plus, size, times } from "../ir/dim.ts";
import { Graph, intern, type OpDef, OpError, type Value } from "../ir/graph.ts";
import { interpret } from "../ir/interpret.ts";
import { registry } from "../ir/op.ts";
import * as o from "../ir/ops/index.ts";
import { count, type HostTensor, roundBf16, roundF16, roundTo } from "../ir/tensor.ts";
import { tables } from "../ir/text.ts";
import { broadcast, parseType, type TensorType, tensor } from "../ir/type.ts";
import { GraphError, verify } from "../ir/verify.ts";
import { decompose } from "../passes/decompose.ts";
import { expectRoundTrip, outcome, random, randomTensor, sameOutcome } from "./support/random-graph.ts";

const p = (name: string, type: string) => o.param({ name, type: parseType(type) });
const table: readonly OpDef[] = Object.values({ ...tables.primitives, ...tables.composites });

/** The op applied as its entry's example says. */
function example(op: OpDef): Graph {
  const [types, given] = op.example;
  const inputs = types.map((type, i) => p(String(op.inputs[i]), type));
  const attrs = Object.entries(op.attrs).map(([k, a]) => [k, given?.[k] ?? a.default]);
  return new Graph("example", { inputs, outputs: { y: intern(op, inputs, Object.fromEntries(attrs)) } });
}

describe.each(table.map((op) => [op.name, op] as const))("%s", (name, op) => {
  const g = example(op);
  const y = g.outputs.y as Value;

  test("is in the registry, and documented in a sentence", () => {
    expect(registry.get(name)).toBe(op);
    expect(op.doc).toMatch(/^\S.*\.$/);
    expect(Object.values(op.attrs).every((a) => a.kind !== "")).toBe(true);
  });

  test("has either a meaning of its own or a decomposition", () => {
    expect(Boolean(op.eval)).toBe(!op.composite);
    expect(Boolean(op.decompose)).toBe(op.composite);
  });

  test("builds its example, which prints and parses", () => {
    expect(y.op).toBe(op);
    verify(g);
    expectRoundTrip(g);
  });

  test("computes what its type says, decomposed or not", () => {
    const next = random(3);
    const params = new Map(g.inputs.map((v) => [v.attrs.name, randomTensor(v.type, {}, next)]));
    const tensorOf = (n: string, type: TensorType) => params.get(n) ?? randomTensor(type, {}, next);
    const out = interpret(g, { sizes: {}, tensor: tensorOf }).y as HostTensor;
    expect(out.shape).toEqual(y.shape);
    expect(out.data).toHaveLength(count(out.shape));
    expect(out.data.every((x) => Object.is(x, roundTo(y.dtype, x)))).toBe(true);

    const lowered = decompose().run(g);
    expect(lowered.outputs.y?.type.equals(y.type)).toBe(true);
    expect(lowered.values().some((v) => v.op.composite)).toBe(false);
    expect(sameOutcome(outcome(g, {}, 4), outcome(lowered, {}, 4))).toBe(true);
  });
});

/** What one op makes of numbers: operands as type and elements, then attributes, then the elements expected. */
type Case = readonly [op: OpDef, operands: readonly [string, number[]][], attrs: object, want: number[]];
const v4 = [-2, -0.5, 0, 3];
const cases: readonly Case[] = [
  [o.constant, [], { value: 0.1, dtype: "bf16" }, [0.10009765625]],
  [o.iota, [], { shape: [2, 3], dtype: "i32" }, [0, 1, 2, 0, 1, 2]],
  [o.iota, [], { shape: [2, 3], dtype: "i32", axis: 0 }, [0, 0, 0, 1, 1, 1]],
  [
    o.exp,
    [["f32[4]", [0, 1, -1, Number.NEGATIVE_INFINITY]]],
    {},
    [1, Math.E, 1 / Math.E, 0].map(Math.fround),
  ],
  [o.tanh, [["f32[3]", [0, 1, -40]]], {}, [0, Math.fround(Math.tanh(1)), -1]],
  [o.sin, [["f32[2]", [0, 1]]], {}, [0, Math.fround(Math.sin(1))]],
  [o.cos, [["f32[2]", [0, 1]]], {}, [1, Math.fround(Math.cos(1))]],
  [o.sqrt, [["f32[4]", [0, 2.25, 9, -1]]], {}, [0, 1.5, 3, Number.NaN]],
  [o.rsqrt, [["f32[3]", [4, 0.25, 0]]], {}, [0.5, 2, Number.POSITIVE_INFINITY]],
  [
    o.add,
    [
      ["f32[2,2]", [1, 2, 3, 4]],
      ["f32[2]", [10, 20]],
    ],
    {},
    [11, 22, 13, 24],
  ],
  [
    o.sub,
    [
      ["f32[2,1]", [1, 2]],
      ["f32[1,3]", [1, 2, 3]],
    ],
    {},
    [0, -1, -2, 1, 0, -1],
  ],
  [
    o.mul,
    [
      ["f32[4]", v4],
      ["f32[]", [2]],
    ],
    {},
    [-4, -1, 0, 6],
  ],
  [
    o.div,
    [
      ["f32[4]", v4],
      ["f32[1]", [-2]],
    ],
    {},
    [1, 0.25, -0, -1.5],
  ],
  [
    o.div,
    [
      ["i32[4]", [7, -7, 1, -1]],
      ["i32[]", [2]],
    ],
    {},
    [3, -3, 0, 0],
  ],
  [
    o.pow,
    [
      ["f32[3]", [2, 9, 10]],
      ["f32[3]", [10, 0.5, -2]],
    ],
    {},
    [1024, 3, Math.fround(0.01)],
  ],
  [
    o.maximum,
    [
      ["f32[4]", v4],
      ["f32[]", [-1]],
    ],
    {},
    [-1, -0.5, 0, 3],
  ],
  [
    o.minimum,
    [
      ["f32[4]", v4],
      ["f32[]", [-1]],
    ],
    {},
    [-2, -1, -1, -1],
  ],
  [
    o.less_equal,
    [
      ["i32[3]", [1, 2, 3]],
      ["i32[]", [2]],
    ],
    {},
    [1, 1, 0],
  ],
  [
    o.less_equal,
    [
      ["f32[2]", [Number.NaN, 0]],
      ["f32[]", [-0]],
    ],
    {},
    [0, 1],
  ],
  [
    o.select,
    [
      ["bool[2]", [1, 0]],
      ["f32[2,2]", [1, 2, 3, 4]],
      ["f32[2,1]", [8, 9]],
    ],
    {},
    [1, 8, 3, 9],
  ],
  [
    o.select,
    [
      ["bool[]", [0]],
      ["f32[]", [Number.NaN]],
      ["f32[]", [5]],
    ],
    {},
    [5],
  ],
  [o.cast, [["f32[4]", [-2.75, -0.5, 2.5, 300]]], { to: "i32" }, [-2, 0, 2, 300]],
  [o.cast, [["f32[3]", [0, 0.25, -3]]], { to: "bool" }, [0, 1, 1]],
  [o.reshape, [["i32[2,3]", [1, 2, 3, 4, 5, 6]]], { shape: [3, 2] }, [1, 2, 3, 4, 5, 6]],
  [o.transpose, [["i32[2,3]", [1, 2, 3, 4, 5, 6]]], { perm: [1, 0] }, [1, 4, 2, 5, 3, 6]],
  [o.transpose, [["i32[2,1,3]", [1, 2, 3, 4, 5, 6]]], { perm: [2, 0, 1] }, [1, 4, 2, 5, 3, 6]],
  [o.slice, [["i32[2,3]", [1, 2, 3, 4, 5, 6]]], { axis: 1, from: 1, to: 3 }, [2, 3, 5, 6]],
  [o.slice, [["i32[3,2]", [1, 2, 3, 4, 5, 6]]], { axis: -2, from: 2, to: 3 }, [5, 6]],
  [o.slice, [["i32[3]", [1, 2, 3]]], { axis: 0, from: 2, to: 2 }, []],
  [
    o.concat,
    [
      ["i32[2,1]", [1, 2]],
      ["i32[2,2]", [3, 4, 5, 6]],
    ],
    {},
    [1, 3, 4, 2, 5, 6],
  ],
  [
    o.concat,
    [
      ["i32[0,2]", []],
      ["i32[1,2]", [1, 2]],
    ],
    { axis: 0 },
    [1, 2],
  ],
  [
    o.gather,
    [
      ["f32[3,2]", [1, 2, 3, 4, 5, 6]],
      ["i32[3]", [2, 0, 2]],
    ],
    {},
    [5, 6, 1, 2, 5, 6],
  ],
  [
    o.gather,
    [
      ["f32[3]", [7, 8, 9]],
      ["i32[]", [1]],
    ],
    {},
    [8],
  ],
  [
    o.update,
    [
      ["i32[4]", [1, 2, 3, 4]],
      ["i32[2]", [8, 9]],
      ["i32[]", [2]],
    ],
    { axis: 0 },
    [1, 2, 8, 9],
  ],
  [
    o.update,
    [
      ["i32[2,3]", [1, 2, 3, 4, 5, 6]],
      ["i32[2,1]", [8, 9]],
      ["i32[]", [1]],
    ],
    { axis: -1 },
    [1, 8, 3, 4, 9, 6],
  ],
  [o.sum, [["f32[2,3]", [1, 2, 3, 4, 5, 6]]], {}, [6, 15]],
  [o.sum, [["f32[2,3]", [1, 2, 3, 4, 5, 6]]], { axis: 0 }, [5, 7, 9]],
  [o.mean, [["f32[2,2]", [1, 2, 3, 6]]], { axis: -1 }, [1.5, 4.5]],
  [o.max, [["f32[2,2]", [1, -2, -3, -6]]], { axis: 0 }, [1, -2]],
  [o.max, [["f32[1,2,2]", [1, 5, 3, 2]]], { axis: 1 }, [3, 5]],
  [
    o.matmul,
    [
      ["f32[2,2]", [1, 2, 3, 4]],
      ["f32[2,1]", [10, 100]],
    ],
    {},
    [210, 430],
  ],
  [
    o.matmul,
    [
      ["f32[2,1,2]", [1, 2, 3, 4]],
      ["f32[2,2]", [1, 0, 1, 1]],
    ],
    {},
    [3, 2, 7, 4],
  ],
  [
    o.matmul,
    [
      ["f32[1,0]", []],
      ["f32[0,2]", []],
    ],
    {},
    [0, 0],
  ],
];

function compute([op, operands, attrs]: Case): HostTensor {
  const inputs = operands.map(([type], i) => p(`v${i}`, type));
  const full = Object.entries(op.attrs).map(([k, a]) => [
    k,
    (attrs as Record<string, unknown>)[k] ?? a.default,
  ]);
  const y = intern(op, inputs, Object.fromEntries(full));
  const tensors = operands.map(([, data], i) => ({
    shape: inputs[i]?.shape as number[],
    data: Float64Array.from(data),
  }));
  const run = interpret(new Graph("one", { inputs, outputs: { y } }), {
    sizes: {},
    tensor: (name) => tensors[Number(name.slice(1))],
  });
  return run.y as HostTensor;
}

describe("numbers", () => {
  test.each(cases.map((c, i) => [i, c[0].name, c] as const))("%i %s", (_, __, c) => {
    expect([...compute(c).data]).toEqual(c[3]);
  });

  test("every primitive has a case", () => {
    const tried = new Set(cases.map(([op]) => op.name));
    expect(Object.keys(tables.primitives).filter((name) => !tried.has(name))).toEqual(["param"]);
  });

  test("what lies outside a tensor is an error, not a number", () => {
    const i32 = (x: number): [string, number[]] => ["i32[]", [x]];
    expect(() => compute([o.gather, [["f32[2]", [1, 2]], i32(2)], {}, []])).toThrow(
      "index 2 is outside the table of 2 rows",
    );
    expect(() => compute([o.gather, [["f32[2]", [1, 2]], i32(-1)], {}, []])).toThrow(RangeError);
    const cache: [string, number[]][] = [
      ["f32[2]", [1, 2]],
      ["f32[2]", [3, 4]],
    ];
    expect(() => compute([o.update, [...cache, i32(1)], { axis: 0 }, []])).toThrow(
      "writing 2 at 1 does not fit into 2",
    );
    const late = o.slice(p("late", "f32[T]"), { axis: 0, from: 2, to: 5 });
    const g = new Graph("late", { inputs: [], outputs: { late } });
    expect(outcome(g, { T: 5 }, 1)).not.toBe("out of range");
    expect(outcome(g, { T: 4 }, 1)).toBe("out of range");
  });
});

describe("rounding", () => {
  /** Every finite number of a 16-bit float, by its bits, from zero up. */
  const positives = (decode: (bits: number) => number, end: number) =>
    Float64Array.from({ length: end }, (_, bits) => decode(bits));
  const f16 = positives((bits) => {
    const [exponent, mantissa] = [bits >> 10, bits & 1023];
    return exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15);
  }, 0x7c00);
  const bf16 = positives((bits) => {
    const [exponent, mantissa] = [bits >> 7, bits & 127];
    return exponent === 0 ? mantissa * 2 ** -133 : (1 + mantissa / 128) * 2 ** (exponent - 127);
  }, 0x7f80);

  /** The nearest of `all`, the one with even bits when two are as near; past the last one comes infinity. */
  function nearest(all: Float64Array, x: number): number {
    if (x < 0) return -nearest(all, -x);
    let [low, high] = [0, all.length];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((all[middle] as number) <= x) low = middle;
      else high = middle;
    }
    const last = all.length - 1;
    const step = (all[last] as number) - (all[last - 1] as number);
    const at = (bits: number) => (bits > last ? (all[last] as number) + step : (all[bits] as number));
    const [below, above] = [x - at(low), at(low + 1) - x];
    const bits = below < above || (below === above && low % 2 === 0) ? low : low + 1;
    return bits > last ? Number.POSITIVE_INFINITY : at(bits);
  }

  test.each([
    ["f16", roundF16, f16],
    ["bf16", roundBf16, bf16],
  ] as const)("%s: each number stays, and what lies between goes to the nearest", (_, round, all) => {
    let wrong = 0;
    const check = (x: number, want: number) => {
      if (!Object.is(round(x), want) || !Object.is(round(-x), -want)) wrong++;
    };
    all.forEach((x, bits) => {
      check(x, x);
      const middle = (x + (all[bits + 1] ?? x + (x - (all[bits - 1] as number)))) / 2;
      // f32 neighbours of the midpoint: wider than f32, bf16 would round twice.
      const nudge = middle * 2 ** -22 || 2 ** -149;
      for (const y of [middle, middle - nudge, middle + nudge].map(Math.fround)) check(y, nearest(all, y));
    });
    expect(wrong).toBe(0);
  });

  test("any f32 goes to the nearest f16 and bf16", () => {
    const property = fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (x) => {
      expect(roundF16(x)).toBe(nearest(f16, x));
      expect(roundBf16(x)).toBe(nearest(bf16, x));
    });
    fc.assert(property, { seed: 16, numRuns: 3000 });
  });

  test.each([
    ["f16", 65519.99, 65504],
    ["f16", 65520, Number.POSITIVE_INFINITY],
    ["f16", 2 ** -25, 0],
    ["f16", 2 ** -25 * 1.01, 2 ** -24],
    ["f16", -0, -0],
    ["bf16", 3.4e38, Number.POSITIVE_INFINITY],
    ["bf16", 3.3895e38, 3.3895313892515355e38],
    ["bf16", Number.NaN, Number.NaN],
    ["bf16", 2 ** -134, 0],
    ["f32", 0.1, Math.fround(0.1)],
    ["i32", 2 ** 31, -(2 ** 31)],
    ["i32", -1.9, -1],
    ["i8", 127, 127],
    ["i8", 128, -128],
    ["i8", -129, 127],
    ["i8", -1.9, -1],
    ["i8", 2 ** 40 + 5, 5],
    ["i8", Number.NaN, 0],
    ["i8", Number.POSITIVE_INFINITY, 0],
    ["i4", 7, 7],
    ["i4", 8, -8],
    ["i4", -9, 7],
    ["u8", 255, 255],
    ["u8", 256, 0],
    ["u8", -1, 255],
    ["bool", -0.5, 1],
    ["bool", -0, 0],
  ] as const)("%s of %d is %d", (dtype, x, want) => {
    expect(roundTo(dtype, x)).toBe(want);
  });

  test("whole numbers wrap like two's complement", () => {
    const property = fc.property(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), (x) => {
      expect(roundTo("i8", x)).toBe(Int8Array.of(x)[0]);
      expect(roundTo("u8", x)).toBe(Uint8Array.of(x)[0]);
      expect(roundTo("i4", x)).toBe(((((x + 8) % 16) + 16) % 16) - 8);
    });
    fc.assert(property, { seed: 8, numRuns: 1000 });
  });
});

describe("shapes", () => {
  const [T, B] = [dim("T"), dim("B")];

  test.each([
    [["f32[2,3]", "f32[3]"], "2,3"],
    [["f32[2,1]", "f32[1,3]", "f32[]"], "2,3"],
    [["f32[T,1]", "f32[B,1,8]"], "B,T,8"],
    [["f32[0]", "f32[1]"], "0"],
    [["f32[P+T]", "f32[T+P]"], "P+T"],
  ])("%s stretch to [%s]", (types, want) => {
    expect(String(broadcast(...types.map(parseType)))).toBe(want);
  });

  test("equal sizes are the same object", () => {
    expect(plus(T, T)).toBe(times(2, T));
    expect(minus(plus(T, B), T)).toBe(B);
    expect(times(plus(T, 1), minus(T, 1))).toBe(minus(times(T, T), 1));
    expect(minus(T, T)).toBe(0);
    expect(size(plus(times(T, B), 3), { T: 5, B: 2 })).toBe(13);
    expect(() => size(T, {})).toThrow("size T is unbound; pass { T: <number> }");
  });

  test("a size is read as it is printed", () => {
    const coefficients = fc.array(fc.integer({ min: -3, max: 3 }), { minLength: 4, maxLength: 4 });
    const property = fc.property(coefficients, ([a = 0, b = 0, c = 0, d = 0]) => {
      const it = [times(a, T), times(b, B), times(c, times(T, B)), d].reduce(plus);
      expect(parseDim(String(it))).toBe(it);
      expect(size(it, { T: 7, B: 11 })).toBe(7 * a + 11 * b + 77 * c + d);
    });
    fc.assert(property, { seed: 4, numRuns: 500 });
  });
});

describe("errors name the op, the operand types and the mend", () => {
  const x = p("x", "f32[2,3]");
  const i = p("i", "i32[2,3]");
  test.each<[string, () => unknown]>([
    ["add(a: f32[2,3], b: i32[2,3]): dtypes differ: f32[2,3] and i32[2,3]; cast one", () => o.add(x, i)],
    [
      "mul(a: f32[2,3], b: f32[2]): cannot broadcast: sizes 3 and 2 differ at axis -1; reshape one",
      () => o.mul(x, p("y", "f32[2]")),
    ],
    ["exp(x: i32[2,3]): needs a float, got i32[2,3]; cast it first", () => o.exp(i)],
    ["mean(x: i32[2,3]): needs a float, got i32[2,3]; cast it first", () => o.mean(i)],
    ["sum(x: f32[2,3]): axis 2 is out of range for f32[2,3]", () => o.sum(x, { axis: 2 })],
    [
      "select(cond: f32[2,3], a: f32[2,3], b: f32[2,3]): the condition is f32[2,3]; compare something to get a bool",
      () => o.select(x, x, x),
    ],
    [
      "matmul(a: f32[2,3], b: f32[2,3]): inner sizes differ: f32[2,3] ends in 3 but f32[2,3] has 2 rows; transpose one?",
      () => o.matmul(x, x),
    ],
    [
      "matmul(a: f32[2,3], b: f32[3]): axis -2 is out of range for f32[3]",
      () => o.matmul(x, p("y", "f32[3]")),
    ],
    ["reshape(x: f32[2,3]): f32[2,3] has 6 elements but [4] has 4", () => o.reshape(x, { shape: [4] })],
    ["reshape(x: f32[2,3]): -2 in [-2,-3] is not a size", () => o.reshape(x, { shape: [-2, -3] })],
    [
      "transpose(x: f32[2,3]): perm [0,0] must name each axis of f32[2,3] once",
      () => o.transpose(x, { perm: [0, 0] }),
    ],
    ["slice(x: f32[2,3]): to 4 is past the axis of size 3", () => o.slice(x, { axis: 1, to: 4 })],
    ["slice(x: f32[2,3]): from 2 lies after to 1", () => o.slice(x, { axis: 1, from: 2, to: 1 })],
    ["slice(x: f32[2,3]): from -1 is negative", () => o.slice(x, { axis: 1, from: -1, to: 1 })],
    [
      "concat(a: f32[2,3], b: f32[2]): axis 1 is out of range for f32[2]",
      () => o.concat(x, p("y", "f32[2]"), { axis: 1 }),
    ],
    [
      "concat(a: f32[2,3], b: f32[4,3]): f32[2,3] and f32[4,3] differ besides axis -1",
      () => o.concat(x, p("y", "f32[4,3]")),
    ],
    ["gather(table: f32[2,3], index: f32[2,3]): the index is f32[2,3]; it must be i32", () => o.gather(x, x)],
    [
      "gather(table: f32[], index: i32[2,3]): the table is f32[]; it needs rows",
      () => o.gather(p("y", "f32[]"), i),
    ],
    [
      "update(dest: f32[2,3], src: f32[3,3], start: i32[]): f32[3,3] does not fit into f32[2,3] along axis 1",
      () => o.update(x, p("y", "f32[3,3]"), p("s", "i32[]"), { axis: 1 }),
    ],
    [
      "update(dest: f32[2,3], src: f32[2,1], start: f32[]): start is f32[]; it must be i32[]",
      () => o.update(x, p("y", "f32[2,1]"), 1, { axis: 1 }),
    ],
    [
      "attention(q: f32[1,3,2,4], k: f32[1,2,2,4], v: f32[1,2,2,4], qpos: i32[1,2], kpos: i32[1,2]): 3 query heads do not divide over 2 key heads",
      () =>
        o.attention(
          p("q", "f32[1,3,2,4]"),
          p("k", "f32[1,2,2,4]"),
          p("k", "f32[1,2,2,4]"),
          p("pos", "i32[1,2]"),
          p("pos", "i32[1,2]"),
          { scale: 1 },
        ),
    ],
    [
      "rope(x: f32[1,2,3,N], positions: i32[1,3]): axis -1 of f32[1,2,3,N] must be a fixed size",
      () => o.rope(p("h", "f32[1,2,3,N]"), p("pos3", "i32[1,3]")),
    ],
    ["param(): 0x is not a name such as layers.0/norm.weight", () => p("0x", "f32[2]")],
  ])("%s", (message, build) => {
    expect(build).toThrow(OpError);
    expect(build).toThrow(message);
  });

  test.each<[string, () => unknown]>([
    ["attention: scale is required", () => o.attention(x, x, x, i, i)],
    ["mean: axis = 0.5 is not int", () => o.mean(x, { axis: 0.5 })],
    ["rms_norm: eps = NaN is not float", () => o.rms_norm(x, x, { eps: Number.NaN })],
    ["mean has no dim; it takes axis", () => o.mean(x, { dim: 1 } as object)],
    ["add has no axis; it takes none", () => o.add(x, x, { axis: 1 } as object)],
    ["add takes 2 operands (a, b), got 1", () => intern(o.add, [x], {})],
    ["-1 in [-1] is not a size; sizes are whole and not negative", () => tensor("f32", -1)],
  ])("%s", (message, build) => {
    expect(build).toThrow(TypeError);
    expect(build).toThrow(message);
  });

  test.each<[string, ConstructorParameters<typeof Graph>[1]]>([
    ["graph g: it has no outputs; return at least one value", { inputs: [x], outputs: {} }],
    ["is a exp; inputs must be params", { inputs: [o.exp(x)], outputs: { y: o.exp(x) } }],
    ["input x is listed twice; list it once", { inputs: [x, x], outputs: { y: x } }],
    [
      "two params are called x: f32[2,3] and f32[4]; rename one",
      { inputs: [x], outputs: { y: p("x", "f32[4]") } },
    ],
    [
      "setup makes w : f32[2,3], but the graph reads f32[9]",
      { inputs: [], outputs: { y: p("w", "f32[9]") }, setup: { w: o.exp(x) } },
    ],
    [
      "setup reads the runtime input x",
      { inputs: [x], outputs: { y: p("w", "f32[2,3]") }, setup: { w: o.exp(x) } },
    ],
    ["alias: there is no output z", { inputs: [x], outputs: { y: x }, aliases: { z: "x" } }],
  ])("%s", (message, parts) => {
    expect(() => verify(new Graph("g", parts))).toThrow(GraphError);
    expect(() => verify(new Graph("g", parts))).toThrow(message);
  });
});

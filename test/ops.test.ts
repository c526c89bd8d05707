import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Graph, intern, type OpDef, OpError, type Value } from "../ir/graph.ts";
import { interpret } from "../ir/interpret.ts";
import { registry } from "../ir/op.ts";
import * as o from "../ir/ops/index.ts";
import { count, type HostTensor, roundBf16, roundF16, roundTo } from "../ir/tensor.ts";
import { tables } from "../ir/text/index.ts";
import { parseType, type TensorType, tensor } from "../ir/type.ts";
import { verify } from "../ir/verify.ts";
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

/** Lines such as `sum axis=0 : f32[2,2] 1 2 3 4 -> 4 6`: op and attributes, operands, what comes of them. */
const lines = (text: string) =>
  text
    .trim()
    .split("\n")
    .map((line) => line.trim());

const cut = (text: string, at: string) => {
  const i = text.indexOf(at);
  return [text.slice(0, i).trim(), text.slice(i + at.length).trim()] as const;
};

function read(line: string) {
  const [call, rest] = cut(line, " :");
  const [operands, want] = cut(rest, "->");
  const [name = "", ...given] = call.split(" ");
  const op = registry.get(name);
  if (!op) throw new Error(`no op is called ${name}`);
  const attrs = Object.fromEntries(Object.entries(op.attrs).map(([k, a]) => [k, a.default]));
  for (const [k = "", text = ""] of given.map((word) => word.split("="))) attrs[k] = op.attrs[k]?.parse(text);
  const words = operands === "" ? [] : operands.split(" ; ").map((operand) => operand.split(" "));
  const inputs = words.map(([type = ""], i) => p(`v${i}`, type));
  const data = words.map(([, ...numbers]) => Float64Array.from(numbers, Number));
  return { op, inputs, data, want, build: () => intern(op, inputs, attrs) };
}

function compute(line: string): HostTensor {
  const { inputs, data, build } = read(line);
  const tensor = (name: string, type: TensorType) => {
    const i = Number(name.slice(1));
    return { shape: type.shape as number[], data: data[i] as Float64Array };
  };
  return interpret(new Graph("one", { inputs, outputs: { y: build() } }), { sizes: {}, tensor })
    .y as HostTensor;
}

const cases = lines(`
  constant value=0.1 dtype=bf16 : -> 0.10009765625
  iota shape=[2,3] dtype=i32 : -> 0 1 2 0 1 2
  iota shape=[2,3] dtype=i32 axis=0 : -> 0 0 0 1 1 1
  exp : f32[4] 0 1 -1 -Infinity -> 1 2.7182817459106445 0.3678794503211975 0
  tanh : f32[3] 0 1 -40 -> 0 0.7615941762924194 -1
  sin : f32[2] 0 1 -> 0 0.8414709568023682
  cos : f32[2] 0 1 -> 1 0.5403022766113281
  sqrt : f32[4] 0 2.25 9 -1 -> 0 1.5 3 NaN
  rsqrt : f32[3] 4 0.25 0 -> 0.5 2 Infinity
  add : f32[2,2] 1 2 3 4 ; f32[2] 10 20 -> 11 22 13 24
  add : bf16[2] 1 256 ; bf16[] 1 -> 2 256
  add : i8[2] 127 -128 ; i8[2] 1 -1 -> -128 127
  sub : f32[2,1] 1 2 ; f32[1,3] 1 2 3 -> 0 -1 -2 1 0 -1
  mul : f32[4] -2 -0.5 0 3 ; f32[] 2 -> -4 -1 0 6
  div : f32[4] -2 -0.5 0 3 ; f32[1] -2 -> 1 0.25 -0 -1.5
  div : i32[4] 7 -7 1 -1 ; i32[] 2 -> 3 -3 0 0
  pow : f32[3] 2 9 10 ; f32[3] 10 0.5 -2 -> 1024 3 0.009999999776482582
  maximum : f32[4] -2 -0.5 0 3 ; f32[] -1 -> -1 -0.5 0 3
  minimum : f32[4] -2 -0.5 0 3 ; f32[] -1 -> -2 -1 -1 -1
  less_equal : i32[3] 1 2 3 ; i32[] 2 -> 1 1 0
  less_equal : f32[2] NaN 0 ; f32[] -0 -> 0 1
  select : bool[2] 1 0 ; f32[2,2] 1 2 3 4 ; f32[2,1] 8 9 -> 1 8 3 9
  select : bool[] 0 ; f32[] NaN ; f32[] 5 -> 5
  cast to=i32 : f32[4] -2.75 -0.5 2.5 300 -> -2 0 2 300
  cast to=bool : f32[3] 0 0.25 -3 -> 0 1 1
  cast to=f16 : f32[5] 65519.99 65520 2.98e-8 3.01e-8 -0 -> 65504 Infinity 0 5.960464477539063e-8 -0
  cast to=bf16 : f32[4] 3.4e38 3.3895e38 NaN -1e-41 -> Infinity 3.3895313892515355e38 NaN -0
  cast to=i32 : f32[4] 2147483648 -1.9 NaN Infinity -> -2147483648 -1 0 0
  cast to=i8 : f32[7] 127 128 -129 -1.9 1099511627781 NaN Infinity -> 127 -128 127 -1 5 0 0
  cast to=i4 : f32[3] 7 8 -9 -> 7 -8 7
  cast to=u8 : f32[4] 255 256 -1 NaN -> 255 0 255 0
  cast to=bool : f32[2] -0.5 -0 -> 1 0
  reshape shape=[3,2] : i32[2,3] 1 2 3 4 5 6 -> 1 2 3 4 5 6
  transpose perm=[1,0] : i32[2,3] 1 2 3 4 5 6 -> 1 4 2 5 3 6
  transpose perm=[2,0,1] : i32[2,1,3] 1 2 3 4 5 6 -> 1 4 2 5 3 6
  slice axis=1 from=1 to=3 : i32[2,3] 1 2 3 4 5 6 -> 2 3 5 6
  slice axis=-2 from=2 to=3 : i32[3,2] 1 2 3 4 5 6 -> 5 6
  slice axis=0 from=2 to=2 : i32[3] 1 2 3 ->
  concat : i32[2,1] 1 2 ; i32[2,2] 3 4 5 6 -> 1 3 4 2 5 6
  concat axis=0 : i32[0,2] ; i32[1,2] 1 2 -> 1 2
  gather : f32[3,2] 1 2 3 4 5 6 ; i32[3] 2 0 2 -> 5 6 1 2 5 6
  gather : f32[3] 7 8 9 ; i32[] 1 -> 8
  update axis=0 : i32[4] 1 2 3 4 ; i32[2] 8 9 ; i32[] 2 -> 1 2 8 9
  update axis=0 wrap=true : i32[4] 1 2 3 4 ; i32[3] 7 8 9 ; i32[] 6 -> 9 2 7 8
  update axis=1 wrap=true : i32[2,2] 1 2 3 4 ; i32[2,3] 5 6 7 8 9 10 ; i32[] 1 -> 6 7 9 10
  mod by=3 : i32[4] 7 -7 6 -1 -> 1 2 0 2
  erf : f32[6] 0 0.5 -1 2.4 2.6 7 -> 0 0.5204998850822449 -0.8427007794380188 0.9993115067481995 0.9997639656066895 1
  update axis=-1 : i32[2,3] 1 2 3 4 5 6 ; i32[2,1] 8 9 ; i32[] 1 -> 1 8 3 4 9 6
  sum : f32[2,3] 1 2 3 4 5 6 -> 6 15
  sum axis=0 : f32[2,3] 1 2 3 4 5 6 -> 5 7 9
  mean axis=-1 : f32[2,2] 1 2 3 6 -> 1.5 4.5
  max axis=0 : f32[2,2] 1 -2 -3 -6 -> 1 -2
  max axis=1 : f32[1,2,2] 1 5 3 2 -> 3 5
  matmul : f32[2,2] 1 2 3 4 ; f32[2,1] 10 100 -> 210 430
  matmul : f32[2,1,2] 1 2 3 4 ; f32[2,2] 1 0 1 1 -> 3 2 7 4
  matmul : f32[1,0] ; f32[0,2] -> 0 0
  linear : f32[1,2] 1 2 ; f32[3,2] 1 0 0 1 1 1 -> 1 2 3
  dequantize : i8[1,32] ${Array(32).fill(3).join(" ")} ; f32[1,2] 2 4 ; i8[1,2] 1 -1 -> ${[...Array(16).fill(4), ...Array(16).fill(16)].join(" ")}
  softmax : f32[2] 1000 1000 -> 0.5 0.5
  rms_norm eps=0 : f32[2] 3 -3 ; f32[2] 1 2 -> 1 -2
  rope : f32[1,1,2,2] 1 0 1 0 ; i32[1,2] 0 1 -> 1 0 0.5403022766113281 0.8414709568023682
  attention scale=1 : f32[1,2,1,1] 1 1 ; f32[1,1,2,1] 0 9 ; f32[1,1,2,1] 5 7 ; i32[1,1] 0 ; i32[1,2] 0 1 -> 5 5
  attention scale=1 window=2 : f32[1,1,1,1] 0 ; f32[1,1,4,1] 0 0 0 0 ; f32[1,1,4,1] 1 2 4 8 ; i32[1,1] 2 ; i32[1,4] 0 1 2 3 -> 3
  attention scale=1 softcap=1e-9 : f32[1,1,1,1] 1 ; f32[1,1,2,1] 0 9 ; f32[1,1,2,1] 2 4 ; i32[1,1] 1 ; i32[1,2] 0 1 -> 3
  rope factor=2 : f32[1,1,1,2] 1 0 ; i32[1,1] 2 -> 0.5403022766113281 0.8414709568023682
  gelu_erf : f32[2] 1 -2 -> 0.8413447141647339 -0.04550027847290039
  silu : f32[2] 0 1 -> 0 0.7310585975646973
  softcap cap=2 : f32[3] 0 1000 -1 -> 0 2 -0.9242343306541443
`);

describe("numbers", () => {
  test.each(cases)("%s", (line) => {
    const { want } = read(line);
    expect([...compute(line).data]).toEqual(want === "" ? [] : want.split(" ").map(Number));
  });

  test("every primitive has a case", () => {
    const tried = new Set(cases.map((line) => read(line).op.name));
    expect(Object.keys(tables.primitives).filter((name) => !tried.has(name))).toEqual(["param"]);
  });

  const outside = lines(`
    gather : f32[2] 1 2 ; i32[] 2 -> index 2 is outside the table of 2 rows
    gather : f32[2] 1 2 ; i32[] -1 -> index -1 is outside the table of 2 rows
    update axis=0 : f32[2] 1 2 ; f32[2] 3 4 ; i32[] 1 -> writing 2 at 1 does not fit into 2
  `);
  test.each(outside)("%s", (line) => expect(() => compute(line)).toThrow(new RangeError(read(line).want)));

  test("a slice past the end of a symbolic axis is an error", () => {
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
    if (x < 0 || Object.is(x, -0)) return -nearest(all, -x);
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

  test("whole numbers wrap like two's complement", () => {
    const property = fc.property(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), (x) => {
      expect(roundTo("i8", x)).toBe(Int8Array.of(x)[0]);
      expect(roundTo("u8", x)).toBe(Uint8Array.of(x)[0]);
      expect(roundTo("i4", x)).toBe(((((x + 8) % 16) + 16) % 16) - 8);
    });
    fc.assert(property, { seed: 8, numRuns: 1000 });
  });
});

describe("errors", () => {
  const refused = lines(`
    add : f32[2,3] ; i32[2,3] -> dtypes differ: f32[2,3] and i32[2,3]; cast one
    less_equal : f32[2] ; bf16[2] -> dtypes differ: f32[2] and bf16[2]; cast one
    mul : f32[2,3] ; f32[2] -> cannot broadcast: sizes 3 and 2 differ at axis -1; reshape one
    exp : i32[2,3] -> needs a float, got i32[2,3]; cast it first
    mean : i32[2,3] -> needs a float, got i32[2,3]; cast it first
    sum axis=2 : f32[2,3] -> axis 2 is out of range for f32[2,3]
    select : f32[2] ; f32[2] ; f32[2] -> the condition is f32[2]; compare something to get a bool
    matmul : f32[2,3] ; f32[T,3] -> inner sizes differ: f32[2,3] ends in 3 but f32[T,3] has T rows; transpose one?
    matmul : f32[2,3] ; f32[3] -> axis -2 is out of range for f32[3]
    reshape shape=[4] : f32[2,3] -> f32[2,3] has 6 elements but [4] has 4
    reshape shape=[-2,-3] : f32[2,3] -> -2 in [-2,-3] is not a size; sizes are whole and not negative
    transpose perm=[0,0] : f32[2,3] -> perm [0,0] must name each axis of f32[2,3] once
    slice axis=1 to=4 : f32[2,3] -> to 4 is past the axis of size 3
    slice axis=1 from=2 to=1 : f32[2,3] -> from 2 lies after to 1
    slice axis=1 from=-1 to=1 : f32[2,3] -> from -1 is negative
    concat : f32[2,3] ; f32[4,3] -> f32[2,3] and f32[4,3] differ besides axis -1
    gather : f32[2,3] ; f32[2] -> the index is f32[2]; it must be i32
    gather : f32[] ; i32[2] -> the table is f32[]; it needs rows
    update axis=1 : f32[2,3] ; f32[3,3] ; i32[] -> f32[3,3] does not fit into f32[2,3] along axis 1
    update axis=1 : f32[2,3] ; f32[2,1] ; f32[] -> start is f32[]; it must be i32[]
    attention scale=1 : f32[1,3,2,4] ; f32[1,2,2,4] ; f32[1,2,2,4] ; i32[1,2] ; i32[1,2] -> 3 query heads do not divide over 2 key heads
    rope : f32[1,2,3,N] ; i32[1,3] -> axis -1 of f32[1,2,3,N] must be a fixed size
  `);
  test.each(refused)("%s", (line) => {
    const { op, inputs, want, build } = read(line);
    const call = inputs.map((v, i) => `${op.inputs[i]}: ${v.type}`).join(", ");
    expect(build).toThrow(OpError);
    expect(build).toThrow(`${op.name}(${call}): ${want}`);
  });

  const x = p("x", "f32[2,3]");
  test.each<[string, () => unknown]>([
    ["attention: scale is required", () => o.attention(x, x, x, x, x)],
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
});

import type { Dim } from "../../../ir/dim.ts";
import type { Value } from "../../../ir/graph.ts";
import type { Emit, Emitters } from "../../backend.ts";
import type { Builder } from "../program/builder.ts";
import { printDim, single } from "../program/dims.ts";
import { type Line, text } from "../program/line.ts";
import { fused } from "./fused.ts";
import { elementwise, literal, loop, stretched, views } from "./generic.ts";

type Pieces = Line["pieces"];

const unary =
  (f: (x: Pieces) => Pieces): Emit<Builder> =>
  (cx, v) =>
    elementwise(cx, v, (x) => f(x as Pieces));
const binary =
  (f: (a: Pieces, b: Pieces) => Pieces): Emit<Builder> =>
  (cx, v) =>
    elementwise(cx, v, (a, b) => f(a as Pieces, b as Pieces));

/** Converts to what `cast` promises. */
function converted(v: Value, x: Pieces): Pieces {
  const from = v.inputs[0]?.dtype;
  switch (v.dtype) {
    case "bool":
      return text`${x} != 0`;
    case "i8":
      return text`(int8_t)wrap_i32(${x})`;
    case "u8":
      return text`(uint8_t)wrap_i32(${x})`;
    case "i4":
      return text`(int8_t)(((wrap_i32(${x}) & 15) ^ 8) - 8)`;
    case "i32":
      return from === "f32" || from === "f16" || from === "bf16" ? text`wrap_i32(${x})` : x;
    default:
      return text`(float)${x}`;
  }
}

/** Folds one axis into a number. */
const reduction =
  (
    first: string,
    step: (acc: string, x: Pieces) => Pieces,
    last: (acc: string, n: Dim) => string,
  ): Emit<Builder> =>
  (cx, v) => {
    const x = v.inputs[0] as Value;
    const axis = x.type.axis(Number(v.attrs.axis));
    return loop(cx, v, [x], (read, at) => ({
      before: text`  double acc = ${first};\n  for (long k = 0; k < ${cx.shape(x)[axis] as Dim}; k++) acc = ${step("acc", read(x, at.with(axis, "k")))};\n`,
      value: [last("(float)acc", cx.shape(x)[axis] as Dim)],
    }));
  };

export const emitters: Emitters<Builder> = {
  constant: (cx, v) =>
    cx.settle(v, {
      store: {
        kind: "given",
        text: `(&(const ${v.dtype === "i32" ? "int32_t" : "float"}){${literal(Number(v.attrs.value), v.dtype)}})`,
      },
      offset: 0,
      strides: [],
    }),
  param: () => {
    throw new Error("params have places from the start");
  },
  iota: (cx, v) => {
    const axis = v.type.axis(Number(v.attrs.axis));
    return loop(cx, v, [], (_, at) => ({ value: [at[axis] as string] }));
  },

  exp: unary((x) => text`expf(${x})`),
  tanh: unary((x) => text`tanhf(${x})`),
  erf: unary((x) => text`erff(${x})`),
  sin: unary((x) => text`sinf(${x})`),
  cos: unary((x) => text`cosf(${x})`),
  sqrt: unary((x) => text`sqrtf(${x})`),
  rsqrt: unary((x) => text`1.0f / sqrtf(${x})`),
  add: binary((a, b) => text`${a} + ${b}`),
  sub: binary((a, b) => text`${a} - ${b}`),
  mul: binary((a, b) => text`${a} * ${b}`),
  div: binary((a, b) => text`${a} / ${b}`),
  pow: binary((a, b) => text`(float)pow(${a}, ${b})`),
  maximum: binary((a, b) => text`${a} > ${b} ? ${a} : ${b}`),
  minimum: binary((a, b) => text`${a} < ${b} ? ${a} : ${b}`),
  mod: (cx, v) => elementwise(cx, v, (x) => text`floor_mod(${x as Pieces}, ${Number(v.attrs.by)})`),
  less_equal: binary((a, b) => text`${a} <= ${b}`),
  select: (cx, v) => elementwise(cx, v, (c, a, b) => text`${c as Pieces} ? ${a as Pieces} : ${b as Pieces}`),

  cast: (cx, v) => elementwise(cx, v, (x) => converted(v, x as Pieces)),
  reshape: (cx, v) => cx.view(v, views.reshape(cx, v, v.inputs[0] as Value)),
  transpose: (cx, v) => cx.view(v, views.transpose(cx, v.inputs[0] as Value, v.attrs.perm as number[])),
  slice: (cx, v) => {
    const x = v.inputs[0] as Value;
    return cx.view(v, views.slice(cx, x, x.type.axis(Number(v.attrs.axis)), single(v.attrs.from as Dim)));
  },
  concat: (cx, v) => {
    const [a, b] = v.inputs as [Value, Value];
    const axis = v.type.axis(Number(v.attrs.axis));
    const n = printDim(cx.shape(a)[axis] as Dim);
    const at = (c: readonly string[], value: string) => c.with(axis, value);
    return loop(cx, v, [a, b], (read, c) => {
      const k = c[axis] as string;
      return { value: text`${k} < ${n} ? ${read(a, at(c, k))} : ${read(b, at(c, `(${k} - ${n})`))}` };
    });
  },
  gather: (cx, v) => {
    const [table, index] = v.inputs as [Value, Value];
    const rows = fused.rows(cx, v, table, index);
    if (rows !== undefined) return rows;
    return loop(cx, v, [table, index], (read, c) => {
      const own = c.slice(0, index.type.rank);
      return {
        before: text`  const long row = ${read(index, own)};\n`,
        value: read(table, ["row", ...c.slice(index.type.rank)]),
      };
    });
  },
  update: (cx, v) => {
    const [dest, src, start] = v.inputs as [Value, Value, Value];
    const axis = v.type.axis(Number(v.attrs.axis));
    const [n, all] = [printDim(cx.shape(src)[axis] as Dim), printDim(cx.shape(v)[axis] as Dim)];
    return loop(cx, v, [dest, src, start], (read, c) => {
      const k = c[axis] as string;
      const from = read(start, []);
      // The last that falls on this element wins; with wrap there may be several.
      const last = v.attrs.wrap
        ? text`${n} - 1 - floor_mod((int)(${from} + ${n} - 1 - ${k}), (int)${all})`
        : text`${k} - ${from}`;
      return {
        before: text`  const long k = ${last};\n`,
        value: text`k >= 0 && k < ${n} ? ${read(src, c.with(axis, "k"))} : ${read(dest, c)}`,
      };
    });
  },

  sum: reduction(
    "0",
    (acc, x) => text`${acc} + ${x}`,
    (acc) => acc,
  ),
  mean: reduction(
    "0",
    (acc, x) => text`${acc} + ${x}`,
    (acc, n) => `${acc} / (float)${printDim(n)}`,
  ),
  max: reduction(
    "-INFINITY",
    (acc, x) => text`${acc} > ${x} ? ${acc} : ${x}`,
    (acc) => acc,
  ),
  matmul: (cx, v) => {
    const [a, b] = v.inputs as [Value, Value];
    return loop(cx, v, [a, b], (read, c) => {
      const [row, column] = c.slice(-2) as [string, string];
      const left = stretched(cx, a, [...c.slice(0, -2), row, "k"])
        .with(-1, "k")
        .with(-2, row);
      const right = stretched(cx, b, [...c.slice(0, -2), "k", column])
        .with(-2, "k")
        .with(-1, column);
      return {
        before: text`  double acc = 0;\n  for (long k = 0; k < ${single(a.type.at(-1))}; k++) acc += (double)${read(a, left)} * ${read(b, right)};\n`,
        value: ["(float)acc"],
      };
    });
  },
  dequantize: (cx, v) => {
    const [codes, scale, zero] = v.inputs as [Value, Value, Value];
    const block = codes.fixed(1) / scale.fixed(1);
    return loop(cx, v, [codes, scale, zero], (read, [row = "0", column = "0"]) => {
      const b = [row, `(${column} / ${block})`];
      const z = read(zero, zero.type.rank === 0 ? [] : b);
      return { value: text`(float)(${read(codes, [row, column])} - ${z}) * ${read(scale, b)}` };
    });
  },

  linear: fused.linear,
  quant_linear: fused.quantLinear,
  quant_gather: fused.quantGather,
  rms_norm: fused.rmsNorm,
  rope: fused.rope,
  attention: fused.attention,
  gelu: unary((x) => text`gelu_of(${x})`),
  geglu: (cx, v) => elementwise(cx, v, (gate, up) => text`gelu_of(${gate as Pieces}) * ${up as Pieces}`),
  gelu_erf: unary((x) => text`0.5f * ${x} * (1.0f + erff(${x} * 0.70710678118654752f))`),
  silu: unary((x) => text`${x} / (1.0f + exp_of(-${x}))`),
  softcap: (cx, v) => {
    const cap = literal(Number(v.attrs.cap), "f32");
    return elementwise(cx, v, (x) => text`${cap} * tanh_of(${x as Pieces} / ${cap})`);
  },
};

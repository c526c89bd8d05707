import { int, oneOf, primitive } from "../op.ts";
import { type HostTensor, roundTo } from "../tensor.ts";
import { isFloat, TensorType } from "../type.ts";
import { type Code, clamp, ranges, roundEven, searchSteps } from "./codes.ts";

const code = () => oneOf("i8", "i4");

/** Blocks of `block` neighbours along the last axis of a matrix. */
function blocked(x: TensorType, block: number): TensorType {
  if (x.rank !== 2 || !isFloat(x.dtype))
    throw new TypeError(`${x} is no float matrix; quantization works on [rows, columns]`);
  const columns = x.at(-1);
  if (typeof columns !== "number" || columns % block !== 0)
    throw new TypeError(`blocks of ${block} do not divide the ${columns} columns of ${x}`);
  return new TensorType("f32", [x.at(0), columns / block]);
}

/** One number for each block of x, from its elements and the index of its first column. */
function perBlock(
  x: HostTensor,
  block: number,
  shape: readonly number[],
  f: (values: Float64Array, column: number) => number,
): HostTensor {
  const columns = x.shape[1] as number;
  const data = new Float64Array(x.data.length / block);
  for (let i = 0; i < data.length; i++) {
    const at = i * block;
    data[i] = f(x.data.subarray(at, at + block), at % columns);
  }
  return { shape, data };
}

/** The value of largest magnitude, with its sign; the first of equals. */
const extreme = (values: Float64Array): number =>
  values.reduce((a, v) => (Math.abs(v) > Math.abs(a) ? v : a), 0);

/** The scale that maps the extreme value to the end of the range. 4 bits reach further down than up: -8 to 7. */
const symmetric = (to: Code, values: Float64Array): number =>
  to === "i8" ? Math.abs(extreme(values)) / 127 : extreme(values) / -8;

export const block_scale = primitive("block_scale", {
  doc: "A scale for each block of a row, such that whole numbers of type `to` cover it: around zero, or from least to largest.",
  inputs: ["x"],
  attrs: { to: code(), block: int(32), around: oneOf("zero", "middle") },
  example: [["f32[2,64]"], { to: "i4" }],
  infer: ({ x }, { block }) => blocked(x, block),
  eval: ({ x }, { to, block, around }, { shape }) =>
    perBlock(x, block, shape, (values) => {
      if (around === "zero") return symmetric(to, values);
      const [low, high] = ranges[to];
      return (Math.max(0, ...values) - Math.min(0, ...values)) / (high - low);
    }),
});

export const block_zero = primitive("block_zero", {
  doc: "The whole number that stands for 0 in each block, for scales from least to largest.",
  inputs: ["x", "scale"],
  attrs: { to: code(), block: int(32) },
  example: [["f32[2,64]", "f32[2,2]"], { to: "i4" }],
  infer: ({ x, scale }, { to, block }) => {
    const t = blocked(x, block);
    if (!t.equals(scale)) throw new TypeError(`the scale is ${scale}, not ${t}`);
    return t.with({ dtype: to });
  },
  eval: ({ x, scale }, { to, block }, { shape }) => {
    let i = 0;
    return perBlock(x, block, shape, (values) => {
      const s = scale.data[i++] as number;
      const [low, high] = ranges[to];
      return s === 0 ? 0 : clamp(roundEven(low - Math.min(0, ...values) / s), low, high);
    });
  },
});

export const block_scale_search = primitive("block_scale_search", {
  doc:
    "The scale around zero for each block that loses least, counting the error in each column by `importance` (the mean " +
    "square of what is multiplied with it). Tries shrunken scales and refits each by least squares.",
  inputs: ["x", "importance"],
  attrs: { to: code(), block: int(32) },
  example: [["f32[2,64]", "f32[64]"], { to: "i4" }],
  infer: ({ x, importance }, { block }) => {
    if (importance.rank !== 1 || importance.at(0) !== x.at(-1))
      throw new TypeError(`importance is ${importance}; it must be f32[${x.at(-1)}]`);
    return blocked(x, block);
  },
  eval: ({ x, importance }, { to, block }, { shape }) =>
    perBlock(x, block, shape, (values, column) => {
      const weights = importance.data.subarray(column, column + block);
      const [low, high] = ranges[to];
      let best = symmetric(to, values);
      let bestScore = Number.NEGATIVE_INFINITY;
      for (const step of searchSteps) {
        const s = symmetric(to, values) * step;
        if (s === 0) break;
        let [xq, qq] = [0, 0];
        values.forEach((v, i) => {
          const q = clamp(roundEven(v / s), low, high);
          const w = (weights[i] as number) + Number.MIN_VALUE;
          xq += w * v * q;
          qq += w * q * q;
        });
        // The error left by the best scale for these codes is Σwx² - (Σwxq)²/Σwq².
        const score = qq > 0 ? (xq * xq) / qq : 0;
        if (score > bestScore) [best, bestScore] = [qq > 0 ? xq / qq : s, score];
      }
      return best;
    }),
});

export const quantize = primitive("quantize", {
  doc: "Each element over its block's scale, rounded to even, plus the block's zero, cut to what `to` holds.",
  inputs: ["x", "scale", "zero"],
  attrs: { to: code() },
  example: [["f32[2,64]", "f32[2,2]", "i4[2,2]"], { to: "i4" }],
  infer: ({ x, scale, zero }, { to }) => {
    checkBlocks(x, scale, zero, to);
    return x.with({ dtype: to });
  },
  eval: ({ x, scale, zero }, { to }, { shape }) => {
    const [low, high] = ranges[to];
    const block = x.data.length / scale.data.length;
    const data = x.data.map((v, i) => {
      const b = Math.floor(i / block);
      const s = scale.data[b] as number;
      // f32 division, as hardware does it: codes must not depend on who computes them.
      return clamp(roundEven(s === 0 ? 0 : Math.fround(v / s)) + at(zero, b), low, high);
    });
    return { shape, data };
  },
});

const at = (t: HostTensor, i: number): number => t.data[t.shape.length === 0 ? 0 : i] as number;
function checkBlocks(x: TensorType, scale: TensorType, zero: TensorType, to: string): void {
  const [rows, blocks] = [scale.shape[0], scale.shape[1]];
  if (scale.rank !== 2 || typeof blocks !== "number" || rows !== x.shape[0])
    throw new TypeError(`the scale ${scale} must have a row for each row of ${x}`);
  blocked(x, Number(x.at(-1)) / blocks);
  if (zero.dtype !== to) throw new TypeError(`zero is ${zero}, but codes are ${to}`);
  if (zero.rank !== 0 && !zero.with({ dtype: "f32" }).equals(scale.with({ dtype: "f32" })))
    throw new TypeError(`zero is ${zero}; give one number, or one for each block as in ${scale}`);
}

export const dequantize = primitive("dequantize", {
  doc: "(code - zero) · scale, each with its block's zero and scale.",
  inputs: ["codes", "scale", "zero"],
  example: [["i4[2,64]", "f32[2,2]", "i4[2,2]"]],
  infer: ({ codes, scale, zero }) => {
    checkBlocks(codes.with({ dtype: "f32" }), scale, zero, codes.dtype);
    return codes.with({ dtype: "f32" });
  },
  eval: ({ codes, scale, zero }, _, { shape }) => {
    const block = codes.data.length / scale.data.length;
    const data = codes.data.map((q, i) => {
      const b = Math.floor(i / block);
      return roundTo("f32", (q - at(zero, b)) * (scale.data[b] as number));
    });
    return { shape, data };
  },
});

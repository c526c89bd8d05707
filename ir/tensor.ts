import type { DType } from "./type.ts";

/** A tensor of the reference interpreter: every dtype is held as f64 and rounded when stored. Slow, exact, obvious. */
export interface HostTensor {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export const count = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Row-major strides, in elements. */
export function strides(shape: readonly number[]): number[] {
  const out = new Array<number>(shape.length);
  let n = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    out[i] = n;
    n *= shape[i] ?? 1;
  }
  return out;
}

/** For each element of `shape` in row-major order, the offset that `step` (one stride an axis) leads to. */
export function offsets(shape: readonly number[], step: readonly number[], start = 0): Int32Array {
  let out = Int32Array.of(start);
  shape.forEach((n, axis) => {
    const next = new Int32Array(out.length * n);
    const by = step[axis] ?? 0;
    for (let i = 0; i < out.length; i++)
      for (let j = 0; j < n; j++) next[i * n + j] = (out[i] as number) + j * by;
    out = next;
  });
  return out;
}

/** Offsets into a tensor of shape `from` that stretches to `to`: missing axes and axes of size 1 repeat. */
export function stretched(from: readonly number[], to: readonly number[]): Int32Array {
  const own = strides(from);
  const step = to.map((_, axis) => {
    const k = axis - (to.length - from.length);
    return k < 0 || from[k] === 1 ? 0 : (own[k] as number);
  });
  return offsets(to, step);
}

export const pick = (t: HostTensor, from: Int32Array, shape: readonly number[]): HostTensor => ({
  shape,
  data: Float64Array.from(from, (o) => t.data[o] as number),
});

const word = new Uint32Array(1);
const float = new Float32Array(word.buffer);

/** Round to nearest even, as hardware does. */
export function roundBf16(x: number): number {
  float[0] = x;
  if (Number.isNaN(x)) return x;
  const bits = word[0] as number;
  word[0] = (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000;
  return float[0] as number;
}

/** The number that the 16 bits of a half-precision float stand for. */
export function floatOfHalf(bits: number): number {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}

/** Round to nearest even with gradual underflow; beyond 65504 it is infinite. */
export function roundF16(x: number): number {
  if (!Number.isFinite(x) || x === 0) return x;
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(x))), -14);
  const step = 2 ** (exponent - 10);
  const q = Math.abs(x) / step;
  const low = Math.floor(q);
  const up = q - low > 0.5 || (q - low === 0.5 && low % 2 !== 0);
  const y = (up ? low + 1 : low) * step;
  return Math.sign(x) * (y >= 65520 ? Number.POSITIVE_INFINITY : y);
}

/** The low bits of x, cut towards zero, as a two's complement number; NaN and infinity give 0. */
const wrap = (bits: number) => (x: number) => (x << (32 - bits)) >> (32 - bits);

const rounders = {
  f32: Math.fround,
  f16: roundF16,
  bf16: roundBf16,
  i32: (x) => x | 0,
  i8: wrap(8),
  i4: wrap(4),
  u8: (x) => x & 255,
  bool: (x) => (x ? 1 : 0),
} as const satisfies Record<DType, (x: number) => number>;

/** The value of `x` once stored as `dtype`. */
export const roundTo = (dtype: DType, x: number): number => rounders[dtype](x);

/** Round every element in place to what `dtype` can hold. */
export function store(t: HostTensor, dtype: DType): HostTensor {
  const round = rounders[dtype];
  for (let i = 0; i < t.data.length; i++) t.data[i] = round(t.data[i] as number);
  return t;
}

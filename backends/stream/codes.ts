import { type Code, clamp, ranges, searchSteps } from "../../ir/ops/codes.ts";
import type { BlockFormatName } from "../../ir/ops/ggml.ts";
import type { DType } from "../../ir/type.ts";
import { decode } from "./floats.ts";

/** Rows of a matrix to quantize, and how. Plain data: it travels to worker threads. */
export interface CodesJob {
  readonly dtype: DType | BlockFormatName;
  /** The rows as stored. */
  readonly bytes: Uint8Array;
  readonly columns: number;
  readonly block: number;
  readonly to: Code;
  readonly around: "zero" | "middle";
  /** One weight for each column, for the search; without it scales are the plain ones. */
  readonly importance?: Float32Array;
}

export interface Codes {
  /** One byte a code; for i4 two codes a byte, the first in the low half. Two's complement. */
  readonly codes: Uint8Array;
  readonly scales: Float32Array;
  /** One a block, as codes are; empty around zero. */
  readonly zeros: Uint8Array;
}

/** Adding and taking away 1.5·2²³ leaves an f32 rounded to the nearest whole number, halves to even. */
const magic = 12582912;
const roundEven = (x: number): number => Math.fround(Math.fround(x + magic) - magic);

/** What block_scale, block_scale_search, block_zero and quantize of `ir/ops/quant.ts` mean, bit for bit. */
export function encodeRows(job: CodesJob): Codes {
  const x = decode(job.dtype, job.bytes);
  const { columns, block, to, around, importance } = job;
  const [low, high] = ranges[to];
  const count = x.length / block;
  const scales = new Float32Array(count);
  const zeros = new Int8Array(around === "middle" ? count : 0);
  const codes = new Int8Array(x.length);
  for (let b = 0, at = 0; b < count; b++, at += block) {
    const s = Math.fround(
      around === "middle"
        ? spread(x, at, block) / (high - low)
        : importance
          ? searched(x, at, block, to, importance, at % columns)
          : symmetric(to, extreme(x, at, block)),
    );
    scales[b] = s;
    let zero = 0;
    if (around === "middle" && s !== 0) zero = clamp(halfEven(low - least(x, at, block) / s), low, high);
    if (around === "middle") zeros[b] = zero;
    if (s === 0) codes.fill(zero, at, at + block);
    else
      for (let i = at; i < at + block; i++) {
        const q = roundEven(Math.fround((x[i] as number) / s)) + zero;
        codes[i] = q < low ? low : q > high ? high : q;
      }
  }
  const pack = to === "i4" ? nibbles : bytesOf;
  return { codes: pack(codes), scales, zeros: pack(zeros) };
}

/** The f32 values that codes stand for: what `dequantize` means, bit for bit. */
export function decodeRows(
  { block, to }: Pick<CodesJob, "block" | "to">,
  { codes, scales, zeros }: Codes,
): Float32Array {
  const out = new Float32Array(scales.length * block);
  const at = to === "i4" ? nibbleAt : (bytes: Uint8Array, i: number) => ((bytes[i] as number) << 24) >> 24;
  for (let b = 0; b < scales.length; b++) {
    const [scale, zero] = [scales[b] as number, zeros.length ? at(zeros, b) : 0];
    for (let i = b * block; i < (b + 1) * block; i++) out[i] = (at(codes, i) - zero) * scale;
  }
  return out;
}

const nibbleAt = (bytes: Uint8Array, i: number): number =>
  ((bytes[i >> 1] as number) << (i & 1 ? 24 : 28)) >> 28;

const bytesOf = (codes: Int8Array): Uint8Array => new Uint8Array(codes.buffer);

/** Codes of 4 bits, two a byte, the first in the low half. */
export function nibbles(codes: Int8Array): Uint8Array {
  const out = new Uint8Array(Math.ceil(codes.length / 2));
  for (let i = 0; i < out.length; i++)
    out[i] = ((codes[2 * i] as number) & 15) | (((codes[2 * i + 1] ?? 0) & 15) << 4);
  return out;
}

const symmetric = (to: Code, largest: number): number =>
  to === "i8" ? Math.abs(largest) / 127 : largest / -8;

function extreme(x: Float32Array, at: number, n: number): number {
  let [found, size] = [0, 0];
  for (let i = at; i < at + n; i++) {
    const v = x[i] as number;
    const a = v < 0 ? -v : v;
    if (a > size) [found, size] = [v, a];
  }
  return found;
}

function least(x: Float32Array, at: number, n: number): number {
  let low = 0;
  for (let i = at; i < at + n; i++) if ((x[i] as number) < low) low = x[i] as number;
  return low;
}

function spread(x: Float32Array, at: number, n: number): number {
  let high = 0;
  for (let i = at; i < at + n; i++) if ((x[i] as number) > high) high = x[i] as number;
  return high - least(x, at, n);
}

function halfEven(x: number): number {
  const up = Math.round(x);
  return up - x === 0.5 && up % 2 !== 0 ? up - 1 : up;
}

function searched(
  x: Float32Array,
  at: number,
  n: number,
  to: Code,
  importance: Float32Array,
  column: number,
): number {
  const plain = symmetric(to, extreme(x, at, n));
  const [low, high] = ranges[to];
  let [best, bestScore] = [plain, Number.NEGATIVE_INFINITY];
  for (const step of searchSteps) {
    const s = plain * step;
    if (s === 0) break;
    let [xq, qq] = [0, 0];
    for (let i = 0; i < n; i++) {
      const v = x[at + i] as number;
      const q = clamp(halfEven(v / s), low, high);
      const w = (importance[column + i] as number) + Number.MIN_VALUE;
      xq += w * v * q;
      qq += w * q * q;
    }
    const score = qq > 0 ? (xq * xq) / qq : 0;
    if (score > bestScore) [best, bestScore] = [qq > 0 ? xq / qq : s, score];
  }
  return best;
}

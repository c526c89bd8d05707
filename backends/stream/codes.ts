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

/** An f32 from 2²³ to 2²⁴ has no bits after the point: adding 1.5·2²³ rounds to the nearest whole number, halves to even. */
const magic = 1.5 * 2 ** 23;
/** What the bits of such a sum are more than the number. */
const magicBits = 0x4b400000;
const infinityBits = 0x7f800000;
/** Beyond this no number is a sum: NaN. */
const beyond = 2 ** 22;

/** What block_scale, block_scale_search, block_zero and quantize of `ir/ops/quant.ts` mean, bit for bit. */
export function encodeRows(job: CodesJob): Codes {
  const { columns, block, to, around, importance } = job;
  const [low, high] = ranges[to];
  const x = new Float32Array(block);
  const floatBits = new Int32Array(x.buffer);
  const [length, load] = loader(job, x);
  const sums = new Float32Array(block);
  const bits = new Int32Array(sums.buffer);
  const count = length / block;
  const scales = new Float32Array(count);
  const zeros = new Int8Array(around === "middle" ? count : 0);
  const codes = new Int8Array(length);
  for (let b = 0, at = 0; b < count; b++, at += block) {
    load(at);
    const s = Math.fround(
      around === "middle"
        ? spread(x) / (high - low)
        : importance
          ? searched(x, floatBits, to, importance, at % columns)
          : symmetric(to, extreme(x, floatBits)),
    );
    scales[b] = s;
    let zero = 0;
    if (around === "middle" && s !== 0) zero = clamp(halfEven(low - least(x) / s), low, high);
    if (around === "middle") zeros[b] = zero;
    if (s === 0) {
      codes.fill(zero, at, at + block);
      continue;
    }
    // In f64 the product is so close to x / s that both round to the same f32, and it is much faster.
    const inverse = 1 / s;
    for (let i = 0; i < block; i++) sums[i] = Math.fround((x[i] as number) * inverse) + magic;
    for (let i = 0; i < block; i++) {
      const whole = (bits[i] as number) - magicBits;
      const q = whole + zero;
      codes[at + i] = q < low ? (whole < -beyond ? 0 : low) : q > high ? (whole > beyond ? 0 : high) : q;
    }
  }
  const pack = to === "i4" ? nibbles : bytesOf;
  return { codes: pack(codes), scales, zeros: pack(zeros) };
}

/** How many numbers a job has, and what puts those from `at` on into `x`. */
function loader({ dtype, bytes }: CodesJob, x: Float32Array): [length: number, load: (at: number) => void] {
  if (dtype !== "bf16") {
    const all = decode(dtype, bytes);
    return [all.length, (at) => x.set(all.subarray(at, at + x.length))];
  }
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  const words = new Uint32Array(x.buffer);
  const load = (at: number) => {
    for (let i = 0; i < words.length; i++) words[i] = (halves[at + i] as number) << 16;
  };
  return [halves.length, load];
}

/** The f32 values that codes stand for: what `dequantize` means, bit for bit. */
export function decodeRows(
  { block, to }: Pick<CodesJob, "block" | "to">,
  { codes, scales, zeros }: Codes,
): Float32Array {
  const [all, lows] = to === "i4" ? [unpacked(codes), unpacked(zeros)] : [signed(codes), signed(zeros)];
  const out = new Float32Array(scales.length * block);
  for (let b = 0; b < scales.length; b++) {
    const [scale, zero] = [scales[b] as number, lows.length ? (lows[b] as number) : 0];
    for (let i = b * block; i < (b + 1) * block; i++) out[i] = ((all[i] as number) - zero) * scale;
  }
  return out;
}

const signed = (bytes: Uint8Array): Int8Array => new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);

function unpacked(bytes: Uint8Array): Int8Array {
  const out = new Int8Array(bytes.length * 2);
  for (let i = 0; i < bytes.length; i++) {
    const pair = bytes[i] as number;
    out[2 * i] = (pair << 28) >> 28;
    out[2 * i + 1] = (pair << 24) >> 28;
  }
  return out;
}

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

/** The value of largest magnitude, with its sign; the first of equals. `bits` is another view of `x`. */
function extreme(x: Float32Array, bits: Int32Array): number {
  // Magnitudes are in the order of their bits, which compare without branches.
  let top = 0;
  for (let i = 0; i < bits.length; i++) {
    const missing = top - ((bits[i] as number) & 0x7fffffff);
    top -= missing & (missing >> 31);
  }
  if (top > infinityBits) {
    const numbers = x.map((v) => (Number.isNaN(v) ? 0 : v));
    return extreme(numbers, new Int32Array(numbers.buffer));
  }
  let i = 0;
  while (((bits[i] as number) & 0x7fffffff) !== top) i++;
  return x[i] as number;
}

function least(x: Float32Array): number {
  let low = 0;
  for (let i = 0; i < x.length; i++) low = Math.min(low, x[i] as number);
  return low;
}

function spread(x: Float32Array): number {
  let high = 0;
  for (let i = 0; i < x.length; i++) high = Math.max(high, x[i] as number);
  return high - least(x);
}

function halfEven(x: number): number {
  const up = Math.round(x);
  return up - x === 0.5 && up % 2 !== 0 ? up - 1 : up;
}

function searched(
  x: Float32Array,
  bits: Int32Array,
  to: Code,
  importance: Float32Array,
  column: number,
): number {
  const plain = symmetric(to, extreme(x, bits));
  const [low, high] = ranges[to];
  let [best, bestScore] = [plain, Number.NEGATIVE_INFINITY];
  for (const step of searchSteps) {
    const s = plain * step;
    if (s === 0) break;
    let [xq, qq] = [0, 0];
    for (let i = 0; i < x.length; i++) {
      const v = x[i] as number;
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

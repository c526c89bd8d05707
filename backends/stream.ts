import type { Graph, Value } from "../ir/graph.ts";
import { add, constant, div, mul, param, sub } from "../ir/ops/index.ts";
import { roundBf16, roundF16 } from "../ir/tensor.ts";
import { type DType, dtypes } from "../ir/type.ts";
import { rowParts } from "../passes/fold-weights.ts";
import type { Weights } from "./weights.ts";

/** Elements per block. Peak memory is a few blocks, whatever the model's size. */
const blockSize = 1 << 21;

const arithmetic = new Map<unknown, (a: number, b: number) => number>([
  [add, (a, b) => a + b],
  [sub, (a, b) => a - b],
  [mul, (a, b) => a * b],
  [div, (a, b) => a / b],
]);

const elements = (v: Value): number => v.shape.reduce<number>((n, _, axis) => n * v.fixed(axis), 1);

/** Size in bytes of a weight in the artifact. */
export const byteLength = (v: Value): number => (elements(v) * dtypes[v.dtype]) / 8;

/**
 * The little-endian bytes of `weight` (a param of `g`), block by block: as the checkpoint stores them, or as the
 * setup makes them. A yielded block is valid until the next one is asked for. `nonFinite` hears of stored tensors
 * that hold NaN or infinity.
 */
export async function* blocksOf(
  g: Graph,
  weight: Value,
  weights: Weights,
  nonFinite: (name: string) => void,
): AsyncGenerator<Uint8Array> {
  const made = g.setup[String(weight.attrs.name)] ?? weight;
  for (const part of rowParts(made)) yield* blocksOfPart(part, weights, nonFinite);
}

async function* blocksOfPart(
  made: Value,
  weights: Weights,
  nonFinite: (name: string) => void,
): AsyncGenerator<Uint8Array> {
  const total = elements(made);
  const readers = new Map<Value, Reader>();
  const stored = (v: Value, from: number, n: number): Promise<Uint8Array> => {
    const reader = readers.get(v) ?? new Reader(v, total, weights, nonFinite);
    readers.set(v, reader);
    return reader.read(from, n);
  };
  const block = async (v: Value, from: number, n: number): Promise<Float32Array | number> => {
    if (v.op === constant) return Number(v.attrs.value);
    if (v.op === param) return decode(v.dtype, await stored(v, from, n));
    const [a, b] = await Promise.all(v.inputs.map((i) => block(i, from, n)));
    const f = arithmetic.get(v.op);
    if (!f) return rounded(v.dtype, a as Float32Array);
    const at = (x: Float32Array | number | undefined) =>
      typeof x === "number" ? () => x : (i: number) => (x as Float32Array)[i] as number;
    const [left, right] = [at(a), at(b)];
    return rounded(
      v.dtype,
      Float32Array.from({ length: n }, (_, i) => f(left(i), right(i))),
    );
  };
  for (let from = 0; from < total; from += blockSize) {
    const n = Math.min(blockSize, total - from);
    yield made.op === param
      ? await stored(made, from, n)
      : encode(made.dtype, (await block(made, from, n)) as Float32Array);
  }
}

/** Reads one stored tensor front to back, the next block while the last one is worked on. */
class Reader {
  readonly #name: string;
  readonly #dtype: DType;
  readonly #width: number;
  readonly #total: number;
  readonly #weights: Weights;
  readonly #nonFinite: (name: string) => void;
  readonly #buffers: [Uint8Array, Uint8Array];
  #ahead: { readonly from: number; readonly bytes: Promise<Uint8Array> } | undefined;
  #turn = 0;
  #heard = false;

  constructor(v: Value, total: number, weights: Weights, nonFinite: (name: string) => void) {
    this.#name = String(v.attrs.name);
    this.#dtype = v.dtype;
    this.#width = dtypes[v.dtype] / 8;
    this.#total = total;
    this.#weights = weights;
    this.#nonFinite = nonFinite;
    const size = Math.min(total, blockSize) * this.#width;
    this.#buffers = [new Uint8Array(size), new Uint8Array(total > blockSize ? size : 0)];
  }

  async read(from: number, n: number): Promise<Uint8Array> {
    const ahead = this.#ahead?.from === from ? this.#ahead.bytes : this.#fetch(from, n);
    const bytes = await ahead;
    const next = from + n;
    if (next < this.#total) {
      const fetched = this.#fetch(next, Math.min(blockSize, this.#total - next));
      fetched.catch(() => {}); // whoever asks for the block hears of it
      this.#ahead = { from: next, bytes: fetched };
    }
    if (!this.#heard && hasNonFinite(this.#dtype, bytes)) {
      this.#heard = true;
      this.#nonFinite(this.#name);
    }
    return bytes;
  }

  async #fetch(from: number, n: number): Promise<Uint8Array> {
    const buffer = this.#buffers[this.#turn] as Uint8Array;
    this.#turn ^= 1;
    const bytes = buffer.subarray(0, n * this.#width);
    await this.#weights.read(this.#name, from * this.#width, bytes);
    return bytes;
  }
}

const words = (bytes: Uint8Array): Uint16Array =>
  new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);

/** Stored floats as f32; exact. */
export function decode(dtype: DType, bytes: Uint8Array): Float32Array {
  if (dtype === "f32") return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const bits = words(bytes);
  const out = new Uint32Array(bits.length);
  if (dtype === "bf16") for (let i = 0; i < bits.length; i++) out[i] = (bits[i] as number) << 16;
  else if (dtype === "f16") {
    const table = halves();
    for (let i = 0; i < bits.length; i++) out[i] = table[bits[i] as number] as number;
  } else throw new TypeError(`${dtype} is not a stored float`);
  return new Float32Array(out.buffer);
}

let halfTable: Uint32Array | undefined;
/** The f32 bits of each of the 65,536 halves. */
function halves(): Uint32Array {
  if (halfTable) return halfTable;
  const floats = Float32Array.from({ length: 1 << 16 }, (_, h) => {
    const [sign, exponent, fraction] = [h >> 15 ? -1 : 1, (h >> 10) & 31, h & 1023];
    if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
  });
  halfTable = new Uint32Array(floats.buffer);
  return halfTable;
}

function rounded(dtype: DType, x: Float32Array): Float32Array {
  if (dtype === "bf16") return x.map(roundBf16);
  if (dtype === "f16") return x.map(roundF16);
  return x;
}

function encode(dtype: DType, x: Float32Array): Uint8Array {
  if (dtype === "f32") return new Uint8Array(x.buffer, x.byteOffset, x.byteLength);
  const bits = new Uint32Array(x.buffer, x.byteOffset, x.length);
  if (dtype === "bf16") return new Uint8Array(Uint16Array.from(bits, (b) => b >>> 16).buffer);
  if (dtype !== "f16") throw new TypeError(`${dtype} is not a stored float`);
  const half = (b: number, i: number): number => {
    const sign = (b >>> 16) & 0x8000;
    const [value, exponent] = [Math.abs(x[i] as number), (b >>> 23) & 255];
    if (exponent === 255) return sign | (b & 0x7fffff ? 0x7e00 : 0x7c00);
    return sign | (exponent < 113 ? value * 2 ** 24 : ((exponent - 112) << 10) | ((b >>> 13) & 1023));
  };
  return new Uint8Array(Uint16Array.from(bits, half).buffer);
}

const exponents = { f32: 0x7f800000, f16: 0x7c007c00, bf16: 0x7f807f80 } as const;

/** Whether any float has an all-ones exponent. Looks at two 16-bit floats at once: this runs over every weight. */
function hasNonFinite(dtype: DType, bytes: Uint8Array): boolean {
  if (dtype !== "f32" && dtype !== "f16" && dtype !== "bf16") return false;
  const mask = exponents[dtype];
  const pairs = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >> 2);
  if (dtype === "f32") return pairs.some((w) => (w & mask) === mask);
  const odd = bytes.byteLength & 2 ? (words(bytes).at(-1) as number) : 0;
  if ((odd & mask & 0xffff) === (mask & 0xffff)) return true;
  for (let i = 0; i < pairs.length; i++) {
    const gap = ((pairs[i] as number) & mask) ^ mask;
    if ((gap - 0x00010001) & ~gap & 0x80008000) return true;
  }
  return false;
}

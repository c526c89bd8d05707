import type { Code } from "../../../ir/ops/codes.ts";
import type { BlockFormatName } from "../../../ir/ops/ggml.ts";
import type { DType } from "../../../ir/type.ts";
import { decode, hasNonFinite } from "../floats.ts";
import { assemble, maxPages } from "./assembler.ts";
import { kernels, mostPairs, step } from "./kernels.ts";

/** Memory that threads share; it can grow, and what lies in it stays where it is. */
export interface SharedMemory {
  readonly buffer: SharedArrayBuffer;
  grow(pages: number): number;
}

/** What Node has and its types leave out. */
declare const WebAssembly: {
  readonly Memory: new (limits: { initial: number; maximum: number; shared: true }) => SharedMemory;
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (
    module: object,
    imports: { env: { memory: SharedMemory } },
  ) => { readonly exports: Readonly<Record<string, (...numbers: number[]) => number>> };
};

/** The kernels, which are the same over any memory. */
let compiled: object | undefined;

const page = 2 ** 16;
/** Room is given out in whole lines of a processor's cache. */
const line = 64;

/**
 * Memory that threads share, and kernels on vectors of 16 bytes that work in it; each thread makes its own workbench over the
 * same memory. What kernels are given must be taken from it.
 */
export class Workbench {
  readonly memory: SharedMemory;
  readonly #kernels: Readonly<Record<string, (...numbers: number[]) => number>>;
  #taken = 0;

  constructor(memory?: SharedMemory) {
    this.memory = memory ?? new WebAssembly.Memory({ initial: 1, maximum: maxPages, shared: true });
    compiled ??= new WebAssembly.Module(assemble(kernels));
    this.#kernels = new WebAssembly.Instance(compiled, { env: { memory: this.memory } }).exports;
  }

  /** Room for so many bytes, for as long as the workbench stands. Only one thread may take. */
  take(bytes: number): Uint8Array {
    const from = this.#taken;
    this.#taken = from + Math.ceil(bytes / line) * line;
    const missing = this.#taken - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / page));
    return new Uint8Array(this.memory.buffer, from, bytes);
  }

  /** Stored numbers as f32; exact. `into` may be longer. */
  widen(dtype: DType | BlockFormatName, bytes: Uint8Array, into: Float32Array): void {
    if (dtype === "bf16" && bytes.length % step === 0) this.#run("widen", bytes, into.byteOffset);
    else into.set(decode(dtype, bytes));
  }

  /** Whether any float has an all-ones exponent. */
  nonFinite(dtype: DType | BlockFormatName, bytes: Uint8Array): boolean {
    if (dtype !== "f32" && dtype !== "f16" && dtype !== "bf16") return false;
    const even = bytes.subarray(0, bytes.length - (bytes.length % step));
    return this.#run(`nonfinite_${dtype}`, even) !== 0 || hasNonFinite(dtype, bytes.slice(even.length));
  }

  /** Whether `encode` and `round` take blocks of so many numbers. */
  takes(block: number): boolean {
    return block % step === 0;
  }

  /** Codes of blocks of `x` and a scale for each: what quantize and block_scale mean around zero, bit for bit. */
  encode(to: Code, block: number, x: Float32Array, codes: Uint8Array, scales: Float32Array): void {
    this.#run(`encode_${to}`, x, 4 * block, codes.byteOffset, scales.byteOffset);
  }

  /** The numbers that those codes stand for, in place of `x`. */
  round(to: Code, block: number, x: Float32Array): void {
    this.#run(`round_${to}`, x, 4 * block);
  }

  /** Products of `row`, of an even number of columns, with what `interleaved` made of m rows, added up in f64 column by column. */
  dots(row: Float32Array, x: Float64Array, m: number, out: Float64Array): void {
    const pairs = Math.ceil(m / 2);
    for (let pair = 0; pair < pairs; pair += mostPairs) {
      const at = 16 * pair;
      const kernel = `dots_${Math.min(mostPairs, pairs - pair)}`;
      this.#run(kernel, row, x.byteOffset + at * row.length, out.byteOffset + at);
    }
  }

  #run(kernel: string, over: Uint8Array | Float32Array, ...others: number[]): number {
    const run = this.#kernels[kernel];
    if (!run) throw new Error(`there is no kernel ${kernel}`);
    return run(over.byteOffset, over.byteOffset + over.byteLength, ...others);
  }
}

export const even = (n: number): number => n + (n % 2);

/** Writes `x`, which is [m, k], as `dots` reads it: groups of rows, in each column by column. An odd last one gets a zero. */
export function interleaved(x: Float64Array, m: number, k: number, into: Float64Array): void {
  const width = even(m);
  for (let from = 0; from < width; from += 2 * mostPairs) {
    const rows = Math.min(2 * mostPairs, width - from);
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < even(k); j++)
        into[from * even(k) + j * rows + i] = from + i < m && j < k ? (x[(from + i) * k + j] as number) : 0;
  }
}

import type { Graph, Value } from "../../ir/graph.ts";
import type { Code } from "../../ir/ops/codes.ts";
import {
  type BlockFormatName,
  blockCodes,
  blockFormat,
  blockScales,
  blockValues,
} from "../../ir/ops/ggml.ts";
import {
  add,
  block_scale_search,
  block_zero,
  cast,
  constant,
  div,
  ggml_codes,
  ggml_dequantize,
  ggml_scales,
  mul,
  param,
  quantize,
  sub,
} from "../../ir/ops/index.ts";
import { type DType, dtypes } from "../../ir/type.ts";
import { codesOf, rowParts, unpacks } from "../../passes/fold-weights.ts";
import type { Weights } from "../weights.ts";
import { type Codes, type CodesJob, encodeRows, nibbles } from "./codes.ts";
import { decode, encode, hasNonFinite, rounded } from "./floats.ts";
import { Pool } from "./pool.ts";
import { Reader } from "./reader.ts";

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

/** Whoever hears of stored tensors that hold NaN or infinity. */
export type NonFinite = (name: string) => void;

/**
 * Gives the little-endian bytes of a graph's weights: as the checkpoint stores them, or as the setup makes them.
 * Matrices are quantized in threads. Close it when done.
 */
export class WeightStream {
  readonly #graph: Graph;
  readonly #weights: Weights;
  readonly #nonFinite: NonFinite;
  readonly #pool = new Pool<CodesJob, Codes>({
    thread: new URL("./worker.js", import.meta.url),
    here: encodeRows,
    handsOver: (job) => job.bytes.buffer,
  });
  /** Scales and zeros that came with codes, until they are asked for. */
  readonly #sides = new Map<Value, Uint8Array>();

  readonly #heard = new Set<Value>();

  constructor(graph: Graph, weights: Weights, nonFinite: NonFinite) {
    this.#graph = graph;
    this.#weights = weights;
    this.#nonFinite = nonFinite;
  }

  /** The bytes of `weight`, a param of the graph. A block is valid until the next one is asked for. */
  async *blocks(weight: Value): AsyncGenerator<Uint8Array> {
    const made = this.#graph.setup[String(weight.attrs.name)] ?? weight;
    for (const part of rowParts(made)) {
      if (part.op === ggml_codes || part.op === ggml_scales) yield* this.#unpacked(part);
      else if (codesOf(part) === undefined) yield* this.#floats(part);
      else if (part.op === quantize) yield* this.#codes(part);
      else yield await this.#side(part);
    }
  }

  /** Codes or scales, out of stored blocks. */
  async *#unpacked(part: Value): AsyncGenerator<Uint8Array> {
    const stored = part.inputs[0] as Value;
    const format = part.attrs.format as BlockFormatName;
    const { elements: count, bytes: width } = blockFormat(format);
    const step = (blockSize / count) * width;
    const total = byteLength(stored);
    const reader = new Reader(stored, total, step, this.#weights, this.#nonFinite);
    for (let from = 0; from < total; from += step) {
      const bytes = await reader.read(from, Math.min(step, total - from));
      if (part.op === ggml_scales) yield this.#checked(stored, encode("f32", blockScales(format, bytes)));
      else {
        const codes = blockCodes(format, bytes);
        yield part.dtype === "i4" ? nibbles(codes) : new Uint8Array(codes.buffer);
      }
    }
  }

  /** f32 numbers that came out of stored blocks; tells when some are NaN or infinite. */
  #checked(stored: Value, bytes: Uint8Array): Uint8Array {
    if (!this.#heard.has(stored) && hasNonFinite("f32", bytes)) {
      this.#heard.add(stored);
      this.#nonFinite(String(stored.attrs.name));
    }
    return bytes;
  }

  close(): Promise<void> {
    return this.#pool.close();
  }

  async #side(part: Value): Promise<Uint8Array> {
    // Asked for before its codes: make them once for what comes along.
    if (!this.#sides.has(part)) for await (const _ of this.#codes(part));
    const bytes = this.#sides.get(part);
    if (!bytes) throw new Error(`${part.op.name} : ${part.type} did not come with its codes`);
    this.#sides.delete(part);
    return bytes;
  }

  /** Codes in order; what was asked for first is waited for first. */
  async *#codes(part: Value): AsyncGenerator<Uint8Array> {
    const plan = await this.#plan(part);
    const [rows, columns] = [plan.x.fixed(0), plan.x.fixed(1)];
    const step = Math.max(1, Math.floor(blockSize / columns));
    const scales = new Float32Array((rows * columns) / plan.block);
    const zeros = new Uint8Array(plan.zero ? byteLength(plan.zero) : 0);
    let [doneScales, doneZeros] = [0, 0];
    const queue: Promise<Codes>[] = [];
    const take = async (): Promise<Uint8Array> => {
      const done = await (queue.shift() as Promise<Codes>);
      scales.set(done.scales, doneScales);
      zeros.set(done.zeros, doneZeros);
      doneScales += done.scales.length;
      doneZeros += done.zeros.length;
      return done.codes;
    };
    const source = this.#source(plan.x, step * columns);
    for (let row = 0; row < rows; row += step) {
      const bytes = await source.read(row * columns, Math.min(step, rows - row) * columns);
      const { block, to, around, importance } = plan;
      const job = {
        dtype: source.dtype,
        bytes,
        columns,
        block,
        to,
        around,
        ...(importance && { importance }),
      };
      const run = this.#pool.run(job);
      run.catch(() => {}); // heard of when it is taken
      queue.push(run);
      if (queue.length > this.#pool.width) yield await take();
    }
    while (queue.length > 0) yield await take();
    this.#sides.set(plan.scale, new Uint8Array(scales.buffer));
    if (plan.zero) this.#sides.set(plan.zero, zeros);
  }

  /** How `part`, one of codes, scale and zero, and its two companions are made. */
  async #plan(part: Value) {
    const x = part.inputs[0] as Value;
    const scale = part.op === quantize || part.op === block_zero ? (part.inputs[1] as Value) : part;
    const found = block_scale_search.of(scale);
    const importance = found && decode("f32", await this.#whole(found.importance));
    const {
      to,
      block,
      around = "zero",
    } = scale.attrs as { to: Code; block: number; around?: "zero" | "middle" };
    const zero = around === "middle" ? block_zero(x, scale, { to, block }) : undefined;
    return { x, scale, zero, to, block, around, importance };
  }

  async #whole(weight: Value): Promise<Uint8Array> {
    const bytes = new Uint8Array(byteLength(weight));
    await this.#weights.read(String(weight.attrs.name), 0, bytes);
    return bytes;
  }

  /** The rows of `x` in buffers of their own: as stored when nothing but widening happens to them. */
  #source(
    x: Value,
    size: number,
  ): { dtype: DType | BlockFormatName; read(from: number, n: number): Promise<Uint8Array> } {
    if (unpacks(x)) {
      const read = this.#blocks(x, size);
      return {
        dtype: x.attrs.format as BlockFormatName,
        read: async (from, n) => (await read(from, n)).slice(),
      };
    }
    const plain = x.op === cast && x.dtype === "f32" ? (x.inputs[0] as Value) : x;
    if (plain.op !== param) {
      const floats = this.#evaluator(x, size);
      return {
        dtype: "f32",
        read: async (from, n) => encode("f32", ((await floats(from, n)) as Float32Array).slice()),
      };
    }
    const reader = new Reader(plain, elements(plain), size, this.#weights, this.#nonFinite);
    return { dtype: plain.dtype, read: async (from, n) => (await reader.read(from, n)).slice() };
  }

  /** The stored blocks that elements of `x` are in: reads of at most `size` elements, in whole blocks. */
  #blocks(x: Value, size: number): (from: number, n: number) => Promise<Uint8Array> {
    const stored = x.inputs[0] as Value;
    const { elements: count, bytes: width } = blockFormat(x.attrs.format as BlockFormatName);
    const bytes = (n: number) => (n / count) * width;
    const reader = new Reader(stored, byteLength(stored), bytes(size), this.#weights, this.#nonFinite);
    return (from, n) => reader.read(bytes(from), bytes(n));
  }

  async *#floats(made: Value): AsyncGenerator<Uint8Array> {
    const total = elements(made);
    const reader =
      made.op === param ? new Reader(made, total, blockSize, this.#weights, this.#nonFinite) : undefined;
    const floats = this.#evaluator(made, blockSize);
    for (let from = 0; from < total; from += blockSize) {
      const n = Math.min(blockSize, total - from);
      yield reader ? await reader.read(from, n) : encode(made.dtype, (await floats(from, n)) as Float32Array);
    }
  }

  /** Computes blocks of `made`; a number stands for the same number everywhere. */
  #evaluator(made: Value, size: number): (from: number, n: number) => Promise<Float32Array | number> {
    const total = elements(made);
    const readers = new Map<Value, Reader>();
    const stored = (v: Value, from: number, n: number): Promise<Uint8Array> => {
      const reader = readers.get(v) ?? new Reader(v, total, size, this.#weights, this.#nonFinite);
      readers.set(v, reader);
      return reader.read(from, n);
    };
    const unpacking = new Map<Value, (from: number, n: number) => Promise<Uint8Array>>();
    const unpacked = async (v: Value, from: number, n: number): Promise<Float32Array> => {
      const read = unpacking.get(v) ?? this.#blocks(v, size);
      unpacking.set(v, read);
      const values = blockValues(v.attrs.format as BlockFormatName, await read(from, n));
      this.#checked(v.inputs[0] as Value, encode("f32", values));
      return values;
    };
    const block = async (v: Value, from: number, n: number): Promise<Float32Array | number> => {
      if (v.op === ggml_dequantize) return unpacked(v, from, n);
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
    return (from, n) => block(made, from, n);
  }
}

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
import { codesOf, rowParts, unpacks, unrounded } from "../../passes/fold-weights.ts";
import type { Weights } from "../weights.ts";
import { type Codes, nibbles } from "./codes.ts";
import { decode, encode, hasNonFinite, rounded } from "./floats.ts";
import { Pool } from "./pool.ts";
import { Reader, type Source } from "./reader.ts";
import { Workbench } from "./simd/index.ts";
import { encodeTile, inTile, type Tile, type TileJob, tileElements, tilesFor } from "./tile.ts";

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

/** Elements of a tensor that are read and written at once. Peak memory is a few blocks, whatever the model's size. */
const blockSize = tileElements;

/**
 * Gives the little-endian bytes of a graph's weights: as the checkpoint stores them, or as the setup makes them.
 * Matrices are quantized in threads. Close it when done.
 */
export class WeightStream {
  readonly #graph: Graph;
  readonly #source: Source;
  readonly #bench = new Workbench();
  readonly #pool = new Pool<TileJob, boolean>({
    thread: new URL("./worker.js", import.meta.url),
    here: encodeTile,
    bench: this.#bench,
  });
  /** Scales and zeros that came with codes, until they are asked for. */
  readonly #sides = new Map<Value, Uint8Array>();
  /** Stored tensors that were told to hold NaN or infinity. */
  readonly #heard = new Set<Value>();
  /** Room for a block of f32 each. One tensor is read at a time, which uses some of them. */
  readonly #buffers: Uint8Array[] = [];
  #used = 0;
  #tiles: readonly Tile[] = [];

  constructor(graph: Graph, weights: Weights, nonFinite: NonFinite) {
    this.#graph = graph;
    this.#source = { weights, nonFinite, bench: this.#bench };
  }

  /** The bytes of `weight`, a param of the graph: one at a time. A block is valid until the next one is asked for. */
  async *blocks(weight: Value): AsyncGenerator<Uint8Array> {
    const made = this.#graph.setup[String(weight.attrs.name)] ?? weight;
    for (const part of rowParts(made)) {
      this.#used = 0;
      if (part.op === ggml_codes || part.op === ggml_scales) yield* this.#unpacked(part);
      else if (codesOf(part) === undefined) yield* this.#floats(part);
      else if (part.op === quantize) yield* this.#codes(part);
      else yield await this.#side(part);
    }
  }

  close(): Promise<void> {
    return this.#pool.close();
  }

  /** Codes or scales, out of stored blocks. */
  async *#unpacked(part: Value): AsyncGenerator<Uint8Array> {
    const stored = part.inputs[0] as Value;
    const format = part.attrs.format as BlockFormatName;
    const { elements: count, bytes: width } = blockFormat(format);
    const step = (blockSize / count) * width;
    const total = byteLength(stored);
    const read = this.#reader(stored, total, step);
    for (let from = 0; from < total; from += step) {
      const bytes = await read(from, Math.min(step, total - from));
      if (part.op === ggml_scales) yield this.#checked(stored, encode("f32", blockScales(format, bytes)));
      else {
        const codes = blockCodes(format, bytes);
        yield part.dtype === "i4" ? nibbles(codes) : new Uint8Array(codes.buffer);
      }
    }
  }

  /** f32 numbers that came out of stored blocks; tells when some are NaN or infinite. */
  #checked(stored: Value, bytes: Uint8Array): Uint8Array {
    if (!this.#heard.has(stored) && hasNonFinite("f32", bytes)) this.#hear(stored);
    return bytes;
  }

  #hear(stored: Value): void {
    if (this.#heard.has(stored)) return;
    this.#heard.add(stored);
    this.#source.nonFinite(String(stored.attrs.name));
  }

  async #side(part: Value): Promise<Uint8Array> {
    const made = unrounded(part);
    // Asked for before its codes: make them once for what comes along.
    if (!this.#sides.has(made)) for await (const _ of this.#codes(made));
    const bytes = this.#sides.get(made);
    if (!bytes) throw new Error(`${made.op.name} : ${made.type} did not come with its codes`);
    this.#sides.delete(made);
    return made === part ? bytes : encode(part.dtype, rounded(part.dtype, decode("f32", bytes)));
  }

  /** Codes in order; what was asked for first is waited for first. */
  async *#codes(part: Value): AsyncGenerator<Uint8Array> {
    const { x, scale, zero, ...coding } = await this.#plan(part);
    const [rows, columns] = [x.fixed(0), x.fixed(1)];
    const fit = Math.floor(blockSize / columns);
    // An even number of rows ends on a whole byte, whatever the codes.
    const step = fit > 1 ? fit - (fit % 2) : 1;
    const tiles = this.#tilesFor(Math.max(blockSize, columns));
    const scales = new Float32Array((rows * columns) / coding.block);
    const zeros = new Uint8Array(zero ? byteLength(zero) : 0);
    let [doneScales, doneZeros] = [0, 0];
    const queue: { readonly into: Codes; readonly heard: Promise<boolean> }[] = [];
    const source = this.#rows(x);
    const take = async (): Promise<Uint8Array> => {
      const { into, heard } = queue.shift() as (typeof queue)[number];
      if ((await heard) && source.stored) this.#hear(source.stored);
      scales.set(into.scales, doneScales);
      zeros.set(into.zeros, doneZeros);
      doneScales += into.scales.length;
      doneZeros += into.zeros.length;
      return into.codes;
    };
    for (let row = 0, turn = 0; row < rows; row += step, turn++) {
      // The tile that comes next is that of the oldest job.
      if (queue.length === tiles.length) yield await take();
      const tile = tiles[turn % tiles.length] as Tile;
      const count = Math.min(step, rows - row);
      const bytes = await source.read(row * columns, count * columns, tile.bytes);
      const job = inTile(tile, { dtype: source.dtype, bytes, columns, ...coding }, count);
      const heard = this.#pool.run(job);
      heard.catch(() => {}); // heard of when it is taken
      queue.push({ into: job.into, heard });
    }
    while (queue.length > 0) yield await take();
    this.#sides.set(scale, new Uint8Array(scales.buffer));
    if (zero) this.#sides.set(zero, zeros);
  }

  /** Tiles of so many elements at least: one for each thread, and one each that waits. */
  #tilesFor(elements: number): readonly Tile[] {
    if ((this.#tiles[0]?.row.length ?? 0) < elements)
      this.#tiles = tilesFor(this.#bench, elements, 2 * this.#pool.width);
    return this.#tiles;
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
    return { x, scale, zero, to, block, around, ...(importance && { importance }) };
  }

  async #whole(weight: Value): Promise<Uint8Array> {
    const bytes = new Uint8Array(byteLength(weight));
    await this.#source.weights.read(String(weight.attrs.name), 0, bytes);
    return bytes;
  }

  /** The rows of `x`: as stored when nothing but widening happens to them. */
  #rows(x: Value): Rows {
    const { weights } = this.#source;
    const read = async (v: Value, from: number, n: number, into: Uint8Array) => {
      const bytes = into.subarray(0, n);
      await weights.read(String(v.attrs.name), from, bytes);
      return bytes;
    };
    if (unpacks(x)) {
      const [stored, format] = [x.inputs[0] as Value, x.attrs.format as BlockFormatName];
      const bytes = bytesIn(format);
      return { dtype: format, read: (from, n, into) => read(stored, bytes(from), bytes(n), into) };
    }
    const stored = x.op === cast && x.dtype === "f32" ? (x.inputs[0] as Value) : x;
    if (stored.op === param) {
      const width = dtypes[stored.dtype] / 8;
      return {
        dtype: stored.dtype,
        stored,
        read: (from, n, into) => read(stored, from * width, n * width, into),
      };
    }
    const floats = this.#evaluator(x);
    return {
      dtype: "f32",
      async read(from, n, into) {
        const bytes = into.subarray(0, 4 * n);
        bytes.set(encode("f32", (await floats(from, n)) as Float32Array));
        return bytes;
      },
    };
  }

  async *#floats(made: Value): AsyncGenerator<Uint8Array> {
    const total = elements(made);
    const stored = made.op === param ? this.#reader(made, total, blockSize) : undefined;
    const floats = this.#evaluator(made);
    for (let from = 0; from < total; from += blockSize) {
      const n = Math.min(blockSize, total - from);
      yield stored ? await stored(from, n) : encode(made.dtype, (await floats(from, n)) as Float32Array);
    }
  }

  /** Computes blocks of `made`; a number stands for the same number everywhere. A block is valid until the next one. */
  #evaluator(made: Value): (from: number, n: number) => Promise<Float32Array | number> {
    const total = elements(made);
    const readers = new Map<Value, ReadBlock>();
    const stored = (v: Value, size: number, from: number, n: number): Promise<Uint8Array> => {
      const read = readers.get(v) ?? this.#reader(v, v.dtype === "u8" ? byteLength(v) : total, size);
      readers.set(v, read);
      return read(from, n);
    };
    const widened = new Map<Value, Float32Array>();
    const floats = async (v: Value, from: number, n: number): Promise<Float32Array> => {
      const bytes = await stored(v, blockSize, from, n);
      if (v.dtype === "f32") return decode("f32", bytes);
      const into = widened.get(v) ?? decode("f32", this.#buffer());
      widened.set(v, into);
      const out = into.subarray(0, n);
      this.#bench.widen(v.dtype, bytes, out);
      return out;
    };
    const unpacked = async (v: Value, from: number, n: number): Promise<Float32Array> => {
      const [source, format] = [v.inputs[0] as Value, v.attrs.format as BlockFormatName];
      const bytes = bytesIn(format);
      const values = blockValues(format, await stored(source, bytes(blockSize), bytes(from), bytes(n)));
      this.#checked(source, encode("f32", values));
      return values;
    };
    const block = async (v: Value, from: number, n: number): Promise<Float32Array | number> => {
      if (v.op === ggml_dequantize) return unpacked(v, from, n);
      if (v.op === constant) return Number(v.attrs.value);
      if (v.op === param) return floats(v, from, n);
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

  #buffer(): Uint8Array {
    return (this.#buffers[this.#used++] ??= this.#bench.take(4 * blockSize));
  }

  /** Reads a stored tensor of `total` elements front to back, `size` at a time at most. */
  #reader(v: Value, total: number, size: number): ReadBlock {
    const reader = new Reader(v, total, size, this.#source, [this.#buffer(), this.#buffer()]);
    return (from, n) => reader.read(from, n);
  }
}

/** A block of a stored tensor. It is valid until the next but one is asked for. */
type ReadBlock = (from: number, n: number) => Promise<Uint8Array>;

/** Rows of a matrix to be quantized. */
interface Rows {
  readonly dtype: DType | BlockFormatName;
  /** The tensor that they are, where they are stored as they are. */
  readonly stored?: Value;
  /** `n` elements, in as much of `into` as they take. */
  read(from: number, n: number, into: Uint8Array): Promise<Uint8Array>;
}

/** Bytes of so many elements in blocks of a format. */
const bytesIn = (format: BlockFormatName) => {
  const { elements: count, bytes } = blockFormat(format);
  return (n: number) => (n / count) * bytes;
};

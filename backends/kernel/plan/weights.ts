import type { Graph, Value } from "../../../ir/graph.ts";
import { cast, param } from "../../../ir/ops/index.ts";
import { dtypes, isFloat } from "../../../ir/type.ts";
import type { WeightStream } from "../../stream/index.ts";
import type { PackedWeight, WeightChunk } from "./types.ts";

export type Packing = "matrix" | "numbers";

/** Bindings begin at multiples of this. */
export const alignment = 256;

/** Joins weights that kernels read together, and knows how each lies. */
export class Packer {
  readonly #graph: Graph;
  readonly #bindingBytes: number;
  readonly #inputs: ReadonlySet<Value>;
  readonly #packed = new Map<string, PackedWeight>();

  constructor(graph: Graph, bindingBytes: number) {
    this.#graph = graph;
    this.#bindingBytes = bindingBytes;
    this.#inputs = new Set(graph.inputs);
  }

  get weights(): readonly PackedWeight[] {
    return [...this.#packed.values()];
  }

  /** The weight that `v` is, or plainly widens. Kernels widen what they load, so that narrow ones stay narrow. */
  stored(v: Value): Value | undefined {
    if (v.op === param && !this.#inputs.has(v)) {
      const recipe = this.#graph.setup[String(v.attrs.name)];
      return recipe ? (this.#widened(recipe) ?? v) : v;
    }
    return this.#widened(v);
  }
  #widened(v: Value): Value | undefined {
    const x = cast.of(v)?.x;
    const plain = x && v.dtype === "f32" && isFloat(x.dtype) && x.op === param && !this.#inputs.has(x);
    return plain ? this.stored(x) : undefined;
  }

  /**
   * Rows of a "matrix" begin at 16 bytes, which is how kernels read them; those of anything else at whole words. What
   * no binding holds is cut into pieces: where `beside` is, which it goes with, or where it must be.
   */
  pack(parts: readonly Value[], as: Packing, beside?: PackedWeight): PackedWeight {
    const key = `${as} ${parts.map((p) => p.id)}`;
    const known = this.#packed.get(key);
    if (known) return known;
    const made = this.#layOut(parts, as, beside);
    this.#packed.set(key, made);
    return made;
  }

  #layOut(parts: readonly Value[], as: Packing, beside: PackedWeight | undefined): PackedWeight {
    const first = parts[0] as Value;
    const { dtype } = first;
    const columns = Number(first.shape.at(-1) ?? 1);
    const rowsOf = (v: Value) => v.shape.slice(0, -1).reduce<number>((n, d) => n * Number(d), 1);
    const rows = parts.reduce((n, p) => n + rowsOf(p), 0);
    const exact = Math.ceil((columns * dtypes[dtype]) / 8);
    const unit = as === "matrix" ? 16 : 4;
    const rowBytes = Math.ceil(exact / unit) * unit;
    const names = parts.map((p) => String(p.attrs.name));
    const fits = rows * rowBytes <= this.#bindingBytes;
    const pieces =
      !fits && beside?.chunks.map(({ firstRow, rows: n }) => ({ firstRow, rows: n, bytes: n * rowBytes }));
    return {
      name: names.length === 1 ? (names[0] as string) : joined(names),
      dtype,
      rows,
      columns,
      rowBytes,
      parts,
      chunks: pieces || chunks(rows, rowBytes, this.#bindingBytes),
    };
  }
}

/** `model.layers.0.self_attn.q_proj+k_proj+v_proj.weight`: what the names share, once. */
function joined(names: readonly string[]): string {
  const words = names.map((n) => n.split("."));
  const first = words[0] as string[];
  const differ = first.findIndex((w, i) => words.some((other) => other[i] !== w));
  if (differ < 0) return names.join("+");
  const middle = words.map((w) => w[differ]).join("+");
  return [...first.slice(0, differ), middle, ...first.slice(differ + 1)].join(".");
}

/** Cuts rows so that each piece fits `limit` bytes and begins where a binding may. */
function chunks(rows: number, rowBytes: number, limit: number): WeightChunk[] {
  if (rows * rowBytes <= limit) return [{ firstRow: 0, rows, bytes: rows * rowBytes }];
  // Results of a piece begin at a multiple of 64 numbers, which is 256 bytes.
  const step = Math.floor(limit / rowBytes / 64) * 64;
  if (step < 64) throw new TypeError(`64 rows of ${rowBytes} bytes do not fit a binding of ${limit} bytes`);
  const out: WeightChunk[] = [];
  for (let firstRow = 0; firstRow < rows; firstRow += step) {
    const n = Math.min(step, rows - firstRow);
    out.push({ firstRow, rows: n, bytes: n * rowBytes });
  }
  return out;
}

/**
 * The bytes of a packed weight, front to back, without ever holding it. A block is valid until the next one is asked
 * for. Weights are to be asked for in the order of the plan: scales come with their codes.
 */
export async function* packedBytes(weight: PackedWeight, stream: WeightStream): AsyncGenerator<Uint8Array> {
  const exact = (weight.columns * dtypes[weight.dtype]) / 8;
  for (const part of weight.parts) {
    if (exact === weight.rowBytes) yield* stream.blocks(part);
    else yield* padded(stream.blocks(part), part, weight);
  }
}

/** Rows that end between whole words: padded to `rowBytes`. */
async function* padded(
  blocks: AsyncGenerator<Uint8Array>,
  part: Value,
  { columns, rowBytes, dtype }: PackedWeight,
): AsyncGenerator<Uint8Array> {
  const bits = dtypes[dtype];
  const exact = (columns * bits) / 8;
  if (!Number.isInteger(exact)) {
    yield* nibbleRows(blocks, part, columns, rowBytes);
    return;
  }
  let row = new Uint8Array(rowBytes);
  let filled = 0;
  for await (const block of blocks)
    for (let at = 0; at < block.length; ) {
      const n = Math.min(exact - filled, block.length - at);
      row.set(block.subarray(at, at + n), filled);
      at += n;
      filled += n;
      if (filled === exact) {
        yield row;
        row = new Uint8Array(rowBytes);
        filled = 0;
      }
    }
}

/** Rows of an odd number of nibbles: every other one starts in the middle of a byte. */
async function* nibbleRows(
  blocks: AsyncGenerator<Uint8Array>,
  part: Value,
  columns: number,
  rowBytes: number,
): AsyncGenerator<Uint8Array> {
  const total = part.shape.reduce<number>((n, d) => n * Number(d), 1);
  let [row, column, seen] = [new Uint8Array(rowBytes), 0, 0];
  for await (const block of blocks)
    for (const byte of block)
      for (const nibble of [byte & 15, byte >> 4]) {
        if (seen++ >= total) continue;
        row[column >> 1] = (row[column >> 1] as number) | (nibble << (column & 1 ? 4 : 0));
        if (++column < columns) continue;
        yield row;
        [row, column] = [new Uint8Array(rowBytes), 0];
      }
}

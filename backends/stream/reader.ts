import type { Value } from "../../ir/graph.ts";
import { type DType, dtypes } from "../../ir/type.ts";
import type { Weights } from "../weights.ts";
import type { Workbench } from "./simd/index.ts";

/** Where stored tensors come from, who hears of those that hold NaN or infinity, and where they are looked at. */
export interface Source {
  readonly weights: Weights;
  readonly nonFinite: (name: string) => void;
  readonly bench: Workbench;
}

/** Reads one stored tensor front to back, the next block while the last one is worked on. */
export class Reader {
  readonly #name: string;
  readonly #dtype: DType;
  readonly #width: number;
  readonly #total: number;
  readonly #size: number;
  readonly #source: Source;
  readonly #buffers: readonly Uint8Array[];
  #ahead: { readonly from: number; readonly bytes: Promise<Uint8Array> } | undefined;
  #turn = 0;
  #heard = false;

  /** Blocks of at most `size` of the tensor's `total` elements will be asked for; two buffers of the workbench hold one each. */
  constructor(v: Value, total: number, size: number, source: Source, buffers: readonly Uint8Array[]) {
    this.#name = String(v.attrs.name);
    this.#dtype = v.dtype;
    this.#width = dtypes[v.dtype] / 8;
    this.#total = total;
    this.#size = Math.min(total, size);
    this.#source = source;
    this.#buffers = buffers;
  }

  async read(from: number, n: number): Promise<Uint8Array> {
    const ahead = this.#ahead?.from === from ? this.#ahead.bytes : this.#fetch(from, n);
    const bytes = await ahead;
    const next = from + n;
    if (next < this.#total) {
      const fetched = this.#fetch(next, Math.min(this.#size, this.#total - next));
      fetched.catch(() => {}); // whoever asks for the block hears of it
      this.#ahead = { from: next, bytes: fetched };
    }
    if (!this.#heard && this.#source.bench.nonFinite(this.#dtype, bytes)) {
      this.#heard = true;
      this.#source.nonFinite(this.#name);
    }
    return bytes;
  }

  async #fetch(from: number, n: number): Promise<Uint8Array> {
    const buffer = this.#buffers[this.#turn] as Uint8Array;
    this.#turn = (this.#turn + 1) % this.#buffers.length;
    const bytes = buffer.subarray(0, n * this.#width);
    await this.#source.weights.read(this.#name, from * this.#width, bytes);
    return bytes;
  }
}

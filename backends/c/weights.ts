import type { Value } from "../../ir/graph.ts";
import type { DType } from "../../ir/type.ts";
import type { EmitRequest, EmittedFile } from "../backend.ts";
import { HashedFile } from "../files.ts";
import { byteLength, WeightStream } from "../stream/index.ts";

export const weightsFile = "model.safetensors";
/** Tensors start on multiples of so many bytes, for vectors and for copies to other devices. */
const alignment = 256;

/** A tensor as a file holds it. */
export interface FileTensor {
  readonly name: string;
  readonly dtype: DType;
  /** In elements; of 4-bit ones the last size is even. */
  readonly shape: readonly number[];
  readonly bytes: number;
}
/** A tensor and where its bytes lie in the file. */
export type Placed<T> = T & { readonly offset: number };
export interface FileLayout<T> {
  readonly header: Uint8Array;
  readonly tensors: readonly Placed<T>[];
  readonly bytes: number;
}
export type PlacedTensor = Placed<FileTensor & { readonly weight: Value }>;
export type WeightLayout = FileLayout<FileTensor & { readonly weight: Value }>;

/** Safetensors has no 4-bit type: two codes lie in a byte, the first in its low half. */
const types: Readonly<Record<DType, string>> = {
  f32: "F32",
  f16: "F16",
  bf16: "BF16",
  i32: "I32",
  i8: "I8",
  u8: "U8",
  i4: "U8",
  bool: "BOOL",
};

/** Lays weights out one after another. Reads none. */
export const layOutWeights = (weights: readonly Value[]): WeightLayout =>
  layOutTensors(
    weights.map((weight) => ({
      weight,
      name: String(weight.attrs.name),
      dtype: weight.dtype,
      shape: weight.shape.map(Number),
      bytes: byteLength(weight),
    })),
  );

/** Lays tensors out one after another, each from a multiple of 256 bytes. */
export function layOutTensors<T extends FileTensor>(all: readonly T[]): FileLayout<T> {
  let end = 0;
  const relative = all.map((tensor) => {
    const offset = Math.ceil(end / alignment) * alignment;
    end = offset + tensor.bytes;
    return { ...tensor, offset };
  });
  const entries = relative.flatMap(({ name, dtype, shape, offset, bytes }, i) => {
    const last = shape.at(-1) ?? 1;
    const own = dtype === "i4" ? [...shape.slice(0, -1), last / 2] : shape;
    const before = relative[i - 1];
    const gap = offset - (before ? before.offset + before.bytes : 0);
    const padding = gap
      ? [[`padding.${i}`, { dtype: "U8", shape: [gap], data_offsets: [offset - gap, offset] }]]
      : [];
    return [...padding, [name, { dtype: types[dtype], shape: own, data_offsets: [offset, offset + bytes] }]];
  });
  const text = JSON.stringify({
    __metadata__: { format: "pt" },
    ...Object.fromEntries(entries as [string, unknown][]),
  });
  const json = new TextEncoder().encode(text);
  const size = Math.ceil((8 + json.length) / alignment) * alignment;
  const header = new Uint8Array(size).fill(32);
  new DataView(header.buffer).setBigUint64(0, BigInt(size - 8), true);
  header.set(json, 8);
  const tensors = relative.map((t) => ({ ...t, offset: t.offset + size }));
  return { header, tensors, bytes: size + end };
}

/** Writes the file in blocks; gives what each tensor's bytes add up to. */
export async function writeWeights<T extends FileTensor>(
  { graph, weights, dir, progress, warn }: EmitRequest,
  { header, tensors }: FileLayout<T>,
  blocksOf: (tensor: T, stream: WeightStream) => AsyncIterable<Uint8Array>,
): Promise<{ file: EmittedFile; sums: readonly number[] }> {
  const nonFinite = (name: string) =>
    warn(`weight ${name} holds NaN or infinity; the model's answers will too`);
  const stream = new WeightStream(graph, weights, nonFinite);
  const file = await HashedFile.create(dir, weightsFile);
  const sums: number[] = [];
  try {
    await file.write(header);
    for (const tensor of tensors) {
      await file.padTo(tensor.offset);
      const sum = new Checksum(tensor.bytes);
      for await (const block of blocksOf(tensor, stream)) {
        sum.add(block);
        await file.write(block);
        progress(block.byteLength);
      }
      sums.push(sum.end());
    }
    return { file: await file.close(), sums };
  } catch (e) {
    await file.abandon();
    throw e;
  } finally {
    await stream.close();
  }
}

const prime = 0x9e3779b1;

/** What `checksum` of runtime/weights.c computes, over bytes that come in blocks. */
export class Checksum {
  readonly #lanes = Uint32Array.from({ length: 16 }, (_, i) => i + 1);
  readonly #rest: number[] = [];
  readonly #count: number;

  constructor(count: number) {
    this.#count = count;
  }

  add(block: Uint8Array): void {
    let at = 0;
    while (this.#rest.length > 0 && this.#rest.length < 64 && at < block.length)
      this.#rest.push(block[at++] as number);
    if (this.#rest.length === 64) this.#mix(Uint8Array.from(this.#rest.splice(0)));
    const whole = (block.length - at) & ~63;
    // Words need an aligned start.
    if (whole > 0) {
      const part = block.subarray(at, at + whole);
      this.#mix(part.byteOffset % 4 === 0 ? part : part.slice());
    }
    for (let i = at + whole; i < block.length; i++) this.#rest.push(block[i] as number);
  }

  #mix(bytes: Uint8Array): void {
    const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    const lanes = this.#lanes;
    for (let lane = 0; lane < 16; lane++) {
      let h = lanes[lane] as number;
      for (let i = lane; i < words.length; i += 16) {
        h = Math.imul(h ^ (words[i] as number), prime);
        h ^= h >>> 15;
      }
      lanes[lane] = h;
    }
  }

  end(): number {
    let sum = this.#count | 0;
    for (const lane of this.#lanes) sum = Math.imul(sum ^ lane, prime) ^ (sum >>> 15);
    for (const byte of this.#rest) {
      sum = Math.imul(sum ^ byte, prime);
      sum ^= sum >>> 15;
    }
    return sum >>> 0;
  }
}

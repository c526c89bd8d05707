import { oneOf, primitive } from "../op.ts";
import { floatOfHalf, type HostTensor } from "../tensor.ts";
import { TensorType } from "../type.ts";

/**
 * One of ggml's block formats: `elements` neighbours of a row in `bytes` bytes. An element is scale · code + offset,
 * rounded to f32 after the product and after the sum; `group` elements share scale and offset.
 * Layouts: ggml/src/ggml-common.h and ggml-quants.c of llama.cpp.
 */
export interface BlockFormat {
  readonly elements: number;
  readonly bytes: number;
  readonly group: number;
  /** The narrowest codes that hold an element exactly, in formats without offsets. */
  readonly codes?: "i8" | "i4";
  /** Fill in the codes, and the scales and offsets of its groups, of the block that starts at byte `at`. */
  read(block: DataView, at: number, codes: Int8Array, scales: Float32Array, offsets: Float32Array): void;
}

const half = (block: DataView, at: number): number => floatOfHalf(block.getUint16(at, true));

/** 16 bytes hold 32 codes of 4 bits: first the low halves, then the high ones. `bit(i)` gives a fifth bit. */
function nibbles(block: DataView, at: number, codes: Int8Array, less: number, fifth = 0): void {
  for (let i = 0; i < 16; i++) {
    const byte = block.getUint8(at + i);
    codes[i] = ((byte & 15) | (((fifth >>> i) & 1) << 4)) - less;
    codes[i + 16] = ((byte >> 4) | (((fifth >>> (i + 16)) & 1) << 4)) - less;
  }
}

/** Scale and offset `j` of the eight that the 12 bytes at `at` pack in 6 bits each. */
function sixBits(block: DataView, at: number, j: number): [scale: number, offset: number] {
  const byte = (i: number) => block.getUint8(at + i);
  if (j < 4) return [byte(j) & 63, byte(j + 4) & 63];
  return [(byte(j + 4) & 15) | ((byte(j - 4) >> 6) << 4), (byte(j + 4) >> 4) | ((byte(j) >> 6) << 4)];
}

/** Q4_K and Q5_K: 256 elements in eight groups. `fifth` is the offset of the fifth bits, if there are any. */
const superblock = (bytes: number, low: number, fifth?: number): BlockFormat => ({
  elements: 256,
  bytes,
  group: 32,
  read(block, at, codes, scales, offsets) {
    const [d, least] = [half(block, at), half(block, at + 2)];
    for (let j = 0; j < 8; j++) {
      const [scale, offset] = sixBits(block, at + 4, j);
      scales[j] = d * scale;
      offsets[j] = -Math.fround(least * offset);
      for (let i = 0; i < 32; i++) {
        const byte = block.getUint8(at + low + 32 * (j >> 1) + i);
        const high = fifth === undefined ? 0 : (block.getUint8(at + fifth + i) >> j) & 1;
        codes[32 * j + i] = (j % 2 ? byte >> 4 : byte & 15) | (high << 4);
      }
    }
  },
});

const small = { elements: 32, group: 32 } as const;

export const blockFormats = {
  q4_0: {
    ...small,
    bytes: 18,
    codes: "i4",
    read(block, at, codes, scales) {
      scales[0] = half(block, at);
      nibbles(block, at + 2, codes, 8);
    },
  },
  q4_1: {
    ...small,
    bytes: 20,
    read(block, at, codes, scales, offsets) {
      scales[0] = half(block, at);
      offsets[0] = half(block, at + 2);
      nibbles(block, at + 4, codes, 0);
    },
  },
  q5_0: {
    ...small,
    bytes: 22,
    codes: "i8",
    read(block, at, codes, scales) {
      scales[0] = half(block, at);
      nibbles(block, at + 6, codes, 16, block.getUint32(at + 2, true));
    },
  },
  q5_1: {
    ...small,
    bytes: 24,
    read(block, at, codes, scales, offsets) {
      scales[0] = half(block, at);
      offsets[0] = half(block, at + 2);
      nibbles(block, at + 8, codes, 0, block.getUint32(at + 4, true));
    },
  },
  q8_0: {
    ...small,
    bytes: 34,
    codes: "i8",
    read(block, at, codes, scales) {
      scales[0] = half(block, at);
      for (let i = 0; i < 32; i++) codes[i] = block.getInt8(at + 2 + i);
    },
  },
  q4_k: superblock(144, 16),
  q5_k: superblock(176, 48, 16),
  q6_k: {
    elements: 256,
    bytes: 210,
    group: 16,
    codes: "i8",
    read(block, at, codes, scales) {
      const d = half(block, at + 208);
      for (let j = 0; j < 16; j++) scales[j] = d * block.getInt8(at + 192 + j);
      for (let i = 0; i < 256; i++) {
        // Halves of 128 elements; in each, four runs of 32 share bytes.
        const [part, run, l] = [i >> 7, (i >> 5) & 3, i & 31];
        const low = block.getUint8(at + 64 * part + 32 * (run & 1) + l);
        const high = block.getUint8(at + 128 + 32 * part + l);
        codes[i] = ((run < 2 ? low & 15 : low >> 4) | (((high >> (2 * run)) & 3) << 4)) - 32;
      }
    },
  },
} as const satisfies Record<string, BlockFormat>;

export type BlockFormatName = keyof typeof blockFormats;
export const isBlockFormat = (s: unknown): s is BlockFormatName =>
  typeof s === "string" && Object.hasOwn(blockFormats, s);
export const blockFormat = (name: BlockFormatName): BlockFormat => blockFormats[name];

/** Reads whole blocks, one after another: `each` gets the number of a block and what is in it. */
function readBlocks(
  name: BlockFormatName,
  bytes: Uint8Array,
  each: (block: number, codes: Int8Array, scales: Float32Array, offsets: Float32Array) => void,
): void {
  const format = blockFormat(name);
  const groups = format.elements / format.group;
  const [codes, scales] = [new Int8Array(format.elements), new Float32Array(groups)];
  const offsets = new Float32Array(groups);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let b = 0; (b + 1) * format.bytes <= bytes.length; b++) {
    format.read(view, b * format.bytes, codes, scales, offsets);
    each(b, codes, scales, offsets);
  }
}

const room = (name: BlockFormatName, bytes: Uint8Array): number =>
  (bytes.length / blockFormats[name].bytes) * blockFormats[name].elements;

/** The f32 elements of whole blocks. */
export function blockValues(name: BlockFormatName, bytes: Uint8Array): Float32Array {
  const { elements, group, codes: exact } = blockFormat(name);
  const out = new Float32Array(room(name, bytes));
  readBlocks(name, bytes, (b, codes, scales, offsets) => {
    const at = b * elements;
    for (let g = 0, i = 0; i < elements; g++) {
      const [scale, offset] = [scales[g] as number, offsets[g] as number];
      for (const end = i + group; i < end; i++) {
        const product = Math.fround(scale * (codes[i] as number));
        out[at + i] = exact ? product : product + offset;
      }
    }
  });
  return out;
}

/** The codes of whole blocks, a byte each. */
export function blockCodes(name: BlockFormatName, bytes: Uint8Array): Int8Array {
  const out = new Int8Array(room(name, bytes));
  readBlocks(name, bytes, (b, codes) => out.set(codes, b * codes.length));
  return out;
}

/** The scales of whole blocks, one for each group. */
export function blockScales(name: BlockFormatName, bytes: Uint8Array): Float32Array {
  const out = new Float32Array(room(name, bytes) / blockFormat(name).group);
  readBlocks(name, bytes, (b, _, scales) => out.set(scales, b * scales.length));
  return out;
}

const names = Object.keys(blockFormats) as [BlockFormatName, ...BlockFormatName[]];
const attrs = { format: oneOf<BlockFormatName>(...names) };
const example: readonly [readonly string[], { format: BlockFormatName }] = [["u8[2,68]"], { format: "q8_0" }];

/** Bytes of the stored rows as elements, `per` stored ones to each. */
function elementsOf(bytes: TensorType, name: BlockFormatName): number {
  const [row, format] = [bytes.shape[1], blockFormat(name)];
  if (bytes.dtype !== "u8" || bytes.rank !== 2 || typeof row !== "number" || row % format.bytes !== 0)
    throw new TypeError(`${bytes} is no matrix of ${name} blocks, which are u8[rows, n · ${format.bytes}]`);
  return (row / format.bytes) * format.elements;
}

/** Codes of a format that has no offsets; throws TypeError for others. */
function codesOf(name: BlockFormatName): "i8" | "i4" {
  const { codes } = blockFormat(name);
  if (!codes) throw new TypeError(`${name} blocks have offsets, so they are not code · scale`);
  return codes;
}

const raw = (t: HostTensor): Uint8Array => Uint8Array.from(t.data);
const host = (shape: readonly number[], data: ArrayLike<number>): HostTensor => ({
  shape,
  data: Float64Array.from(data),
});

export const ggml_dequantize = primitive("ggml_dequantize", {
  doc: "The numbers that blocks of a ggml format, as GGUF files store them, stand for.",
  inputs: ["blocks"],
  attrs,
  example,
  infer: ({ blocks }, { format }) => new TensorType("f32", [blocks.at(0), elementsOf(blocks, format)]),
  eval: ({ blocks }, { format }, { shape }) => host(shape, blockValues(format, raw(blocks))),
});

export const ggml_codes = primitive("ggml_codes", {
  doc: "The whole numbers in blocks of a ggml format that has scales and no offsets.",
  inputs: ["blocks"],
  attrs,
  example,
  infer: ({ blocks }, { format }) =>
    new TensorType(codesOf(format), [blocks.at(0), elementsOf(blocks, format)]),
  eval: ({ blocks }, { format }, { shape }) => host(shape, blockCodes(format, raw(blocks))),
});

export const ggml_scales = primitive("ggml_scales", {
  doc: "The scales in blocks of a ggml format that has scales and no offsets.",
  inputs: ["blocks"],
  attrs,
  example,
  infer: ({ blocks }, { format }) => {
    codesOf(format);
    return new TensorType("f32", [blocks.at(0), elementsOf(blocks, format) / blockFormat(format).group]);
  },
  eval: ({ blocks }, { format }, { shape }) => host(shape, blockScales(format, raw(blocks))),
});

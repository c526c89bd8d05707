import { type BlockFormatName, blockValues, isBlockFormat } from "../../ir/ops/ggml.ts";
import { floatOfHalf, roundBf16, roundF16 } from "../../ir/tensor.ts";
import type { DType } from "../../ir/type.ts";

const words = (bytes: Uint8Array): Uint16Array =>
  new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);

/** Stored numbers as f32; exact. */
export function decode(dtype: DType | BlockFormatName, bytes: Uint8Array): Float32Array {
  if (isBlockFormat(dtype)) return blockValues(dtype, bytes);
  if (dtype === "f32") return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const bits = words(bytes);
  const out = new Uint32Array(bits.length);
  if (dtype === "bf16") for (let i = 0; i < bits.length; i++) out[i] = (bits[i] as number) << 16;
  else if (dtype === "f16") {
    const table = halves();
    for (let i = 0; i < bits.length; i++) out[i] = table[bits[i] as number] as number;
  } else if (dtype === "u8") return Float32Array.from(bytes);
  else throw new TypeError(`${dtype} is not a stored float`);
  return new Float32Array(out.buffer);
}

let halfTable: Uint32Array | undefined;
/** The f32 bits of each of the 65,536 halves. */
function halves(): Uint32Array {
  if (halfTable) return halfTable;
  const floats = Float32Array.from({ length: 1 << 16 }, (_, h) => floatOfHalf(h));
  halfTable = new Uint32Array(floats.buffer);
  return halfTable;
}

/** Each element as `dtype` would hold it. */
export function rounded(dtype: DType, x: Float32Array): Float32Array {
  if (dtype === "bf16") return x.map(roundBf16);
  if (dtype === "f16") return x.map(roundF16);
  return x;
}

/** The stored bytes of f32 values that `dtype` holds exactly. */
export function encode(dtype: DType, x: Float32Array): Uint8Array {
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
export function hasNonFinite(dtype: DType, bytes: Uint8Array): boolean {
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

import type { Fill } from "../program.ts";

/** The next of a row of 32-bit numbers that look random (xorshift32). */
const next = (x: number): number => {
  let y = x;
  y ^= y << 13;
  y ^= y >>> 17;
  y ^= y << 5;
  return y >>> 0;
};

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);
const bitsOf = (value: number): number => {
  float[0] = value;
  return bits[0] as number;
};

/** A multiple of 1/64 in [-1, 1), which every float format holds exactly. */
const small = (x: number): number => ((x >>> 25) - 64) / 64;

/** The upper half of a float: bfloat16, exact for the numbers above. */
const bf16 = (value: number): number => bitsOf(value) >>> 16;

/** IEEE half precision, for the numbers above. */
function f16(value: number): number {
  if (value === 0) return 0;
  const b = bitsOf(value);
  return ((b >>> 16) & 0x8000) | ((((b >>> 23) & 0xff) - 112) << 10) | ((b >>> 13) & 0x3ff);
}

/** Words for the `index`-th buffer of a check: the same here and in the compiler, which computed what must come out. */
export function madeUp(fill: Fill, words: number, index: number): Uint32Array<ArrayBuffer> {
  const out = new Uint32Array(words);
  if (fill === "zero") return out;
  let state = 0x9e3779b9 ^ (index + 1);
  for (let i = 0; i < words; i++) {
    state = next(state);
    if (typeof fill !== "string") out[i] = (fill[i % fill.length] as number) >>> 0;
    else if (fill === "f32") out[i] = bitsOf(small(state));
    else if (fill === "bits") out[i] = state;
    else {
      const half = fill === "f16x2" ? f16 : bf16;
      const low = half(small(state));
      state = next(state);
      out[i] = (low | (half(small(state)) << 16)) >>> 0;
    }
  }
  return out;
}

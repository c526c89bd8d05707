/** What an instruction of WebAssembly leaves behind. v128 is a vector of 16 bytes. */
export type Kind = "i32" | "f32" | "f64" | "v128";

/** An expression: instructions that leave one value of its kind. */
export interface Code<K extends Kind> {
  readonly kind: K;
  readonly bytes: readonly number[];
}

type Operands<O extends readonly Kind[]> = { readonly [I in keyof O]: Code<O[I]> };

/** Unsigned LEB128, as the format writes counts and offsets. */
export function unsigned(n: number): number[] {
  return n < 128 ? [n] : [(n & 127) | 128, ...unsigned(n >>> 7)];
}

/** Signed LEB128, as it writes integer constants. */
function signed(n: number): number[] {
  const rest = n >> 7;
  const last = (rest === 0 && (n & 64) === 0) || (rest === -1 && (n & 64) !== 0);
  return last ? [n & 127] : [(n & 127) | 128, ...signed(rest)];
}

const vector = 0xfd;

/** An instruction on operands of these kinds. */
const op =
  <const O extends readonly Kind[], K extends Kind>(kind: K, code: readonly number[], ..._operands: O) =>
  (...args: Operands<O>): Code<K> => ({ kind, bytes: [...args.flatMap((a) => a.bytes), ...code] });

const simd = <const O extends readonly Kind[], K extends Kind>(kind: K, code: number, ...operands: O) =>
  op(kind, [vector, ...unsigned(code)], ...operands);

const two = (code: number) => simd("v128", code, "v128", "v128");
const one = (code: number) => simd("v128", code, "v128");
const shift = (code: number) => simd("v128", code, "v128", "i32");

/** Reads at an address that is aligned as anything may be: alignment is a hint. */
const load =
  <K extends Kind>(kind: K, ...code: number[]) =>
  (address: Code<"i32">, offset = 0): Code<K> => ({
    kind,
    bytes: [...address.bytes, ...code, 0, ...unsigned(offset)],
  });

const lane =
  <K extends Kind>(kind: K, code: number) =>
  (v: Code<"v128">, index: number): Code<K> => ({ kind, bytes: [...v.bytes, vector, code, index] });

const float = (bytes: 4 | 8, n: number): number[] => {
  const view = new DataView(new ArrayBuffer(bytes));
  if (bytes === 4) view.setFloat32(0, n, true);
  else view.setFloat64(0, n, true);
  return [...new Uint8Array(view.buffer)];
};

/** The instructions in use, by the names of the specification: https://webassembly.github.io/spec/core */
export const i32 = {
  const: (n: number): Code<"i32"> => ({ kind: "i32", bytes: [0x41, ...signed(n | 0)] }),
  eqz: op("i32", [0x45], "i32"),
  ne: op("i32", [0x47], "i32", "i32"),
  lt_u: op("i32", [0x49], "i32", "i32"),
  add: op("i32", [0x6a], "i32", "i32"),
  sub: op("i32", [0x6b], "i32", "i32"),
  mul: op("i32", [0x6c], "i32", "i32"),
  and: op("i32", [0x71], "i32", "i32"),
  or: op("i32", [0x72], "i32", "i32"),
  shl: op("i32", [0x74], "i32", "i32"),
};

export const f32 = {
  mul: op("f32", [0x94], "f32", "f32"),
  const: (n: number): Code<"f32"> => ({ kind: "f32", bytes: [0x43, ...float(4, n)] }),
  demote_f64: op("f32", [0xb6], "f64"),
  reinterpret_i32: op("f32", [0xbe], "i32"),
};

export const f64 = {
  const: (n: number): Code<"f64"> => ({ kind: "f64", bytes: [0x44, ...float(8, n)] }),
  div: op("f64", [0xa3], "f64", "f64"),
  promote_f32: op("f64", [0xbb], "f32"),
};

export const v128 = {
  load: load("v128", vector, 0),
  load64_zero: load("v128", vector, 93),
  and: two(78),
  or: two(80),
  any_true: simd("i32", 83, "v128"),
  /** The bytes of `a` and `b`, 0 to 31, at these places. */
  shuffle: (a: Code<"v128">, b: Code<"v128">, places: readonly number[]): Code<"v128"> => ({
    kind: "v128",
    bytes: [...a.bytes, ...b.bytes, vector, 13, ...places],
  }),
};

export const i8x16 = { narrow_i16x8_s: two(101), narrow_i16x8_u: two(102) };

export const i16x8 = {
  splat: simd("v128", 16, "i32"),
  eq: two(45),
  narrow_i32x4_s: two(133),
  shr_u: shift(141),
};

export const i32x4 = {
  splat: simd("v128", 17, "i32"),
  extract_lane: lane("i32", 27),
  bitmask: simd("i32", 164, "v128"),
  eq: two(55),
  le_u: two(62),
  extend_low_i16x8_u: one(169),
  extend_high_i16x8_u: one(170),
  shl: shift(171),
  add: two(174),
  min_s: two(182),
  max_s: two(184),
};

export const f32x4 = {
  splat: simd("v128", 19, "f32"),
  eq: two(65),
  add: two(228),
  mul: two(230),
  div: two(231),
  convert_i32x4_s: one(250),
};

export const f64x2 = { add: two(240), mul: two(242), promote_low_f32x4: one(95) };

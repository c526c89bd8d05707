// Writes GGUF version 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Plain JavaScript: benchmarks, which
// run without a build of the tests, use it too.

const types = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9, u64: 10 };
/** Number, elements and bytes of a block for each tensor type. */
export const tensorTypes = {
  f32: [0, 1, 4],
  f16: [1, 1, 2],
  q4_0: [2, 32, 18],
  q4_1: [3, 32, 20],
  q5_0: [6, 32, 22],
  q5_1: [7, 32, 24],
  q8_0: [8, 32, 34],
  q4_k: [12, 256, 144],
  q5_k: [13, 256, 176],
  q6_k: [14, 256, 210],
  bf16: [30, 1, 2],
};

const u32 = (n) => Buffer.from(Uint32Array.of(n).buffer);
const u64 = (n) => Buffer.from(BigUint64Array.of(BigInt(n)).buffer);
const string = (s) => Buffer.concat([u64(Buffer.byteLength(s)), Buffer.from(s)]);
const scalars = {
  u32,
  u64,
  string,
  i32: (n) => Buffer.from(Int32Array.of(n).buffer),
  f32: (x) => Buffer.from(Float32Array.of(x).buffer),
  bool: (b) => Buffer.of(b ? 1 : 0),
};

/** A number that is to be written as an f32, and lists of numbers of one type. */
export const f32 = (value) => ({ type: "f32", value });
export const list = (type, values) => ({ type, values });

function entry(key, given) {
  const typed = (type, value) => Buffer.concat([string(key), u32(types[type]), value]);
  if (typeof given === "string") return typed("string", string(given));
  if (typeof given === "boolean") return typed("bool", scalars.bool(given));
  if (typeof given === "number") return typed("u32", u32(given));
  const { type, value, values } = given;
  if (!values) return typed(type, scalars[type](value));
  return typed(
    "array",
    Buffer.concat([u32(types[type]), u64(values.length), ...Array.from(values, scalars[type])]),
  );
}

export const bytesOf = ({ type, shape }) => {
  const [, elements, bytes] = tensorTypes[type];
  return (shape.reduce((a, b) => a * b, 1) / elements) * bytes;
};
export const padding = (length, alignment = 32) => -length & (alignment - 1);

/**
 * Everything before the data. Tensors are { name, type, shape } with row-major shapes; their data are to follow in
 * order, each padded to the alignment.
 */
export function ggufHead(metadata, tensors, { alignment = 32 } = {}) {
  let offset = 0;
  const described = tensors.map(({ name, type, shape }) => {
    const sizes = shape.toReversed().map(u64);
    const made = [string(name), u32(shape.length), ...sizes, u32(tensorTypes[type][0]), u64(offset)];
    const bytes = bytesOf({ type, shape });
    offset += bytes + padding(bytes, alignment);
    return Buffer.concat(made);
  });
  const keys = Object.entries(metadata).map(([key, value]) => entry(key, value));
  const head = Buffer.concat([
    ...[Buffer.from("GGUF"), u32(3), u64(tensors.length), u64(keys.length)],
    ...keys,
    ...described,
  ]);
  return Buffer.concat([head, Buffer.alloc(padding(head.length, alignment))]);
}

/** A whole file of tensors that have their bytes in `data`. */
export function ggufFile(metadata, tensors, options) {
  const padded = tensors.map(({ data }) =>
    Buffer.concat([data, Buffer.alloc(padding(data.length, options?.alignment))]),
  );
  return Buffer.concat([ggufHead(metadata, tensors, options), ...padded]);
}

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);
/** f32 to the bits of the nearest f16, for numbers in its range. */
export function half(x) {
  float[0] = x;
  const sign = (bits[0] >>> 16) & 0x8000;
  const abs = bits[0] & 0x7fffffff;
  if (abs < 0x38800000) return sign | Math.round(Math.abs(x) * 2 ** 24); // subnormal
  return sign | ((abs - 0x38000000 + 0xfff + ((abs >>> 13) & 1)) >>> 13);
}

/** Blocks of 32: the scale, then what `codes` writes; `scale` gives it from the value of largest magnitude. */
const blocks = (bytes, scale, codes) => (x) => {
  const out = Buffer.alloc((x.length / 32) * bytes);
  for (let b = 0, at = 0; b < x.length; b += 32, at += bytes) {
    let top = 0;
    for (let i = 0; i < 32; i++) if (Math.abs(x[b + i]) > Math.abs(top)) top = x[b + i];
    const d = scale(top);
    const inverse = d ? 1 / d : 0;
    out.writeUInt16LE(half(d), at);
    codes(out, at + 2, (i) => x[b + i] * inverse);
  }
  return out;
};

/** How llama.cpp's reference quantizers encode f32 rows. */
export const encoders = {
  f32: (x) => Buffer.from(Float32Array.from(x).buffer),
  bf16: (x) => {
    const wide = new Uint32Array(Float32Array.from(x).buffer);
    return Buffer.from(Uint16Array.from(wide, (b) => (b + 0x7fff + ((b >>> 16) & 1)) >>> 16).buffer);
  },
  f16: (x) => Buffer.from(Uint16Array.from(x, half).buffer),
  q8_0: blocks(
    34,
    (top) => Math.abs(top) / 127,
    (out, at, value) => {
      for (let i = 0; i < 32; i++) out.writeInt8(Math.round(value(i)), at + i);
    },
  ),
  q4_0: blocks(
    18,
    (top) => top / -8,
    (out, at, value) => {
      const code = (i) => Math.min(15, Math.floor(value(i) + 8.5));
      for (let i = 0; i < 16; i++) out[at + i] = code(i) | (code(i + 16) << 4);
    },
  ),
  q5_0: blocks(
    22,
    (top) => top / -16,
    (out, at, value) => {
      const code = (i) => Math.min(31, Math.floor(value(i) + 16.5));
      let fifth = 0;
      for (let i = 0; i < 32; i++) fifth |= (code(i) >> 4) << i;
      out.writeUInt32LE(fifth >>> 0, at);
      for (let i = 0; i < 16; i++) out[at + 4 + i] = (code(i) & 15) | ((code(i + 16) & 15) << 4);
    },
  ),
};

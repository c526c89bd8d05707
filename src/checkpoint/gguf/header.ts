import { type BlockFormatName, blockFormat, isBlockFormat } from "../../../ir/ops/ggml.ts";
import { type DType, dtypes } from "../../../ir/type.ts";
import { inputError, isPointer, pointerError, quote } from "../json.ts";
import { type ByteFile, readExactly } from "../safetensors.ts";
import { Cursor, redownload } from "./cursor.ts";

/** What a key of the metadata holds. Lists of numbers and booleans come as numbers. */
export type MetadataValue =
  | number
  | bigint
  | boolean
  | string
  | Float64Array
  | readonly string[]
  | readonly MetadataValue[];

/** One stored tensor: bytes `begin` up to `end` of the file hold its rows. */
export interface GgufTensor {
  /** Plain elements of this type, or bytes of blocks. */
  readonly dtype: DType;
  readonly format?: BlockFormatName;
  /** Row-major: the last axis is the one whose elements are neighbours. */
  readonly shape: number[];
  readonly begin: number;
  readonly end: number;
}

export interface GgufHeader {
  readonly metadata: ReadonlyMap<string, MetadataValue>;
  /** In the order in which the file names them. */
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

const magic = 0x46554747; // "GGUF", little-endian
const maxRank = 4;
const maxName = 256;
const maxAlignment = 2 ** 20;

/** Tensor types by their numbers: what gemmac reads in lower case, the rest to be named when refused. */
const types: ReadonlyMap<number, string> = new Map([
  ...["f32", "f16", "q4_0", "q4_1", "Q4_2", "Q4_3", "q5_0", "q5_1", "q8_0", "Q8_1", "Q2_K", "Q3_K"].entries(),
  ...["q4_k", "q5_k", "q6_k", "Q8_K"].map((name, i) => [12 + i, name] as const),
  ...["IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32"].map(
    (name, i) => [16 + i, name] as const,
  ),
  ...["I64", "F64", "IQ1_M", "bf16"].map((name, i) => [27 + i, name] as const),
  ...([[34, "TQ1_0"] as const, [35, "TQ2_0"] as const, [39, "MXFP4"] as const] as const),
]);
const isPlain = (name: string): name is "f32" | "f16" | "bf16" => /^(f32|f16|bf16)$/.test(name);
const readable = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K";

/**
 * Read and check the header of a GGUF file, version 2 or 3. `path` is for messages only. The file is not trusted: the
 * ranges returned lie inside it, have the size their type asks for, and do not overlap; nothing is read or allocated
 * that the file is too short for. Throws UserError naming the file and the key or tensor.
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
export async function readGguf(file: ByteFile, path: string): Promise<GgufHeader> {
  const { size } = await file.stat();
  const bad = (what: string, next = redownload) => inputError(path, what, next);
  if (size < 24) throw bad(`is ${size} bytes long, too short for a GGUF file`);
  const prefix = new Uint8Array(24);
  await readExactly(file, path, 0, prefix);
  if (isPointer(Buffer.from(prefix).toString("latin1"))) throw pointerError(path);
  const cursor = new Cursor(file, path, size);
  if ((await cursor.u32()) !== magic) throw bad("does not begin with GGUF, so it is not a GGUF file");
  const version = await cursor.u32();
  const convert = "convert the model again with a current convert_hf_to_gguf.py";
  if (version === 0x02000000 || version === 0x03000000) throw bad("is big-endian", convert);
  if (version !== 2 && version !== 3) throw bad(`has GGUF version ${version}, not 2 or 3`, convert);
  const tensorCount = await cursor.count("tensors", 24);
  const keyCount = await cursor.count("keys", 13);

  const metadata = new Map<string, MetadataValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = await cursor.string(`key ${i}`, 2 ** 16 - 1);
    if (metadata.has(key)) throw bad(`key ${quote(key)} appears twice`);
    metadata.set(key, await readValue(cursor, await cursor.u32(), `key ${quote(key)}`));
  }
  const parts = metadata.get("split.count");
  if (typeof parts === "number" && parts > 1)
    throw bad(`is one of ${parts} parts of a model`, "join them with llama-gguf-split --merge");
  const alignment = metadata.get("general.alignment") ?? 32;
  if (typeof alignment !== "number" || !isPower(alignment))
    throw bad(`general.alignment is ${quote(String(alignment))}, not a power of two up to ${maxAlignment}`);

  const raw: { name: string; type: number; shape: number[]; offset: number }[] = [];
  for (let i = 0; i < tensorCount; i++) raw.push(await readTensor(cursor, i));
  const start = Math.ceil(cursor.at / alignment) * alignment;
  const tensors = new Map<string, GgufTensor>();
  for (const { name, type, shape, offset } of raw) {
    const where = `${path}: tensor ${quote(name)}`;
    if (tensors.has(name)) throw inputError(where, "appears twice", redownload);
    if (offset % alignment !== 0)
      throw inputError(where, `begins at ${offset}, which is no multiple of ${alignment}`, redownload);
    tensors.set(name, place(where, type, shape, start + offset, size));
  }
  checkApart(tensors, path);
  return { metadata, tensors };
}

const isPower = (n: number) => Number.isInteger(Math.log2(n)) && n >= 1 && n <= maxAlignment;

async function readTensor(cursor: Cursor, i: number) {
  const name = await cursor.string(`tensor ${i}`, maxName);
  const what = `tensor ${quote(name)}`;
  const rank = await cursor.u32();
  if (rank > maxRank) throw cursor.bad(`${what} has ${rank} axes, over the limit of ${maxRank}`);
  const shape: number[] = [];
  for (let axis = 0; axis < rank; axis++) shape.unshift(await cursor.u64(`${what}: its size`));
  return { name, shape, type: await cursor.u32(), offset: await cursor.u64(`${what}: its offset`) };
}

/** Where a tensor's bytes are, once its type and shape say how many there are. */
function place(where: string, type: number, shape: number[], begin: number, size: number): GgufTensor {
  const name = types.get(type);
  const format = name !== undefined && isBlockFormat(name) ? name : undefined;
  const plain = name !== undefined && isPlain(name) ? name : undefined;
  if (!format && !plain) {
    const next = `use a file whose tensors are of the types ${readable}`;
    throw inputError(where, `is stored as ${name ?? `type ${type}`}, which gemmac does not read yet`, next);
  }
  const count = shape.reduce((n, d) => n * d, 1);
  const row = shape.at(-1) ?? 1;
  const { elements, bytes } = format
    ? blockFormat(format)
    : { elements: 1, bytes: dtypes[plain as "f32"] / 8 };
  if (row % elements !== 0)
    throw inputError(where, `rows of ${row} do not fill ${name} blocks of ${elements}`, redownload);
  const end = begin + (count / elements) * bytes;
  // Past this the product above is not exact, and no file is so large.
  if (!Number.isSafeInteger(count) || !Number.isSafeInteger(end) || end > size)
    throw inputError(
      where,
      `its data, ${name} ${quote(shape)} at byte ${begin}, go past the end of the file`,
      redownload,
    );
  return { dtype: plain ?? "u8", ...(format && { format }), shape, begin, end };
}

function checkApart(tensors: ReadonlyMap<string, GgufTensor>, path: string): void {
  let [at, last] = [0, ""];
  for (const [name, { begin, end }] of [...tensors].sort(
    ([, a], [, b]) => a.begin - b.begin || a.end - b.end,
  )) {
    if (begin < at && end > begin)
      throw inputError(`${path}: tensor ${quote(name)}`, `overlaps tensor ${quote(last)}`, redownload);
    if (end > at) [at, last] = [end, name];
  }
}

const maxDepth = 3;
const [boolType, stringType, arrayType] = [7, 8, 9];

/** How the numbers of each type are stored. */
const numbers: ReadonlyMap<number, { bytes: number; read(v: DataView, at: number): number | bigint }> =
  new Map([
    [0, { bytes: 1, read: (v, at) => v.getUint8(at) }],
    [1, { bytes: 1, read: (v, at) => v.getInt8(at) }],
    [2, { bytes: 2, read: (v, at) => v.getUint16(at, true) }],
    [3, { bytes: 2, read: (v, at) => v.getInt16(at, true) }],
    [4, { bytes: 4, read: (v, at) => v.getUint32(at, true) }],
    [5, { bytes: 4, read: (v, at) => v.getInt32(at, true) }],
    [6, { bytes: 4, read: (v, at) => v.getFloat32(at, true) }],
    [boolType, { bytes: 1, read: (v, at) => v.getUint8(at) }],
    [10, { bytes: 8, read: (v, at) => v.getBigUint64(at, true) }],
    [11, { bytes: 8, read: (v, at) => v.getBigInt64(at, true) }],
    [12, { bytes: 8, read: (v, at) => v.getFloat64(at, true) }],
  ]);

async function readValue(cursor: Cursor, type: number, what: string, depth = 0): Promise<MetadataValue> {
  const number = numbers.get(type);
  if (number) {
    const value = number.read(await cursor.view(number.bytes), 0);
    if (type === boolType) {
      if (value !== 0 && value !== 1) throw cursor.bad(`${what} is ${value}, not a boolean`);
      return value === 1;
    }
    return typeof value === "bigint" && Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }
  if (type === stringType) return cursor.string(what);
  if (type !== arrayType) throw cursor.bad(`${what} has the unknown type ${type}`);
  if (depth === maxDepth) throw cursor.bad(`${what} nests lists deeper than ${maxDepth} levels`);
  const of = await cursor.u32();
  const items = numbers.get(of);
  const least = items?.bytes ?? (of === stringType ? 8 : 12);
  const count = await cursor.count(`items of ${what}`, least);
  if (items) {
    const out = new Float64Array(count);
    // A page at a time: the list may be longer than the cursor's buffer.
    for (let i = 0; i < count; ) {
      const n = Math.min(count - i, 8192);
      const view = await cursor.view(n * items.bytes);
      for (let k = 0; k < n; k++) out[i + k] = Number(items.read(view, k * items.bytes));
      i += n;
    }
    return out;
  }
  const list: MetadataValue[] = [];
  for (let i = 0; i < count; i++) list.push(await readValue(cursor, of, what, depth + 1));
  return list;
}

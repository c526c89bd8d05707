import { open, rename, rm } from "node:fs/promises";
import { type DType, dtypes } from "../../ir/type.ts";
import { decodeUtf8, inputError, isObject, isPointer, parseJson, pointerError, quote } from "./json.ts";

/** The parts of a FileHandle that reading needs. */
export interface ByteFile {
  stat(): Promise<{ size: number }>;
  read(into: Uint8Array, at: number, length: number, position: number): Promise<{ bytesRead: number }>;
}

/** One stored tensor: bytes `begin` up to `end` of the file hold its row-major little-endian elements. */
export interface Entry {
  readonly dtype: DType;
  readonly shape: number[];
  readonly begin: number;
  readonly end: number;
}

export interface Header {
  /** In the order in which the header names them. */
  readonly tensors: Map<string, Entry>;
  readonly metadata: Map<string, string>;
}

/** The format's own limit on the header, in bytes. */
const maxHeader = 100_000_000;
const stored = new Map<unknown, DType>([
  ["F32", "f32"],
  ["F16", "f16"],
  ["BF16", "bf16"],
  ["I32", "i32"],
  ["I8", "i8"],
  ["U8", "u8"],
  ["BOOL", "bool"],
]);
const redownload = "download the file again; if it stays, the checkpoint was written wrongly";

/** Fill `into` from byte `position` of the file. Throws UserError when the file ends before that. */
export async function readExactly(file: ByteFile, path: string, position: number, into: Uint8Array) {
  for (let done = 0; done < into.length; ) {
    // One read call can ask for at most 2 GiB.
    const length = Math.min(into.length - done, 2 ** 30);
    const { bytesRead } = await file.read(into, done, length, position + done);
    if (bytesRead === 0) throw inputError(path, `ends at byte ${position + done}, too early`, redownload);
    done += bytesRead;
  }
}

/**
 * Read and check the header of a safetensors file. `path` is for messages only. The file is not trusted: the
 * ranges returned lie inside it, have the size their type asks for, and cover the data without overlap or hole.
 * Throws UserError naming the file and the tensor. Format: https://github.com/huggingface/safetensors#format
 */
export async function readHeader(file: ByteFile, path: string): Promise<Header> {
  const { size } = await file.stat();
  const bad = (what: string) => inputError(path, what, redownload);
  if (size < 8) throw bad(`is ${size} bytes long, too short for a safetensors file`);
  const prefix = new Uint8Array(Math.min(size, 32));
  await readExactly(file, path, 0, prefix);
  if (isPointer(Buffer.from(prefix).toString("latin1"))) throw pointerError(path);
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  if (length > maxHeader) throw bad(`header length ${length} is over the limit of ${maxHeader} bytes`);
  const start = 8 + Number(length);
  if (start > size) throw bad(`header length ${length} does not fit in a file of ${size} bytes`);
  const bytes = new Uint8Array(start - 8);
  await readExactly(file, path, 8, bytes);
  const text = decodeUtf8(bytes, `${path}: header`);
  const json = parseJson(text, `${path}: header`);
  if (!text.startsWith("{") || !isObject(json)) throw bad("header does not begin with a JSON object");

  const tensors = new Map<string, Entry>();
  const metadata = new Map<string, string>();
  for (const [name, entry] of Object.entries(json)) {
    if (name !== "__metadata__") {
      tensors.set(name, readEntry(entry, `${path}: tensor ${quote(name)}`, start, size));
      continue;
    }
    if (!isObject(entry)) throw bad("__metadata__ is not an object");
    for (const [key, value] of Object.entries(entry)) {
      if (typeof value !== "string") throw bad(`__metadata__ ${quote(key)} is not a string`);
      metadata.set(key, value);
    }
  }
  checkCover(tensors, path, start, size);
  return { tensors, metadata };
}

function readEntry(entry: unknown, where: string, start: number, size: number): Entry {
  const bad = (what: string, next = redownload) => inputError(where, what, next);
  if (!isObject(entry)) throw bad("its header entry is not an object");
  const { dtype: word, shape, data_offsets: offsets } = entry;
  const dtype = stored.get(word);
  if (!dtype)
    throw bad(
      word === undefined ? "has no dtype" : `dtype ${quote(word)} is not supported`,
      `convert it to one of ${[...stored.keys()].join(", ")}`,
    );
  if (!isSizes(shape)) throw bad(`shape ${quote(shape)} is not a list of non-negative integers`);
  let bytes = dtypes[dtype] / 8;
  for (const dim of shape) {
    bytes *= dim;
    if (!Number.isSafeInteger(bytes)) throw bad(`shape ${quote(shape)} overflows`);
  }
  if (!isSizes(offsets) || offsets.length !== 2)
    throw bad(`data_offsets ${quote(offsets)} are not two non-negative integers`);
  const [begin = 0, end = 0] = offsets;
  if (begin > end) throw bad(`data_offsets ${quote(offsets)} run backwards`);
  if (end > size - start)
    throw bad(`data_offsets ${quote(offsets)} go past the end of the ${size - start} bytes of data`);
  if (end - begin !== bytes)
    throw bad(`${end - begin} bytes are stored, but ${word} ${quote(shape)} takes ${bytes}`);
  return { dtype, shape, begin: start + begin, end: start + end };
}

const isSizes = (v: unknown): v is number[] =>
  Array.isArray(v) && v.every((n) => Number.isSafeInteger(n) && n >= 0);

function checkCover(tensors: Map<string, Entry>, path: string, start: number, size: number): void {
  let at = start;
  let last = "";
  const ordered = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  for (const [name, { begin, end }] of ordered) {
    const bad = (what: string) => inputError(`${path}: tensor ${quote(name)}`, what, redownload);
    if (begin < at) throw bad(`overlaps tensor ${quote(last)}`);
    if (begin > at) throw bad(`${begin - at} bytes before it belong to no tensor`);
    at = end;
    last = name;
  }
  if (at < size) throw inputError(path, `the last ${size - at} bytes belong to no tensor`, redownload);
}

export type Writable =
  | { readonly dtype: "f32"; readonly shape: readonly number[]; readonly data: Float32Array }
  | { readonly dtype: "i32"; readonly shape: readonly number[]; readonly data: Int32Array };

/**
 * Write a small safetensors file: the same tensors always give the same bytes. It is written beside `path` and
 * then renamed, so that `path` never holds half a file. Throws TypeError when data and shape disagree.
 */
export async function writeSafetensors(
  path: string,
  tensors: Readonly<Record<string, Writable>>,
): Promise<void> {
  let at = 0;
  const sorted = Object.entries(tensors).sort(([a], [b]) => (a < b ? -1 : 1));
  const entries = sorted.map(([name, { dtype, shape, data }]) => {
    if (shape.reduce((a, b) => a * b, 1) !== data.length)
      throw new TypeError(`${name}: ${data.length} elements do not fill shape [${shape}]`);
    const data_offsets = [at, (at += data.byteLength)];
    return [name, { dtype: dtype.toUpperCase(), shape, data_offsets }];
  });
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const header = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, " ");
  header.writeBigUInt64LE(BigInt(header.length - 8));
  json.copy(header, 8);

  const beside = `${path}.${process.pid}.partial`;
  try {
    const file = await open(beside, "w");
    try {
      await file.writeFile(header);
      for (const [, { data }] of sorted)
        await file.writeFile(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    } finally {
      await file.close();
    }
    await rename(beside, path);
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  }
}

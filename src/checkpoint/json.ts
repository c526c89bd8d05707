import { type FileHandle, open, readFile, stat } from "node:fs/promises";
import { UserError } from "../../ir/error.ts";

/** A JSON object of which nothing is known yet. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** Whether the value is a JSON object, not null and not an array. */
export const isObject = (value: unknown): value is JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** No text file is read that is longer, in bytes: a tokenizer.json reaches 33 MB, an index 10 MB. */
const maxText = 100_000_000;
const maxDepth = 32;
const download = "download the file again";

/** Trouble with what a file holds. The message stays on one line whatever untrusted text is in it. */
export function inputError(where: string, what: string, next: string, options?: ErrorOptions): UserError {
  const line = `${where}: ${what}`.replace(
    /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu,
    (c) => `\\u{${c.codePointAt(0)?.toString(16)}}`,
  );
  return new UserError("input", line, next, options);
}

/** An error's message on one line. */
export const oneLine = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).replace(/\s+/g, " ").trim();

/** The code of a system error, such as ENOENT. */
export const codeOf = (error: unknown): string =>
  error instanceof Error && "code" in error ? String(error.code) : String(error);

/** An untrusted value for a message: plain names as they are, everything else as JSON, cut when long. */
export function quote(value: unknown): string {
  const text = typeof value === "string" && /^[\w./-]+$/.test(value) ? value : `${JSON.stringify(value)}`;
  return text.length > 120 ? `${text.slice(0, 117)}...` : text;
}

export const isPointer = (text: string): boolean => text.startsWith("version https://git-lfs");
export const pointerError = (path: string): UserError =>
  inputError(
    path,
    "is a git-lfs pointer, not the file itself",
    "run `git lfs pull` in the checkpoint folder",
  );

/** Open a file for reading; undefined where there is none. Only a regular file: a pipe could wait for ever. */
export async function openFile(path: string): Promise<FileHandle | undefined> {
  let code = "not a file";
  try {
    if ((await stat(path)).isFile()) return await open(path);
  } catch (error) {
    code = codeOf(error);
    if (code === "ENOENT") return undefined;
  }
  throw inputError(path, `cannot be read (${code})`, "download it again, or check its permissions");
}

/** The text of a file; undefined where there is none. Throws UserError when it is too long or no UTF-8. */
export async function readText(path: string): Promise<string | undefined> {
  const file = await openFile(path);
  if (!file) return undefined;
  try {
    const { size } = await file.stat();
    if (size > maxText) throw inputError(path, `is ${size} bytes long, over ${maxText}`, download);
    const text = decodeUtf8(await readFile(file), path);
    if (isPointer(text)) throw pointerError(path);
    return text;
  } finally {
    await file.close();
  }
}

/** The object in a JSON file; undefined where there is no file. Throws UserError when it holds anything else. */
export async function readJson(path: string, parse = parseJson): Promise<JsonObject | undefined> {
  const text = await readText(path);
  if (text === undefined) return undefined;
  const value = parse(text, path);
  if (!isObject(value)) throw inputError(path, "is not a JSON object", download);
  return value;
}

/** Throws UserError when the bytes are not UTF-8. A byte order mark is dropped. */
export function decodeUtf8(bytes: Uint8Array, where: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    throw inputError(where, "is not UTF-8 text", download);
  }
}

/** JSON.parse, for texts of many megabytes: it tells less of what is wrong, and keeps the last of duplicate keys. */
export function parseJsonFast(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw inputError(where, `not JSON: ${oneLine(cause)}`, download, { cause });
  }
}

/**
 * JSON.parse that tells the line and column of what is wrong and refuses duplicate keys, of which JSON.parse
 * silently keeps the last. Throws UserError whose message begins with `where`.
 */
export function parseJson(text: string, where: string): unknown {
  const space = /[ \t\n\r]*/y;
  const scalar = /(?:-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)(?![\w.+-])/y;
  let at = 0;
  const fail = (what: string, place = at): never => {
    const lines = text.slice(0, place).split("\n");
    const column = (lines.at(-1)?.length ?? 0) + 1;
    const next = "correct the file at that place, or download it again";
    throw inputError(`${where}:${lines.length}:${column}`, `bad JSON: ${what}`, next);
  };
  const unexpected = (): never =>
    fail(at < text.length ? `unexpected ${quote(text[at])}` : "the text ends too early");
  const match = (pattern: RegExp): string => {
    pattern.lastIndex = at;
    return pattern.exec(text)?.[0] ?? "";
  };
  const peek = (): string | undefined => {
    at += match(space).length;
    return text[at];
  };
  const take = (char: string): boolean => {
    const found = peek() === char;
    if (found) at++;
    return found;
  };
  const string = (): string => {
    const start = at;
    if (!take('"')) unexpected();
    for (; text[at] !== '"'; at++) {
      if (at >= text.length) fail("a string has no end", start);
      if (text[at] === "\\") at++;
    }
    at++;
    try {
      return JSON.parse(text.slice(start, at));
    } catch {
      return fail("a string holds a bad escape or a control character", start);
    }
  };
  const object = (depth: number): unknown => {
    const members = new Map<string, unknown>();
    if (take("}")) return {};
    do {
      peek();
      const start = at;
      const key = string();
      if (members.has(key)) fail(`${quote(key)} appears twice`, start);
      if (!take(":")) unexpected();
      members.set(key, value(depth));
    } while (take(","));
    if (!take("}")) unexpected();
    // Unlike assignment, fromEntries makes "__proto__" an ordinary member.
    return Object.fromEntries(members);
  };
  const array = (depth: number): unknown => {
    const items: unknown[] = [];
    if (take("]")) return items;
    do items.push(value(depth));
    while (take(","));
    if (!take("]")) unexpected();
    return items;
  };
  const value = (depth: number): unknown => {
    if (depth > maxDepth) fail(`nested deeper than ${maxDepth} levels`);
    const char = peek();
    if (char === '"') return string();
    if (take("{")) return object(depth + 1);
    if (take("[")) return array(depth + 1);
    const word = match(scalar) || unexpected();
    at += word.length;
    return JSON.parse(word);
  };
  const result = value(0);
  if (peek() !== undefined) unexpected();
  return result;
}

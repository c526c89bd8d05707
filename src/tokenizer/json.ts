import { readFile } from "node:fs/promises";
import { UserError } from "../../ir/error.ts";

/** A JSON object of which nothing is known yet. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** Whether the value is a JSON object, not null and not an array. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** An error's message on one line. */
export function oneLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).replace(/\s+/g, " ").trim();
}

/** A text file, or undefined where there is none. */
export async function readText(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, "utf8");
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined;
    const next = "check that it is a readable file";
    throw new UserError("input", `${file}: cannot be read: ${oneLine(cause)}`, next, { cause });
  }
}

/** A file holding one JSON object, or undefined where there is none. */
export async function readJson(file: string): Promise<JsonObject | undefined> {
  const text = await readText(file);
  if (text === undefined) return undefined;
  const next = "download the file again";
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new UserError("input", `${file}: not JSON: ${oneLine(cause)}`, next, { cause });
  }
  if (!isObject(value)) throw new UserError("input", `${file}: not a JSON object`, next);
  return value;
}

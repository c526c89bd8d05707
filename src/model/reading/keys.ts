import type { UserError } from "../../../ir/error.ts";
import { inputError, type JsonObject, quote } from "../../checkpoint/json.ts";

/** Where one setting came from: the file, the family's default, or another setting. */
export interface ConfigKey {
  readonly key: string;
  readonly value: string | number | boolean | null | readonly string[];
  readonly source: "stated" | "defaulted" | "derived";
  readonly note?: string;
}

/** Keys that say nothing about the computation. */
const bookkeeping = new Set([
  ...[
    "transformers_version",
    "use_cache",
    "cache_implementation",
    "initializer_range",
    "torch_dtype",
    "dtype",
  ],
  ...["attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "auto_map", "_name_or_path"],
]);

/** Reads the keys of one JSON object, checks them, and keeps a record of each. `where` names it in messages. */
export class Keys {
  readonly read: ConfigKey[] = [];
  readonly #json: JsonObject;
  readonly #where: string;
  readonly #seen = new Set(bookkeeping);

  constructor(json: JsonObject, where: string) {
    this.#json = json;
    this.#where = where;
  }

  /** What the file says; undefined where it is silent. */
  stated(key: string): unknown {
    this.#seen.add(key);
    return Object.hasOwn(this.#json, key) ? this.#json[key] : undefined;
  }

  record(
    key: string,
    value: ConfigKey["value"],
    source: ConfigKey["source"],
    note?: string,
  ): ConfigKey["value"] {
    this.read.push({ key, value, source, ...(note !== undefined && { note }) });
    return value;
  }

  /** A value found under `key`, checked to be of the fallback's type; the fallback where there is none. */
  take<T extends number | boolean>(key: string, value: unknown, fallback: T): T {
    if (value !== undefined && typeof value !== typeof fallback)
      throw this.bad(`${key} is ${quote(value)}, not a ${typeof fallback}`);
    // The line above is what makes the cast true.
    const result = value === undefined ? fallback : (value as T);
    this.record(key, result, value === undefined ? "defaulted" : "stated");
    return result;
  }

  boolean(key: string, fallback: boolean): boolean {
    return this.take(key, this.stated(key), fallback);
  }

  /** An integer from 1. */
  size(key: string, fallback: number, max: number): number {
    const value = this.take(key, this.stated(key), fallback);
    if (!Number.isInteger(value) || value < 1 || value > max)
      throw this.bad(`${key} is ${value}, not an integer from 1 to ${max}`);
    return value;
  }

  positive(key: string, fallback: number, max = 1e12): number {
    const value = this.take(key, this.stated(key), fallback);
    if (!(value > 0 && value <= max))
      throw this.bad(`${key} is ${value}, not a number above 0, up to ${max}`);
    return value;
  }

  /** A bound that null switches off; 0 stands for none. */
  cap(key: string, fallback: number | null): number {
    const value = this.stated(key);
    if (value !== null && (value !== undefined || fallback !== null)) {
      if (value === 0)
        throw this.bad(`${key} is 0, which would make every score 0`, `give null for no bound`);
      return this.positive(key, fallback ?? 0);
    }
    this.record(key, null, value === undefined ? "defaulted" : "stated");
    return 0;
  }

  /** Keys of the file that nobody asked for. */
  ignored(): string[] {
    return Object.keys(this.#json).filter((key) => !this.#seen.has(key));
  }

  bad(what: string, next = "correct the key in config.json"): UserError {
    return inputError(this.#where, what, next);
  }
}

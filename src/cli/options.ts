import { InvalidArgumentError } from "commander";
import type { ModelFacts } from "../../backends/backend.ts";
import { UserError } from "../../ir/error.ts";

/** Reads a flag's value that must be an integer. */
export const integer =
  (min: number, max = Number.MAX_SAFE_INTEGER) =>
  (text: string): number => {
    const value = Number(text);
    if (/^-?\d+$/.test(text) && value >= min && value <= max) return value;
    const range = max === Number.MAX_SAFE_INTEGER ? `${min} up` : `${min} to ${max}`;
    throw new InvalidArgumentError(`It must be an integer from ${range}`);
  };

/** Reads a flag's value that must be a number. */
export const decimal =
  (min: number, max = Number.POSITIVE_INFINITY) =>
  (text: string): number => {
    const value = Number(text);
    if (/^[\d.]+(?:e-?\d+)?$/i.test(text) && value >= min && value <= max) return value;
    const range = Number.isFinite(max) ? `${min} to ${max}` : `${min} up`;
    throw new InvalidArgumentError(`It must be a number from ${range}`);
  };

/** Reads `2,5,7`. */
export function tokenIds(text: string): number[] {
  if (!/^\d+(?:,\d+)*$/.test(text))
    throw new InvalidArgumentError("It must be token ids with commas between, such as 2,5,7");
  return text.split(",").map(Number);
}

/** Reads `onnx,wgsl`. */
export const names = (text: string): string[] => [...new Set(text.split(",").filter(Boolean))];

/** Gathers the values of a flag that may be repeated. */
export const repeated =
  <T>(parse: (text: string) => T) =>
  (text: string, previous: readonly T[] = []): T[] => [...previous, parse(text)];

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

/** The members that have a value: flags that were not given are members without one. */
export const defined = <T extends object>(flags: T): Defined<T> =>
  Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined)) as Defined<T>;

/** Check that the model can be fed these ids. Throws UserError. */
export function checkIds(ids: readonly number[], { vocab, context }: ModelFacts): void {
  if (ids.length === 0) throw new UserError("usage", "the prompt is empty", "give some text");
  const stranger = ids.find((id) => id >= vocab);
  if (stranger !== undefined)
    throw new UserError(
      "input",
      `token id ${stranger} is outside the vocabulary of ${vocab}`,
      "check that ids and tokenizer belong to this model",
    );
  if (ids.length > context)
    throw new UserError(
      "input",
      `the prompt has ${ids.length} tokens, but the model's context is ${context}`,
      "shorten the prompt",
    );
}

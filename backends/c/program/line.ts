import type { Dim } from "../../../ir/dim.ts";
import type { DType } from "../../../ir/type.ts";
import { printDim } from "./dims.ts";

/** Memory of one step: activations, whose bytes share one arena as their lives allow. */
export interface Buffer {
  readonly kind: "arena";
  readonly ctype: string;
  /** At most so many. */
  readonly bytes: number;
  /** What it is called in C where it is first written. */
  readonly label: string;
  /** Kept until the step ends. */
  readonly lasting: boolean;
}

/** What a line of the program reads or writes. */
export type Store =
  | Buffer
  | { readonly kind: "weight"; readonly name: string; readonly dtype: DType }
  | { readonly kind: "cache"; readonly index: number }
  | { readonly kind: "given"; readonly text: string };

/** A part of a line that may differ between layers, or is only known once memory is laid out. */
export type Ref =
  | { readonly is: "memory"; readonly store: Buffer }
  | { readonly is: "weight"; readonly name: string; readonly ctype: string }
  | { readonly is: "number"; readonly role: string; readonly type: string; readonly text: string };
export type Piece = string | Ref;

/** Something that all threads do, each its share. */
export interface Line {
  readonly pieces: readonly Piece[];
  readonly reads: readonly Store[];
  readonly writes: readonly Store[];
  /** Buffers that the result may take over where they are not needed after, each element by the thread that reads it. */
  readonly replaces: readonly Buffer[];
  /** Runs before all others: what every layer shares. */
  readonly once: boolean;
  /** The named value that is complete after this line. */
  readonly shows?: Shown;
}
export interface Shown {
  readonly origin: string;
  readonly buffer: Buffer;
  readonly rows: Dim;
  readonly columns: number;
}

type Part = Ref | string | Dim;
const isRef = (part: Part): part is Ref => typeof part === "object" && "is" in part;

/** A line's text with its parts: numbers and sizes are printed, refs stay open. */
export function text(strings: TemplateStringsArray, ...parts: readonly (Part | readonly Piece[])[]): Piece[] {
  const pieces: Piece[] = [];
  const push = (p: Piece) => {
    const last = pieces.at(-1);
    if (typeof p === "string" && typeof last === "string") pieces[pieces.length - 1] = last + p;
    else pieces.push(p);
  };
  strings.forEach((s, i) => {
    push(s);
    const part = parts[i];
    if (part === undefined) return;
    if (Array.isArray(part)) for (const p of part as readonly Piece[]) push(p);
    else if (typeof part === "string") push(part);
    else if (isRef(part as Part)) push(part as Ref);
    else push(printDim(part as Dim));
  });
  return pieces;
}

/** A number that may differ from layer to layer. */
export const number = (role: string, value: number, type: "long" | "float" | "int" = "long"): Ref => ({
  is: "number",
  role,
  type,
  text: type === "float" ? float(value) : String(value),
});

/** An f32 literal that reads back as the same number. */
export function float(x: number): string {
  const value = Math.fround(x);
  if (value === Number.POSITIVE_INFINITY) return "INFINITY";
  if (value === Number.NEGATIVE_INFINITY) return "-INFINITY";
  const lengths = Array.from({ length: 9 }, (_, n) => Number(value.toPrecision(n + 1)));
  const digits = String(lengths.find((d) => Math.fround(d) === value) ?? value);
  return `${/[.e]/.test(digits) ? digits : `${digits}.0`}f`;
}

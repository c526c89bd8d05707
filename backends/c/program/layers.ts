import { longestRepeat, type Repeat } from "../../repeat.ts";
import type { Buffer, Line, Piece, Ref } from "./line.ts";

/** A line that is laid out: what it says, and whether all threads meet before it. */
export interface Placed {
  readonly line: Line;
  readonly meet: boolean;
}

/** The longest repetition in a program, over other weights, caches and numbers; undefined when there is none. */
export const findLayers = (
  lines: readonly Line[],
  offsets: ReadonlyMap<Buffer, number>,
): Repeat | undefined => longestRepeat(lines.map((line) => shape(line, offsets)));

/** What lines of different layers have in common. */
function shape(line: Line, offsets: ReadonlyMap<Buffer, number>): string {
  const show = (piece: Piece): string => {
    if (typeof piece === "string") return piece;
    if (piece.is === "memory") return `[${piece.store.ctype} ${offsets.get(piece.store)}]`;
    return piece.is === "weight" ? `[weight ${piece.ctype}]` : `[${piece.role}]`;
  };
  const shown = line.shows && [line.shows.origin.replace(/\d+/, "#"), line.shows.rows, line.shows.columns];
  return JSON.stringify([line.pieces.map(show), shown?.map(String)]);
}

/** What differs between layers: one value for each. */
export interface Column {
  readonly name: string;
  readonly type: string;
  readonly values: readonly string[];
}

/**
 * The columns that the loop over `repeat` needs, and the name of the one that stands for each open part of each line of
 * its body. Parts that are the same in all layers get none.
 */
export function columnsOf(
  lines: readonly Line[],
  repeat: Repeat,
  spell: (ref: Ref) => string,
): { columns: readonly Column[]; of(line: number, piece: number): Column | undefined } {
  const columns: Column[] = [];
  const found = new Map<string, Column>();
  const layer = (n: number, i: number) => lines[repeat.from + n * repeat.period + i] as Line;
  for (let i = 0; i < repeat.period; i++)
    layer(0, i).pieces.forEach((piece, k) => {
      if (typeof piece === "string" || piece.is === "memory") return;
      const values = Array.from({ length: repeat.times }, (_, n) => spell(layer(n, i).pieces[k] as Ref));
      if (values.every((v) => v === values[0])) return;
      const wanted = columnName(piece);
      const type = piece.is === "weight" ? "size_t" : piece.type;
      let column = columns.find((c) => c.type === type && String(c.values) === String(values));
      if (!column) {
        column = { name: unused(wanted, columns), type, values };
        columns.push(column);
      }
      found.set(`${i}.${k}`, column);
    });
  return { columns, of: (line, piece) => found.get(`${line}.${piece}`) };
}

function columnName(ref: Exclude<Ref, { is: "memory" }>): string {
  if (ref.is === "number") return ref.role;
  const [, own = ref.name] =
    /([^.]+?)(?:\.weight)?((?:\.(?:weight|cast|add|quantize|block_\w+))*)$/.exec(ref.name) ?? [];
  const part = /\.block_(scale|zero)\w*$/.exec(ref.name)?.[1];
  return `${own}${part ? `_${part}` : ""}`.replace(/\W+/g, "_");
}

function unused(name: string, columns: readonly Column[]): string {
  for (let n = 1, free = name; ; free = `${name}_${++n}`)
    if (columns.every((c) => c.name !== free)) return free;
}

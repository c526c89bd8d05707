import type { Value } from "../../ir/graph.ts";
import { update } from "../../ir/ops/index.ts";
import { operands } from "../backend.ts";
import type { Body, Ssa } from "./text/body.ts";
import { sizes, typed } from "./text/dialect.ts";

/** Codes are stored in tiles of this many rows on a TPU; the compiler lays a table out anew for smaller pieces. */
const tile = 32;

/** table[index…], along the first axis. Rows of codes come out of aligned blocks of rows. */
export function rows(b: Body, table: Ssa, index: Ssa, v?: Value): Ssa {
  const [n = 0, ...row] = sizes(table.type);
  const at = sizes(index.type);
  if (table.type.dtype !== "i8" || n % tile !== 0) return b.take(table, index, 0, v);
  const size = b.splat(tile, index.type);
  const blocks = b.take(b.reshape(table, [n / tile, tile, ...row]), b.same("divide", [index, size]), 0);
  const place = b.broadcast(
    b.same("remainder", [index, size]),
    sizes(blocks.type),
    at.map((_, i) => i),
  );
  const slots = b.iota(typed("i32", sizes(blocks.type)), at.length);
  const chosen = b.select(b.compare("EQ", slots, place), blocks, b.splat(0, blocks.type));
  return b.reduce(chosen, at.length, "add", 0);
}

/** `dest` with `src` written over it from position `from` of one axis. */
export function overwrite(b: Body, dest: Ssa, src: Ssa, from: Ssa, axis: number, v?: Value): Ssa {
  const zero = b.splat(0, typed("i32", []));
  const starts = dest.type.shape.map((_, i) => (i === axis ? from : zero));
  return b.op("dynamic_update_slice", [dest, src, ...starts], dest.type, "", v);
}

/** Each slot of a ring takes the last row written to it, where there is one among the new rows, or stays as it is. */
export function ring(b: Body, v: Value, axis: number): Ssa {
  const { dest, src, start } = operands(update, v);
  const [all, last] = [dest.fixed(axis), src.fixed(axis) - 1];
  const type = typed("i32", [all]);
  const number = (value: number) => b.splat(value, type);
  // A whole turn is added, as the remainder of a negative number is negative.
  const end = b.same("add", [b.broadcast(b.of(start), [all], []), number(last + all)]);
  const back = b.same("remainder", [b.same("subtract", [end, b.iota(type, 0)]), number(all)]);
  const row = b.same("subtract", [number(last), back]);
  const written = b.take(b.of(src), b.same("maximum", [row, number(0)]), axis);
  const fresh = b.broadcast(b.compare("LE", number(0), row), sizes(v.type), [axis]);
  return b.select(fresh, written, b.of(dest), v);
}

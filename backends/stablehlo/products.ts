import type { Value } from "../../ir/graph.ts";
import { cast, constant } from "../../ir/ops/index.ts";
import type { TensorType } from "../../ir/type.ts";
import type { Body, Ssa } from "./text/body.ts";
import { sizes, typed } from "./text/dialect.ts";

/** A factor as it was before it was widened: the product itself widens, and sums in f32. */
function factor(b: Body, v: Value): Ssa {
  const wide = cast.of(v);
  return wide && v.dtype === "f32" && wide.x.dtype === "bf16" && wide.x.op !== constant
    ? b.of(wide.x)
    : b.of(v);
}

/** Both factors of one type: narrow if both are, as hardware multiplies them fastest. */
function factors(b: Body, x: Value, w: Value): [Ssa, Ssa] {
  const [left, right] = [factor(b, x), factor(b, w)];
  if (left.type.dtype === right.type.dtype) return [left, right];
  return [b.of(x), b.of(w)];
}

/** x·wᵀ, for w [out, in]. */
export function product(b: Body, x: Value, w: Value, v: Value): Ssa {
  const [left, right] = factors(b, x, w);
  return contract(b, left, right, v.type, v);
}

/** x·codesᵀ for whole numbers, which are widened on the way. */
export function dot(b: Body, x: Value, codes: Ssa, type: TensorType): Ssa {
  const left = factor(b, x);
  return contract(b, left, b.convert(codes, left.type.dtype), type);
}

/** One operation; few rows are padded where that is faster. */
function contract(b: Body, x: Ssa, w: Ssa, type: TensorType, v?: Value): Ssa {
  const shape = sizes(x.type);
  const rows = shape.slice(0, -1).reduce((n, d) => n * d, 1);
  const last = shape.length - 1;
  if (rows >= b.tuning.rows) return general(b, x, w, { contracting: [[last], [1]] }, type, v);
  const width = Number(x.type.at(-1));
  const flat = b.reshape(x, [rows, width]);
  const padded = pad(b, flat, b.tuning.rows);
  const made = general(
    b,
    padded,
    w,
    { contracting: [[1], [1]] },
    typed(type.dtype, [b.tuning.rows, Number(type.at(-1))]),
  );
  return b.reshape(b.slice(made, 0, 0, rows), sizes(type), v);
}

function pad(b: Body, x: Ssa, rows: number): Ssa {
  const [have, width] = sizes(x.type) as [number, number];
  const zero = b.splat(0, typed(x.type.dtype, []));
  const more = `, low = [0, 0], high = [${rows - have}, 0], interior = [0, 0]`;
  return b.op("pad", [x, zero], typed(x.type.dtype, [rows, width]), more);
}

interface Axes {
  readonly batching?: readonly [readonly number[], readonly number[]];
  readonly contracting: readonly [readonly number[], readonly number[]];
}

function general(b: Body, x: Ssa, w: Ssa, { batching, contracting }: Axes, type: TensorType, v?: Value): Ssa {
  const pair = ([l, r]: readonly [readonly number[], readonly number[]]) =>
    `[${l.join(", ")}] x [${r.join(", ")}]`;
  const batches = batching?.[0].length ? `, batching_dims = ${pair(batching)}` : "";
  // Hardware that multiplies bf16 is to keep all of f32 where f32 is what is multiplied.
  const precision = x.type.dtype === "f32" && b.tuning.exact ? ", precision = [HIGHEST, HIGHEST]" : "";
  const attributes = `${batches}, contracting_dims = ${pair(contracting)}${precision}`;
  return b.op("dot_general", [x, w], type, attributes, v);
}

/** A product of matrices, batched over the other axes. What `y` shares among rows of `x` is not repeated. */
export function products(b: Body, x: Value, y: Value, v: Value): Ssa {
  const [left, right] = factors(b, x, y);
  const batch = sizes(v.type).slice(0, -2);
  const rank = batch.length;
  const [m, k] = sizes(left.type).slice(-2) as [number, number];
  const n = Number(right.type.at(-1));
  const stretched = b.broadcast(left, [...batch, m, k]);
  // Axes after the last one that `y` really has are rows of `x`.
  const own = [...new Array<number>(rank - (right.type.rank - 2)).fill(1), ...sizes(right.type).slice(0, -2)];
  const shared = own.findLastIndex((d, i) => d === batch[i] && d !== 1) + 1;
  const lead = batch.slice(0, shared);
  const whole = b.broadcast(b.reshape(right, [...own.slice(0, shared), k, n]), [...lead, k, n]);
  const axes = lead.map((_, i) => i);
  const contracting = [[rank + 1], [shared]] as const;
  return general(b, stretched, whole, { batching: [axes, axes], contracting }, v.type, v);
}

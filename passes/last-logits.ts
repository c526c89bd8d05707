import { minus } from "../ir/dim.ts";
import type { OpDef, Value } from "../ir/graph.ts";
import { oneOf, size } from "../ir/op.ts";
import {
  add,
  cast,
  gather,
  geglu,
  gelu,
  gelu_erf,
  linear,
  mul,
  param,
  quant_linear,
  reshape,
  residual_rms_norm,
  rms_norm,
  silu,
  slice,
  softcap,
  transpose,
} from "../ir/ops/index.ts";
import { tensor } from "../ir/type.ts";
import { pass, rebuilt } from "./pass.ts";

/** Ops that make each row [b,t] from the same rows of their first operands, and how many operands those are. */
const rowwise = new Map<OpDef, number>([
  [add, 2],
  [mul, 2],
  [geglu, 2],
  [residual_rms_norm, 2],
  [gelu, 1],
  [gelu_erf, 1],
  [silu, 1],
  [softcap, 1],
  [rms_norm, 1],
  [linear, 1],
  [cast, 1],
  [quant_linear, 1],
]);

export const lastLogits = pass("last-logits", {
  doc:
    "Scores for the last `rows` tokens only, [B,rows,vocab]: all that follows the last attention runs on so many rows " +
    "instead of T. Those rows stay as they were. With row=given one row is scored, whose number comes as `last` i32[], so " +
    "that padding may follow it.",
  options: { rows: size(1), row: oneOf("last", "given") },
  run(g, { rows: n, row: which }) {
    const { logits, ...others } = g.outputs;
    if (!logits) return g;
    const given = which === "given" ? param({ name: "last", type: tensor("i32") }) : undefined;

    // Users before operands: whoever reads more of a value than its last row needs it whole.
    const whole = new Set(Object.values(others));
    for (const v of g.values().toReversed()) {
      const rows = whole.has(v) ? [] : rowsRead(v);
      for (const x of v.inputs) if (!rows.includes(x)) whole.add(x);
    }

    const made = new Map<Value, Value>();
    const last = (v: Value): Value => {
      const known = made.get(v);
      if (known) return known;
      const rows = whole.has(v) ? [] : rowsRead(v);
      const operands = v.inputs.map((x) => (rows.includes(x) ? last(x) : x));
      const T = v.type.at(1);
      const cut = () => (given ? rowAt(v, given) : slice(v, { axis: 1, from: minus(T, n), to: T }));
      const row = rows.length ? rebuilt(v, operands) : cut();
      made.set(v, row);
      return row;
    };
    const outputs = { ...g.outputs, logits: last(logits) };
    // A value that is cut keeps its name; what became one row hands it on.
    const handedOn = <T>(facts: ReadonlyMap<Value, T>) =>
      new Map(
        [...facts].map(([v, fact]) => {
          const row = made.get(v);
          return [row?.op === v.op ? row : v, fact] as const;
        }),
      );
    const inputs = given ? [...g.inputs, given] : g.inputs;
    return g.with({ inputs, outputs, origins: handedOn(g.origins), shardings: handedOn(g.shardings) });
  },
});

/** The operands of which `v` reads, for each of its rows, no more than the same row; none when it mixes rows. */
function rowsRead(v: Value): readonly Value[] {
  const operands = v.inputs.slice(0, rowwise.get(v.op) ?? 0);
  const sameRows = (x: Value) => x.type.rank === v.type.rank && x.shape[1] === v.shape[1];
  // A number, or one row's features, serves every row alike.
  const noRows = (x: Value) => x.type.rank <= v.type.rank - 2;
  if (v.type.rank < 3 || !operands.every((x) => sameRows(x) || noRows(x))) return [];
  return operands.filter(sameRows);
}

function rowAt(v: Value, index: Value): Value {
  const perm = [1, 0, ...v.shape.slice(2).map((_, i) => i + 2)];
  return transpose(gather(transpose(v, { perm }), reshape(index, { shape: [1] })), { perm });
}

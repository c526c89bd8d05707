import type { Value } from "../../ir/graph.ts";
import { add, cast, constant, div, mul, reshape, sub, transpose } from "../../ir/ops/index.ts";
import { any, Pattern } from "../../ir/pattern.ts";
import { store } from "../../ir/tensor.ts";
import { rewrite, rule } from "../rewrite.ts";

const x = any("x");

/** Any single number computed from numbers alone. */
const scalarOfConstants = new Pattern<{}>(
  (v) =>
    v.op !== constant && v.inputs.length > 0 && v.type.rank === 0 && v.inputs.every((i) => i.op === constant),
);

function evaluated(v: Value): Value | undefined {
  if (!v.op.eval) return undefined;
  const operands = v.inputs.map((i) =>
    store({ shape: [], data: Float64Array.of(Number(i.attrs.value)) }, i.dtype),
  );
  const result = store(v.op.eval(operands, v.attrs, { dtype: v.dtype, shape: [], sizes: {} }), v.dtype);
  const value = result.data[0] as number;
  return Number.isNaN(value) ? undefined : constant({ value, dtype: v.dtype });
}

/** A cast that loses nothing may be skipped when another follows. */
const widening = new Set(["f16>f32", "bf16>f32"]);

export const canonicalize = rewrite("canonicalize", {
  doc: "Numbers are computed, and what does nothing is dropped: x·1, x/1, x-0, doubled reshapes, transposes and casts.",
  rules: [
    rule("an op on numbers → its result", scalarOfConstants, (_, root) => evaluated(root)),
    rule("x · 1 → x", mul(x, 1), ({ x }, root) => sameType(x, root)),
    rule("x / 1 → x", div(x, 1), ({ x }, root) => sameType(x, root)),
    rule("x - 0 → x", sub(x, 0), ({ x }, root) => sameType(x, root)),
    rule("x + (-0) → x", add(x, constantPattern(-0)), ({ x }, root) => sameType(x, root)),
    rule("reshape(reshape(x)) → reshape(x)", reshape(reshape(x)), ({ x }, root) => reshape(x, root.attrs)),
    rule("transpose(transpose(x)) → transpose(x)", transpose(transpose(x)), ({ x }, root) => {
      const outer = transpose.of(root);
      const inner = outer && transpose.of(outer.x);
      if (!outer || !inner) return undefined;
      return transpose(x, { perm: outer.attrs.perm.map((p) => inner.attrs.perm[p] as number) });
    }),
    rule("cast(widening cast(x)) → cast(x)", cast(cast(x)), ({ x }, root) =>
      widening.has(`${x.dtype}>${root.inputs[0]?.dtype}`) ? cast(x, { to: root.dtype }) : undefined,
    ),
  ],
});

/** Broadcasting may make `root` larger than x; then it does something after all. */
const sameType = (x: Value, root: Value): Value | undefined => (x.type.equals(root.type) ? x : undefined);

function constantPattern(value: number): Pattern<{}> {
  return new Pattern((v) => v.op === constant && Object.is(v.attrs.value, value));
}

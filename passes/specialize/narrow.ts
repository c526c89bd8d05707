import type { Value } from "../../ir/graph.ts";
import { oneOf } from "../../ir/op.ts";
import { attention, cast, linear, quant_linear } from "../../ir/ops/index.ts";
import { map, pass } from "../pass.ts";

type Narrow = "bf16" | "f16";
/** `x` [f32] rounded to numbers that `to` holds. */
export const rounded = (x: Value, to: Narrow): Value => cast(cast(x, { to }), { to: "f32" });
/** What `x` is the rounded form of, if it is that. */
export function unrounded(x: Value, to: Narrow): Value | undefined {
  const source = cast.of(cast.of(x)?.x ?? x)?.x;
  return source && x === rounded(source, to) ? source : undefined;
}

export const narrowCaches = pass("narrow-caches", {
  doc: "Keys and values are rounded to 16 bits, so that caches of a fixed size, made after it, take half the memory.",
  law: { close: 2e-2 },
  options: { dtype: oneOf("bf16", "f16") },
  run: (g, { dtype }) =>
    map(g, (v) => {
      const a = attention.of(v);
      if (a?.k.dtype !== "f32") return v;
      return attention(a.q, rounded(a.k, dtype), rounded(a.v, dtype), a.qpos, a.kpos, a.attrs);
    }),
});

export const roundFactors = pass("round-factors", {
  doc:
    "What products by weights and attention multiply is rounded to bf16, as tensor cores take it fastest; so caches of a " +
    "fixed size, made after it, hold bf16. A target may leave as it is what it would gain nothing by rounding.",
  law: { close: 5e-2 },
  run: (g) =>
    map(g, (v) => {
      const plain = linear.of(v);
      if (plain?.x.dtype === "f32") return linear(rounded(plain.x, "bf16"), plain.w);
      const coded = quant_linear.of(v);
      if (coded?.x.dtype === "f32")
        return quant_linear(rounded(coded.x, "bf16"), coded.codes, coded.scale, coded.zero);
      const a = attention.of(v);
      if (a?.q.dtype !== "f32" || a.k.dtype !== "f32") return v;
      const [q, k, w] = [a.q, a.k, a.v].map((x) => rounded(x, "bf16")) as [Value, Value, Value];
      return attention(q, k, w, a.qpos, a.kpos, a.attrs);
    }),
});

import { oneOf } from "../../ir/op.ts";
import { attention, cast } from "../../ir/ops/index.ts";
import { map, pass } from "../pass.ts";

export const narrowCaches = pass("narrow-caches", {
  doc: "Keys and values are rounded to 16 bits, so that caches of a fixed size, made after it, take half the memory.",
  law: { close: 2e-2 },
  options: { dtype: oneOf("bf16", "f16") },
  run: (g, { dtype }) =>
    map(g, (v) => {
      const a = attention.of(v);
      if (a?.k.dtype !== "f32") return v;
      const [k, w] = [a.k, a.v].map((x) => cast(cast(x, { to: dtype }), { to: "f32" })) as [
        typeof v,
        typeof v,
      ];
      return attention(a.q, k, w, a.qpos, a.kpos, a.attrs);
    }),
});

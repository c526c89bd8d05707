import type { Value } from "../../ir/graph.ts";
import { concat, linear, slice } from "../../ir/ops/index.ts";
import { map, pass } from "../pass.ts";

export const packLinear = pass("pack-linear", {
  doc:
    "linear(x, a), linear(x, b), … → slices of linear(x, rows of a, b, …): query, key and value, and gate and up, " +
    "each in one product.",
  run(g) {
    const groups = new Map<Value, Value[]>();
    for (const v of g.values()) {
      const product = linear.of(v);
      if (product && typeof v.type.at(-1) === "number")
        groups.set(product.x, [...(groups.get(product.x) ?? []), v]);
    }
    return map(g, (v, before) => {
      const product = linear.of(v);
      const group = groups.get(before.inputs[0] as Value);
      if (!product || !group?.includes(before) || group.length < 2) return v;
      const rows = group.map((one) => one.inputs[1] as Value);
      const packed = linear(
        product.x,
        rows.reduce((a, b) => concat(a, b, { axis: 0 })),
      );
      const from = group.slice(0, group.indexOf(before)).reduce((n, one) => n + one.fixed(-1), 0);
      return slice(packed, { axis: -1, from, to: from + v.fixed(-1) });
    });
  },
});

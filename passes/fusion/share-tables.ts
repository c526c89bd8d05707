import { cast, gather } from "../../ir/ops/index.ts";
import { map, pass } from "../pass.ts";

export const shareTables = pass("share-tables", {
  doc: "cast(gather(table, i)) → gather(cast(table), i) where cast(table) is computed anyway: a tied embedding is kept once.",
  run(g) {
    const present = new Set(g.values());
    return map(g, (v) => {
      const outer = cast.of(v);
      const inner = outer && gather.of(outer.x);
      if (!inner) return v;
      const whole = cast(inner.table, outer.attrs);
      return present.has(whole) ? gather(whole, inner.index) : v;
    });
  },
});

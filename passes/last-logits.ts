import { minus } from "../ir/dim.ts";
import type { Value } from "../ir/graph.ts";
import { linear, quant_linear, residual_rms_norm, rms_norm, slice, softcap } from "../ir/ops/index.ts";
import { pass } from "./pass.ts";

export const lastLogits = pass("last-logits", {
  doc: "Scores for the last token only, [B,1,vocab]: the head and the final norm run on one row instead of T. That row stays as it was.",
  run(g) {
    const logits = g.outputs.logits;
    if (!logits) return g;
    const made = lastRow(logits);
    const origins = new Map(g.origins);
    for (let [was, now] = [logits, made]; was !== now && was.op === now.op; ) {
      const origin = g.origins.get(was);
      if (origin) origins.set(now, origin);
      const [a, b] = [was.inputs[0], now.inputs[0]];
      if (!a || !b) break;
      [was, now] = [a, b];
    }
    return g.with({ outputs: { ...g.outputs, logits: made }, origins });
  },
});

/** The last row of `v` [B,T,…], taken as early as rows do not mix. */
function lastRow(v: Value): Value {
  const product = linear.of(v);
  if (product) return linear(lastRow(product.x), product.w);
  const coded = quant_linear.of(v);
  if (coded) return quant_linear(lastRow(coded.x), coded.codes, coded.scale, coded.zero);
  const norm = rms_norm.of(v);
  if (norm) return rms_norm(lastRow(norm.x), norm.scale, norm.attrs);
  const capped = softcap.of(v);
  if (capped) return softcap(lastRow(capped.x), capped.attrs);
  const sum = residual_rms_norm.of(v);
  if (sum) return residual_rms_norm(lastRow(sum.a), lastRow(sum.b), sum.scale, sum.attrs);
  const T = v.type.at(1);
  return slice(v, { axis: 1, from: minus(T, 1), to: T });
}

import type { Graph, Value } from "../../ir/graph.ts";
import { add, attention, rope, softcap } from "../../ir/ops/index.ts";
import type { Gemma2Config } from "./config.ts";
import { Parts, type StoredAs, swapped } from "./parts.ts";

/**
 * Gemma 2 as the paper reads (arXiv:2408.00118): windows in every other layer, norms before and after each block,
 * bounded scores and logits. See `gemma` for inputs and outputs.
 */
export function gemma2(c: Gemma2Config, storedAs: StoredAs): Graph {
  const m = new Parts(c, storedAs);

  const attend = (x: Value, path: string, window: number) => {
    const heads = (name: string, n: number) => swapped(m.project(x, `${path}/${name}`, n));
    const q = m.named(`${path}/q_rope`, rope(heads("q_proj", c.heads), m.positions, c.rope));
    const k = m.named(`${path}/k_rope`, rope(heads("k_proj", c.kvHeads), m.positions, c.rope));
    const v = heads("v_proj", c.kvHeads);
    const seeing = { scale: c.queryScalar ** -0.5, softcap: c.attentionCap, window };
    return m.merge(attention(q, k, v, m.positions, m.positions, seeing), path);
  };

  let x = m.embed();
  for (const [i, type] of c.layerTypes.entries()) {
    const layer = `model/layers.${i}`;
    const window = type === "sliding" ? c.window : 0;
    const mixed = attend(m.norm(x, `${layer}/input_layernorm`), `${layer}/self_attn`, window);
    x = m.named(`${layer}/self_attn`, add(x, m.norm(mixed, `${layer}/post_attention_layernorm`)));
    const fed = m.feed(m.norm(x, `${layer}/pre_feedforward_layernorm`), `${layer}/mlp`);
    x = m.named(layer, add(x, m.norm(fed, `${layer}/post_feedforward_layernorm`)));
  }
  const logits = m.head(x);
  return m.graph(
    "gemma2",
    c.finalCap ? m.named("lm_head/softcap", softcap(logits, { cap: c.finalCap })) : logits,
  );
}

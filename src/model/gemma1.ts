import type { Graph, Value } from "../../ir/graph.ts";
import { add, attention, rope } from "../../ir/ops/index.ts";
import type { Gemma1Config } from "./config.ts";
import { Parts, type StoredAs, swapped } from "./parts.ts";

/** Gemma 1 as the paper reads (arXiv:2403.08295). See `gemma` for inputs and outputs. */
export function gemma1(c: Gemma1Config, storedAs: StoredAs): Graph {
  const m = new Parts(c, storedAs);

  const attend = (x: Value, path: string) => {
    const heads = (name: string, n: number) => swapped(m.project(x, `${path}/${name}`, n));
    const q = m.named(`${path}/q_rope`, rope(heads("q_proj", c.heads), m.positions, c.rope));
    const k = m.named(`${path}/k_rope`, rope(heads("k_proj", c.kvHeads), m.positions, c.rope));
    const v = heads("v_proj", c.kvHeads);
    return m.merge(attention(q, k, v, m.positions, m.positions, { scale: c.headDim ** -0.5 }), path);
  };

  let x = m.embed();
  for (let i = 0; i < c.layers; i++) {
    const layer = `model/layers.${i}`;
    const mixed = attend(m.norm(x, `${layer}/input_layernorm`), `${layer}/self_attn`);
    x = m.named(`${layer}/self_attn`, add(x, mixed));
    x = m.named(layer, add(x, m.feed(m.norm(x, `${layer}/post_attention_layernorm`), `${layer}/mlp`)));
  }
  return m.graph("gemma", m.head(x));
}

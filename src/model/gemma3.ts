import type { Graph, Value } from "../../ir/graph.ts";
import { add, attention, rope, softcap } from "../../ir/ops/index.ts";
import type { Gemma3Config, LayerType } from "./config.ts";
import { Parts, type StoredAs, swapped } from "./parts.ts";

/**
 * The language model of Gemma 3 as the paper reads (arXiv:2503.19786): norms on queries and keys in the place of
 * bounded scores, five sliding layers to a full one, a rope for each type of layer. See `gemma` for inputs and outputs.
 */
export function gemma3(c: Gemma3Config, storedAs: StoredAs): Graph {
  const m = new Parts(c, storedAs);
  const scale = c.queryScalar ** -0.5;
  const types = { full: { turn: c.rope, window: 0 }, sliding: { turn: c.localRope, window: c.window } };

  const attend = (x: Value, path: string, type: LayerType) => {
    const { turn, window } = types[type];
    const turned = (name: "q" | "k", n: number) => {
      const unit = m.norm(m.project(x, `${path}/${name}_proj`, n), `${path}/${name}_norm`);
      return m.named(`${path}/${name}_rope`, rope(swapped(unit), m.positions, turn));
    };
    const [q, k] = [turned("q", c.heads), turned("k", c.kvHeads)];
    const v = swapped(m.project(x, `${path}/v_proj`, c.kvHeads));
    return m.merge(attention(q, k, v, m.positions, m.positions, { scale, window }), path);
  };

  let x = m.embed();
  for (const [i, type] of c.layerTypes.entries()) {
    const layer = `model/layers.${i}`;
    const mixed = attend(m.norm(x, `${layer}/input_layernorm`), `${layer}/self_attn`, type);
    x = m.named(`${layer}/self_attn`, add(x, m.norm(mixed, `${layer}/post_attention_layernorm`)));
    const fed = m.feed(m.norm(x, `${layer}/pre_feedforward_layernorm`), `${layer}/mlp`);
    x = m.named(layer, add(x, m.norm(fed, `${layer}/post_feedforward_layernorm`)));
  }
  const logits = m.head(x);
  return m.graph(
    "gemma3",
    c.finalCap ? m.named("lm_head/softcap", softcap(logits, { cap: c.finalCap })) : logits,
  );
}

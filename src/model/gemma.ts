import { dim } from "../../ir/dim.ts";
import { Graph, type Value } from "../../ir/graph.ts";
import {
  add,
  attention,
  cast,
  gather,
  gelu,
  matmul,
  mean,
  mul,
  param,
  reshape,
  rope,
  rsqrt,
  transpose,
} from "../../ir/ops/index.ts";
import { type DType, tensor } from "../../ir/type.ts";
import type { GemmaConfig } from "./config.ts";

/** How the checkpoint stores a tensor; activations are f32 whatever it is. */
export type StoredAs = (name: string) => DType;

/**
 * Gemma 1 as the paper reads (arXiv 2403.08295): no cache, no fusion, no device; passes add those. Weights keep
 * the names, shapes and dtypes of the checkpoint.
 *
 * Inputs: `tokens` i32[B,T] and their `positions` i32[B,T]. Output: `logits` f32[B,T,vocab].
 */
export function gemma(c: GemmaConfig, storedAs: StoredAs = () => "bf16"): Graph {
  const [B, T] = [dim("B"), dim("T")];
  const tokens = param({ name: "tokens", type: tensor("i32", B, T) });
  const positions = param({ name: "positions", type: tensor("i32", B, T) });
  const origins = new Map<Value, string>();
  const named = (path: string, v: Value) => {
    if (!origins.has(v)) origins.set(v, path);
    return v;
  };

  const weight = (path: string, ...shape: number[]) => {
    const name = `${path}.weight`.replaceAll("/", ".");
    return param({ name, type: tensor(storedAs(name), ...shape) });
  };
  const f32 = (x: Value) => cast(x, { to: "f32" });

  const linear = (x: Value, path: string, out: number) =>
    named(path, matmul(x, transpose(f32(weight(path, out, x.fixed(-1))), { perm: [1, 0] })));

  /** Norm weights are stored around zero, so the scale is 1 + w. */
  const norm = (x: Value, path: string) => {
    const unit = mul(x, rsqrt(add(mean(mul(x, x)), c.eps)));
    return named(path, mul(unit, add(f32(weight(path, c.width)), 1)));
  };

  const split = (x: Value, heads: number) =>
    transpose(reshape(x, { shape: [B, T, heads, c.headDim] }), { perm: [0, 2, 1, 3] });
  const merge = (x: Value) =>
    reshape(transpose(x, { perm: [0, 2, 1, 3] }), { shape: [B, T, c.heads * c.headDim] });

  const attend = (x: Value, path: string) => {
    const project = (name: string, heads: number) =>
      split(linear(x, `${path}/${name}`, heads * c.headDim), heads);
    const q = named(`${path}/q_rope`, rope(project("q_proj", c.heads), positions, { theta: c.theta }));
    const k = named(`${path}/k_rope`, rope(project("k_proj", c.kvHeads), positions, { theta: c.theta }));
    const v = project("v_proj", c.kvHeads);
    const mixed = attention(q, k, v, positions, positions, { scale: c.headDim ** -0.5 });
    return linear(named(`${path}/attention`, merge(mixed)), `${path}/o_proj`, c.width);
  };

  const feed = (x: Value, path: string) => {
    const gate = gelu(linear(x, `${path}/gate_proj`, c.hidden));
    const up = linear(x, `${path}/up_proj`, c.hidden);
    return linear(named(`${path}/geglu`, mul(gate, up)), `${path}/down_proj`, c.width);
  };

  const embed = weight("model/embed_tokens", c.vocab, c.width);
  let x = named("model/embed_tokens", mul(f32(gather(embed, tokens)), Math.sqrt(c.width)));
  for (let i = 0; i < c.layers; i++) {
    const layer = `model/layers.${i}`;
    x = named(
      `${layer}/self_attn`,
      add(x, attend(norm(x, `${layer}/input_layernorm`), `${layer}/self_attn`)),
    );
    x = named(layer, add(x, feed(norm(x, `${layer}/post_attention_layernorm`), `${layer}/mlp`)));
  }
  const last = norm(x, "model/norm");
  const head = c.tied ? embed : weight("lm_head", c.vocab, c.width);
  const logits = named("lm_head", matmul(last, transpose(f32(head), { perm: [1, 0] })));
  return new Graph("gemma", { inputs: [tokens, positions], outputs: { logits }, origins });
}

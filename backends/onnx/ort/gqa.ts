import type { Value } from "../../../ir/graph.ts";
import { composite, float, int } from "../../../ir/op.ts";
import { attention, concat, param, reshape, rope, transpose } from "../../../ir/ops/index.ts";
import { any } from "../../../ir/pattern.ts";
import { map, pass } from "../../../passes/pass.ts";
import { rewrite, rule } from "../../../passes/rewrite.ts";

/** [B,T,heads·D] → [B,heads,T,D]. */
const split = (x: Value, heads: number): Value => {
  const [B, T] = [x.type.at(0), x.type.at(1)];
  return transpose(reshape(x, { shape: [B, T, heads, x.fixed(-1) / heads] }), { perm: [0, 2, 1, 3] });
};

/** How positions turn queries and keys. */
const turning = { theta: float(10_000), factor: float(1) };

export const present_key = composite("present_key", {
  doc: "The keys so far, joined by this step's, turned by their positions.",
  inputs: ["k", "past", "positions"],
  attrs: turning,
  example: [["f32[1,3,16]", "f32[1,2,5,8]", "i32[1,3]"]],
  decompose: ({ k, past, positions }, turn) =>
    concat(past, rope(split(k, past.fixed(1)), positions, turn), { axis: 2 }),
});

export const present_value = composite("present_value", {
  doc: "The values so far, joined by this step's.",
  inputs: ["v", "past"],
  example: [["f32[1,3,16]", "f32[1,2,5,8]"]],
  decompose: ({ v, past }) => concat(past, split(v, past.fixed(1)), { axis: 2 }),
});

export const group_query_attention = composite("group_query_attention", {
  doc: "Attention from projections to mixed heads, with rotation and cache: what ONNX Runtime's GroupQueryAttention computes.",
  inputs: ["q", "k", "v", "past_key", "past_value", "positions", "past_positions"],
  attrs: { heads: int(), scale: float(), window: int(0), softcap: float(0), ...turning },
  example: [
    ["f32[1,3,32]", "f32[1,3,16]", "f32[1,3,16]", "f32[1,2,5,8]", "f32[1,2,5,8]", "i32[1,3]", "i32[1,5]"],
    { heads: 4, scale: 0.35 },
  ],
  decompose: (
    { q, k, v, past_key, past_value, positions, past_positions },
    { heads, scale, window, softcap, ...turn },
  ) => {
    const queries = rope(split(q, heads), positions, turn);
    const keys = present_key(k, past_key, positions, turn);
    const values = present_value(v, past_value);
    const seen = concat(past_positions, positions);
    const mixed = attention(queries, keys, values, positions, seen, { scale, window, softcap });
    return reshape(transpose(mixed, { perm: [0, 2, 1, 3] }), { shape: q.shape });
  },
});

const projected = <N extends string>(name: N) => transpose(reshape(any(name)));
const mixed = attention(
  rope(projected("q"), any("positions")),
  present_key(any("k"), any("past_key"), any("positions")),
  present_value(any("v"), any("past_value")),
  any("positions"),
  concat(any("past_positions"), any("positions")),
);

const find = rewrite("find-gqa", {
  doc: "Rotation, cache and attention of one layer, and what it leaves in the caches.",
  rules: [
    rule("heads that come from no reshape", rope(transpose(any("heads")), any("positions")), (m, root) => {
      if (m.heads.op === reshape || m.heads.type.rank !== 4) return undefined;
      const [B, T, H, D] = [m.heads.type.at(0), m.heads.type.at(1), m.heads.fixed(2), m.heads.fixed(3)];
      const flat = reshape(m.heads, { shape: [B, T, H * D] });
      const turned = root.inputs[0] as Value;
      return rope(transpose(reshape(flat, { shape: m.heads.shape }), turned.attrs), m.positions, root.attrs);
    }),
    rule("the whole of it", reshape(transpose(mixed)), (m, root) => {
      const core = root.inputs[0]?.inputs[0] as Value;
      const { causal, ...seeing } = attention.of(core)?.attrs ?? {};
      const turn = core.inputs[0]?.attrs;
      const { q, k, v, past_key, past_value, positions, past_positions } = m;
      // The operator takes the past to be in order and without gaps, which a ring is not.
      if (past_positions.op !== param) return undefined;
      const made = group_query_attention(q, k, v, past_key, past_value, positions, past_positions, {
        heads: core.fixed(1),
        ...seeing,
        ...turn,
      });
      return made.op.decompose?.(made.inputs, made.attrs) === root ? made : undefined;
    }),
    rule(
      "keys",
      concat(any("past"), rope(projected("k"), any("positions"))),
      ({ past, k, positions }, root) => {
        const made = present_key(k, past, positions, (root.inputs[1] as Value).attrs);
        return made.op.decompose?.(made.inputs, made.attrs) === root ? made : undefined;
      },
    ),
    rule("values", concat(any("past"), projected("v")), ({ past, v }, root) => {
      if (past.type.rank !== 4) return undefined;
      const made = present_value(v, past);
      return made.op.decompose?.(made.inputs, made.attrs) === root ? made : undefined;
    }),
  ],
});

export const fuseGqa = pass("fuse-gqa", {
  doc: "Rotation, cache and attention of one layer → group_query_attention, present_key and present_value.",
  run(g) {
    const found = find().run(g);
    const made = new Set<Value>();
    for (const v of found.values()) {
      const a = group_query_attention.of(v);
      if (!a) continue;
      const { theta, factor } = a.attrs;
      made.add(present_key(a.k, a.past_key, a.positions, { theta, factor }));
      made.add(present_value(a.v, a.past_value));
    }
    // Caches are results of the one operator. Where a pass changed the attention, they are joined as they were.
    const alone = (v: Value) => (present_key.of(v) || present_value.of(v)) && !made.has(v);
    return map(found, (v, before) => (alone(before) && v.op.decompose?.(v.inputs, v.attrs)) || v);
  },
});

import { Graph, type Value } from "../../ir/graph.ts";
import {
  add,
  attention,
  cast,
  iota,
  linear,
  param,
  reshape,
  rms_norm,
  rope,
  transpose,
  update,
} from "../../ir/ops/index.ts";
import { tensor } from "../../ir/type.ts";
import { input, type KernelCase, norm, r, T, wholes, x } from "./kernel-case.ts";

export const positions = input("positions", "i32", 1, T);
const start = param({ name: "start", type: tensor("i32") });
const swap = (v: Value, heads: number) =>
  transpose(reshape(v, { shape: [1, T, heads, v.fixed(-1) / heads] }), { perm: [0, 2, 1, 3] });

interface Layer {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly window?: number;
  readonly softcap?: number;
  readonly norm?: boolean;
  /** Whether what comes in is a residual stream and a branch, normalised, that goes into it. */
  readonly branch?: boolean;
  readonly slots: number;
  readonly at: number;
  /** What the caches, empty at first, keep of each number. */
  readonly kept?: "f16" | "bf16";
}

/** Projections, caches and attention of one layer. */
function layer(l: Layer): KernelCase {
  const columns = 32;
  const branch = rms_norm(r(columns), param({ name: "branch", type: tensor("f32", columns) }));
  const stream = l.branch ? add(x(columns), branch) : x(columns);
  const v = norm(stream);
  const project = (name: string, heads: number) =>
    linear(v, param({ name, type: tensor("f32", heads * l.headDim, columns) }));
  const turned = (name: string, heads: number) => {
    const split = reshape(project(name, heads), { shape: [1, T, heads, l.headDim] });
    const unit = l.norm
      ? rms_norm(split, param({ name: `${name}.norm`, type: tensor("f32", l.headDim) }))
      : split;
    return rope(transpose(unit, { perm: [0, 2, 1, 3] }), positions, { theta: 500, factor: l.norm ? 8 : 1 });
  };
  const kept = l.kept ?? "f32";
  const past = (name: string) => param({ name, type: tensor(kept, 1, l.kvHeads, l.slots, l.headDim) });
  const [q, k, value] = [
    turned("q", l.heads),
    turned("k", l.kvHeads),
    swap(project("v", l.kvHeads), l.kvHeads),
  ];
  const keys = update(past("past.k"), cast(k, { to: kept }), start, { axis: 2 });
  const values = update(past("past.v"), cast(value, { to: kept }), start, { axis: 2 });
  const kpos = iota({ shape: [1, l.slots], dtype: "i32" });
  const seeing = { scale: 0.3, window: l.window ?? 0, softcap: l.softcap ?? 0 };
  const [seenKeys, seenValues] = [keys, values].map((v) => cast(v, { to: "f32" })) as [Value, Value];
  const mixed = attention(q, seenKeys, seenValues, positions, kpos, seeing);
  const y = reshape(transpose(mixed, { perm: [0, 2, 1, 3] }), { shape: [1, T, l.heads * l.headDim] });
  const inputs = [
    x(columns),
    ...(l.branch ? [r(columns)] : []),
    positions,
    start,
    past("past.k"),
    past("past.v"),
  ];
  const graph = new Graph("layer", {
    inputs,
    outputs: { y, ...(l.branch && { stream }), "next.k": keys, "next.v": values },
    aliases: { "next.k": "past.k", "next.v": "past.v" },
  });
  const { heads, kvHeads, headDim, at } = l;
  const how = [
    l.window && `window ${l.window}`,
    l.softcap && "softcap",
    l.norm && "head norms",
    l.branch && "after a branch",
    l.kept && `kept as ${l.kept}`,
  ].filter(Boolean);
  return {
    name: `layer of ${heads} heads over ${kvHeads} of ${headDim} from ${at}${how.map((h) => `, ${h}`).join("")}`,
    graph,
    tokens: [1, 5],
    values: {
      ...(l.kept && { "past.k": wholes(0, 0), "past.v": wholes(0, 0) }),
      start: () => Float64Array.of(at),
      positions: (shape) => Float64Array.from({ length: shape[1] as number }, (_, i) => at + i),
    },
  };
}

export const layers: KernelCase[] = [
  layer({ heads: 4, kvHeads: 1, headDim: 24, slots: 40, at: 0 }),
  layer({ heads: 4, kvHeads: 2, headDim: 8, slots: 70, at: 33 }),
  layer({ heads: 3, kvHeads: 3, headDim: 12, slots: 50, at: 40, window: 7, softcap: 2 }),
  layer({ heads: 4, kvHeads: 1, headDim: 16, slots: 20, at: 3, norm: true, branch: true }),
  layer({ heads: 4, kvHeads: 2, headDim: 12, slots: 20, at: 0, branch: true }),
  {
    ...layer({ heads: 4, kvHeads: 1, headDim: 24, slots: 40, at: 6 }),
    name: "layer whose projections no binding holds, not even the queries'",
    limit: 64 * 128,
  },
  layer({ heads: 4, kvHeads: 2, headDim: 24, slots: 20, at: 0, kept: "f16" }),
  layer({ heads: 2, kvHeads: 1, headDim: 8, slots: 9, at: 0, norm: true, window: 3, kept: "bf16" }),
];

import fc from "fast-check";
import { bindSizes } from "../../backends/kernel/plan/bind-sizes.ts";
import { minus } from "../../ir/dim.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import { registry } from "../../ir/op.ts";
import {
  add,
  attention,
  cast,
  constant,
  gather,
  geglu,
  gelu_erf,
  linear,
  mul,
  param,
  preparations,
  quant_gather,
  quant_linear,
  rms_norm,
  silu,
  slice,
  softcap,
} from "../../ir/ops/index.ts";
import { parseType, tensor } from "../../ir/type.ts";
import { roundFactors } from "../../passes/specialize/narrow.ts";
import { f32, graph, input, type KernelCase, norm, r, T, weight, wholes, x } from "./kernel-case.ts";
import { layers, positions } from "./kernel-layers.ts";
import { graphs, sizes } from "./random-graph.ts";

// What the kernels are tried on: sizes that fit nothing, every way to store a weight, everything that is fused.

/** A product by codes of one kind, and what its parts may hold. */
function coded(
  dtype: "i8" | "i4",
  block: number,
  zeros: boolean,
  rows: number,
  columns: number,
  name = "q",
  stored: "f32" | "f16" = "f32",
) {
  const codes = param({ name: `${name}.codes`, type: tensor(dtype, rows, columns) });
  const scale = cast(param({ name: `${name}.scale`, type: tensor(stored, rows, columns / block) }), {
    to: "f32",
  });
  const zero = zeros
    ? param({ name: `${name}.zero`, type: tensor(dtype, rows, columns / block) })
    : constant({ value: 0, dtype });
  const range = dtype === "i8" ? ([-127, 127] as const) : ([-8, 7] as const);
  const values = { [`${name}.codes`]: wholes(range[0], range[1]), [`${name}.zero`]: wholes(-3, 4) };
  return { codes, scale, zero, values, over: (v: Value) => quant_linear(v, codes, scale, zero) };
}

export const products: readonly KernelCase[] = [
  ...(["f32", "f16", "bf16"] as const).map((dtype) => ({
    name: `linear ${dtype} 24 to 1003`,
    graph: graph(linear(x(24), f32(weight(dtype, 1003, 24))), x(24)),
    tokens: [1, 5],
  })),
  ...(
    [
      ["i8", 32, false, "f32"],
      ["i8", 16, true, "f32"],
      ["i8", 96, false, "f32"],
      ["i4", 32, false, "f32"],
      ["i4", 16, true, "f32"],
      ["i4", 48, true, "f32"],
      ["i8", 32, false, "f16"],
      ["i8", 96, false, "f16"],
      ["i4", 16, true, "f16"],
    ] as const
  ).map(([dtype, block, zeros, scales]) => {
    const q = coded(dtype, block, zeros, 37, 96, "q", scales);
    return {
      name: `linear ${dtype} by ${block}${zeros ? " with zeros" : ""}${scales === "f16" ? ", scales in halves" : ""}`,
      graph: graph(q.over(x(96)), x(96)),
      tokens: [1, 3],
      values: q.values,
    };
  }),
  ...(
    [
      ["i8", 16, 208],
      ["i8", 192, 192],
      ["i4", 32, 224],
    ] as const
  ).map(([dtype, block, columns]) => {
    const [gate, up] = ["gate", "up"].map((name) => coded(dtype, block, false, 70, columns, name)) as [
      ReturnType<typeof coded>,
      ReturnType<typeof coded>,
    ];
    return {
      name: `gated ${dtype} by ${block} of ${columns} columns, over several tiles`,
      graph: graph(geglu(gate.over(x(columns)), up.over(x(columns))), x(columns)),
      tokens: [1, 67],
      values: { ...gate.values, ...up.values },
    };
  }),
  // Outside what halves hold, by far.
  ...[1e-7, 1e7].map((size) => ({
    name: `linear of vectors as large as ${size}`,
    graph: graph(linear(x(72), weight("f32", 10, 72)), x(72)),
    tokens: [5],
    values: {
      x: (shape: readonly number[]) => wholes(-50, 49)(shape).map((n) => (n / 50) * size),
      "w.f32.10x72": (shape: readonly number[]) => wholes(-9, 9)(shape).map((n) => n * (size < 1 ? 100 : 1)),
    },
  })),
  {
    name: "linear i8 with one scale a row that ends in the middle of 16 bytes",
    ...(() => {
      const q = coded("i8", 36, false, 5, 36);
      return { graph: graph(q.over(x(36)), x(36)), values: q.values };
    })(),
    tokens: [1, 2],
  },
  {
    name: "linear of 7 columns, which no fast kernel takes",
    graph: graph(linear(x(7), f32(weight("bf16", 5, 7))), x(7)),
    tokens: [1, 3],
  },
  {
    name: "norm, linear, residual",
    graph: graph(add(r(20), linear(norm(x(64)), f32(weight("bf16", 20, 64)))), x(64), r(20)),
    tokens: [1, 9],
  },
  ...(["bf16", "i8"] as const).map((dtype) => {
    const stream = add(r(48), norm(linear(x(20), weight("f32", 48, 20))));
    const unit = rms_norm(stream, param({ name: "next", type: tensor("f32", 48) }));
    const project = (name: string) => {
      if (dtype === "i8") return coded("i8", 16, false, 44, 48, name);
      const w = f32(param({ name, type: tensor("bf16", 44, 48) }));
      return { over: (v: Value) => linear(v, w), values: {} };
    };
    const [gate, up] = [project("gate"), project("up")];
    const down = linear(geglu(gate.over(unit), up.over(unit)), weight("f32", 48, 44));
    return {
      name: `a branch normed and added, then norm and geglu by ${dtype}`,
      graph: graph(add(stream, down), x(20), r(48)),
      tokens: [1, 3],
      values: { ...gate.values, ...up.values },
    };
  }),
  {
    name: "norm and geglu",
    graph: graph(
      geglu(
        linear(norm(x(48)), f32(weight("bf16", 40, 48))),
        linear(norm(x(48)), f32(param({ name: "up", type: tensor("bf16", 40, 48) }))),
      ),
      x(48),
    ),
    tokens: [1, 6],
  },
  ...[gelu_erf, silu].map((act) => ({
    name: `gate by ${act.name}`,
    graph: graph(
      mul(
        act(linear(x(48), weight("f32", 10, 48))),
        linear(x(48), param({ name: "up", type: tensor("f32", 10, 48) })),
      ),
      x(48),
    ),
    tokens: [1, 3],
  })),
  {
    name: "softcap of a product of the last row",
    graph: graph(
      softcap(
        linear(norm(slice(x(32), { axis: 1, from: minus(T, 1), to: T })), f32(weight("bf16", 50, 32))),
        {
          cap: 5,
        },
      ),
      x(32),
    ),
    tokens: [1, 4],
  },
  {
    name: "a matrix that no binding holds",
    ...(() => {
      const q = coded("i8", 32, false, 300, 64);
      const last = slice(x(64), { axis: 1, from: minus(T, 1), to: T });
      return { graph: graph(q.over(last), x(64)), values: q.values };
    })(),
    tokens: [1, 2],
    limit: 64 * 128,
  },
  {
    name: "a matrix that no binding holds, for each token",
    ...(() => {
      const q = coded("i8", 32, false, 300, 64);
      return { graph: graph(add(r(300), q.over(x(64))), x(64), r(300)), values: q.values };
    })(),
    tokens: [1, 5],
    limit: 64 * 128,
  },
  {
    name: "scales that no binding holds",
    ...(() => {
      const q = coded("i8", 4, false, 300, 64);
      return { graph: graph(q.over(x(64)), x(64)), values: q.values };
    })(),
    tokens: [1, 2],
    limit: 64 * 128,
  },
  {
    name: "a matrix that no binding holds, with scales in halves",
    ...(() => {
      const q = coded("i8", 32, false, 300, 96, "q", "f16");
      return { graph: graph(q.over(x(96)), x(96)), values: q.values };
    })(),
    tokens: [1, 2],
    limit: 64 * 192,
  },
  {
    name: "a gated product of matrices that no binding holds",
    graph: graph(
      geglu(
        linear(x(48), f32(weight("bf16", 200, 48))),
        linear(x(48), f32(param({ name: "up", type: tensor("bf16", 200, 48) }))),
      ),
      x(48),
    ),
    tokens: [1, 6],
    limit: 64 * 128,
  },
];

const ids = input("tokens", "i32", 1, T);
const someIds = { tokens: (shape: readonly number[]) => wholes(0, 40)(shape) };
const tables: KernelCase[] = [
  {
    name: "rows of a table, scaled",
    graph: graph(mul(f32(gather(weight("bf16", 41, 20), ids)), 4.5), ids),
    tokens: [1, 5],
    values: someIds,
  },
  ...(["f32", "f16"] as const).map((scales) => {
    const dtype = scales === "f32" ? "i8" : "i4";
    const q = coded(dtype, 32, false, 41, 64, "q", scales);
    return {
      name: `rows of a table of ${dtype}, scales in ${scales}`,
      graph: graph(quant_gather(q.codes, q.scale, q.zero, ids), ids),
      tokens: [1, 5],
      values: { ...q.values, ...someIds },
    };
  }),
  {
    name: "rows of a table in pieces",
    graph: graph(gather(weight("f32", 200, 8), ids), ids),
    tokens: [1, 5],
    values: { tokens: wholes(0, 199) },
    limit: 64 * 32,
  },
];

const norms: KernelCase[] = [
  { name: "norm of odd rows", graph: graph(norm(x(37)), x(37)), tokens: [1, 3] },
  {
    name: "norm of a product, then a residual",
    graph: graph(add(r(24), norm(linear(x(16), weight("f32", 24, 16)))), x(16), r(24)),
    tokens: [1, 3],
  },
];

/** Attention as it stands alone. */
const alone: KernelCase[] = [
  {
    name: "attention of fresh keys without a mask",
    graph: (() => {
      const [q, k, v] = ["q", "k", "v"].map((n, i) => input(n, "f32", 1, i ? 2 : 4, T, 8)) as [
        Value,
        Value,
        Value,
      ];
      return graph(
        attention(q, k, v, positions, positions, { scale: 0.3, causal: false }),
        q,
        k,
        v,
        positions,
      );
    })(),
    tokens: [1, 7],
    values: { positions: (shape) => Float64Array.from({ length: shape[1] as number }, (_, i) => i) },
  },
];

/** Each op on its own: the generic kernels take what no hand-written one does. */
const ops: KernelCase[] = [...registry.values()]
  .filter((op) => op !== param && !Object.hasOwn(preparations, op.name))
  .map((op) => {
    const [types, attrs = {}] = op.example;
    const operands = types.map((t, i) => param({ name: `x${i}`, type: parseType(t) }));
    const v = (op as unknown as (...args: unknown[]) => Value)(...operands, attrs);
    const inputs = operands.filter((x) => x.dtype !== "i8" && x.dtype !== "i4");
    return { name: `op ${op.name}`, graph: graph(cast(v, { to: "f32" }), ...inputs), tokens: [3] };
  });

/** Whether `g` holds for one token too: a slice of three tokens does not, and a plan is made for both. */
const alsoOne = (g: Graph): boolean => {
  try {
    bindSizes(g, { ...sizes, T: 1 });
    return true;
  } catch {
    return false;
  }
};

/** Graphs at random: whatever passes make of a model must run. */
const random = fc.sample(graphs.filter(alsoOne), { seed: 1, numRuns: 40 });
export const anything: readonly KernelCase[] = random.map((g, i) => {
  const inputs = [...g.inputs, ...g.weights()];
  return {
    name: `random graph ${i}`,
    graph: g.with({ inputs, aliases: {} }),
    tokens: [sizes.T],
    batch: sizes.B,
  };
});

/**
 * Products large enough for several tiles of tensor cores each way, and for groups that have few rows and many: of x as it is,
 * and of two matrices, gated, with x rounded to bf16.
 */
export const tensorProducts: readonly KernelCase[] = (
  [
    ["bf16", 0, 140, 172, 130],
    ["i8", 272, 140, 272, 9],
    ["i8", 32, 140, 288, 9],
    ["i8", 64, 76, 192, 9],
    ["i4", 320, 76, 320, 9],
    ["i4", 32, 140, 288, 9],
    ["i4", 128, 76, 256, 3],
    ["bf16", 0, 8452, 44, 3],
    ["i8", 80, 8452, 80, 3],
    ["i8", 16, 70, 48, 3],
  ] as const
).flatMap(([dtype, block, rows, columns, tokens]) => {
  const make = (name: string, rows: number) => {
    if (dtype !== "bf16") return coded(dtype, block, false, rows, columns, name);
    const w = f32(param({ name, type: tensor("bf16", rows, columns) }));
    return { over: (v: Value) => linear(v, w), values: {} };
  };
  const [whole, gate, up] = [make("w", rows), make("gate", rows / 2), make("up", rows / 2)];
  const name = `${dtype}${block ? ` by ${block}` : ""}, ${columns} to ${rows}`;
  const gated = graph(geglu(gate.over(x(columns)), up.over(x(columns))), x(columns));
  const added = r(rows);
  return [
    {
      name: `tensor ${name}`,
      graph: graph(add(added, whole.over(x(columns))), x(columns), added),
      tokens: [tokens],
      values: whole.values,
    },
    {
      name: `tensor gated ${name}`,
      graph: roundFactors().run(gated),
      tokens: [tokens],
      values: { ...gate.values, ...up.values },
    },
  ];
});

/** What goes from kernel to kernel in the bf16 of tensor cores, and what has another reader too. */
export const tensorLayers: readonly KernelCase[] = [false, true].flatMap((shared) =>
  (["bf16", "i8"] as const).map((dtype) => {
    const project = (name: string, rows: number, columns: number) => {
      if (dtype === "i8") return coded("i8", 32, false, rows, columns, name);
      const w = f32(param({ name, type: tensor("bf16", rows, columns) }));
      return { over: (v: Value) => linear(v, w), values: {} };
    };
    const [gate, up, down] = [project("gate", 192, 64), project("up", 192, 64), project("down", 64, 192)];
    const stream = x(64);
    const unit = norm(stream);
    const inner = geglu(gate.over(unit), up.over(unit));
    const out = add(stream, down.over(inner));
    return {
      name: `tensor layer of ${dtype}${shared ? ", its parts read by others too" : ""}`,
      graph: graph(shared ? add(out, add(unit, slice(inner, { axis: 2, from: 0, to: 64 }))) : out, stream),
      tokens: [9, 130],
      values: { ...gate.values, ...up.values, ...down.values },
    };
  }),
);

export const cases: readonly KernelCase[] = [...products, ...tables, ...norms, ...layers, ...alone, ...ops];

import { times } from "../../ir/dim.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import {
  block_scale,
  concat,
  constant,
  dequantize,
  linear,
  quant_linear,
  quantize,
  reshape,
  slice,
} from "../../ir/ops/index.ts";
import { fuseLinear } from "../../passes/fusion/fuse.ts";
import { rebuilt } from "../../passes/pass.ts";

/** A product by codes, by its origin; what it multiplies, by its origin if it has one; and how many codes share a scale. */
export interface CodedProduct {
  readonly product: string;
  readonly factor?: string;
  readonly block: number;
}

/** The products by codes of `g` among these origins. */
export function codedProducts(g: Graph, origins: readonly string[]): CodedProduct[] {
  const named = new Set(origins);
  return [...g.origins].flatMap(([v, product]) => {
    const found = quant_linear.of(v);
    if (!found || !named.has(product)) return [];
    const factor = g.origins.get(found.x) ?? "";
    const block = found.codes.fixed(1) / found.scale.fixed(1);
    return [{ product, block, ...(named.has(factor) && found.x.type.rank === 3 && { factor }) }];
  });
}

/** The origin of a value with its factor, or itself, rounded. */
export const roundedOrigin = (origin: string): string => `${origin}/rounded`;

/**
 * `g`, which also multiplies each of `products` with its factor rounded to 8 bits in blocks. A kernel that rounds in the same
 * blocks leaves that factor as it is, so what it makes of it is held to f32. Both are one product of twice the rows, as its
 * matrix is then read once.
 */
export function withRounded(g: Graph, products: readonly CodedProduct[]): Graph {
  const fused = fuseLinear().run(g);
  const wanted = new Map(products.map((p) => [p.product, p]));
  const added = new Map<string, Value>();
  const done = new Map<Value, Value>();
  const final = (v: Value) => done.get(v) as Value;
  for (const v of fused.values()) {
    const now = rebuilt(v, v.inputs.map(final));
    const found = wanted.get(fused.origins.get(v) ?? "");
    const [x, ...weight] = now.inputs;
    const isProduct = linear.of(now) ?? quant_linear.of(now);
    const isFactor = fused.origins.get(v.inputs[0] as Value) === found?.factor;
    if (!found?.factor || !isFactor || !isProduct || !x) {
      done.set(v, now);
      continue;
    }
    const [texts, both] = [x.type.at(0), times(2, x.type.at(0))];
    const factor = added.get(roundedOrigin(found.factor)) ?? roundedTo8(x, found.block);
    const all = rebuilt(now, [concat(x, factor, { axis: 0 }), ...weight]);
    done.set(v, slice(all, { axis: 0, from: 0, to: texts }));
    added.set(roundedOrigin(found.factor), factor);
    added.set(roundedOrigin(found.product), slice(all, { axis: 0, from: texts, to: both }));
  }
  const outputs = Object.entries(fused.outputs).map(([name, v]) => [name, final(v)] as const);
  const origins = [...fused.origins].map(([v, origin]) => [final(v), origin] as const);
  return fused.with({
    outputs: Object.fromEntries([...outputs, ...added]),
    origins: new Map([...origins, ...[...added].map(([origin, v]) => [v, origin] as const)]),
  });
}

/** The numbers that codes of 8 bits for blocks of each row stand for. */
function roundedTo8(x: Value, block: number): Value {
  const rows = reshape(x, { shape: [times(x.type.at(0), x.type.at(1)), x.fixed(2)] });
  const [scale, zero] = [block_scale(rows, { to: "i8", block }), constant({ value: 0, dtype: "i8" })];
  return reshape(dequantize(quantize(rows, scale, zero, { to: "i8" }), scale, zero), { shape: x.shape });
}

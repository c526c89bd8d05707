import type { Graph, Value } from "../ir/graph.ts";
import { int, oneOf } from "../ir/op.ts";
import {
  block_scale,
  block_scale_search,
  block_zero,
  cast,
  constant,
  dequantize,
  gather,
  ggml_codes,
  ggml_dequantize,
  linear,
  param,
  quant_gather,
  quant_linear,
  quantize as toCodes,
} from "../ir/ops/index.ts";
import { type DType, tensor } from "../ir/type.ts";
import { map, pass } from "./pass.ts";
import { raise, rewrite } from "./rewrite.ts";

const schemes = ["int8", "int4", "none"] as const;
type Scheme = (typeof schemes)[number];
const policy = () => oneOf("default", ...schemes);

export const quantize = pass("quantize", {
  doc:
    "Matrices become whole numbers with a scale for each block of a row (block=0: one for the row; a block is halved " +
    "until it divides the row). embed, head, attention and mlp may each have a scheme of their own; norms stay as they " +
    "are. range=middle adds a zero point for each block; method=search loses less, counting by the importance of " +
    "columns that a calibration run measures. scales=f16 stores scales in half the bytes, which moves no weight by more " +
    "than a 30th of a code.",
  law: "free",
  options: {
    scheme: oneOf("int8", "int4"),
    block: int(32),
    range: oneOf("zero", "middle"),
    method: oneOf("nearest", "search"),
    scales: oneOf("f32", "f16"),
    embed: policy(),
    head: policy(),
    attention: policy(),
    mlp: policy(),
  },
  run(g, o) {
    if (![0, 16, 32, 64, 128, 256].includes(o.block))
      throw new TypeError(`block is ${o.block}; give 0, 16, 32, 64, 128 or 256`);
    if (o.range === "middle" && o.method === "search")
      throw new TypeError("method=search goes with range=zero only");
    const inputs = new Set(g.inputs);
    const done = new Map<Value, Value>();

    const quantized = (w: Value, product: Value | undefined): Value | undefined => {
      const { source, x, codes } = stored(w);
      if (source.op !== param || inputs.has(source) || w.type.rank !== 2) return undefined;
      const known = done.get(source);
      if (known) return known;
      const name = String(source.attrs.name);
      const own = o[kindOf(name)];
      const scheme: Scheme = own === "default" ? o.scheme : own;
      if (scheme === "none") return undefined;
      const to = scheme === "int8" ? "i8" : "i4";
      // What is stored in codes as narrow would only lose by new ones.
      if (codes === "i4" || codes === to) return undefined;
      // A table that is looked up gets no zero points: its rows are not columns of a product.
      const middle = o.range === "middle" && kindOf(name) !== "embed";
      const block = fitting(o.block, x.fixed(1), middle && to === "i4");
      const made = encode(x, {
        to,
        block,
        middle,
        scales: o.scales,
        importance: o.method === "search" ? importanceOf(name, product) : undefined,
      });
      done.set(source, made);
      return made;
    };
    // A tied table is met first as a look-up; its importance is that of the head's product.
    const products = new Map<Value, Value>();
    for (const v of g.values()) {
      const product = linear.of(v);
      if (product) products.set(stored(product.w).source, product.x);
    }
    return map(g, (v, before) => {
      const product = linear.of(v);
      if (product) {
        const w = quantized(product.w, linear.of(before)?.x);
        return w ? linear(product.x, w) : v;
      }
      // Rows of a table in a narrow float need no trip through it: they come as f32 now.
      const widened = cast.of(v);
      const narrowed = widened && cast.of(widened.x);
      if (narrowed && gather.of(narrowed.x) && narrowed.x.dtype === v.dtype) return narrowed.x;
      const look = gather.of(v);
      const table = look && quantized(look.table, products.get(stored(look.table).source));
      return look && table ? cast(gather(table, look.index), { to: v.dtype }) : v;
    });
  },
});

export const fuseQuant = rewrite("fuse-quant", {
  doc: "linear(x, dequantize(…)) → quant_linear(x, …); gather(dequantize(…), i) → quant_gather(…, i).",
  rules: [raise(quant_linear), raise(quant_gather)],
});

/** The stored matrix that `w` is read from, what it is in f32, and the codes that it is kept in, if it is. */
function stored(w: Value): { source: Value; x: Value; codes?: DType } {
  const kept = dequantize.of(w);
  const blocks = kept ? ggml_codes.of(kept.codes) : ggml_dequantize.of(w);
  if (blocks) {
    const x = ggml_dequantize(blocks.blocks, blocks.attrs);
    return { source: blocks.blocks, x, ...(kept && { codes: kept.codes.dtype }) };
  }
  const source = w.op === cast ? (w.inputs[0] as Value) : w;
  return { source, x: cast(source, { to: "f32" }) };
}

function kindOf(name: string): "embed" | "head" | "attention" | "mlp" {
  if (name.includes("embed_tokens")) return "embed";
  if (name.includes("lm_head")) return "head";
  return name.includes("attn") ? "attention" : "mlp";
}

/** Mean squares of the columns of what a weight is multiplied with; a calibration run supplies the bytes. */
export const importanceName = (weight: string): string => `importance.${weight}`;

function importanceOf(name: string, product: Value | undefined): Value | undefined {
  if (!product) return undefined;
  return param({ name: importanceName(name), type: tensor("f32", product.fixed(-1)) });
}

/** Halves `block` until it divides the row, and twice over where zero points are packed in pairs. */
function fitting(block: number, columns: number, pairs: boolean): number {
  let fit = block || columns;
  while (fit > 1 && (columns % fit !== 0 || (pairs && (columns / fit) % 2 !== 0))) fit /= 2;
  if (!Number.isInteger(fit) || fit < 16)
    throw new TypeError(`no block of at least 16 divides ${columns} columns`);
  return fit;
}

interface Encoding {
  readonly to: "i8" | "i4";
  readonly block: number;
  readonly middle: boolean;
  readonly scales: "f32" | "f16";
  readonly importance: Value | undefined;
}

function encode(x: Value, { to, block, middle, scales, importance }: Encoding): Value {
  const scale = importance
    ? block_scale_search(x, importance, { to, block })
    : block_scale(x, { to, block, around: middle ? "middle" : "zero" });
  const zero = middle ? block_zero(x, scale, { to, block }) : constant({ value: 0, dtype: to });
  // A half is off by 2^-12 of it at most: a code by 127 · 2^-12, so codes are the same as for the scale itself.
  const stored = scales === "f16" ? cast(cast(scale, { to: "f16" }), { to: "f32" }) : scale;
  return dequantize(toCodes(x, scale, zero, { to }), stored, zero);
}

/** Every weight that `quantize{method=search}` wants measured, with the value that is multiplied with it. */
export function calibrated(g: Graph): ReadonlyMap<string, Value> {
  const wanted = new Map<string, Value>();
  for (const v of g.values()) {
    const product = linear.of(v);
    const source = product && stored(product.w).source;
    if (product && source?.op === param) wanted.set(importanceName(String(source.attrs.name)), product.x);
  }
  return wanted;
}

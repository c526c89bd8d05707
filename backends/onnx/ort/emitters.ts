import type { Graph, Value } from "../../../ir/graph.ts";
import {
  add,
  constant,
  quant_gather,
  quant_linear,
  residual_rms_norm,
  rms_norm,
} from "../../../ir/ops/index.ts";
import { type Emit, type Emitters, operands } from "../../backend.ts";
import type { Builder } from "../builder.ts";
import { type Profile, unsigned } from "../emit.ts";
import { emitters as standard } from "../emitters.ts";
import { sequenceLengths } from "../interface.ts";
import { group_query_attention, present_key, present_value } from "./gqa.ts";

/** The operators of ONNX Runtime itself, where it has a faster one than the standard's. */
const emitters = {
  ...standard,

  rms_norm: (b, v) => {
    const { x, scale, attrs } = operands(rms_norm, v);
    return b.result(v, "SimplifiedLayerNormalization", [b.name(x), b.name(scale)], norm(attrs.eps));
  },
  /** Gives the sum as well, which the next residual connection reads. */
  residual_rms_norm: (b, v) => {
    const { a, b: other, scale, attrs } = operands(residual_rms_norm, v);
    const sum = add(a, other);
    const outputs = [v, undefined, undefined, b.values.has(sum) ? sum : undefined];
    b.several(v, "SkipSimplifiedLayerNormalization", [b.name(a), b.name(other), b.name(scale)], outputs, {
      epsilon: { float: attrs.eps },
    });
    return b.name(v);
  },
  /** Comes from the norm that follows, where there is one. */
  add: (b, v) => {
    const norm = [...b.values].find(
      (n) => residual_rms_norm.of(n) && add(n.inputs[0] as Value, n.inputs[1] as Value) === v,
    );
    if (!norm) return standard.add(b, v);
    b.names.set(norm, emitters.residual_rms_norm(b, norm));
    return b.name(v);
  },

  quant_linear: (b, v) => {
    const { x, codes, scale, zero } = operands(quant_linear, v);
    const [N, K] = [codes.fixed(0), codes.fixed(1)];
    const inputs = [b.name(x), b.name(codes), b.name(scale), ...zeros(b, zero)];
    const shape = { K, N, bits: bits(codes), block_size: K / scale.fixed(1) };
    // Level 4 multiplies in 8-bit integers: the level that is fast, and the only one at 8 bits.
    return b.result(v, "MatMulNBits", inputs, { ...shape, accuracy_level: 4 });
  },
  /** Reads the same three-dimensional codes as MatMulNBits, so that a tied table is loaded once. */
  quant_gather: (b, v) => {
    const { codes, scale, zero, index } = operands(quant_gather, v);
    const [rows, blocks] = [scale.fixed(0), scale.fixed(1)];
    const scales = b.step(v, "Reshape", [b.name(scale), b.ints([rows, blocks, 1])]);
    if (!isZero(zero)) throw new TypeError("a table is quantized around zero only");
    const attributes = {
      bits: bits(codes),
      block_size: codes.fixed(1) / blocks,
      gather_axis: 0,
      quantize_axis: 2,
    };
    const found = b.step(v, "GatherBlockQuantized", [b.name(codes), b.name(index), scales], attributes);
    return b.result(v, "Reshape", [found, b.shape(index, v.shape)]);
  },

  group_query_attention: (b, v) => {
    const { q, k, v: values, past_key, past_value, positions, attrs } = operands(group_query_attention, v);
    const { heads, scale, window, softcap, theta, factor } = attrs;
    const D = past_key.fixed(3);
    const turns = (f: (angle: number) => number) => {
      const frequencies = Float32Array.from({ length: D / 2 }, (_, k) =>
        Math.fround(Math.fround(1 / theta ** ((2 * k) / D)) / factor),
      );
      // Millions of numbers, for which a plain loop is several times as fast as Float32Array.from.
      const out = new Float32Array(b.context * frequencies.length);
      for (let position = 0, at = 0; position < b.context; position++)
        for (const frequency of frequencies) out[at++] = f(Math.fround(position * frequency));
      return out;
    };
    const stretched = factor === 1 ? "" : `.${factor}`;
    const table = (name: string, f: (angle: number) => number) =>
      b.table(`rope.${theta}${stretched}.${name}`, [b.context, D / 2], () => turns(f));
    const inputs = [q, k, values, past_key, past_value].map((x) => b.name(x));
    inputs.push(...sequenceLengths(b), table("cos", Math.cos), table("sin", Math.sin));
    const turn = { theta, factor };
    const companions = [present_key(k, past_key, positions, turn), present_value(values, past_value)];
    b.several(v, "GroupQueryAttention", inputs, [v, ...companions], {
      num_heads: heads,
      kv_num_heads: past_key.fixed(1),
      scale: { float: scale },
      do_rotary: 1,
      rotary_interleaved: 0,
      ...(window > 0 && { local_window_size: window }),
      ...(softcap !== 0 && { softcap: { float: softcap } }),
    });
    return b.name(v);
  },
  present_key: companion,
  present_value: companion,
} as const satisfies Emitters<Builder> & Readonly<Record<string, Emit<Builder>>>;

function companion(_: Builder, v: Value): never {
  throw new Error(`${v.op.name} : ${v.type} comes out of an attention that this graph does not have`);
}

const norm = (eps: number) => ({ axis: -1, epsilon: { float: eps }, stash_type: 1 });
const isZero = (zero: Value) => zero.op === constant && zero.attrs.value === 0;
const zeros = (b: Builder, zero: Value): string[] => (isZero(zero) ? [] : [b.name(zero)]);
const bits = (codes: Value): 4 | 8 => (codes.dtype === "i4" ? 4 : 8);

/** Codes in blocks, [rows, blocks, bytes], and zeros to match. */
function layout(w: Value, graph: Graph): ReturnType<typeof unsigned> | undefined {
  if (w.dtype !== "i4" && w.dtype !== "i8") return undefined;
  const user = graph.values().find((v) => v.inputs.includes(w));
  const scale = user && (quant_linear.of(user) ?? quant_gather.of(user))?.scale;
  if (!scale) return undefined;
  const bytes = (w.fixed(1) * bits(w)) / 8;
  const blocks = scale.fixed(1);
  return unsigned(w, w.shape[1] === blocks ? [w.fixed(0), bytes] : [w.fixed(0), blocks, bytes / blocks]);
}

/** Block sizes that the runtime's kernels take. */
const blockSizes = new Set([16, 32, 64, 128, 256]);

export const contrib: Profile & { refuses(v: Value): string | undefined } = {
  emitters,
  layout,
  refuses: (v) => {
    const coded = quant_linear.of(v) ?? quant_gather.of(v);
    const block = coded && coded.codes.fixed(1) / coded.scale.fixed(1);
    return block !== undefined && !blockSizes.has(block)
      ? `blocks of ${block} are not among ${[...blockSizes].join(", ")}`
      : undefined;
  },
};

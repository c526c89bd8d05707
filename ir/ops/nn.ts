import type { Value } from "../graph.ts";
import { bool, composite, float, int } from "../op.ts";
import { matmul, max, mean, sum } from "./contract.ts";
import { iota } from "./leaf.ts";
import {
  add,
  cos,
  div,
  erf,
  exp,
  less_equal,
  maximum,
  mul,
  pow,
  rsqrt,
  select,
  sin,
  sub,
  tanh,
} from "./math.ts";
import { dequantize } from "./quant.ts";
import { cast, concat, gather, reshape, slice, transpose } from "./shape.ts";

export const linear = composite("linear", {
  doc: "x·wᵀ: each row of w makes one output feature, as checkpoints store it.",
  inputs: ["x", "w"],
  example: [["f32[2,3]", "f32[4,3]"]],
  decompose: ({ x, w }) => matmul(x, transpose(w, { perm: [1, 0] })),
});

export const quant_linear = composite("quant_linear", {
  doc: "linear by a quantized weight: x·wᵀ for w = dequantize(codes, scale, zero).",
  inputs: ["x", "codes", "scale", "zero"],
  example: [["f32[3,64]", "i8[2,64]", "f32[2,2]", "i8[2,2]"]],
  decompose: ({ x, codes, scale, zero }) => linear(x, dequantize(codes, scale, zero)),
});

export const quant_gather = composite("quant_gather", {
  doc: "Rows of a quantized table.",
  inputs: ["codes", "scale", "zero", "index"],
  example: [["i8[5,64]", "f32[5,2]", "i8[5,2]", "i32[3]"]],
  decompose: ({ codes, scale, zero, index }) => gather(dequantize(codes, scale, zero), index),
});

export const row_scale = composite("row_scale", {
  doc: "The scale of each row's 8-bit codes: its largest magnitude over 127.",
  inputs: ["x"],
  example: [["f32[2,8]"]],
  decompose: ({ x }) => {
    const h = cast(x, { to: "f32" });
    // Never 0, so that a row of zeros has codes too.
    return mul(maximum(max(maximum(h, sub(0, h))), 1e-30), 1 / 127);
  },
});

export const row_codes = composite("row_codes", {
  doc: "x over its row's scale as the nearest whole numbers, -127 to 127; halves go up.",
  inputs: ["x", "scale"],
  example: [["f32[2,8]", "f32[2,1]"]],
  decompose: ({ x, scale }) => {
    // A cast goes towards zero, and so down once nothing is negative.
    const above = cast(add(div(cast(x, { to: "f32" }), scale), 128.5), { to: "i32" });
    return cast(sub(above, 128), { to: "i8" });
  },
});

export const decode_rows = composite("decode_rows", {
  doc: "What row_codes stand for: each times its row's scale.",
  inputs: ["codes", "scale"],
  example: [["i8[2,8]", "f32[2,1]"]],
  decompose: ({ codes, scale }) => mul(cast(codes, { to: "f32" }), scale),
});

export const rms_norm = composite("rms_norm", {
  doc: "Divide each row by its root mean square, in f32, then multiply by `scale` (Zhang & Sennrich 2019).",
  inputs: ["x", "scale"],
  attrs: { eps: float(1e-6) },
  example: [["f32[2,8]", "f32[8]"]],
  decompose: ({ x, scale }, { eps }) => {
    const h = cast(x, { to: "f32" });
    const unit = mul(h, rsqrt(add(mean(mul(h, h)), eps)));
    return cast(mul(unit, scale), { to: x.dtype });
  },
});

export const residual_rms_norm = composite("residual_rms_norm", {
  doc: "rms_norm(a + b): the norm that follows a residual connection.",
  inputs: ["a", "b", "scale"],
  attrs: { eps: float(1e-6) },
  example: [["f32[2,8]", "f32[2,8]", "f32[8]"]],
  decompose: ({ a, b, scale }, { eps }) => rms_norm(add(a, b), scale, { eps }),
});

export const softmax = composite("softmax", {
  doc: "exp(x), normalised over the last axis.",
  inputs: ["x"],
  example: [["f32[2,3]"]],
  decompose: ({ x }) => {
    const e = exp(sub(x, max(x)));
    return div(e, sum(e));
  },
});

export const gelu = composite("gelu", {
  doc: "Gaussian error linear unit, tanh form (Hendrycks & Gimpel 2016).",
  inputs: ["x"],
  example: [["f32[2,3]"]],
  decompose: ({ x }) => {
    const cubic = add(x, mul(mul(mul(x, x), x), 0.044715));
    return mul(mul(x, 0.5), add(tanh(mul(cubic, Math.sqrt(2 / Math.PI))), 1));
  },
});

export const gelu_erf = composite("gelu_erf", {
  doc: "Gaussian error linear unit as first defined, x·Φ(x) (Hendrycks & Gimpel 2016).",
  inputs: ["x"],
  example: [["f32[2,3]"]],
  decompose: ({ x }) => mul(mul(x, 0.5), add(erf(mul(x, Math.SQRT1_2)), 1)),
});

export const silu = composite("silu", {
  doc: "Sigmoid linear unit, x / (1 + exp(-x)) (Elfwing et al. 2017).",
  inputs: ["x"],
  example: [["f32[2,3]"]],
  decompose: ({ x }) => div(x, add(exp(sub(0, x)), 1)),
});

export const softcap = composite("softcap", {
  doc: "cap·tanh(x/cap): x where it is small, never past ±cap (Gemma 2, arXiv:2408.00118).",
  inputs: ["x"],
  attrs: { cap: float() },
  example: [["f32[2,3]"], { cap: 30 }],
  decompose: ({ x }, { cap }) => mul(tanh(div(x, cap)), cap),
});

export const geglu = composite("geglu", {
  doc: "gelu(gate)·up (Shazeer 2020).",
  inputs: ["gate", "up"],
  example: [["f32[2,3]", "f32[2,3]"]],
  decompose: ({ gate, up }) => mul(gelu(gate), up),
});

export const rope = composite("rope", {
  doc:
    "Rotate the two halves of each head of x [B,H,T,D] by position · theta^(-2i/D) / factor, positions [B,T] " +
    "(Su et al. 2021; the factor stretches the context linearly, Chen et al. 2023).",
  inputs: ["x", "positions"],
  attrs: { theta: float(10_000), factor: float(1) },
  example: [["f32[1,2,3,4]", "i32[1,3]"]],
  decompose: ({ x, positions }, { theta, factor }) => {
    const half = x.fixed(-1) / 2;
    const [B, T] = [positions.type.at(0), positions.type.at(1)];
    const base = div(1, pow(theta, div(iota({ shape: [half], dtype: "f32" }), half)));
    const frequency = factor === 1 ? base : div(base, factor);
    const angle = mul(cast(reshape(positions, { shape: [B, 1, T, 1] }), { to: "f32" }), frequency);
    const h = cast(x, { to: "f32" });
    const a = slice(h, { axis: -1, from: 0, to: half });
    const b = slice(h, { axis: -1, from: half, to: 2 * half });
    const turned = concat(
      sub(mul(a, cos(angle)), mul(b, sin(angle))),
      add(mul(b, cos(angle)), mul(a, sin(angle))),
    );
    return cast(turned, { to: x.dtype });
  },
});

/** What a hidden slot's score becomes: exp of it is exactly zero next to any visible score. */
const hidden = -1e30;

export const attention = composite("attention", {
  doc:
    "softmax(q·kᵀ·scale)·v for q [B,H,T,D], k and v [B,G,S,D]; query head h reads key head ⌊h·G/H⌋. " +
    "Causal hides slots whose kpos [B,S] is later than the query's qpos [B,T], a window those that lie `window` or " +
    "more before it. A softcap bounds the scores before they are hidden. 0 stands for no window and no cap.",
  inputs: ["q", "k", "v", "qpos", "kpos"],
  attrs: { scale: float(), causal: bool(true), window: int(0), softcap: float(0) },
  example: [["f32[1,4,3,8]", "f32[1,2,5,8]", "f32[1,2,5,8]", "i32[1,3]", "i32[1,5]"], { scale: 0.35 }],
  decompose: ({ q, k, v, qpos, kpos }, { scale, causal, window, softcap: cap }) => {
    const [B, T, S] = [q.type.at(0), q.type.at(2), k.type.at(2)];
    const [H, G, D] = [q.fixed(1), k.fixed(1), q.fixed(3)];
    if (H % G !== 0) throw new TypeError(`${H} query heads do not divide over ${G} key heads`);
    if (window < 0) throw new TypeError(`window is ${window}; give a number of tokens, or 0 for all`);
    const shared = (x: Value) => reshape(x, { shape: [B, G, 1, S, D] });
    const queries = reshape(q, { shape: [B, G, H / G, T, D] });
    const products = matmul(queries, transpose(shared(k), { perm: [0, 1, 2, 4, 3] }));
    const raw = mul(cast(products, { to: "f32" }), scale);
    let scores = cap === 0 ? raw : softcap(raw, { cap });
    const at = reshape(qpos, { shape: [B, 1, 1, T, 1] });
    const of = reshape(kpos, { shape: [B, 1, 1, 1, S] });
    if (window > 0) scores = select(less_equal(window, sub(at, of)), hidden, scores);
    if (causal) scores = select(less_equal(of, at), scores, hidden);
    const mixed = matmul(cast(softmax(scores), { to: q.dtype }), shared(v));
    return reshape(mixed, { shape: [B, H, T, D] });
  },
});

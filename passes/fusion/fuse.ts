import {
  add,
  attention,
  cast,
  concat,
  cos,
  div,
  geglu,
  gelu,
  less_equal,
  linear,
  matmul,
  mul,
  pow,
  reshape,
  residual_rms_norm,
  rms_norm,
  rope,
  select,
  slice,
  softmax,
  sub,
  transpose,
} from "../../ir/ops/index.ts";
import { any, scalar } from "../../ir/pattern.ts";
import { raise, rewrite } from "../rewrite.ts";

export const fuseLinear = rewrite("fuse-linear", {
  doc: "x · transpose(w) → linear(x, w), so that weights stay as the checkpoint stores them.",
  rules: [raise(linear)],
});

export const fuseRmsNorm = rewrite("fuse-rms-norm", {
  doc: "x · rsqrt(mean(x²) + eps) · scale → rms_norm(x, scale).",
  rules: [raise(rms_norm)],
});

export const fuseResidualNorm = rewrite("fuse-residual-norm", {
  doc: "rms_norm(a + b) → residual_rms_norm(a, b). Where a + b itself is used too, a backend computes both at once.",
  rules: [raise(residual_rms_norm)],
});

export const fuseGeglu = rewrite("fuse-geglu", {
  doc: "½x(1 + tanh(√(2/π)(x + 0.044715x³))) → gelu(x), then gelu(gate) · up → geglu(gate, up).",
  rules: [raise(geglu), raise(gelu)],
});

// The decompositions below read sizes, so these say what to look for; rebuilding still decides.
const turn = mul(cast(reshape(any("positions", true))), div(1, pow(scalar("theta"), any("exponent"))));
const half = slice(cast(any("x", true)));
const turned = cast(concat(sub(mul(half, cos(turn)), any("bs")), add(any("bc"), any("as"))));

export const fuseRope = rewrite("fuse-rope", {
  doc: "Both halves of each head, turned by position · theta^(-2i/D) → rope(x, positions).",
  rules: [raise(rope, turned)],
});

const products = matmul(reshape(any("q", true)), transpose(reshape(any("k", true))));
const seen = less_equal(reshape(any("kpos", true)), reshape(any("qpos", true)));
const weights = cast(softmax(select(seen, mul(cast(products), scalar("scale")), any("hidden"))));

export const fuseAttention = rewrite("fuse-attention", {
  doc: "softmax(mask(q · kᵀ · scale)) · v → attention(q, k, v, qpos, kpos).",
  rules: [raise(attention, reshape(matmul(weights, reshape(any("v", true))))), raise(softmax)],
});

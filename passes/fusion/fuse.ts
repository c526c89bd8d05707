import {
  add,
  attention,
  cast,
  concat,
  cos,
  div,
  geglu,
  gelu,
  gelu_erf,
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
  silu,
  slice,
  softcap,
  softmax,
  sub,
  transpose,
} from "../../ir/ops/index.ts";
import { any, node, type Pattern, scalar } from "../../ir/pattern.ts";
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
  doc:
    "½x(1 + tanh(√(2/π)(x + 0.044715x³))) → gelu(x), then gelu(gate) · up → geglu(gate, up). Also ½x(1 + erf(x/√2)) → " +
    "gelu_erf(x) and x / (1 + exp(-x)) → silu(x).",
  rules: [raise(geglu), raise(gelu), raise(gelu_erf), raise(silu)],
});

// The decompositions below read sizes, so these say what to look for; rebuilding still decides.
const base = div(1, pow(scalar("theta"), any("exponent")));
const half = slice(cast(any("x", true)));
const turned = (frequency: Pattern<{}>) => {
  const turn = mul(cast(reshape(any("positions", true))), frequency);
  return cast(concat(sub(mul(half, cos(turn)), any("bs")), add(any("bc"), any("as"))));
};

export const fuseRope = rewrite("fuse-rope", {
  doc: "Both halves of each head, turned by position · theta^(-2i/D) / factor → rope(x, positions).",
  rules: [raise(rope, turned(base)), raise(rope, turned(div(base, scalar("factor"))))],
});

const products = matmul(reshape(any("q", true)), transpose(reshape(any("k", true))));
const scaled = mul(cast(products), scalar("scale"));
const capped = node(softcap, [scaled], { cap: scalar("softcap") });
const [at, of] = [reshape(any("qpos", true)), reshape(any("kpos", true))];
const far = less_equal(scalar("window"), sub(at, of));
const seen = less_equal(of, at);
const mixed = (scores: Pattern<{}>) => {
  const weights = cast(softmax(select(seen, scores, any("hidden"))));
  return reshape(matmul(weights, reshape(any("v", true))));
};

export const fuseAttention = rewrite("fuse-attention", {
  doc: "softmax(mask(softcap(q · kᵀ · scale))) · v → attention(q, k, v, qpos, kpos), with a cap and a window or without.",
  rules: [
    ...[scaled, capped].flatMap((scores) => [
      raise(attention, mixed(scores)),
      raise(attention, mixed(select(far, any("hidden"), scores))),
    ]),
    raise(softmax),
    raise(softcap),
  ],
});

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { decodeModel, encodeProto } from "../backends/onnx/proto.ts";
import type { Value } from "../ir/graph.ts";
import {
  add,
  attention,
  cast,
  geglu,
  gelu_erf,
  linear,
  mul,
  reshape,
  rms_norm,
  rope,
  softcap,
  transpose,
} from "../ir/ops/index.ts";
import { map, pass } from "../passes/pass.ts";
import { compile } from "../src/compile.ts";
import { verify } from "../src/verify/verify.ts";

const scratch = mkdtempSync(join(tmpdir(), "gemmac-defects-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
const models = join(import.meta.dirname, "data/models");

/** What a defect makes of the value at an origin. */
type Change = (v: Value) => Value;
interface Defect {
  readonly model: string;
  /** Where it strikes. */
  readonly at: RegExp;
  readonly change: Change;
  /** Where verify sees it first: the place itself, but in the ort profile one operator computes what has no name. */
  readonly seen: string | { readonly standard: string; readonly ort: string };
}

const found = <T>(x: T | undefined): T => {
  if (x === undefined) throw new Error("the graph does not look as the defect expects");
  return x;
};
const swap = (v: Value, perm: readonly number[], back: readonly (number | import("../ir/dim.ts").Dim)[]) =>
  reshape(transpose(v, { perm }), { shape: back });

/** Changes the attention behind the merged heads that carry the name. */
const inAttention =
  (change: (a: NonNullable<ReturnType<typeof attention.of>>) => Value): Change =>
  (v) => {
    const heads = found(v.inputs[0]?.inputs[0]);
    return reshape(transpose(change(found(attention.of(heads))), found(v.inputs[0]).attrs), v.attrs);
  };
const attending = (
  more: (attrs: { scale: number; window: number; softcap: number }, v: Value) => object,
): Change =>
  inAttention((a) => attention(a.q, a.k, a.v, a.qpos, a.kpos, { ...a.attrs, ...more(a.attrs, a.q) }));

/** Neighbours turn against each other, not the halves of a head. */
const interleaved: Change = (v) => {
  const { x, positions, attrs } = found(rope.of(v));
  const [B, H, T, D] = [x.type.at(0), x.type.at(1), x.type.at(2), x.fixed(3)];
  const pairs = reshape(x, { shape: [B, H, T, D / 2, 2] });
  const halves = swap(pairs, [0, 1, 2, 4, 3], x.shape);
  const turned = reshape(rope(halves, positions, attrs), { shape: [B, H, T, 2, D / 2] });
  return swap(turned, [0, 1, 2, 4, 3], x.shape);
};
/** Query head h reads key head h mod G. */
const tiled = inAttention((a) => {
  const [B, T, H, G, D] = [a.q.type.at(0), a.q.type.at(2), a.q.fixed(1), a.k.fixed(1), a.q.fixed(3)];
  const q = swap(reshape(a.q, { shape: [B, H / G, G, T, D] }), [0, 2, 1, 3, 4], a.q.shape);
  const mixed = reshape(attention(q, a.k, a.v, a.qpos, a.kpos, a.attrs), { shape: [B, G, H / G, T, D] });
  return swap(mixed, [0, 2, 1, 3, 4], a.q.shape);
});
const bases: Change = (v) => {
  const { x, positions, attrs } = found(rope.of(v));
  return rope(x, positions, { ...attrs, theta: attrs.theta === 1e6 ? 1e4 : 1e6 });
};
const scaleOf = (v: Value) => found(rms_norm.of(v));

const defects: Record<string, Defect> = {
  "erf for tanh GELU": {
    model: "gemma3",
    at: /^model\/layers\.4\/mlp\/geglu$/,
    change: (v) => mul(gelu_erf(found(geglu.of(v)).gate), found(geglu.of(v)).up),
    seen: "model/layers.4/mlp/geglu",
  },
  "w for 1 + w": {
    model: "gemma2",
    at: /^model\/layers\.1\/post_feedforward_layernorm$/,
    change: (v) => rms_norm(scaleOf(v).x, found(add.of(scaleOf(v).scale)).a, scaleOf(v).attrs),
    seen: "model/layers.1/post_feedforward_layernorm",
  },
  "wrong eps in a norm of the residual stream": {
    model: "gemma2",
    at: /^model\/layers\.2\/pre_feedforward_layernorm$/,
    change: (v) => rms_norm(scaleOf(v).x, scaleOf(v).scale, { eps: 1e-5 }),
    seen: "model/layers.2/pre_feedforward_layernorm",
  },
  "wrong eps in a norm of keys": {
    model: "gemma3",
    at: /^model\/layers\.1\/self_attn\/k_norm$/,
    change: (v) => rms_norm(scaleOf(v).x, scaleOf(v).scale, { eps: 1e-5 }),
    seen: "model/layers.1/self_attn/k_norm",
  },
  "interleaved RoPE": {
    model: "gemma2",
    at: /^model\/layers\.2\/self_attn\/[qk]_rope$/,
    change: interleaved,
    seen: { standard: "model/layers.2/self_attn/q_rope", ort: "model/layers.2/self_attn/q_rope" },
  },
  "key heads tiled": {
    model: "gemma2",
    at: /^model\/layers\.3\/self_attn\/attention$/,
    change: tiled,
    seen: "model/layers.3/self_attn/attention",
  },
  "wrong attention scale": {
    model: "gemma3",
    at: /^model\/layers\.0\/self_attn\/attention$/,
    change: attending((_, q) => ({ scale: q.fixed(3) ** -0.5 })),
    seen: "model/layers.0/self_attn/attention",
  },
  "window off by one": {
    model: "gemma2",
    at: /^model\/layers\.2\/self_attn\/attention$/,
    change: attending(({ window }) => ({ window: window + 1 })),
    seen: "model/layers.2/self_attn/attention",
  },
  "window parity inverted": {
    model: "gemma2",
    at: /\/self_attn\/attention$/,
    change: attending(({ window }) => ({ window: window ? 0 : 8 })),
    seen: "model/layers.0/self_attn/attention",
  },
  "softcap of scores dropped": {
    model: "gemma2",
    at: /^model\/layers\.1\/self_attn\/attention$/,
    change: attending(() => ({ softcap: 0 })),
    seen: "model/layers.1/self_attn/attention",
  },
  "softcap of logits dropped": {
    model: "gemma2",
    at: /^lm_head\/softcap$/,
    change: (v) => found(softcap.of(v)).x,
    seen: "lm_head/softcap",
  },
  "RoPE bases swapped": {
    model: "gemma3",
    at: /_rope$/,
    change: bases,
    seen: { standard: "model/layers.0/self_attn/q_rope", ort: "model/layers.0/self_attn/attention" },
  },
  "embedding scale missing": {
    model: "gemma3",
    at: /^model\/embed_tokens$/,
    change: (v) => cast(found(mul.of(v)).a, { to: "f32" }),
    seen: "model/embed_tokens",
  },
  "a transposed weight": {
    model: "gemma3",
    at: /^model\/layers\.3\/self_attn\/o_proj$/,
    change: (v) => linear(found(linear.of(v)).x, transpose(found(linear.of(v)).w, { perm: [1, 0] })),
    seen: "model/layers.3/self_attn/o_proj",
  },
};

test("a window longer than the text is tried over a made-up cache, at compile time and by verify", async () => {
  const dir = join(scratch, "wide");
  cpSync(join(models, "gemma2"), dir, { recursive: true });
  const config = JSON.parse(readFileSync(join(dir, "config.json"), "utf8"));
  writeFileSync(join(dir, "config.json"), JSON.stringify({ ...config, sliding_window: 100 }));
  const out = join(scratch, "wide-onnx");
  for (const profile of ["standard", "ort"] as const) {
    await compile(dir, { targets: ["onnx"], out, profile, force: true });
    expect(await verify(out, dir)).toMatchObject({ ok: true });
  }
  const path = join(out, "onnx/model.onnx");
  const model = decodeModel(readFileSync(path));
  const node = found(model.graph?.node?.filter((n) => n.opType === "GroupQueryAttention")[2]);
  const window = found(node.attribute?.find((a) => a.name === "local_window_size"));
  expect(Number(window.i)).toBe(100);
  window.i = 101;
  writeFileSync(path, encodeProto(model));
  expect(await verify(out, dir)).toMatchObject({
    ok: false,
    firstDivergence: { origin: "model/layers.2/self_attn/attention" },
  });
});

/** Whole numbers hide nothing: verify multiplies by them in f32. */
const forms = [
  ["standard", undefined],
  ["ort", undefined],
  ["ort", "int8"],
] as const;
describe.each(forms)("in an artifact of the profile %s (quant %s), verify finds", (profile, quant) => {
  test.each(Object.entries(defects))("%s", async (name, { model, at, change, seen }) => {
    const dir = join(models, model);
    const defect = pass("defect", {
      doc: name,
      law: "free",
      run: (g) => map(g, (v, before) => (at.test(g.origins.get(before) ?? "") ? change(v) : v)),
    })();
    const out = join(scratch, `${name}-${profile}-${quant}`.replaceAll(" ", "-"));
    const options = { targets: ["onnx"], out, profile, insert: [defect], verify: false };
    await compile(dir, { ...options, ...(quant && { quant }) });
    const report = await verify(out, dir);
    expect(report.ok).toBe(false);
    expect(report.firstDivergence?.origin).toBe(typeof seen === "string" ? seen : seen[profile]);
  });
});

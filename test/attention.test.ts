import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { emulated } from "../backends/cuda/index.ts";
import { Names, type Plan, plan } from "../backends/kernel/index.ts";
import { dim } from "../ir/dim.ts";
import { Graph, type Value } from "../ir/graph.ts";
import { interpret } from "../ir/interpret.ts";
import { attention, cast, iota, param, reshape, transpose, update } from "../ir/ops/index.ts";
import type { HostTensor } from "../ir/tensor.ts";
import { tensor } from "../ir/type.ts";
import { insertKvCache } from "../passes/kv-cache.ts";
import { runPasses } from "../passes/pipeline.ts";
import { rounded } from "../passes/specialize/narrow.ts";
import { KernelMachine, noCompiler, PlanRun } from "./support/kernel-machine.ts";
import { random } from "./support/random-graph.ts";

/** Attention of many tokens on tensor cores in bf16, alone, and what it is held to. */
interface Case {
  readonly headDim: number;
  readonly kvHeads: number;
  /** Query heads of each key head. */
  readonly shared: number;
  /** 0 for none. */
  readonly window: number;
  readonly softcap: number;
  /** Where keys are: in a cache of so many slots in order, in a ring as long as the window, or only this step's. */
  readonly cache: "slots" | "ring" | "none";
  readonly capacity: number;
  readonly causal: boolean;
  /** Whether scores differ so much that few keys count, and which they are changes as more are seen. */
  readonly sharp: boolean;
  /** Whether heads are put side by side. */
  readonly byToken: boolean;
  /** Tokens of each step. */
  readonly steps: readonly number[];
}

const device = {
  threads: 64,
  lanes: 32,
  sharedBytes: 49_152,
  bindingBytes: 2 ** 27,
  buffers: 32,
  prefetch: true,
  splits: 4,
  lastArriver: true,
  tensorCores: true,
} as const;

const T = dim("T");
const positions = param({ name: "positions", type: tensor("i32", 1, T) });
const start = param({ name: "start", type: tensor("i32") });
const heads = (name: string, n: number, headDim: number) =>
  param({ name, type: tensor("f32", 1, n, T, headDim) });

/** Attention over a cache, of one step, where all that is multiplied is rounded to bf16. */
function graphOf(c: Case, cache = c.cache): Graph {
  const inputs = [heads("q", c.kvHeads * c.shared, c.headDim)];
  for (const name of ["k", "v"]) inputs.push(heads(name, c.kvHeads, c.headDim));
  const [q, k, v] = inputs.map((x) => rounded(x, "bf16")) as [Value, Value, Value];
  const how = { scale: 1.1 / Math.sqrt(c.headDim), causal: c.causal, window: c.window, softcap: c.softcap };
  const finish = (y: Value) =>
    c.byToken
      ? reshape(transpose(y, { perm: [0, 2, 1, 3] }), { shape: [1, T, c.kvHeads * c.shared * c.headDim] })
      : y;
  if (cache !== "slots") {
    const y = finish(attention(q, k, v, positions, positions, how));
    const plain = new Graph("attention", { inputs: [...inputs, positions], outputs: { y } });
    return cache === "none" ? plain : runPasses(plain, [insertKvCache({ capacity: c.capacity })]).graph;
  }
  const slots = iota({ shape: [1, c.capacity], dtype: "i32" });
  const kept = (name: string, x: Value) => {
    const past = param({ name, type: tensor("bf16", 1, c.kvHeads, c.capacity, c.headDim) });
    return { past, next: update(past, (cast.of(x) as { x: Value }).x, start, { axis: 2 }) };
  };
  const [keys, values] = [kept("past.k", k), kept("past.v", v)];
  const wide = (x: Value) => cast(x, { to: "f32" });
  const y = finish(attention(q, wide(keys.next), wide(values.next), positions, slots, how));
  return new Graph("attention", {
    inputs: [...inputs, positions, start, keys.past, values.past],
    outputs: { y, "next.k": keys.next, "next.v": values.next },
    aliases: { "next.k": "past.k", "next.v": "past.v" },
  });
}

const tokensOf = (c: Case): number => c.steps.reduce((a, b) => a + b, 0);
const nameOf = (c: Case): string =>
  `${c.kvHeads * c.shared} heads over ${c.kvHeads} of ${c.headDim}, ${c.cache} of ${c.capacity}` +
  `${c.causal ? "" : ", no mask"}${c.window ? `, window ${c.window}` : ""}${c.softcap ? `, cap ${c.softcap}` : ""}` +
  `${c.sharp ? ", sharp" : ""}${c.byToken ? "" : ", by head"}, ${c.steps.join(" then ")} tokens`;

/** Of 11 bits, which f16 holds and bf16 does not. */
const numbers = (next: () => number, n: number, size: number) =>
  Float64Array.from({ length: n }, () => (size * (Math.floor(next() * 4095) - 2047)) / 1024);

const plain: Case = {
  headDim: 32,
  kvHeads: 1,
  shared: 4,
  window: 0,
  softcap: 0,
  cache: "slots",
  capacity: 128,
  causal: true,
  sharp: false,
  byToken: true,
  steps: [37],
};
const chosen: Case[] = [
  plain,
  { ...plain, headDim: 256, shared: 8, steps: [70, 9], sharp: true },
  { ...plain, headDim: 256, kvHeads: 2, shared: 1, steps: [100] },
  { ...plain, headDim: 16, steps: [2, 1, 66] },
  { ...plain, headDim: 48, kvHeads: 3, shared: 2, steps: [33, 32] },
  { ...plain, headDim: 96, softcap: 5, steps: [31, 40], byToken: false },
  // Tiles before every query's window are left out, and what earlier texts left behind the last token.
  { ...plain, window: 7, steps: [90, 20], capacity: 115 },
  { ...plain, window: 40, softcap: 2, kvHeads: 2, shared: 2, steps: [5, 64, 50], sharp: true },
  { ...plain, cache: "ring", window: 20, capacity: 100, steps: [50, 3, 40] },
  { ...plain, cache: "ring", window: 33, capacity: 100, steps: [20, 1, 70], headDim: 64 },
  { ...plain, cache: "ring", window: 48, capacity: 100, steps: [96], kvHeads: 2, shared: 3 },
  { ...plain, cache: "none", causal: false, steps: [45] },
  { ...plain, cache: "none", causal: false, window: 9, steps: [65], byToken: false },
  { ...plain, cache: "none", window: 12, steps: [99], sharp: true },
];

/** Any other, small enough for an interpreter. */
const any: fc.Arbitrary<Case> = fc
  .record({
    headDim: fc.constantFrom(16, 32, 48, 64, 80, 112, 128),
    kvHeads: fc.integer({ min: 1, max: 3 }),
    shared: fc.integer({ min: 1, max: 5 }),
    window: fc.constantFrom(0, 0, 3, 17, 32, 61),
    softcap: fc.constantFrom(0, 0, 3),
    cache: fc.constantFrom("slots", "ring", "none"),
    capacity: fc.constantFrom(100, 128, 131),
    causal: fc.constantFrom(true, true, false),
    sharp: fc.boolean(),
    byToken: fc.boolean(),
    steps: fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 2 }),
  })
  .map((c) => {
    if (c.cache === "none") return { ...c, steps: c.steps.slice(0, 1) };
    return { ...c, causal: true, window: c.cache === "ring" ? Math.max(3, c.window) : c.window };
  });

/** Of one machine's kernels, which are of many plans. */
const names = new Names();
const cases = [...chosen, ...fc.sample(any, { seed: 7, numRuns: 24 })].map((c) => ({
  ...c,
  name: nameOf(c),
  plan: plan(graphOf(c), { device, tokens: Math.max(2, ...c.steps), names }),
}));

test("attention of many tokens in bf16 is left to tensor cores", () => {
  for (const { plan, name } of cases)
    expect(plan.prefill.dispatches.map((d) => d.kernel.name).join(), name).toContain("attention_tensor_");
});

/** As CUDA threads wait for each other and for copies as on a GPU, in this order or the other. */
const ways = [
  { print: "c", order: "at once", own: cases },
  { print: "cuda", order: "in turns", own: cases.slice(0, chosen.length) },
  // For the gate: it takes as long again.
  ...(process.env.GEMMAC_GOLDENS === "all"
    ? [{ print: "cuda", order: "in turns from the last", own: cases.slice(0, chosen.length) } as const]
    : []),
] as const;
const cxx = await emulated();

describe.each(ways)("attention on tensor cores as $print, threads $order", ({ print, order, own }) => {
  let machine: KernelMachine;
  const missing = print === "c" ? noCompiler : cxx ? undefined : "there is no C++ compiler";
  beforeAll(async () => {
    const env = order.endsWith("last") ? { GEMMA_BACKWARDS: "1" } : {};
    if (!missing)
      machine = await KernelMachine.make(
        own.flatMap((c) => c.plan.kernels),
        print,
        env,
      );
  }, 120_000);
  afterAll(() => machine?.close());

  test.skipIf(missing).for(own)("$name", async (c) => {
    const all = tokensOf(c);
    const next = random(all + c.headDim);
    const [H, G, D] = [c.kvHeads * c.shared, c.kvHeads, c.headDim];
    const order = c.cache === "none" ? shuffled(all, next) : Array.from({ length: all }, (_, i) => i);
    const values = numbers(next, G * all * D, 1);
    const inputs: Record<string, HostTensor> = {
      q: { shape: [1, H, all, D], data: numbers(next, H * all * D, c.sharp ? 12 : 1.5) },
      k: { shape: [1, G, all, D], data: numbers(next, G * all * D, 2) },
      v: { shape: [1, G, all, D], data: values },
      positions: { shape: [1, all], data: Float64Array.from(order) },
    };
    const sizes = { shape: [1, G, all, D], data: values.map(Math.abs) };
    const meaning = (of: typeof inputs) => {
      const graph = graphOf({ ...c, byToken: false }, "none");
      return (interpret(graph, { sizes: { T: all, B: 1 }, tensor: (name) => of[name] }).y as HostTensor).data;
    };
    const [want, size] = [meaning(inputs), meaning({ ...inputs, v: sizes })];
    const { y: got, ofMany } = await run(c, machine, inputs);
    // A weight is rounded by 2^-8 of itself at most, and so an output by 2^-8 of what the sizes of the values come to.
    let worst = 0;
    got.forEach((y, i) => {
      if (!ofMany[Math.floor(i / D) % all]) return;
      const allowed = (size[i] as number) * 2 ** -8 + 2e-5;
      worst = Math.max(worst, Math.abs(y - (want[i] as number)) / allowed);
    });
    expect(got.length).toBe(want.length);
    expect(worst).toBeLessThan(1);
    expect(got.every(Number.isFinite)).toBe(true);
  });
});

function shuffled(n: number, next: () => number): number[] {
  const all = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(next() * (i + 1));
    [all[i], all[j]] = [all[j] as number, all[i] as number];
  }
  return all;
}

/** The result [1,H,T,D] of all steps, one after the other, and of which tokens tensor cores found it. */
async function run(
  c: Case & { readonly plan: Plan },
  machine: KernelMachine,
  inputs: Record<string, HostTensor>,
): Promise<{ y: Float64Array; ofMany: readonly boolean[] }> {
  const [H, D, all] = [c.kvHeads * c.shared, c.headDim, tokensOf(c)];
  const out = new Float64Array(H * all * D);
  const on = new PlanRun(c.plan, machine);
  const part = (name: string, from: number, n: number) => {
    const { shape, data } = inputs[name] as HostTensor;
    const [heads, each] = [shape[1] as number, shape[3] as number];
    const rows = Array.from({ length: heads }, (_, h) => [
      ...data.subarray((h * all + from) * each, (h * all + from + n) * each),
    ]);
    return Float32Array.from(rows.flat());
  };
  let from = 0;
  for (const n of c.steps) {
    for (const name of ["q", "k", "v"]) on.set(name, part(name, from, n));
    on.set("positions", Int32Array.from(inputs.positions?.data.subarray(from, from + n) ?? []));
    if (c.cache !== "none") on.set("start", Int32Array.of(from));
    const phase = n === 1 ? c.plan.decode : c.plan.prefill;
    on.run(phase, { T: n });
    const y = await on.result(phase.outputs.y as Plan["decode"]["outputs"][string], { T: n });
    for (let h = 0; h < H; h++)
      for (let t = 0; t < n; t++) {
        const at = c.byToken ? (t * H + h) * D : (h * n + t) * D;
        out.set(y.subarray(at, at + D), (h * all + from + t) * D);
      }
    from += n;
  }
  on.free();
  return { y: out, ofMany: c.steps.flatMap((n) => Array.from({ length: n }, () => n > 1)) };
}

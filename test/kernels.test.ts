import { afterAll, beforeAll, describe, expect, type TestContext, test } from "vitest";
import { Names, type Plan, plan } from "../backends/kernel/index.ts";
import { WeightStream } from "../backends/stream/index.ts";
import { type Sizes, size } from "../ir/dim.ts";
import type { Graph } from "../ir/graph.ts";
import { interpret } from "../ir/interpret.ts";
import { less_equal, mul, param, select } from "../ir/ops/index.ts";
import type { HostTensor } from "../ir/tensor.ts";
import { isFloat } from "../ir/type.ts";
import { decompose } from "../passes/decompose.ts";
import { map } from "../passes/pass.ts";
import { findGpu } from "./support/gpu.ts";
import { GpuMachine } from "./support/gpu-machine.ts";
import { anything, cases, products, tensorLayers, tensorProducts } from "./support/kernel-cases.ts";
import { KernelMachine, type Machine, noCompiler, PlanRun } from "./support/kernel-machine.ts";
import { random, randomTensor } from "./support/random-graph.ts";
import { weightsOf } from "./support/tensors.ts";

const gpu = await findGpu();
/**
 * Small groups, so that a few numbers need several, in halves too; one thread, as on a processor without any; and a GPU,
 * with and without halves and operations over subgroups.
 */
const devices = {
  groups: { threads: 16, lanes: 8, splits: 3, prefetch: true },
  halves: { threads: 16, lanes: 8, splits: 3, prefetch: true, halves: true },
  alone: { threads: 1, lanes: 1, splits: 1, prefetch: false },
  warps: {
    threads: 64,
    lanes: 32,
    splits: 3,
    prefetch: true,
    tensorCores: true,
    lastArriver: true,
  },
  gpu: { threads: 64, lanes: 16, splits: 8, prefetch: false, sharedBytes: 16_384, halves: true },
} as const;
const limits = { sharedBytes: 49_152, bindingBytes: 2 ** 27, buffers: 8, lastArriver: false };

interface Case {
  readonly name: string;
  readonly device: string;
  /** Whether it may make much of a rounding error, as no model does. */
  readonly chaotic: boolean;
  readonly graph: Graph;
  readonly plan: Plan;
  readonly sizes: { readonly T: number; readonly B: number };
  readonly tensors: Readonly<Record<string, HostTensor>>;
}

/** Each op on its own runs on the GPU in backend-ops.test.ts. */
const casesOn = (device: string) => {
  if (device === "groups") return [...cases, ...anything];
  if (device === "warps") return [...cases, ...tensorProducts, ...tensorLayers];
  return device === "gpu" ? cases.filter((c) => !c.name.startsWith("op ")) : cases;
};
/** Of one machine's kernels, which are of many plans. */
const names = new Names();
const all: Case[] = Object.entries(devices).flatMap(([device, own]) =>
  casesOn(device).flatMap(({ name, graph, tokens, limit, batch = 1, values = {} }) =>
    tokens.map((T) => {
      const sizes = { T, B: batch };
      const next = random(T + name.length);
      const params = [...new Set([...graph.inputs, ...graph.stored()])];
      const made = params.map((v) => {
        const key = String(v.attrs.name);
        const given = values[key];
        const shape = v.shape.map((d) => size(d, sizes));
        return [key, given ? { shape, data: given(shape, T) } : randomTensor(v.type, sizes, next)] as const;
      });
      const bindingBytes = limit ?? limits.bindingBytes;
      return {
        name: `${name}, ${T} tokens, ${device}`,
        device,
        chaotic: anything.some((c) => c.name === name),
        graph,
        plan: plan(graph, {
          device: { ...limits, ...own, bindingBytes },
          tokens: Math.max(T, 2),
          sizes: { B: batch },
          names,
        }),
        sizes,
        tensors: Object.fromEntries(made),
      };
    }),
  ),
);
/** What the rounding of factors and sums may do to products in halves. */
const halfRounding = 2e-3;
const inHalves = (c: Case) => c.sizes.T > 1 && products.some((p) => c.name.startsWith(`${p.name}, `));

function meaning(
  graph: Graph,
  sizes: Sizes,
  tensors: Case["tensors"],
): Record<string, HostTensor> | undefined {
  try {
    return interpret(graph, { sizes, tensor: (name) => tensors[name] });
  } catch (e) {
    if (e instanceof RangeError) return undefined;
    throw e;
  }
}

/** `g` with each f32 result moved by a hair, up or down, and 0 for NaN. */
function shaken(g: Graph, next: () => number): Graph {
  return map(decompose().run(g), (v) => {
    if (v.dtype !== "f32" || v.op === param) return v;
    return select(less_equal(v, v), mul(v, next() < 0.5 ? 1 - 4e-7 : 1 + 4e-7), 0);
  });
}

/** The largest difference as a share of what is expected. */
function distance(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  const finite = Array.from(expected).filter(Number.isFinite);
  const largest = finite.reduce((m, x) => Math.max(m, Math.abs(x)), 1e-3);
  // No device promises to keep NaN.
  const error = (x: number, y: number) =>
    x === y || Number.isNaN(y) ? 0 : Number.isNaN(x) ? Infinity : Math.abs(x - y) / largest;
  return Array.from(got).reduce((m, x, i) => Math.max(m, error(x, expected[i] as number)), 0);
}

/** Runs a case and holds what comes out against the interpreter; `rounding` is what functions may be off by. */
async function agree(
  { graph, plan, sizes, tensors, chaotic }: Case,
  machine: Machine,
  rounding: number,
  context: TestContext,
): Promise<void> {
  const want = meaning(graph, sizes, tensors);
  if (!want) return context.skip("the interpreter finds an index out of range");
  // What multiplies rounding errors in the interpreter may do so here; erf is an approximation.
  const next = random(1);
  const moved = chaotic ? [1, 2, 3, 4].map(() => meaning(shaken(graph, next), sizes, tensors)) : [];
  const run = new PlanRun(plan, machine);
  const stream = new WeightStream(graph, weightsOf(graph.stored(), tensors), () => {});
  await run.load(stream);
  await stream.close();
  for (const v of graph.inputs) {
    const { data } = tensors[String(v.attrs.name)] as HostTensor;
    // Zeros in any case.
    if (plan.states.some((s) => s.name === v.attrs.name && s.pairs)) continue;
    run.set(String(v.attrs.name), isFloat(v.dtype) ? Float32Array.from(data) : Int32Array.from(data));
  }
  const phase = sizes.T === 1 ? plan.decode : plan.prefill;
  run.run(phase, sizes);
  for (const [name, expected] of Object.entries(want)) {
    const { binding } = phase.outputs[name] as Plan["decode"]["outputs"][string];
    if (binding.space === "state" && binding.state.pairs) continue;
    const got = await run.result(phase.outputs[name] as Plan["decode"]["outputs"][string], sizes);
    const worst = distance(got, expected.data);
    const noise = Math.max(0, ...moved.map((m) => distance(m?.[name]?.data ?? [], expected.data)));
    const allowed = chaotic ? 1e-4 + 2 * noise : rounding;
    expect(got.length).toBe(expected.data.length);
    expect(worst, `${name}: ${phase.dispatches.map((d) => d.kernel.name)}`).toBeLessThan(allowed);
  }
  run.free();
}

describe.skipIf(noCompiler)("kernels in their C print mean what the interpreter means", () => {
  const machines = new Map<string, KernelMachine>();
  const own = all.filter((c) => c.device !== "gpu" && (c.device !== "halves" || inHalves(c)));
  beforeAll(async () => {
    const made = [...new Set(own.map((c) => c.device))].map(async (device) => {
      const kernels = own.filter((c) => c.device === device).flatMap((c) => c.plan.kernels);
      const chosen = device === "halves" ? kernels.map((k) => k.half ?? k) : kernels;
      machines.set(device, await KernelMachine.make(chosen));
    });
    await Promise.all(made);
  }, 60_000);
  afterAll(() => {
    for (const machine of machines.values()) machine.close();
  });

  test.for(own)("$name", (one, context) =>
    agree(
      one,
      machines.get(one.device) as KernelMachine,
      one.device === "halves" ? halfRounding : 2e-5,
      context,
    ),
  );
});

const onGpu = "name" in gpu ? gpu.name : `no GPU: ${gpu.missing}`;
describe.skipIf("missing" in gpu)(`kernels in their WGSL print mean that too, on ${onGpu}`, () => {
  const own = all.filter((c) => c.device === "gpu");
  let machine: GpuMachine;
  let features: readonly string[];
  beforeAll(async () => {
    [machine, features] = await GpuMachine.open();
  });

  test.for(own)("$name", async (one, context) => {
    machine.prepare(one.plan, []);
    await agree(one, machine, 5e-5, context);
  });

  // Not all of them: without an instruction for it, lavapipe compiles one for many seconds.
  test("in halves", { timeout: 60_000 }, async (context) => {
    if (!features.includes("shader-f16")) return context.skip("this GPU has no halves");
    for (const one of own.filter(inHalves).filter((c) => /as large as|i8 with one scale/.test(c.name))) {
      machine.prepare(one.plan, ["shader-f16"]);
      await agree(one, machine, halfRounding, context);
    }
  });

  test("over subgroups", async (context) => {
    if (!features.includes("subgroups")) return context.skip("this GPU has no subgroups");
    for (const one of own.filter((c) => /norm/.test(c.name))) {
      machine.prepare(one.plan, ["subgroups"]);
      await agree(one, machine, 5e-5, context);
    }
  });
});

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { kernelPasses, Names, type Plan, plan, type Result } from "../backends/kernel/index.ts";
import { evaluate } from "../backends/reference/index.ts";
import { WeightStream } from "../backends/stream/index.ts";
import { size } from "../ir/dim.ts";
import { count } from "../ir/tensor.ts";
import { parsePipeline, runPasses } from "../passes/pipeline.ts";
import { openCheckpoint } from "../src/checkpoint/checkpoint.ts";
import { argmax } from "../src/generate.ts";
import { modelGraph } from "../src/model/load.ts";
import { distance, type Golden, readGolden } from "./support/goldens.ts";
import { KernelMachine, noCompiler, PlanRun } from "./support/kernel-machine.ts";

const capacity = 64;
/** Prompts are longer: they go through in pieces. */
const tokens = 16;
const device = {
  threads: 16,
  lanes: 16,
  sharedBytes: 16_384,
  bindingBytes: 2 ** 27,
  buffers: 8,
  prefetch: false,
  splits: 3,
  lastArriver: false,
};

const kernelNames = new Names();
/** Caches: of floats, and of two numbers to a word. */
const kinds = ["f32", "f16", "bf16"] as const;
type Kind = (typeof kinds)[number];
const narrowing = (kind: Kind) => (kind === "f32" ? [] : parsePipeline(`narrow-caches{dtype=${kind}}`));

interface Opened {
  /** What the interpreter computes where the same is rounded, for all of these tokens. */
  reference(ids: readonly number[]): Promise<Float32Array>;
  readonly golden: Golden;
  readonly plan: Plan;
  readonly stream: WeightStream;
  close(): Promise<void>;
}

async function open(name: string, kind: Kind): Promise<Opened> {
  const dir = new URL(`data/models/${name}`, import.meta.url).pathname;
  const checkpoint = await openCheckpoint(dir);
  const model = modelGraph(checkpoint).graph;
  const passes = kernelPasses({ capacity, allLogits: true });
  const at = passes.findIndex((p) => p.name === "insert-kv-cache");
  const narrow = narrowing(kind);
  const { graph } = runPasses(model, [...passes.slice(0, at), ...narrow, ...passes.slice(at)]);
  const rounded = runPasses(model, [...parsePipeline("fuse"), ...narrow]).graph;
  return {
    async reference(ids) {
      const T = ids.length;
      const inputs: Record<string, readonly number[]> = { tokens: ids, positions: [...ids.keys()] };
      const { logits } = await evaluate(rounded, {
        sizes: { B: 1, T },
        weights: checkpoint.weights,
        tensor: (input) => ({ shape: [1, T], data: Float64Array.from(inputs[input] ?? []) }),
      });
      return Float32Array.from(logits?.data ?? []);
    },
    golden: await readGolden(dir),
    plan: plan(graph, { device, tokens, names: kernelNames }),
    stream: new WeightStream(graph, checkpoint.weights, () => {}),
    close: () => checkpoint.close(),
  };
}

const names = ["gemma1-mqa", "gemma1-mha", "gemma2", "gemma3"];
const runs = kinds.flatMap((kind) => names.map((name) => ({ name, kind })));

describe.skipIf(noCompiler)("planned kernels give the goldens", () => {
  const opened = new Map<string, Opened>();
  let machine: KernelMachine;
  beforeAll(async () => {
    for (const { name, kind } of runs) opened.set(`${name} ${kind}`, await open(name, kind));
    machine = await KernelMachine.make([...opened.values()].flatMap((o) => o.plan.kernels));
  }, 60_000);
  afterAll(async () => {
    machine?.close();
    for (const o of opened.values()) {
      await o.stream.close();
      await o.close();
    }
  });

  test.each(runs)("$name, caches of $kind: prefill, then token by token", async ({ name, kind }) => {
    const { golden, plan, stream, reference } = opened.get(`${name} ${kind}`) as Opened;
    let [worst, largest] = [0, 0];
    for (const { id, input_ids, generated_ids } of golden.prompts) {
      const run = new PlanRun(plan, machine);
      await run.load(stream);
      let fed = 0;
      const feed = async (ids: readonly number[]): Promise<Float32Array> => {
        const phase = ids.length === 1 ? plan.decode : plan.prefill;
        const sizes = { T: ids.length };
        run.set("tokens", Int32Array.from(ids));
        run.set(
          "positions",
          Int32Array.from(ids, (_, i) => fed + i),
        );
        run.set("start", Int32Array.of(fed));
        run.run(phase, sizes);
        fed += ids.length;
        return Float32Array.from(await run.result(phase.outputs.logits as Result, sizes));
      };
      const rows: number[] = [];
      for (let i = 0; i < input_ids.length; i += tokens)
        rows.push(...(await feed(input_ids.slice(i, i + tokens))));
      let logits: Float32Array = Float32Array.from(rows);
      if (kind !== "f32") {
        const [next] = generated_ids as [number];
        const both = Float32Array.from([...logits, ...(await feed([next]))]);
        largest = both.reduce((most, x) => Math.max(most, Math.abs(x)), largest);
        worst = Math.max(worst, distance(both, await reference([...input_ids, next])));
        run.free();
        continue;
      }
      worst = Math.max(worst, distance(logits, golden.tensors.get(`${id}.logits`)));
      const want = golden.tensors.get(`${id}.decode_logits`);
      for (let i = 0; want && i < generated_ids.length; i++) {
        const row = logits.slice(-golden.vocab);
        worst = Math.max(worst, distance(row, want.subarray(i * golden.vocab, (i + 1) * golden.vocab)));
        expect(argmax(row)).toBe(generated_ids[i]);
        if (i + 1 < generated_ids.length) logits = await feed([generated_ids[i] as number]);
      }
      run.free();
    }
    // Where sums differ in their last bits, what lies between two halves may be rounded either way.
    expect(worst).toBeLessThanOrEqual(golden.atol + (kind === "f32" ? 0 : 1e-3 * largest));
  });

  test.each(["int8", "int4", "int8,scales=f16", "int4,block=16,scales=f16"])(
    "%s weights give what the interpreter computes from the same codes",
    async (scheme) => {
      const { graph, checkpoint } = await quantized(scheme);
      const made = plan(graph, { device, tokens });
      const quick = await KernelMachine.make(made.kernels);
      const stream = new WeightStream(graph, checkpoint.weights, () => {});
      const run = new PlanRun(made, quick);
      await run.load(stream);
      const ids = [5, 300, 17, 256, 90];
      const inputs: Record<string, Int32Array> = {
        tokens: Int32Array.from(ids),
        positions: Int32Array.from(ids.keys()),
        start: Int32Array.of(0),
      };
      for (const [name, data] of Object.entries(inputs)) run.set(name, data);
      const sizes = { B: 1, T: ids.length };
      run.run(made.prefill, sizes);
      const got = Float32Array.from(await run.result(made.prefill.outputs.logits as Result, sizes));
      const want = await evaluate(graph, {
        sizes,
        weights: checkpoint.weights,
        tensor: (name, type) => {
          const shape = type.shape.map((d) => size(d, sizes));
          const data = inputs[name] ? Float64Array.from(inputs[name]) : new Float64Array(count(shape));
          return { shape, data };
        },
      });
      expect(distance(got, Float32Array.from(want.logits?.data ?? []))).toBeLessThan(1e-4);
      quick.close();
      await stream.close();
      await checkpoint.close();
    },
    60_000,
  );
});

async function quantized(scheme: string) {
  const dir = new URL("data/models/gemma1-mha", import.meta.url).pathname;
  const checkpoint = await openCheckpoint(dir);
  const fused = parsePipeline(`fuse,insert-kv-cache{capacity=${capacity}}`);
  const stored = parsePipeline(`quantize{scheme=${scheme}},fuse-quant,fold-weights{casts=leave}`);
  const { graph } = runPasses(modelGraph(checkpoint).graph, [...fused, ...stored]);
  return { graph, checkpoint };
}

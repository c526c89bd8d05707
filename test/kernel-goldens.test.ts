import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { kernelPasses, type Plan, plan, type Result } from "../backends/kernel/index.ts";
import { WeightStream } from "../backends/stream/index.ts";
import { runPasses } from "../passes/pipeline.ts";
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

interface Opened {
  readonly golden: Golden;
  readonly plan: Plan;
  readonly stream: WeightStream;
  close(): Promise<void>;
}

async function open(name: string): Promise<Opened> {
  const dir = new URL(`data/models/${name}`, import.meta.url).pathname;
  const checkpoint = await openCheckpoint(dir);
  const { graph } = runPasses(modelGraph(checkpoint).graph, kernelPasses({ capacity, allLogits: true }));
  return {
    golden: await readGolden(dir),
    plan: plan(graph, { device, tokens }),
    stream: new WeightStream(graph, checkpoint.weights, () => {}),
    close: () => checkpoint.close(),
  };
}

const names = ["gemma1-mqa", "gemma1-mha", "gemma2", "gemma3"];

describe.skipIf(noCompiler)("planned kernels give the goldens", () => {
  const opened = new Map<string, Opened>();
  let machine: KernelMachine;
  beforeAll(async () => {
    for (const name of names) opened.set(name, await open(name));
    machine = await KernelMachine.make([...opened.values()].flatMap((o) => o.plan.kernels));
  }, 60_000);
  afterAll(async () => {
    machine?.close();
    for (const o of opened.values()) {
      await o.stream.close();
      await o.close();
    }
  });

  test.each(names)("%s: prefill, then token by token", async (name) => {
    const { golden, plan, stream } = opened.get(name) as Opened;
    let worst = 0;
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
    expect(worst).toBeLessThanOrEqual(golden.atol);
  });
});

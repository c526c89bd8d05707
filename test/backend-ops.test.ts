import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { afterAll, describe, expect, test } from "vitest";
import { legalize } from "../backends/backend.ts";
import { plan } from "../backends/kernel/index.ts";
import { onnx } from "../backends/onnx/index.ts";
import { evaluate } from "../backends/reference/index.ts";
import { moduleOf } from "../backends/stablehlo/emit.ts";
import { stablehlo } from "../backends/stablehlo/index.ts";
import { exportedBlob, flatTrees } from "../backends/stablehlo/jax/exported.ts";
import { Worker } from "../backends/stablehlo/jax/worker.ts";
import { WeightStream } from "../backends/stream/index.ts";
import type { Weights } from "../backends/weights.ts";
import { defaultLimits } from "../backends/wgsl/index.ts";
import { deviceOf } from "../backends/wgsl/limits.ts";
import { size } from "../ir/dim.ts";
import type { Graph } from "../ir/graph.ts";
import { interpret } from "../ir/interpret.ts";
import type { HostTensor } from "../ir/tensor.ts";
import type { DType } from "../ir/type.ts";
import { bindSizes } from "../passes/specialize/bind-sizes.ts";
import { findGpu } from "./support/gpu.ts";
import { GpuMachine } from "./support/gpu-machine.ts";
import { findJax } from "./support/jax.ts";
import { PlanRun } from "./support/kernel-machine.ts";
import { fill, onlyPrepares, opCases, sizes, symbolicCases } from "./support/ops.ts";

let worker: Worker | undefined;
afterAll(() => worker?.close());
const jax = await findJax();
if (!jax) test.skip("stablehlo: there is no Python with JAX here (GEMMAC_PYTHON names one)", () => {});
const scratch = mkdtempSync(join(tmpdir(), "gemmac-ops-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const noWeights = { names: () => [], info: () => undefined, read: async () => {}, close: async () => {} };

/** Runs a graph of plain inputs and gives its outputs, as f32. One entry a backend. */
const backends: Record<
  string,
  (g: Graph, inputs: Record<string, HostTensor>) => Promise<Record<string, HostTensor>>
> = {
  reference: (g, inputs) => evaluate(g, { sizes, weights: noWeights, tensor: (name) => inputs[name] }),
  onnx: async (g, inputs) => {
    const dir = mkdtempSync(join(scratch, "op-"));
    const backend = onnx();
    // Codes are weights in every model, and the runtime's bindings cannot be fed them.
    const fed = g.with({ inputs: g.inputs.filter((v) => v.dtype !== "i4" && v.dtype !== "i8") });
    await backend.emit({
      graph: legalize(fed, backend),
      weights: weightsOf(g, inputs),
      facts: { context: 8 },
      dir,
      progress: () => {},
      warn: () => {},
    });
    const session = await ort.InferenceSession.create(join(dir, "onnx/model.onnx"), { logSeverityLevel: 3 });
    const feeds = fed.inputs.map((v) => [
      v.attrs.name,
      ortTensor(v.dtype, inputs[String(v.attrs.name)] as HostTensor),
    ]);
    const out = await session.run(Object.fromEntries(feeds));
    await session.release();
    return Object.fromEntries(
      Object.entries(out).map(([k, t]) => [
        k,
        { shape: [...t.dims], data: Float64Array.from(t.data as Float32Array) },
      ]),
    );
  },
};

if (jax) backends.stablehlo = xla;
const gpu = await findGpu();
if ("name" in gpu) backends.wgsl = onGpu;
else test.skip(`wgsl: ${gpu.missing}`, () => {});

let machine: GpuMachine | undefined;
/** Runs a graph as launches of the kernels that WGSL artifacts have, its sizes bound. */
async function onGpu(g: Graph, inputs: Record<string, HostTensor>): Promise<Record<string, HostTensor>> {
  machine ??= (await GpuMachine.open())[0];
  const fed = g.with({ inputs: g.inputs.filter((v) => v.dtype !== "i4" && v.dtype !== "i8") });
  const planned = plan(fed, { device: deviceOf(defaultLimits), tokens: sizes.T, sizes });
  machine.prepare(planned, []);
  const run = new PlanRun(planned, machine);
  const stream = new WeightStream(fed, weightsOf(g, inputs), () => {});
  await run.load(stream);
  await stream.close();
  for (const v of fed.inputs) {
    const { data } = inputs[String(v.attrs.name)] as HostTensor;
    run.set(String(v.attrs.name), v.dtype === "f32" ? Float32Array.from(data) : Int32Array.from(data));
  }
  run.run(planned.prefill, sizes);
  const made = await Promise.all(
    Object.entries(planned.prefill.outputs).map(async ([name, r]) => {
      const shape = r.shape.map((d) => size(d, sizes));
      return [name, { shape, data: await run.result(r, sizes) }] as const;
    }),
  );
  run.free();
  return Object.fromEntries(made);
}

/** Runs a graph in XLA, its sizes bound, by a process that all tests share. */
async function xla(g: Graph, inputs: Record<string, HostTensor>): Promise<Record<string, HostTensor>> {
  const bound = bindSizes(legalize(g, stablehlo()), sizes);
  const made = moduleOf("op", bound, { rows: 1, arithmetic: "f32" });
  worker ??= await Worker.start();
  await worker.module("op", exportedBlob({ name: "op", ...made, ...flatTrees(made) }));
  const args = made.args.map(({ name, type }) => {
    const { shape, data } = inputs[name] as HostTensor;
    return { dtype: type.dtype, shape, data: bytesOf(type.dtype, data) };
  });
  const fetch = made.results.map((_, i) => i);
  const out = await worker.run({ module: "op", args, fetch });
  return Object.fromEntries(
    made.results.map(({ name, type }, i) => [
      name,
      { shape: type.shape.map(Number), data: Float64Array.from(out[i] as Float32Array) },
    ]),
  );
}

function bytesOf(dtype: DType, data: Float64Array): Uint8Array {
  const kinds = { f32: Float32Array, i32: Int32Array, i8: Int8Array, bool: Uint8Array } as const;
  if (!Object.hasOwn(kinds, dtype)) throw new Error(`no test feeds ${dtype}`);
  return new Uint8Array(kinds[dtype as keyof typeof kinds].from(data).buffer);
}

/** The tensors of `g` that hold codes, as stored bytes. */
function weightsOf(g: Graph, tensors: Record<string, HostTensor>): Weights {
  const bytes = (name: string): Uint8Array => {
    const data = Int8Array.from(tensors[name]?.data ?? []);
    if (g.inputs.find((v) => v.attrs.name === name)?.dtype === "i8") return new Uint8Array(data.buffer);
    return Uint8Array.from(
      { length: data.length / 2 },
      (_, i) => (Number(data[2 * i]) & 15) | ((Number(data[2 * i + 1]) & 15) << 4),
    );
  };
  return {
    ...noWeights,
    read: async (name, offset, into) => into.set(bytes(name).subarray(offset, offset + into.length)),
  };
}

function ortTensor(dtype: DType, { shape, data }: HostTensor): ort.Tensor {
  if (dtype === "f32") return new ort.Tensor("float32", Float32Array.from(data), shape);
  if (dtype === "i32") return new ort.Tensor("int32", Int32Array.from(data), shape);
  if (dtype === "bool") return new ort.Tensor("bool", Uint8Array.from(data), shape);
  throw new Error(`no test feeds ${dtype}`);
}

async function agrees(g: Graph, backend: string): Promise<void> {
  const inputs = Object.fromEntries(g.inputs.map((v, i) => [String(v.attrs.name), fill(v, i + 1)]));
  const want = interpret(g, { sizes, tensor: (name) => inputs[name] }).y as HostTensor;
  const got = (await backends[backend]?.(g, inputs))?.y as HostTensor;
  expect(got.shape).toEqual(want.shape);
  got.data.forEach((x, i) => {
    expect(Math.abs(x - (want.data[i] as number)), `element ${i}`).toBeLessThanOrEqual(
      1e-5 * Math.max(1, Math.abs(x)),
    );
  });
}

describe.each(Object.keys(backends))("%s means what the interpreter means", (backend) => {
  const takes = (types: readonly string[]) =>
    backend !== "stablehlo" || !types.some((t) => t.startsWith("i4"));
  const emitted = opCases.filter(
    ([, op]) => takes(op.example[0]) && (backend === "reference" || !onlyPrepares(op)),
  );
  test.each(emitted.map(([name, , make]) => [name, make] as const))("%s", async (_, make) =>
    agrees(make(), backend),
  );
  test.each(symbolicCases)("%s", async (_, make) => agrees(make(), backend));
});

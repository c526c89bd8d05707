import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { afterAll, describe, expect, test } from "vitest";
import { legalize } from "../backends/backend.ts";
import { onnx } from "../backends/onnx/index.ts";
import { evaluate } from "../backends/reference/index.ts";
import type { Weights } from "../backends/weights.ts";
import { dim, plus, size } from "../ir/dim.ts";
import { Graph, type OpDef, type Value } from "../ir/graph.ts";
import { interpret } from "../ir/interpret.ts";
import { type Op, registry } from "../ir/op.ts";
import { cast, iota, param, preparations, reshape, slice } from "../ir/ops/index.ts";
import { count, type HostTensor, roundTo } from "../ir/tensor.ts";
import { type DType, parseType, tensor } from "../ir/type.ts";

const scratch = mkdtempSync(join(tmpdir(), "gemmac-ops-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const sizes = { T: 3, P: 2 };
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

/** Small deterministic values that suit the dtype: integers are valid positions and indices. */
const fill = (v: Value, salt: number): HostTensor => {
  const shape = v.shape.map((d) => size(d, sizes));
  const value = (i: number) => {
    if (v.dtype === "bool") return (i + salt) % 2;
    if (v.dtype === "i32") return (i + salt) % 3;
    if (v.dtype === "i8" || v.dtype === "i4") return ((i * 7 + salt) % 16) - 8;
    return roundTo("f32", 0.6 + Math.sin(i * 1.7 + salt) / 2);
  };
  return { shape, data: Float64Array.from({ length: count(shape) }, (_, i) => value(i)) };
};

/** Every output goes out as f32: the runtimes cannot hand out bf16. */
const graphOf = (v: Value, inputs: readonly Value[]) =>
  new Graph("op", { inputs, outputs: { y: cast(v, { to: "f32" }) } });

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

const standalone = [...registry.values()].filter((op) => op !== param);
const onlyPrepares = (op: OpDef) => Object.hasOwn(preparations, op.name);

describe.each(Object.keys(backends))("%s means what the interpreter means", (backend) => {
  const emitted = standalone.filter((op) => backend === "reference" || !onlyPrepares(op));
  test.each(emitted.map((op) => [op.name, op] as const))("%s", async (_, op) => {
    const [types, attrs = {}] = op.example;
    const inputs = types.map((t, i) => param({ name: `x${i}`, type: parseType(t) }));
    const v = (op as unknown as Op<readonly string[], {}>)(...inputs, attrs as never) as Value;
    await agrees(graphOf(v, inputs), backend);
  });

  const [T, P] = [dim("T"), dim("P")];
  const x = param({ name: "x", type: tensor("f32", 2, T, 4) });
  const past = param({ name: "past", type: tensor("f32", P) });
  test.each<[string, () => Graph]>([
    ["reshape to two symbolic sizes", () => graphOf(reshape(x, { shape: [T, 4, 2] }), [x])],
    ["iota over a sum of sizes", () => graphOf(iota({ shape: [plus(T, P)], dtype: "i32" }), [x, past])],
    ["slice up to a symbolic size", () => graphOf(slice(x, { axis: 1, to: T, from: 1 }), [x])],
    [
      "a symbolic iota along the first axis",
      () => graphOf(iota({ shape: [T, 2], dtype: "f32", axis: 0 }), [x]),
    ],
  ])("%s", async (_, make) => agrees(make(), backend));
});

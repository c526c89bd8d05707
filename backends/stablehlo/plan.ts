import type { Graph, Mesh, Value } from "../../ir/graph.ts";
import { attention, cast, gather, linear, quant_gather, quant_linear } from "../../ir/ops/index.ts";
import { dtypes } from "../../ir/type.ts";
import { devices } from "../../passes/specialize/shard.ts";
import type { Emitted } from "../backend.ts";
import { commonNames, described, type EmitOptions, fitted, graphsOf, modulesOf } from "./emit.ts";
import { exportedBlob, treesOf } from "./jax/exported.ts";
import { readme, runPy } from "./jax/program.ts";
import type { Argument, Module } from "./text/module.ts";
import { weightsFile, weightsHeader, weightsInOrder } from "./weights.ts";

/** Sums over devices that one step needs, and the bytes of them that a device holds. */
export interface Collectives {
  readonly allReduces: number;
  readonly bytes: number;
}

/** What the devices hold, and what they tell each other. Bytes are those of one device. */
export interface DevicePlan {
  readonly mesh: Mesh;
  readonly devices: number;
  readonly weights: number;
  readonly caches: number;
  readonly decode: Collectives;
  readonly prefill: Collectives;
  /** What XLA is free to choose, so that it is not counted: one sentence each. */
  readonly open: readonly string[];
}

export interface LayOut {
  readonly files: readonly { readonly path: string; readonly bytes: number }[];
  readonly header: number;
  readonly activations: Readonly<Record<string, string>>;
  readonly modules: NonNullable<Emitted["modules"]>;
  readonly device: DevicePlan;
}

/** What `emit` would write, to the byte, and what each device would hold. Reads no weights. */
export function layOut(g: Graph, asked: EmitOptions): LayOut {
  const options = fitted(g, asked);
  const modules = modulesOf(g, options);
  const texts = Object.entries(modules).flatMap(([name, m]) => [
    { path: `${name}.mlir`, bytes: m.text.length },
    { path: `${name}.jaxexp`, bytes: exportedBlob({ name, ...m, ...treesOf(m) }).length },
  ]);
  const weights = weightsInOrder(g, modules.decode);
  const header = weightsHeader(weights).length;
  const bytes = weights.reduce(
    (sum, w) => sum + elements(w.shape.map(Number)) * (dtypes[w.dtype] / 8),
    header,
  );
  return {
    files: [
      ...texts,
      { path: weightsFile, bytes },
      { path: "run.py", bytes: Buffer.byteLength(runPy) },
      { path: "README.md", bytes: Buffer.byteLength(readme(options)) },
    ],
    header,
    activations: commonNames(modules.prefill.activations, modules.decode.activations),
    modules: Object.fromEntries(Object.entries(modules).map(([name, m]) => [name, described(name, m)])),
    device: devicePlan(g, modules.decode, options),
  };
}

function devicePlan(g: Graph, decode: Module, options: EmitOptions): DevicePlan {
  const mesh = g.mesh ?? {};
  const held = (group: Argument["group"]) =>
    decode.args.filter((a) => a.group === group).reduce((sum, a) => sum + bytesOn(mesh, a), 0);
  const graphs = graphsOf(g, options);
  return {
    mesh,
    devices: devices(mesh),
    weights: held("weights"),
    caches: held("caches"),
    decode: collectivesOf(graphs.decode),
    prefill: collectivesOf(graphs.prefill),
    open: openIn(g, mesh),
  };
}

const elements = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);
const bitsOf = (v: Pick<Value, "type">): number => dtypes[v.type.dtype];

/** Bytes of `a` that one device holds. */
function bytesOn(mesh: Mesh, a: Argument): number {
  const pieces = (a.sharding ?? []).reduce((n, axis) => n * ((axis && mesh[axis]) || 1), 1);
  return (elements(a.type.shape.map(Number)) * dtypes[a.type.dtype]) / 8 / pieces;
}

/**
 * Sums over `model`: of each product whose columns are cut over it, and of each table that is looked up while its rows
 * are. That is Megatron's plan (arXiv:1909.08053): two a layer, and one for the embedding.
 */
function collectivesOf(g: Graph): Collectives {
  const mesh = g.mesh ?? {};
  if ((mesh.model ?? 1) === 1) return { allReduces: 0, bytes: 0 };
  const cut = (w: Value, axis: 0 | 1) => g.shardings.get(weightOf(w))?.[axis] === "model";
  const summed = g.values().filter((v) => {
    const w = linear.of(v)?.w ?? quant_linear.of(v)?.codes;
    const table = gather.of(v)?.table ?? quant_gather.of(v)?.codes;
    return (w && cut(w, 1)) || (table && cut(table, 0));
  });
  const bytes = summed.map((v) => (elements(v.shape.map(Number)) * bitsOf(v)) / 8 / (mesh.data ?? 1));
  return { allReduces: summed.length, bytes: bytes.reduce((a, b) => a + b, 0) };
}

/** The weight that `w` is, or is widened from. */
const weightOf = (w: Value): Value => cast.of(w)?.x ?? w;

function openIn(g: Graph, mesh: Mesh): string[] {
  const model = mesh.model ?? 1;
  const kv = Math.min(...g.values().flatMap((v) => attention.of(v)?.k.fixed(1) ?? []));
  const said: string[] = [];
  if ((mesh.fsdp ?? 1) > 1)
    said.push("over fsdp XLA gathers weights or sums products, whichever is less: that is not counted");
  if (Number.isFinite(kv) && kv > 1 && kv % model !== 0)
    said.push(
      `${kv} key heads do not divide over model=${model}: they are whole on each device, and attention gathers more`,
    );
  return said;
}

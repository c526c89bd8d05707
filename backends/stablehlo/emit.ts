import { UserError } from "../../ir/error.ts";
import { Graph, type Value } from "../../ir/graph.ts";
import { decomposeExcept } from "../../passes/decompose.ts";
import { isCache } from "../../passes/kv-cache.ts";
import { lastLogits } from "../../passes/last-logits.ts";
import { bindSizes } from "../../passes/specialize/bind-sizes.ts";
import type { EmitRequest, Emitted, EmittedFile, ModuleInterface } from "../backend.ts";
import { writeFileHashed } from "../files.ts";
import { emitters, named, tooGeneral } from "./emitters.ts";
import { exportedBlob, treesOf } from "./jax/exported.ts";
import { readme, runPy } from "./jax/program.ts";
import { findLoop } from "./layers/find.ts";
import { type Module, type Table, writeModule } from "./text/module.ts";
import { weightsInOrder, writeWeights } from "./weights.ts";

export interface EmitOptions {
  /** Texts that are run at once. */
  readonly batch: number;
  /** Tokens that a step of prefill takes. */
  readonly prefill: number;
  /** Products of fewer rows are padded to this many. */
  readonly rows: number;
  /** "f32", or "bf16" where products may round what they multiply to that, as TPUs do fastest. */
  readonly arithmetic: "f32" | "bf16";
  /** Whether layers are turns of a loop, so that text and compile time do not grow with their number. */
  readonly scanLayers: boolean;
}

export const keeps = (v: Value): boolean => !tooGeneral(v);

/** One function from a graph whose sizes are known. */
export function moduleOf(
  name: string,
  g: Graph,
  { rows, arithmetic, scanLayers = false }: Pick<EmitOptions, "rows" | "arithmetic"> & Partial<EmitOptions>,
): Module {
  const table: Table = emitters;
  const lower = (v: Value): Value => {
    const lowered = decomposeExcept(new Graph("meaning", { inputs: [], outputs: { y: v } }), keeps);
    return lowered.outputs.y as Value;
  };
  return writeModule(name, g, {
    table,
    named,
    lower,
    tuning: { rows, exact: arithmetic === "f32" },
    scanLayers,
  });
}

/** `options` with steps of prefill that the caches of `g` hold. */
export function fitted(g: Graph, options: EmitOptions): EmitOptions {
  const slots = Math.max(0, ...g.inputs.filter(isCache).map((v) => Number(v.shape[2])));
  return slots > 0 ? { ...options, prefill: Math.min(options.prefill, slots) } : options;
}

/** The two graphs of a model: many tokens and the score of one of them, and a token and its score. */
export function graphsOf(g: Graph, options: EmitOptions): Record<"prefill" | "decode", Graph> {
  const { batch, prefill } = options;
  if (!g.inputs.some((v) => v.attrs.name === "start"))
    throw new UserError(
      "usage",
      "a StableHLO artifact needs caches of a fixed size",
      "let the pipeline hold insert-kv-cache{capacity=4096}, or the like",
    );
  const one = bindSizes(g, { B: batch, T: 1 });
  const many = bindSizes(scoreOne(g, options.scanLayers), { B: batch, T: prefill });
  return { prefill: many, decode: one };
}

/** The functions of these graphs. */
export function modulesOf(g: Graph, options: EmitOptions): Record<"prefill" | "decode", Module> {
  const { prefill, decode } = graphsOf(g, options);
  return { prefill: moduleOf("prefill", prefill, options), decode: moduleOf("decode", decode, options) };
}

/** One row of scores. In a loop the last layer cannot do less than the others, so only what follows runs on that row. */
function scoreOne(g: Graph, scanLayers: boolean): Graph {
  if (!scanLayers) return lastLogits({ row: "given" }).run(g);
  const ends = findLoop(g).carried.map(({ after }, i) => [`layers.${i}`, after] as const);
  const kept = g.with({ outputs: { ...g.outputs, ...Object.fromEntries(ends) } });
  const { outputs, ...scored } = lastLogits({ row: "given" }).run(kept);
  const own = Object.entries(outputs).filter(([name]) => !ends.some(([end]) => end === name));
  return new Graph(g.name, { ...scored, outputs: Object.fromEntries(own) });
}

/** Writes the modules as text and for JAX, the weights, and a program that runs them. */
export async function emit(request: EmitRequest, asked: EmitOptions): Promise<Emitted> {
  const { dir, graph } = request;
  const options = fitted(graph, asked);
  const modules = modulesOf(graph, options);
  const files: EmittedFile[] = [];
  for (const [name, module] of Object.entries(modules)) {
    files.push(await writeFileHashed(dir, `${name}.mlir`, module.text));
    const blob = exportedBlob({ name, ...module, ...treesOf(module) });
    files.push(await writeFileHashed(dir, `${name}.jaxexp`, blob));
  }
  files.push(await writeFileHashed(dir, "run.py", runPy));
  files.push(await writeFileHashed(dir, "README.md", readme(options)));
  files.push(await writeWeights(request, weightsInOrder(graph, modules.decode)));
  return {
    files,
    activations: commonNames(modules.prefill.activations, modules.decode.activations),
    ...(graph.mesh && { mesh: graph.mesh }),
    modules: Object.fromEntries(Object.entries(modules).map(([name, m]) => [name, described(name, m)])),
  };
}

type Names = Readonly<Record<string, string>>;
export const commonNames = (a: Names, b: Names): Names =>
  Object.fromEntries(Object.entries(a).filter(([origin, name]) => b[origin] === name));

/** A module as the manifest tells of it. */
export const described = (name: string, { args, results }: Module): ModuleInterface => ({
  file: `${name}.jaxexp`,
  args: args.map(({ group, name, type, stack }) => ({
    group,
    name,
    dtype: type.dtype,
    shape: type.shape.map(Number),
    ...(stack && { stack }),
  })),
  results: results.map(({ name, type, over }) => ({
    name,
    dtype: type.dtype,
    shape: type.shape.map(Number),
    ...(over !== undefined && { over }),
  })),
});

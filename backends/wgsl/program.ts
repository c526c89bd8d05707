import { type Dim, size } from "../../ir/dim.ts";
import { dtypes } from "../../ir/type.ts";
import type { Binding, Dispatch, Kernel, Phase, Plan, Result } from "../kernel/index.ts";
import { mostDrawn } from "../kernel/library/sample.ts";
import type * as out from "./runtime/program.ts";
import type { Sampler } from "./sampler.ts";
import { weightBuffers } from "./weights.ts";

/** The parts of a program that its plan decides. */
export type Planned = Pick<
  out.Program,
  "weights" | "states" | "inputs" | "arenaBytes" | "prefill" | "decode" | "sampling"
>;

/**
 * A plan as data. `all` are the kernels that the artifact holds, which may come from another plan of the same graph,
 * with those that draw tokens.
 */
export function programOf(plan: Plan, all: readonly Kernel[], sampler: Sampler | undefined): Planned {
  const kernels = new Map(all.map((k, i) => [k.name, i]));
  const states = new Map(plan.states.map((s, i) => [s, i]));
  const firstBuffer = new Map<unknown, number>();
  let buffers = 0;
  for (const w of plan.weights) {
    firstBuffer.set(w, buffers);
    buffers += w.chunks.length;
  }
  const binding = (b: Binding): out.Binding => {
    if (b.space === "arena") return ["arena", 0, b.offset, b.bytes];
    const index = b.space === "state" ? indexIn(states, b.state) : indexIn(firstBuffer, b.weight) + b.chunk;
    return [b.space, index, b.offset, b.bytes];
  };
  const result = ({ binding: b, shape, dtype }: Result): out.Result => {
    if (dtypes[dtype] !== 32) throw new Error(`a result is ${dtype}; the runtime reads 32 bits an element`);
    return { binding: binding(b), shape: shape.map(sizeOf) };
  };
  // Caches of two numbers to a word are for kernels only.
  const plain = ({ binding: b }: Result) => b.space !== "state" || !b.state.pairs;
  const results = (all: Readonly<Record<string, Result>>) =>
    Object.fromEntries(
      Object.entries(all)
        .filter(([, r]) => plain(r))
        .map(([name, r]) => [name, result(r)]),
    );
  const dispatch = (d: Dispatch): out.Dispatch => ({
    kernel: indexIn(kernels, d.kernel.name),
    bindings: d.bindings.map(binding),
    uniforms: d.uniforms.map(sizeOf),
    grid: d.grid.map(({ of, per, most }) =>
      most === undefined ? ([sizeOf(of), per] as const) : ([sizeOf(of), per, most] as const),
    ),
    origin: d.origin,
  });
  const phase = (p: Phase): out.Phase => ({
    open: p.open,
    dispatches: p.dispatches.map(dispatch),
    outputs: results(p.outputs),
    kept: results(p.kept),
  });
  const own = plan.states.map(({ name, kind, bytes }) => ({ name, kind, bytes }));
  const extra = Object.entries(sampler?.states ?? {});
  const place = (name: string) => own.length + extra.findIndex(([n]) => n === name);
  const draws = (p: Phase): out.Dispatch[] =>
    (sampler?.launches ?? []).map(({ kernel, groups }) => ({
      kernel: indexIn(kernels, kernel.name),
      bindings: kernel.buffers.map(({ name }): out.Binding => {
        const state = sampler?.states[name];
        if (state !== undefined) return ["state", place(name), 0, state];
        return binding((p.outputs.logits as Result).binding);
      }),
      uniforms: [],
      grid: [[groups, 1]],
      origin: "sample",
    }));
  return {
    weights: weightBuffers(plan.weights),
    states: [...own, ...extra.map(([name, bytes]) => ({ name, kind: "sampling", bytes }))],
    sampling: sampler
      ? {
          most: mostDrawn,
          count: place("count"),
          chances: place("chances"),
          token: place("token"),
          prefill: draws(plan.prefill),
          decode: draws(plan.decode),
        }
      : null,
    inputs: plan.inputs.map(({ name, at, length }) => ({ name, at, length })),
    arenaBytes: plan.arenaBytes,
    prefill: phase(plan.prefill),
    decode: phase(plan.decode),
  };
}

function indexIn<K>(all: ReadonlyMap<K, number>, key: K): number {
  const found = all.get(key);
  if (found === undefined) throw new Error("the plan uses what it does not list");
  return found;
}

function sizeOf(d: Dim): out.Size {
  if (typeof d === "number") return d;
  return [...d.terms].map(([monomial, c]) => [c, ...monomial.split("*").filter(Boolean)] as const);
}

/** Sizes for a small case of a kernel: those of its first launch, with few tokens. */
export function smallUniforms(plan: Plan, k: Kernel): Readonly<Record<string, number>> {
  for (const { open, dispatches } of [plan.decode, plan.prefill]) {
    const launch = dispatches.find((d) => d.kernel === k);
    if (!launch) continue;
    const few = Object.fromEntries(Object.entries(open).map(([name, most]) => [name, Math.min(3, most)]));
    return Object.fromEntries(k.uniforms.map((u, i) => [u.name, size(launch.uniforms[i] ?? 0, few)]));
  }
  return {};
}

import { names, type Sizes, size } from "../../../ir/dim.ts";
import type { Graph, Value } from "../../../ir/graph.ts";
import { Cover, type CoveredLaunch, type Stage, slotBytes } from "../cover/cover.ts";
import type { Bound, Home, Slot } from "../cover/tile.ts";
import { Names } from "../generic/names.ts";
import type { Kernel } from "../lang/index.ts";
import type { Half } from "../library/format.ts";
import { bindSizes } from "./bind-sizes.ts";
import { arrange, type Lifetime } from "./memory.ts";
import type {
  Binding,
  Device,
  Dispatch,
  Extent,
  PackedWeight,
  Phase,
  Plan,
  Result,
  State,
  StepInput,
} from "./types.ts";
import { alignment, Packer } from "./weights.ts";

export interface PlanOptions {
  readonly device: Device;
  /** The most tokens that one prefill takes. */
  readonly tokens: number;
  /** Values to keep for looking at, by origin. */
  readonly keep?: readonly string[];
  /** Sizes of the graph besides T; B is 1. */
  readonly sizes?: Sizes;
  /** Names of generic kernels, where those of several plans are to differ. */
  readonly names?: Names;
}

/**
 * Launches and storage for a graph that went through the passes of a kernel target. Reads no weights. Throws
 * TypeError naming the value and the limit when a device cannot run it.
 */
export function plan(
  graph: Graph,
  { device, tokens, keep = [], sizes = {}, names = new Names() }: PlanOptions,
): Plan {
  const open = bindSizes(graph, { B: 1, ...sizes });
  const most = { T: tokens };
  const inputs = stepInputs(open, most);
  const packer = new Packer(open, device.bindingBytes);
  const states = stateInputs(open, most, inputs);
  const stepBytes = Math.max(4, ...inputs.map((i) => (i.at + i.length) * 4));
  const step: State = { name: "step", kind: "step", bytes: stepBytes };
  // One for each key head and tile of queries of a launch; no more launches than one count at a time.
  const counters: State = { name: "counters", kind: "counters", bytes: 4 * 1024 };
  const stage: Stage = {
    device,
    packer,
    counters,
    names,
    inputs: new Map(inputs.map((i) => [i.name, i])),
    states: new Map(states.map((s) => [s.name, s])),
  };
  const drafts = [cover(open, stage, most, keep), cover(bindSizes(open, { T: 1 }), stage, {}, keep)] as const;
  const arenaBytes = Math.max(...drafts.map((d) => d.arenaBytes));
  const [prefill, decode] = drafts.map((d) => phase(d, step)) as [Phase, Phase];
  const kernels = new Map<string, Kernel>();
  const read = new Set<PackedWeight>();
  let counts = false;
  for (const { kernel, bindings } of [...decode.dispatches, ...prefill.dispatches]) {
    kernels.set(kernel.name, kernel);
    for (const b of bindings) {
      if (b.space === "weight") read.add(b.weight);
      counts ||= b.space === "state" && b.state === counters;
    }
  }
  return {
    weights: packer.weights.filter((w) => read.has(w)),
    states: [step, ...states, ...(counts ? [counters] : [])],
    inputs,
    arenaBytes,
    prefill,
    decode,
    kernels: [...kernels.values()],
  };
}

const elements = (v: Value, most: Sizes): number => v.shape.reduce<number>((n, d) => n * size(d, most), 1);

/** The i32 inputs, one after the other: single numbers first. */
function stepInputs(g: Graph, most: Sizes): StepInput[] {
  const whole = g.inputs.filter((v) => v.dtype === "i32").sort((a, b) => a.type.rank - b.type.rank);
  let at = 0;
  return whole.map((v) => {
    const length = elements(v, most);
    const placed = { name: String(v.attrs.name), at, length };
    at += length;
    return placed;
  });
}

/** Attention reads four words at once, and so eight numbers of a head. */
const pairsOf = (v: Value): Half | undefined =>
  (v.dtype === "f16" || v.dtype === "bf16") && v.type.rank === 4 && v.fixed(3) % 8 === 0
    ? v.dtype
    : undefined;

function stateInputs(g: Graph, most: Sizes, inputs: readonly StepInput[]): State[] {
  const kept = new Set(Object.values(g.aliases));
  const taken = new Set(inputs.map((i) => i.name));
  return g.inputs
    .filter((v) => !taken.has(String(v.attrs.name)))
    .map((v) => {
      const name = String(v.attrs.name);
      const pairs = kept.has(name) ? pairsOf(v) : undefined;
      return {
        name,
        bytes: elements(v, most) * (pairs ? 2 : 4),
        kind: kept.has(name) ? ("cache" as const) : ("input" as const),
        ...(pairs && { pairs }),
      };
    });
}

/** One phase, its storage placed. */
interface Draft {
  readonly cover: Cover;
  readonly most: Sizes;
  readonly places: ReadonlyMap<Slot, Binding & { space: "arena" }>;
  readonly arenaBytes: number;
  readonly keep: readonly string[];
  /** The last launch that writes each slot. */
  readonly written: ReadonlyMap<Slot, number>;
}

function cover(g: Graph, stage: Stage, most: Sizes, keep: readonly string[]): Draft {
  const made = new Cover(g, stage);
  made.run();
  const { launches } = made;
  const slotOf = (b: Bound): Slot | undefined => {
    const home =
      b.kind === "value" || b.kind === "part"
        ? made.homes.get(b.value)
        : b.kind === "home"
          ? b.home
          : undefined;
    if (b.kind === "scratch") return made.scratches.get(b.scratch);
    return home?.kind === "arena" ? home.slot : undefined;
  };
  const lives = new Map<Slot, { first: number; last: number }>();
  const touch = (slot: Slot | undefined, at: number) => {
    if (!slot) return;
    const life = lives.get(slot) ?? { first: at, last: at };
    lives.set(slot, { first: Math.min(life.first, at), last: Math.max(life.last, at) });
  };
  const written = new Map<Slot, number>();
  launches.forEach(({ kernel, bind }, i) => {
    for (const b of Object.values(bind)) touch(slotOf(b), i);
    for (const m of kernel.buffers) {
      const slot = m.space === "output" && slotOf(bind[m.name] as Bound);
      if (slot) written.set(slot, i);
    }
  });
  const pinned = [
    ...Object.values(g.outputs),
    ...[...g.origins].filter(([, o]) => keep.includes(o)).map(([v]) => v),
  ];
  for (const v of pinned) {
    const home = made.homes.get(v);
    if (home?.kind === "arena" && lives.has(home.slot)) touch(home.slot, launches.length);
  }
  const slots = [...lives.keys()];
  const all: Lifetime[] = slots.map((s) => ({
    bytes: slotBytes(s, most),
    ...(lives.get(s) as { first: number; last: number }),
  }));
  const { offsets, bytes } = arrange(all, alignment);
  const places = new Map(
    slots.map((s, i) => [
      s,
      { space: "arena", offset: offsets[i] as number, bytes: (all[i] as Lifetime).bytes } as const,
    ]),
  );
  return { cover: made, most, places, arenaBytes: bytes, keep, written };
}

function phase({ cover: made, most, places, keep, written }: Draft, step: State): Phase {
  const { graph, launches, homes } = made;
  const at = (home: Home): Binding => {
    // What is empty has no place.
    if (home.kind === "arena") return places.get(home.slot) ?? { space: "arena", offset: 0, bytes: 0 };
    const state = home.kind === "state" ? home.state : step;
    return { space: "state", state, offset: 0, bytes: state.bytes };
  };
  const binding = (b: Bound): Binding => {
    if (b.kind === "step") return { space: "state", state: step, offset: 0, bytes: step.bytes };
    if (b.kind === "scratch") return at({ kind: "arena", slot: made.scratches.get(b.scratch) as Slot });
    if (b.kind === "home") return at(b.home);
    if (b.kind === "weight") {
      const piece = b.weight.chunks[b.chunk];
      return {
        space: "weight",
        weight: b.weight,
        chunk: b.chunk,
        offset: b.offset ?? 0,
        bytes: b.bytes ?? piece?.bytes ?? 0,
      };
    }
    const whole = at(homes.get(b.value) as Home);
    return b.kind === "part" ? { ...whole, offset: whole.offset + b.offset, bytes: b.bytes } : whole;
  };
  const origins = scopes(graph);
  const dispatch = (launch: CoveredLaunch): Dispatch => {
    const { kernel, bind, uniforms, grid, product } = launch;
    const need = <T>(found: T | undefined, what: string): T => {
      if (found === undefined) throw new Error(`kernel ${kernel.name} has no ${what}`);
      return found;
    };
    const bindings = kernel.buffers.map((m) => binding(need(bind[m.name], m.name)));
    const origin = origins.get(launch.value) ?? "";
    const layer = /\blayers\.(\d+)/.exec(origin)?.[1];
    const alone: Extent = { of: 1, per: 1 };
    return {
      kernel,
      bindings,
      uniforms: kernel.uniforms.map((u) => need(uniforms[u.name], u.name)),
      grid: [grid[0], grid[1] ?? alone, grid[2] ?? alone],
      ...(product && { product }),
      origin,
      layer: layer === undefined ? undefined : Number(layer),
      weightBytes: bindings.reduce((n, b) => n + (b.space === "weight" ? b.bytes : 0), 0),
    };
  };
  const result = (v: Value): Result => ({
    binding: at(homes.get(v) as Home),
    dtype: v.dtype,
    shape: v.shape,
  });
  const named = [...graph.origins].flatMap(([v, origin]) => {
    const home = homes.get(v);
    const after = home?.kind === "arena" && v.dtype === "f32" ? written.get(home.slot) : undefined;
    return after === undefined ? [] : [{ origin, after, result: result(v) }];
  });
  const kept = [...graph.origins].filter(([v, o]) => keep.includes(o) && homes.get(v)?.kind === "arena");
  const outputs = Object.entries(graph.outputs).map(([name, v]) => {
    const input = graph.aliases[name];
    const state = input === undefined ? undefined : made.stateOf(input);
    return [name, state ? { ...result(v), binding: at({ kind: "state", state }) } : result(v)] as const;
  });
  const usesT = launches.some((l) =>
    [...Object.values(l.uniforms), ...l.grid.map((e) => e?.of ?? 1)].some((d) => names(d).length > 0),
  );
  return {
    open: usesT ? (most as Record<string, number>) : {},
    dispatches: launches.map(dispatch),
    outputs: Object.fromEntries(outputs),
    kept: Object.fromEntries(kept.map(([v, o]) => [o, result(v)])),
    named,
  };
}

/** The origin of each value; one without takes that of its first user that has one, else of its operands. */
function scopes(g: Graph): Map<Value, string> {
  const out = new Map(g.origins);
  const values = g.values();
  for (const v of values.toReversed()) {
    const own = out.get(v);
    if (own) for (const x of v.inputs) if (!out.has(x)) out.set(x, own);
  }
  for (const v of values) {
    const from = v.inputs.map((x) => out.get(x)).find(Boolean);
    if (!out.has(v) && from) out.set(v, from);
  }
  return out;
}

import { dim, product, type Sizes, size } from "../../../ir/dim.ts";
import type { Graph, Value } from "../../../ir/graph.ts";
import { constant, param, transpose, update } from "../../../ir/ops/index.ts";
import { isCheap } from "../generic/element.ts";
import {
  type Generic,
  isReduction,
  type Leaf,
  mapKernel,
  matmulKernel,
  mostGroups,
  reduceKernel,
  type Source,
  storeKernel,
} from "../generic/kernels.ts";
import type { Names } from "../generic/names.ts";
import type { Half } from "../library/format.ts";
import type { Device, PackedWeight, State, StepInput } from "../plan/types.ts";
import type { Packer, Packing } from "../plan/weights.ts";
import { attend } from "./attend.ts";
import { heads, keep } from "./heads.ts";
import { product as productTile } from "./product.ts";
import { embed, norm } from "./rows.ts";
import type { Bound, Home, Launch, Match, Scene, Scratch, Slot, Tile } from "./tile.ts";

/** What hand-written kernels compute, the largest first. */
const tiles: readonly Tile[] = [heads, attend, keep, embed, productTile, norm];

/** Storage that does not depend on the phase. */
export interface Stage {
  readonly device: Device;
  readonly packer: Packer;
  readonly inputs: ReadonlyMap<string, StepInput>;
  /** By the names of inputs that are no part of the step. */
  readonly states: ReadonlyMap<string, State>;
  readonly counters: State;
  readonly names: Names;
}

export interface CoveredLaunch extends Launch {
  readonly value: Value;
}

/**
 * Covers a graph with launches, from its outputs down: hand-written kernels where one fits, generic ones for the
 * rest, so that every graph runs.
 */
export class Cover implements Scene, Source {
  readonly graph: Graph;
  readonly launches: CoveredLaunch[] = [];
  readonly homes = new Map<Value, Home>();
  readonly scratches = new Map<Scratch, Slot>();
  readonly rounded: Scene["rounded"] = new Map();
  readonly #stage: Stage;
  readonly #uses = new Map<Value, number>();
  readonly #readers = new Map<Value, Value[]>();
  readonly #next = new Map<string, Value>();
  readonly #inputs: ReadonlySet<Value>;
  readonly #matches = new Map<Value, Match | undefined>();
  readonly #lowered = new Map<Value, Value>();
  readonly #overwritten = new Set<Value>();
  /** Values that must stand in memory although they could be computed on the spot. */
  readonly #forced = new Set<Value>();
  #root: Value | undefined;
  readonly #own: ReadonlySet<Value>;
  /** The value of the graph that launches are being made for. */
  #cause: Value | undefined;

  constructor(graph: Graph, stage: Stage) {
    this.graph = graph;
    this.#stage = stage;
    this.#inputs = new Set(graph.inputs);
    this.#own = new Set(graph.values());
    const outputs = Object.entries(graph.outputs);
    for (const v of [...graph.values().flatMap((v) => v.inputs), ...outputs.map(([, v]) => v)])
      this.#uses.set(v, this.uses(v) + 1);
    for (const v of graph.values())
      for (const x of v.inputs) this.#readers.set(x, [...(this.#readers.get(x) ?? []), v]);
    for (const [output, input] of Object.entries(graph.aliases))
      this.#next.set(input, graph.outputs[output] as Value);
    for (const v of graph.inputs) {
      const name = String(v.attrs.name);
      const step = stage.inputs.get(name);
      const state = stage.states.get(name);
      if (step) this.homes.set(v, { kind: "step", at: step.at });
      else if (state) this.homes.set(v, { kind: "state", state });
    }
  }

  get device(): Device {
    return this.#stage.device;
  }
  get names(): Names {
    return this.#stage.names;
  }
  get counters(): Bound {
    return { kind: "home", home: { kind: "state", state: this.#stage.counters } };
  }
  uses(v: Value): number {
    return this.#uses.get(v) ?? 0;
  }
  readers(v: Value): readonly Value[] | undefined {
    const found = this.#readers.get(v) ?? [];
    return found.length === this.uses(v) ? found : undefined;
  }
  stored(v: Value): Value | undefined {
    return this.#stage.packer.stored(v);
  }
  pack(parts: readonly Value[], as: Packing, beside?: PackedWeight): PackedWeight {
    return this.#stage.packer.pack(parts, as, beside);
  }
  stepAt(v: Value): number | undefined {
    const home = this.homes.get(v);
    return home?.kind === "step" ? home.at : undefined;
  }
  /** The storage of the input called `name`. */
  stateOf(name: string): State | undefined {
    return this.#stage.states.get(name);
  }
  pairs(past: Value): Half | undefined {
    const home = this.homes.get(past);
    return home?.kind === "state" ? home.state.pairs : undefined;
  }
  nextOf(past: Value): Value | undefined {
    return this.#inputs.has(past) ? this.#next.get(String(past.attrs.name)) : undefined;
  }

  /** Covers the whole graph. Inputs are overwritten last. */
  run(): void {
    const overwrites = Object.keys(this.graph.aliases);
    const names = Object.keys(this.graph.outputs);
    const ordered = [...names.filter((n) => !overwrites.includes(n)), ...overwrites];
    for (const name of ordered) {
      const v = this.graph.outputs[name] as Value;
      this.need(v);
      if (!this.homes.has(v)) this.#launch(v, this.#map(v));
    }
    for (const name of overwrites) this.#keep(name);
  }

  /** An output that overwrites an input is copied there, where nothing wrote it in place. */
  #keep(name: string): void {
    const v = this.graph.outputs[name] as Value;
    const state = this.#stage.states.get(this.graph.aliases[name] as string);
    const home = this.homes.get(v);
    if (!state || (home?.kind === "state" && home.state === state)) return;
    const made = mapKernel(v, this, this.device.threads);
    this.#push(v, made, { kind: "state", state });
  }

  /** Sees to it that `v` stands in memory. Weights do from the start. */
  need(v: Value): void {
    if (this.homes.has(v) || this.#isWeight(v)) return;
    const outer = this.#cause;
    if (this.#own.has(v)) this.#cause = v;
    this.#cover(v);
    this.#cause = outer;
  }

  #cover(v: Value): void {
    const match = this.#match(v);
    if (match) {
      for (const x of match.needs) this.need(x);
      for (const made of match.makes) this.#settle(made);
      const [main] = match.makes;
      if (main && this.#own.has(main)) this.#cause = main;
      for (const launch of match.launches()) this.#emit(v, launch);
      return;
    }
    const seen = viewed(v);
    if (seen && !this.#isWeight(seen) && seen.op !== constant) {
      this.need(seen);
      const home = this.homes.get(seen);
      if (home && home.kind !== "step") {
        this.homes.set(v, home);
        return;
      }
    }
    const lowered = this.primitive(v);
    if (lowered !== v) {
      this.need(lowered);
      this.homes.set(v, this.homes.get(lowered) as Home);
      return;
    }
    this.#launch(v, this.#generic(v));
  }

  #isWeight(v: Value): boolean {
    return v.op === param && !this.#inputs.has(v);
  }

  #match(v: Value): Match | undefined {
    if (this.#matches.has(v)) return this.#matches.get(v);
    let found: Match | undefined;
    for (const tile of tiles) {
      const m = tile.match(v, this);
      // What was matched must be the very nodes that are rebuilt from it.
      if (m?.makes.every((made, i) => made === m.rebuilt[i])) {
        found = m;
        break;
      }
    }
    this.#matches.set(v, found);
    return found;
  }

  /** Gives what a tile makes its place: what overwrites an input takes that input's. */
  #settle(v: Value): void {
    if (this.homes.has(v)) return;
    const dest = update.of(v)?.dest;
    const home = dest && this.nextOf(dest) === v ? this.homes.get(dest) : undefined;
    if (dest && home) this.#overwritten.add(dest);
    this.homes.set(v, home ?? { kind: "arena", slot: { elements: product(v.shape) } });
  }

  #emit(v: Value, launch: Launch): void {
    for (const bound of Object.values(launch.bind)) {
      if (bound.kind === "scratch" && !this.scratches.has(bound.scratch)) {
        const { rows, columns } = bound.scratch;
        this.scratches.set(bound.scratch, { elements: product([rows, columns]) });
      }
      if (bound.kind === "value" && this.#overwritten.has(bound.value))
        throw new TypeError(
          `${v.op.name} : ${v.type} reads ${bound.value.attrs.name} after it is overwritten; read the new value instead`,
        );
    }
    if (launch.kernel.buffers.length > this.device.buffers)
      throw new TypeError(
        `kernel ${launch.kernel.name} needs ${launch.kernel.buffers.length} buffers; the device binds ${this.device.buffers}`,
      );
    this.launches.push({ ...launch, value: this.#cause ?? v });
  }

  #generic(v: Value): Generic {
    const { threads } = this.device;
    const written = update.of(v);
    const write = () => {
      if (written && this.nextOf(written.dest) === v) return storeKernel(v, this, threads);
      if (isReduction(v.op.name)) return reduceKernel(v, this, threads);
      if (v.op.name === "matmul") return matmulKernel(v, this, threads);
      return mapKernel(v, this, threads);
    };
    this.#root = v;
    // A product reads each element many times.
    if (v.op.name === "matmul") for (const x of v.inputs) if (!isCheap(x)) this.#forced.add(x);
    let made = write();
    if (made.kernel.buffers.length > this.device.buffers) {
      for (const x of v.inputs) if (x.op !== constant) this.#forced.add(x);
      made = write();
    }
    this.#root = undefined;
    return made;
  }
  #map(v: Value): Generic {
    this.#root = undefined;
    return mapKernel(v, this, this.device.threads);
  }

  #launch(v: Value, made: Generic): void {
    if (v.shape.includes(0)) {
      this.#settle(v);
      return;
    }
    for (const x of made.reads) this.need(x);
    this.#settle(v);
    this.#push(v, made, this.homes.get(v) as Home);
  }

  #push(v: Value, { kernel, reads, sizes }: Generic, to: Home): void {
    const bind: Record<string, Bound> = {};
    kernel.buffers.forEach((buffer, i) => {
      const x = reads[i];
      bind[buffer.name] = x ? this.#bound(x) : { kind: "home", home: to };
    });
    const written = update.of(v);
    const work = isReduction(v.op.name)
      ? { of: product(v.shape), per: 1 }
      : {
          of: product((written && this.homes.get(written.dest) === to ? written.src : v).shape),
          per: kernel.threads,
        };
    const uniforms = Object.fromEntries(kernel.uniforms.map((u, i) => [u.name, dim(sizes[i] as string)]));
    this.#emit(v, { kernel, bind, uniforms, grid: [{ ...work, most: mostGroups }] });
  }

  #bound(x: Value): Bound {
    if (this.stepAt(x) !== undefined) return { kind: "step" };
    if (!this.#isWeight(x)) return { kind: "value", value: x };
    const weight = this.#packed(x);
    if (weight.chunks.length > 1)
      throw new TypeError(
        `${weight.name} has ${weight.rows * weight.rowBytes} bytes, more than the device binds at once, and no ` +
          "kernel reads it in pieces here; keep the product or look-up that reads it as the model writes it",
      );
    return { kind: "weight", weight, chunk: 0 };
  }
  #packed(x: Value): PackedWeight {
    return this.pack([this.stored(x) ?? x], x.type.rank > 1 ? "matrix" : "numbers");
  }

  leaf(v: Value): Leaf | undefined {
    const at = this.stepAt(v);
    if (at !== undefined) return { kind: "step", from: at };
    if (this.#isWeight(v)) {
      const { dtype, rowBytes } = this.#packed(v);
      return { kind: "packed", name: "weight", dtype, rowBytes };
    }
    const words = { kind: "words", name: v.op === param ? "input" : v.op.name } as const;
    if (this.pairs(v))
      throw new TypeError(
        `${v.attrs.name ?? v.op.name} : ${v.type} holds two numbers to a word, which only attention reads`,
      );
    if (this.homes.has(v)) return words;
    if (v === this.#root || v.op === constant) return undefined;
    if (this.#forced.has(v) || this.#match(v)) return words;
    const lowered = this.primitive(v);
    if (walkers.has(lowered.op.name)) return words;
    return this.uses(v) > 1 && !isCheap(v) ? words : undefined;
  }

  primitive(v: Value): Value {
    const known = this.#lowered.get(v);
    if (known) return known;
    const lowered = v.op.decompose && !this.#match(v) ? this.primitive(v.op.decompose(v.inputs, v.attrs)) : v;
    this.#lowered.set(v, lowered);
    return lowered;
  }
}

const walkers: ReadonlySet<string> = new Set(["sum", "mean", "max", "matmul"]);

/** What has the same elements in the same order as `v`, so that it needs no memory of its own. */
function viewed(v: Value): Value | undefined {
  if (v.op.name === "reshape") return v.inputs[0];
  const t = transpose.of(v);
  if (!t) return undefined;
  const moved = t.attrs.perm.filter((axis) => t.x.shape[axis] !== 1);
  return moved.every((axis, i) => i === 0 || (moved[i - 1] as number) < axis) ? t.x : undefined;
}

/** Bytes of a slot when every open size is at its largest. */
export const slotBytes = (slot: Slot, most: Sizes): number => size(slot.elements, most) * 4;

import { type Dim, product } from "../../../ir/dim.ts";
import type { Graph, Value } from "../../../ir/graph.ts";
import type { Kernel } from "../lang/index.ts";
import type { Half } from "../library/format.ts";
import type { GemmShape } from "../library/products/gemm.ts";
import type { Device, Extent, PackedWeight, State } from "../plan/types.ts";
import type { Packing } from "../plan/weights.ts";

/** What a launch is bound to, before storage has places. */
export type Bound =
  /** A value that stands in memory, or is to stand there. */
  | { readonly kind: "value"; readonly value: Value }
  /** A piece of a weight, or some bytes of it. */
  | {
      readonly kind: "weight";
      readonly weight: PackedWeight;
      readonly chunk: number;
      readonly offset?: number;
      readonly bytes?: number;
    }
  /** Memory for what passes between launches of one tile: f32 elements. */
  | { readonly kind: "scratch"; readonly scratch: Scratch }
  /** A part of a value, for a launch that makes no more. */
  | { readonly kind: "part"; readonly value: Value; readonly offset: number; readonly bytes: number }
  | { readonly kind: "step" }
  | { readonly kind: "home"; readonly home: Home };

/** How many rows of numbers there are. */
export const rowsOf = (v: Value): Dim => product(v.shape.slice(0, -1));

export const value = (v: Value): Bound => ({ kind: "value", value: v });
export const whole = (weight: PackedWeight, chunk = 0): Bound => ({ kind: "weight", weight, chunk });

/** Memory of the arena for what one launch writes and later ones read. */
export interface Slot {
  readonly elements: Dim;
}
/** Where a value stands. */
export type Home =
  | { readonly kind: "arena"; readonly slot: Slot }
  | { readonly kind: "state"; readonly state: State }
  | { readonly kind: "step"; readonly at: number };

export interface Scratch {
  readonly rows: Dim;
  readonly columns: number;
}

export interface Launch {
  readonly kernel: Kernel;
  /** By the names of the kernel's buffers. */
  readonly bind: Readonly<Record<string, Bound>>;
  readonly uniforms: Readonly<Record<string, Dim>>;
  readonly grid: readonly [x: Extent, y?: Extent, z?: Extent];
  /** What it multiplies, if it is a product of many tokens. */
  readonly product?: GemmShape;
}

/** A part of the graph that a few hand-written kernels compute. */
export interface Match {
  /** What the launches leave in memory. */
  readonly makes: readonly Value[];
  /** The same, built anew from what was matched: a match counts only where these are the very same nodes. */
  readonly rebuilt: readonly Value[];
  /** What must stand in memory before; `launches` is called when it does. */
  readonly needs: readonly Value[];
  launches(): readonly Launch[];
}

/** What a tile may ask about the graph that it is to cover. */
export interface Scene {
  readonly graph: Graph;
  readonly device: Device;
  /** Counts that are zero between launches. */
  readonly counters: Bound;
  /** Where values stand besides their f32 in the bf16 that tensor cores multiply, in so many parts. */
  readonly rounded: Map<Value, { readonly bound: Bound; readonly parts: 1 | 2 }>;
  /** The values that read `v`; undefined where an output of the graph does. */
  readers(v: Value): readonly Value[] | undefined;
  /** How many values and outputs read `v`. */
  uses(v: Value): number;
  /** The param behind `v` if it is a weight, as the checkpoint or the setup stores it: a plain widening is looked through. */
  stored(v: Value): Value | undefined;
  /** Weights below one another, all of one type; cut, where they must be, as `beside` is. */
  pack(parts: readonly Value[], as: Packing, beside?: PackedWeight): PackedWeight;
  /** Where an i32 input begins in the step state; undefined for anything else. */
  stepAt(v: Value): number | undefined;
  /** The type of a cache whose words hold two numbers. */
  pairs(past: Value): Half | undefined;
  /** What overwrites the input `past` at the end of a step. */
  nextOf(past: Value): Value | undefined;
}

/** Whether the device can bind all that a kernel reads and writes. */
export const binds = (kernel: Kernel, { buffers }: Device): boolean => kernel.buffers.length <= buffers;

/** Recognises what some hand-written kernels compute, by its last value. */
export interface Tile {
  readonly name: string;
  match(v: Value, scene: Scene): Match | undefined;
}

import type { Dim } from "../../../ir/dim.ts";
import type { Value } from "../../../ir/graph.ts";
import type { DType } from "../../../ir/type.ts";
import type { Kernel } from "../lang/index.ts";
import type { Half } from "../library/format.ts";
import type { GemmShape } from "../library/products/gemm.ts";

/**
 * How a group of weights lies in memory: matrices below one another, every row padded with zeros to a multiple of
 * 16 bytes. Codes are two's complement, nibbles lowest first.
 */
export interface PackedWeight {
  /** Unique; that of the first part, with what was joined to it. */
  readonly name: string;
  readonly dtype: DType;
  readonly rows: number;
  /** Elements of a row, without the padding. */
  readonly columns: number;
  readonly rowBytes: number;
  /** Params of the graph, in order; their rows add up to `rows`. */
  readonly parts: readonly Value[];
  /** Where the rows are cut so that each piece fits a binding. One piece when there is no such limit. */
  readonly chunks: readonly WeightChunk[];
}
export interface WeightChunk {
  readonly firstRow: number;
  readonly rows: number;
  /** rows · rowBytes. */
  readonly bytes: number;
}

/** Storage that lives from step to step. */
export interface State {
  readonly name: string;
  readonly bytes: number;
  /**
   * "cache": keys or values, the graph's input and output of that name, updated in place; starts at zero.
   * "step": the graph's whole-number inputs, i32, at the places that `StepInput` tells.
   * "counters": u32, starts at zero and is left at zero.
   * "input": another input of the graph, a word of 32 bits for each element.
   */
  readonly kind: "cache" | "step" | "counters" | "input";
  /** In a cache of this type, a word holds numbers i and i + D/2 of a head, i < D/2; else a word holds one number. */
  readonly pairs?: Half;
}

/** An i32 input of the graph, for at most `length` numbers from element `at` of the step state. */
export interface StepInput {
  readonly name: string;
  readonly at: number;
  readonly length: number;
}

/** A range of storage, from a multiple of 256 bytes. */
export type Binding =
  | {
      readonly space: "weight";
      readonly weight: PackedWeight;
      readonly chunk: number;
      readonly offset: number;
      readonly bytes: number;
    }
  | { readonly space: "state"; readonly state: State; readonly offset: number; readonly bytes: number }
  /** Activations, which share one arena. `bytes` is for the longest chunk. */
  | { readonly space: "arena"; readonly offset: number; readonly bytes: number };

/** ⌈of / per⌉ groups, but no more than `most`: a size of the graph, known when it is launched. */
export interface Extent {
  readonly of: Dim;
  readonly per: number;
  /** Set where groups walk on by the size of the grid. */
  readonly most?: number;
}

/** One launch. */
export interface Dispatch {
  readonly kernel: Kernel;
  /** One for each of the kernel's buffers, in order. */
  readonly bindings: readonly Binding[];
  /** One for each of the kernel's uniforms, in order. */
  readonly uniforms: readonly Dim[];
  readonly grid: readonly [x: Extent, y: Extent, z: Extent];
  /** The slash-scoped name of what it computes. */
  readonly origin: string;
  /** The repeated layer that it is part of. Layers with equal lists of kernels differ in bindings only. */
  readonly layer: number | undefined;
  /** What it multiplies, if it is a product of many tokens. */
  readonly product?: GemmShape;
  /** Bytes of weights that it reads at most: what bounds its time. */
  readonly weightBytes: number;
}

/** A tensor that can be looked at after a run. */
export interface Result {
  readonly binding: Binding;
  readonly dtype: DType;
  readonly shape: readonly Dim[];
}

/** One specialisation of the graph. */
export interface Phase {
  /** Sizes that are still open, such as T, with the most they may be. Empty for a fixed one. */
  readonly open: Readonly<Record<string, number>>;
  readonly dispatches: readonly Dispatch[];
  readonly outputs: Readonly<Record<string, Result>>;
  /** Values that were asked to be kept, by origin; those that no kernel yields on its own are missing. */
  readonly kept: Readonly<Record<string, Result>>;
  /** Values that have a name, for as long as their memory is theirs: from the end of dispatch `after` on. */
  readonly named: readonly { readonly origin: string; readonly after: number; readonly result: Result }[];
}

/** A graph as launches and storage. */
export interface Plan {
  readonly weights: readonly PackedWeight[];
  readonly states: readonly State[];
  readonly inputs: readonly StepInput[];
  /** Bytes for the activations of any phase. */
  readonly arenaBytes: number;
  /** Many tokens at once: T is open. */
  readonly prefill: Phase;
  /** One token: T = 1. */
  readonly decode: Phase;
  /** Every kernel of all phases, once. */
  readonly kernels: readonly Kernel[];
}

/** What a device can do, and how kernels are to be cut for it. */
export interface Device {
  /** Threads of a group for products, norms and sampling; a power of two. */
  readonly threads: number;
  /** Neighbouring threads that can share sums without meeting all others: the warp of CUDA. Divides `threads`. */
  readonly lanes: number;
  /** Bytes of memory that the threads of a group share. */
  readonly sharedBytes: number;
  /** Bytes that one binding can span. */
  readonly bindingBytes: number;
  /** Buffers that one kernel can be bound to. */
  readonly buffers: number;
  /** Whether a kernel may start while the one before it ends: then its first weights are loaded ahead. */
  readonly prefetch: boolean;
  /** The most groups that may share the keys of one query. */
  readonly splits: number;
  /** Groups that keep the device busy: keys are not shared by more than that takes. Any number, when left out. */
  readonly busy?: number;
  /** Whether warps of 32 threads multiply bf16; not, when left out. */
  readonly tensorCores?: boolean;
  /** Whether products of many tokens come in a variant that multiplies halves (f16), for devices that have them. */
  readonly halves?: boolean;
  /** Whether groups can see each other's writes within one launch (a fence and a counter). */
  readonly lastArriver: boolean;
}

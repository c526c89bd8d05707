import type { Turns } from "./text/turns.ts";

/** What `program.json` holds: a model as launches of kernels over storage. Written by the compiler, run by `Engine`. */
export interface Program {
  readonly format: "gemmac-program/1";
  readonly name: string;
  readonly facts: {
    readonly vocab: number;
    readonly context: number;
    readonly layers: number;
    readonly kvHeads: number;
    readonly headDim: number;
  };
  readonly text: TextFacts;
  /** Device limits beyond which the model does not run. */
  readonly limits: Readonly<Record<string, number>>;
  readonly chunks: readonly ChunkFile[];
  readonly weights: readonly WeightBuffer[];
  readonly states: readonly { readonly name: string; readonly kind: string; readonly bytes: number }[];
  /** i32 inputs of each step, as elements of the state of kind "step". */
  readonly inputs: readonly { readonly name: string; readonly at: number; readonly length: number }[];
  /** Slots of the shortest cache that is a ring; null when none is. */
  readonly ring: number | null;
  readonly arenaBytes: number;
  readonly kernels: readonly KernelFile[];
  readonly prefill: Phase;
  readonly decode: Phase;
  /** How the GPU draws the next token by itself; null where the vocabulary is too large for that. */
  readonly sampling: Sampling | null;
}

/** Launches that follow those of a phase and leave one token. */
export interface Sampling {
  /** The most tokens that a draw can be among. */
  readonly most: number;
  /** States: u32 how many; f32 temperature, top p and a number in [0, 1); u32 the token. */
  readonly count: number;
  readonly chances: number;
  readonly token: number;
  readonly prefill: readonly Dispatch[];
  readonly decode: readonly Dispatch[];
}

/** What text needs besides the tokenizer. */
export interface TextFacts {
  readonly bos: number | null;
  readonly stops: readonly number[];
  readonly sampling: {
    readonly sample: boolean;
    readonly temperature: number | null;
    readonly topK: number | null;
    readonly topP: number | null;
    readonly maxTokens: number | null;
  };
  /** The chat template; or why there is none. */
  readonly chat: Turns | { readonly missing: string };
  /** Whether there is a tokenizer.json. */
  readonly tokenizer: FileFact | null;
}

export interface FileFact {
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface ChunkFile extends FileFact {
  /** Where its bytes go: `bytes` at `offset` of a weight buffer. In order, without gaps. */
  readonly parts: readonly { readonly weight: number; readonly offset: number; readonly bytes: number }[];
}

export interface WeightBuffer {
  readonly name: string;
  readonly bytes: number;
}

/** One kernel's texts, and a small case that each must solve before it is used. */
export interface KernelFile {
  readonly name: string;
  /** How each of its buffers is bound, in order; its uniforms, if it has any, come last. */
  readonly buffers: readonly ("read" | "write")[];
  /** The fastest first; the last one runs on every device. */
  readonly variants: readonly (FileFact & { readonly features: readonly string[] })[];
  readonly uniformBytes: number;
  readonly check: KernelCheck | null;
}

/** A launch on made-up numbers, and what must come out. */
export interface KernelCheck {
  readonly grid: readonly [number, number, number];
  readonly uniforms: readonly number[];
  /** For each buffer: how many 32-bit words it has, and how they are made up. */
  readonly buffers: readonly { readonly words: number; readonly fill: Fill }[];
  /** Words that must come out: buffer, index, and the value as f32 or as whole number. */
  readonly want: readonly {
    readonly buffer: number;
    readonly float: boolean;
    readonly at: readonly number[];
    readonly values: readonly number[];
  }[];
}
/** Numbers for a check: zeros; halves or floats in [-1, 1); any bits; or the words given, repeated. */
export type Fill = "zero" | "f32" | "f16x2" | "bf16x2" | "bits" | readonly number[];

/** A polynomial in named sizes: a number, or terms of a coefficient and names to multiply it with. */
export type Size = number | readonly (readonly [coefficient: number, ...names: string[]])[];

export interface Phase {
  /** Names of sizes that are open, with the most they may be. */
  readonly open: Readonly<Record<string, number>>;
  readonly dispatches: readonly Dispatch[];
  readonly outputs: Readonly<Record<string, Result>>;
  readonly kept: Readonly<Record<string, Result>>;
}

export interface Dispatch {
  /** Index of the kernel. */
  readonly kernel: number;
  readonly bindings: readonly Binding[];
  readonly uniforms: readonly Size[];
  /** ⌈of / per⌉ groups along x, y and z, but no more than `most`. */
  readonly grid: readonly (readonly [of: Size, per: number, most?: number])[];
  readonly origin: string;
}

/** A range of storage: a weight or a state by its index, or of the arena. */
export type Binding = readonly [
  space: "weight" | "state" | "arena",
  index: number,
  offset: number,
  bytes: number,
];

export interface Result {
  readonly binding: Binding;
  readonly shape: readonly Size[];
}

/** The number that `size` stands for, given what its names do. */
export function sizeOf(size: Size, open: Readonly<Record<string, number>>): number {
  if (typeof size === "number") return size;
  return size.reduce((sum, [c, ...names]) => sum + names.reduce((n, name) => n * (open[name] ?? 0), c), 0);
}

import { UserError } from "../ir/error.ts";
import type { Graph, Mesh, Value } from "../ir/graph.ts";
import type { composites, primitives } from "../ir/ops/index.ts";
import type { DType } from "../ir/type.ts";
import { verify } from "../ir/verify.ts";
import { decomposeExcept } from "../passes/decompose.ts";
import type { Pass } from "../passes/pass.ts";
import type { Weights } from "./weights.ts";
import type { TextFacts } from "./wgsl/runtime/program.ts";

type OpNames<M> = { [K in keyof M]: M[K] extends { readonly composite: boolean } ? K : never }[keyof M] &
  string;
export type PrimitiveName = OpNames<typeof primitives>;
export type CompositeName = OpNames<typeof composites>;

/** Writes one value in the target's language and says what it is called there. */
export type Emit<Cx> = (cx: Cx, v: Value) => string;
/** One line per op. Every primitive is required, so tsc proves that any graph can be lowered; composites are a bonus. */
export type Emitters<Cx> = { readonly [K in PrimitiveName]: Emit<Cx> } & {
  readonly [K in CompositeName]?: Emit<Cx>;
};

/** The operands and attributes of `v`, which the table says is `op`. */
export function operands<T>(op: { of(v: Value): T | undefined }, v: Value): T {
  const found = op.of(v);
  if (!found) throw new Error(`the emitter table lists ${v.op.name} under another op`);
  return found;
}

/** What the model is besides its graph: what an artifact's readers need to know. */
export interface ModelFacts {
  readonly vocab: number;
  /** Longest sequence the model was made for, in tokens. */
  readonly context: number;
  /** Layers, key/value heads and head size: the shape of the cache. */
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** How large caches of a fixed size are to be. */
export interface CacheSize {
  /** Slots of each cache, in tokens: how long a text may be. */
  readonly capacity?: number;
  /** Tokens that the model was made for: more slots would never be used. */
  readonly context?: number;
}

/** Slots of caches where nothing is said. */
export const usualCapacity = (context = Number.POSITIVE_INFINITY): number => Math.min(4096, context);

/** What an artifact that runs by itself needs to know besides its graph. */
export interface About {
  /** What the model is called. */
  readonly name: string;
  /** Of gemmac. */
  readonly version: string;
  readonly facts: ModelFacts;
  readonly text: TextFacts;
  /** Paths of licence files in the artifact. */
  readonly licences: readonly string[];
}

export interface EmitRequest {
  readonly graph: Graph;
  readonly weights: Weights;
  readonly facts: Pick<ModelFacts, "context">;
  /** Reads tokenizer and chat template, for targets whose artifact runs by itself. */
  readonly about?: () => Promise<About>;
  /** An existing, empty folder to write into. */
  readonly dir: string;
  /** Called with the number of weight bytes written since the last call. */
  readonly progress: (bytes: number) => void;
  /** Called once for each tensor that holds NaN or infinity. */
  readonly warn: (message: string) => void;
}
export interface EmittedFile {
  /** Path inside the artifact, with forward slashes. */
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string;
}
/** How a program calls one function of an artifact; plain data, for its manifest. */
export interface ModuleInterface {
  readonly file: string;
  readonly args: readonly {
    readonly group: string;
    readonly name: string;
    readonly dtype: DType;
    readonly shape: readonly number[];
    /** The tensors that it holds along its first axis, where they are several; weights of them lie in this order. */
    readonly stack?: readonly string[];
  }[];
  readonly results: readonly {
    readonly name: string;
    readonly dtype: DType;
    readonly shape: readonly number[];
    /** The argument whose memory it takes over. */
    readonly over?: string;
  }[];
}

export interface Emitted {
  readonly files: readonly EmittedFile[];
  /** Where programs call functions by position: how. */
  readonly modules?: Readonly<Record<string, ModuleInterface>>;
  /** The devices that they run on together. */
  readonly mesh?: Mesh;
  /** What each origin's value is called in the artifact. */
  readonly activations: Readonly<Record<string, string>>;
}

/** What one call of `append` computed, one row for each token fed. */
export interface Step {
  /** f32, row-major [tokens, vocab]; with `last` only the last token's row. */
  readonly logits: Float32Array;
  /** The watched activations, f32, by origin. */
  readonly watched: ReadonlyMap<string, Float32Array>;
}

/** How a token is drawn from scores. */
export interface Drawing {
  /** 0, or left out, takes the likeliest token each time. */
  readonly temperature?: number;
  /** Draw among the k likeliest only. */
  readonly topK?: number;
  /** Draw among the likeliest whose probabilities first sum to p. */
  readonly topP?: number;
}

/** A model that is ready to run: tokens in, logits out, with a memory of what was fed before. */
export interface Session {
  readonly facts: ModelFacts;
  /** Feed tokens after those fed before. With `last`, only the last one is scored, which is faster. */
  append(ids: readonly number[], options?: { readonly last?: boolean }): Promise<Step>;
  /**
   * Feeds tokens likewise and draws the next one; `random` gives numbers in [0, 1). Where the device can, it draws by itself
   * and no scores are fetched from it. Absent where that saves nothing.
   */
  draw?(ids: readonly number[], how: Drawing, random: () => number): Promise<number>;
  /** Forget everything fed. */
  reset(): void;
  close(): Promise<void>;
}

/** An f32 tensor by its name in an artifact. */
export interface Named {
  readonly name: string;
  readonly dims: readonly number[];
  readonly data: Float32Array;
}

/** Rows of a head that are enough to check it by; larger heads are cut down to so many. */
export const headRows = 16_384;

/** An artifact that is run piece by piece on one fresh text. */
export interface Pieces {
  /** Computes `wanted` from `given` and from the text, in f32. Of what is given only the parts needed count. */
  run(given: readonly Named[], wanted: readonly string[]): Promise<Map<string, Float32Array>>;
  /** The same as the artifact runs, where its products round what they multiply. */
  readonly rounded?: Pieces["run"];
  close(): Promise<void>;
}

export interface Backend {
  readonly name: string;
  readonly doc: string;
  /** Block size that quantization takes when none is asked for; 0 is a whole row, and 32 what is left out. */
  readonly quantBlock?: number;
  /** What quantization stores scales as when nothing is asked for; f32 when left out. */
  readonly quantScales?: "f16";
  /** What runs before legalization. */
  readonly passes: readonly Pass[];
  /** Those of them that it cannot do without, besides fuse-quant and fold-weights. A pipeline without them gets them at its end. */
  readonly needs?: readonly string[];
  /** Whether there is an emitter for `v` and no limit in its way. */
  keeps(v: Value): boolean;
  /** Limits beyond the op table. The reason is shown to the user. */
  refuses?(v: Value): string | undefined;
  emit(request: EmitRequest): Promise<Emitted>;
}

/** `g` in the ops that `b` emits. Throws UserError naming op, type and reason when something stays refused. */
export function legalize(g: Graph, b: Backend): Graph {
  const legal = decomposeExcept(g, (v) => b.keeps(v));
  verify(legal);
  for (const v of legal.values()) {
    const why = b.refuses?.(v);
    if (why)
      throw new UserError(
        "input",
        `${b.name} cannot run ${v.op.name} : ${v.type} at ${legal.origins.get(v) ?? v.attrs.name ?? `%${v.id}`}: ${why}`,
        "change the passes, or choose another target",
      );
  }
  return legal;
}

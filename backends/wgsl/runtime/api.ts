import type { Message } from "./text/turns.ts";

/** How far loading is. */
export interface Progress {
  readonly stage: "download" | "compile" | "check" | "ready";
  /** Bytes of weights that are on the GPU, and of all. */
  readonly done: number;
  readonly total: number;
  /** Of `done`, bytes that came from the browser's own storage. */
  readonly cached: number;
  /** Estimated seconds until all weights are there; undefined while there is nothing to go by. */
  readonly secondsLeft: number | undefined;
}

export interface LoadOptions {
  /** Called as weights arrive and pipelines are made. */
  readonly onProgress?: (progress: Progress) => void;
  /** Called with what the user should know: no room to keep weights, a kernel replaced, the GPU lost and back. */
  readonly onNotice?: (message: string) => void;
  /** Stops loading. */
  readonly signal?: AbortSignal;
  /** A WebGPU `GPU` where `navigator.gpu` is none, such as Dawn's in Node. */
  readonly gpu?: object;
  /** Whether weights are kept in the browser's storage (OPFS) for the next visit; true when left out. */
  readonly cache?: boolean;
  /**
   * Whether the prompt's products may round to halves (`shader-f16`), where the device has them. When left out they may on
   * GPUs, and not where a processor plays one, which is slower at them. All else is in f32.
   */
  readonly halves?: boolean;
}

export interface SampleOptions {
  /** 0 takes the likeliest token each time. The model's own setting when left out. */
  readonly temperature?: number;
  /** Draw among the k likeliest only; 0 for all. */
  readonly topK?: number;
  /** Draw among the likeliest whose probabilities first sum to p. */
  readonly topP?: number;
  /** The same seed draws the same text. */
  readonly seed?: number;
  /** Most tokens to write. The model's own setting, or as many as fit, when left out. */
  readonly maxTokens?: number;
  /** Ends the text after the token at hand. */
  readonly signal?: AbortSignal;
}

/** How the last text went. */
export interface Run {
  /** Tokens of the prompt, and of those how many had to be read anew. */
  readonly promptTokens: number;
  readonly readTokens: number;
  readonly tokens: number;
  readonly secondsToFirst: number;
  /** After the first token. */
  readonly tokensPerSecond: number;
  readonly stop: "stop" | "length" | "context" | "aborted";
}

/** What a model is. */
export interface ModelInfo {
  readonly name: string;
  readonly vocab: number;
  /** Most tokens of prompt and answer together. */
  readonly context: number;
  readonly layers: number;
  /** Bytes of weights. */
  readonly bytes: number;
  readonly canChat: boolean;
}

/** A model on the GPU. One text at a time. */
export interface Gemma {
  readonly info: ModelInfo;
  /** The GPU and the kernels in use, in words. */
  readonly device: string;
  /** How the last text went; undefined before the first. */
  readonly lastRun: Run | undefined;
  /** The model's answer to a conversation, piece by piece. Throws GemmaError. */
  chat(messages: readonly Message[], options?: SampleOptions): AsyncGenerator<string, void, void>;
  /** What follows `prompt`, piece by piece. Throws GemmaError. */
  generate(prompt: string, options?: SampleOptions): AsyncGenerator<string, void, void>;
  /** Text as token ids; `special` adds BOS. */
  tokens(text: string, options?: { readonly special?: boolean }): number[];
  /** Token ids as text. */
  text(ids: Iterable<number>): string;
  /** Scores f32[vocab] for what follows `ids` (at least one). Throws GemmaError. */
  logits(ids: readonly number[]): Promise<Float32Array>;
  /** Frees the GPU's memory. */
  dispose(): void;
}

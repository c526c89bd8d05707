/** What every Gemma has. Sizes are counts of elements. */
export interface Dimensions {
  readonly vocab: number;
  /** Size of the residual stream. */
  readonly width: number;
  /** Size of the gate, and as much again of the up projection, in the feed-forward block. */
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Size of one head. `heads * headDim` need not equal `width`. */
  readonly headDim: number;
  /** Added to the mean square in RMSNorm. */
  readonly eps: number;
  /** Longest sequence the model was made for, in tokens. */
  readonly context: number;
  readonly activation: Activation;
  /** Whether the output head is the embedding table. */
  readonly tied: boolean;
}

export type Activation = "gelu_tanh" | "gelu_erf" | "silu";

/** Rotary embedding: position p turns pair i of a head by p · theta^(-2i/headDim) / factor. */
export interface Rope {
  readonly theta: number;
  readonly factor: number;
}

/** Whether a layer's queries see all keys before them, or only those in the window. */
export type LayerType = "full" | "sliding";

/** Layers of two types. */
export interface Windows {
  readonly layerTypes: readonly LayerType[];
  /** Keys that a query of a sliding layer sees: its own, and those right before it. */
  readonly window: number;
}

/** Gemma 1 (arXiv:2403.08295). */
export interface Gemma1Config extends Dimensions {
  readonly family: "gemma";
  readonly rope: Rope;
}

/** Gemma 2 (arXiv:2408.00118). */
export interface Gemma2Config extends Dimensions, Windows {
  readonly family: "gemma2";
  readonly rope: Rope;
  /** Attention scores are divided by its square root. */
  readonly queryScalar: number;
  /** Bound of attention scores; 0 for none. */
  readonly attentionCap: number;
  /** Bound of logits; 0 for none. */
  readonly finalCap: number;
}

/** The language model of Gemma 3 (arXiv:2503.19786). */
export interface Gemma3Config extends Dimensions, Windows {
  readonly family: "gemma3";
  /** Of full layers. */
  readonly rope: Rope;
  /** Of sliding layers. */
  readonly localRope: Rope;
  /** Attention scores are divided by its square root. */
  readonly queryScalar: number;
  /** Bound of logits; 0 for none. */
  readonly finalCap: number;
}

/** The shape of a Gemma model. */
export type GemmaConfig = Gemma1Config | Gemma2Config | Gemma3Config;

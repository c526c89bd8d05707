import { storedType, type TensorInfo } from "../../backends/weights.ts";
import { dim } from "../../ir/dim.ts";
import { Graph, type Value } from "../../ir/graph.ts";
import {
  add,
  cast,
  gather,
  gelu,
  gelu_erf,
  ggml_dequantize,
  matmul,
  mean,
  mul,
  param,
  reshape,
  rsqrt,
  silu,
  transpose,
} from "../../ir/ops/index.ts";
import { type DType, tensor } from "../../ir/type.ts";
import type { Activation, Dimensions } from "./config.ts";

/** How the checkpoint stores a tensor; activations are f32 whatever it is. */
export type StoredAs = (
  name: string,
  shape: readonly number[],
) => DType | Pick<TensorInfo, "dtype" | "format" | "plusOne">;

const activations = { gelu_tanh: gelu, gelu_erf, silu } as const satisfies Record<Activation, unknown>;

/**
 * What the Gemma papers share, for their definitions to be written in. Every part takes the path of its place in the
 * model, which names its weights as the checkpoint does, and the values it makes.
 */
export class Parts {
  /** i32[B,T]. */
  readonly tokens: Value;
  /** i32[B,T]. */
  readonly positions: Value;
  readonly #c: Dimensions;
  readonly #storedAs: StoredAs;
  readonly #origins = new Map<Value, string>();
  readonly #batch = dim("B");
  readonly #length = dim("T");

  constructor(c: Dimensions, storedAs: StoredAs) {
    this.#c = c;
    this.#storedAs = storedAs;
    const type = tensor("i32", this.#batch, this.#length);
    this.tokens = param({ name: "tokens", type });
    this.positions = param({ name: "positions", type });
  }

  /** Gives `v` a name of its own. */
  named(path: string, v: Value): Value {
    if (!this.#origins.has(v)) this.#origins.set(v, path);
    return v;
  }

  /** A tensor of the checkpoint, under the name that it has there; what lies in blocks comes as f32. */
  weight(path: string, ...shape: number[]): Value {
    const name = weightName(path);
    const { dtype, format } = this.#stored(name, shape);
    if (!format) return param({ name, type: tensor(dtype, ...shape) });
    return ggml_dequantize(param({ name, type: storedType({ dtype, format, shape }) }), { format });
  }

  #stored(name: string, shape: readonly number[]): Exclude<ReturnType<StoredAs>, DType> {
    const stored = this.#storedAs(name, shape);
    return typeof stored === "string" ? { dtype: stored } : stored;
  }

  /** x·wᵀ, [B,T,in] → [B,T,out]. */
  linear(x: Value, path: string, out: number): Value {
    const w = f32(this.weight(path, out, x.fixed(-1)));
    return this.named(path, matmul(x, transpose(w, { perm: [1, 0] })));
  }

  /** RMSNorm over the last axis. Weights are stored around zero, so the scale is 1 + w; GGUF files store 1 + w. */
  norm(x: Value, path: string): Value {
    const unit = mul(x, rsqrt(add(mean(mul(x, x)), this.#c.eps)));
    const w = f32(this.weight(path, x.fixed(-1)));
    const { plusOne } = this.#stored(weightName(path), [x.fixed(-1)]);
    return this.named(path, mul(unit, plusOne ? w : add(w, 1)));
  }

  /** One projection to heads, [B,T,width] → [B,T,heads,headDim]. */
  project(x: Value, path: string, heads: number): Value {
    const all = this.linear(x, path, heads * this.#c.headDim);
    return reshape(all, { shape: [this.#batch, this.#length, heads, this.#c.headDim] });
  }

  /** [B,heads,T,headDim] → [B,T,width]: heads side by side, and the projection back. */
  merge(heads: Value, path: string): Value {
    const { headDim, width } = this.#c;
    const row = heads.fixed(1) * headDim;
    const merged = reshape(swapped(heads), { shape: [this.#batch, this.#length, row] });
    return this.linear(this.named(`${path}/attention`, merged), `${path}/o_proj`, width);
  }

  /** The gated feed-forward block (Shazeer 2020), [B,T,width] → [B,T,width]. */
  feed(x: Value, path: string): Value {
    const { hidden, width, activation } = this.#c;
    const gate = activations[activation](this.linear(x, `${path}/gate_proj`, hidden));
    const up = this.linear(x, `${path}/up_proj`, hidden);
    return this.linear(this.named(`${path}/geglu`, mul(gate, up)), `${path}/down_proj`, width);
  }

  /** Rows of the embedding table, times √width: [B,T] → [B,T,width]. */
  embed(): Value {
    const rows = f32(gather(this.#table(), this.tokens));
    return this.named("model/embed_tokens", mul(rows, Math.sqrt(this.#c.width)));
  }

  /** The final norm and the head, which is the embedding table where it is tied: [B,T,width] → [B,T,vocab]. */
  head(x: Value): Value {
    const { tied, vocab, width } = this.#c;
    const last = this.norm(x, "model/norm");
    const table = tied ? this.#table() : this.weight("lm_head", vocab, width);
    return this.named("lm_head", matmul(last, transpose(f32(table), { perm: [1, 0] })));
  }

  graph(name: string, logits: Value): Graph {
    const inputs = [this.tokens, this.positions];
    return new Graph(name, { inputs, outputs: { logits }, origins: this.#origins });
  }

  #table(): Value {
    return this.weight("model/embed_tokens", this.#c.vocab, this.#c.width);
  }
}

const weightName = (path: string): string => `${path}.weight`.replaceAll("/", ".");
const f32 = (x: Value): Value => cast(x, { to: "f32" });

/** [B,T,heads,headDim] ↔ [B,heads,T,headDim]. */
export const swapped = (x: Value): Value => transpose(x, { perm: [0, 2, 1, 3] });

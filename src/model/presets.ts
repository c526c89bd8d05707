import { UserError } from "../../ir/error.ts";
import type {
  Dimensions,
  Gemma1Config,
  Gemma2Config,
  Gemma3Config,
  GemmaConfig,
  LayerType,
} from "./config.ts";

const shared = { headDim: 256, eps: 1e-6, activation: "gelu_tanh", tied: true } as const;
const plain = { theta: 10_000, factor: 1 } as const;

type Sizes = Pick<Dimensions, "width" | "hidden" | "layers" | "heads" | "kvHeads"> & Partial<Dimensions>;

/** The last of every `pattern` layers is full. */
const types = (layers: number, pattern: number): LayerType[] =>
  Array.from({ length: layers }, (_, i) => ((i + 1) % pattern ? "sliding" : "full"));

const gemma1 = (sizes: Sizes): Gemma1Config => ({
  ...{ ...shared, family: "gemma", vocab: 256_000, context: 8192, rope: plain },
  ...sizes,
});

const gemma2 = (sizes: Sizes, queryScalar = 256): Gemma2Config => ({
  ...{ ...shared, family: "gemma2", vocab: 256_000, context: 8192, rope: plain },
  ...{ attentionCap: 50, finalCap: 30, window: 4096, layerTypes: types(sizes.layers, 2) },
  ...{ queryScalar, ...sizes },
});

/** Sizes up to 1B read text alone and have a shorter context; larger ones have rows for images in their table. */
const gemma3 = (sizes: Sizes, more: Partial<Gemma3Config> = {}): Gemma3Config => ({
  ...{ ...shared, family: "gemma3", vocab: 262_208, context: 131_072, rope: { theta: 1_000_000, factor: 8 } },
  ...{ localRope: plain, queryScalar: 256, finalCap: 0, window: 1024, layerTypes: types(sizes.layers, 6) },
  ...sizes,
  ...more,
});
const textOnly = {
  vocab: 262_144,
  context: 32_768,
  window: 512,
  rope: { theta: 1_000_000, factor: 1 },
} as const;

const small = { width: 2048, hidden: 16_384, layers: 18, heads: 8, kvHeads: 1 };
const large = { width: 3072, hidden: 24_576, layers: 28, heads: 16, kvHeads: 16 };

/**
 * The models as released on the Hugging Face Hub, and Gemma 1 as Table 1 of its paper states it (arXiv:2403.08295).
 *
 * Two numbers differ there. The paper counts 256128 vocabulary entries, the padded table of the training code; the
 * released checkpoints store 256000. And the paper's "feedforward hidden dims", 32768 and 49152, count the gate
 * and the up projection together; `hidden` is the size of one of them, so half of that, in every preset.
 */
export const presets: Readonly<Record<string, GemmaConfig>> = {
  "gemma-2b": gemma1(small),
  "gemma-7b": gemma1(large),
  "gemma-2b-paper": gemma1({ ...small, vocab: 256_128 }),
  "gemma-7b-paper": gemma1({ ...large, vocab: 256_128 }),
  "gemma-2-2b": gemma2({ width: 2304, hidden: 9216, layers: 26, heads: 8, kvHeads: 4 }),
  "gemma-2-9b": gemma2({ width: 3584, hidden: 14_336, layers: 42, heads: 16, kvHeads: 8 }),
  "gemma-2-27b": gemma2(
    { width: 4608, hidden: 36_864, layers: 46, heads: 32, kvHeads: 16, headDim: 128 },
    144,
  ),
  "gemma-3-270m": gemma3({ width: 640, hidden: 2048, layers: 18, heads: 4, kvHeads: 1 }, textOnly),
  "gemma-3-1b": gemma3({ width: 1152, hidden: 6912, layers: 26, heads: 4, kvHeads: 1 }, textOnly),
  "gemma-3-4b": gemma3({ width: 2560, hidden: 10_240, layers: 34, heads: 8, kvHeads: 4 }),
  "gemma-3-12b": gemma3({ width: 3840, hidden: 15_360, layers: 48, heads: 16, kvHeads: 8 }),
  "gemma-3-27b": gemma3(
    { width: 5376, hidden: 21_504, layers: 62, heads: 32, kvHeads: 16, headDim: 128 },
    { queryScalar: 168 },
  ),
};

/** The preset of that name. Throws UserError that lists the names there are. */
export function preset(name: string): GemmaConfig {
  const found = Object.hasOwn(presets, name) ? presets[name] : undefined;
  if (found) return found;
  const names = Object.keys(presets).join(", ");
  throw new UserError("usage", `there is no preset ${JSON.stringify(name)}`, `use one of ${names}`);
}

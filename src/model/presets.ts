import { UserError } from "../../ir/error.ts";
import type { GemmaConfig } from "./config.ts";

const shared = {
  family: "gemma",
  headDim: 256,
  eps: 1e-6,
  theta: 10_000,
  context: 8192,
  activation: "gelu_tanh",
  tied: true,
} as const;
const small = { ...shared, width: 2048, hidden: 16_384, layers: 18, heads: 8, kvHeads: 1 };
const large = { ...shared, width: 3072, hidden: 24_576, layers: 28, heads: 16, kvHeads: 16 };

/**
 * Gemma 1 as released on the Hugging Face Hub, and as Table 1 of the paper states it (arXiv:2403.08295).
 *
 * Two numbers differ. The paper counts 256128 vocabulary entries, the padded table of the training code; the
 * released checkpoints store 256000. And the paper's "feedforward hidden dims", 32768 and 49152, count the gate
 * and the up projection together; `hidden` is the size of one of them, so half of that, in every preset.
 */
export const presets: Readonly<Record<string, GemmaConfig>> = {
  "gemma-2b": { ...small, vocab: 256_000 },
  "gemma-7b": { ...large, vocab: 256_000 },
  "gemma-2b-paper": { ...small, vocab: 256_128 },
  "gemma-7b-paper": { ...large, vocab: 256_128 },
};

/** The preset of that name. Throws UserError that lists the names there are. */
export function preset(name: string): GemmaConfig {
  const found = Object.hasOwn(presets, name) ? presets[name] : undefined;
  if (found) return found;
  const names = Object.keys(presets).join(", ");
  throw new UserError("usage", `there is no preset ${JSON.stringify(name)}`, `use one of ${names}`);
}

import type { Graph } from "../../ir/graph.ts";
import type { GemmaConfig } from "./config.ts";
import { gemma1 } from "./gemma1.ts";
import { gemma2 } from "./gemma2.ts";
import { gemma3 } from "./gemma3.ts";
import type { StoredAs } from "./parts.ts";

export type { StoredAs } from "./parts.ts";

/**
 * A Gemma as its paper reads: no cache, no fusion, no device; passes add those. Weights keep the names, shapes and
 * dtypes of the checkpoint.
 *
 * Inputs: `tokens` i32[B,T] and their `positions` i32[B,T]. Output: `logits` f32[B,T,vocab].
 */
export function gemma(c: GemmaConfig, storedAs: StoredAs = () => "bf16"): Graph {
  switch (c.family) {
    case "gemma":
      return gemma1(c, storedAs);
    case "gemma2":
      return gemma2(c, storedAs);
    case "gemma3":
      return gemma3(c, storedAs);
  }
}

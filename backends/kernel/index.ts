import type { Pass } from "../../passes/pass.ts";
import { parsePipeline } from "../../passes/pipeline.ts";

export { Names } from "./generic/names.ts";
export type { Kernel } from "./lang/index.ts";
export type { GemmShape } from "./library/products/gemm.ts";
export { bf16Pieces } from "./library/products/to-bf16.ts";
export { type PlanOptions, plan } from "./plan/plan.ts";
export type * from "./plan/types.ts";
export { alignment, packedBytes } from "./plan/weights.ts";
export * from "./print/index.ts";

/**
 * What runs before a plan. `capacity` is the number of slots of each cache; `allLogits` scores every token, not only
 * the last; `rounds` lets kernels round to bf16 what they multiply.
 */
export function kernelPasses(options: {
  readonly capacity: number;
  readonly allLogits?: boolean;
  readonly rounds?: boolean;
}): Pass[] {
  const round = options.rounds ? "round-factors," : "";
  const last = options.allLogits ? "" : "last-logits,";
  return parsePipeline(
    `fuse,${round}insert-kv-cache{capacity=${options.capacity}},${last}fuse-quant,fold-weights{casts=leave}`,
  );
}

import * as contract from "./contract.ts";
import { ggml_codes, ggml_dequantize, ggml_scales } from "./ggml.ts";
import * as leaf from "./leaf.ts";
import * as math from "./math.ts";
import * as composites from "./nn.ts";
import { block_scale, block_scale_search, block_zero, dequantize, quantize } from "./quant.ts";
import * as shape from "./shape.ts";

export * from "./contract.ts";
export { ggml_codes, ggml_dequantize, ggml_scales } from "./ggml.ts";
export * from "./leaf.ts";
export * from "./math.ts";
export * from "./nn.ts";
export * from "./quant.ts";
export * from "./shape.ts";

/** Ops with a meaning of their own. Every backend must emit each of them. */
export const primitives = { ...leaf, ...math, ...shape, ...contract, dequantize };
/** Ops that only prepare weights: they run while gemmac compiles, and no backend emits them. */
export const preparations = {
  ...{ block_scale, block_scale_search, block_zero, quantize },
  ...{ ggml_dequantize, ggml_codes, ggml_scales },
};
/** Ops that are short for others. A backend may emit them; what it lacks is decomposed. */
export { composites };

import { blockFormat } from "../../ir/ops/ggml.ts";
import { constant, dequantize, ggml_codes, ggml_dequantize, ggml_scales } from "../../ir/ops/index.ts";
import { map, pass } from "../pass.ts";

export const carryBlocks = pass("carry-blocks", {
  doc:
    "ggml_dequantize(b) → dequantize(ggml_codes(b), ggml_scales(b), 0) where the format is code · scale: what a GGUF file " +
    "quantized stays quantized, to the bit.",
  run: (g) =>
    map(g, (v) => {
      const stored = ggml_dequantize.of(v);
      const dtype = stored && blockFormat(stored.attrs.format).codes;
      if (!stored || !dtype) return v;
      const { blocks, attrs } = stored;
      return dequantize(ggml_codes(blocks, attrs), ggml_scales(blocks, attrs), constant({ value: 0, dtype }));
    }),
});

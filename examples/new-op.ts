// A new op, and the rule that finds it. Its decomposition is its type, its meaning, the pattern to look for and what a
// target gets that has no kernel for it. A backend that has one keeps it whole.
//
//   gemmac compile gemma-2b --target onnx --out fused --pass ./examples/new-op.ts --print-after residual-linear
import { add, composite, linear, raise, rewrite } from "gemmac";

export const residual_linear = composite("residual_linear", {
  doc: "residual + x·wᵀ: a product that is written onto what is there already, so that it is read and written once.",
  inputs: ["residual", "x", "w"],
  example: [["f32[2,4]", "f32[2,3]", "f32[4,3]"]],
  decompose: ({ residual, x, w }) => add(residual, linear(x, w)),
});

export default rewrite("residual-linear", {
  doc: "residual + linear(x, w) → residual_linear(residual, x, w).",
  rules: [raise(residual_linear)],
});

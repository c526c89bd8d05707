// Moves the softmax scale onto the query: one multiply for each query, not one for each pair of query and key.
//
//   gemmac compile gemma-2b --target onnx --out scaled --pass ./examples/scale-the-query.ts
import { any, attention, mul, rewrite, rule } from "gemmac";

export default rewrite("scale-the-query", {
  doc: "attention(q, …, scale=s) → attention(q · s, …, scale=1).",
  // The same numbers multiplied in another order: each logit moves by a few of its last bits.
  law: { close: 1e-5 },
  rules: [
    rule(
      "the scale goes to q",
      attention(any("q"), any("k"), any("v"), any("qpos"), any("kpos")),
      ({ q, k, v, qpos, kpos }, root) => {
        const found = attention.of(root);
        // A rule must make progress.
        if (!found || found.attrs.scale === 1) return undefined;
        return attention(mul(q, found.attrs.scale), k, v, qpos, kpos, { ...found.attrs, scale: 1 });
      },
    ),
  ],
});

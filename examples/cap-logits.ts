// Caps the logits softly, as Gemma 2 does: none lies beyond ±cap, and small ones stay as they are.
//
//   gemmac compile gemma-2b --target onnx --out capped --pass "./examples/cap-logits.ts{cap=30}"
import { div, float, mul, pass, tanh } from "gemmac";

export default pass("cap-logits", {
  doc: "logits → cap · tanh(logits / cap).",
  law: "free",
  options: { cap: float(30) },
  run(g, { cap }) {
    if (!(cap > 0)) throw new TypeError(`cap is ${cap}; give a number above 0`);
    const { logits, ...others } = g.outputs;
    if (!logits) throw new TypeError("the graph has no output called logits");
    return g.with({ outputs: { logits: mul(tanh(div(logits, cap)), cap), ...others } });
  },
});

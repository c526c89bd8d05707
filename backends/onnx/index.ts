import { fuseAttention, fuseGeglu, fuseLinear, fuseRmsNorm, fuseRope } from "../../passes/fuse.ts";
import { foldWeights } from "../../passes/fold-weights.ts";
import { insertKvCache } from "../../passes/kv-cache.ts";
import type { Backend } from "../backend.ts";
import { streams } from "../stream.ts";
import { emit } from "./emit.ts";
import { emitters } from "./emitters.ts";

export { openSession } from "./session.ts";

export const onnx: Backend = {
  name: "onnx",
  doc: "A standard ONNX graph (opset 21) with its cache as inputs and outputs, in the layout of transformers.js.",
  passes: [fuseLinear(), fuseRmsNorm(), fuseGeglu(), fuseRope(), fuseAttention(), insertKvCache(), foldWeights((v) => !streams(v))],
  keeps: (v) => Object.hasOwn(emitters, v.op.name),
  refuses: (v) => (v.dtype === "i4" ? "4-bit integers have no operators here" : undefined),
  emit,
};

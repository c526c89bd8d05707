import { foldWeights } from "../../passes/fold-weights.ts";
import { fuseAttention, fuseGeglu, fuseLinear, fuseRmsNorm, fuseRope } from "../../passes/fusion/fuse.ts";
import { shareTables } from "../../passes/fusion/share-tables.ts";
import { insertKvCache } from "../../passes/kv-cache.ts";
import type { Backend } from "../backend.ts";
import { emit } from "./emit.ts";
import { emitters } from "./emitters.ts";

export { openSession } from "./session.ts";

/** How weights lie in the files: as 32-bit floats, or as the checkpoint stores them, to be widened at load. */
export type WeightStorage = "f32" | "stored";

export const onnx = (storage: WeightStorage = "stored"): Backend => ({
  name: "onnx",
  doc: "A standard ONNX graph (opset 21) with its cache as inputs and outputs, in the layout of transformers.js.",
  passes: [
    shareTables(),
    fuseLinear(),
    fuseRmsNorm(),
    fuseGeglu(),
    fuseRope(),
    fuseAttention(),
    insertKvCache(),
    foldWeights({ work: "blockwise", casts: storage === "stored" ? "leave" : "fold" }),
  ],
  keeps: (v) => Object.hasOwn(emitters, v.op.name),
  refuses: (v) => (v.dtype === "i4" ? "4-bit integers have no operators here" : undefined),
  emit,
});

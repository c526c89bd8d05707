import type { Value } from "../../ir/graph.ts";
import { cast } from "../../ir/ops/index.ts";
import { foldWeights } from "../../passes/fold-weights.ts";
import { fuseAttention, fuseGeglu, fuseLinear, fuseRmsNorm, fuseRope } from "../../passes/fuse.ts";
import { insertKvCache } from "../../passes/kv-cache.ts";
import { shareTables } from "../../passes/share-tables.ts";
import type { Backend } from "../backend.ts";
import { byteLength, streams } from "../stream.ts";
import { emit } from "./emit.ts";
import { emitters } from "./emitters.ts";

export { openSession } from "./session.ts";

/** ONNX Runtime computes constants when it loads a graph, but leaves larger ones for every run. In bytes. */
const foldedAtLoad = 2 ** 30;

/** How weights lie in the files: as 32-bit floats, or as the checkpoint stores them, to be widened at load. */
export type WeightStorage = "f32" | "stored";

/** A cast that the runtime does once, when it loads the graph. */
const widenedAtLoad = (v: Value) => v.op === cast && v.type.rank > 1 && byteLength(v) <= foldedAtLoad;

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
    foldWeights((v) => !streams(v) || (storage === "stored" && widenedAtLoad(v))),
  ],
  keeps: (v) => Object.hasOwn(emitters, v.op.name),
  refuses: (v) => (v.dtype === "i4" ? "4-bit integers have no operators here" : undefined),
  emit,
});

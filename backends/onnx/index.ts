import type { Pass } from "../../passes/pass.ts";
import { parsePipeline } from "../../passes/pipeline.ts";
import type { Backend } from "../backend.ts";
import { emit, type Profile } from "./emit.ts";
import { emitters } from "./emitters.ts";
import { contrib } from "./ort/emitters.ts";
import { fuseGqa } from "./ort/gqa.ts";

export { modelFile } from "./emit.ts";
export { Parts, sliceNumbers } from "./part.ts";
export { int64Row, openSession, placedText } from "./session.ts";

/** How weights lie in the files: as 32-bit floats, or as the checkpoint stores them, to be widened at load where need be. */
export type WeightStorage = "f32" | "stored";

export interface OnnxOptions {
  /** "standard": the standard operator set only. "ort": the fastest operators of ONNX Runtime. */
  readonly profile?: "standard" | "ort";
  readonly weights?: WeightStorage;
  /** Slots of each cache, in tokens; windowed layers get a ring as long as their window. Left out, caches grow. */
  readonly capacity?: number;
}

/** What comes between the cache and the end that both profiles share. */
const pipelines = {
  standard: "fuse-quant",
  ort: "last-logits,fuse-residual-norm,fuse-gqa,fuse-quant",
} as const;

const profiles: Readonly<
  Record<
    "standard" | "ort",
    Profile & { refuses?(v: Parameters<NonNullable<Backend["refuses"]>>[0]): string | undefined }
  >
> = {
  standard: { emitters },
  ort: contrib,
};

export const onnx = ({
  profile = "standard",
  weights = "stored",
  capacity = 0,
}: OnnxOptions = {}): Backend => {
  const { refuses, ...chosen } = profiles[profile];
  const [start, casts] =
    weights === "stored" ? ["share-tables,carry-blocks", "leave"] : ["share-tables", "fold"];
  const passes: Pass[] = parsePipeline(
    `${start},fuse,insert-kv-cache{capacity=${capacity}},${pipelines[profile]},fold-weights{work=blockwise,casts=${casts}}`,
    (name) => (name === fuseGqa.name ? fuseGqa : undefined),
  );
  return {
    name: "onnx",
    doc: "An ONNX graph (opset 21) with its cache as inputs and outputs, in the layout of transformers.js.",
    passes,
    keeps: (v) => Object.hasOwn(chosen.emitters, v.op.name) && !refuses?.(v),
    emit: (request) => emit(request, chosen),
  };
};

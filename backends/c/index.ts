import { isCache } from "../../passes/kv-cache.ts";
import { parsePipeline } from "../../passes/pipeline.ts";
import type { Backend } from "../backend.ts";
import { emit } from "./emit.ts";
import { emitters } from "./ops/emitters.ts";

export { build, compiler } from "./build.ts";
export { layOutC, textsC } from "./emit.ts";
export { graphSource } from "./graphs.ts";
export { openSession } from "./session.ts";

/** What runs before the C is printed. R is the number of tokens that are scored. */
const pipeline =
  "share-tables,fuse,insert-kv-cache,last-logits{rows=R},fuse-quant,fold-weights{work=blockwise,casts=keep}";

export const c = (): Backend => ({
  name: "c",
  doc: "One C file with its weights beside it: built by gcc or clang, run on any processor, no libraries.",
  passes: parsePipeline(pipeline),
  quantScales: "f16",
  needs: ["last-logits"],
  keeps: (v) => Object.hasOwn(emitters, v.op.name),
  refuses: (v) =>
    v.op.name === "param" && isCache(v) && v.dtype !== "f32"
      ? "its caches hold floats; leave out quantize-cache"
      : undefined,
  emit,
});

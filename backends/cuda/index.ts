import { type Backend, type CacheSize, usualCapacity } from "../backend.ts";
import { kernelPasses } from "../kernel/index.ts";
import { emit } from "./emit.ts";

export { build, buildForProcessor, emulated, gpuMissing } from "./build.ts";
export { layOutCuda, textsCuda } from "./emit.ts";
export { openSession } from "./session.ts";

export interface CudaOptions extends CacheSize {
  /** "bf16" lets prefill round to that what it multiplies, and keeps the caches in it; else products have 16 bits of it. */
  readonly arithmetic?: "f32" | "bf16";
}

export const cuda = ({
  context,
  capacity = usualCapacity(context),
  arithmetic = "f32",
}: CudaOptions = {}): Backend => ({
  name: "cuda",
  doc: "CUDA C++ with its weights beside it: built by nvcc alone, run by the driver alone, for sm_80 and later.",
  passes: kernelPasses({ capacity, rounds: arithmetic === "bf16" }),
  quantScales: "f16",
  needs: ["last-logits"],
  keeps: () => true,
  emit,
});

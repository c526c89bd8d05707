import { type Backend, type CacheSize, usualCapacity } from "../backend.ts";
import { kernelPasses } from "../kernel/index.ts";
import { emit } from "./emit.ts";

export { build, buildForProcessor, emulated, gpuMissing } from "./build.ts";
export { layOutCuda, textsCuda } from "./emit.ts";
export { openSession } from "./session.ts";

export const cuda = ({ context, capacity = usualCapacity(context) }: CacheSize = {}): Backend => ({
  name: "cuda",
  doc: "CUDA C++ with its weights beside it: built by nvcc alone, run by the driver alone, for sm_80 and later.",
  passes: kernelPasses({ capacity }),
  needs: ["last-logits"],
  keeps: () => true,
  emit,
});

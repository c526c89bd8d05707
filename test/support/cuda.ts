import { emulated, gpuMissing } from "../../backends/cuda/index.ts";

/**
 * Sees to it that CUDA artifacts can be opened, and says on what: "a GPU", the processor, or "SKIPPED" and why. On the
 * processor the artifact's own sources run, built by a C++ compiler.
 */
export async function cudaHere(): Promise<string> {
  const missing = await gpuMissing();
  if (missing === undefined) return "a GPU";
  if (!(await emulated())) return `SKIPPED, because ${missing}, and there is no C++ compiler to stand in`;
  process.env.GEMMAC_CUDA = "processor";
  return `the sources run on the processor, because ${missing}`;
}

import { existsSync } from "node:fs";
import { join } from "node:path";
import { dawn } from "../../backends/wgsl/index.ts";

const root = join(import.meta.dirname, "../..");
/** Software drivers for Vulkan, the best first: what .ci/lavapipe.sh unpacks, and what Chromium brings. */
const drivers = [
  join(root, ".cache/lavapipe/icd.json"),
  "/usr/lib/chromium/vk_swiftshader_icd.json",
  "/usr/lib64/chromium-browser/vk_swiftshader_icd.json",
];

/**
 * Sees to it that Dawn finds a GPU in this process: the one that VK_ICD_FILENAMES names, else a software driver, else
 * whatever the machine has. Says which one, or why there is none.
 */
export async function findGpu(): Promise<{ readonly name: string } | { readonly missing: string }> {
  const driver = drivers.find((path) => existsSync(path));
  if (driver) process.env.VK_ICD_FILENAMES ??= driver;
  process.env.XDG_RUNTIME_DIR ??= "/tmp";
  try {
    const adapter = await ((await dawn()) as GPU).requestAdapter();
    if (adapter) return { name: adapter.info.description };
    return { missing: "WebGPU finds no adapter: run sh .ci/lavapipe.sh, or install Chromium" };
  } catch (e) {
    return { missing: `the package webgpu does not load: ${e instanceof Error ? e.message : e}` };
  }
}

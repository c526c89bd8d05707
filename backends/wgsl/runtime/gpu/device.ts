import type { LoadOptions } from "../api.ts";
import { GemmaError } from "../error.ts";
import type { Program } from "../program.ts";
import { takesHalves } from "./halves.ts";

/** What WebGPU promises on every device. More than this must be asked for. */
const promised: Readonly<Record<string, number>> = {
  maxBufferSize: 268435456,
  maxStorageBufferBindingSize: 134217728,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupsPerDimension: 65535,
};

export interface Acquired {
  readonly device: GPUDevice;
  readonly features: ReadonlySet<string>;
  /** The adapter in words, and the features that kernels use. */
  readonly name: string;
}

/** A kernel that is ready to launch. */
export interface Pipeline {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

/** A device that the program fits. Throws GemmaError saying what is missing, how much, and what can be done. */
export async function acquire(
  { gpu: given, halves }: Pick<LoadOptions, "gpu" | "halves">,
  program: Program,
): Promise<Acquired> {
  const gpu = (given as GPU | undefined) ?? globalThis.navigator?.gpu;
  if (!gpu) throw noWebGpu();
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter)
    throw new GemmaError(
      "webgpu",
      "WebGPU is there, but finds no GPU that it may use",
      "update the graphics driver, or allow hardware acceleration in the browser's settings; without a GPU, start Chromium with --enable-unsafe-webgpu",
    );
  const limits = adapter.limits as unknown as Readonly<Record<string, number>>;
  for (const [limit, need] of Object.entries(program.limits)) {
    const has = limits[limit] ?? 0;
    if (has < need)
      throw new GemmaError(
        "limit",
        `this model needs ${limit} = ${need}, and this device gives ${has}`,
        "compile the model without --limits, which splits what is too large, or with --quant int4, which makes it smaller",
      );
  }
  const beyond = Object.entries(program.limits).filter(([limit, need]) => need > (promised[limit] ?? 0));
  const wanted = new Set(program.kernels.flatMap((k) => k.variants.flatMap((v) => v.features)));
  const features = [...wanted].filter(
    (f) => adapter.features.has(f) && (f !== "shader-f16" || takesHalves(adapter, halves)),
  );
  const device = await adapter.requestDevice({
    requiredFeatures: features as GPUFeatureName[],
    requiredLimits: Object.fromEntries(beyond),
  });
  const { vendor, architecture, description } = adapter.info;
  const gpuName = description || [vendor, architecture].filter(Boolean).join(" ") || "a GPU";
  const name = [gpuName, ...features.map((f) => f.replace("shader-", ""))].join(", ");
  return { device, features: new Set(features), name };
}

function noWebGpu(): GemmaError {
  if (globalThis.isSecureContext === false)
    return new GemmaError(
      "webgpu",
      "browsers give WebGPU to pages from https or localhost only",
      "serve this folder over https, or open it as http://localhost",
    );
  return new GemmaError(
    "webgpu",
    "this browser has no WebGPU, which this model runs on",
    "open this page in Chrome or Edge 113, Safari 26, Firefox 141, or later",
  );
}

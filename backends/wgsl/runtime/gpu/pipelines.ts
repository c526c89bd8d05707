import { GemmaError } from "../error.ts";
import type { KernelFile, Program } from "../program.ts";
import type { Files } from "../weights/files.ts";
import { solves } from "./check.ts";
import type { Acquired, Pipeline } from "./device.ts";

export interface PipelineOptions {
  readonly files: Files;
  readonly notice: (message: string) => void;
  readonly progress: (stage: "compile" | "check") => void;
}

/**
 * Compiles the fastest variant of each kernel that the device has the features for, all at once, and has each solve
 * its small case. One that fails is replaced by the next variant, and the user told. Throws GemmaError when a
 * kernel's last variant fails too.
 */
export async function pipelines(
  { kernels }: Program,
  gpu: Acquired,
  options: PipelineOptions,
): Promise<Pipeline[]> {
  options.progress("compile");
  const made = await Promise.all(kernels.map((k) => compiled(k, 0, gpu, options)));
  options.progress("check");
  const checked: Pipeline[] = [];
  // One after the other: checks share the GPU with the weights that are on their way.
  for (const [i, kernel] of kernels.entries())
    checked.push(await sound(kernel, made[i] as Tried, gpu, options));
  return checked;
}

interface Tried {
  readonly variant: number;
  /** Undefined where the device refused every variant from there on. */
  readonly pipeline: Pipeline | undefined;
}

/** The first variant, from `from` on, that the device takes. */
async function compiled(
  kernel: KernelFile,
  from: number,
  gpu: Acquired,
  { files, notice }: PipelineOptions,
): Promise<Tried> {
  const variant = kernel.variants.findIndex(
    (v, i) => i >= from && v.features.every((f) => gpu.features.has(f)),
  );
  const file = kernel.variants[variant];
  if (!file) return { variant: kernel.variants.length, pipeline: undefined };
  const code = await files.text(file);
  try {
    return { variant, pipeline: await build(kernel, code, gpu.device) };
  } catch (e) {
    notice(`${file.path} does not compile here (${e instanceof Error ? e.message : e})`);
    return compiled(kernel, variant + 1, gpu, { files, notice, progress: () => {} });
  }
}

async function sound(
  kernel: KernelFile,
  tried: Tried,
  gpu: Acquired,
  options: PipelineOptions,
): Promise<Pipeline> {
  let { variant, pipeline } = tried;
  while (pipeline) {
    const wrong = kernel.check && (await solves(kernel, kernel.check, pipeline, gpu.device));
    if (!wrong) return pipeline;
    const failed = kernel.variants[variant]?.path;
    ({ variant, pipeline } = await compiled(kernel, variant + 1, gpu, options));
    if (pipeline)
      options.notice(
        `${failed} computes wrong numbers on this GPU (${wrong}); ${kernel.variants[variant]?.path} is used instead`,
      );
    else
      throw new GemmaError(
        "device",
        `this GPU computes wrong numbers with ${failed}: ${wrong}`,
        "update the graphics driver or the browser; the answer would be nonsense, so nothing is run",
      );
  }
  throw new GemmaError(
    "device",
    `this GPU takes no variant of the kernel ${kernel.name}`,
    "update the graphics driver or the browser",
  );
}

async function build(kernel: KernelFile, code: string, device: GPUDevice): Promise<Pipeline> {
  const buffer = (type: GPUBufferBindingType, binding: number): GPUBindGroupLayoutEntry => ({
    binding,
    visibility: GPUShaderStage.COMPUTE,
    buffer: { type },
  });
  const entries = kernel.buffers.map((access, i) =>
    buffer(access === "read" ? "read-only-storage" : "storage", i),
  );
  if (kernel.uniformBytes > 0) entries.push(buffer("uniform", entries.length));
  const layout = device.createBindGroupLayout({ entries });
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code, label: kernel.name });
  const fault = await device.popErrorScope();
  if (fault)
    throw new Error(
      fault.message
        .trim()
        .replace(/\s*\n\s*/g, " ")
        .slice(0, 300),
    );
  const pipeline = await device.createComputePipelineAsync({
    label: kernel.name,
    layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
    compute: { module, entryPoint: kernel.name },
  });
  return { pipeline, layout };
}

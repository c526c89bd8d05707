import type { Dispatch, Plan } from "../../backends/kernel/index.ts";
import type { Binding } from "../../backends/kernel/plan/types.ts";
import { dawn } from "../../backends/wgsl/index.ts";
import { printKernels } from "../../backends/wgsl/kernels.ts";
import type { KernelFile } from "../../backends/wgsl/runtime/program.ts";
import { type Sizes, size } from "../../ir/dim.ts";
import type { Machine } from "./kernel-machine.ts";

interface Ready {
  readonly file: KernelFile;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

/** Kernels in their WGSL print, on a GPU. Launches are checked: what WebGPU complains of is thrown by `read`. */
export class GpuMachine implements Machine {
  readonly #device: GPUDevice;
  readonly #made = new Map<string, Ready>();
  readonly #buffers = new Map<number, GPUBuffer>();
  #kernels: ReadonlyMap<string, Ready> = new Map();
  #complaint: string | undefined;
  #next = 0;

  constructor(device: GPUDevice) {
    this.#device = device;
    device.addEventListener("uncapturederror", ({ error }) => {
      this.#complaint ??= error.message;
    });
  }

  /** On a device of its own, with the features that kernels have variants for. */
  static async open(): Promise<readonly [GpuMachine, readonly string[]]> {
    const adapter = await ((await dawn()) as GPU).requestAdapter();
    if (!adapter) throw new Error("the GPU is gone");
    const requiredFeatures = (["subgroups", "shader-f16"] as const).filter((f) => adapter.features.has(f));
    return [new GpuMachine(await adapter.requestDevice({ requiredFeatures })), requiredFeatures];
  }

  /** Compiles the kernels of a plan, in the variants that the features allow. */
  prepare(plan: Plan, features: readonly string[]): void {
    const { files, kernels } = printKernels(plan);
    const texts = new Map(files.map((f) => [f.path, f.text]));
    const ready = kernels.map((file) => {
      const variant = file.variants.find((v) => v.features.every((f) => features.includes(f)));
      const code = texts.get(variant?.path ?? "") ?? "";
      const made = this.#made.get(code) ?? this.#compile(file, code);
      this.#made.set(code, made);
      return [file.name, made] as const;
    });
    this.#kernels = new Map(ready);
  }

  #compile(file: KernelFile, code: string): Ready {
    const types = file.buffers.map(
      (b): GPUBufferBindingType => (b === "read" ? "read-only-storage" : "storage"),
    );
    if (file.uniformBytes > 0) types.push("uniform");
    const entries = types.map((type, binding) => ({ binding, visibility: 4, buffer: { type } }));
    const layout = this.#device.createBindGroupLayout({ entries });
    const pipeline = this.#device.createComputePipeline({
      layout: this.#device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: this.#device.createShaderModule({ code }), entryPoint: file.name },
    });
    return { file, pipeline, layout };
  }

  allocate(bytes: number): number {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
    const most = Math.ceil(Math.max(bytes, 4) / 256) * 256;
    this.#buffers.set(this.#next, this.#device.createBuffer({ size: most, usage }));
    return this.#next++;
  }
  free(id: number): void {
    this.#buffer(id).destroy();
    this.#buffers.delete(id);
  }
  write(id: number, offset: number, data: Uint8Array): void {
    const whole = new Uint8Array(Math.ceil(data.length / 4) * 4);
    whole.set(data);
    this.#device.queue.writeBuffer(this.#buffer(id), offset, whole);
  }
  async read(id: number, offset: number, bytes: number): Promise<Uint8Array> {
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const staging = this.#device.createBuffer({ size: Math.max(4, bytes), usage });
    const encoder = this.#device.createCommandEncoder();
    if (bytes > 0) encoder.copyBufferToBuffer(this.#buffer(id), offset, staging, 0, bytes);
    this.#device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const out = new Uint8Array(staging.getMappedRange().slice(0, bytes));
    staging.destroy();
    if (this.#complaint !== undefined) throw new Error(this.#complaint);
    return out;
  }
  launch(d: Dispatch, sizes: Sizes, place: (b: Binding) => readonly [id: number, offset: number]): void {
    const kernel = this.#kernels.get(d.kernel.name);
    if (!kernel) throw new Error(`${d.kernel.name} was not compiled`);
    const { file, pipeline, layout } = kernel;
    const bound: GPUBufferBinding[] = d.bindings.map((b) => {
      const [id, offset] = place(b);
      return { buffer: this.#buffer(id), offset, size: Math.max(4, Math.ceil(b.bytes / 4) * 4) };
    });
    if (file.uniformBytes > 0) {
      const words = new Uint32Array(file.uniformBytes / 4);
      words.set(d.uniforms.map((u) => size(u, sizes)));
      const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
      const buffer = this.#device.createBuffer({ size: words.byteLength, usage });
      this.#device.queue.writeBuffer(buffer, 0, words);
      bound.push({ buffer });
    }
    const entries = bound.map((resource, binding) => ({ binding, resource }));
    const encoder = this.#device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, this.#device.createBindGroup({ layout, entries }));
    const grid = d.grid.map(({ of, per, most = Number.POSITIVE_INFINITY }) =>
      Math.min(most, Math.ceil(size(of, sizes) / per)),
    );
    pass.dispatchWorkgroups(grid[0] ?? 1, grid[1], grid[2]);
    pass.end();
    this.#device.queue.submit([encoder.finish()]);
  }

  #buffer(id: number): GPUBuffer {
    const found = this.#buffers.get(id);
    if (!found) throw new Error(`there is no buffer ${id}`);
    return found;
  }
}

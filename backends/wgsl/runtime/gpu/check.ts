import type { KernelCheck, KernelFile } from "../program.ts";
import type { Pipeline } from "./device.ts";
import { madeUp } from "./made-up.ts";

/** How far a float may be off: other orders of sums, and other roundings of functions. */
const tolerance = 2e-3;

/** Launches the kernel on its small case. What is wrong, in words; undefined when nothing is. */
export async function solves(
  kernel: KernelFile,
  check: KernelCheck,
  { pipeline, layout }: Pipeline,
  device: GPUDevice,
): Promise<string | undefined> {
  const made: GPUBuffer[] = [];
  const create = (words: Uint32Array<ArrayBuffer>, usage: number) => {
    const buffer = device.createBuffer({ size: words.byteLength, usage: usage | GPUBufferUsage.COPY_DST });
    device.queue.writeBuffer(buffer, 0, words);
    made.push(buffer);
    return buffer;
  };
  try {
    const buffers = check.buffers.map(({ words, fill }, i) =>
      create(madeUp(fill, words, i), GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC),
    );
    const bound = [...buffers];
    if (kernel.uniformBytes > 0) {
      const uniforms = new Uint32Array(kernel.uniformBytes / 4);
      uniforms.set(check.uniforms);
      bound.push(create(uniforms, GPUBufferUsage.UNIFORM));
    }
    const entries = bound.map((buffer, binding) => ({ binding, resource: { buffer } }));
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, device.createBindGroup({ layout, entries }));
    pass.dispatchWorkgroups(...check.grid);
    pass.end();
    const read = check.want.map((want) => {
      const source = buffers[want.buffer] as GPUBuffer;
      const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
      const staging = device.createBuffer({ size: source.size, usage });
      encoder.copyBufferToBuffer(source, 0, staging, 0, source.size);
      made.push(staging);
      return { want, staging };
    });
    device.queue.submit([encoder.finish()]);
    for (const { want, staging } of read) {
      await staging.mapAsync(GPUMapMode.READ);
      const words = staging.getMappedRange();
      const got = want.float ? new Float32Array(words) : new Uint32Array(words);
      const largest = want.values.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
      for (const [n, at] of want.at.entries()) {
        const [a, b] = [want.values[n] as number, got[at] as number];
        const off = want.float ? Math.abs(a - b) / Math.max(largest, 1e-3) : a === b ? 0 : 1;
        if (!(off <= tolerance)) return `${b} where ${a} is right`;
      }
    }
    return undefined;
  } finally {
    for (const buffer of made) buffer.destroy();
  }
}

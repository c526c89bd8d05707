import { type Backend, type CacheSize, usualCapacity } from "../backend.ts";
import { kernelPasses } from "../kernel/index.ts";
import { emit } from "./emit.ts";
import { defaultLimits, parseLimits } from "./limits.ts";

export { type Layout, layOut, programs } from "./emit.ts";
export { defaultLimits, parseLimits } from "./limits.ts";
export { dawn, halvesHere, type OpenOptions, openSession } from "./session.ts";

export interface WgslOptions extends CacheSize {
  /** Device limits to count on beyond what WebGPU promises, such as `maxStorageBufferBindingSize=1073741824`. */
  readonly limits?: string;
}

export const wgsl = ({ context, capacity = usualCapacity(context), limits }: WgslOptions = {}): Backend => {
  const given = limits === undefined ? defaultLimits : parseLimits(limits);
  return {
    name: "wgsl",
    doc: "A folder for any web server: WGSL kernels, weights in chunks, a module for WebGPU and a chat page.",
    passes: kernelPasses({ capacity }),
    quantScales: "f16",
    keeps: () => true,
    emit: (request) => emit(request, given),
  };
};

import type { Device } from "../kernel/index.ts";

/** One way to lay decoding over threads. The first is what a GPU runs that was not tuned. */
export interface Cut {
  readonly name: string;
  readonly device: Device;
}

/** What every GPU of compute capability 8.0 or later has, without asking for more. */
const common = {
  lanes: 32,
  sharedBytes: 48 * 1024,
  bindingBytes: Number.MAX_SAFE_INTEGER,
  buffers: 32,
  prefetch: true,
  splits: 128,
  // About the multiprocessors of an A100 or H100.
  busy: 128,
  lastArriver: true,
} as const;

export const cuts: readonly [Cut, ...Cut[]] = [
  { name: "256", device: { ...common, threads: 256 } },
  { name: "128", device: { ...common, threads: 128 } },
  { name: "512", device: { ...common, threads: 512 } },
];

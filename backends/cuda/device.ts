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
  lastArriver: true,
  tensorCores: true,
} as const;

export const cuts: readonly [Cut, ...Cut[]] = [
  { name: "256", device: { ...common, threads: 256, splits: 32, busy: 128 } },
  { name: "128", device: { ...common, threads: 128, splits: 64, busy: 256 } },
  { name: "512", device: { ...common, threads: 512, splits: 32, busy: 128 } },
];

import { size } from "../../ir/dim.ts";
import { UserError } from "../../ir/error.ts";
import type { Device, Plan } from "../kernel/index.ts";

/** What WebGPU promises on every device, as far as it matters here. */
const promised = {
  maxBufferSize: 256 * 2 ** 20,
  maxStorageBufferBindingSize: 128 * 2 ** 20,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupsPerDimension: 65535,
} as const;
export type Limits = { readonly [K in keyof typeof promised]: number };

/**
 * Reads limits such as `maxStorageBufferBindingSize=2147483644,maxBufferSize=4294967296`; what is left out is what
 * WebGPU promises everywhere. Throws UserError for a limit that is not known, or is below what is promised.
 */
export function parseLimits(text: string): Limits {
  const out: Record<string, number> = { ...promised };
  const known = Object.keys(promised).join(", ");
  for (const part of text.split(",").filter((p) => p.trim() !== "" && p.trim() !== "default")) {
    const [name = "", value = ""] = part.split("=").map((s) => s.trim());
    const least = out[name];
    if (!Object.hasOwn(promised, name) || least === undefined)
      throw new UserError("usage", `${name} is no limit that a program depends on`, `choose from ${known}`);
    if (!/^\d+$/.test(value) || Number(value) < least)
      throw new UserError("usage", `${part} is less than every device gives`, `give ${least} or more`);
    out[name] = Number(value);
  }
  return out as Limits;
}

export const defaultLimits: Limits = promised;

/** How kernels are cut for devices with these limits. */
export const deviceOf = (limits: Limits): Device => ({
  threads: 64,
  lanes: 16,
  sharedBytes: limits.maxComputeWorkgroupStorageSize,
  bindingBytes: Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize),
  buffers: limits.maxStorageBuffersPerShaderStage,
  prefetch: false,
  splits: 8,
  // Groups of one launch cannot wait for each other in WGSL.
  lastArriver: false,
});

/** What a plan and its kernels' texts need of a device. */
export function needsOf(plan: Plan, texts: readonly string[]): Limits {
  const most = (numbers: readonly number[]) => Math.max(1, ...numbers);
  const phases = [plan.decode, plan.prefill];
  const dispatches = phases.flatMap((p) => p.dispatches);
  return {
    maxBufferSize: most([
      plan.arenaBytes,
      ...plan.states.map((s) => s.bytes),
      ...plan.weights.flatMap((w) => w.chunks.map((c) => c.bytes)),
    ]),
    maxStorageBufferBindingSize: most(dispatches.flatMap((d) => d.bindings.map((b) => b.bytes))),
    maxStorageBuffersPerShaderStage: most(plan.kernels.map((k) => k.buffers.length)),
    maxComputeWorkgroupStorageSize: most(texts.map(sharedBytes)),
    maxComputeInvocationsPerWorkgroup: most(plan.kernels.map((k) => k.threads)),
    maxComputeWorkgroupsPerDimension: most(
      phases.flatMap((p) =>
        p.dispatches.flatMap((d) =>
          d.grid.map(({ of, per, most: cap = Number.POSITIVE_INFINITY }) =>
            Math.min(cap, Math.ceil(size(of, p.open) / per)),
          ),
        ),
      ),
    ),
  };
}

/** Bytes of workgroup memory that a shader declares. */
function sharedBytes(text: string): number {
  let sum = 0;
  for (const [, element = "", length] of text.matchAll(/var<workgroup> \w+: array<(.+), (\d+)>;/g))
    sum += 4 * Number(/^vec(\d)/.exec(element)?.[1] ?? 1) * Number(length);
  return sum;
}

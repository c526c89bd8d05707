import { size } from "../../ir/dim.ts";
import { UserError } from "../../ir/error.ts";
import type { Device, Kernel, Plan } from "../kernel/index.ts";

/** What WebGPU promises on every device, as far as it matters here, and what none is known to go beyond. */
const known = {
  maxBufferSize: { least: 256 * 2 ** 20, most: 2 ** 40 },
  // WGSL counts the bytes of a binding in 32 bits.
  maxStorageBufferBindingSize: { least: 128 * 2 ** 20, most: 2 ** 32 - 4 },
  maxStorageBuffersPerShaderStage: { least: 8, most: 64 },
  maxComputeWorkgroupStorageSize: { least: 16384, most: 2 ** 18 },
  maxComputeInvocationsPerWorkgroup: { least: 256, most: 1024 },
  maxComputeWorkgroupsPerDimension: { least: 65535, most: 2 ** 31 - 1 },
} as const;
type LimitName = keyof typeof known;
export type Limits = { readonly [K in LimitName]: number };
const isLimit = (name: string): name is LimitName => Object.hasOwn(known, name);

export const defaultLimits = Object.fromEntries(
  Object.entries(known).map(([name, { least }]) => [name, least]),
) as Limits;

/**
 * Reads limits such as `maxStorageBufferBindingSize=2147483644,maxBufferSize=4294967296`; what is left out is what
 * WebGPU promises everywhere. Throws UserError for a limit that is not known, and for a number that no device gives.
 */
export function parseLimits(text: string): Limits {
  const out: { [K in LimitName]: number } = { ...defaultLimits };
  for (const part of text.split(",").filter((p) => p.trim() !== "" && p.trim() !== "default")) {
    const [name = "", value = "", ...more] = part.split("=").map((s) => s.trim());
    if (!isLimit(name))
      throw new UserError(
        "usage",
        `--limits ${part.trim()}: ${name || "that"} is no limit that a program depends on`,
        `choose from ${Object.keys(known).join(", ")}`,
      );
    const { least, most } = known[name];
    const range = `give a whole number from ${least} to ${most}; a browser shows its own in (await navigator.gpu.requestAdapter()).limits`;
    if (!/^\d+$/.test(value) || more.length > 0)
      throw new UserError("usage", `--limits ${part.trim()}: that is no number of bytes or things`, range);
    if (Number(value) < least)
      throw new UserError("usage", `--limits ${part.trim()} is less than every device gives`, range);
    if (Number(value) > most)
      throw new UserError("usage", `--limits ${part.trim()} is more than any device gives`, range);
    out[name] = Number(value);
  }
  return out;
}

/**
 * Throws UserError where `plan`, which needs `needs` of a device, goes beyond the limits that it was made for. Weights
 * are cut so that they fit; caches are not. `slots` is how many tokens the longest holds.
 */
export function holdTo(limits: Limits, needs: Limits, plan: Plan, slots: number): void {
  for (const name of Object.keys(known) as LimitName[]) {
    const [need, given] = [needs[name], limits[name]];
    if (need <= given) continue;
    const cache = plan.states.find((s) => s.kind === "cache" && s.bytes > given);
    const fits = cache && Math.floor((given / cache.bytes) * slots);
    throw new UserError(
      "usage",
      cache
        ? `${cache.name} of ${slots} tokens takes ${cache.bytes} bytes, and ${name} is ${given}`
        : `the model needs ${name} = ${need}, and ${given} is counted on`,
      `count on devices that give more, with --limits ${name}=${need}${fits ? `, or keep at most ${fits} tokens, with --capacity ${fits}` : ""}`,
    );
  }
}

/** How kernels are cut for devices with these limits. */
export const deviceOf = (limits: Limits): Device => ({
  threads: 64,
  lanes: 16,
  sharedBytes: limits.maxComputeWorkgroupStorageSize,
  bindingBytes: Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize),
  buffers: limits.maxStorageBuffersPerShaderStage,
  prefetch: false,
  splits: 8,
  halves: true,
  // Groups of one launch cannot wait for each other in WGSL.
  lastArriver: false,
});

/** What a plan, its kernels and their texts need of a device. */
export function needsOf(plan: Plan, kernels: readonly Kernel[], texts: readonly string[]): Limits {
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
    maxStorageBuffersPerShaderStage: most(kernels.map((k) => k.buffers.length)),
    maxComputeWorkgroupStorageSize: most(texts.map(sharedBytes)),
    maxComputeInvocationsPerWorkgroup: most(kernels.map((k) => k.threads)),
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
    sum += (/f16/.test(element) ? 2 : 4) * Number(/^vec(\d)/.exec(element)?.[1] ?? 1) * Number(length);
  return sum;
}

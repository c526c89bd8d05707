import { createHash } from "node:crypto";
import { type Kernel, type Plan, wgsl } from "../kernel/index.ts";
import type { Memory } from "../kernel/lang/index.ts";
import { knownAnswer } from "./check/answers.ts";
import { smallUniforms } from "./program.ts";
import type { FileFact, KernelFile } from "./runtime/program.ts";
import type { Sampler } from "./sampler.ts";

/** A small file of the artifact. */
export interface TextFile {
  readonly path: string;
  readonly text: string;
}

/** What the runtime holds a file against. */
export const factOf = ({ path, text }: TextFile): FileFact => ({
  path,
  bytes: Buffer.byteLength(text),
  sha256: createHash("sha256").update(text).digest("hex"),
});

/**
 * Each kernel of the plan, and those that draw tokens, as a file of its own. Those that combine what all threads have
 * come with subgroups too, and products of many tokens in halves.
 */
export function printKernels(plan: Plan, sampler?: Sampler): { files: TextFile[]; kernels: KernelFile[] } {
  const files: TextFile[] = [];
  const reads = readOnly(plan);
  const variant = (path: string, text: string, features: readonly string[]) => {
    files.push({ path, text });
    return { ...factOf({ path, text }), features };
  };
  const all = [...plan.kernels, ...(sampler?.launches ?? []).map((l) => l.kernel)];
  const kernels = all.map((k): KernelFile => {
    const odd = k.uniforms.find((u) => u.type !== "u32");
    if (odd) throw new Error(`${k.name}: the uniform ${odd.name} is no whole number`);
    const print = (of: Kernel, subgroups: boolean) =>
      k.buffers
        .filter((m) => m.space === "input" && !reads(k, m))
        .reduce(
          (t, { name }) => t.replace(`var<storage, read> ${name}:`, `var<storage, read_write> ${name}:`),
          wgsl(of, { subgroups }),
        );
    const [plain, fast] = [print(k, false), print(k, true)];
    return {
      name: k.name,
      buffers: k.buffers.map((m) => (reads(k, m) ? "read" : "write")),
      variants: [
        ...(k.half ? [variant(`kernels/f16/${k.name}.wgsl`, print(k.half, false), ["shader-f16"])] : []),
        ...(fast === plain ? [] : [variant(`kernels/subgroups/${k.name}.wgsl`, fast, ["subgroups"])]),
        variant(`kernels/${k.name}.wgsl`, plain, []),
      ],
      uniformBytes: Math.ceil(k.uniforms.length / 4) * 16,
      check: knownAnswer(k, smallUniforms(plan, k), sampler?.fills),
    };
  });
  return { files, kernels };
}

/**
 * The buffers of each kernel that are bound for reading only. Activations share one buffer, and WebGPU lets no launch
 * read a buffer in one binding and write it in another unless both may write. So inputs among them are declared as
 * if they were written; their ranges never overlap with what is.
 */
function readOnly({ prefill, decode }: Plan): (k: Kernel, m: Memory) => boolean {
  const written = new Set<string>();
  for (const { kernel, bindings } of [...prefill.dispatches, ...decode.dispatches])
    for (const [i, m] of kernel.buffers.entries())
      if (bindings[i]?.space === "arena") written.add(`${kernel.name} ${m.name}`);
  return (k, m) => m.space === "weight" || (m.space === "input" && !written.has(`${k.name} ${m.name}`));
}

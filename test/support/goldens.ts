import { readFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { decode } from "../../backends/stream/index.ts";
import { readHeader } from "../../src/checkpoint/safetensors.ts";

export interface Golden {
  readonly dir: string;
  readonly atol: number;
  readonly vocab: number;
  readonly layers: number;
  readonly prompts: readonly {
    readonly id: string;
    readonly input_ids: number[];
    readonly generated_ids: number[];
  }[];
  /** f32 tensors by name; see the table in the README of the goldens. */
  readonly tensors: ReadonlyMap<string, Float32Array>;
}

/** The reference outputs that lie beside a tiny checkpoint. */
export async function readGolden(dir: string): Promise<Golden> {
  const json = JSON.parse(readFileSync(join(dir, "golden.json"), "utf8"));
  return {
    dir,
    atol: json.fp64_check.suggested_atol,
    vocab: json.effective.vocab_size,
    layers: json.effective.num_hidden_layers,
    prompts: json.prompts,
    tensors: await readF32(join(dir, "golden.safetensors")),
  };
}

/** What transformers computes of the demo model: prompts, their scores, and 48 greedy ids each, in f32. */
export async function readDemo(dir: string): Promise<Golden> {
  const json = JSON.parse(readFileSync(join(dir, "golden.json"), "utf8"));
  const prompts = json.prompts.map((p: { name: string; input_ids: number[]; greedy_ids: number[] }) => ({
    ...{ id: p.name, input_ids: p.input_ids, generated_ids: p.greedy_ids },
  }));
  const tensors = await readF32(join(dir, "golden.safetensors"));
  return { dir, atol: 2e-4, vocab: 1024, layers: 4, prompts, tensors };
}

/** Every float tensor of a small safetensors file. */
export async function readF32(path: string): Promise<Map<string, Float32Array>> {
  const file = await open(path);
  try {
    const { tensors } = await readHeader(file, path);
    const out = new Map<string, Float32Array>();
    for (const [name, { dtype, begin, end }] of tensors) {
      if (dtype !== "f32" && dtype !== "bf16" && dtype !== "f16") continue;
      const bytes = new Uint8Array(end - begin);
      await file.read(bytes, 0, bytes.length, begin);
      out.set(name, decode(dtype, bytes));
    }
    return out;
  } finally {
    await file.close();
  }
}

/** The largest distance between two tensors; infinite when their sizes differ. */
export const distance = (a: Float32Array | undefined, b: Float32Array | undefined): number =>
  a && b && a.length === b.length
    ? a.reduce((m, x, i) => Math.max(m, Math.abs(x - (b[i] as number))), 0)
    : Number.POSITIVE_INFINITY;

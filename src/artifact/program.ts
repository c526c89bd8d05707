import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { compactTokenizer } from "../tokenizer/compact.ts";
import type { Twin } from "../verify/proof.ts";

/** A file that goes beside what a backend emits. */
export interface SideFile {
  readonly path: string;
  readonly content: string | Uint8Array;
}

/** What a program reads that has no JSON parser: the tokenizer, and what to test itself by. */
export async function programFiles(
  checkpoint: Checkpoint,
  warn: (message: string) => void,
  selftest: Uint8Array | undefined,
): Promise<SideFile[]> {
  const tokenizer = await compactTokenizer(checkpoint.dir, checkpoint.generation.eos);
  if (typeof tokenizer === "string")
    warn(`the tokenizer ${tokenizer}, so the program takes token ids only; gemmac run takes text`);
  return [
    ...(tokenizer instanceof Uint8Array ? [{ path: "tokenizer.bin", content: tokenizer }] : []),
    ...(selftest ? [{ path: "selftest.bin", content: selftest }] : []),
  ];
}

/** "gemmacst", how many ids and scores, the share that may be off, the ids, and the scores after the last of them. */
export function selftestFile(ids: readonly number[], { step }: Twin, allowed: number): Uint8Array {
  const { logits } = step;
  const out = new Uint8Array(20 + 4 * (ids.length + logits.length));
  out.set(new TextEncoder().encode("gemmacst"));
  const view = new DataView(out.buffer);
  view.setUint32(8, ids.length, true);
  view.setUint32(12, logits.length, true);
  view.setFloat32(16, allowed, true);
  for (const [i, id] of ids.entries()) view.setInt32(20 + 4 * i, id, true);
  out.set(new Uint8Array(logits.slice().buffer), 20 + 4 * ids.length);
  return out;
}

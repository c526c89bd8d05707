import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { compactTokenizer } from "../tokenizer/compact.ts";
import type { ProofRequest, Twin } from "../verify/proof.ts";

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

/** Size of the file that a program tests itself by, for so many ids, scores and layers. */
export const selftestBytes = (ids: number, scores: number, layers: number): number =>
  24 + 4 * (ids + scores) + 76 * layers;

/**
 * "gemmacs2", how many ids, scores and layers, the share that may be off, the ids, the scores after the last of them, and
 * for each layer its name in 64 bytes and three sums over what it left for the last token (sum_up in selftest.c).
 */
export function selftestFile(
  proof: Omit<ProofRequest, "dir">,
  { step, watch }: Twin,
  allowed: number,
): Uint8Array {
  const { ids, compiled } = proof;
  const { logits, watched } = step;
  const widths = new Map([...compiled.origins].map(([v, origin]) => [origin, Number(v.type.at(-1))]));
  const layers = watch.filter((origin) => /^model\/layers\.\d+$/.test(origin) && watched.has(origin));
  const floats = ids.length + logits.length;
  const out = new Uint8Array(selftestBytes(ids.length, logits.length, layers.length));
  const view = new DataView(out.buffer);
  const encoder = new TextEncoder();
  out.set(encoder.encode("gemmacs2"));
  [ids.length, logits.length, layers.length].forEach((n, i) => void view.setUint32(8 + 4 * i, n, true));
  view.setFloat32(20, allowed, true);
  for (const [i, id] of ids.entries()) view.setInt32(24 + 4 * i, id, true);
  out.set(new Uint8Array(logits.slice().buffer), 24 + 4 * ids.length);
  layers.forEach((origin, n) => {
    const at = 24 + 4 * floats + 76 * n;
    out.set(encoder.encode(origin), at);
    const last = (watched.get(origin) as Float32Array).slice(-(widths.get(origin) as number));
    sums(last).forEach((x, i) => void view.setFloat32(at + 64 + 4 * i, x, true));
  });
  return out;
}

/** The largest size, the root mean square, and the sum under signs that look random. */
function sums(values: Float32Array): [largest: number, root: number, mixed: number] {
  const count = values.length;
  const mixed = values.reduce((sum, x, i) => sum + (Math.imul(i, 2654435761) < 0 ? -x : x), 0);
  const squares = values.reduce((sum, x) => sum + x * x, 0);
  const largest = values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return [largest, Math.sqrt(squares / count), mixed / Math.sqrt(count)];
}

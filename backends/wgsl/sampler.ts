import { product } from "../../ir/dim.ts";
import type { Kernel, Plan } from "../kernel/index.ts";
import { drawThreads, drawToken, mostDrawn, shares, topScores } from "../kernel/library/sample.ts";
import type { Device } from "../kernel/plan/types.ts";
import type { Fill } from "./runtime/program.ts";

/** Launches that draw a token from the logits, which their kernels call `scores`. */
export interface Sampler {
  readonly launches: readonly { readonly kernel: Kernel; readonly groups: number }[];
  /** Bytes of the other buffers, by the names that the kernels have for them. */
  readonly states: Readonly<Record<string, number>>;
  /** What they hold where a kernel is tried on a small case. */
  readonly fills: Readonly<Record<string, Fill>>;
}

/** The sampler for what `plan` scores; undefined where one group cannot look at all shares, or several rows are scored. */
export function samplerFor(plan: Plan, device: Device, mostThreads: number): Sampler | undefined {
  for (const phase of [plan.prefill, plan.decode]) {
    const shape = phase.outputs.logits?.shape;
    if (!shape || product(shape.slice(0, -1)) !== 1) return undefined;
  }
  const vocab = Number(plan.decode.outputs.logits?.shape.at(-1));
  if (drawThreads(vocab) > mostThreads) return undefined;
  const listed = 4 * shares(vocab) * mostDrawn;
  return {
    launches: [
      { kernel: topScores(vocab, device.threads), groups: shares(vocab) },
      { kernel: drawToken(vocab), groups: 1 },
    ],
    states: { count: 4, chances: 12, top_scores: listed, top_ids: listed, token: 4 },
    // Three tokens; temperature 1, top p 0.875, and the draw in the middle.
    fills: { count: [3], chances: [0x3f800000, 0x3f600000, 0x3f000000] },
  };
}

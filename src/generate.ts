import type { Session } from "../backends/backend.ts";
import { argmax, mulberry32, sample, topIndices } from "../backends/wgsl/runtime/sample.ts";

export { argmax, topIndices };

export interface SampleOptions {
  /** 0, or left out, takes the likeliest token each time. */
  readonly temperature?: number;
  /** Draw among the k likeliest only. */
  readonly topK?: number;
  /** Draw among the likeliest whose probabilities first sum to p. */
  readonly topP?: number;
  /** The same seed draws the same text. */
  readonly seed?: number;
}

export interface GenerateOptions extends SampleOptions {
  readonly maxTokens: number;
  /** Ids that end the text; they are not handed out. */
  readonly stop?: readonly number[];
  readonly signal?: AbortSignal;
}

export interface Generated {
  readonly id: number;
  /** The scores it was chosen from, f32[vocab]; valid until the next step. */
  readonly logits: Float32Array;
}

/** Feed `ids` (at least one), then hand out one token after another until a stop token, a limit or an abort. */
export async function* generate(
  session: Session,
  ids: readonly number[],
  options: GenerateOptions,
): AsyncGenerator<Generated> {
  const { vocab } = session.facts;
  const random = mulberry32(options.seed ?? Math.floor(Math.random() * 2 ** 32));
  const stop = new Set(options.stop);
  let { logits } = await session.append(ids, { last: true });
  for (let n = 0; n < options.maxTokens && !options.signal?.aborted; n++) {
    const row = logits.subarray(logits.length - vocab);
    const id = sample(row, options, random);
    if (stop.has(id)) return;
    yield { id, logits: row };
    if (n + 1 < options.maxTokens && !options.signal?.aborted)
      ({ logits } = await session.append([id], { last: true }));
  }
}

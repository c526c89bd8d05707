import type { Drawing, Session } from "../backends/backend.ts";
import { argmax, mulberry32, sample, topIndices } from "../backends/wgsl/runtime/sample.ts";

export { argmax, topIndices };

export interface SampleOptions extends Drawing {
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

/** The tokens alone. Without scores to hand out, some devices draw them by themselves, which is faster. */
export async function* generateIds(
  session: Session,
  ids: readonly number[],
  options: GenerateOptions,
): AsyncGenerator<number> {
  if (!session.draw) {
    for await (const { id } of generate(session, ids, options)) yield id;
    return;
  }
  const random = mulberry32(options.seed ?? Math.floor(Math.random() * 2 ** 32));
  let unfed = ids;
  for (let n = 0; n < options.maxTokens && !options.signal?.aborted; n++) {
    const id = await session.draw(unfed, options, random);
    if (options.stop?.includes(id)) return;
    yield id;
    unfed = [id];
  }
}

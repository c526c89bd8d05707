import type { Session } from "../backends/backend.ts";

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

/** The index of the largest score; the first of equals. */
export function argmax(scores: Float32Array): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if ((scores[i] as number) > (scores[best] as number)) best = i;
  return best;
}

/** Indices of the k largest scores, largest first. */
export function topIndices(scores: Float32Array, k: number): number[] {
  const order = Array.from(scores.keys());
  if (k >= scores.length) return order.sort((a, b) => (scores[b] as number) - (scores[a] as number));
  const threshold = scores.toSorted().at(-k) as number;
  return order
    .filter((i) => (scores[i] as number) >= threshold)
    .sort((a, b) => (scores[b] as number) - (scores[a] as number))
    .slice(0, k);
}

function sample(
  scores: Float32Array,
  { temperature = 0, topK, topP = 1 }: SampleOptions,
  random: () => number,
): number {
  if (temperature <= 0) return argmax(scores);
  const candidates = topIndices(scores, topK || scores.length);
  const top = scores[candidates[0] as number] as number;
  const weights = candidates.map((i) => Math.exp(((scores[i] as number) - top) / temperature));
  const total = weights.reduce((a, b) => a + b, 0);
  let kept = 0;
  let n = 0;
  while (n < weights.length && kept < topP * total) kept += weights[n++] as number;
  let draw = random() * kept;
  for (let i = 0; i < n; i++) {
    draw -= weights[i] as number;
    if (draw < 0) return candidates[i] as number;
  }
  return candidates[0] as number;
}

/** A small generator of uniform numbers in [0, 1) (T. Ettinger's mulberry32). */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

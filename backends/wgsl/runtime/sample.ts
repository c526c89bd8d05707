import type { SampleOptions } from "./api.ts";

/** Draws a token from scores f32[vocab]. */
export function sample(
  scores: Float32Array,
  { temperature = 0, topK = 0, topP = 1 }: SampleOptions,
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

/** The index of the largest score; the first of equals. */
export function argmax(scores: Float32Array): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if ((scores[i] as number) > (scores[best] as number)) best = i;
  return best;
}

/** Indices of the k largest scores, largest first. */
export function topIndices(scores: Float32Array, k: number): number[] {
  const threshold = k < scores.length ? (scores.slice().sort()[scores.length - k] as number) : undefined;
  const found: number[] = [];
  for (let i = 0; i < scores.length; i++)
    if (threshold === undefined || (scores[i] as number) >= threshold) found.push(i);
  return found.sort((a, b) => (scores[b] as number) - (scores[a] as number)).slice(0, k);
}

/** A small generator of uniform numbers in [0, 1) (T. Ettinger's mulberry32). */
export function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

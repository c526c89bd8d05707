import { argmax, topIndices } from "../generate.ts";

/** How close one row of scores is to another. */
export interface RowAgreement {
  /** Kullback-Leibler divergence of the next-token distributions, in nats. */
  readonly kl: number;
  /** 1 when the likeliest token is the same, else 0. */
  readonly top1: number;
  /** The share of the five likeliest tokens that are the same. */
  readonly top5: number;
}

export function compare(want: Float32Array, got: Float32Array): RowAgreement {
  const best = new Set(topIndices(want, 5));
  const top5 = topIndices(got, 5).filter((i) => best.has(i)).length / best.size;
  return { kl: divergence(want, got), top1: argmax(want) === argmax(got) ? 1 : 0, top5 };
}

/** NaN on one side only counts as infinitely far. */
export function difference(want: Float32Array, got: Float32Array): { max: number; sum: number } {
  let [max, sum] = [0, 0];
  for (let i = 0; i < want.length; i++) {
    const [a, b] = [want[i] as number, got[i] as number];
    const d = Object.is(a, b) || a === b ? 0 : Math.abs(a - b);
    max = Number.isNaN(d) ? Number.POSITIVE_INFINITY : Math.max(max, d);
    sum += d;
  }
  return { max, sum };
}

/** KL(softmax(want) ‖ softmax(got)), in nats. */
function divergence(want: Float32Array, got: Float32Array): number {
  const [za, zb] = [logSumExp(want), logSumExp(got)];
  let kl = 0;
  for (let i = 0; i < want.length; i++) {
    const la = (want[i] as number) - za;
    kl += Math.exp(la) * (la - ((got[i] as number) - zb));
  }
  return Math.max(0, kl);
}

function logSumExp(x: Float32Array): number {
  const top = x[argmax(x)] as number;
  return top + Math.log(x.reduce((sum, v) => sum + Math.exp(v - top), 0));
}

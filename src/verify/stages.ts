import { type Graph, postorder, type Value } from "../../ir/graph.ts";
import { count } from "../../ir/tensor.ts";

/** Named values that an artifact computes in one go, and the weights that this reads. */
export interface Stage {
  readonly origins: readonly string[];
  readonly weights: ReadonlySet<Value>;
}

/** Weights of one stage, in numbers. A runtime may widen them to 32 bits, and lay out a copy to compute with. */
const budget = 2 ** 23;

/**
 * The named values of `g` in an order that computes them, in stages that read few weights each, so that not even one
 * large layer is in memory whole. What has three dimensions is given to the stages after its own. Scores are on their
 * own, as a large head is cut down to its first rows, and the table with it where that is the embedding.
 */
export function stages(g: Graph, origins: readonly string[]): Stage[] {
  const made = new Map([...g.origins].map(([v, origin]) => [origin, v]));
  const given = new Set(origins.flatMap((origin) => made.get(origin) ?? []).filter((v) => v.type.rank === 3));
  const all = new Set(g.weights());
  const scores = g.outputs.logits?.shape.at(-1);
  const isScores = (origin: string | undefined) => made.get(origin ?? "")?.shape.at(-1) === scores;
  const found: { origins: string[]; weights: Set<Value> }[] = [];
  for (const origin of origins) {
    const needs = postorder(made.get(origin)?.inputs ?? [], given).filter((u) => all.has(u));
    const stage = found.at(-1);
    const together = new Set([...(stage?.weights ?? []), ...needs]);
    const alike = isScores(stage?.origins.at(-1)) === isScores(origin);
    if (stage && alike && numbers(together) <= budget)
      Object.assign(stage, { weights: together }).origins.push(origin);
    else found.push({ origins: [origin], weights: new Set(needs) });
  }
  return found;
}

const numbers = (weights: Iterable<Value>): number =>
  [...weights].reduce((sum, w) => sum + count(w.shape.map(Number)), 0);

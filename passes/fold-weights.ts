import { type Graph, postorder, type Value } from "../ir/graph.ts";
import { constant, param } from "../ir/ops/index.ts";
import { map, type Pass } from "./pass.ts";

/** Which weight expressions to leave in the graph, to be computed where the artifact runs. */
export type LeaveInGraph = (v: Value) => boolean;

/** What weights alone decide (1 + w, say) moves to `setup`, which runs once, at compile time. */
export const foldWeights = (leave: LeaveInGraph = () => false): Pass => ({
  name: "fold-weights",
  doc: "What depends on weights alone moves to the setup, which runs once, at compile time.",
  run: (given) => {
    const g = unfolded(given);
    const still = weightOnly(g);
    const folds = (v: Value) =>
      still.has(v) && v.op !== param && v.op !== constant && readsWeight(v) && !leave(v);
    // Only the outermost foldable expression gets a name: what lies inside it is part of its recipe.
    const setup: Record<string, Value> = {};
    const params = [...g.inputs, ...g.values()].filter((v) => v.op === param);
    const taken = new Set(params.map((v) => String(v.attrs.name)));
    const swap = (v: Value): Value | undefined => {
      if (!folds(v)) return undefined;
      const name = unused(nameOf(v), taken);
      taken.add(name);
      setup[name] = v;
      return param({ name, type: v.type });
    };
    const folded = map(g, (v) => v, swap);
    const used = new Set(folded.values().map((v) => (v.op === param ? v.attrs.name : undefined)));
    return folded.with({ setup: Object.fromEntries(Object.entries(setup).filter(([k]) => used.has(k))) });
  },
});

/** What an earlier fold set aside is put back, so that it can fold further. */
const unfolded = (g: Graph): Graph =>
  map(
    g,
    (v) => v,
    (v) => (v.op === param ? g.setup[String(v.attrs.name)] : undefined),
  ).with({ setup: {} });

/** Values that no runtime input can reach. */
function weightOnly(g: Graph): ReadonlySet<Value> {
  const inputs = new Set(g.inputs);
  const still = new Set<Value>();
  for (const v of g.values()) if (!inputs.has(v) && v.inputs.every((i) => still.has(i))) still.add(v);
  return still;
}

const readsWeight = (v: Value): boolean => postorder([v]).some((i) => i.op === param);

/** The weight's name and what was done to it: `model.norm.weight.cast.add`. */
function nameOf(v: Value): string {
  if (v.op === param) return String(v.attrs.name);
  const source = v.inputs.find(readsWeight);
  return source ? `${nameOf(source)}.${v.op.name}` : v.op.name;
}

function unused(name: string, taken: ReadonlySet<string>): string {
  for (let n = 1, free = name; ; free = `${name}.${++n}`) if (!taken.has(free)) return free;
}

import { type Graph, postorder, type Value } from "../ir/graph.ts";
import { oneOf } from "../ir/op.ts";
import {
  add,
  cast,
  concat,
  constant,
  div,
  ggml_codes,
  ggml_dequantize,
  ggml_scales,
  mul,
  param,
  preparations,
  reshape,
  sub,
} from "../ir/ops/index.ts";
import { dtypes, isFloat } from "../ir/type.ts";
import { map, pass } from "./pass.ts";

/** Runtimes compute constants when they load a graph, but leave results larger than this, in bytes, for every run. */
const foldedAtLoad = 2 ** 30;

export const foldWeights = pass("fold-weights", {
  doc:
    "What depends on weights alone moves to the setup, which runs once, at compile time. work=blockwise leaves what " +
    "cannot be computed block by block; casts=leave leaves matrices to be widened when the artifact is loaded, casts=keep " +
    "to be widened as they are read.",
  options: { work: oneOf("any", "blockwise"), casts: oneOf("fold", "leave", "keep") },
  run: (g, { work, casts }) =>
    foldExcept(g, (v) => (work === "blockwise" && !streams(v)) || leaves[casts](v)),
});

const widened = (v: Value) =>
  v.op === cast && v.type.rank > 1 && dtypes[v.dtype] > dtypes[(v.inputs[0] as Value).dtype];
/** Casts that are no work of the setup. What a runtime does once, when it loads the graph, has a limit. */
const leaves = {
  fold: () => false,
  leave: (v: Value) => widened(v) && elements(v) * 4 <= foldedAtLoad,
  keep: widened,
} as const;

const elements = (v: Value): number => v.shape.reduce<number>((n, _, axis) => n * v.fixed(axis), 1);

const elementwise: ReadonlySet<unknown> = new Set([add, sub, mul, div]);

/** Whether `v` can be computed block by block: arithmetic, casts and reshapes of stored numbers, and rows of such. */
export const streams = (v: Value): boolean =>
  codesOf(v) !== undefined || rowParts(v).every((part) => unpacks(part) || blockwise(part));

const unpacking: ReadonlySet<unknown> = new Set([ggml_codes, ggml_dequantize, ggml_scales]);
/** Whether `v` is what stored ggml blocks hold. */
export const unpacks = (v: Value): boolean => unpacking.has(v.op) && v.inputs[0]?.op === param;

/** The matrix that `v` gives codes, scales or zeros for, if it does and the matrix streams. */
export function codesOf(v: Value): Value | undefined {
  const made = unrounded(v);
  const x = made.inputs[0];
  return preparing.has(made.op) && x && blockwise(x) && x.type.rank === 2 ? x : undefined;
}

/** Scales before they are rounded to a narrower float; anything else as it is. */
export function unrounded(v: Value): Value {
  const scale = v.op === cast ? v.inputs[0] : undefined;
  return scale?.dtype === "f32" && preparing.has(scale.op) ? scale : v;
}

const preparing: ReadonlySet<unknown> = new Set(Object.values(preparations));

/** What `v` is joined from along its first axis, in order. */
export const rowParts = (v: Value): readonly Value[] =>
  v.op === concat && v.type.axis(Number(v.attrs.axis)) === 0 ? v.inputs.flatMap(rowParts) : [v];

function blockwise(v: Value): boolean {
  if (v.op === param) return isFloat(v.dtype);
  if (v.op === ggml_dequantize) return unpacks(v);
  if (v.op === cast || v.op === reshape) return v.inputs.every(blockwise);
  if (!elementwise.has(v.op)) return false;
  return v.inputs.every((i) => i.op === constant || (blockwise(i) && elements(i) === elements(v)));
}

/** Folds all weight expressions but those that `leave` holds on to. */
export function foldExcept(given: Graph, leave: (v: Value) => boolean): Graph {
  const g = unfolded(given);
  const { still, reads } = weightOnly(g);
  const folds = (v: Value) =>
    still.has(v) && v.op !== param && v.op !== constant && reads.has(v) && !leave(v);
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
}

/** What an earlier fold set aside is put back, so that it can fold further. */
const unfolded = (g: Graph): Graph =>
  map(
    g,
    (v) => v,
    (v) => (v.op === param ? g.setup[String(v.attrs.name)] : undefined),
  ).with({ setup: {} });

/** `still`: values that no runtime input can reach; `reads`: those of them that read a weight. */
function weightOnly(g: Graph): { still: ReadonlySet<Value>; reads: ReadonlySet<Value> } {
  const inputs = new Set(g.inputs);
  const [still, reads] = [new Set<Value>(), new Set<Value>()];
  for (const v of g.values()) {
    if (inputs.has(v) || !v.inputs.every((i) => still.has(i))) continue;
    still.add(v);
    if (v.op === param || v.inputs.some((i) => reads.has(i))) reads.add(v);
  }
  return { still, reads };
}

/** The weight's name and what was done to it: `model.norm.weight.cast.add`. */
function nameOf(v: Value): string {
  if (v.op === param) return String(v.attrs.name);
  const source = v.inputs.find((i) => postorder([i]).some((w) => w.op === param));
  return source ? `${nameOf(source)}.${v.op.name}` : v.op.name;
}

function unused(name: string, taken: ReadonlySet<string>): string {
  for (let n = 1, free = name; ; free = `${name}.${++n}`) if (!taken.has(free)) return free;
}

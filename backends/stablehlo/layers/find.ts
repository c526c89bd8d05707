import { UserError } from "../../../ir/error.ts";
import { type Graph, postorder, type Value } from "../../../ir/graph.ts";
import { constant, param } from "../../../ir/ops/index.ts";
import { longestRepeat } from "../../repeat.ts";
import { nameOfAll } from "./names.ts";

/** Params of one kind, one of each layer. */
export interface Stack {
  readonly name: string;
  readonly members: readonly Value[];
}
/** Caches, and what they are after a step. */
export interface CacheStack extends Stack {
  readonly next: string;
  /** The value of the body that is the cache's after a step. */
  readonly made: Value;
  /** Names of the outputs. */
  readonly outputs: readonly string[];
}
/** What one turn hands to the next. */
export interface Carried {
  /** Outside the loop, in its body where it is read, in its body where it is made, and after the last turn. */
  readonly before: Value;
  readonly read: Value;
  readonly made: Value;
  readonly after: Value;
}

/** Layers that are computed by the same operations, as turns of a loop. */
export interface Loop {
  readonly times: number;
  /** What runs before, in a turn, and after. */
  readonly before: readonly Value[];
  readonly body: readonly Value[];
  readonly after: readonly Value[];
  readonly weights: readonly Stack[];
  readonly caches: readonly CacheStack[];
  readonly carried: readonly Carried[];
  /** Origins of the body's values: of all turns together, and of each. */
  readonly origins: ReadonlyMap<Value, { readonly all: string; readonly each: readonly string[] }>;
}

/**
 * Finds the layers of `g`, in groups where kinds of layers alternate: a turn of the loop is as many layers as it takes
 * for all turns to be alike. Throws UserError when there is no such repetition.
 */
export function findLoop(g: Graph): Loop {
  const { inner, all } = inOrder(g);
  const place = new Map(inner.map((v, i) => [v, i]));
  const caches = new Set(Object.values(g.aliases));
  const isCache = (v: Value) => v.op === param && caches.has(String(v.attrs.name));
  const isWeight = (v: Value) => v.op === param && !g.inputs.includes(v);
  const keyOf = (v: Value, i: number): string => {
    const operand = (x: Value) => {
      const at = place.get(x);
      if (at !== undefined) return i - at;
      return isCache(x) || isWeight(x) ? `${x.type}${g.shardings.get(x)}` : `%${x.id}`;
    };
    return JSON.stringify([v.op.name, v.attrs, String(v.type), g.shardings.get(v), v.inputs.map(operand)]);
  };
  const found = longestRepeat(inner.map(keyOf));
  if (!found) throw apart("no group of layers is followed by one like it");
  const { from, period, times } = found;
  const turn = (n: number) => inner.slice(from + n * period, from + (n + 1) * period);
  const turns = Array.from({ length: times }, (_, n) => turn(n));
  // The second turn stands for all: what it reads of the first tells it from what was there before.
  const [first, body] = turns as [Value[], Value[]];
  const inTurn = new Map(turns.flatMap((values, n) => values.map((v, j) => [v, { n, j }] as const)));
  const [weights, pasts, carried] = [
    new Map<Value, Stack>(),
    new Map<Value, readonly Value[]>(),
    new Map<Value, Carried>(),
  ];
  for (const [j, v] of body.entries())
    for (const [k, read] of v.inputs.entries()) {
      const reads = turns.map((values) => values[j]?.inputs[k] as Value);
      if (reads.every((x) => x === read)) continue;
      const at = inTurn.get(read);
      if (at?.n === 1) continue;
      if (at?.n === 0) {
        const made = body[at.j] as Value;
        const was = carried.get(read);
        const before = reads[0] as Value;
        const steady = reads.every((x, n) => (n === 0 ? !inTurn.has(x) : x === turns[n - 1]?.[at.j]));
        if (!steady || (was && was.before !== before))
          throw apart(`${v.op.name} : ${v.type} reads more than the layer before it made`);
        carried.set(read, { before, read, made, after: turns.at(-1)?.[at.j] as Value });
      } else if (reads.every(isCache)) pasts.set(read, reads);
      else if (reads.every(isWeight)) weights.set(read, { name: named(reads), members: reads });
      else throw apart(`${v.op.name} : ${v.type} reads something else in each layer`);
    }
  const stacks = [...pasts.values()].map((members): CacheStack => {
    const outputs = members.map((c) => outputOver(g, c));
    const made = inTurn.get(g.outputs[outputs[1] as string] as Value);
    const own = outputs.every((name, n) => made && g.outputs[name] === turns[n]?.[made.j]);
    const next = nameOfAll(outputs);
    if (!made || !own || next === undefined)
      throw apart(`${named(members)} is not what its own layer leaves there`);
    return { name: named(members), members, next, outputs, made: body[made.j] as Value };
  });
  const last = new Set([...carried.values()].map((c) => c.after));
  const looped = new Set(inTurn.keys());
  const stacked = new Set(stacks.flatMap((s) => s.outputs));
  const after = all.filter((v) => (place.get(v) ?? -1) >= from && !looped.has(v));
  const read = [
    ...after.flatMap((v) => v.inputs),
    ...Object.entries(g.outputs).flatMap(([name, v]) => (stacked.has(name) ? [] : [v])),
  ];
  const stray = read.find((v) => looped.has(v) && !last.has(v));
  if (stray) throw apart(`${stray.op.name} : ${stray.type} is read after the layers`);
  const members = new Set([...weights.values(), ...stacks].flatMap((s) => s.members));
  const used = [...all.filter((v) => !looped.has(v)).flatMap((v) => v.inputs)].find((v) => members.has(v));
  if (used) throw apart(`${used.attrs.name} is used outside its layer too`);
  return {
    times,
    before: all.filter((v) => !looped.has(v) && !after.includes(v)),
    body,
    after,
    weights: [...new Map([...weights.values()].map((s) => [s.name, s])).values()],
    caches: stacks,
    carried: [...carried.values()],
    origins: originsOf(g, turns, first.length),
  };
}

const apart = (why: string) =>
  new UserError("usage", `the layers are no loop: ${why}`, "leave out --scan-layers");

/**
 * What needs weights or caches, in order, and everything with all else first: that is shared among layers. What only a
 * cache needs stands where its operands are ready, so within its layer.
 */
function inOrder(g: Graph): { inner: Value[]; all: Value[] } {
  const aliased = new Set(Object.values(g.aliases));
  const free = new Set(g.inputs.filter((v) => !aliased.has(String(v.attrs.name))));
  const made = g.values().filter((v) => v.op !== constant);
  const own = new Set(made.filter((v) => v.op === param && !free.has(v)));
  const shared: Value[] = [];
  const waiting = new Map<Value, Value[]>();
  const main = new Set(
    postorder(Object.entries(g.outputs).flatMap(([name, v]) => (g.aliases[name] === undefined ? [v] : []))),
  );
  for (const v of made) {
    if (v.op === param) continue;
    if (v.inputs.some((x) => own.has(x))) own.add(v);
    else shared.push(v);
    if (!main.has(v)) for (const x of v.inputs) waiting.set(x, [...(waiting.get(x) ?? []), v]);
  }
  const placed = new Set<Value>(shared);
  const inner: Value[] = [];
  const ready = (v: Value) => v.inputs.every((x) => placed.has(x) || x.op === param || x.op === constant);
  const place = (v: Value): void => {
    if (placed.has(v)) return;
    placed.add(v);
    inner.push(v);
    for (const u of waiting.get(v) ?? []) if (ready(u)) place(u);
  };
  for (const v of made) if (own.has(v) && v.op !== param) place(v);
  return { inner, all: [...shared, ...inner] };
}

function named(members: readonly Value[]): string {
  const names = members.map((v) => String(v.attrs.name));
  const name = nameOfAll(names);
  if (name === undefined) throw apart(`${names.slice(0, 3).join(", ")} do not follow one another`);
  return name;
}

const outputOver = (g: Graph, cache: Value): string =>
  Object.keys(g.aliases).find((name) => g.aliases[name] === cache.attrs.name) ?? "";

function originsOf(g: Graph, turns: readonly (readonly Value[])[], period: number): Loop["origins"] {
  const out = new Map<Value, { all: string; each: readonly string[] }>();
  for (let j = 0; j < period; j++) {
    const each = turns.map((values) => g.origins.get(values[j] as Value) ?? "");
    // A part of a path such as layers.3 holds the number.
    const all = nameOfAll(each.map((origin) => origin.replaceAll("/", ".")));
    if (all !== undefined) out.set(turns[1]?.[j] as Value, { all, each });
  }
  return out;
}

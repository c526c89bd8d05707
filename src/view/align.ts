import { type Attrs, type Graph, type OpDef, postorder, type Value } from "../../ir/graph.ts";
import type { TensorType } from "../../ir/type.ts";

/**
 * What stands at one place of a graph. A place is a number that a value keeps from stage to stage, even when a pass
 * changes what is computed there or before it, so that a stage differs from the last one in a few rows only.
 */
export interface Row {
  readonly id: number;
  readonly place: number;
  readonly op: OpDef;
  readonly attrs: Attrs;
  readonly type: TensorType;
  /** The places it reads. */
  readonly operands: readonly number[];
}

/** One graph of a pipeline, its values lined up with those of the graph before. */
export interface Listing {
  readonly graph: Graph;
  /** Every value, operands before users: those of the setup, then those of the graph that are not in it. */
  readonly values: readonly Value[];
  /** One for each value. */
  readonly rows: readonly Row[];
  /** Where each value belongs: its own origin, or what the origins of all its users have in common. */
  readonly scopes: readonly string[];
  /** Values that the graph itself no longer reaches: they are computed once, at compile time. */
  readonly setupOnly: ReadonlySet<Value>;
  readonly placeOf: ReadonlyMap<Value, number>;
}

/** Attributes as the textual form spells them. */
export const spell = (x: unknown): string =>
  Array.isArray(x) ? `[${x}]` : Object.is(x, -0) ? "-0" : String(x);

/** Gives rows to one graph after the other. Equal input gives equal numbers. */
export class Aligner {
  readonly #rows = new Map<string, Row>();
  #places = 0;
  #last: Listing | undefined;

  add(graph: Graph): Listing {
    const values = postorder([...Object.values(graph.setup), ...Object.values(graph.outputs)]);
    const placeOf = this.#last ? matched(this.#last, graph, values) : new Map<Value, number>();
    const rows = values.map((v) => {
      if (!placeOf.has(v)) placeOf.set(v, this.#places++);
      return this.#row(v, placeOf);
    });
    const body = new Set(graph.values());
    const setupOnly = new Set(values.filter((v) => !body.has(v)));
    const scopes = scopesOf(graph, values);
    this.#last = { graph, values, rows, scopes, setupOnly, placeOf };
    return this.#last;
  }

  #row(v: Value, placeOf: ReadonlyMap<Value, number>): Row {
    const place = placeOf.get(v) as number;
    const operands = v.inputs.map((i) => placeOf.get(i) as number);
    const key = `${place} ${meaning(v, operands)}`;
    const known = this.#rows.get(key);
    if (known) return known;
    const row = { id: this.#rows.size, place, op: v.op, attrs: v.attrs, type: v.type, operands };
    this.#rows.set(key, row);
    return row;
  }
}

/** Two values that mean the same, their operands standing at the same places, have the same text. */
function meaning(v: Value, operands: readonly number[]): string {
  const ids = v.op.commutative ? operands.toSorted((a, b) => a - b) : operands;
  const attrs = Object.entries(v.attrs).map(([k, x]) => `${k}=${spell(x)}`);
  return `${v.op.name}(${ids}) ${attrs.join(" ")} : ${v.type}`;
}

/**
 * The places of those values that correspond to one of the last graph: the very same value; else the output or
 * origin of the same name; else the same op on corresponding operands; else the same operand of corresponding users.
 */
function matched(last: Listing, graph: Graph, values: readonly Value[]): Map<Value, number> {
  const places = new Map<Value, number>();
  const partner = new Map<Value, Value>();
  const taken = new Set<Value>();
  const match = (now: Value, then: Value | undefined): boolean => {
    if (!then || places.has(now) || taken.has(then)) return false;
    places.set(now, last.placeOf.get(then) as number);
    partner.set(now, then);
    taken.add(then);
    return true;
  };
  const before = new Set(last.values);
  for (const v of values) if (before.has(v)) match(v, v);
  const [named, named0] = [byOrigin(graph, values), byOrigin(last.graph, last.values)];
  for (const [origin, v] of named) if (v) match(v, named0.get(origin));
  for (const [name, v] of Object.entries(graph.outputs)) match(v, last.graph.outputs[name]);

  const meanings = new Map(last.values.map((v, i) => [meaning(v, last.rows[i]?.operands ?? []), v] as const));
  const forward = (): number => {
    let found = 0;
    for (const v of values) {
      if (places.has(v)) continue;
      const operands = v.inputs.map((i) => places.get(i) ?? -1);
      if (operands.includes(-1)) continue;
      if (match(v, meanings.get(meaning(v, operands)))) found++;
    }
    return found;
  };
  const backward = (): number => {
    let found = 0;
    for (const v of values.toReversed()) {
      const then = partner.get(v);
      if (!then || then === v || then.op !== v.op) continue;
      v.inputs.forEach((now, i) => {
        const was = then.inputs[i];
        if (was && was.op === now.op && was.op.inputs.length > 0 && match(now, was)) found++;
      });
    }
    return found;
  };
  while (forward() + backward() > 0);
  return places;
}

/** Values by their origin; undefined where two share it. */
function byOrigin(graph: Graph, values: readonly Value[]): Map<string, Value | undefined> {
  const out = new Map<string, Value | undefined>();
  for (const v of values) {
    const origin = graph.origins.get(v);
    if (origin !== undefined) out.set(origin, out.has(origin) ? undefined : v);
  }
  return out;
}

/** A scope for every value. Runtime inputs have none of their own: they belong to the whole graph. */
function scopesOf(graph: Graph, values: readonly Value[]): string[] {
  const scope = new Map<Value, string>();
  const join = (v: Value, user: string) => {
    const so = scope.get(v);
    scope.set(v, so === undefined ? user : shared(so, user));
  };
  const inputs = new Set(graph.inputs);
  for (const v of values.toReversed()) {
    const own = graph.origins.get(v) ?? (inputs.has(v) ? "" : (scope.get(v) ?? ""));
    scope.set(v, own);
    for (const i of v.inputs) join(i, own);
    const recipe = v.op.name === "param" && graph.setup[String(v.attrs.name)];
    if (recipe) join(recipe, own);
  }
  return values.map((v) => scope.get(v) ?? "");
}

/** The longest path that both begin with. */
export function shared(a: string, b: string): string {
  const [x, y] = [a.split("/"), b.split("/")];
  const n = x.findIndex((part, i) => part !== y[i]);
  return (n < 0 ? x : x.slice(0, n)).join("/");
}

/**
 * What scopes such as `model/layers.3` hold, as text in which their own number does not occur: equal texts, equal
 * structure. By the path of the scope.
 */
export function structures(listing: Listing): Map<string, string> {
  const members = new Map<string, number[]>();
  listing.scopes.forEach((scope, i) => {
    const layer = layerOf(scope);
    if (layer === undefined) return;
    const indexes = members.get(layer);
    if (indexes) indexes.push(i);
    else members.set(layer, [i]);
  });
  const out = new Map<string, string>();
  for (const [layer, indexes] of members) {
    const local = new Map(indexes.map((i, n) => [listing.rows[i]?.place, `%${n}`] as const));
    const outside = new Map<number, string>();
    const name = (place: number) => {
      const known = local.get(place) ?? outside.get(place) ?? `^${outside.size}`;
      if (!local.has(place)) outside.set(place, known);
      return known;
    };
    const text = indexes.map((i) => {
      const [v, row] = [listing.values[i] as Value, listing.rows[i] as Row];
      const attrs = Object.entries(row.attrs).map(([k, x]) => `${k}=${relative(spell(x), layer)}`);
      const where = `${listing.scopes[i]?.slice(layer.length)}${listing.graph.origins.has(v) ? "!" : ""}`;
      const once = listing.setupOnly.has(v) ? " setup" : "";
      return `${where} ${row.op.name}(${row.operands.map(name)}) ${attrs} : ${row.type}${once}`;
    });
    out.set(layer, text.join("\n"));
  }
  return out;
}

/** The outermost numbered part of a scope: `model/layers.3` of `model/layers.3/mlp`. */
export const layerOf = (scope: string): string | undefined =>
  /^(?:[^/]+\/)*?[^/]+\.\d+(?=\/|$)/.exec(scope)?.[0];

/** A dotted or slashed name without the scope it stands in. */
export function relative(name: string, scope: string): string {
  const dotted = `${scope.replaceAll("/", ".")}.`;
  return scope && name.startsWith(dotted) ? name.slice(dotted.length) : name;
}

/** Whether a value only gives others something to read: it computes nothing. */
export const isLeaf = (op: OpDef): boolean => op.name === "param" || op.name === "constant";

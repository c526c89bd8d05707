import type { Graph, Value } from "../../ir/graph.ts";
import { Aligner, isLeaf, type Listing, layerOf, type Row, relative, shared } from "./align.ts";
import { attrText } from "./data.ts";

/** "-" what is gone, "+" what is new, ">" what moved to the setup, " " what stands beside a change. */
export type Mark = "-" | "+" | ">" | " ";

export interface Line {
  readonly mark: Mark;
  readonly name: string;
  readonly op: string;
  readonly operands: readonly string[];
  readonly attrs: string;
  readonly type: string;
}

/** What changed in one scope. */
export interface Block {
  readonly scope: string;
  readonly lines: readonly Line[];
}

/** What changed in one layer, or between the layers, and the later layers where the same happened. */
export interface Section {
  readonly layer: string | undefined;
  readonly alsoIn: readonly number[];
  readonly blocks: readonly Block[];
}

export interface GraphDiff {
  readonly nodes: { readonly before: number; readonly after: number };
  /** Ops whose number changed. */
  readonly ops: readonly { readonly op: string; readonly before: number; readonly after: number }[];
  readonly sections: readonly Section[];
}

export interface DiffOptions {
  /** How many unchanged lines to show around a change. */
  readonly context?: number;
  /** Only this layer. */
  readonly layer?: number;
}

/** What changed from one graph to the next, place by place: a value is no change because its operands changed. */
export function diffGraphs(before: Graph, after: Graph, options: DiffOptions = {}): GraphDiff {
  const aligner = new Aligner();
  const [was, now] = [new Side(aligner.add(before)), new Side(aligner.add(after))];
  const found = changes(was, now);
  const chosen = [...found].filter(([scope]) => {
    const layer = layerOf(scope);
    return options.layer === undefined || (layer !== undefined && numberOf(layer) === options.layer);
  });
  return {
    nodes: { before: before.values().length, after: after.values().length },
    ops: countOps(before, after),
    sections: fold(chosen, options.context ?? 2),
  };
}

const numberOf = (layer: string): number => Number(/\d+$/.exec(layer)?.[0]);

/** A listing with what is asked of it here. */
class Side {
  readonly listing: Listing;
  readonly ids: ReadonlySet<number>;
  readonly #at: ReadonlyMap<number, number>;
  constructor(listing: Listing) {
    this.listing = listing;
    this.ids = new Set(listing.rows.map((row) => row.id));
    this.#at = new Map(listing.rows.map((row, i) => [row.place, i]));
  }
  value(place: number): Value {
    return this.listing.values[this.#at.get(place) as number] as Value;
  }
  scope(place: number): string {
    return this.listing.scopes[this.#at.get(place) as number] ?? "";
  }
  once(place: number): boolean {
    return this.listing.setupOnly.has(this.value(place));
  }
  /** Scopes by where they end, which is where their result stands; the graph's own first. */
  scopesInOrder(): string[] {
    const last = new Map(this.listing.scopes.map((scope, i) => [scope, i]));
    return [...last].sort(([a, i], [b, j]) => (a && b ? i - j : a ? 1 : -1)).map(([scope]) => scope);
  }
  byScope(): Map<string, Row[]> {
    const out = new Map<string, Row[]>();
    this.listing.rows.forEach((row, i) => {
      const scope = this.listing.scopes[i] ?? "";
      if (row.op.name === "constant") return;
      const rows = out.get(scope);
      if (rows) rows.push(row);
      else out.set(scope, [row]);
    });
    return out;
  }
}

interface Change {
  readonly mark: Mark;
  readonly row: Row;
  readonly side: Side;
}

/** Per scope, the rows of both sides in one order. Scopes without a change are left out. */
function changes(was: Side, now: Side): Map<string, Change[]> {
  const [then, next] = [was.byScope(), now.byScope()];
  const out = new Map<string, Change[]>();
  for (const scope of new Set([...now.scopesInOrder(), ...then.keys()])) {
    const merged: Change[] = [];
    const old = then.get(scope) ?? [];
    const at = new Map(old.map((row, i) => [row.place, i]));
    let seen = 0;
    const flush = (end: number) => {
      for (; seen < end; seen++) {
        const row = old[seen] as Row;
        if (!now.ids.has(row.id)) merged.push({ mark: "-", row, side: was });
      }
    };
    for (const row of next.get(scope) ?? []) {
      // What a row replaces comes right before it.
      flush((at.get(row.place) ?? -1) + 1);
      const moved = now.once(row.place) && was.ids.has(row.id) && !was.once(row.place);
      merged.push({ mark: !was.ids.has(row.id) ? "+" : moved ? ">" : " ", row, side: now });
    }
    flush(old.length);
    if (merged.some((m) => m.mark !== " ")) out.set(scope, merged);
  }
  return out;
}

/** Groups scopes by layer, and layers whose changes read the same. */
function fold(scopes: readonly (readonly [string, Change[]])[], context: number): Section[] {
  const groups = new Map<string | undefined, (readonly [string, Change[]])[]>();
  for (const entry of scopes) {
    const layer = layerOf(entry[0]);
    groups.set(layer, [...(groups.get(layer) ?? []), entry]);
  }
  const seen = new Map<string, { alsoIn: number[] }>();
  const common = new Map<number, string>();
  const out: Section[] = [];
  for (const [layer, entries] of groups) {
    const key = layer === undefined ? undefined : keyOf(layer, entries);
    const twin = key === undefined ? undefined : seen.get(key);
    if (twin && layer) {
      twin.alsoIn.push(numberOf(layer));
      continue;
    }
    const namer = new Namer(layer, common);
    const blocks = entries.map(([scope, all]): Block => {
      const lines = near(all, context).map(({ mark, row, side }) => namer.line(mark, row, side, scope));
      return { scope, lines: layer === undefined ? foldNumbered(lines) : lines };
    });
    const section = { layer, alsoIn: [], blocks };
    if (key !== undefined) seen.set(key, section);
    out.push(section);
  }
  return out;
}

/** The changes of a layer in words in which neither its number nor what lies outside of it occurs. */
function keyOf(layer: string, entries: readonly (readonly [string, Change[]])[]): string {
  const namer = new Namer(layer, new Map(), true);
  const texts = entries.flatMap(([scope, all]) => [
    scope.slice(layer.length),
    ...all.map(({ mark, row, side }) => lineText(namer.line(mark, row, side, scope))),
  ]);
  return [layer.replace(/\d+$/, ""), ...texts].join("\n");
}

const isInput = ({ row, side }: Change): boolean => side.listing.graph.inputs.includes(side.value(row.place));

/** Params that differ in one number only, such as the caches of all layers, become one line. */
function foldNumbered(lines: readonly Line[]): Line[] {
  const groups = new Map<string, { line: Line; numbers: number[] }>();
  for (const line of lines) {
    const number = line.op === "param" ? /(?<=\.)\d+(?=\.)/.exec(line.name) : null;
    const key = number ? lineText({ ...line, name: line.name.replace(/\.\d+\./, ".*.") }) : `${groups.size}`;
    const group = groups.get(`${line.mark}${key}`);
    if (group && number) group.numbers.push(Number(number[0]));
    else groups.set(`${line.mark}${key}`, { line, numbers: number ? [Number(number[0])] : [] });
  }
  return [...groups.values()].map(({ line, numbers }) =>
    numbers.length > 1 ? { ...line, name: line.name.replace(/\.\d+\./, `.{${ranges(numbers)}}.`) } : line,
  );
}

function near(all: readonly Change[], context: number): Change[] {
  return all.filter(({ mark }, i) => {
    if (mark !== " ") return true;
    if (isInput(all[i] as Change)) return false;
    return all.slice(Math.max(0, i - context), i + context + 1).some((m) => m.mark !== " ");
  });
}

/** Names values as a reader of one layer knows them: by origin, else `%1` inside of the layer and `$1` outside. */
class Namer {
  readonly #layer: string | undefined;
  readonly #blind: boolean;
  readonly #numbers = new Map<number, string>();
  readonly #outside: Map<number, string>;
  /** `blind`: values outside have no names. */
  constructor(layer: string | undefined, outside: Map<number, string>, blind = false) {
    this.#layer = layer;
    this.#outside = outside;
    this.#blind = blind;
  }

  line(mark: Mark, row: Row, side: Side, scope: string): Line {
    const operands = row.operands.map((place) => this.#name(place, side, scope));
    const leaf = isLeaf(row.op);
    return {
      mark,
      name: this.#name(row.place, side, scope),
      op: row.op.name,
      operands,
      attrs: leaf ? "" : attrText(row),
      type: String(row.type),
    };
  }

  #name(place: number, side: Side, scope: string): string {
    const v = side.value(place);
    if (v.op.name === "constant") return attrText(v);
    const home = side.scope(place);
    const inside = this.#layer !== undefined && layerOf(home) === this.#layer;
    if (this.#blind && !inside) return this.#number(this.#outside, place, "$");
    if (v.op.name === "param") return `%${relative(attrText(v), this.#blind ? (this.#layer ?? "") : scope)}`;
    const origin = side.listing.graph.origins.get(v);
    if (origin === undefined)
      return inside ? this.#number(this.#numbers, place, "%") : this.#number(this.#outside, place, "$");
    const common = shared(origin, scope);
    const rest = common === origin ? "" : common ? origin.slice(common.length + 1) : origin;
    return rest || (origin.split("/").at(-1) ?? origin);
  }

  #number(numbers: Map<number, string>, place: number, sigil: string): string {
    const known = numbers.get(place) ?? `${sigil}${numbers.size + 1}`;
    numbers.set(place, known);
    return known;
  }
}

/** A line as text: `input_layernorm = mul %5, %6 : f32[B,T,64]`. */
export function lineText({ name, op, operands, attrs, type }: Line): string {
  if (op === "param") return `param ${name} : ${type}`;
  const call = [op, operands.join(", "), attrs].filter(Boolean).join(" ");
  return `${name} = ${call} : ${type}`;
}

function countOps(before: Graph, after: Graph): GraphDiff["ops"] {
  const count = (g: Graph) => {
    const out = new Map<string, number>();
    for (const { op } of g.values()) if (!isLeaf(op)) out.set(op.name, (out.get(op.name) ?? 0) + 1);
    return out;
  };
  const [was, now] = [count(before), count(after)];
  return [...new Set([...was.keys(), ...now.keys()])]
    .map((op) => ({ op, before: was.get(op) ?? 0, after: now.get(op) ?? 0 }))
    .filter((c) => c.before !== c.after)
    .sort((a, b) => a.after - a.before - (b.after - b.before) || (a.op < b.op ? -1 : 1));
}

/** `1..17`, or `1, 3..5`. */
export function ranges(numbers: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const n of numbers) {
    const last = runs.at(-1);
    if (last && last[1] === n - 1) last[1] = n;
    else runs.push([n, n]);
  }
  return runs.map(([a, b]) => (a === b ? `${a}` : `${a}..${b}`)).join(", ");
}

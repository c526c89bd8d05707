import type { Stage, ViewData } from "./data.ts";

// What the page knows of the graphs, before anything is drawn. The source text of the class and of the function goes
// into the page, so that they must not use anything else from outside of themselves.

export type Mark = "" | "add" | "del" | "setup";

/** A row of one stage, ready to be shown. */
export interface Item {
  readonly i: number;
  readonly stage: Shown;
  /** What the pass did to it. */
  readonly mark: Mark;
  readonly order: number;
}

export interface Scope {
  readonly path: string;
  readonly items: Item[];
  readonly scopes: Map<string, Scope>;
  /** Where it ends, which is where its result stands. */
  last: number;
}

/** Bytes by the product of symbolic sizes that they are a multiple of. */
export type Bytes = Map<string, number>;

export interface Totals {
  ops: number;
  readonly weights: Bytes;
  readonly marks: Partial<Record<Mark, number>>;
}

export interface State {
  readonly stage: number;
  readonly show: "after" | "before" | "changes";
  readonly q: string;
  /** A place to go to, or -1. */
  readonly at: number;
}

/** One stage with what is looked up in it. */
export class Shown {
  static isLeaf(op: string): boolean {
    return op === "param" || op === "constant";
  }
  readonly #data: ViewData;
  readonly rows: readonly number[];
  readonly ids: ReadonlySet<number>;
  readonly at = new Map<number, number>();
  readonly label: string[] = [];
  readonly users = new Map<number, number[]>();
  readonly inputs: ReadonlySet<number>;
  readonly made: ReadonlyMap<number, number>;
  readonly same = new Map<string, string>();
  readonly where: readonly number[];
  constructor(data: ViewData, n: number) {
    const stage = data.stages[n] as Stage;
    this.#data = data;
    this.rows = stage.rows;
    this.where = stage.where;
    this.ids = new Set(stage.rows);
    this.inputs = new Set(stage.inputs);
    this.made = new Map(stage.made);
    for (const [scope, first] of stage.same)
      this.same.set(this.#data.scopes[scope] ?? "", this.#data.scopes[first] ?? "");
    let number = 0;
    stage.rows.forEach((_, i) => {
      const [place, , , , operands] = this.row(i);
      this.at.set(place, i);
      this.label.push(Shown.isLeaf(this.op(i)[0]) ? "" : `%${number++}`);
      for (const o of new Set(operands)) this.users.set(o, [...(this.users.get(o) ?? []), place]);
    });
  }
  row(i: number) {
    return this.#data.rows[this.rows[i] as number] as ViewData["rows"][number];
  }
  op(i: number) {
    return this.#data.ops[this.row(i)[1]] as ViewData["ops"][number];
  }
  type(i: number) {
    return this.#data.types[this.row(i)[2]] as ViewData["types"][number];
  }
  attrs(i: number) {
    return this.#data.attrs[this.row(i)[3]] ?? "";
  }
  scope(i: number) {
    return this.#data.scopes[(this.where[i] as number) >> 2] ?? "";
  }
  origin(i: number) {
    return (this.where[i] as number) & 1 ? this.scope(i) : "";
  }
  once(i: number) {
    return ((this.where[i] as number) & 2) > 0;
  }
  isWeight(i: number) {
    return this.op(i)[0] === "param" && !this.inputs.has(this.row(i)[0]);
  }
  /** What a reader in `scope` calls it. */
  name(i: number, scope: string): string {
    const op = this.op(i)[0];
    if (op === "constant") return this.attrs(i);
    if (op === "param") {
      const dotted = `${scope.split("/").join(".")}.`;
      const full = this.attrs(i);
      return full.startsWith(dotted) ? full.slice(dotted.length) : full;
    }
    const origin = this.origin(i);
    if (!origin) return this.label[i] ?? "";
    const [a, b] = [origin.split("/"), scope.split("/")];
    let n = 0;
    while (n < a.length - 1 && a[n] === b[n]) n++;
    return a.slice(n).join("/");
  }
}

export type Model = ReturnType<typeof model>;

/** Answers what the page asks about the stages. */
export function model(data: ViewData) {
  const cache = new Map<number, Shown>();
  const shown = (n: number): Shown => {
    const known = cache.get(n) ?? new Shown(data, n);
    cache.set(n, known);
    return known;
  };

  /** The rows to show, each with what the pass did to it. */
  function itemsOf({ stage, show, q }: State): Item[] {
    const now = shown(stage);
    const then = stage > 0 ? shown(stage - 1) : undefined;
    const markNow = (i: number): Mark => {
      if (!then) return "";
      const was = then.at.get(now.row(i)[0]);
      if (was === undefined || !then.ids.has(now.rows[i] as number)) return "add";
      return now.once(i) && !then.once(was) ? "setup" : "";
    };
    const after = () => now.rows.map((_, i): Item => ({ i, stage: now, mark: markNow(i), order: i }));
    const before = (): Item[] => {
      if (!then) return [];
      // Where the rows stand in the new order: before what replaces them, else after what was before them.
      let order = -1;
      return then.rows.map((id, i): Item => {
        const gone = !now.ids.has(id);
        const place = now.at.get(then.row(i)[0]);
        if (place !== undefined) order = place;
        return {
          i,
          stage: then,
          mark: gone ? "del" : "",
          order: place === undefined ? order + 0.4 : order - 0.4,
        };
      });
    };
    let items = show === "before" ? before().map((x) => ({ ...x, order: x.i })) : after();
    if (show === "changes")
      items = [...before().filter((x) => x.mark), ...items.filter((x) => x.mark)].sort(
        (a, b) => a.order - b.order,
      );
    items = items.filter(({ i, stage }) => stage.op(i)[0] !== "constant");
    const words = q.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length === 0) return items;
    return items.filter(({ i, stage: s }) => {
      const kind = s.isWeight(i) ? "weight" : s.op(i)[0] === "param" ? "input" : "";
      const hay =
        `${s.op(i)[0]} ${kind} ${s.scope(i)} ${s.type(i)[0]} ${s.attrs(i)} ${s.label[i]}`.toLowerCase();
      return words.every((word) => hay.includes(word));
    });
  }

  function treeOf(items: readonly Item[]): Scope {
    const make = (path: string): Scope => ({ path, items: [], scopes: new Map(), last: -1 });
    const root = make("");
    for (const item of items) {
      let scope = root;
      for (const part of item.stage.scope(item.i).split("/").filter(Boolean)) {
        const next = scope.scopes.get(part) ?? make(scope.path ? `${scope.path}/${part}` : part);
        scope.scopes.set(part, next);
        scope = next;
        scope.last = Math.max(scope.last, item.order);
      }
      scope.items.push(item);
    }
    return root;
  }

  function totalsOf(scope: Scope, into: Totals = { ops: 0, weights: new Map(), marks: {} }): Totals {
    for (const { i, stage, mark } of scope.items) {
      if (mark) into.marks[mark] = (into.marks[mark] ?? 0) + 1;
      if (stage.once(i)) continue;
      if (!Shown.isLeaf(stage.op(i)[0])) into.ops++;
      if (!stage.isWeight(i)) continue;
      for (const [by, n] of Object.entries(stage.type(i)[1]))
        into.weights.set(by, (into.weights.get(by) ?? 0) + n);
    }
    for (const inner of scope.scopes.values()) totalsOf(inner, into);
    return into;
  }

  function opCounts(n: number): Map<string, number> {
    const s = shown(n);
    const out = new Map<string, number>();
    s.rows.forEach((_, i) => {
      const op = s.op(i)[0];
      if (!Shown.isLeaf(op) && !s.once(i)) out.set(op, (out.get(op) ?? 0) + 1);
    });
    return out;
  }

  const units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
  const digits = (x: number) => (x >= 100 ? x.toFixed(0) : String(Number(x.toPrecision(3))));
  const size = (n: number) => {
    const power = n < 1000 ? 0 : Math.min(Math.floor(Math.log10(n) / 3), units.length - 1);
    return `${digits(n / 1000 ** power)} ${units[power]}`;
  };
  /** `8.19 kB × B·T`: symbolic sizes stay in the formula. */
  const formula = (bytes: Iterable<readonly [string, number]>): string => {
    const terms = [...bytes].map(([by, n]) => [by.split("*").join("·"), n] as const);
    const [first, ...rest] = terms;
    if (!first) return "0 bytes";
    if (rest.length > 0 && terms.every(([by, n]) => by && n === first[1]))
      return `${size(first[1])} × (${terms.map(([by]) => by).join(" + ")})`;
    return terms.map(([by, n]) => size(n) + (by && ` × ${by}`)).join(" + ");
  };
  const count = (n: number, noun: string) => `${n.toLocaleString("en-US")} ${noun}${n === 1 ? "" : "s"}`;

  return { shown, itemsOf, treeOf, totalsOf, opCounts, formula, count, digits };
}

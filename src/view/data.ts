import { product, times } from "../../ir/dim.ts";
import type { Graph, OpDef, Value } from "../../ir/graph.ts";
import * as contract from "../../ir/ops/contract.ts";
import * as leaf from "../../ir/ops/leaf.ts";
import * as math from "../../ir/ops/math.ts";
import * as shape from "../../ir/ops/shape.ts";
import { dtypes, type TensorType } from "../../ir/type.ts";
import type { Pass } from "../../passes/pass.ts";
import { printPipeline, runPasses } from "../../passes/pipeline.ts";
import { Aligner, isLeaf, type Listing, spell, structures } from "./align.ts";

/** A graph, and how it came to be. */
export interface Step {
  readonly name: string;
  readonly doc: string;
  /** Of the pass, those that are not the default. */
  readonly options?: string;
  /** How long the pass took, where one ran. */
  readonly seconds?: number;
  readonly graph: Graph;
}

/** The graph as it was given, with a word on what that is, and after each pass. */
export function stepsOf(given: Graph, doc: string, pipeline: readonly Pass[]): Step[] {
  const steps: Step[] = [{ name: "model", doc, graph: given }];
  const { records } = runPasses(given, pipeline, (pass, graph) => {
    const options = /\{(.*)\}/.exec(printPipeline([pass]))?.[1]?.replaceAll(",", ", ") ?? "";
    steps.push({ name: pass.name, doc: pass.doc, options, graph });
  });
  return steps.map((step, i) => ({ ...step, ...(i > 0 && { seconds: records[i - 1]?.seconds ?? 0 }) }));
}

export type OpKind = "leaf" | "math" | "shape" | "contract" | "composite" | "other";

/**
 * What the page shows: tables of what recurs, and each stage as a list of rows. A row is the same one in every stage
 * where the same op stands at the same place, so that a stage differs from the last in what its pass changed.
 */
export interface ViewData {
  readonly title: string;
  readonly ops: readonly (readonly [name: string, kind: OpKind, doc: string, inputs: readonly string[]])[];
  /** A type, and its bytes: a factor for each product of symbolic sizes, under "" what is fixed. */
  readonly types: readonly (readonly [text: string, bytes: Readonly<Record<string, number>>])[];
  readonly attrs: readonly string[];
  readonly scopes: readonly string[];
  readonly rows: readonly ViewRow[];
  readonly stages: readonly Stage[];
}

/** Op, type, attributes and operand places; all but places are indexes into tables. */
export type ViewRow = readonly [
  place: number,
  op: number,
  type: number,
  attrs: number,
  operands: readonly number[],
];

export interface Stage {
  readonly name: string;
  readonly doc: string;
  readonly options: string;
  readonly ms: number | null;
  /** Operands before users. */
  readonly rows: readonly number[];
  /** For each row: four times its scope, plus 1 if it gave the scope its name, plus 2 if only the setup reads it. */
  readonly where: readonly number[];
  /** Places of the runtime inputs. */
  readonly inputs: readonly number[];
  readonly outputs: readonly (readonly [name: string, place: number, over: string])[];
  /** Params that the setup makes, with what they are made of: pairs of places. */
  readonly made: readonly (readonly [param: number, recipe: number])[];
  /** Scopes of the same structure as an earlier one: pairs of scopes. */
  readonly same: readonly (readonly [scope: number, first: number])[];
}

/** All that the page needs to know. The same steps give the same data. */
export function viewData(title: string, steps: readonly Step[]): ViewData {
  const [ops, types, attrs, scopes] = [new Table(), new Table(), new Table(), new Table()];
  const opDefs: OpDef[] = [];
  const tensorTypes: TensorType[] = [];
  attrs.add("");
  const rows: ViewRow[] = [];
  const aligner = new Aligner();
  const stages = steps.map((step): Stage => {
    const listing = aligner.add(step.graph);
    for (const row of listing.rows) {
      if (row.id < rows.length) continue;
      const op = ops.add(row.op.name);
      opDefs[op] ??= row.op;
      const type = types.add(String(row.type));
      tensorTypes[type] ??= row.type;
      rows[row.id] = [row.place, op, type, attrs.add(attrText(row)), row.operands];
    }
    return stageOf(step, listing, scopes);
  });
  return {
    title,
    ops: opDefs.map((op) => [op.name, kindOf(op), op.doc, op.inputs]),
    types: tensorTypes.map((t) => [String(t), bytesOf(t)]),
    attrs: attrs.texts,
    scopes: scopes.texts,
    rows,
    stages,
  };
}

function stageOf({ name, doc, options = "", seconds, graph }: Step, listing: Listing, scopes: Table): Stage {
  const place = (v: Value) => listing.placeOf.get(v) as number;
  const inputs = graph.inputs.filter((v) => listing.placeOf.has(v));
  const first = new Map<string, number>();
  const same: [number, number][] = [];
  for (const [path, structure] of structures(listing)) {
    const scope = scopes.add(path);
    const key = `${path.replace(/\d+$/, "")}\n${structure}`;
    const twin = first.get(key);
    if (twin === undefined) first.set(key, scope);
    else same.push([scope, twin]);
  }
  return {
    name,
    doc,
    options,
    ms: seconds === undefined ? null : Math.round(seconds * 1e4) / 10,
    rows: listing.rows.map((row) => row.id),
    where: listing.values.map((v, i) => {
      const scope = scopes.add(listing.scopes[i] ?? "");
      return 4 * scope + (graph.origins.has(v) ? 1 : 0) + (listing.setupOnly.has(v) ? 2 : 0);
    }),
    inputs: inputs.map(place),
    outputs: Object.entries(graph.outputs).map(([k, v]) => [k, place(v), graph.aliases[k] ?? ""]),
    made: listing.values.flatMap((v): [number, number][] => {
      const recipe = v.op.name === "param" && graph.setup[String(v.attrs.name)];
      return recipe ? [[place(v), place(recipe)]] : [];
    }),
    same,
  };
}

/** Texts, each kept once and known by its index. */
class Table {
  readonly texts: string[] = [];
  readonly #indexes = new Map<string, number>();
  add(text: string): number {
    const known = this.#indexes.get(text);
    if (known !== undefined) return known;
    this.#indexes.set(text, this.texts.length);
    return this.texts.push(text) - 1;
  }
}

/** The attributes that are not the default; of a param its name, of a constant its value. */
export function attrText({ op, attrs }: Pick<Value, "op" | "attrs">): string {
  if (isLeaf(op)) return spell(op.name === "param" ? attrs.name : attrs.value);
  return Object.entries(attrs)
    .filter(([k, x]) => spell(x) !== spell(op.attrs[k]?.default))
    .map(([k, x]) => `${k}=${spell(x)}`)
    .join(" ");
}

const kinds: readonly (readonly [OpKind, object])[] = [
  ["leaf", leaf],
  ["math", math],
  ["shape", shape],
  ["contract", contract],
];

function kindOf(op: OpDef): OpKind {
  if (op.composite) return "composite";
  return kinds.find(([, members]) => Object.values(members).includes(op))?.[0] ?? "other";
}

/** Bytes of a tensor of this type, by what they are a multiple of. */
export function bytesOf(type: TensorType): Record<string, number> {
  const bits = times(product(type.shape), dtypes[type.dtype]);
  if (typeof bits === "number") return { "": bits / 8 };
  return Object.fromEntries([...bits.terms].map(([monomial, n]) => [monomial, n / 8]));
}

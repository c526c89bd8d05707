import type { Dim, Sizes } from "../../../ir/dim.ts";
import { dim, product, times } from "../../../ir/dim.ts";
import type { Graph, Value } from "../../../ir/graph.ts";
import { cast, param } from "../../../ir/ops/index.ts";
import type { DType } from "../../../ir/type.ts";
import type { Emit } from "../../backend.ts";
import { most, single } from "./dims.ts";
import { type Buffer, type Line, type Ref, type Shown, type Store, text } from "./line.ts";

/** Where a value lies: elements of `store` from `offset`, so many apart along each axis. */
export interface Place {
  readonly store: Store;
  readonly offset: Dim;
  readonly strides: readonly Dim[];
}

/** A cache of keys or values: one text's, in slots. */
export interface Cache {
  readonly name: string;
  readonly heads: number;
  readonly headDim: number;
  /** Tokens that are looked at; 0 for all. */
  window: number;
  /** Whether this step's keys were written already. */
  written: boolean;
}

/** How activations of each dtype are held. Narrow floats are floats that were rounded. */
export const ctypes: Readonly<Record<DType, string>> = {
  f32: "float",
  f16: "float",
  bf16: "float",
  i32: "int32_t",
  i8: "int8_t",
  u8: "uint8_t",
  i4: "int8_t",
  bool: "uint8_t",
};
/** How weights of each dtype lie in the file. */
export const storedTypes: Readonly<Record<DType, string>> = {
  ...ctypes,
  f16: "uint16_t",
  bf16: "uint16_t",
  i4: "uint8_t",
};
const widths: Readonly<Record<string, number>> = { float: 4, int32_t: 4, int16_t: 2, int8_t: 1, uint8_t: 1 };

/** Row-major strides. */
export function packed(shape: readonly Dim[]): Dim[] {
  return shape.map((_, axis) => product(shape.slice(axis + 1)));
}

/** Collects the lines that compute a graph's values. A value is computed when the first line asks for it. */
export class Builder {
  readonly graph: Graph;
  readonly lines: Line[] = [];
  readonly caches: Cache[] = [];
  readonly bounds: Sizes;
  readonly #emitters: Readonly<Record<string, Emit<Builder> | undefined>>;
  readonly #places = new Map<Value, Place>();
  readonly #once = new Map<string, Place>();
  readonly #inputs: ReadonlySet<Value>;

  /** `bounds` holds the most that each symbolic size can be. */
  constructor(graph: Graph, emitters: Readonly<Record<string, Emit<Builder> | undefined>>, bounds: Sizes) {
    this.graph = graph;
    this.bounds = bounds;
    this.#emitters = emitters;
    this.#inputs = new Set(graph.inputs);
    for (const v of graph.inputs) this.#declare(v);
  }

  #declare(v: Value): void {
    const name = String(v.attrs.name);
    const given = { tokens: "g->tokens", positions: "g->counting + P", past_positions: "g->counting" }[name];
    if (given)
      this.#places.set(v, {
        store: { kind: "given", text: given },
        offset: 0,
        strides: packed(this.shape(v)),
      });
    else if (name.startsWith("past_key_values.")) {
      const [heads, headDim] = [v.fixed(1), v.fixed(3)];
      const index = this.caches.push({ name, heads, headDim, window: 0, written: false }) - 1;
      const slots = dim(`slots_${index}`);
      const strides = [times(heads * headDim, slots), times(headDim, slots), headDim, 1];
      this.#places.set(v, { store: { kind: "cache", index }, offset: 0, strides });
    }
  }

  /** Gives an input that is none of a language model's a place of its own. */
  provide(v: Value, label: string): Buffer {
    const place = this.allocate(v, label, true);
    this.#places.set(v, place);
    return place.store as Buffer;
  }

  /** The sizes of a value, for one text. */
  shape(v: Value): Dim[] {
    return v.shape.map(single);
  }
  /** How many elements a value has. */
  count(v: Value): Dim {
    return product(this.shape(v));
  }

  isInput(v: Value): boolean {
    return this.#inputs.has(v);
  }

  /** Where `v` lies; computes it if that has not been done. */
  place(v: Value): Place {
    const known = this.#places.get(v);
    if (known) return known;
    // A long chain of values would be a deep recursion; operands come first.
    const waiting = [v];
    for (let top = waiting.at(-1); top; top = waiting.at(-1)) {
      const missing = this.#needed(top).filter((i) => !this.#places.has(i));
      if (missing.length > 0 && !this.#places.has(top)) waiting.push(...missing.toReversed());
      else {
        waiting.pop();
        if (!this.#places.has(top)) this.#emit(top);
      }
    }
    return this.#places.get(v) as Place;
  }

  /** Operands that are computed on their own before `v`: those that its emitter does not take apart. */
  #needed(v: Value): readonly Value[] {
    return v.op === param ? [] : v.inputs.filter((i) => !this.isWeight(i) && i.op.name !== "concat");
  }

  #emit(v: Value): void {
    if (v.op === param) {
      const store: Store = { kind: "weight", name: String(v.attrs.name), dtype: v.dtype };
      this.#places.set(v, { store, offset: 0, strides: packed(this.shape(v)) });
      return;
    }
    const emit = this.#emitters[v.op.name];
    if (emit) emit(this, v);
    else this.lower(v);
    if (!this.#places.has(v)) throw new Error(`${v.op.name} was given no place`);
  }

  /** Computes `v` as what it is short for. */
  lower(v: Value): string {
    if (!v.op.decompose) throw new Error(`no emitter for ${v.op.name}; legalize first`);
    return this.view(v, this.place(v.op.decompose(v.inputs, v.attrs)));
  }

  /** A weight as it is stored, or cast from that. */
  isWeight(v: Value): boolean {
    return (
      (v.op === param && !this.#inputs.has(v)) ||
      (v.op === cast && v.inputs[0]?.op === param && !this.#inputs.has(v.inputs[0]))
    );
  }

  settle(v: Value, place: Place): string {
    this.#places.set(v, place);
    return "";
  }

  /** New memory for `v`, with axes in the order of `v` unless `strides` says otherwise. */
  allocate(v: Value, label = this.label(v), lasting = false, strides = packed(this.shape(v))): Place {
    return { store: this.buffer(ctypes[v.dtype], this.count(v), label, lasting), offset: 0, strides };
  }

  buffer(ctype: string, count: Dim, label: string, lasting = false): Buffer {
    const bytes = Math.max(1, most(count, this.bounds)) * (widths[ctype] ?? 4);
    return { kind: "arena", ctype, bytes, label, lasting };
  }

  /** A readable name for C. */
  label(v: Value): string {
    const origin = this.graph.origins.get(v);
    if (!origin) return v.op.name;
    const last = origin.replace(/^.*layers\.\d+\/?/, "").replace(/^model\//, "");
    return last.split("/").at(-1)?.replace(/\W+/g, "_") || "hidden";
  }

  /** Adds a line that gives `v` its value in `place`. */
  compute(
    v: Value,
    place: Place,
    pieces: Line["pieces"],
    reads: readonly Store[],
    replaces: readonly Buffer[] = [],
  ): string {
    const shows = this.#shown(v, place);
    this.lines.push({ pieces, reads, writes: [place.store], replaces, once: false, ...(shows && { shows }) });
    return this.settle(v, place);
  }

  add(pieces: Line["pieces"], reads: readonly Store[], writes: readonly Store[], once = false): void {
    this.lines.push({ pieces, reads, writes, replaces: [], once });
  }

  /** Something that is computed once for all that ask, before everything else. */
  shared(key: string, make: () => Place): Place {
    const known = this.#once.get(key);
    if (known) return known;
    const made = make();
    this.#once.set(key, made);
    return made;
  }

  /** Rows of features with a name: [B,T,features], one after the other. */
  #shown(v: Value, { store, strides }: Place): Shown | undefined {
    const origin = this.graph.origins.get(v);
    if (!origin || store.kind !== "arena" || v.dtype !== "f32" || v.type.rank !== 3) return undefined;
    const columns = v.shape[2];
    if (typeof columns !== "number" || strides[2] !== 1 || strides[1] !== columns) return undefined;
    return { origin, buffer: store, rows: this.shape(v)[1] as Dim, columns };
  }

  /** Names a view of what another line computed, where that is all that the value is. */
  view(v: Value, place: Place): string {
    const shows = this.#shown(v, place);
    const last = this.lines.findLast((line) => line.writes.includes(place.store));
    if (shows && last && !last.shows && place.offset === 0)
      this.lines[this.lines.lastIndexOf(last)] = { ...last, shows };
    return this.settle(v, place);
  }

  /** A pointer to the first element at `place`. */
  pointer({ store, offset }: Place): Line["pieces"] {
    const base = this.#base(store);
    return offset === 0 ? [base] : text`${[base]} + ${offset}`;
  }

  #base(store: Store): Ref | string {
    if (store.kind === "arena") return { is: "memory", store };
    if (store.kind === "given") return store.text;
    if (store.kind === "cache") return `g->cache[${store.index}].x`;
    return { is: "weight", name: store.name, ctype: storedTypes[store.dtype] };
  }
}

/** Whether elements follow one another in the order of `shape`. */
export function isPacked({ strides }: Place, shape: readonly Dim[]): boolean {
  const want = packed(shape);
  return shape.every((n, axis) => n === 1 || strides[axis] === want[axis]);
}

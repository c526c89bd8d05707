import { type Dim, product } from "../../../ir/dim.ts";
import type { Value } from "../../../ir/graph.ts";
import { matmul, update } from "../../../ir/ops/index.ts";
import { type DType, dtypes } from "../../../ir/type.ts";
import {
  type Expr,
  f32,
  type Kernel,
  type KernelBuilder,
  kernel,
  type Readable,
  select,
  unpack,
} from "../lang/index.ts";
import {
  converted,
  type Element,
  type Elements,
  elements,
  operands,
  registerOf,
  rounded,
} from "./element.ts";
import type { Names } from "./names.ts";
import { Place, Sizes } from "./place.ts";

/** How a value that stands in memory is read. */
export type Leaf =
  /** A word for each element. */
  | { readonly kind: "words"; readonly name: string }
  /** The same, in the step state from an element on. */
  | { readonly kind: "step"; readonly from: number }
  /** Packed rows of a weight. */
  | { readonly kind: "packed"; readonly name: string; readonly dtype: DType; readonly rowBytes: number };

/** Who knows which values stand in memory, and what the others are made of. */
export interface Source {
  leaf(v: Value): Leaf | undefined;
  /** `v`, or what it decomposes into. */
  primitive(v: Value): Value;
  readonly names: Names;
}

export interface Generic {
  readonly kernel: Kernel;
  /** The value behind each buffer but the last, which is the result. */
  readonly reads: readonly Value[];
  /** The sizes that the kernel's uniforms stand for. */
  readonly sizes: readonly string[];
}

/** Groups beyond this many walk on instead. */
export const mostGroups = 8192;

/** Reads elements of graph values, from memory or by computing them on the spot. */
class Reader implements Elements {
  readonly k: KernelBuilder;
  readonly sizes: Sizes;
  readonly reads: Value[] = [];
  readonly ops = new Set<string>();
  readonly #source: Source;
  readonly #buffers = new Map<Value | "step", Readable<"f32" | "i32" | "u32">>();
  #known = new Map<Value, Map<Place, Element>>();

  constructor(k: KernelBuilder, source: Source) {
    this.k = k;
    this.sizes = new Sizes(k);
    this.#source = source;
  }

  /** Elements that are known so far are out of sight after this: a loop begins or ends. */
  forget(): void {
    this.#known = new Map();
  }

  at(given: Value, place: Place): Element {
    const known = this.#known.get(given)?.get(place);
    if (known) return known;
    const made = this.#make(given, place);
    const named = this.k.let(given.op.name === "param" ? "element" : given.op.name, made);
    const places = this.#known.get(given) ?? new Map<Place, Element>();
    this.#known.set(given, places.set(place, named));
    return named;
  }

  #make(given: Value, place: Place): Element {
    const leaf = this.#source.leaf(given);
    if (leaf) return this.#load(given, leaf, place);
    const v = this.#source.primitive(given);
    if (v !== given) return this.at(v, place);
    const emit = (elements as Readonly<Record<string, (cx: Elements, v: Value, p: Place) => Element>>)[
      v.op.name
    ];
    if (!emit)
      throw new Error(`${v.op.name} : ${v.type} has no elements of its own; it should stand in memory`);
    this.ops.add(v.op.name);
    return rounded(emit(this, v, place), v.dtype);
  }

  #load(v: Value, leaf: Leaf, place: Place): Element {
    if (leaf.kind === "step") {
      const step = this.#buffer("step", v, "step", "i32");
      return step.at(place.index.add(leaf.from)) as Element;
    }
    if (leaf.kind === "words") {
      const type = registerOf(v.dtype) === "f32" ? "f32" : "i32";
      const word = this.#buffer(v, v, leaf.name, type).at(place.index) as Element;
      return v.dtype === "bool" ? converted(word, "bool") : word;
    }
    const words = this.#buffer(v, v, leaf.name, "u32");
    const last = v.shape.at(-1) ?? 1;
    const column = v.type.rank === 0 ? place.index : (place.coordinates.at(-1) as Expr<"u32">);
    const row = v.type.rank < 2 ? undefined : place.index.div(this.sizes.of(last));
    const each = 32 / dtypes[leaf.dtype];
    const inRow = column.div(each);
    const word = words.at(row ? row.mul(leaf.rowBytes / 4).add(inRow) : inRow) as Expr<"u32">;
    return unpackers[leaf.dtype](this.k.let("word", word), column.mod(each));
  }

  /** Whole-number inputs share one buffer; everything else has its own. */
  #buffer(
    key: Value | "step",
    v: Value,
    name: string,
    type: "f32" | "i32" | "u32",
  ): Readable<"f32" | "i32" | "u32"> {
    const known = this.#buffers.get(key);
    if (known) return known;
    const made = type === "u32" ? this.k.weight(name, type) : this.k.input(name, type);
    this.#buffers.set(key, made);
    this.reads.push(v);
    return made;
  }
}

const signed = (bits: number) => (word: Expr<"u32">, i: Expr<"u32">) =>
  word
    .shr(i.mul(bits))
    .shl(32 - bits)
    .bits("i32")
    .shr(32 - bits);
const half = (packing: "f16x2" | "bf16x2") => (word: Expr<"u32">, i: Expr<"u32">) => {
  const [low, high] = unpack(packing, word).lanes() as [Expr<"f32">, Expr<"f32">];
  return select(i.eq(0), low, high);
};
/** Element `i` of a word. */
const unpackers: Readonly<Record<DType, (word: Expr<"u32">, i: Expr<"u32">) => Element>> = {
  f32: (word) => word.bits("f32"),
  i32: (word) => word.bits("i32"),
  f16: half("f16x2"),
  bf16: half("bf16x2"),
  i8: signed(8),
  i4: signed(4),
  u8: (word, i) => word.shr(i.mul(8)).and(255).bits("i32"),
  bool: (word, i) => word.shr(i.mul(8)).and(255).ne(0),
};

const stored = (e: Element): Expr<"f32"> =>
  (e.type === "bool" ? converted(e, "i32") : e) as unknown as Expr<"f32">;
const storedType = (d: DType): "f32" => (registerOf(d) === "f32" ? "f32" : "i32") as "f32";

/**
 * Writes a kernel named after the ops in it and the shape of what it makes, such as `map_slice_2048`. Buffers are bound in
 * the order in which they are met; the result is the last.
 */
function generic(
  what: string,
  made: readonly Dim[],
  doc: string,
  threads: number,
  source: Source,
  write: (k: KernelBuilder, r: Reader) => void,
): Generic {
  let reader: Reader | undefined;
  const written = kernel("generic", { doc, threads }, (k) => {
    reader = new Reader(k, source);
    write(k, reader);
  });
  const { ops, reads, sizes } = reader as unknown as Reader;
  const { buffers, uniforms, shared, body } = written;
  const shown = [...ops].filter((op) => op !== what && op !== "constant").slice(-4);
  const dims = made.filter((d) => d !== 1).map((d) => String(d).toLowerCase().replace(/\W+/g, "_"));
  const name = source.names.of(
    [what, ...shown, ...dims].join("_"),
    JSON.stringify([threads, buffers, uniforms, shared, body]),
  );
  return { kernel: { ...written, name }, reads, sizes: sizes.names };
}

/** All threads of the grid walk over `n` things. */
function walk(k: KernelBuilder, n: Expr<"u32">, body: (i: Expr<"u32">) => void): void {
  const from = k.group.x.mul(k.threads).add(k.thread);
  k.for("i", { from, to: n, step: k.groups.mul(k.threads) }, body);
}

const shape = (v: Value) => `[${v.shape.join(", ")}]`;

/** Each element of `v` on its own. */
export function mapKernel(v: Value, source: Source, threads: number): Generic {
  return generic("map", v.shape, `each element of a ${v.dtype} ${shape(v)}`, threads, source, (k, r) => {
    const n = r.sizes.of(product(v.shape));
    walk(k, n, (i) => {
      const place = new Place(k, r.sizes, v.shape, { index: i });
      const value = stored(r.at(v, place));
      k.output("y", storedType(v.dtype)).set(i, value);
    });
  });
}

/** Writes `src` of an update into what stands there. */
export function storeKernel(v: Value, source: Source, threads: number): Generic {
  const { dest, src, start, attrs } = operands(update, v);
  const axis = v.type.axis(attrs.axis);
  return generic(
    "store",
    src.shape,
    `${shape(src)} into ${shape(dest)}, in place`,
    threads,
    source,
    (k, r) => {
      walk(k, r.sizes.of(product(src.shape)), (i) => {
        const place = new Place(k, r.sizes, src.shape, { index: i });
        const at = place.coordinates[axis] as Expr<"u32">;
        const [count, all] = [r.sizes.of(src.type.at(axis)), r.sizes.of(dest.type.at(axis))];
        const from = (r.at(start, place.moved([], [])) as Expr<"i32">).to("u32").add(at);
        const to = place.coordinates.map((c, k) => (k === axis ? (attrs.wrap ? from.mod(all) : from) : c));
        const value = stored(r.at(src, place));
        const y = k.output("y", storedType(v.dtype));
        const put = () => y.set(place.moved(dest.shape, to).index, value);
        // In a ring the last of the numbers that fall on one place wins.
        k.if(attrs.wrap ? count.le(at.add(all)) : from.lt(all), put);
      });
    },
  );
}

const reductions = {
  sum: { op: "+", first: 0 },
  mean: { op: "+", first: 0 },
  max: { op: "max", first: Number.NEGATIVE_INFINITY },
} as const;

export const isReduction = (name: string): name is keyof typeof reductions => Object.hasOwn(reductions, name);

/** Sums, averages and maxima: one group for each result. */
export function reduceKernel(v: Value, source: Source, threads: number): Generic {
  const name = v.op.name;
  if (!isReduction(name)) throw new Error(`${name} is no reduction`);
  const x = v.inputs[0] as Value;
  const axis = v.type.axis(Number(v.attrs.axis));
  const { op, first } = reductions[name];
  return generic(name, v.shape, `${name} over axis ${axis} of ${shape(x)}`, threads, source, (k, r) => {
    const n = r.sizes.of(x.type.at(axis));
    k.for("result", { from: k.group.x, to: r.sizes.of(product(v.shape)), step: k.groups }, (result) => {
      const place = new Place(k, r.sizes, v.shape, { index: result });
      const fixed = place.coordinates;
      const acc = k.var("acc", f32(first));
      k.for("j", { from: k.thread, to: n, step: threads }, (j) => {
        const at = fixed.map((c, i) => (i === axis ? j : c));
        const e = r.at(x, place.moved(x.shape, at)) as Expr<"f32">;
        acc.set(op === "+" ? acc.add(e) : acc.max(e));
      });
      r.forget();
      const [all] = k.reduce(op, [{ name: "all", value: acc }]);
      const value = name === "mean" ? (all as Expr<"f32">).div(n.to("f32")) : (all as Expr<"f32">);
      const y = k.output("y", "f32");
      k.if(k.thread.eq(0), () => y.set(result, rounded(value, v.dtype) as Expr<"f32">));
    });
  });
}

/** Any matrix product, one thread for each element: for shapes that have no kernel of their own. */
export function matmulKernel(v: Value, source: Source, threads: number): Generic {
  const { a, b } = operands(matmul, v);
  return generic("matmul", v.shape, `${shape(a)} times ${shape(b)}`, threads, source, (k, r) => {
    const isFloat = registerOf(v.dtype) === "f32";
    walk(k, r.sizes.of(product(v.shape)), (i) => {
      const place = new Place(k, r.sizes, v.shape, { index: i });
      const at = place.coordinates;
      const acc = k.zero("acc", isFloat ? "f32" : ("i32" as "f32"));
      k.for("j", { to: r.sizes.of(a.type.at(-1)) }, (j) => {
        const rank = v.type.rank;
        const batch = at.slice(0, -2);
        const of = (x: Value, row: Expr<"u32">, column: Expr<"u32">) => {
          const own = batch.slice(rank - x.type.rank);
          const stretched = own.map((c, i) => (x.shape[i] === 1 ? c.mul(0) : c));
          return r.at(x, place.moved(x.shape, [...stretched, row, column])) as Expr<"f32">;
        };
        const left = of(a, at[rank - 2] as Expr<"u32">, j);
        acc.inc(left.mul(of(b, j, at[rank - 1] as Expr<"u32">)));
      });
      r.forget();
      const value = rounded(acc, v.dtype);
      k.output("y", storedType(v.dtype)).set(i, stored(value));
    });
  });
}

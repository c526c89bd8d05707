import type { Value } from "../../../ir/graph.ts";
import { constant } from "../../../ir/ops/index.ts";
import { type DType, isFloat, type TensorType } from "../../../ir/type.ts";
import { identifier, literal, sameShape, sizes, tensorType, typed } from "./dialect.ts";

/** A value of the text: its name, and its type with all sizes known. */
export interface Ssa {
  readonly name: string;
  readonly type: TensorType;
}

/** Choices about speed on the machine that the text is for. */
export interface Tuning {
  /** Products of fewer rows are padded to this many. 1 for none. */
  readonly rows: number;
  /** Whether hardware that multiplies bf16 is to keep all of f32 in products. */
  readonly exact: boolean;
}

/** Writes what a composite stands for as a function of its own, once, and gives the function's name. */
export type Outline = (v: Value) => string;

/** The lines of one function. Every value has a name; those with an origin have that. */
export class Body {
  readonly lines: string[] = [];
  readonly tuning: Tuning;
  readonly outline: Outline;
  readonly #values = new Map<Value, Ssa>();
  readonly #constants = new Map<string, Ssa>();
  readonly #origins: ReadonlyMap<Value, string>;
  readonly #around: Body | undefined;
  readonly #names: { readonly taken: Set<string>; next: number };
  #anonymous = false;

  constructor(
    tuning: Tuning,
    outline: Outline,
    origins: ReadonlyMap<Value, string> = new Map(),
    around?: Body,
  ) {
    this.tuning = tuning;
    this.outline = outline;
    this.#origins = origins;
    this.#around = around;
    this.#names = around ? around.#names : { taken: new Set(), next: 0 };
  }

  /** A region of this function: it sees what has been written so far, and keeps its own lines to itself. */
  within(origins: ReadonlyMap<Value, string>): Body {
    return new Body(this.tuning, this.outline, origins, this);
  }

  /** A value that no line makes: an argument of the function or of a region. */
  called(name: string, type: TensorType): Ssa {
    return { name: `%${this.#unique(identifier(name))}`, type };
  }

  define(v: Value, made: Ssa): void {
    this.#values.set(v, made);
  }

  has(v: Value): boolean {
    return this.#values.has(v) || (this.#around?.has(v) ?? false);
  }

  /** What has been written for `v`. */
  of(v: Value): Ssa {
    const found = this.#values.get(v);
    if (found) return found;
    if (this.#around?.has(v)) return this.#around.of(v);
    if (v.op === constant) return this.splat(Number(v.attrs.value), typed(v.dtype, []));
    throw new Error(`${v.op.name} : ${v.type} is used before it is written`);
  }

  /** `v` stretched to `shape`; a number is written in that shape at once. */
  stretched(v: Value, shape: readonly number[]): Ssa {
    if (v.op === constant && !this.has(v)) return this.splat(Number(v.attrs.value), typed(v.dtype, shape));
    return this.broadcast(this.of(v), shape);
  }

  /** One number all over. */
  splat(value: number, type: TensorType): Ssa {
    const text = `stablehlo.constant dense<${literal(value, type.dtype)}> : ${tensorType(type)}`;
    const known = this.#constant(text) ?? this.line(text, type);
    this.#constants.set(text, known);
    return known;
  }

  #constant(text: string): Ssa | undefined {
    return this.#constants.get(text) ?? (this.#around ? this.#around.#constant(text) : undefined);
  }

  /** Axes are matched from the last one; `onto` says where each goes instead. */
  broadcast(x: Ssa, shape: readonly number[], onto?: readonly number[]): Ssa {
    if (sameShape(x.type.shape, shape)) return x;
    const dims = onto ?? x.type.shape.map((_, i) => i + shape.length - x.type.rank);
    return this.op("broadcast_in_dim", [x], typed(x.type.dtype, shape), `, dims = [${dims.join(", ")}]`);
  }

  reshape(x: Ssa, shape: readonly number[], v?: Value): Ssa {
    if (sameShape(x.type.shape, shape)) return x;
    return this.op("reshape", [x], typed(x.type.dtype, shape), "", v);
  }

  convert(x: Ssa, dtype: DType, v?: Value): Ssa {
    return x.type.dtype === dtype ? x : this.op("convert", [x], typed(dtype, sizes(x.type)), "", v);
  }

  /** An operation whose operands and result have one type. */
  same(op: string, operands: readonly Ssa[], v?: Value): Ssa {
    const [first] = operands as [Ssa];
    const names = operands.map((o) => o.name).join(", ");
    return this.line(`stablehlo.${op} ${names} : ${tensorType(first.type)}`, first.type, v);
  }

  /** An operation written with the types of operands and result; `attributes` stand between. */
  op(op: string, operands: readonly Ssa[], type: TensorType, attributes = "", v?: Value): Ssa {
    const names = operands.map((o) => o.name).join(", ");
    return this.line(`stablehlo.${op} ${names}${attributes} : ${signature(operands, type)}`, type, v);
  }

  /** The rows of `x` along `axis` from `from` up to `to`. */
  slice(x: Ssa, axis: number, from: number, to: number, v?: Value): Ssa {
    const ranges = sizes(x.type).map((n, i) => (i === axis ? `${from}:${to}` : `0:${n}`));
    return this.op("slice", [x], x.type.resized(axis, to - from), ` [${ranges.join(", ")}]`, v);
  }

  /** `x` summed (or the like) over `axis`, which goes. */
  reduce(x: Ssa, axis: number, op: "add" | "maximum", first: number): Ssa {
    const type = typed(x.type.dtype, sizes(x.type).toSpliced(axis, 1));
    const init = this.splat(first, typed(x.type.dtype, []));
    const text =
      `stablehlo.reduce(${x.name} init: ${init.name}) applies stablehlo.${op} across dimensions = [${axis}] : ` +
      signature([x, init], type);
    return this.line(text, type);
  }

  /** Where each number of `a` stands to that of `b`. */
  compare(how: "LE" | "LT" | "EQ" | "NE", a: Ssa, b: Ssa, v?: Value): Ssa {
    const kind = isFloat(a.type.dtype) ? "FLOAT" : "SIGNED";
    const type = a.type.with({ dtype: "bool" });
    return this.line(
      `stablehlo.compare ${how}, ${a.name}, ${b.name}, ${kind} : ${signature([a, b], type)}`,
      type,
      v,
    );
  }

  select(cond: Ssa, a: Ssa, b: Ssa, v?: Value): Ssa {
    const names = [cond, a, b].map((x) => x.name).join(", ");
    return this.line(
      `stablehlo.select ${names} : ${tensorType(cond.type)}, ${tensorType(a.type)}`,
      a.type,
      v,
    );
  }

  /** 0, 1, 2, … along one axis. */
  iota(type: TensorType, axis: number, v?: Value): Ssa {
    return this.line(`stablehlo.iota dim = ${axis} : ${tensorType(type)}`, type, v);
  }

  /** The pieces of `x` that the numbers in `index` name along `axis`, which they take the place of. */
  take(x: Ssa, index: Ssa, axis: number, v?: Value): Ssa {
    const [shape, at] = [sizes(x.type), sizes(index.type)];
    const type = typed(x.type.dtype, shape.toSpliced(axis, 1, ...at));
    const offsets = shape.flatMap((_, i) => (i === axis ? [] : [i < axis ? i : i + at.length - 1]));
    const numbers =
      `#stablehlo.gather<offset_dims = [${offsets.join(", ")}], collapsed_slice_dims = [${axis}], ` +
      `start_index_map = [${axis}], index_vector_dim = ${at.length}>`;
    const text =
      `"stablehlo.gather"(${x.name}, ${index.name}) <{dimension_numbers = ${numbers}, ` +
      `indices_are_sorted = false, slice_sizes = array<i64: ${shape.with(axis, 1).join(", ")}>}> : ` +
      signature([x, index], type);
    return this.line(text, type, v);
  }

  /** One line, which makes a value. It is called after `v`'s origin when it is `v`. */
  line(text: string, type: TensorType, v?: Value): Ssa {
    const origin = v && !this.#anonymous && this.#origins.get(v);
    const name = `%${origin ? this.#unique(identifier(origin)) : this.#names.next++}`;
    this.lines.push(`${name} = ${text}`);
    return { name, type };
  }

  /** What `write` makes, with its name left for a value that follows it. */
  anonymously<T>(write: () => T): T {
    this.#anonymous = true;
    const made = write();
    this.#anonymous = false;
    return made;
  }

  #unique(name: string): string {
    let free = name;
    for (let n = 1; this.#names.taken.has(free); n++) free = `${name}_${n}`;
    this.#names.taken.add(free);
    return free;
  }
}

export const signature = (operands: readonly Ssa[], type: TensorType): string =>
  `(${operands.map((o) => tensorType(o.type)).join(", ")}) -> ${tensorType(type)}`;

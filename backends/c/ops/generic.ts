import { type Dim, plus, times } from "../../../ir/dim.ts";
import type { Value } from "../../../ir/graph.ts";
import { constant } from "../../../ir/ops/index.ts";
import type { DType } from "../../../ir/type.ts";
import { type Builder, isPacked, type Place } from "../program/builder.ts";
import { printDim } from "../program/dims.ts";
import { type Buffer, float, type Line, type Store, text } from "../program/line.ts";

type Pieces = Line["pieces"];

/** The number that a literal stands for, in C. */
export function literal(value: number, dtype: DType): string {
  if (dtype === "bool") return value ? "1" : "0";
  return dtype === "f32" || dtype === "f16" || dtype === "bf16" ? float(value) : String(Math.trunc(value));
}

/** An operand's element at index `at` of its store. */
function element(cx: Builder, v: Value, place: Place, at: string): Pieces {
  const p = cx.pointer({ ...place, offset: 0 });
  if (place.store.kind !== "weight") return text`${p}[${at}]`;
  if (v.dtype === "i4") return text`nibble(${p}, ${at})`;
  if (v.dtype === "bf16" || v.dtype === "f16") return text`${v.dtype}_to_f32(${p}[${at}])`;
  return text`${p}[${at}]`;
}

/** Reads operand `v` at coordinates of its own, innermost last. */
export type Read = (v: Value, coordinates: readonly string[]) => Pieces;

/** Where the element of `place` at these coordinates is. */
function address({ offset, strides }: Place, shape: readonly Dim[], coordinates: readonly string[]): string {
  const terms = coordinates.flatMap((c, axis) => {
    const stride = strides[axis] as Dim;
    if (shape[axis] === 1 || c === "0" || stride === 0) return [];
    return [stride === 1 ? c : `${c} * ${printDim(stride)}`];
  });
  if (offset !== 0) terms.unshift(printDim(offset));
  return terms.join(" + ") || "0";
}

const rounders: Readonly<Partial<Record<DType, string>>> = { bf16: "round_bf16", f16: "round_f16" };

/** What is kept of `expression` as `dtype`. */
export const stored = (dtype: DType, expression: Pieces): Pieces => {
  const round = rounders[dtype];
  return round ? text`${round}(${expression})` : expression;
};

/**
 * A loop over all elements of `v`, each computed on its own from its coordinates. `before` goes ahead of the
 * assignment of `value`.
 */
export function loop(
  cx: Builder,
  v: Value,
  operands: readonly Value[],
  body: (read: Read, coordinates: readonly string[]) => { before?: Pieces; value: Pieces },
): string {
  const out = cx.allocate(v);
  const shape = cx.shape(v);
  const used: Store[] = [];
  const read: Read = (o, own) => {
    if (o.op === constant) return [literal(Number(o.attrs.value), o.dtype)];
    const place = cx.place(o);
    used.push(place.store);
    return element(cx, o, place, address(place, cx.shape(o), own));
  };
  for (const o of operands) if (o.op !== constant) cx.place(o);
  const coordinates = shape.map((n, axis) => (n === 1 ? "0" : `i${axis}`));
  const { before = [], value } = body(read, coordinates);
  let inner = "i";
  const declared: string[] = [];
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const n = shape[axis] as Dim;
    if (n === 1) continue;
    const outermost = shape.slice(0, axis).every((m) => m === 1);
    declared.unshift(`i${axis} = ${inner}${outermost ? "" : ` % ${printDim(n)}`}`);
    inner = `${inner} / ${printDim(n)}`;
  }
  const names = declared.length ? [`  const long ${declared.join(", ")};\n`] : [];
  const silence = declared.length
    ? [`  ${declared.map((d) => `(void)${d.split(" ")[0]}`).join(", ")};\n`]
    : [];
  const total = cx.count(v);
  const pieces = text`for (long i = share(t, ${total}); i < share_end(t, ${total}); i++) {\n${[...names, ...silence]}${before}  ${cx.pointer(out)}[i] = ${stored(v.dtype, value)};\n}`;
  return cx.compute(v, out, pieces, used);
}

/** An operand's coordinates where it stretches to those of the result. */
export function stretched(cx: Builder, v: Value, coordinates: readonly string[]): string[] {
  const shape = cx.shape(v);
  const skipped = coordinates.length - shape.length;
  return shape.map((n, axis) => (n === 1 ? "0" : (coordinates[axis + skipped] as string)));
}

/** Element by element. Where all operands lie alike it is a plain loop, and the result may take an operand's memory. */
export function elementwise(cx: Builder, v: Value, f: (...operands: readonly Pieces[]) => Pieces): string {
  const operands = v.inputs.filter((o) => o.op !== constant);
  const shape = cx.shape(v);
  const places = operands.map((o) => cx.place(o));
  const same = operands.every((o, i) => {
    const own = cx.shape(o);
    const place = places[i] as Place;
    return own.length === shape.length && own.every((n, k) => n === shape[k]) && isPacked(place, shape);
  });
  if (!same)
    return loop(cx, v, v.inputs, (read, at) => ({
      value: f(...v.inputs.map((o) => read(o, stretched(cx, o, at)))),
    }));
  const out = cx.allocate(v);
  const one = (o: Value): Pieces => {
    if (o.op === constant) return [literal(Number(o.attrs.value), o.dtype)];
    const place = cx.place(o);
    const at = place.offset === 0 ? "i" : `${printDim(place.offset)} + i`;
    return element(cx, o, place, at);
  };
  const total = cx.count(v);
  const value = stored(v.dtype, f(...v.inputs.map(one)));
  const pieces = text`for (long i = share(t, ${total}); i < share_end(t, ${total}); i++) ${cx.pointer(out)}[i] = ${value};`;
  const ctype = (out.store as Buffer).ctype;
  const heirs = places.flatMap(({ store, offset }) =>
    store.kind === "arena" && store.ctype === ctype && offset === 0 ? [store] : [],
  );
  return cx.compute(
    v,
    out,
    pieces,
    places.map((p) => p.store),
    heirs,
  );
}

/** `v` with its elements one after the other: where it lies, if they do, else a copy. */
export function packedPlace(cx: Builder, v: Value): Place {
  const place = cx.place(v);
  if (
    isPacked(place, cx.shape(v)) &&
    !(place.store.kind === "weight" && (v.dtype === "bf16" || v.dtype === "f16" || v.dtype === "i4"))
  )
    return place;
  return cx.shared(`packed ${v.id}`, () => copy(cx, v, place));
}

export function copy(cx: Builder, v: Value, from: Place): Place {
  const out = cx.allocate(v);
  const shape = cx.shape(v);
  let [inner, at] = ["i", ""];
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const n = shape[axis] as Dim;
    if (n !== 1) {
      const c = `(${inner}) % ${printDim(n)} * ${printDim(from.strides[axis] as Dim)}`;
      at = at ? `${c} + ${at}` : c;
    }
    inner = `${inner} / ${printDim(n)}`;
  }
  const source = element(cx, v, from, `${printDim(from.offset)} + ${at || "0"}`);
  const total = cx.count(v);
  cx.add(
    text`for (long i = share(t, ${total}); i < share_end(t, ${total}); i++) ${cx.pointer(out)}[i] = ${source};`,
    [from.store],
    [out.store],
  );
  return out;
}

/** A view of the same memory, or undefined where the elements would have to move. */
export const views = {
  reshape(cx: Builder, v: Value, x: Value): Place {
    return { ...packedPlace(cx, x), strides: rowMajor(cx.shape(v)) };
  },
  transpose(cx: Builder, x: Value, perm: readonly number[]): Place {
    const place = cx.place(x);
    return { ...place, strides: perm.map((p) => place.strides[p] as Dim) };
  },
  slice(cx: Builder, x: Value, axis: number, from: Dim): Place {
    const place = cx.place(x);
    return { ...place, offset: plus(place.offset, times(from, place.strides[axis] as Dim)) };
  },
} as const;

const rowMajor = (shape: readonly Dim[]): Dim[] =>
  shape.map((_, axis) => shape.slice(axis + 1).reduce(times, 1));

import { type Dim, parseDim, Sym } from "./dim.ts";
import { type Attr, intern, type OpDef, type Result, spell, Value } from "./graph.ts";
import { literal, node, Pattern } from "./pattern.ts";
import type { HostTensor } from "./tensor.ts";
import { type DType, isDType, parseType, TensorType, tensor } from "./type.ts";

const attr =
  <T>(kind: string, is: (v: unknown) => v is T, parse: (s: string) => unknown) =>
  (fallback?: T): Attr<T> => ({
    kind,
    default: fallback,
    is,
    parse: (s) => {
      const v = parse(s);
      if (!is(v)) throw new SyntaxError(`${s} is not ${kind}`);
      return v;
    },
  });
const list = (s: string): string[] =>
  /^\[.*\]$/.test(s) ? s.slice(1, -1).split(",").filter(Boolean) : ["?"];
const isDim = (v: unknown): v is Dim => Number.isInteger(v) || v instanceof Sym;

export const float = attr("float", (v): v is number => typeof v === "number" && !Number.isNaN(v), Number);
export const int = attr("int", (v): v is number => Number.isSafeInteger(v), Number);
export const bool = attr(
  "bool",
  (v): v is boolean => typeof v === "boolean",
  (s) => (s === "true" ? true : s === "false" ? false : s),
);
export const string = attr(
  "string",
  (v): v is string => typeof v === "string" && /^[^\s,=]+$/.test(v),
  String,
);
export const ints = attr(
  "ints",
  (v): v is readonly number[] => Array.isArray(v) && v.every(Number.isSafeInteger),
  (s) => list(s).map(Number),
);
export const dims = attr(
  "dims",
  (v): v is readonly Dim[] => Array.isArray(v) && v.every(isDim),
  (s) => list(s).map(parseDim),
);
export const size = attr("size", isDim, parseDim);
export const dtype = attr("dtype", isDType, String);
export const type = attr("type", (v): v is TensorType => v instanceof TensorType, parseType);
export const oneOf = <const T extends string | number>(...options: T[]): Attr<T> =>
  attr(
    options.join("|"),
    (v): v is T => options.includes(v as T),
    (s) => options.find((o) => String(o) === s),
  )(options[0]);

export type Schema = Readonly<Record<string, Attr<any>>>;
export type AttrsOf<A extends Schema> = { readonly [K in keyof A]: A[K] extends Attr<infer T> ? T : never };

/** `given` completed with defaults and checked against `schema`. Throws TypeError naming `owner` and the attribute. */
export function complete<A extends Schema>(
  owner: string,
  schema: A,
  given: Readonly<Record<string, unknown>>,
): AttrsOf<A> {
  for (const k of Object.keys(given))
    if (!Object.hasOwn(schema, k))
      throw new TypeError(`${owner} has no ${k}; it takes ${Object.keys(schema).join(", ") || "none"}`);
  const full: Record<string, unknown> = {};
  for (const k in schema) {
    const a = schema[k] as Attr<unknown>;
    const v = given[k] ?? a.default;
    if (!a.is(v))
      throw new TypeError(
        v === undefined ? `${owner}: ${k} is required` : `${owner}: ${k} = ${v} is not ${a.kind}`,
      );
    full[k] = v;
  }
  return full as AttrsOf<A>;
}

type Names = readonly string[];
export type Named<I extends Names, T> = { readonly [K in I[number]]: T };

interface Entry<I extends Names, A extends Schema> {
  doc: string;
  inputs: I;
  attrs?: A;
  example: readonly [types: readonly string[], attrs?: Partial<AttrsOf<A>>];
  commutative?: boolean;
}
/** An op with a meaning of its own. */
export interface Primitive<I extends Names, A extends Schema> extends Entry<I, A> {
  /** The result's type. Throws TypeError with the mend when the operands do not fit. */
  infer(types: Named<I, TensorType>, attrs: AttrsOf<A>): TensorType;
  /** The result, in f64; the interpreter rounds it to the result's dtype. */
  eval(tensors: Named<I, HostTensor>, attrs: AttrsOf<A>, out: Result): HostTensor;
  noop?(values: Named<I, Value>, attrs: AttrsOf<A>): Value | undefined;
}
/** An op that is short for others. Its type, meaning, lowering and fusion pattern are all this one function. */
export interface Composite<I extends Names, A extends Schema> extends Entry<I, A> {
  decompose(values: Named<I, Value>, attrs: AttrsOf<A>): Value;
}

type Operands<I extends Names, T> = { [K in keyof I]: T };
type Captured<P> = P extends readonly [infer H, ...infer R]
  ? (H extends Pattern<infer C> ? C : {}) & Captured<R>
  : {};

/** Call an op with values to build; call it with patterns to match. A bare number is a constant of its neighbour's dtype. */
export interface Op<I extends Names, A extends Schema> extends OpDef {
  (...args: [...Operands<I, Value | number>, attrs?: Partial<AttrsOf<A>>]): Value;
  <P extends Operands<I, Pattern<any> | number>>(...operands: P): Pattern<Captured<P>>;
  <P extends Operands<I, Pattern<any> | number>>(
    ...args: [...P, attrs: Partial<AttrsOf<A>>]
  ): Pattern<Captured<P>>;
  /** The named operands and attributes of `v`, if `v` is this op. */
  of(v: Value): (Named<I, Value> & { readonly attrs: AttrsOf<A> }) | undefined;
}

/** Every op defined so far, by name: the tables here and those of user code. */
export const registry = new Map<string, OpDef>();

function define<I extends Names, A extends Schema>(
  name: string,
  entry: Entry<I, A>,
  meaning: Pick<OpDef, "infer" | "eval" | "noop" | "decompose" | "composite">,
): Op<I, A> {
  if (registry.has(name)) throw new TypeError(`an op called ${name} exists already; choose another name`);
  const { doc, inputs, example, commutative = false } = entry;
  const attrs: Schema = entry.attrs ?? {};
  const call = (...args: any[]) => {
    const operands = args.slice(0, inputs.length);
    const given = args[inputs.length] ?? {};
    if (operands.some((a) => a instanceof Pattern))
      return node(
        op,
        operands.map((a) => (typeof a === "number" ? literal(a) : a)),
        given,
      );
    const dtype = neighbour(operands);
    const values = operands.map((a) =>
      typeof a === "number" ? constant({ value: a, ...(dtype && { dtype }) }) : a,
    );
    return intern(op, values, complete(name, attrs, given));
  };
  const of = (v: Value) => (v.op === op ? { ...zip(inputs, v.inputs), attrs: v.attrs } : undefined);
  const facts = { doc, inputs, attrs, example, commutative, of, ...meaning };
  const op = Object.defineProperty(Object.assign(call, facts), "name", { value: name }) as unknown as Op<
    I,
    A
  >;
  registry.set(name, op);
  return op;
}

/** The dtype that a bare number among these operands takes: that of the first value which is no condition. */
export const neighbour = (operands: readonly unknown[]): DType | undefined =>
  operands.find((a): a is Value => a instanceof Value && a.dtype !== "bool")?.dtype;

function zip<T>(names: Names, xs: readonly T[]): any {
  const out: Record<string, T | undefined> = {};
  for (let i = 0; i < names.length; i++) out[names[i] as string] = xs[i];
  return out;
}

/** Declare an op with a meaning of its own. */
export const primitive = <const I extends Names, const A extends Schema = {}>(
  name: string,
  entry: Primitive<I, A>,
): Op<I, A> =>
  define(name, entry, {
    composite: false,
    infer: (vs, a) =>
      entry.infer(
        zip(
          entry.inputs,
          vs.map((v) => v.type),
        ),
        a,
      ),
    eval: (ts, a, out) => entry.eval(zip(entry.inputs, ts), a, out),
    ...(entry.noop && { noop: (vs: readonly Value[], a: any) => entry.noop?.(zip(entry.inputs, vs), a) }),
  });

/** Declare an op that is short for others. */
export function composite<const I extends Names, const A extends Schema = {}>(
  name: string,
  entry: Composite<I, A>,
): Op<I, A> {
  // Operands of the same types give a result of the same type: the layers of a model decompose once.
  const known = new Map<string, TensorType>();
  return define(name, entry, {
    composite: true,
    infer: (vs, a) => {
      const key = `${vs.map((v) => v.type)}${spell(entry.attrs ?? {}, a)}`;
      const type = known.get(key) ?? entry.decompose(zip(entry.inputs, vs), a).type;
      known.set(key, type);
      return type;
    },
    decompose: (vs, a) => entry.decompose(zip(entry.inputs, vs), a),
  });
}

/** The one op that the call syntax itself needs: bare numbers become constants. */
export const constant = primitive("constant", {
  doc: "One literal.",
  inputs: [],
  attrs: { value: float(), dtype: dtype() },
  example: [[], { value: 2, dtype: "f32" }],
  infer: (_, a) => tensor(a.dtype),
  eval: (_, a) => ({ shape: [], data: Float64Array.of(a.value) }),
});

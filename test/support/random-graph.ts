import fc from "fast-check";
import { expect } from "vitest";
import { type Dim, dim, product, type Sizes, size } from "../../ir/dim.ts";
import {
  type Attr,
  type Attrs,
  Graph,
  intern,
  type OpDef,
  OpError,
  postorder,
  type Value,
} from "../../ir/graph.ts";
import { interpret } from "../../ir/interpret.ts";
import { cast, constant, param, reshape } from "../../ir/ops/index.ts";
import { count, type HostTensor, store } from "../../ir/tensor.ts";
import { parse, print, tables } from "../../ir/text/index.ts";
import { type DType, isFloat, parseType, TensorType } from "../../ir/type.ts";

/** What the symbolic sizes of random graphs are bound to when they run. */
export const sizes = { T: 3, B: 2 };

const ops: readonly OpDef[] = Object.values({ ...tables.primitives, ...tables.composites }).filter(
  (op) => op !== param && op !== constant,
);
const floats = ["f32", "f32", "bf16", "f16"] as const satisfies DType[];
const allSizes: readonly Dim[] = [dim("T"), 1, 2, 3, dim("B")];
const odd = [0, -0, 1, 0.5, -1e30, 1e-6, 10_000, Number.POSITIVE_INFINITY];

/** A well-typed graph, built from the op table's own examples. It shrinks to fewer and plainer operations. */
export const graphs: fc.Arbitrary<Graph> = fc
  .noBias(fc.uint16Array({ minLength: 100, maxLength: 400, size: "max" }))
  .map((tape) => new Builder(tape).graph());

class Builder {
  readonly #tape: Uint16Array;
  #at = 0;
  /** Few sizes to a graph, so that what one operation makes fits another. */
  readonly #palette: readonly Dim[];
  readonly #made: Value[] = [];
  readonly #params: Value[] = [];

  constructor(tape: Uint16Array) {
    this.#tape = tape;
    this.#palette = [this.#one(allSizes), this.#one(allSizes)];
  }

  graph(): Graph {
    const origins = new Map<Value, string>();
    while (this.#at < this.#tape.length && this.#made.length < 16) {
      const v = this.#operation(this.#one(ops));
      if (!v || v.op === param || v.op === constant || this.#made.includes(v)) continue;
      this.#made.push(v);
      if (this.#pick(4) === 0) origins.set(v, `block.${this.#made.length}/${v.op.name}`);
    }
    const inputs = this.#params.filter(() => this.#pick(2));
    const used = new Set(this.#made.flatMap((v) => v.inputs));
    const results = this.#made.filter((v) => !used.has(v)).slice(-1 - this.#pick(8));
    const outputs = Object.fromEntries(results.map((v, i) => [`out.${i}`, v]));
    if (results.length === 0) outputs.nothing = constant({ value: 0, dtype: "f32" });
    const aliases: Record<string, string> = {};
    for (const [name, v] of Object.entries(outputs)) {
      const over = inputs.find((p) => p.type.equals(v.type));
      if (over) aliases[name] = String(over.attrs.name);
    }
    return new Graph("random", { inputs, outputs, aliases, origins });
  }

  /** The next choice below `n`. Building stops at the tape's end; what is chosen after that starts it over. */
  #pick(n: number): number {
    return (this.#tape[this.#at++ % this.#tape.length] ?? 0) % n;
  }
  #one<T>(options: readonly T[]): T {
    return options[this.#pick(options.length)] as T;
  }

  /** The newest are likeliest, which makes for deep graphs. */
  #recent(options: readonly Value[]): Value {
    return this.#one(this.#pick(3) ? options.slice(-2) : options);
  }

  /** One application of `op`, the boldest that fits: to anything, to a variation of its example, to its example. */
  #operation(op: OpDef): Value | undefined {
    const known = this.#params.length;
    for (const bold of [2, 2, 2, 1, 1, 0]) {
      const [types, attrs] = bold ? this.#varied(op) : [op.example[0].map(parseType), this.#exact(op)];
      try {
        const free = bold === 2 && this.#made.length > 0;
        const operands = types.map((t) => (free ? this.#recent(this.#made) : this.#operand(t, bold > 0)));
        const v = intern(op, operands, attrs);
        return op.decompose && this.#pick(2) ? op.decompose(v.inputs, v.attrs) : v;
      } catch (e) {
        if (!(e instanceof OpError)) throw e;
        this.#params.length = known;
      }
    }
    return undefined;
  }

  #exact(op: OpDef): Attrs {
    return Object.fromEntries(Object.entries(op.attrs).map(([k, a]) => [k, op.example[1]?.[k] ?? a.default]));
  }

  /** The example with sizes renamed alike everywhere, another float type, and other attributes. */
  #varied(op: OpDef): [types: TensorType[], attrs: Attrs] {
    const renamed = new Map<Dim, Dim>();
    for (const d of [1, 2, 3, 4, 5, 8]) if (this.#pick(3) > 0) renamed.set(d, this.#one(this.#palette));
    const float = this.#one(floats);
    const types = op.example[0].map(parseType).map((t) => {
      const shape = t.shape.map((d) => renamed.get(d) ?? d);
      return new TensorType(t.dtype === "f32" ? float : t.dtype, shape);
    });
    const rank = types[0]?.rank ?? 2;
    const attrs = Object.entries(this.#exact(op)).map(([k, v]) => {
      if (Array.isArray(v) && k === "shape") return [k, v.map((d: Dim) => renamed.get(d) ?? d)];
      if (this.#pick(2)) return [k, v];
      return [k, this.#attribute(op.attrs[k], v, rank)];
    });
    return [types, Object.fromEntries(attrs)];
  }

  #attribute(a: Attr<unknown> | undefined, example: unknown, rank: number): unknown {
    if (a?.kind === "float") return this.#one(odd);
    if (a?.kind === "int") return this.#pick(2 * rank) - rank;
    if (a?.kind === "bool") return this.#pick(2) === 0;
    if (a?.kind === "size") return this.#one<Dim>([0, 1, 2, 3, dim("T")]);
    if (a?.kind === "dtype") return this.#one(["f32", "bf16", "f16", "i32", "i8", "u8", "i4", "bool"]);
    if (a?.kind === "ints" && Array.isArray(example)) return example.toReversed();
    return example;
  }

  /** Something of this type: made before where there is one, else a number, a weight or an input. */
  #operand(type: TensorType, bold: boolean): Value {
    const fits = [...this.#params, ...this.#made].filter((v) => v.type.equals(type));
    if (fits.length > 0 && this.#pick(4)) return this.#recent(fits);
    const close = this.#made.filter((v) => isFloat(v.dtype) && product(v.shape) === product(type.shape));
    if (close.length > 0 && isFloat(type.dtype) && this.#pick(4))
      return reshape(cast(this.#recent(close), { to: type.dtype }), { shape: type.shape });
    if (bold && type.rank === 1 && type.dtype !== "bool" && this.#pick(3) === 0)
      return constant({ value: this.#one(odd), dtype: type.dtype });
    const fresh = param({ name: `p${this.#params.length}`, type });
    this.#params.push(fresh);
    return fresh;
  }
}

/** Numbers in [0, 1), the same ones for the same seed (mulberry32). */
export function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A tensor of `type`: floats in [-2, 2), whole numbers in 0, 1, 2, so that they can index rows. */
export function randomTensor(type: TensorType, bound: Sizes, next: () => number) {
  const shape = type.shape.map((d) => size(d, bound));
  const data = Float64Array.from({ length: count(shape) }, () =>
    isFloat(type.dtype) ? next() * 4 - 2 : Math.floor(next() * (type.dtype === "bool" ? 2 : 3)),
  );
  return store({ shape, data }, type.dtype);
}

export type Outcome = Record<string, HostTensor> | "out of range";

/** The outputs of `g` on random tensors; a param gets the same tensor in every graph that has it. */
export function outcome(g: Graph, bound: Sizes, seed: number): Outcome {
  const tensor = (name: string, type: TensorType) => randomTensor(type, bound, random(seed + hash(name)));
  try {
    return interpret(g, { sizes: bound, tensor });
  } catch (e) {
    if (e instanceof RangeError) return "out of range";
    throw e;
  }
}

const hash = (s: string): number => [...s].reduce((h, c) => (h * 31 + c.charCodeAt(0)) | 0, 7);

/** Bit for bit: -0 is not 0, and NaN is NaN. */
export function sameOutcome(a: Outcome, b: Outcome): boolean {
  if (typeof a === "string" || typeof b === "string") return a === b;
  const same = (x: HostTensor, y: HostTensor | undefined) =>
    String(x.shape) === String(y?.shape) && x.data.every((e, i) => Object.is(e, y?.data[i]));
  return (
    String(Object.keys(a)) === String(Object.keys(b)) &&
    Object.keys(a).every((k) => same(a[k] as HostTensor, b[k]))
  );
}

/** The very same objects under the same names. Compared as booleans, for a graph makes a long message. */
export function expectSameOutputs(a: Graph, b: Graph): void {
  expect(Object.keys(a.outputs)).toEqual(Object.keys(b.outputs));
  for (const [name, v] of Object.entries(a.outputs))
    if (v !== b.outputs[name]) throw new Error(`${name} differs:\n${print(a)}\nand\n${print(b)}`);
}

/**
 * Parsing what was printed gives the same graph, object for object, and the same text again. `parsed` remembers what texts
 * gave.
 */
export function expectRoundTrip(g: Graph, parsed = new Map<string, Graph>()): void {
  const text = print(g);
  const again = parsed.get(text) ?? parse(text);
  if (!parsed.has(text)) expect(print(again)).toBe(text);
  parsed.set(text, again);
  expectSameOutputs(again, g);
  expect(again.name).toBe(g.name);
  expect(again.inputs.length).toBe(g.inputs.length);
  expect(again.inputs.every((v, i) => v === g.inputs[i])).toBe(true);
  expect(again.aliases).toEqual(g.aliases);
  expect(Object.keys(again.setup)).toEqual(Object.keys(g.setup));
  expect(Object.entries(again.setup).every(([k, v]) => v === g.setup[k])).toBe(true);
  expect([...again.origins].map(shown).sort()).toEqual([...written(g)].map(shown).sort());
}

/** Only results of operations carry their origin in the text: params and constants have no line of their own. */
const written = (g: Graph) => {
  const lines = new Set(
    postorder([...Object.values(g.setup), ...g.values()]).filter(
      (v) => v.op.name !== "param" && v.op.name !== "constant",
    ),
  );
  return [...g.origins].filter(([v]) => lines.has(v));
};
const shown = ([v, origin]: [Value, string]) => `${v.id} ${origin}`;

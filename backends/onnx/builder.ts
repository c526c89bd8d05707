import type { onnx } from "onnx-proto";
import type { Dim } from "../../ir/dim.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import type { DType } from "../../ir/type.ts";
import { type AttributeValue, elementType, inlineTensor, int64, node, valueInfo } from "./proto.ts";

/** Collects nodes and small constants, and gives everything a unique, slash-scoped name. */
export class Builder {
  readonly nodes: onnx.INodeProto[] = [];
  readonly initializers: onnx.ITensorProto[] = [];
  readonly inputs: onnx.IValueInfoProto[] = [];
  /** Tables that the runtime needs and the graph does not know, such as sines: f32, row-major. */
  readonly tables: {
    readonly name: string;
    readonly dims: readonly number[];
    readonly data: Float32Array;
  }[] = [];
  /** What each value is called in the file. */
  readonly names = new Map<Value, string>();
  /** Every value of the graph, to find companions that one node computes together. */
  readonly values: ReadonlySet<Value>;
  /** The longest sequence the model was made for. */
  readonly context: number;
  readonly #deferred = new Map<Value, () => string>();
  readonly #taken = new Set<string>();
  readonly #constants = new Map<string, string>();
  readonly #paths: ReadonlyMap<Value, string>;
  readonly #results: ReadonlyMap<Value, string>;
  /** A declared input and axis that have each symbolic size. */
  readonly #sizes = new Map<string, readonly [tensor: string, axis: number]>();

  constructor(g: Graph, context: number) {
    this.values = new Set(g.values());
    this.context = context;
    this.#paths = scopes(g);
    const results = new Map<Value, string>();
    for (const [v, origin] of g.origins) results.set(v, this.unique(`/${origin}`));
    for (const [name, v] of Object.entries(g.outputs)) results.set(v, this.unique(name));
    this.#results = results;
  }

  /** Declare an input of the file. Symbolic sizes are read off the first input that has them. */
  input(name: string, type: number, shape: readonly Dim[]): void {
    this.inputs.push(valueInfo(this.unique(name), type, shape));
    for (const [axis, d] of shape.entries()) {
      if (typeof d !== "number" && !this.#sizes.has(d.key)) this.#sizes.set(d.key, [name, axis]);
    }
  }

  unique(name: string): string {
    let free = name;
    for (let n = 1; this.#taken.has(free); n++) free = `${name}_${n}`;
    this.#taken.add(free);
    return free;
  }

  /** `make` is to write `v` when, and if, something reads it. */
  defer(v: Value, make: () => string): void {
    this.#deferred.set(v, make);
  }

  isKnown(v: Value): boolean {
    return this.names.has(v) || this.#deferred.has(v);
  }

  /** The file's name for an operand that has been emitted. */
  name(v: Value): string {
    const known = this.names.get(v);
    const name = known ?? this.#deferred.get(v)?.();
    if (name !== undefined && known === undefined) this.names.set(v, name);
    if (name === undefined) throw new Error(`${v.op.name} : ${v.type} is used before it is emitted`);
    return name;
  }

  /** A node with one output, somewhere on the way to `v`; gives the output's name. */
  step(
    v: Value,
    opType: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, AttributeValue>> = {},
  ): string {
    return this.raw(`${this.#paths.get(v) ?? ""}/${opType}`, opType, inputs, attributes);
  }

  /** The name that `v` has in the file once it is emitted. */
  resultName(v: Value, fallback: string): string {
    return this.#results.get(v) ?? this.unique(fallback);
  }

  /** What `make` gives for `key`, made once. */
  once(key: string, make: () => string): string {
    const known = this.#constants.get(key) ?? make();
    this.#constants.set(key, known);
    return known;
  }

  /** A table of f32 numbers that lies with the weights. */
  table(name: string, dims: readonly number[], make: () => Float32Array): string {
    return this.once(`table ${name}`, () => {
      this.tables.push({ name: this.unique(name), dims, data: make() });
      return name;
    });
  }

  /** One node that yields several values at once; an undefined place is left out. */
  several(
    v: Value,
    opType: string,
    inputs: readonly string[],
    outputs: readonly (Value | undefined)[],
    attributes: Readonly<Record<string, AttributeValue>>,
  ): void {
    const name = this.unique(`${this.#paths.get(v) ?? ""}/${opType}`);
    const made = outputs.map((o, i) => (o ? this.resultName(o, `${name}_output_${i}`) : ""));
    for (const [i, o] of outputs.entries()) if (o) this.names.set(o, made[i] as string);
    this.nodes.push(node(opType, name, inputs, made, attributes));
  }

  /** The node that yields `v` itself. */
  result(
    v: Value,
    opType: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, AttributeValue>> = {},
  ): string {
    const name = this.unique(`${this.#paths.get(v) ?? ""}/${opType}`);
    const output = this.#results.get(v) ?? `${name}_output_0`;
    this.nodes.push(node(opType, name, inputs, [output], attributes));
    return output;
  }

  /** A second name for a value. */
  copy(v: Value, output: string): void {
    this.nodes.push(node("Identity", this.unique(`/${output}/Identity`), [this.name(v)], [output]));
  }

  /** A node outside the graph's own structure. */
  raw(
    path: string,
    opType: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, AttributeValue>> = {},
  ): string {
    const name = this.unique(path);
    const output = `${name}_output_0`;
    this.nodes.push(node(opType, name, inputs, [output], attributes));
    return output;
  }

  /** An int64 vector, as shapes and axes are written. */
  ints(values: readonly number[]): string {
    const bytes = new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
    return this.#constant(`ints_${values.join("_")}`, int64, [values.length], bytes);
  }

  /** One int64 without axes, as CumSum and Range take them. */
  index(value: number): string {
    return this.#constant(`int_${value}`, int64, [], new Uint8Array(BigInt64Array.of(BigInt(value)).buffer));
  }

  /** One number of the given dtype, without axes. */
  scalar(value: number, dtype: DType): string {
    const data = {
      f32: Float32Array,
      i32: Int32Array,
      i8: Int8Array,
      u8: Uint8Array,
      bool: Uint8Array,
    } as const;
    if (dtype === "f16" || dtype === "bf16" || dtype === "i4") {
      const cast = `${this.scalar(value, "f32")}_${dtype}`;
      if (!this.#taken.has(cast))
        this.nodes.push(
          node("Cast", this.unique(cast), [this.scalar(value, "f32")], [cast], { to: elementType[dtype] }),
        );
      return cast;
    }
    const bytes = new Uint8Array(data[dtype].of(value).buffer);
    return this.#constant(`${dtype}_${value}`, elementType[dtype], [], bytes);
  }

  #constant(key: string, type: number, dims: readonly number[], bytes: Uint8Array): string {
    const known = this.#constants.get(key);
    if (known) return known;
    const name = this.unique(`/constants/${key}`);
    this.initializers.push(inlineTensor(name, type, dims, bytes));
    this.#constants.set(key, name);
    return name;
  }

  /** The target shape of a Reshape of `x`: a constant where 0 (keep this axis) and one -1 can say it. */
  shape(x: Value, shape: readonly Dim[]): string {
    const kept = shape.map((d, i) => (typeof d === "number" ? d : d === x.shape[i] ? 0 : -1));
    if (kept.filter((n) => n === -1).length <= 1 && !shape.includes(0)) return this.ints(kept);
    return this.sizes(shape);
  }

  /** An int64 vector holding these sizes. */
  sizes(shape: readonly Dim[]): string {
    if (shape.every((d) => typeof d === "number")) return this.ints(shape);
    const parts = shape.map((d) => this.size(d));
    return parts.length === 1
      ? (parts[0] as string)
      : this.raw("/sizes/Concat", "Concat", parts, { axis: 0 });
  }

  /** One size as an int64 vector of length 1. */
  size(d: Dim): string {
    if (typeof d === "number") return this.ints([d]);
    const key = `size ${d}`;
    const known = this.#constants.get(key);
    if (known) return known;
    const terms = [...d.terms].map(([monomial, c]) => {
      const factors = monomial
        .split("*")
        .filter(Boolean)
        .map((name) => this.#named(name));
      if (c !== 1 || factors.length === 0) factors.push(this.ints([c]));
      return factors.reduce((a, b) => this.raw("/sizes/Mul", "Mul", [a, b]));
    });
    const made = terms.reduce((a, b) => this.raw("/sizes/Add", "Add", [a, b]));
    this.#constants.set(key, made);
    return made;
  }

  #named(name: string): string {
    const known = this.#constants.get(`size ${name}`);
    if (known) return known;
    const source = this.#sizes.get(name);
    if (!source) throw new Error(`no input has the size ${name} as an axis`);
    const [tensor, axis] = source;
    const made = this.raw(`/sizes/${name}`, "Shape", [tensor], { start: axis, end: axis + 1 });
    this.#constants.set(`size ${name}`, made);
    return made;
  }
}

/** Where each value belongs: its own origin, else that of the first value which uses it. */
function scopes(g: Graph): ReadonlyMap<Value, string> {
  const paths = new Map<Value, string>();
  for (const v of g.values().toReversed()) {
    const origin = g.origins.get(v);
    const path = origin ? `/${origin}` : paths.get(v);
    if (path === undefined) continue;
    paths.set(v, path);
    for (const i of v.inputs) if (!paths.has(i)) paths.set(i, path);
  }
  return paths;
}

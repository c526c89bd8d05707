import type { Dim, Sizes } from "./dim.ts";
import type { HostTensor } from "./tensor.ts";
import type { DType, TensorType } from "./type.ts";

/** What `eval` must produce: the result's element type and its shape in numbers. */
export interface Result {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly sizes: Sizes;
}

/** How one attribute is checked, printed and parsed. The same language serves pass options and CLI flags. */
export interface Attr<T> {
  readonly kind: string;
  readonly default: T | undefined;
  is(v: unknown): v is T;
  parse(text: string): T;
}
export type Attrs = Readonly<Record<string, unknown>>;

/** What every op is once its precise types are forgotten: the view of printer, verifier, interpreter and docs. */
export interface OpDef {
  readonly name: string;
  readonly doc: string;
  readonly inputs: readonly string[];
  readonly attrs: Readonly<Record<string, Attr<any>>>;
  /** Operand types (and attributes) of a small instance, for docs and for tests that loop over the table. */
  readonly example: readonly [types: readonly string[], attrs?: Attrs];
  readonly commutative: boolean;
  readonly composite: boolean;
  /** What the op returns instead of itself when it would do nothing. */
  noop?(inputs: readonly Value[], attrs: any): Value | undefined;
  infer(inputs: readonly Value[], attrs: any): TensorType;
  eval?(inputs: readonly HostTensor[], attrs: any, out: Result): HostTensor;
  decompose?(inputs: readonly Value[], attrs: any): Value;
}

/** An immutable, hash-consed node: equal expressions are the same object, so `===` is structural equality. */
export class Value {
  readonly id: number;
  readonly op: OpDef;
  readonly inputs: readonly Value[];
  readonly attrs: Attrs;
  readonly type: TensorType;
  constructor(id: number, op: OpDef, inputs: readonly Value[], attrs: Attrs, type: TensorType) {
    this.id = id;
    this.op = op;
    this.inputs = inputs;
    this.attrs = attrs;
    this.type = type;
  }
  get dtype(): DType {
    return this.type.dtype;
  }
  get shape(): readonly Dim[] {
    return this.type.shape;
  }
  /** The size of one axis, which must be known at compile time. Throws TypeError when it is symbolic. */
  fixed(axis: number): number {
    const size = this.type.at(axis);
    if (typeof size !== "number") throw new TypeError(`axis ${axis} of ${this.type} must be a fixed size`);
    return size;
  }
}

const interned = new Map<string, WeakRef<Value>>();
const dropped = new FinalizationRegistry<string>((key) => {
  if (!interned.get(key)?.deref()) interned.delete(key);
});
let nextId = 0;

/** Attributes as text that tells them apart, whatever order they were given in. */
export function spell(schema: OpDef["attrs"], attrs: Attrs): string {
  let text = "";
  for (const k in schema) {
    const x = attrs[k];
    text += Object.is(x, -0) ? ",-0" : `,${x}`;
  }
  return text;
}

/**
 * The only way to make a Value. Runs the op's `infer`, so an ill-typed node cannot exist. Commutative operands
 * share one node whatever their order, and keep the order in which they were first written.
 * Throws OpError with the operand types and the mend.
 */
export function intern(op: OpDef, inputs: readonly Value[], attrs: Attrs): Value {
  if (inputs.length !== op.inputs.length)
    throw new TypeError(
      `${op.name} takes ${op.inputs.length} operands (${op.inputs.join(", ")}), got ${inputs.length}`,
    );
  try {
    const instead = op.noop?.(inputs, attrs);
    if (instead) return instead;
    const ids = inputs.map((v) => v.id);
    if (op.commutative) ids.sort((a, b) => a - b);
    const key = `${op.name}(${ids})${spell(op.attrs, attrs)}`;
    const hit = interned.get(key)?.deref();
    if (hit) return hit;
    const made = new Value(nextId++, op, inputs, attrs, op.infer(inputs, attrs));
    interned.set(key, new WeakRef(made));
    dropped.register(made, key);
    return made;
  } catch (e) {
    throw e instanceof OpError ? e : new OpError(op, inputs, e);
  }
}

/** An operand or attribute does not fit. The message shows the call with its types. */
export class OpError extends Error {
  constructor(op: OpDef, inputs: readonly Value[], cause: unknown) {
    const call = inputs.map((v, i) => `${op.inputs[i]}: ${v.type}`).join(", ");
    super(`${op.name}(${call}): ${cause instanceof Error ? cause.message : cause}`, { cause });
    this.name = "OpError";
  }
}

/** Devices in a grid: the size of each of its axes, by name. */
export type Mesh = Readonly<Record<string, number>>;
/** How a tensor is cut over a mesh: for each of its axes the axis of the mesh that cuts it, or none. */
export type Sharding = readonly (string | undefined)[];

interface GraphParts {
  readonly inputs: readonly Value[];
  readonly outputs: Readonly<Record<string, Value>>;
  /** Output → input whose storage it may overwrite (KV caches). Advice to backends; never changes meaning. */
  readonly aliases: Readonly<Record<string, string>>;
  /** What weights alone decide, by the name of the param that stands for it in the graph: `1 + w`, quantized blocks. */
  readonly setup: Readonly<Record<string, Value>>;
  /** Slash-scoped names such as `model/layers.0/self_attn/q_proj`. Metadata: no part of a value's identity. */
  readonly origins: ReadonlyMap<Value, string>;
  /** The devices it is to run on, when there are several. */
  readonly mesh: Mesh | undefined;
  /** How values lie on the mesh. Metadata as origins are: where it says nothing, the compiler is free. */
  readonly shardings: ReadonlyMap<Value, Sharding>;
}

/** Named outputs computed from runtime inputs; every other param that they reach is a weight. Holds no bytes. */
export class Graph implements GraphParts {
  readonly name: string;
  readonly inputs: readonly Value[];
  readonly outputs: Readonly<Record<string, Value>>;
  readonly aliases: Readonly<Record<string, string>>;
  readonly setup: Readonly<Record<string, Value>>;
  readonly origins: ReadonlyMap<Value, string>;
  readonly mesh: Mesh | undefined;
  readonly shardings: ReadonlyMap<Value, Sharding>;
  #values: readonly Value[] | undefined;
  constructor(name: string, parts: Pick<GraphParts, "inputs" | "outputs"> & Partial<GraphParts>) {
    this.name = name;
    this.inputs = parts.inputs;
    this.outputs = parts.outputs;
    this.aliases = parts.aliases ?? {};
    this.setup = parts.setup ?? {};
    this.origins = parts.origins ?? new Map();
    this.mesh = parts.mesh;
    this.shardings = parts.shardings ?? new Map();
  }

  /** Every reachable value, operands before users. */
  values(): readonly Value[] {
    this.#values ??= postorder(Object.values(this.outputs));
    return this.#values;
  }

  /** Reachable params that are not runtime inputs: those that the checkpoint holds and those that `setup` makes. */
  weights(): Value[] {
    const inputs = new Set(this.inputs);
    return this.values().filter((v) => v.op.name === "param" && !inputs.has(v));
  }

  /** The params whose bytes must come from the checkpoint. */
  stored(): Value[] {
    const used = this.weights().map((v) => this.setup[String(v.attrs.name)] ?? v);
    return postorder(used).filter((v) => v.op.name === "param");
  }

  with(parts: Partial<GraphParts>): Graph {
    const made = new Graph(this.name, { ...this, ...parts });
    if (made.outputs === this.outputs) made.#values = this.#values;
    return made;
  }
}

/** Values reachable from `roots`, operands before users; `stop` holds values not to look behind. */
export function postorder(roots: readonly Value[], stop: { has(v: Value): boolean } = new Set()): Value[] {
  const done = new Map<Value, boolean>();
  const order: Value[] = [];
  const stack = roots.toReversed();
  for (let v = stack.at(-1); v; v = stack.at(-1)) {
    const state = done.get(v);
    if (state === undefined && !stop.has(v)) {
      done.set(v, false);
      for (let i = v.inputs.length - 1; i >= 0; i--) {
        const operand = v.inputs[i] as Value;
        if (!done.has(operand)) stack.push(operand);
      }
      continue;
    }
    stack.pop();
    if (state === false) {
      done.set(v, true);
      order.push(v);
    }
  }
  return order;
}

import { type Lane, lanes, type Scalar, type Type } from "./type.ts";

/** Where a thread stands. `group` and `thread` count from 0; a launch has `groups` of each. */
export type Builtin = "thread" | "group.x" | "group.y" | "group.z" | "groups.x";
export type Arithmetic = "+" | "-" | "*" | "/" | "%";
export type Bitwise = "&" | "|" | "^" | "<<" | ">>";
export type Comparison = "<" | "<=" | "==" | "!=";
export type Binary = Arithmetic | Bitwise | Comparison | "&&" | "||" | "min" | "max" | "pow";
export type Unary =
  | "neg"
  | "not"
  | "exp"
  | "exp2"
  | "tanh"
  | "sqrt"
  | "rsqrt"
  | "sin"
  | "cos"
  | "abs"
  | "floor";
/**
 * What the bits of one u32 stand for: four signed bytes, the lower or upper four of eight signed nibbles (lowest
 * first), or two halves (lower first).
 */
export type Packing = "i8x4" | "i4x4.low" | "i4x4.high" | "f16x2" | "bf16x2";

/**
 * Memory that a kernel sees. "weight" never changes, so that it may be read before the kernels before this one are
 * done; "input" was written by one of them; "output" is written here; "counter" is added to by many groups at once
 * and starts at zero; "shared" belongs to the threads of one group; a "table" is part of the kernel's text.
 */
export interface Memory<T extends Type = Type> {
  readonly name: string;
  readonly type: T;
  readonly space: "weight" | "input" | "output" | "counter" | "shared" | "table";
  /** Elements; shared memory only. */
  readonly length?: number;
  /** What a table holds. */
  readonly values?: readonly number[];
}

export type Node =
  | { readonly kind: "literal"; readonly value: number | boolean }
  /** A variable, or a uniform: a number that the launch passes. */
  | { readonly kind: "name"; readonly name: string; readonly of: "local" | "uniform" }
  | { readonly kind: "builtin"; readonly name: Builtin }
  | { readonly kind: "binary"; readonly op: Binary; readonly a: Expr; readonly b: Expr }
  | { readonly kind: "unary"; readonly op: Unary; readonly a: Expr }
  | { readonly kind: "select"; readonly cond: Expr; readonly yes: Expr; readonly no: Expr }
  /** The nearest value of another type, towards zero. */
  | { readonly kind: "convert"; readonly a: Expr }
  /** The same 32 bits as another type. */
  | { readonly kind: "bits"; readonly a: Expr }
  | { readonly kind: "load"; readonly memory: Memory; readonly index: Expr }
  | { readonly kind: "lane"; readonly a: Expr; readonly lane: number }
  | { readonly kind: "vector"; readonly lanes: readonly Expr[] }
  | { readonly kind: "unpack"; readonly packing: Packing; readonly a: Expr }
  /** Two halves, of either kind, into one u32, rounded to nearest even. */
  | { readonly kind: "pack"; readonly packing: "f16x2" | "bf16x2"; readonly a: Expr }
  /** Sum of the products of four signed bytes with four, as i32. */
  | { readonly kind: "dot4i8"; readonly a: Expr; readonly b: Expr };

export type Operand<T extends Type> = Expr<T> | Expr<Lane<T>> | number;

/**
 * A typed expression. Building one checks its types, twice: `tsc` where they are known, the constructor functions
 * where they are not. `uniform` says that all threads of a group agree on it.
 */
export class Expr<out T extends Type = Type> {
  readonly type: T;
  readonly node: Node;
  readonly uniform: boolean;
  constructor(type: T, node: Node, uniform: boolean) {
    this.type = type;
    this.node = node;
    this.uniform = uniform;
  }

  add(b: Operand<T>): Expr<T> {
    return arithmetic("+", this, b);
  }
  sub(b: Operand<T>): Expr<T> {
    return arithmetic("-", this, b);
  }
  mul(b: Operand<T>): Expr<T> {
    return arithmetic("*", this, b);
  }
  /** Whole numbers: towards zero. */
  div(b: Operand<T>): Expr<T> {
    return arithmetic("/", this, b);
  }
  mod(b: Operand<T>): Expr<T> {
    return arithmetic("%", this, b);
  }
  min(b: Operand<T>): Expr<T> {
    return arithmetic("min", this, b);
  }
  max(b: Operand<T>): Expr<T> {
    return arithmetic("max", this, b);
  }
  pow(b: Operand<T>): Expr<T> {
    return arithmetic("pow", this, b);
  }
  and(b: Operand<T>): Expr<T> {
    return arithmetic(this.type === "bool" ? "&&" : "&", this, b);
  }
  or(b: Operand<T>): Expr<T> {
    return arithmetic(this.type === "bool" ? "||" : "|", this, b);
  }
  xor(b: Operand<T>): Expr<T> {
    return arithmetic("^", this, b);
  }
  shl(b: Expr<"u32"> | number): Expr<T> {
    return shift("<<", this, b);
  }
  /** Whole numbers keep their sign. */
  shr(b: Expr<"u32"> | number): Expr<T> {
    return shift(">>", this, b);
  }
  lt(b: Operand<T>): Expr<"bool"> {
    return comparison("<", this, b);
  }
  le(b: Operand<T>): Expr<"bool"> {
    return comparison("<=", this, b);
  }
  eq(b: Operand<T>): Expr<"bool"> {
    return comparison("==", this, b);
  }
  ne(b: Operand<T>): Expr<"bool"> {
    return comparison("!=", this, b);
  }

  neg(): Expr<T> {
    return unary("neg", this);
  }
  not(): Expr<T> {
    return unary("not", this);
  }
  exp(): Expr<T> {
    return unary("exp", this);
  }
  /** 2 to this power: what GPUs compute in place of `exp`. */
  exp2(): Expr<T> {
    return unary("exp2", this);
  }
  tanh(): Expr<T> {
    return unary("tanh", this);
  }
  sqrt(): Expr<T> {
    return unary("sqrt", this);
  }
  rsqrt(): Expr<T> {
    return unary("rsqrt", this);
  }
  sin(): Expr<T> {
    return unary("sin", this);
  }
  cos(): Expr<T> {
    return unary("cos", this);
  }
  abs(): Expr<T> {
    return unary("abs", this);
  }
  floor(): Expr<T> {
    return unary("floor", this);
  }

  /** Converted, towards zero where it must lose something. */
  to<U extends Type>(type: U): Expr<U> {
    if (lanes(type).count !== lanes(this.type).count) throw mismatch(`convert to ${type}`, this);
    if (this.node.kind === "literal") {
      const value = Number(this.node.value);
      return literal(type, type === "f32" || type === "f16" ? value : Math.trunc(value));
    }
    return (this.type as Type) === type
      ? (this as unknown as Expr<U>)
      : new Expr(type, { kind: "convert", a: this }, this.uniform);
  }
  /** The same bits, read as another type. */
  bits<U extends Type>(type: U): Expr<U> {
    if (this.type === "bool" || lanes(type).count !== lanes(this.type).count)
      throw mismatch(`read as ${type}`, this);
    return (this.type as Type) === type
      ? (this as unknown as Expr<U>)
      : new Expr(type, { kind: "bits", a: this }, this.uniform);
  }
  lane(i: number): Expr<Lane<T>> {
    const { scalar, count } = lanes(this.type);
    if (i >= count) throw mismatch(`take lane ${i} of`, this);
    if (count === 1) return this as unknown as Expr<Lane<T>>;
    const type = scalar as Lane<T>;
    const { node } = this;
    if (node.kind === "vector") return node.lanes[i] as Expr<Lane<T>>;
    return new Expr(type, { kind: "lane", a: this, lane: i }, this.uniform);
  }
  /** Every lane, lowest first. */
  lanes(): Expr<Lane<T>>[] {
    return Array.from({ length: lanes(this.type).count }, (_, i) => this.lane(i));
  }
  /** The sum of all lanes, two by two. */
  sum(): Expr<Lane<T>> {
    let parts = this.lanes() as unknown as Expr<"f32">[];
    while (parts.length > 1) parts = parts.flatMap((p, i) => (i % 2 ? [] : [p.add(parts[i + 1] ?? 0)]));
    return parts[0] as unknown as Expr<Lane<T>>;
  }
}

const mismatch = (what: string, ...of: readonly Expr[]): TypeError =>
  new TypeError(`cannot ${what} ${of.map((e) => e.type).join(" and ")}`);

/** A number (in every lane) as an expression of `type`. */
export function literal<T extends Type>(type: T, value: number | boolean): Expr<T> {
  const { scalar, count } = lanes(type);
  const one = new Expr(scalar, { kind: "literal", value: scalar === "bool" ? Boolean(value) : value }, true);
  return (count === 1 ? one : splat(type, one)) as unknown as Expr<T>;
}
export const f32 = (value: number): Expr<"f32"> => literal("f32", value);
export const u32 = (value: number): Expr<"u32"> => literal("u32", value);
export const i32 = (value: number): Expr<"i32"> => literal("i32", value);

const splat = (type: Type, one: Expr): Expr =>
  new Expr(
    type,
    { kind: "vector", lanes: Array.from({ length: lanes(type).count }, () => one) },
    one.uniform,
  );

const gathered = <T extends Type>(type: T, parts: readonly Expr[]): Expr<T> =>
  new Expr(
    type,
    { kind: "vector", lanes: parts },
    parts.every((p) => p.uniform),
  );

/** Vectors of these lanes. */
export const pair = (a: Expr<"f32">, b: Expr<"f32">): Expr<"f32x2"> => gathered("f32x2", [a, b]);
export const quad = (...parts: readonly Expr<"f32">[]): Expr<"f32x4"> => gathered("f32x4", parts);
export const twoWords = (a: Expr<"u32">, b: Expr<"u32">): Expr<"u32x2"> => gathered("u32x2", [a, b]);
export const fourWords = (...parts: readonly Expr<"u32">[]): Expr<"u32x4"> => gathered("u32x4", parts);

function lift(like: Expr, b: Expr | number): Expr {
  return typeof b === "number" ? literal(lanes(like.type).scalar, b) : b;
}

function fits(op: string, a: Expr, b: Expr): void {
  const { scalar, count } = lanes(b.type);
  if (scalar !== lanes(a.type).scalar || (count !== 1 && b.type !== a.type)) throw mismatch(op, a, b);
}

const folds: Partial<Record<Binary, (a: number, b: number) => number>> = {
  "+": (a, b) => a + b,
  "-": (a, b) => a - b,
  "*": (a, b) => a * b,
  "/": (a, b) => Math.trunc(a / b),
  "%": (a, b) => a % b,
  "^": (a, b) => a ^ b,
  min: Math.min,
  max: Math.max,
};

const valueOf = (e: Expr): number | undefined =>
  e.node.kind === "literal" && typeof e.node.value === "number" ? e.node.value : undefined;

/** Index arithmetic on known numbers is done here, so that what people read is what is left to compute. */
function folded(op: Binary, a: Expr, b: Expr): Expr | undefined {
  const [x, y] = [valueOf(a), valueOf(b)];
  const whole = a.type === "u32" || a.type === "i32";
  const fold = folds[op];
  if (whole && x !== undefined && y !== undefined && fold) {
    const value = fold(x, y);
    if (a.type === "u32" && value < 0) throw new TypeError(`${x} ${op} ${y} is negative, but u32`);
    return literal(a.type, value);
  }
  if (whole && y === 0 && (op === "+" || op === "-")) return a;
  if (whole && x === 0 && op === "+") return b;
  if (y === 1 && (op === "*" || op === "/")) return a;
  if (whole && x === 1 && op === "*") return b;
  if (whole && (x === 0 || y === 0) && op === "*") return literal(a.type, 0);
  if (whole && x === 0 && (op === "/" || op === "%")) return a;
  if (whole && y === 1 && op === "%") return literal(a.type, 0);
  return undefined;
}

function arithmetic<T extends Type>(op: Binary, a: Expr<T>, other: Expr | number): Expr<T> {
  const b = lift(a, other);
  fits(op, a, b);
  const made =
    folded(op, a, b) ?? new Expr<Type>(a.type, { kind: "binary", op, a, b }, a.uniform && b.uniform);
  return made as Expr<T>;
}

function shift<T extends Type>(op: "<<" | ">>", a: Expr<T>, by: Expr<"u32"> | number): Expr<T> {
  const b = typeof by === "number" ? u32(by) : by;
  if (valueOf(b) === 0) return a;
  return new Expr(a.type, { kind: "binary", op, a, b }, a.uniform && b.uniform);
}

function comparison(op: Comparison, a: Expr, other: Expr | number): Expr<"bool"> {
  const b = lift(a, other);
  fits(op, a, b);
  if (lanes(a.type).count !== 1) throw mismatch(op, a, b);
  return new Expr("bool", { kind: "binary", op, a, b }, a.uniform && b.uniform);
}

function unary<T extends Type>(op: Unary, a: Expr<T>): Expr<T> {
  const { scalar } = lanes(a.type);
  const wants = op === "not" ? ["bool"] : op === "neg" || op === "abs" ? ["f32", "i32"] : ["f32"];
  if (!wants.includes(scalar)) throw mismatch(op, a);
  return new Expr(a.type, { kind: "unary", op, a }, a.uniform);
}

/** `yes` where `cond` holds, else `no`. Both are computed. */
export function select<T extends Type>(cond: Expr<"bool">, yes: Expr<T>, no: Expr<T> | number): Expr<T> {
  const other = typeof no === "number" ? literal(yes.type, no) : no;
  if (other.type !== yes.type) throw mismatch("select between", yes, other);
  const uniform = cond.uniform && yes.uniform && other.uniform;
  return new Expr(yes.type, { kind: "select", cond, yes, no: other }, uniform);
}

/** Sum of the products of the lanes of `a` and `b`. */
export const dot = (a: Expr<"f32x4">, b: Expr<"f32x4">): Expr<"f32"> => a.mul(b).sum();

const unpacked = {
  i8x4: "f32x4",
  "i4x4.low": "f32x4",
  "i4x4.high": "f32x4",
  f16x2: "f32x2",
  bf16x2: "f32x2",
} as const satisfies Record<Packing, Type>;

/** What the bits of `a` stand for, as floats. */
export const unpack = <P extends Packing>(packing: P, a: Expr<"u32">): Expr<(typeof unpacked)[P]> =>
  new Expr(unpacked[packing], { kind: "unpack", packing, a }, a.uniform);

export const packHalves = (a: Expr<"f32x2">, packing: "f16x2" | "bf16x2" = "f16x2"): Expr<"u32"> =>
  new Expr("u32", { kind: "pack", packing, a }, a.uniform);

export const dot4i8 = (a: Expr<"u32">, b: Expr<"u32">): Expr<"i32"> =>
  new Expr("i32", { kind: "dot4i8", a, b }, a.uniform && b.uniform);

/** The expressions that `e` is made of. */
export function parts({ node }: Expr): readonly Expr[] {
  switch (node.kind) {
    case "literal":
    case "name":
    case "builtin":
      return [];
    case "binary":
    case "dot4i8":
      return [node.a, node.b];
    case "select":
      return [node.cond, node.yes, node.no];
    case "load":
      return [node.index];
    case "vector":
      return node.lanes;
    default:
      return [node.a];
  }
}

export type { Scalar };

import type { Binary, Builtin, Expr, Memory, Node, Packing, Scalar, Type, Unary } from "../lang/index.ts";

/** How one language spells what expressions are made of. Operands come as text that needs no parentheses. */
export interface Dialect {
  type(t: Type): string;
  literal(scalar: Scalar, value: number | boolean): string;
  name(name: string, of: "local" | "uniform"): string;
  readonly builtins: Readonly<Record<Builtin, string>>;
  call(
    op: "min" | "max" | "pow" | Exclude<Unary, "neg" | "not">,
    type: Type,
    operands: readonly string[],
  ): string;
  select(cond: string, yes: string, no: string): string;
  convert(to: Type, a: string, from: Type): string;
  bits(to: Type, a: string, from: Type): string;
  load(memory: Memory, index: string): string;
  lane(a: string, lane: number): string;
  vector(type: Type, lanes: readonly string[]): string;
  readonly unpack: Readonly<Record<Packing, (a: string) => string>>;
  readonly pack: Readonly<Record<"f16x2" | "bf16x2", (a: string) => string>>;
  dot4i8(a: string, b: string): string;
}

interface Printed {
  readonly text: string;
  readonly level: number;
}
const atom = 9;
const prefixed = 8;
/** How tightly operators bind, where all of the languages agree. */
const levels = {
  "*": 7,
  "/": 7,
  "%": 7,
  "+": 6,
  "-": 6,
  "<<": 5,
  ">>": 5,
  "<": 4,
  "<=": 4,
  "==": 4,
  "!=": 4,
  "&": 3,
  "|": 3,
  "^": 3,
  "&&": 2,
  "||": 1,
} as const satisfies Record<Exclude<Binary, "min" | "max" | "pow">, number>;

/** The least level that operands of an operator may have without parentheses. Bits and shifts are always explicit. */
function needs(level: number, side: "left" | "right"): number {
  if (level >= 6) return side === "left" ? level : level + 1;
  if (level === 4) return 6;
  if (level <= 2) return side === "left" ? (level === 2 ? 2 : 4) : 4;
  return prefixed;
}

type Printers = { readonly [K in Node["kind"]]: (n: Extract<Node, { kind: K }>, e: Expr) => Printed };

/** Prints expressions in the language of `d`, with no more parentheses than readers want. */
export function expressions(d: Dialect): (e: Expr) => string {
  const call = (text: string): Printed => ({ text, level: atom });
  const print = (e: Expr): Printed => {
    const printer = printers[e.node.kind] as (n: Node, e: Expr) => Printed;
    return printer(e.node, e);
  };
  const text = (e: Expr): string => print(e).text;
  const at = (e: Expr, level: number): string => {
    const p = print(e);
    return p.level >= level ? p.text : `(${p.text})`;
  };
  const scalarOf = (t: Type) => t.split("x")[0] as Scalar;
  const printers: Printers = {
    literal: ({ value }, e) => {
      const shown = d.literal(scalarOf(e.type), value);
      return { text: shown, level: shown.startsWith("-") ? prefixed : atom };
    },
    name: (n) => call(d.name(n.name, n.of)),
    builtin: (n) => call(d.builtins[n.name]),
    binary: (n, e) => {
      if (n.op === "min" || n.op === "max" || n.op === "pow")
        return call(d.call(n.op, e.type, [spread(n.a, e.type), spread(n.b, e.type)]));
      const level = levels[n.op];
      return { text: `${at(n.a, needs(level, "left"))} ${n.op} ${at(n.b, needs(level, "right"))}`, level };
    },
    unary: (n, e) => {
      if (n.op === "neg") return { text: `-${at(n.a, atom)}`, level: prefixed };
      if (n.op === "not") return { text: `!${at(n.a, atom)}`, level: prefixed };
      return call(d.call(n.op, e.type, [text(n.a)]));
    },
    select: (n) => call(d.select(text(n.cond), text(n.yes), text(n.no))),
    convert: (n, e) => call(d.convert(e.type, text(n.a), n.a.type)),
    bits: (n, e) => call(d.bits(e.type, text(n.a), n.a.type)),
    load: (n) => call(d.load(n.memory, text(n.index))),
    lane: (n) => call(d.lane(at(n.a, atom), n.lane)),
    vector: (n, e) => call(d.vector(e.type, n.lanes.map(text))),
    unpack: (n) => call(d.unpack[n.packing](text(n.a))),
    pack: (n) => call(d.pack[n.packing](text(n.a))),
    dot4i8: (n) => call(d.dot4i8(text(n.a), text(n.b))),
  };
  /** Calls, unlike operators, want both operands of one type. */
  const spread = (e: Expr, type: Type): string =>
    e.type === type ? text(e) : d.vector(type, [text(e), text(e)]);
  return text;
}

/** A float so that every language reads the same f32 back: the shortest decimal, or scientific. */
export function decimal(value: number): string {
  const f = Math.fround(value);
  let shortest = String(f);
  for (let digits = 1; digits <= 9; digits++) {
    const s = f.toPrecision(digits);
    if (Math.fround(Number(s)) === f) {
      shortest = String(Number(s));
      break;
    }
  }
  return /[.e]/.test(shortest) ? shortest : `${shortest}.0`;
}

/** The bits of an f32, for those that have no decimal spelling. */
export const bitsOf = (value: number): string =>
  `0x${new Uint32Array(Float32Array.of(value).buffer)[0]?.toString(16).padStart(8, "0")}`;

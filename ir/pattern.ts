import type { OpDef, Value } from "./graph.ts";
import type { DType } from "./type.ts";

export type Bindings = Record<string, Value | number>;

/** A shape to look for. `C` is what it captures, so rule bodies are typed: no casts, no misspelt names. */
export class Pattern<C> {
  declare readonly captures: C;
  readonly match: (v: Value, m: Bindings) => boolean;
  /** Loose patterns skip no-ops; raise() uses them, because it rebuilds and compares afterwards. */
  readonly loose: boolean;
  /** The name under which a number is captured, where the pattern stands for one. */
  readonly hole: string | undefined;
  constructor(match: (v: Value, m: Bindings) => boolean, loose = false, hole?: string) {
    this.match = match;
    this.loose = loose;
    this.hole = hole;
  }
  get dtype(): DType {
    return ANY as never;
  }
  get shape(): never {
    throw new TypeError(
      "this decomposition reads a shape, so it cannot be matched blind: give raise() a finder",
    );
  }
}

const ANY = Symbol("any");

function bind(m: Bindings, key: string, v: Value | number): boolean {
  if (Object.hasOwn(m, key)) return m[key] === v;
  m[key] = v;
  return true;
}

/** Any value, captured as `name`. The same name twice must be the same value. */
export const any = <N extends string>(name: N, loose = false): Pattern<{ [K in N]: Value }> =>
  new Pattern((v, m) => bind(m, name, v), loose);

/** Any constant, or any number in the place of an attribute; captures it. */
export const scalar = <N extends string>(name: N): Pattern<{ [K in N]: number }> =>
  new Pattern((v, m) => v.op.name === "constant" && bind(m, name, v.attrs.value as number), false, name);

/** Exactly this number. */
export const literal = (n: number): Pattern<{}> =>
  new Pattern((v) => v.op.name === "constant" && v.attrs.value === n);

/** This op over these operands, in either order if it is commutative. Attributes left out match anything. */
export function node(
  op: OpDef,
  operands: readonly Pattern<any>[],
  attrs: Readonly<Record<string, unknown>>,
): Pattern<any> {
  const orders = op.commutative ? [operands, operands.toReversed()] : [operands];
  const loose = operands.some((p) => p.loose);
  const wanted = Object.entries(attrs).filter(([, want]) => want !== ANY);
  return new Pattern((v, m) => {
    if (loose && op.noop && v.op !== op) return operands[0]?.match(v, m) ?? false;
    if (v.op !== op || v.inputs.length !== operands.length) return false;
    const captured: Bindings = { ...m };
    const fits = ([k, want]: [string, unknown]) =>
      want instanceof Pattern && want.hole !== undefined
        ? bind(captured, want.hole, v.attrs[k] as number)
        : String(want) === String(v.attrs[k]);
    if (!wanted.every(fits)) return false;
    return orders.some((patterns) => {
      const trial = { ...captured };
      const fits = patterns.every((p, i) => p.match(v.inputs[i] as Value, trial));
      if (fits) Object.assign(m, trial);
      return fits;
    });
  }, loose);
}

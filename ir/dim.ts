/** A size: a number, or a canonical polynomial over named sizes, so that `2*T` is the same object as `T+T`. */
export type Dim = number | Sym;

const interned = new Map<string, Sym>();

/** A symbolic size. Interned: equal polynomials are the same object, so `===` compares sizes. */
export class Sym {
  readonly key: string;
  /** Coefficient of each monomial; the constant's monomial is the empty string. */
  readonly terms: ReadonlyMap<string, number>;
  constructor(key: string, terms: ReadonlyMap<string, number>) {
    this.key = key;
    this.terms = terms;
  }
  toString(): string {
    return this.key;
  }
}

/** The size called `name`, to be bound when the graph runs. */
export const dim = (name: string): Dim => make(new Map([[name, 1]]));

function make(terms: Map<string, number>): Dim {
  for (const [monomial, c] of terms) if (c === 0) terms.delete(monomial);
  if (terms.size === 0) return 0;
  const constant = terms.get("");
  if (terms.size === 1 && constant !== undefined) return constant;
  const constantLast = ([a]: [string, number], [b]: [string, number]) =>
    a === "" ? 1 : b === "" ? -1 : a < b ? -1 : 1;
  const spell = ([m, c]: [string, number]) => (m === "" ? `${c}` : c === 1 ? m : `${c}*${m}`);
  const key = [...terms].sort(constantLast).map(spell).join("+").replaceAll("+-", "-");
  let sym = interned.get(key);
  if (!sym) {
    sym = new Sym(key, terms);
    interned.set(key, sym);
  }
  return sym;
}

const terms = (d: Dim): ReadonlyMap<string, number> => (typeof d === "number" ? new Map([["", d]]) : d.terms);
const factors = (monomial: string): string[] => monomial.split("*").filter(Boolean);

export function plus(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return a + b;
  const out = new Map(terms(a));
  for (const [m, c] of terms(b)) out.set(m, (out.get(m) ?? 0) + c);
  return make(out);
}

export function times(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return a * b;
  const out = new Map<string, number>();
  for (const [m, c] of terms(a))
    for (const [n, d] of terms(b)) {
      const monomial = [...factors(m), ...factors(n)].sort().join("*");
      out.set(monomial, (out.get(monomial) ?? 0) + c * d);
    }
  return make(out);
}

export const minus = (a: Dim, b: Dim): Dim => plus(a, times(-1, b));
export const product = (dims: readonly Dim[]): Dim => dims.reduce(times, 1);

export type Sizes = Readonly<Record<string, number>>;

/** Every name that occurs in `d`. */
export const names = (d: Dim): string[] => [...new Set([...terms(d).keys()].flatMap(factors))];

/** The number `d` stands for under bindings such as `{ T: 5 }`. Throws when a name is unbound. */
export function size(d: Dim, sizes: Sizes): number {
  if (typeof d === "number") return d;
  let sum = 0;
  for (const [m, c] of d.terms) {
    let value = c;
    for (const name of factors(m)) {
      const bound = sizes[name];
      if (bound === undefined) throw new Error(`size ${name} is unbound; pass { ${name}: <number> }`);
      value *= bound;
    }
    sum += value;
  }
  return sum;
}

/** Reads what a size prints as: `8`, `T`, `P+T`, `2*T-1`. */
export function parseDim(text: string): Dim {
  if (text.trim() === "") throw new SyntaxError("a size is missing");
  const factor = (f: string): Dim => {
    if (/^\d+$/.test(f)) return Number(f);
    if (/^[A-Za-z_]\w*$/.test(f)) return dim(f);
    throw new SyntaxError(`${text} is not a size such as 8, T or P+T`);
  };
  return text
    .trim()
    .replaceAll("-", "+-")
    .split("+")
    .filter((t, i) => t !== "" || i > 0)
    .map((t) => t.trim())
    .map((t) =>
      t.startsWith("-")
        ? times(-1, product(t.slice(1).split("*").map(factor)))
        : product(t.split("*").map(factor)),
    )
    .reduce(plus, 0);
}

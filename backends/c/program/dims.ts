import { type Dim, dim, plus, product, Sym } from "../../../ir/dim.ts";

/** `d` for one text at a time: the batch size B is 1. */
export function single(d: Dim): Dim {
  if (!(d instanceof Sym)) return d;
  const terms = [...d.terms].map(([monomial, c]) =>
    product([
      c,
      ...monomial
        .split("*")
        .filter((name) => name !== "" && name !== "B")
        .map(dim),
    ]),
  );
  return terms.reduce(plus, 0);
}

/** The most that `d` can be. */
export function most(d: Dim, bounds: Readonly<Record<string, number>>): number {
  if (!(d instanceof Sym)) return d;
  let sum = 0;
  for (const [monomial, c] of d.terms) {
    const names = monomial.split("*").filter(Boolean);
    if (c > 0) sum += names.reduce((n, name) => n * (bounds[name] ?? Number.NaN), c);
  }
  if (Number.isNaN(sum)) throw new TypeError(`the size ${d} has no bound; the c target knows T, P and R`);
  return sum;
}

/** `d` as an expression of C, in parentheses where it has several terms. */
export function printDim(d: Dim): string {
  if (!(d instanceof Sym)) return String(d);
  const terms = [...d.terms].map(([monomial, c]) => {
    const names = monomial.split("*").filter(Boolean);
    return names.length && c === 1 ? names.join(" * ") : [String(c), ...names].join(" * ");
  });
  return terms.length === 1 ? (terms[0] as string) : `(${terms.join(" + ").replaceAll("+ -", "- ")})`;
}

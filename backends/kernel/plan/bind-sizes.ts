import { type Dim, dim, plus, product, type Sizes, Sym, times } from "../../../ir/dim.ts";
import { type Attrs, type Graph, intern, type Value } from "../../../ir/graph.ts";
import { TensorType } from "../../../ir/type.ts";
import { mapped } from "../../../passes/pass.ts";

/** `g` for fixed values of some of its sizes: `{ B: 1, T: 1 }` is the step that decodes one token. */
export function bindSizes(g: Graph, sizes: Sizes): Graph {
  const bound = (d: Dim): Dim => {
    if (!(d instanceof Sym)) return d;
    const terms = [...d.terms].map(([monomial, c]) =>
      times(
        c,
        product(
          monomial
            .split("*")
            .filter(Boolean)
            .map((name) => sizes[name] ?? dim(name)),
        ),
      ),
    );
    return terms.reduce(plus, 0);
  };
  const attribute = (x: unknown): unknown => {
    if (x instanceof Sym) return bound(x);
    if (x instanceof TensorType) return x.with({ shape: x.shape.map(bound) });
    return Array.isArray(x) ? x.map(attribute) : x;
  };
  const done = new Map<Value, Value>();
  const change = (v: Value): Value => done.get(v) ?? v;
  for (const v of [...g.inputs, ...g.values()]) {
    const attrs: Attrs = Object.fromEntries(Object.entries(v.attrs).map(([k, x]) => [k, attribute(x)]));
    done.set(v, intern(v.op, v.inputs.map(change), attrs));
  }
  const inputs = g.inputs.map(change);
  return mapped(g, change).with({ inputs });
}

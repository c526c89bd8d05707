import { type Graph, postorder, type Value } from "../graph.ts";
import { constant, neighbour } from "../op.ts";
import { param } from "../ops/index.ts";

const shown = (x: unknown): string => (Array.isArray(x) ? `[${x}]` : Object.is(x, -0) ? "-0" : String(x));
const isLeaf = (v: Value): boolean => v.op === constant || v.op === param;

/** The textual form of a graph. `parse` gives back the same objects. */
export function print(g: Graph): string {
  const recipes = Object.entries(g.setup);
  const prologue = postorder(recipes.map(([, v]) => v));
  const body = g.values();
  const numbers = new Map<Value, number>();
  for (const v of [...prologue, ...body]) if (!isLeaf(v) && !numbers.has(v)) numbers.set(v, numbers.size);

  const name = (v: Value) => (v.op === param ? `%${v.attrs.name}` : `%${numbers.get(v)}`);
  const operand = (v: Value, of: readonly Value[]) => {
    if (v.op !== constant) return name(v);
    const implied = neighbour(of.filter((o) => o.op !== constant));
    return implied === v.dtype ? shown(v.attrs.value) : `${shown(v.attrs.value)}:${v.dtype}`;
  };
  const params = new Map(g.weights().map((w) => [String(w.attrs.name), w]));
  /** How it is cut over the mesh: `{data,-,model}`. */
  const placed = (v: Value | undefined) => {
    const found = v && g.shardings.get(v);
    return found ? ` {${found.map((axis) => axis ?? "-").join(",")}}` : "";
  };
  const line = (v: Value) => {
    const operands = v.inputs.map((i) => operand(i, v.inputs)).join(", ");
    const attrs = Object.entries(v.attrs)
      .filter(([k, x]) => !Object.is(x, v.op.attrs[k]?.default))
      .map(([k, x]) => ` ${k}=${shown(x)}`);
    const origin = g.origins.get(v);
    const said = `${placed(v)}${origin ? ` @${origin}` : ""}`;
    return `  ${name(v)} = ${[v.op.name, operands].filter(Boolean).join(" ")}${attrs.join("")} : ${v.type}${said}`;
  };
  const block = (vs: readonly Value[]) => vs.filter((v) => !isLeaf(v)).map(line);
  const outputs = Object.entries(g.outputs).map(([k, v]) => {
    const over = g.aliases[k];
    return `${k}=${operand(v, [])}${over ? ` over %${over}` : ""}`;
  });
  return [
    ...(g.mesh ? [`mesh ${Object.entries(g.mesh).map(([axis, size]) => `${axis}=${size}`)}`] : []),
    ...g.stored().map((w) => `weight ${name(w)} : ${w.type}${placed(w)}`),
    ...(recipes.length === 0
      ? []
      : [
          "setup {",
          ...block(prologue),
          `  return ${recipes.map(([k, v]) => `${k}=${operand(v, [])}${placed(params.get(k))}`).join(", ")}`,
          "}",
        ]),
    `graph ${g.name}(${g.inputs.map((p) => `${name(p)}: ${p.type}${placed(p)}`).join(", ")}) {`,
    ...block(body),
    `  return ${outputs.join(", ")}`,
    "}",
    "",
  ].join("\n");
}

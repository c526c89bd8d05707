import { type Graph, postorder, type Value } from "./graph.ts";
import { param } from "./ops/index.ts";

/** A graph breaks a rule that construction cannot check. */
export class GraphError extends Error {
  constructor(g: Graph, why: string) {
    super(`graph ${g.name}: ${why}`);
    this.name = "GraphError";
  }
}

/**
 * Checks what construction cannot: that inputs are params and listed once, that one name means one param, that
 * aliases join an output to an input of its type, and that `setup` uses no runtime input. Throws GraphError with
 * the mend.
 */
export function verify(g: Graph): void {
  const fail = (why: string): never => {
    throw new GraphError(g, why);
  };
  if (Object.keys(g.outputs).length === 0) fail("it has no outputs; return at least one value");
  for (const v of g.inputs)
    if (v.op !== param) fail(`input %${v.id} is a ${v.op.name}; inputs must be params`);
  const twice = g.inputs.find((v, i) => g.inputs.indexOf(v) !== i);
  if (twice) fail(`input ${twice.attrs.name} is listed twice; list it once`);

  const recipes = Object.values(g.setup);
  const named = new Map<string, Value>();
  for (const v of [...g.inputs, ...postorder([...recipes, ...Object.values(g.outputs)])]) {
    if (v.op !== param) continue;
    const name = String(v.attrs.name);
    const other = named.get(name) ?? v;
    if (other !== v) fail(`two params are called ${name}: ${other.type} and ${v.type}; rename one`);
    named.set(name, v);
  }
  for (const [name, v] of Object.entries(g.setup)) {
    const stands = named.get(name);
    if (stands && !stands.type.equals(v.type))
      fail(`setup makes ${name} : ${v.type}, but the graph reads ${stands.type}`);
  }
  const inputs = new Set(g.inputs);
  for (const v of postorder(recipes))
    if (inputs.has(v)) fail(`setup reads the runtime input ${v.attrs.name}; it may read weights only`);

  for (const [output, input] of Object.entries(g.aliases)) {
    const from = g.outputs[output] ?? fail(`alias: there is no output ${output}`);
    const over = g.inputs.find((p) => p.attrs.name === input) ?? fail(`alias: there is no input ${input}`);
    if (!from.type.equals(over.type))
      fail(`output ${output} : ${from.type} cannot overwrite input ${input} : ${over.type}`);
  }
}

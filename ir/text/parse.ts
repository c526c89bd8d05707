import { Graph, intern, type Mesh, type Sharding, type Value } from "../graph.ts";
import { constant, neighbour, registry } from "../op.ts";
import { composites, param, preparations, primitives } from "../ops/index.ts";
import { type DType, isDType, parseType } from "../type.ts";

/** Naming the tables here loads them, so that every op of theirs can be parsed. */
export const tables = { primitives, preparations, composites };

/** The graph that `text` describes. Throws SyntaxError with the line's number, the line and what was expected. */
export function parse(text: string): Graph {
  const reader = new Reader();
  text.split("\n").forEach((line, i) => {
    const content = line.replace(/(^|\s)\/\/.*/, "").trim();
    try {
      if (content !== "") reader.line(content);
    } catch (e) {
      throw new SyntaxError(`line ${i + 1}: ${e instanceof Error ? e.message : e}\n  ${content}`, {
        cause: e,
      });
    }
  });
  return reader.graph();
}

class Reader {
  readonly #names = new Map<string, Value>();
  readonly #origins = new Map<Value, string>();
  readonly #shardings = new Map<Value, Sharding>();
  #mesh: Mesh | undefined;
  readonly #aliases: Record<string, string> = {};
  #setup: Record<string, Value> = {};
  #outputs: Record<string, Value> | undefined;
  #inputs: Value[] = [];
  #name: string | undefined;

  graph(): Graph {
    if (this.#name === undefined || !this.#outputs)
      throw new SyntaxError("expected `graph name(%x: f32[T,8]) {`, a body, `return y=%0` and `}`");
    return new Graph(this.#name, {
      inputs: this.#inputs,
      outputs: this.#outputs,
      aliases: this.#aliases,
      setup: this.#setup,
      origins: this.#origins,
      mesh: this.#mesh,
      shardings: this.#shardings,
    });
  }

  line(text: string): void {
    if (text === "}" || text === "setup {") return;
    const word = /^\w+/.exec(text)?.[0];
    if (word === "mesh") this.#meshLine(text);
    else if (word === "weight") this.#weight(text);
    else if (word === "graph") this.#header(text);
    else if (word === "return") this.#return(text);
    else this.#operation(text);
  }

  #meshLine(text: string): void {
    const axes = text.slice("mesh ".length).split(",");
    const sizes = axes.map((axis) => /^(\w+)=([1-9]\d*)$/.exec(axis));
    if (sizes.includes(null)) throw new SyntaxError("expected `mesh data=2,model=4`");
    this.#mesh = Object.fromEntries(sizes.map((m) => [m?.[1], Number(m?.[2])]));
  }

  #declare(name: string, type: string, placed?: string): Value {
    return this.#place(this.#define(name, param({ name: name.slice(1), type: parseType(type) })), placed);
  }

  /** `data,-,model`: the axis of the mesh that cuts each axis, or none. */
  #place(v: Value, placed: string | undefined): Value {
    if (placed === undefined) return v;
    const axes = placed.split(",").filter((_, i) => i > 0 || placed !== "");
    if (axes.length !== v.type.rank)
      throw new SyntaxError(`{${placed}} names ${axes.length} axes, but ${v.type} has ${v.type.rank}`);
    const stranger = axes.find((axis) => axis !== "-" && this.#mesh?.[axis] === undefined);
    if (stranger !== undefined) throw new SyntaxError(`{${placed}}: the mesh has no axis ${stranger}`);
    this.#shardings.set(
      v,
      axes.map((axis) => (axis === "-" ? undefined : axis)),
    );
    return v;
  }

  /** What setup and body share is written in both, so that the same value may come again. */
  #define(name: string, v: Value): Value {
    if ((this.#names.get(name) ?? v) !== v) throw new SyntaxError(`${name} is defined already`);
    this.#names.set(name, v);
    return v;
  }

  #value(name: string): Value {
    const v = this.#names.get(name);
    if (!v) throw new SyntaxError(`${name} is not defined yet`);
    return v;
  }

  #weight(text: string): void {
    const m = /^weight (%\S+) : ([^\s{]+)(?: \{(\S*)\})?$/.exec(text);
    if (!m) throw new SyntaxError("expected `weight %name : f32[8]`");
    this.#declare(m[1] as string, m[2] as string, m[3]);
  }

  #header(text: string): void {
    const m = /^graph (\w+)\((.*)\) \{$/.exec(text);
    if (!m) throw new SyntaxError("expected `graph name(%x: f32[T,8]) {`");
    this.#name = m[1] as string;
    this.#inputs = (m[2] as string)
      .split(", ")
      .filter(Boolean)
      .map((input) => {
        const p = /^(%[^\s:,]+): ([^\s{]+)(?: \{(\S*)\})?$/.exec(input);
        if (!p) throw new SyntaxError(`expected an input such as %x: f32[T,8], not ${input}`);
        return this.#declare(p[1] as string, p[2] as string, p[3]);
      });
  }

  #return(text: string): void {
    const results: Record<string, Value> = {};
    const placed: Record<string, string | undefined> = {};
    for (const part of text.slice("return ".length).split(", ")) {
      const m = /^([\w./-]+)=(\S+)(?: over %(\S+))?(?: \{(\S*)\})?$/.exec(part);
      if (!m) throw new SyntaxError("expected `return name=%0` or `return name=%0 over %input`");
      const [, key, value, over] = m as unknown as [string, string, string, string | undefined];
      results[key] = this.#operand(value, undefined);
      placed[key] = m[4];
      if (over) this.#aliases[key] = over;
    }
    if (this.#name !== undefined) this.#outputs = results;
    else {
      this.#setup = results;
      for (const [k, v] of Object.entries(results)) this.#declare(`%${k}`, String(v.type), placed[k]);
    }
  }

  #operand(text: string, implied: DType | undefined): Value {
    if (text.startsWith("%")) return this.#value(text);
    const [number, dtype = implied] = text.split(":");
    if (Number.isNaN(Number(number)) || !isDType(dtype))
      throw new SyntaxError(`${text} is neither a value such as %0 nor a number such as 1:f32`);
    return constant({ value: Number(number), dtype });
  }

  #operation(text: string): void {
    const m = /^(%\d+) = (\w+) ?(.*?) : (\w+\[[^\]]*\])(?: \{(\S*)\})?(?: @(\S+))?$/.exec(text);
    if (!m) throw new SyntaxError("expected `%0 = op %operands attribute=value : f32[8]`");
    const [, name, opName, rest, type, placed, origin] = m as unknown as [
      string,
      string,
      string,
      string,
      string,
      string | undefined,
      string | undefined,
    ];
    const op = registry.get(opName);
    if (!op) throw new SyntaxError(`no op is called ${opName}`);
    const attrs: Record<string, unknown> = Object.fromEntries(
      Object.entries(op.attrs).map(([k, a]) => [k, a.default]),
    );
    const operands = rest.replace(
      /(\w+)=(\[[^\]]*\]|\w+\[[^\]]*\]|[^\s,]+)/g,
      (_, key: string, value: string) => {
        const schema = op.attrs[key];
        if (!schema) throw new SyntaxError(`${opName} has no attribute ${key}`);
        attrs[key] = schema.parse(value);
        return "";
      },
    );
    for (const [k, a] of Object.entries(op.attrs))
      if (!a.is(attrs[k])) throw new SyntaxError(`${opName} needs ${k}=${a.kind}`);
    const words = operands
      .split(",")
      .map((s) => s.trim())
      .filter(Boolean);
    const implied = neighbour(words.map((w) => this.#names.get(w)));
    const v = intern(
      op,
      words.map((w) => this.#operand(w, implied)),
      attrs,
    );
    if (String(v.type) !== type) throw new SyntaxError(`${opName} gives ${v.type}, not ${type}`);
    this.#place(this.#define(name, v), placed);
    if (origin) this.#origins.set(v, origin);
  }
}

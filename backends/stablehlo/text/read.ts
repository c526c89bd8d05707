import { type DType, TensorType } from "../../../ir/type.ts";
import { unrolled } from "../layers/unroll.ts";
import { element, tensorType } from "./dialect.ts";
import type { Argument, Interface } from "./module.ts";

interface Named {
  readonly name: string;
  readonly type: TensorType;
}

/** `text` for one device, whatever mesh it was written for. */
const onOneDevice = (text: string): string =>
  text
    .replace(/mhlo\.num_partitions = \d+/, "mhlo.num_partitions = 1")
    .replace(/^ {2}sdy\.mesh .*\n/m, "")
    .replace(/, sdy\.sharding = #sdy\.sharding<@mesh, \[[^\]]*\]>/g, "")
    .replace(/sdy\.sharding = #sdy\.sharding<@mesh, \[[^\]]*\]>(?:, )?/g, "")
    .replace(/(tensor<[^>]*>) \{\}/g, "$1")
    .replace(/sdy\.sharding_constraint (\S+) <@mesh, .*> : (.*)$/gm, "stablehlo.convert $1 : ($2) -> $2");

/**
 * The main function of a module that `writeModule` wrote, line by line, for one device; the turns of a loop over layers
 * are written out, each with its own values. Throws SyntaxError for any other text.
 */
export class MainFunction {
  readonly args: readonly Named[];
  readonly results: readonly Named[];
  readonly #head: readonly string[];
  readonly #donated: ReadonlyMap<string, string>;
  readonly #lines = new Map<string, string>();
  readonly #rest: string;
  /** The text as it came, without names for results. */
  readonly #whole: string;

  constructor(written: string) {
    const text = onOneDevice(written);
    const m =
      /^([\s\S]*? {2}func\.func public @main\(\n)([\s\S]*?)\n {2}\) -> \(.*\) \{\n([\s\S]*?)\n {4}return (.*) : .*\n {2}\}\n([\s\S]*)$/.exec(
        text,
      );
    if (!m) throw new SyntaxError("the text is no module that gemmac wrote");
    const [, head, args, body, returned, rest] = m as unknown as string[];
    this.#whole = text.replace(/ \{jax\.result_info = "[^"]*"\}/g, "");
    this.#head = [head as string];
    this.#rest = rest as string;
    const donated = new Map<string, string>();
    const declared = (args as string).split(",\n").map((line) => {
      const [, name, type, attributes] = /^ *(%[^:]+): (tensor<[^>]*>)(.*)$/.exec(line) ?? [];
      if (!name || !type) throw new SyntaxError(`${line} is no argument`);
      if (attributes?.includes("tf.aliasing_output")) donated.set(name, attributes);
      return { name, type };
    });
    this.#donated = donated;
    const lines = (body as string).split("\n").map((line) => line.slice(4));
    const flat = unrolled({ args: declared, lines, results: (returned as string).split(", ") });
    this.args = flat.args.map(({ name, type }) => ({ name, type: readType(type) }));
    for (const line of flat.lines) {
      const name = /^(%\S+) = /.exec(line)?.[1];
      if (!name) throw new SyntaxError(`${line} makes no value`);
      this.#lines.set(name, `    ${line}`);
    }
    this.results = flat.results.map((name) => ({ name, type: this.typeOf(name) }));
  }

  /** The type of a value or an argument. */
  typeOf(name: string): TensorType {
    const argument = this.args.find((a) => a.name === name);
    if (argument) return argument.type;
    const type = /(tensor<[^<>]*>)$/.exec(this.#lines.get(name) ?? "")?.[1];
    if (!type) throw new SyntaxError(`the text makes no value ${name}`);
    return readType(type);
  }

  /** The whole, with inner values handed out after its results. Without any it stays as it was written. */
  watching(names: readonly string[]): string {
    if (names.length === 0) return this.#whole;
    const results = [...this.results, ...names.map((name) => ({ name, type: this.typeOf(name) }))];
    return this.#print(this.args, [...this.#lines.values()], results, true);
  }

  /**
   * The lines between what is given and what is wanted, as a module of its own. Arguments are what they read; what is
   * given and wanted too is computed from the rest, so what is given goes by another name.
   */
  part(given: readonly Named[], wanted: readonly string[]): { text: string } & Interface {
    const starts = new Map(given.map((g) => [g.name, { ...g, name: aliasOf(g.name) }]));
    const needed = new Set<string>();
    const open = [...wanted];
    for (let name = open.pop(); name !== undefined; name = open.pop()) {
      const line = this.#lines.get(name);
      if (needed.has(name) || !line) continue;
      needed.add(name);
      open.push(...reads(line).filter((operand) => !starts.has(operand)));
    }
    const rename = (line: string) => {
      const at = line.indexOf(" = ");
      return line.slice(0, at) + line.slice(at).replace(operands, (name) => starts.get(name)?.name ?? name);
    };
    const lines = [...this.#lines].filter(([name]) => needed.has(name)).map(([, line]) => rename(line));
    const read = new Set([...lines.flatMap(reads), ...wanted]);
    const args = [...this.args, ...starts.values()].filter((a) => read.has(a.name));
    const results = wanted.map((name) => ({ name, type: this.typeOf(name) }));
    const argument = ({ name, type }: Named): Argument => ({ group: "inputs", name: name.slice(1), type });
    return { text: this.#print(args, lines, results, false), args: args.map(argument), results };
  }

  #print(
    args: readonly Named[],
    lines: readonly string[],
    results: readonly Named[],
    donate: boolean,
  ): string {
    const inputs = args.map(
      (a) => `      ${a.name}: ${tensorType(a.type)}${(donate && this.#donated.get(a.name)) || ""}`,
    );
    const types = results.map((r) => tensorType(r.type)).join(", ");
    return [
      `${this.#head.join("")}${inputs.join(",\n")}`,
      `  ) -> (${types}) {`,
      ...lines,
      `    return ${results.map((r) => r.name).join(", ")} : ${types}`,
      "  }",
      this.#rest,
    ].join("\n");
  }
}

const operands = /%[\w.$-]+/g;
const reads = (line: string): string[] => line.slice(line.indexOf(" = ")).match(operands) ?? [];
/** What a given value is called in a part. */
export const aliasOf = (name: string): string => `%given.${name.slice(1)}`;

const dtypeOf = new Map(
  Object.entries(element).map(([dtype, spelled]) => [spelled as string, dtype as DType]),
);

function readType(text: string): TensorType {
  const parts = text.slice("tensor<".length, -1).split("x");
  const dtype = dtypeOf.get(parts.at(-1) as string);
  if (!dtype) throw new SyntaxError(`${text} is no type of ours`);
  return new TensorType(dtype, parts.slice(0, -1).map(Number));
}

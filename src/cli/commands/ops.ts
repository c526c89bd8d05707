import type { Command } from "commander";
import { UserError } from "../../../ir/error.ts";
import { type Attr, Graph, intern, type OpDef } from "../../../ir/graph.ts";
import { complete, registry } from "../../../ir/op.ts";
import { param } from "../../../ir/ops/index.ts";
import { print as printGraph } from "../../../ir/text/index.ts";
import { parseType } from "../../../ir/type.ts";
import { firstSentence, heading, print, printJson, table, wrap } from "../terminal.ts";

/** Adds `gemmac ops`. */
export function addOps(program: Command): void {
  program
    .command("ops")
    .summary("print the ops of the IR")
    .description("Print the ops of the intermediate representation, or all about one of them.")
    .argument("[name]", "an op")
    .option("--json", "print JSON")
    .addHelpText("after", "\nExamples:\n  gemmac ops\n  gemmac ops attention")
    .action((name: string | undefined, { json }: { json?: boolean }) => {
      const show = <T>(docs: T, display: (docs: T) => void) => (json ? printJson(docs) : display(docs));
      if (name === undefined) show([...registry.values()].map(describe), printAll);
      else show(describe(find(name)), printOne);
    });
}

function find(name: string): OpDef {
  const op = registry.get(name);
  if (op) return op;
  throw new UserError(
    "usage",
    `no op is called ${JSON.stringify(name)}`,
    "see gemmac ops for those there are",
  );
}

/** A value as it is written in IR text. */
const shown = (x: unknown): string => (Array.isArray(x) ? `[${x}]` : String(x));

/** All that is known of an op. It comes from the op's entry in the table; types and the decomposition are computed. */
function describe(op: OpDef) {
  const [types, given = {}] = op.example;
  const attrs = complete(op.name, op.attrs, given);
  const operands = op.inputs.map((name, i) => param({ name, type: parseType(types[i] ?? "") }));
  const words = [op.name, operands.map((v) => `%${v.attrs.name}`).join(", ")].filter(Boolean);
  const settings = Object.entries(given).map(([key, x]) => `${key}=${shown(x)}`);
  const short = op.decompose?.(operands, attrs);
  return {
    name: op.name,
    kind: op.composite ? "composite" : "primitive",
    doc: op.doc,
    operands: op.inputs,
    commutative: op.commutative,
    attributes: Object.entries(op.attrs).map(
      ([name, { kind, default: fallback }]: [string, Attr<unknown>]) => ({
        name,
        kind,
        default: fallback === undefined ? null : shown(fallback),
      }),
    ),
    example: {
      operands: operands.map((v) => `%${v.attrs.name} : ${v.type}`),
      call: `${[...words, ...settings].join(" ")} : ${intern(op, operands, attrs).type}`,
    },
    ...(short && {
      decomposition: printGraph(
        new Graph(op.name, { inputs: operands, outputs: { result: short } }),
      ).trimEnd(),
    }),
  };
}

type Doc = ReturnType<typeof describe>;

function printAll(docs: readonly Doc[]): void {
  for (const kind of ["primitive", "composite"]) {
    const group = docs.filter((doc) => doc.kind === kind);
    print(heading(kind === "primitive" ? "Primitives" : "Composites, short for primitives"));
    print(table(group.map(({ name, doc }) => [name, firstSentence(doc)])));
    print();
  }
  print("gemmac ops NAME tells all about one.");
}

function printOne({ name, kind, doc, operands, commutative, attributes, example, decomposition }: Doc): void {
  print(`${heading(`${name}(${operands.join(", ")})`)}  ${kind}${commutative ? ", commutative" : ""}`);
  print(wrap(doc).join("\n"));
  if (attributes.length > 0) {
    print(`\n${heading("Attributes")}`);
    print(
      table(
        attributes.map((a) => [a.name, a.kind, a.default === null ? "required" : `default ${a.default}`]),
      ),
    );
  }
  print(`\n${heading("Example")}`);
  for (const line of [...example.operands, example.call]) print(`  ${line}`);
  if (decomposition) print(`\n${heading("Short for")}\n${decomposition.replace(/^/gm, "  ")}`);
}

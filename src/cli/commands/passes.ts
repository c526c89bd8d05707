import type { Command } from "commander";
import { UserError } from "../../../ir/error.ts";
import type { Attr } from "../../../ir/graph.ts";
import { groups, passes } from "../../../passes/index.ts";
import type { AnyPassMaker, Pass } from "../../../passes/pass.ts";
import { parsePipeline, printPipeline } from "../../../passes/pipeline.ts";
import { chooseBackends } from "../../compile.ts";
import { lawText } from "../../plugin/laws.ts";
import { loadPlugin } from "../../plugin/load.ts";
import { firstSentence, heading, print, printJson, table, wrap } from "../terminal.ts";

/** Adds `gemmac passes`. */
export function addPasses(program: Command): void {
  program
    .command("passes")
    .summary("print the passes, or a target's pipeline")
    .description(
      "Print the passes there are, all about one of them, or the pipeline that a target runs, as --passes takes it.",
    )
    .argument("[name]", "a pass, or the file or package that holds one of yours")
    .option("-t, --target <name>", "print the pipeline of this target")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `
Examples:
  gemmac passes
  gemmac passes insert-kv-cache
  gemmac passes ./my-pass.ts
  gemmac passes --target onnx`,
    )
    .action(action);
}

type Flags = { target?: string; json?: boolean };

async function action(name: string | undefined, { target, json }: Flags): Promise<void> {
  const show = <T>(docs: T, display: (docs: T) => void) => (json ? printJson(docs) : display(docs));
  if (target !== undefined) {
    if (name !== undefined)
      throw new UserError("usage", "--target goes with no pass", "leave one of them away");
    const [backend] = chooseBackends([target]);
    const pipeline = backend?.passes ?? [];
    show({ target, passes: printPipeline(pipeline) }, (shown) => print(shown.passes));
  } else if (name === undefined)
    show({ passes: [...passes.values()].map(describe), groups: Object.fromEntries(groups) }, printAll);
  else show(await find(name), (docs) => docs.forEach(printOne));
}

async function find(name: string): Promise<Doc[]> {
  if (groups.has(name)) return parsePipeline(name).map((pass) => describe(passes.get(pass.name) ?? pass));
  const own = passes.get(name);
  const found = own ? [own] : await loadPlugin(name);
  if (found) return found.map(describe);
  throw new UserError(
    "usage",
    `no pass is called ${JSON.stringify(name)}`,
    "see gemmac passes for those there are, or give the path of a file such as ./my-pass.ts",
  );
}

/** All that is known of a pass. One that is made already has settings in the place of options. */
function describe(pass: AnyPassMaker | Pass) {
  const schema: Readonly<Record<string, Attr<unknown>>> = typeof pass === "function" ? pass.options : {};
  return {
    name: pass.name,
    law: pass.law,
    doc: pass.doc,
    options: Object.entries(schema).map(([name, { kind, default: fallback }]) => ({
      name,
      kind,
      default: fallback === undefined ? null : String(fallback),
    })),
  };
}

type Doc = ReturnType<typeof describe>;

function printAll({
  passes,
  groups,
}: {
  passes: readonly Doc[];
  groups: Readonly<Record<string, string>>;
}): void {
  print(heading("Passes"));
  print(table(passes.map(({ name, law, doc }) => [name, lawText(law), firstSentence(doc)])));
  print(`\n${heading("Groups")}`);
  print(table(Object.entries(groups).map(([name, members]) => [name, members.replaceAll(",", ", ")])));
  print("\ngemmac passes NAME tells all about one.");
}

function printOne({ name, law, doc, options }: Doc): void {
  const braces = options.map((o) => `${o.name}=${o.default ?? "…"}`).join(",");
  print(`${heading(braces ? `${name}{${braces}}` : name)}  law: ${lawText(law)}`);
  print(wrap(doc).join("\n"));
  if (options.length > 0)
    print(
      table(options.map((o) => [o.name, o.kind, o.default === null ? "required" : `default ${o.default}`])),
    );
}

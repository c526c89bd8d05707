import type { Command } from "commander";
import { UserError } from "../../../ir/error.ts";
import type { Graph } from "../../../ir/graph.ts";
import type { Pass } from "../../../passes/pass.ts";
import { parsePipeline, printPipeline, runPasses } from "../../../passes/pipeline.ts";
import { chooseBackends } from "../../compile.ts";
import { diffGraphs, type GraphDiff, lineText, type Mark, ranges } from "../../view/diff.ts";
import { readGraph } from "../../view/source.ts";
import { integer } from "../options.ts";
import { heading, number, plain, print, printJson, table, wrap } from "../terminal.ts";

type Flags = { pass: string; target?: string; context: number; layer?: number; json?: boolean };

/** Adds `gemmac diff`. */
export function addDiff(program: Command): void {
  program
    .command("diff")
    .summary("print what a pass changes in a graph")
    .description(
      "Print what a pass changes: removed (-) and added (+) operations, and those that move to the setup (>), by " +
        "scope. Layers that change alike are printed once. Reads no weights.",
    )
    .argument("<model>", "folder of a checkpoint, a .ir file, or a preset such as gemma-2b")
    .requiredOption("-p, --pass <name>", "the pass, or several with commas between")
    .option("-t, --target <name>", "run it after the passes that come before it in this target's pipeline")
    .option("-U, --context <lines>", "unchanged lines to show around a change", integer(0), 2)
    .option("--layer <number>", "only what changes in this layer", integer(0))
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      `\nThe target is onnx, except for a .ir file: there the pass runs on what the file holds.

Examples:
  gemmac diff gemma-2b --pass fuse-rms-norm
  gemmac diff gemma-2b --pass insert-kv-cache{capacity=512} --layer 0
  gemmac diff graph.ir --pass canonicalize --json`,
    )
    .action(action);
}

async function action(model: string, { pass, target, context, layer, json }: Flags): Promise<void> {
  const asked = parsePipeline(pass);
  if (asked.length === 0) throw new UserError("usage", "no pass is named", "see gemmac passes");
  const { kind, graph } = await readGraph(model);
  const [backend] = target === undefined && kind === "ir" ? [] : chooseBackends([target ?? "onnx"]);
  const { before, after, earlier } = around(graph, asked, backend?.passes ?? []);
  const found = diffGraphs(before, after, { context, ...(layer !== undefined && { layer }) });
  if (layer !== undefined && found.sections.length === 0 && !hasLayer(before, layer))
    throw new UserError(
      "usage",
      `the graph has no layer ${layer}`,
      "choose one that it has, or leave --layer out",
    );
  const facts = {
    pass: printPipeline(asked),
    doc: asked.map((p) => p.doc).join(" "),
    after: earlier.map((p) => p.name),
  };
  if (json) printJson({ ...facts, ...found });
  else printDiff(facts, found);
}

/**
 * The graph before and after the passes asked for, run where the pipeline has them, with the options asked for. If
 * it lacks one of them, they run on the graph as it is.
 */
function around(graph: Graph, asked: readonly Pass[], pipeline: readonly Pass[]) {
  const at = pipeline.findIndex((p) => p.name === asked[0]?.name);
  const inside = at >= 0 && asked.every(({ name }) => pipeline.some((p) => p.name === name));
  const earlier = inside ? pipeline.slice(0, at) : [];
  const { graph: before } = runPasses(graph, earlier);
  return { before, after: runPasses(before, asked).graph, earlier };
}

const hasLayer = (g: Graph, layer: number): boolean =>
  [...g.origins.values()].some((origin) => new RegExp(`(^|/)[^/]+\\.${layer}(/|$)`).test(origin));

const colours: Readonly<Record<Mark, string>> = { "-": "31", "+": "32", ">": "33", " ": "2" };
const paint = (mark: Mark, text: string): string =>
  process.stdout.isTTY && !process.env.NO_COLOR ? `\x1b[${colours[mark]}m${text}\x1b[0m` : text;

function printDiff(
  { pass, doc, after }: { pass: string; doc: string; after: readonly string[] },
  { nodes, ops, sections }: GraphDiff,
): void {
  print(heading(pass));
  for (const line of wrap(doc, 78)) print(`  ${line}`);
  if (after.length > 0) for (const line of wrap(`after ${after.join(", ")}`, 78)) print(`  ${line}`);
  for (const { layer, alsoIn, blocks } of sections) {
    if (layer !== undefined && alsoIn.length > 0) {
      const [others, kind] = [
        ranges(alsoIn),
        layer
          .split("/")
          .at(-1)
          ?.replace(/\.\d+$/, ""),
      ];
      print(`\n${heading(plain(layer))}  the same in ${plain(kind ?? "")} ${others}`);
    }
    for (const { scope, lines } of blocks) {
      print(`\n${heading(`@ ${plain(scope) || "(no scope)"}`)}`);
      for (const line of lines) print(paint(line.mark, `${line.mark} ${plain(lineText(line))}`));
    }
  }
  print(`\n${heading("Summary")}`);
  const rows = [{ op: "all nodes", before: nodes.before, after: nodes.after }, ...ops];
  if (sections.length === 0) print("  no change");
  else print(table(rows.map(({ op, before, after }) => [op, `${number(before)} -> ${number(after)}`])));
}

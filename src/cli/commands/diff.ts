import { readFile, stat } from "node:fs/promises";
import type { Command } from "commander";
import { UserError } from "../../../ir/error.ts";
import type { Graph } from "../../../ir/graph.ts";
import { parse } from "../../../ir/text/index.ts";
import { verify } from "../../../ir/verify.ts";
import type { Pass } from "../../../passes/pass.ts";
import { parsePipeline, printPipeline, runPasses } from "../../../passes/pipeline.ts";
import { openCheckpoint } from "../../checkpoint/checkpoint.ts";
import { chooseBackends } from "../../compile.ts";
import { gemma } from "../../model/gemma.ts";
import { modelGraph } from "../../model/load.ts";
import { presets } from "../../model/presets.ts";
import { diffGraphs, type GraphDiff, lineText, type Mark, ranges } from "../../view/diff.ts";
import { blaming } from "../errors.ts";
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
    .argument("<model>", "folder of a checkpoint, a .gguf or .ir file, or a preset such as gemma-2b")
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
  const { before, after, earlier, ran } = await blaming(asked, () =>
    around(graph, asked, backend?.passes ?? []),
  );
  const found = diffGraphs(before, after, { context, ...(layer !== undefined && { layer }) });
  if (layer !== undefined && found.sections.length === 0 && !hasLayer(before, layer))
    throw new UserError(
      "usage",
      `the graph has no layer ${layer}`,
      "choose one that it has, or leave --layer out",
    );
  const facts = {
    pass: printPipeline(ran),
    doc: ran.map((p) => p.doc).join(" "),
    after: earlier.map((p) => p.name),
  };
  if (json) printJson({ ...facts, ...found });
  else printDiff(facts, found);
}

/**
 * The graph before and after the passes asked for, run where the pipeline has them, and with its options unless
 * others are asked for. If it lacks one of them, they run on the graph as it is.
 */
function around(graph: Graph, asked: readonly Pass[], pipeline: readonly Pass[]) {
  const own = asked.map(({ name }) => pipeline.find((p) => p.name === name));
  const inside = own.every((p) => p !== undefined);
  const earlier = inside ? pipeline.slice(0, pipeline.indexOf(own[0] as Pass)) : [];
  const ran = asked.map((p, i) => (inside && printPipeline([p]) === p.name ? (own[i] ?? p) : p));
  const { graph: before } = runPasses(graph, earlier);
  return { before, after: runPasses(before, ran).graph, earlier, ran };
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
      const kind = /([^/]*)\.\d+$/.exec(layer)?.[1] ?? "";
      const others = `${plain(kind)} ${ranges(alsoIn)}`;
      print(`\n${heading(plain(layer))}  the same in ${others}`);
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

/** A graph, and where it was found. */
export interface Source {
  readonly kind: "checkpoint" | "preset" | "ir";
  readonly graph: Graph;
}

/**
 * The graph that `name` stands for: a checkpoint's folder, of which only the headers are read, a file of textual IR,
 * or a preset such as gemma-2b. A folder comes before a preset of its name. Throws UserError.
 */
export async function readGraph(name: string): Promise<Source> {
  if (name.endsWith(".ir")) return { kind: "ir", graph: parsed(name, await readFile(name, "utf8")) };
  const config = Object.hasOwn(presets, name) ? presets[name] : undefined;
  const there = await stat(name).then(
    () => true,
    () => false,
  );
  if (config && !there) return { kind: "preset", graph: gemma(config) };
  const checkpoint = await openCheckpoint(name);
  try {
    return { kind: "checkpoint", graph: modelGraph(checkpoint).graph };
  } finally {
    await checkpoint.close();
  }
}

function parsed(path: string, text: string): Graph {
  try {
    const graph = parse(text);
    verify(graph);
    return graph;
  } catch (cause) {
    // Whatever parsing and verifying throw is about the text.
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new UserError("input", `${path}: ${why}`, "correct the file at that place", { cause });
  }
}

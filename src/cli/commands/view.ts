import { rename, rm, stat, writeFile } from "node:fs/promises";
import type { Command } from "commander";
import { UserError } from "../../../ir/error.ts";
import { parsePipeline } from "../../../passes/pipeline.ts";
import { chooseBackends } from "../../compile.ts";
import { stepsOf, viewData } from "../../view/data.ts";
import { pageOf } from "../../view/page.ts";
import { blaming, checkWritable, naming } from "../errors.ts";
import { plural, print, printJson, size } from "../terminal.ts";
import { readGraph } from "./diff.ts";

const docs = {
  checkpoint: "The graph of the checkpoint before any pass.",
  preset: "The graph of the preset before any pass.",
  ir: "The graph that the file holds.",
} as const;

type Flags = { out: string; target?: string; passes?: string; force?: boolean; json?: boolean };

/** Adds `gemmac view`. */
export function addView(program: Command): void {
  program
    .command("view")
    .summary("write the graph at each pass as a page to look at")
    .description(
      "Write one HTML file that shows the graph at each pass: by layer, with shapes and bytes, what the pass changed, " +
        "and a search. It needs no server and no network. Reads no weights.",
    )
    .argument("<model>", "folder of a checkpoint, a .gguf or .ir file, or a preset such as gemma-2b")
    .requiredOption("-o, --out <file>", "the HTML file to write")
    .option("-t, --target <name>", "show the passes of this target")
    .option("--passes <list>", "show these passes, such as fuse,fold-weights")
    .option("-f, --force", "replace the file that is there")
    .option("--json", "print the report as JSON")
    .addHelpText(
      "after",
      `\nThe target is onnx, except for a .ir file: it is shown as it is.

Examples:
  gemmac view gemma-2b -o gemma-2b.html
  gemmac view gemma-7b --passes fuse,insert-kv-cache{capacity=512} -o view.html
  gemmac view graph.ir -o graph.html --force`,
    )
    .action(action);
}

async function action(model: string, { out, target, passes, force = false, json }: Flags): Promise<void> {
  if (target !== undefined && passes !== undefined)
    throw new UserError("usage", "--target and --passes both name passes", "give one of them");
  const asked = passes === undefined ? undefined : parsePipeline(passes);
  await checkFree(out, force);
  await checkWritable(out, false);
  const { kind, graph } = await readGraph(model);
  const [backend] = target === undefined && kind === "ir" ? [] : chooseBackends([target ?? "onnx"]);
  const title = model.split(/[/\\]/).filter(Boolean).at(-1) ?? model;
  const steps = await blaming(asked ?? [], () => stepsOf(graph, docs[kind], asked ?? backend?.passes ?? []));
  const html = pageOf(viewData(title, steps));
  const partial = `${out}.partial-${process.pid}`;
  try {
    await naming(out, writeFile(partial, html));
    await naming(out, rename(partial, out));
  } finally {
    await rm(partial, { force: true });
  }
  const bytes = Buffer.byteLength(html);
  const stages = steps.map(({ name, graph }) => ({ name, nodes: graph.values().length }));
  if (json) printJson({ out, bytes, stages });
  else print(`${out}  ${size(bytes)}  ${plural(stages.length, "stage")}`);
}

async function checkFree(out: string, force: boolean): Promise<void> {
  const found = await stat(out).catch(() => undefined);
  if (found?.isDirectory()) throw new UserError("usage", `${out} is a folder`, "give a file as --out");
  if (found && !force)
    throw new UserError(
      "usage",
      `${out} exists already`,
      "choose another --out, or pass --force to replace it",
    );
}

import { readFile, stat } from "node:fs/promises";
import { UserError } from "../../ir/error.ts";
import type { Graph } from "../../ir/graph.ts";
import { parse } from "../../ir/text/index.ts";
import { verify } from "../../ir/verify.ts";
import { openCheckpoint } from "../checkpoint/checkpoint.ts";
import { gemma } from "../model/gemma.ts";
import { modelGraph } from "../model/load.ts";
import { presets } from "../model/presets.ts";

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

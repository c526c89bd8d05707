import type { Graph } from "../ir/graph.ts";
import { verify } from "../ir/verify.ts";
import type { Pass } from "./pass.ts";

export interface PassRecord {
  readonly name: string;
  readonly seconds: number;
  /** Nodes of the graph after the pass. */
  readonly nodes: number;
}

/** A pass failed, or left a graph that does not verify. Holds the last good graph. */
export class PassError extends Error {
  readonly before: Graph;
  constructor(pass: Pass, before: Graph, cause: unknown) {
    super(`pass ${pass.name}: ${cause instanceof Error ? cause.message : cause}`, { cause });
    this.name = "PassError";
    this.before = before;
  }
}

/** Run passes in order, verifying and timing each. Throws PassError naming the pass that broke the graph. */
export function runPasses(g: Graph, passes: readonly Pass[]): { graph: Graph; records: PassRecord[] } {
  const records: PassRecord[] = [];
  let graph = g;
  for (const pass of passes) {
    const start = performance.now();
    try {
      const next = pass.run(graph);
      verify(next);
      graph = next;
    } catch (e) {
      throw new PassError(pass, graph, e);
    }
    records.push({
      name: pass.name,
      seconds: (performance.now() - start) / 1000,
      nodes: graph.values().length,
    });
  }
  return { graph, records };
}

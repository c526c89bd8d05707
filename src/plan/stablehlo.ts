import { layOut, type StableHloOptions, withDefaults } from "../../backends/stablehlo/index.ts";
import type { Graph } from "../../ir/graph.ts";
import { type Artifact, countWeights, tally } from "./artifact.ts";

/** The StableHLO artifact of a graph that is ready to emit, to the byte, and what each device of its mesh holds. */
export function stablehloArtifact(graph: Graph, options: StableHloOptions): Artifact {
  const { files, header, activations, modules, device } = layOut(graph, withDefaults(options));
  const { sums, count } = tally();
  count("padding", header);
  const largest = countWeights(graph, graph.weights(), count);
  for (const { path, bytes } of files)
    if (/\.(mlir|jaxexp)$/.test(path)) count("graph", bytes);
    else if (/\.(py|md)$/.test(path)) count("other files", bytes);
  return {
    files,
    classes: sums,
    largest,
    limits: device.open,
    activations,
    modules,
    device,
  };
}

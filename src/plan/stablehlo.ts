import { layOut, type StableHloOptions, withDefaults } from "../../backends/stablehlo/index.ts";
import { byteLength } from "../../backends/stream/index.ts";
import type { Graph } from "../../ir/graph.ts";
import { type Artifact, classOf, type TensorClass } from "./artifact.ts";

/** The StableHLO artifact of a graph that is ready to emit, to the byte, and what each device of its mesh holds. */
export function stablehloArtifact(graph: Graph, options: StableHloOptions): Artifact {
  const { files, header, activations, modules, device } = layOut(graph, withDefaults(options));
  const sums: Partial<Record<TensorClass, number>> = { padding: header };
  const count = (name: TensorClass, bytes: number) => void (sums[name] = (sums[name] ?? 0) + bytes);
  const weights = graph.weights();
  for (const w of weights) count(classOf(w, graph), byteLength(w));
  for (const { path, bytes } of files)
    if (/\.(mlir|jaxexp)$/.test(path)) count("graph", bytes);
    else if (/\.(py|md)$/.test(path)) count("other files", bytes);
  const sizes = weights.map((w) => ({ name: String(w.attrs.name), bytes: byteLength(w) }));
  return {
    files,
    classes: sums,
    largest: sizes.toSorted((a, b) => b.bytes - a.bytes)[0],
    limits: device.open,
    activations,
    modules,
    device,
  };
}

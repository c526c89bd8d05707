import type { ModelFacts } from "../../backends/backend.ts";
import { layOutC, textsC } from "../../backends/c/index.ts";
import { layOutCuda, textsCuda } from "../../backends/cuda/index.ts";
import { byteLength } from "../../backends/stream/index.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import { type Artifact, countWeights, type PlannedFile, tally } from "./artifact.ts";

/** The C artifact of a graph that is ready to emit, to the byte. */
export async function cArtifact(graph: Graph, facts: ModelFacts): Promise<Artifact> {
  const layout = layOutC({ graph, facts });
  const { tensors } = layout.weights;
  const texts = await textsC(
    layout,
    facts.context,
    tensors.map(() => 0),
  );
  return {
    ...counted(
      graph,
      texts,
      layout.weights.bytes,
      tensors.map((t) => t.weight),
    ),
    activations: layout.activations,
    mappedBytes: layout.weights.bytes,
  };
}

/** The CUDA artifact of a graph that is ready to emit, to the byte. */
export async function cudaArtifact(graph: Graph, facts: ModelFacts): Promise<Artifact> {
  const layout = layOutCuda({ graph, facts });
  const { tensors, bytes } = layout.weights;
  const texts = await textsCuda(
    layout,
    tensors.map(() => 0),
  );
  const parts = tensors.flatMap((t) => t.weight.parts);
  return {
    ...counted(graph, texts, bytes, parts),
    activations: layout.activations,
    gpuBytes: bytes + layout.arenaBytes + layout.stateBytes,
  };
}

/** Texts beside one file of weights. What that holds besides them is padding. */
function counted(
  graph: Graph,
  texts: readonly (readonly [path: string, content: string | Uint8Array])[],
  weightBytes: number,
  weights: readonly Value[],
): Pick<Artifact, "files" | "classes" | "largest" | "limits"> {
  const { sums, count } = tally();
  const largest = countWeights(graph, weights, count);
  count("padding", weightBytes - weights.reduce((sum, w) => sum + byteLength(w), 0));
  const files: PlannedFile[] = texts.map(([path, content]) => ({ path, bytes: Buffer.byteLength(content) }));
  for (const { bytes } of files) count("graph", bytes);
  return {
    files: [...files, { path: "model.safetensors", bytes: weightBytes }],
    classes: sums,
    largest,
    limits: [],
  };
}

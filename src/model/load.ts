import type { ModelFacts } from "../../backends/backend.ts";
import type { Weights } from "../../backends/weights.ts";
import type { Graph } from "../../ir/graph.ts";
import { checkWeights } from "../checkpoint/checkpoint.ts";
import { gemma } from "./gemma.ts";
import type { ConfigReading } from "./reading/index.ts";

/**
 * The graph of a checkpoint's model, its weights typed as the files store them and checked against the config.
 * `warnings` names what the files hold and the model does not use. Throws UserError when a weight is missing or
 * misshapen.
 */
export function modelGraph(checkpoint: Pick<ConfigReading, "config"> & { readonly weights: Weights }): {
  graph: Graph;
  facts: ModelFacts;
  warnings: string[];
} {
  const { config, weights } = checkpoint;
  const wanted = new Map<string, readonly number[]>();
  const graph = gemma(config, (name, shape) => {
    wanted.set(name, shape);
    const info = weights.info(name);
    // Blocks of another shape need not fill these rows; what is wrong is told below.
    return !info || (info.format && info.shape.join() !== shape.join()) ? "bf16" : info;
  });
  const warnings = checkWeights(
    [...wanted].map(([name, shape]) => ({ name, shape })),
    weights,
  );
  const { vocab, context, layers, kvHeads, headDim } = config;
  return { graph, facts: { vocab, context, layers, kvHeads, headDim }, warnings };
}

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
  const graph = gemma(config, (name) => weights.info(name)?.dtype ?? "bf16");
  const wanted = graph.stored().map((v) => ({ name: String(v.attrs.name), shape: v.shape.map(Number) }));
  const warnings = checkWeights(wanted, weights);
  const { vocab, context, layers, kvHeads, headDim } = config;
  return { graph, facts: { vocab, context, layers, kvHeads, headDim }, warnings };
}

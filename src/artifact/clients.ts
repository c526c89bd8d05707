import type { ModelFacts } from "../../backends/backend.ts";
import { modelFile } from "../../backends/onnx/index.ts";
import type { Graph } from "../../ir/graph.ts";
import { isFloat } from "../../ir/type.ts";
import { hasSlots, isCache } from "../../passes/kv-cache.ts";
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import type { GemmaConfig } from "../model/config.ts";

/**
 * The files that other people's programs read beside the graph. None of them feeds caches of codes or of a fixed size, so an
 * artifact with such gets no file that invites them to load it.
 */
export function clientFiles(
  checkpoint: Checkpoint,
  facts: ModelFacts,
  graph: Graph,
  dataFiles: number,
): { path: string; text: string }[] {
  if (ownCaches(graph)) return [configFile(checkpoint, facts)];
  const loading = { dtype: "fp32", use_external_data_format: { "model.onnx": dataFiles } };
  const config = configFile(checkpoint, facts, { "transformers.js_config": loading });
  return [config, { path: "genai_config.json", text: printed(genai(checkpoint, facts)) }];
}

/** Whether its caches hold codes, not floats. */
export const holdsCodes = (graph: Graph): boolean =>
  graph.inputs.some((v) => isCache(v) && !isFloat(v.dtype));

/** What of its caches other clients cannot feed, if there is any. */
export function ownCaches(graph: Graph): string | undefined {
  if (holdsCodes(graph)) return "hold 8-bit codes";
  return hasSlots(graph) ? "have a fixed size" : undefined;
}

const printed = (content: object): string => `${JSON.stringify(content, null, 2)}\n`;

/** What Hugging Face calls each family's language model. */
const classes = {
  gemma: { model_type: "gemma", architectures: ["GemmaForCausalLM"] },
  gemma2: { model_type: "gemma2", architectures: ["Gemma2ForCausalLM"] },
  gemma3: { model_type: "gemma3_text", architectures: ["Gemma3ForCausalLM"] },
} as const satisfies Record<GemmaConfig["family"], object>;

/** config.json as Hugging Face clients read it: what the checkpoint says, defaults spelled out, and what `more` adds. */
export function configFile(
  checkpoint: Checkpoint,
  facts: ModelFacts,
  more: object = {},
): { path: string; text: string } {
  const defaulted = checkpoint.keys.filter((k) => k.source === "defaulted").map((k) => [k.key, k.value]);
  const content = {
    ...checkpoint.json,
    ...Object.fromEntries(defaulted),
    ...classes[checkpoint.config.family],
    num_hidden_layers: facts.layers,
    vocab_size: facts.vocab,
    ...more,
  };
  return { path: "config.json", text: printed(content) };
}

/** What onnxruntime-genai reads. It insists on ids for begin, end and padding; where there are none it gets 0. */
function genai({ config, generation }: Checkpoint, facts: ModelFacts): object {
  const never = 0;
  return {
    model: {
      type: classes[config.family].model_type,
      bos_token_id: generation.bos ?? never,
      eos_token_id: generation.eos.length ? generation.eos : never,
      pad_token_id: generation.pad ?? never,
      context_length: facts.context,
      vocab_size: facts.vocab,
      decoder: {
        filename: modelFile,
        head_size: facts.headDim,
        hidden_size: config.width,
        num_attention_heads: config.heads,
        num_hidden_layers: facts.layers,
        num_key_value_heads: facts.kvHeads,
        session_options: { log_id: "onnxruntime-genai", provider_options: [] },
        inputs: {
          input_ids: "input_ids",
          attention_mask: "attention_mask",
          past_key_names: "past_key_values.%d.key",
          past_value_names: "past_key_values.%d.value",
        },
        outputs: {
          logits: "logits",
          present_key_names: "present.%d.key",
          present_value_names: "present.%d.value",
        },
      },
    },
    search: { max_length: facts.context, do_sample: false, past_present_share_buffer: false },
  };
}

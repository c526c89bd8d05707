import { join } from "node:path";
import type { ModelFacts } from "../../backends/backend.ts";
import { modelFile } from "../../backends/onnx/index.ts";
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { readJson } from "../checkpoint/json.ts";

/** The files that other people's programs read beside the graph. */
export async function clientFiles(
  checkpoint: Checkpoint,
  facts: ModelFacts,
  dataFiles: number,
): Promise<{ path: string; text: string }[]> {
  const files = {
    "config.json": await config(checkpoint, facts, dataFiles),
    "genai_config.json": genai(checkpoint, facts),
  };
  return Object.entries(files).map(([path, content]) => ({
    path,
    text: `${JSON.stringify(content, null, 2)}\n`,
  }));
}

/** config.json as Hugging Face clients read it: what the checkpoint says, defaults spelled out, and how to load it. */
async function config(checkpoint: Checkpoint, facts: ModelFacts, dataFiles: number): Promise<object> {
  const original = await readJson(join(checkpoint.dir, "config.json"));
  const defaulted = checkpoint.keys.filter((k) => k.source === "defaulted").map((k) => [k.key, k.value]);
  return {
    ...original,
    ...Object.fromEntries(defaulted),
    num_hidden_layers: facts.layers,
    "transformers.js_config": { dtype: "fp32", use_external_data_format: { "model.onnx": dataFiles } },
  };
}

/** What onnxruntime-genai reads. It insists on ids for begin, end and padding; where there are none it gets 0. */
function genai({ config, generation }: Checkpoint, facts: ModelFacts): object {
  const never = 0;
  return {
    model: {
      type: "gemma",
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

import type { FileHandle } from "node:fs/promises";
import type { TensorInfo, Weights } from "../../../backends/weights.ts";
import { inputError, quote } from "../json.ts";
import { readExactly } from "../safetensors.ts";
import type { GgufHeader } from "./header.ts";

/** What follows `model.layers.N.` for each tensor of a block. */
const parts: ReadonlyMap<string, string> = new Map([
  ["attn_norm", "input_layernorm"],
  ["attn_q", "self_attn.q_proj"],
  ["attn_k", "self_attn.k_proj"],
  ["attn_v", "self_attn.v_proj"],
  ["attn_output", "self_attn.o_proj"],
  ["attn_q_norm", "self_attn.q_norm"],
  ["attn_k_norm", "self_attn.k_norm"],
  ["post_attention_norm", "post_attention_layernorm"],
  ["post_ffw_norm", "post_feedforward_layernorm"],
  ["ffn_gate", "mlp.gate_proj"],
  ["ffn_up", "mlp.up_proj"],
  ["ffn_down", "mlp.down_proj"],
]);
const ends: ReadonlyMap<string, string> = new Map([
  ["token_embd", "model.embed_tokens"],
  ["output_norm", "model.norm"],
  ["output", "lm_head"],
]);

/** The name that checkpoints of the Hub use; what has none keeps its own. */
function hubName(name: string, architecture: unknown): string {
  const [, layer, part = "", end = ""] = /^(?:blk\.(\d+)\.(\w+)|(\w+))\.weight$/.exec(name) ?? [];
  // Gemma 1 has one norm before the feed-forward block, and its name there is from another place.
  const before = architecture === "gemma" ? "post_attention_layernorm" : "pre_feedforward_layernorm";
  const known = layer === undefined ? ends.get(end) : part === "ffn_norm" ? before : parts.get(part);
  if (known === undefined) return name;
  return layer === undefined ? `${known}.weight` : `model.layers.${Number(layer)}.${known}.weight`;
}

/** The tensors of an open GGUF file, under the Hub's names. Closing them closes the file. */
export function ggufWeights(file: FileHandle, path: string, { metadata, tensors }: GgufHeader): Weights {
  const byName = new Map<string, { info: TensorInfo; begin: number }>();
  for (const [stored, { dtype, format, shape, begin, end }] of tensors) {
    const name = hubName(stored, metadata.get("general.architecture"));
    if (byName.has(name))
      throw inputError(
        `${path}: tensor ${quote(stored)}`,
        `is a second ${quote(name)}`,
        "convert the model again",
      );
    const info = { dtype, shape, bytes: end - begin, ...(format && { format }) };
    byName.set(name, { info: name.endsWith("norm.weight") ? { ...info, plusOne: true } : info, begin });
  }
  return {
    names: () => byName.keys(),
    info: (name) => byName.get(name)?.info,
    async read(name, offset, into) {
      const found = byName.get(name);
      if (!found) throw new RangeError(`there is no tensor ${name}`);
      const { bytes } = found.info;
      if (!Number.isInteger(offset) || offset < 0 || offset + into.length > bytes)
        throw new RangeError(`${name} has ${bytes} bytes, not ${into.length} at ${offset}`);
      await readExactly(file, path, found.begin + offset, into);
    },
    close: () => file.close(),
  };
}

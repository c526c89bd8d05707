import { inputError, isObject, type JsonObject, quote } from "../../checkpoint/json.ts";
import type { GemmaConfig } from "../config.ts";

type Family = GemmaConfig["family"];

/** What gemmac lacks for each relative, by a pattern on model_type. The first match counts. */
const missing: readonly (readonly [RegExp, string, string])[] = [
  [/^gemma3n/, "Gemma 3n", "per-layer embeddings, AltUp and shared key/value layers are not there yet"],
  [
    /^gemma4/,
    "Gemma 4",
    "per-layer embeddings, shared key/value layers and wide global heads are not there yet",
  ],
  [/^gemma[-_]?embedding/, "EmbeddingGemma", "attention in both directions and pooling are not there yet"],
  [/^paligemma/, "PaliGemma", "the vision tower is not there yet"],
  [/^recurrent_gemma/, "RecurrentGemma", "recurrent blocks are not there yet"],
  [/^vaultgemma/, "VaultGemma", "its blocks without post-norms are not there yet"],
  [/^t5gemma/, "T5Gemma", "encoders and cross-attention are not there yet"],
  [/gemma/i, "a relative of Gemma", "its architecture is not there yet"],
];

/** By model_type: the family, and the classes that are its language model or hold it. */
const known: Readonly<Record<string, readonly [Family, ...string[]]>> = {
  gemma: ["gemma", "GemmaForCausalLM", "GemmaModel"],
  gemma2: ["gemma2", "Gemma2ForCausalLM", "Gemma2Model"],
  gemma3_text: ["gemma3", "Gemma3ForCausalLM", "Gemma3TextModel"],
  gemma3: ["gemma3", "Gemma3ForConditionalGeneration", "Gemma3Model"],
};

const useGemma = "use a checkpoint of Gemma 1, 2 or 3, such as google/gemma-3-1b-it";

/** The family, and the object that holds the language model's keys: the file itself, or its text_config. */
export function recognise(json: JsonObject, where: string): { family: Family; text: JsonObject } {
  const kinds = Array.isArray(json.architectures) ? json.architectures : [];
  const [type, [family, ...classes]] = find(json.model_type, kinds, where);
  // A classifier shares the body, so that only this list tells it from a language model.
  if (kinds.length && !kinds.some((kind) => classes.includes(kind)))
    throw inputError(where, `architectures is ${quote(kinds)}, not a language model`, useGemma);
  if (type !== "gemma3") return { family, text: json };
  const text = json.text_config;
  if (!isObject(text)) throw inputError(where, `text_config is ${quote(text)}, not an object`, useGemma);
  return { family, text };
}

function find(type: unknown, kinds: readonly unknown[], where: string) {
  const byClass = Object.entries(known).find(([, [, ...classes]]) =>
    kinds.some((k) => classes.includes(`${k}`)),
  );
  if (type === undefined && byClass) return byClass;
  if (typeof type !== "string")
    throw inputError(where, `model_type is ${type === undefined ? "missing" : quote(type)}`, useGemma);
  const found = Object.hasOwn(known, type) ? known[type] : undefined;
  if (found) return [type, found] as const;
  const relative = missing.find(([pattern]) => pattern.test(type));
  const what = relative
    ? `is ${quote(type)} (${relative[1]}): ${relative[2]}`
    : `is ${quote(type)}, which is not a Gemma model`;
  throw inputError(where, `model_type ${what}`, useGemma);
}

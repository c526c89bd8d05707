import { Tokenizer as Library } from "@huggingface/tokenizers";
import { MergeTable, mergeIds } from "../../backends/wgsl/runtime/text/bpe.ts";
import { decodeByteRuns } from "../../backends/wgsl/runtime/text/byte-fallback.ts";
import { inputError, isObject, type JsonObject, oneLine } from "../checkpoint/json.ts";

/** As much of the library's tokenizer as we use; its published types do not resolve in an ES module project. */
export interface Codec {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[] };
  decode(ids: readonly number[], options: { clean_up_tokenization_spaces: boolean }): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
  readonly model: {
    readonly vocab: readonly (string | undefined)[];
    readonly tokens_to_ids: ReadonlyMap<string, number>;
    bpe(piece: string): string[];
  };
  readonly decoder: Decoder;
}

interface Decoder {
  readonly config: { readonly type: string };
  readonly decoders?: readonly Decoder[];
  decode_chain(tokens: string[]): string[];
}

/** A codec and what its tokenizer.json says; `merges` as `mergeIds` gives them. */
export interface LoadedCodec {
  readonly codec: Codec;
  readonly added: readonly AddedToken[];
  readonly merges: Int32Array;
}

/** Builds the codec a parsed tokenizer.json describes. Every fault in it is a UserError naming `file`. */
export function buildCodec(json: JsonObject, file: string): LoadedCodec {
  try {
    const model = checkModel(json.model);
    const added = checkAdded(json.added_tokens ?? []);
    const { decoder = null, post_processor = null, pre_tokenizer = null, normalizer = null } = json;
    checkDecoder(decoder);
    // The library gets no merges: it would index them slowly, and MergeTable does the merging. It gets no
    // tokenizer_config.json either: tokenizer.json alone says how text becomes ids.
    const parts = { decoder, post_processor, pre_tokenizer, normalizer, added_tokens: added };
    const codec: Codec = new Library({ ...parts, model: { ...model, merges: [] } }, {});
    const merges = mergeIds(codec.model.tokens_to_ids, model.merges);
    const table = new MergeTable(codec.model.tokens_to_ids, merges);
    codec.model.bpe = (piece) => table.split(piece);
    for (const step of codec.decoder.decoders ?? [])
      if (step.config.type === "ByteFallback") step.decode_chain = decodeByteRuns;
    if (codec.encode("", { add_special_tokens: true }).ids.includes(undefined))
      throw new Error("post_processor adds a token the vocabulary lacks");
    return { codec, added, merges };
  } catch (cause) {
    const next = "take tokenizer.json from the model's own repository";
    throw inputError(file, oneLine(cause), next, { cause });
  }
}

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

interface BytePairModel {
  readonly type: "BPE";
  readonly vocab: Readonly<Record<string, number>>;
  readonly merges: readonly unknown[];
}

/** Model settings that change how text is split and that no Gemma tokenizer has; the library ignores some of them. */
const UNSUPPORTED = ["dropout", "continuing_subword_prefix", "end_of_word_suffix"];

function checkModel(model: unknown): BytePairModel {
  if (!isObject(model)) throw new Error("there is no model");
  const { type = "BPE", vocab, merges } = model;
  if (type !== "BPE") throw new Error(`model.type is ${JSON.stringify(type)}, gemmac reads BPE only`);
  if (!isObject(vocab)) throw new Error("model.vocab is missing");
  if (!Object.values(vocab).every(isId)) {
    const token = Object.keys(vocab).find((name) => !isId(vocab[name]));
    throw new Error(`model.vocab: ${JSON.stringify(token)} has no valid id`);
  }
  if (!Array.isArray(merges)) throw new Error("model.merges is missing");
  for (const key of UNSUPPORTED) if (model[key]) throw new Error(`model.${key} is not supported`);
  return { ...model, type, vocab: vocab as Record<string, number>, merges };
}

function checkAdded(added: unknown): AddedToken[] {
  if (!Array.isArray(added)) throw new Error("added_tokens is not a list");
  return added.map((token: unknown, i) => {
    if (!isObject(token) || typeof token.content !== "string" || !isId(token.id))
      throw new Error(`added_tokens: entry ${i} has no content or no valid id`);
    return { ...token, content: token.content, id: token.id, special: token.special === true };
  });
}

/** Only decoders whose text can be cut between tokens: streaming relies on it. */
function checkDecoder(decoder: unknown): void {
  const steps = isObject(decoder) && decoder.type === "Sequence" ? decoder.decoders : [decoder];
  const kinds = Array.isArray(steps) ? steps.map((step) => (isObject(step) ? step.type : undefined)) : [];
  const name = kinds.join(", ") || "missing";
  if (kinds.length === 1 && kinds[0] === "ByteLevel") return;
  if (!/^(Replace, )*ByteFallback(, Replace)*(, Fuse)?$/.test(name))
    throw new Error(`decoder is ${name}, gemmac reads ByteLevel and Replace, ByteFallback, Fuse`);
}

/** Bounded, because the library allocates one slot per id. */
function isId(id: unknown): id is number {
  return typeof id === "number" && Number.isInteger(id) && id >= 0 && id < 2 ** 24;
}

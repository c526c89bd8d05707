import { inputError, type JsonObject, quote } from "../json.ts";
import type { GgufHeader, MetadataValue } from "./header.ts";

/** Kinds of tokens, as SentencePiece and llama.cpp number them. */
const [normal, unknown, control, userDefined, byte] = [1, 2, 3, 4, 6];

interface Vocabulary {
  readonly tokens: readonly string[];
  readonly scores: Float64Array;
  readonly kinds: Float64Array;
}

const again = "convert the model again with a current convert_hf_to_gguf.py";

/** The vocabulary of a GGUF file, checked; undefined when it holds none. Throws UserError. */
function vocabularyOf({ metadata }: GgufHeader, where: string): Vocabulary | undefined {
  const get = (key: string) => metadata.get(`tokenizer.ggml.${key}`);
  const [tokens, scores, kinds] = [get("tokens"), get("scores"), get("token_type")];
  if (tokens === undefined) return undefined;
  const bad = (key: string, what: string) => inputError(where, `tokenizer.ggml.${key} ${what}`, again);
  const model = get("model");
  if (model !== "llama")
    throw bad("model", `is ${quote(model ?? null)}; gemmac reads SentencePiece vocabularies, called "llama"`);
  if (!Array.isArray(tokens) || !tokens.every((t) => typeof t === "string"))
    throw bad("tokens", "is not a list of strings");
  for (const [key, list] of [["scores", scores] as const, ["token_type", kinds] as const])
    if (!(list instanceof Float64Array) || list.length !== tokens.length)
      throw bad(key, `is not a list of ${tokens.length} numbers, one for each token`);
  if ((scores as Float64Array).some(Number.isNaN))
    throw bad("scores", "holds NaN, which no token can be ranked by");
  if (get("add_space_prefix") === true)
    throw bad("add_space_prefix", "is true, but no Gemma puts a space before a text");
  const kindOf = kinds as Float64Array;
  // Spaces are spelled out in user-defined tokens; everywhere else, and in tokenizer.json, they are U+2581.
  const spelled = tokens.map((t, id) => (kindOf[id] === userDefined ? t.replaceAll(" ", "▁") : t));
  return { tokens: spelled, scores: scores as Float64Array, kinds: kindOf };
}

/**
 * The tokenizer.json that the vocabulary of a GGUF file stands for; undefined when it holds none. A pair of tokens merges
 * when their joined text is a token too, the better its score the earlier, as SentencePiece merges.
 */
export function tokenizerOf(header: GgufHeader, where: string): JsonObject | undefined {
  const vocabulary = vocabularyOf(header, where);
  if (!vocabulary) return undefined;
  const { tokens, kinds } = vocabulary;
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const added = tokens.flatMap((content, id) => {
    const kind = kinds[id];
    if (kind !== unknown && kind !== control && kind !== userDefined) return [];
    const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
    return [{ id, content, ...flags, special: kind !== userDefined && !isReserve(content) }];
  });
  const [bos, eos] = [affix(header, "bos", true, tokens), affix(header, "eos", false, tokens)];
  const template = (type_id: number, id: string) => [
    ...bos.map((token) => ({ SpecialToken: { id: token, type_id } })),
    { Sequence: { id, type_id } },
    ...eos.map((token) => ({ SpecialToken: { id: token, type_id } })),
  ];
  const special = [...bos, ...eos].map((id) => [id, { id, ids: [vocab[id]], tokens: [id] }]);
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: { type: "Replace", pattern: { String: " " }, content: "▁" },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: template(0, "A"),
      pair: [...template(0, "A"), ...template(1, "B")],
      special_tokens: Object.fromEntries(special),
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
      ],
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: tokens[kinds.indexOf(unknown)] ?? tokenOf(header, "unknown", tokens) ?? null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: kinds.includes(byte),
      ignore_merges: false,
      vocab,
      merges: mergesOf(vocabulary, header.metadata.get("general.architecture") === "gemma3"),
    },
  };
}

/** GGUF files call these control tokens, where Gemma's own tokenizer.json prints them. */
const isReserve = (token: string): boolean => /^<(unused\d+|mask)>$/.test(token);

/** The token that a key such as bos_token_id names. */
function tokenOf({ metadata }: GgufHeader, key: string, tokens: readonly string[]): string | undefined {
  const id = metadata.get(`tokenizer.ggml.${key}_token_id`);
  return typeof id === "number" ? tokens[id] : undefined;
}

/** The token that every text gets before or behind it, if it does. */
function affix(
  header: GgufHeader,
  key: "bos" | "eos",
  otherwise: boolean,
  tokens: readonly string[],
): string[] {
  const wanted: MetadataValue = header.metadata.get(`tokenizer.ggml.add_${key}_token`) ?? otherwise;
  const token = tokenOf(header, key, tokens);
  return wanted === true && token !== undefined ? [token] : [];
}

/**
 * Every way to put a token together from two. User-defined tokens, such as runs of spaces, come first. Where scores are
 * equal, which says nothing in SentencePiece, the order is that of the model's own tokenizer.json: in Gemma 3 longer
 * left parts first, before that by ids.
 */
function mergesOf({ tokens, scores, kinds }: Vocabulary, longestFirst: boolean): [string, string][] {
  const ids = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (kinds[id] === normal || kinds[id] === userDefined) ids.set(token, id);
  });
  const scoreOf = (id: number) =>
    kinds[id] === userDefined ? Number.POSITIVE_INFINITY : (scores[id] as number);
  // The sort is stable: what is equal stays in the order of ids.
  const order = [...ids.values()].sort((x, y) => (scoreOf(x) === scoreOf(y) ? 0 : scoreOf(y) - scoreOf(x)));
  const merges: [string, string][] = [];
  for (let from = 0, to = 0; from < order.length; from = to) {
    const score = scoreOf(order[from] as number);
    while (to < order.length && scoreOf(order[to] as number) === score) to++;
    const found = order.slice(from, to).flatMap((id) => splitsOf(tokens[id] as string, ids));
    if (longestFirst) found.sort((x, y) => y.left - x.left || y.right - x.right);
    for (const { pair } of found) merges.push(pair);
  }
  return merges;
}

/** Two tokens that make one, by their ids, and how many characters each has. */
interface TwoParts {
  readonly pair: [string, string];
  readonly a: number;
  readonly b: number;
  readonly left: number;
  readonly right: number;
}

/** Every way to put `token` together from two, in the order of their ids. */
function splitsOf(token: string, ids: ReadonlyMap<string, number>): TwoParts[] {
  const characters = [...token];
  const found: TwoParts[] = [];
  for (let left = 1, at = 0; left < characters.length; left++) {
    at += (characters[left - 1] as string).length;
    const first = token.slice(0, at);
    const a = ids.get(first);
    if (a === undefined) continue;
    const second = token.slice(at);
    const b = ids.get(second);
    if (b !== undefined) found.push({ pair: [first, second], a, b, left, right: characters.length - left });
  }
  return found.sort((x, y) => x.a - y.a || x.b - y.b);
}

/** tokenizer_config.json: the special tokens and the chat template. */
export function tokenizerConfigOf(header: GgufHeader): JsonObject {
  const tokens = header.metadata.get("tokenizer.ggml.tokens");
  const words = Array.isArray(tokens) ? (tokens as readonly string[]) : [];
  const named = { bos: "bos", eos: "eos", pad: "padding", unk: "unknown" };
  const special = Object.entries(named).map(([name, key]) => [`${name}_token`, tokenOf(header, key, words)]);
  const template = header.metadata.get("tokenizer.chat_template");
  return {
    ...Object.fromEntries(special.filter(([, token]) => token !== undefined)),
    ...(typeof template === "string" && { chat_template: template }),
    clean_up_tokenization_spaces: false,
    tokenizer_class: "GemmaTokenizer",
  };
}

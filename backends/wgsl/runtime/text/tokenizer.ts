import { type AddedToken, AddedTokens } from "./added-tokens.ts";
import { MergeTable, mergeIds } from "./bpe.ts";
import { decodeByteRuns, isByteToken } from "./byte-fallback.ts";
import {
  fromByteLetters,
  isJson,
  type Json,
  normalizer,
  preTokenizer,
  type Rewrite,
  type Split,
} from "./splitting.ts";

/** Turns ids into text as they come. All pieces joined are exactly `decode` of all ids. */
export interface TextStream {
  /** The text this id settles; empty while a character is incomplete. */
  push(id: number): string;
  /** What is still held back. Call it once, after the last id. */
  end(): string;
}

/** Byte-pair encoding as tokenizer.json describes it, in plain JavaScript. */
export class Tokenizer {
  readonly #ids: ReadonlyMap<string, number>;
  readonly #tokens: readonly (string | undefined)[];
  readonly #specialIds: ReadonlySet<number>;
  readonly #added: AddedTokens;
  readonly #normalize: Rewrite;
  readonly #split: Split;
  readonly #merges: MergeTable;
  readonly #frame: { readonly before: readonly number[]; readonly after: readonly number[] };
  readonly #decodeTokens: (tokens: readonly string[]) => string;
  readonly #unknown: number | undefined;
  readonly #fuse: boolean;
  /** Ids of the byte tokens, by byte. */
  readonly #bytes: readonly (number | undefined)[];

  /** `json` is a parsed tokenizer.json. Throws an Error in words when it asks for what is not known here. */
  constructor(json: Json) {
    const model = isJson(json.model) ? json.model : {};
    if (model.type !== undefined && model.type !== "BPE")
      throw new Error(`model.type is ${model.type}, only BPE is known`);
    if (!isJson(model.vocab) || !Array.isArray(model.merges))
      throw new Error("the model has no vocab or merges");
    for (const key of ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"])
      if (model[key]) throw new Error(`model.${key} is not known`);
    const added = (Array.isArray(json.added_tokens) ? json.added_tokens : []).map(addedToken);
    const ids = new Map<string, number>();
    const tokens: (string | undefined)[] = [];
    const learn = (token: string, id: number) => {
      ids.set(token, id);
      tokens[id] = token;
    };
    for (const [token, id] of Object.entries(model.vocab)) learn(token, Number(id));
    this.#merges = new MergeTable(ids, mergeIds(ids, model.merges));
    for (const { content, id } of added) learn(content, id);
    this.#ids = ids;
    this.#tokens = tokens;
    this.#specialIds = new Set(added.filter((t) => t.special).map((t) => t.id));
    this.#added = new AddedTokens(added);
    this.#normalize = normalizer(json.normalizer);
    this.#split = preTokenizer(json.pre_tokenizer);
    this.#frame = frame(json.post_processor, ids);
    this.#decodeTokens = decoder(json.decoder);
    this.#unknown = typeof model.unk_token === "string" ? ids.get(model.unk_token) : undefined;
    this.#fuse = model.fuse_unk === true;
    const spell = (byte: number) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
    const fallback = model.byte_fallback === true;
    this.#bytes = Array.from({ length: 256 }, (_, b) => (fallback ? ids.get(spell(b)) : undefined));
  }

  /** One more than the highest id. */
  get size(): number {
    return this.#tokens.length;
  }

  /** Text to ids. Added tokens spelled out in the text become those tokens. `special` adds BOS and the like. */
  encode(text: string, { special = false }: { readonly special?: boolean } = {}): number[] {
    const out: number[] = special ? [...this.#frame.before] : [];
    for (const part of this.#added.split(text)) {
      if (typeof part === "string")
        for (const piece of this.#split([this.#normalize(part)])) this.#encodePiece(piece, out);
      else out.push(part.id);
    }
    if (special) out.push(...this.#frame.after);
    return out;
  }

  #encodePiece(piece: string, out: number[]): void {
    let afterUnknown = false;
    for (const token of this.#merges.split(piece)) {
      const id = this.#ids.get(token);
      const bytes = id === undefined ? this.#byteIds(token) : [id];
      if (bytes) out.push(...bytes);
      else if (this.#unknown !== undefined && !(afterUnknown && this.#fuse)) out.push(this.#unknown);
      afterUnknown = bytes === undefined;
    }
  }

  /** The byte tokens that spell `text`, if the vocabulary has them all. */
  #byteIds(text: string): number[] | undefined {
    const ids = Array.from(new TextEncoder().encode(text), (byte) => this.#bytes[byte]);
    const known = ids.filter((id) => id !== undefined);
    return known.length === ids.length ? known : undefined;
  }

  /** Ids to text. Ids the vocabulary lacks give nothing; `skipSpecial` leaves special tokens out. */
  decode(ids: Iterable<number>, { skipSpecial = false }: { readonly skipSpecial?: boolean } = {}): string {
    const tokens: string[] = [];
    for (const id of ids) {
      const token = this.#tokens[id];
      if (token !== undefined && !(skipSpecial && this.#specialIds.has(id))) tokens.push(token);
    }
    return this.#decodeTokens(tokens);
  }

  /** A decoder for ids that come one by one. */
  stream(options: { readonly skipSpecial?: boolean } = {}): TextStream {
    let held: number[] = [];
    let sent = 0;
    const rest = () => this.decode(held, options).slice(sent);
    return {
      push: (id) => {
        const token = this.#tokens[id];
        if (token === undefined || (options.skipSpecial && this.#specialIds.has(id))) return "";
        held.push(id);
        // A run of byte tokens is text or replacement characters as a whole, so it is settled by what follows it.
        if (isByteToken(token)) return "";
        const text = rest();
        // A byte-level token may end inside a character. That shows as one U+FFFD at the end; all before is final.
        if (text.endsWith("\uFFFD")) {
          sent += text.length - 1;
          return text.slice(0, -1);
        }
        held = [];
        sent = 0;
        return text;
      },
      end: () => {
        const text = rest();
        held = [];
        sent = 0;
        return text;
      },
    };
  }

  /** The token's id, if the vocabulary has it. */
  tokenToId(token: string): number | undefined {
    return this.#ids.get(token);
  }

  /** The token as the vocabulary spells it, if the id is in use. */
  idToToken(id: number): string | undefined {
    return this.#tokens[id];
  }
}

function addedToken(token: unknown, i: number): AddedToken {
  if (!isJson(token) || typeof token.content !== "string" || typeof token.id !== "number")
    throw new Error(`added_tokens: entry ${i} has no content or no valid id`);
  for (const key of ["lstrip", "rstrip", "single_word"])
    if (token[key]) throw new Error(`added_tokens: ${key} is not known`);
  return { id: token.id, content: token.content, special: token.special === true };
}

/** The ids that a post-processor puts around a text. */
function frame(part: unknown, ids: ReadonlyMap<string, number>): { before: number[]; after: number[] } {
  const around = { before: [] as number[], after: [] as number[] };
  if (part === null || part === undefined || (isJson(part) && part.type === "ByteLevel")) return around;
  if (!isJson(part) || part.type !== "TemplateProcessing" || !Array.isArray(part.single))
    throw new Error(`post_processor is ${isJson(part) ? part.type : part}, which is not known`);
  let side = around.before;
  for (const step of part.single as Json[]) {
    const id = isJson(step.SpecialToken) ? ids.get(String(step.SpecialToken.id)) : undefined;
    if (isJson(step.Sequence)) side = around.after;
    else if (id !== undefined) side.push(id);
    else throw new Error("post_processor adds a token the vocabulary lacks");
  }
  return around;
}

/** Only decoders whose text can be cut between tokens: streaming relies on it. */
function decoder(part: unknown): (tokens: readonly string[]) => string {
  const steps: unknown[] =
    isJson(part) && part.type === "Sequence" && Array.isArray(part.decoders) ? part.decoders : [part];
  const chain = steps.map((step): ((tokens: readonly string[]) => readonly string[]) => {
    const type = isJson(step) ? step.type : undefined;
    if (type === "ByteLevel") return (tokens) => byteLevel(tokens);
    if (type === "ByteFallback") return decodeByteRuns;
    if (type === "Fuse") return (tokens) => [tokens.join("")];
    if (type === "Replace") {
      const rewrite = normalizer(step);
      return (tokens) => tokens.map(rewrite);
    }
    throw new Error(`decoder is ${type ?? "missing"}, which is not known`);
  });
  return (tokens) => chain.reduce((t, step) => step(t), tokens).join("");
}

/** Runs of letters for bytes are decoded as a whole: a character may be spread over several tokens. */
const byteLevel = (tokens: readonly string[]): string[] => [fromByteLetters(tokens.join(""))];

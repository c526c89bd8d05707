import { join } from "node:path";
import { isByteToken } from "../../backends/wgsl/runtime/text/byte-fallback.ts";
import { type Folder, openFolder } from "../checkpoint/folder.ts";
import { inputError, isObject, type JsonObject, parseJsonFast } from "../checkpoint/json.ts";
import { ChatTemplate, type Message } from "./chat-template.ts";
import { buildCodec, type Codec, type LoadedCodec } from "./tokenizer-file.ts";

export type { Message } from "./chat-template.ts";

export interface EncodeOptions {
  /** Add what the post-processor adds, which for Gemma is BOS. Off by default: a rendered chat has its own. */
  readonly special?: boolean;
}

export interface DecodeOptions {
  /** Leave special tokens out of the text. Off by default. */
  readonly skipSpecial?: boolean;
}

/** Turns ids into text as they come. All pieces joined are exactly `decode` of all ids. */
export interface TextStream {
  /** The text this id settles; empty while a character is incomplete. */
  push(id: number): string;
  /** What is still held back. Call it once, after the last id. */
  end(): string;
}

/**
 * Reads a checkpoint's tokenizer, from a folder or a GGUF file. tokenizer.json alone is enough; tokenizer_config.json,
 * chat_template.jinja, generation_config.json and config.json add the chat template and the BOS and EOS ids.
 */
export async function loadTokenizer(dir: string): Promise<Tokenizer> {
  const folder = await openFolder(dir);
  const json = await folder.json("tokenizer.json", parseJsonFast);
  if (json) return (await openTokenizer(folder, json)).tokenizer;
  throw folder.gguf
    ? inputError(dir, "holds no vocabulary", "use a GGUF file that does, or pass token ids")
    : inputError(
        join(dir, "tokenizer.json"),
        "not found",
        "take tokenizer.json from the model's own repository",
      );
}

/** A tokenizer and what it was made of. */
export interface OpenTokenizer extends LoadedCodec {
  readonly tokenizer: Tokenizer;
}

/** As `loadTokenizer`; `json` is the parsed tokenizer.json. */
export async function openTokenizer(folder: Folder, json: JsonObject): Promise<OpenTokenizer> {
  const where = (name: string) => (folder.gguf ? folder.path : join(folder.path, name));
  const config = (await folder.json("tokenizer_config.json", parseJsonFast)) ?? {};
  const generation = await folder.json("generation_config.json");
  const architecture = await folder.json("config.json");
  const loaded = buildCodec(json, where("tokenizer.json"));
  const ids = (key: "bos" | "eos"): number[] => {
    for (const source of [generation, architecture]) {
      const found = [source?.[`${key}_token_id`]].flat().filter((id) => Number.isInteger(id));
      if (found.length > 0) return found as number[];
    }
    const id = loaded.codec.token_to_id(tokenText(config[`${key}_token`]) ?? `<${key}>`);
    return id === undefined ? [] : [id];
  };
  const bosId = ids("bos")[0];
  const specials = specialVariables(config);
  const bos = bosId === undefined ? undefined : loaded.codec.id_to_token(bosId);
  const variables = bos === undefined ? specials : { bos_token: bos, ...specials };
  const template = await folder.text("chat_template.jinja");
  const inline = defaultTemplate(config.chat_template);
  const chat =
    template !== undefined
      ? new ChatTemplate(template, where("chat_template.jinja"), variables)
      : inline !== undefined
        ? new ChatTemplate(inline, where("tokenizer_config.json"), variables)
        : undefined;
  const specialIds = new Set(loaded.added.filter((token) => token.special).map((token) => token.id));
  const parts = { codec: loaded.codec, specialIds, dir: folder.path, bosId, eosIds: ids("eos"), chat };
  return { ...loaded, tokenizer: new Tokenizer(parts) };
}

interface Parts {
  readonly codec: Codec;
  readonly specialIds: ReadonlySet<number>;
  readonly dir: string;
  readonly bosId: number | undefined;
  readonly eosIds: readonly number[];
  readonly chat: ChatTemplate | undefined;
}

/** A checkpoint's tokenizer: text to ids, ids to text, conversations to text. Made by `loadTokenizer`. */
export class Tokenizer {
  /** One more than the highest id. The model's embedding may have more rows than this. */
  readonly size: number;
  readonly bosId: number | undefined;
  readonly eosIds: readonly number[];
  readonly #codec: Codec;
  readonly #specialIds: ReadonlySet<number>;
  readonly #chat: ChatTemplate | undefined;
  readonly #dir: string;

  constructor(parts: Parts) {
    this.#codec = parts.codec;
    this.#specialIds = parts.specialIds;
    this.#chat = parts.chat;
    this.#dir = parts.dir;
    this.size = parts.codec.model.vocab.length;
    this.bosId = parts.bosId;
    this.eosIds = parts.eosIds;
  }

  /** Whether the checkpoint has a chat template. */
  get hasChat(): boolean {
    return this.#chat !== undefined;
  }

  /** Text to ids. Special tokens spelled out in the text become those tokens. */
  encode(text: string, { special = false }: EncodeOptions = {}): number[] {
    const { ids } = this.#codec.encode(text, { add_special_tokens: special });
    return ids.filter((id) => id !== undefined);
  }

  /** Ids to text. Ids the vocabulary lacks give nothing. */
  decode(ids: Iterable<number>, { skipSpecial = false }: DecodeOptions = {}): string {
    const kept: number[] = [];
    for (const id of ids) if (this.#prints(id, skipSpecial)) kept.push(id);
    // The library throws on an empty list, and knows no token for an unknown id.
    return kept.length === 0 ? "" : this.#codec.decode(kept, { clean_up_tokenization_spaces: false });
  }

  /** A decoder for ids that come one by one. */
  stream({ skipSpecial = false }: DecodeOptions = {}): TextStream {
    let held: number[] = [];
    let sent = 0;
    return {
      push: (id) => {
        if (!this.#prints(id, skipSpecial)) return "";
        held.push(id);
        // A run of byte tokens is text or replacement characters as a whole, so it is settled by what follows it.
        if (isByteToken(this.idToToken(id) ?? "")) return "";
        const text = this.decode(held);
        // A byte-level token may end inside a character. That shows as one U+FFFD at the end; all before is final.
        const settled = text.endsWith("\uFFFD") ? text.length - 1 : text.length;
        const piece = text.slice(sent, settled);
        if (settled === text.length) {
          held = [];
          sent = 0;
        } else sent = settled;
        return piece;
      },
      end: () => {
        const piece = this.decode(held).slice(sent);
        held = [];
        sent = 0;
        return piece;
      },
    };
  }

  /** The token's id, if the vocabulary has it. */
  tokenToId(token: string): number | undefined {
    return this.#codec.token_to_id(token);
  }

  /** The token as the vocabulary spells it, if the id is in use. */
  idToToken(id: number): string | undefined {
    return this.#codec.id_to_token(id);
  }

  /**
   * Where generation stops: the ids generation_config.json gives, the tokenizer's own EOS, and `<end_of_turn>`. Its
   * id differs between families (107 in Gemma 2, where Gemma 3 has 106 and 107 is a newline), so it comes by name.
   */
  stopIds(generationEos: readonly number[] = []): number[] {
    const turn = this.tokenToId("<end_of_turn>");
    return [...new Set([...generationEos, ...this.eosIds, ...(turn === undefined ? [] : [turn])])];
  }

  /** The conversation as text, BOS included: encode it without `special`. */
  chat(messages: readonly Message[], { addGenerationPrompt = false }: ChatOptions = {}): string {
    if (!this.#chat)
      throw inputError(
        this.#dir,
        "no chat template: neither chat_template.jinja nor one in tokenizer_config.json",
        "add chat_template.jinja from the model's repository, or send plain text",
      );
    return this.#chat.render(messages, addGenerationPrompt);
  }

  #prints(id: number, skipSpecial: boolean): boolean {
    return this.idToToken(id) !== undefined && !(skipSpecial && this.#specialIds.has(id));
  }
}

export interface ChatOptions {
  /** End with the opening of the model's turn, so that the model answers. Off by default. */
  readonly addGenerationPrompt?: boolean;
}

/** A special token in tokenizer_config.json: its text, or an object holding it. */
function tokenText(value: unknown): string | undefined {
  const text = isObject(value) ? value.content : value;
  return typeof text === "string" ? text : undefined;
}

/** What a template may name: `bos_token` and the like. */
function specialVariables(config: JsonObject): Record<string, string> {
  const found: Record<string, string> = {};
  for (const [key, value] of Object.entries(config)) {
    const text = tokenText(value);
    if (key.endsWith("_token") && text !== undefined) found[key] = text;
  }
  return found;
}

/** The template itself, or the one named "default" in a list of named ones. */
function defaultTemplate(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  const named: unknown[] = Array.isArray(value) ? value : [];
  const chosen = named.find((entry) => isObject(entry) && entry.name === "default");
  return isObject(chosen) && typeof chosen.template === "string" ? chosen.template : undefined;
}

import type { Gemma, ModelInfo, Run, SampleOptions } from "./api.ts";
import { GemmaError } from "./error.ts";
import type { Ran } from "./gpu/engine.ts";
import type { Program } from "./program.ts";
import type { Runner } from "./runner.ts";
import { mulberry32, sample } from "./sample.ts";
import type { Tokenizer } from "./text/tokenizer.ts";
import { type Message, renderTurns } from "./text/turns.ts";

/** How tokens are drawn, nothing left out. */
type Settings = Required<Pick<SampleOptions, "temperature" | "topK" | "topP">>;

/** A loaded model: text in and out, around a runner of tokens. */
export class Model implements Gemma {
  readonly info: ModelInfo;
  readonly #program: Program;
  readonly #runner: Runner;
  readonly #tokenizer: Tokenizer | undefined;
  #busy = false;
  #lastRun: Run | undefined;

  constructor(program: Program, runner: Runner, tokenizer: Tokenizer | undefined) {
    const { facts, chunks, text, name } = program;
    this.#program = program;
    this.#runner = runner;
    this.#tokenizer = tokenizer;
    this.info = {
      name,
      vocab: facts.vocab,
      context: facts.context,
      layers: facts.layers,
      bytes: chunks.reduce((sum, c) => sum + c.bytes, 0),
      canChat: tokenizer !== undefined && !("missing" in text.chat),
    };
  }

  get device(): string {
    return this.#runner.device;
  }

  get lastRun(): Run | undefined {
    return this.#lastRun;
  }

  chat(messages: readonly Message[], options: SampleOptions = {}): AsyncGenerator<string, void, void> {
    const { chat } = this.#program.text;
    if ("missing" in chat)
      throw new GemmaError("usage", `this model cannot chat: ${chat.missing}`, "call generate() with a text");
    let text: string;
    try {
      text = renderTurns(chat, messages);
    } catch (e) {
      throw new GemmaError("usage", (e as Error).message, "change the messages");
    }
    return this.#answer(this.#words.encode(text), options);
  }

  generate(prompt: string, options: SampleOptions = {}): AsyncGenerator<string, void, void> {
    const ids = this.#words.encode(prompt, { special: true });
    const { bos } = this.#program.text;
    // A prompt that spells out BOS, as rendered templates do, must not get a second one.
    const doubled = bos !== null && ids[0] === bos && ids[1] === bos;
    return this.#answer(doubled ? ids.slice(1) : ids, options);
  }

  tokens(text: string, options: { readonly special?: boolean } = {}): number[] {
    return this.#words.encode(text, options);
  }

  text(ids: Iterable<number>): string {
    return this.#words.decode(ids, { skipSpecial: true });
  }

  async logits(ids: readonly number[]): Promise<Float32Array> {
    return this.#alone(async () =>
      (await this.#runner.feed(this.#checked(ids))).logits.slice(-this.info.vocab),
    );
  }

  /** Scores f32[tokens, vocab] of tokens fed after those before, and the values that the program keeps. */
  async append(ids: readonly number[]): Promise<Ran> {
    return this.#alone(() => this.#runner.append(ids));
  }

  /** The token that follows exactly these. Temperature 0 takes the likeliest. */
  async draw(ids: readonly number[], settings: Settings, random: () => number): Promise<number> {
    return this.#alone(() => this.#next(this.#checked(ids), settings, random));
  }

  /** Forgets the tokens fed after the first `keep`. */
  rewind(keep: number): void {
    this.#runner.rewind(keep);
  }

  dispose(): void {
    this.#runner.dispose();
  }

  get #words(): Tokenizer {
    if (this.#tokenizer) return this.#tokenizer;
    throw new GemmaError("usage", "the checkpoint had no tokenizer.json", "call logits() with token ids");
  }

  async *#answer(ids: readonly number[], options: SampleOptions): AsyncGenerator<string, void, void> {
    const { sampling, stops } = this.#program.text;
    const drawn = [options.temperature, options.topK, options.topP, options.seed].some(
      (o) => o !== undefined,
    );
    const settings = {
      temperature: options.temperature ?? (drawn || sampling.sample ? (sampling.temperature ?? 1) : 0),
      topK: options.topK ?? sampling.topK ?? 0,
      topP: options.topP ?? sampling.topP ?? 1,
    };
    const room = this.info.context - this.#checked(ids).length;
    const asked = options.maxTokens ?? sampling.maxTokens ?? room;
    const most = Math.min(asked, room);
    const random = mulberry32(options.seed ?? Math.floor(Math.random() * 2 ** 32));
    const stream = this.#words.stream({ skipSpecial: true });
    this.#enter();
    try {
      const start = performance.now();
      let first = start;
      let count = 0;
      const readTokens = this.#runner.unread(ids).length;
      const told = (stop: Run["stop"]) => {
        const seconds = (performance.now() - first) / 1000;
        this.#lastRun = {
          promptTokens: ids.length,
          readTokens,
          tokens: count,
          secondsToFirst: (first - start) / 1000,
          tokensPerSecond: count > 1 && seconds > 0 ? (count - 1) / seconds : 0,
          stop,
        };
      };
      const known = [...ids];
      while (true) {
        if (options.signal?.aborted) {
          told("aborted");
          break;
        }
        if (count >= most) {
          told(most < asked ? "context" : "length");
          break;
        }
        const id = await this.#next(known, settings, random);
        if (count === 0) first = performance.now();
        if (stops.includes(id)) {
          told("stop");
          break;
        }
        known.push(id);
        count++;
        told("aborted");
        const piece = stream.push(id);
        if (piece) yield piece;
      }
      const rest = stream.end();
      if (rest) yield rest;
    } finally {
      this.#busy = false;
    }
  }

  /** Draws on the GPU where that can, so that no scores come from there. */
  async #next(ids: readonly number[], settings: Settings, random: () => number): Promise<number> {
    const { temperature, topK, topP } = settings;
    const count = Math.min(temperature > 0 ? topK : 1, this.info.vocab);
    const { sampling } = this.#program;
    if (!sampling || count < 1 || count > sampling.most) {
      const { logits } = await this.#runner.feed(ids);
      return sample(logits.subarray(-this.info.vocab), settings, random);
    }
    if (temperature <= 0) return this.#runner.draw(ids, { count, temperature: 1, topP: 1, random: 0 });
    // The largest f32 below 1: what rounds to 1 would draw nothing.
    const chance = Math.min(random(), 1 - 2 ** -24);
    return this.#runner.draw(ids, { count, temperature, topP, random: chance });
  }

  #checked(ids: readonly number[]): readonly number[] {
    const { vocab, context } = this.info;
    const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocab);
    if (bad !== undefined)
      throw new GemmaError(
        "usage",
        `token id ${bad} is outside the vocabulary of ${vocab}`,
        "pass ids below it",
      );
    if (ids.length === 0) throw new GemmaError("usage", "there are no tokens", "pass at least one");
    if (ids.length >= context)
      throw new GemmaError(
        "context",
        `the text has ${ids.length} tokens, and this model takes fewer than ${context}`,
        "shorten it, or start a new conversation",
      );
    return ids;
  }

  #enter(): void {
    if (this.#busy)
      throw new GemmaError(
        "usage",
        "the model is writing another text",
        "stop that one first, with its signal, and wait until it has ended",
      );
    this.#busy = true;
  }

  async #alone<T>(work: () => Promise<T>): Promise<T> {
    this.#enter();
    try {
      return await work();
    } finally {
      this.#busy = false;
    }
  }
}

import { createInterface } from "node:readline";
import { text as readAll } from "node:stream/consumers";
import type { Command } from "commander";
import { UserError } from "../../../ir/error.ts";
import { type Model, openModel } from "../../artifact/open.ts";
import type { Generation } from "../../checkpoint/checkpoint.ts";
import { generateIds, type SampleOptions } from "../../generate.ts";
import type { Message, Tokenizer } from "../../tokenizer/tokenizer.ts";
import { interruptible } from "../errors.ts";
import { checkIds, decimal, defined, integer } from "../options.ts";
import { note, number, plural, printJson, size } from "../terminal.ts";

type Flags = {
  prompt?: string;
  chat?: boolean;
  maxTokens?: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  seed?: number;
  greedy?: boolean;
  echo?: boolean;
  json?: boolean;
};

/** How long a text gets when neither the user nor the checkpoint says. */
const defaultMaxTokens = 256;

/** Adds `gemmac run`. */
export function addRun(program: Command): void {
  program
    .command("run")
    .summary("generate text")
    .description(
      "Generate text with an artifact, or with a checkpoint, which runs on the slow reference " +
        "interpreter. Without --prompt or --chat the prompt is what stdin holds, less a final newline.",
    )
    .argument("<model>", "folder of an artifact or a checkpoint, or a .gguf file")
    .option("-p, --prompt <text>", "continue this text")
    .option("-c, --chat", "hold a conversation: each line of stdin is a turn")
    .option(
      "-n, --max-tokens <n>",
      `stop after so many tokens (default: the model's, or ${defaultMaxTokens})`,
      integer(1),
    )
    .option("--temperature <x>", "0 always takes the likeliest token (default: the model's)", decimal(0))
    .option("--top-k <n>", "draw among the n likeliest tokens (default: the model's)", integer(1))
    .option("--top-p <x>", "draw among the likeliest that sum to x (default: the model's)", decimal(0, 1))
    .option("--seed <n>", "draw the same text each time", integer(0, 2 ** 32 - 1))
    .option("--greedy", "always take the likeliest token")
    .option("--echo", "print the prompt before the text")
    .option("--json", "print one JSON document at the end")
    .addHelpText(
      "after",
      `
Examples:
  gemmac run gemma-2b-onnx --prompt "Why is the sky blue?"
  gemmac run gemma-2b-it-onnx --chat
  gemmac run gemma-2b-onnx --greedy --max-tokens 50 --json < prompt.txt`,
    )
    .action(action);
}

async function action(path: string, flags: Flags): Promise<void> {
  if (flags.chat && (flags.prompt !== undefined || flags.json))
    throw new UserError("usage", "--chat goes with neither --prompt nor --json", "see gemmac run --help");
  if (!flags.chat && flags.prompt === undefined && process.stdin.isTTY)
    throw new UserError("usage", "there is no prompt", "pass --prompt TEXT or --chat, or pipe a text in");
  // Read before Ctrl-C is taken over: waiting for stdin must end at once.
  const prompt = flags.chat ? "" : (flags.prompt ?? (await readAll(process.stdin)).replace(/\r?\n$/, ""));
  await interruptible(async (signal) => {
    const model = await openModel(path);
    try {
      const tokenizer = await model.tokenizer();
      const speaker = new Speaker(model, tokenizer, flags, signal);
      if (flags.chat) await chat(tokenizer, speaker, signal);
      else await complete(tokenizer, speaker, prompt, flags);
    } finally {
      await model.close();
    }
  });
}

async function complete(
  tokenizer: Tokenizer,
  speaker: Speaker,
  prompt: string,
  { json = false, echo = false }: Flags,
): Promise<void> {
  const bare = tokenizer.encode(prompt);
  // A prompt that spells out <bos>, as rendered templates do, must not get a second one.
  const hasBos = tokenizer.bosId !== undefined && bare[0] === tokenizer.bosId;
  const promptIds = hasBos ? bare : tokenizer.encode(prompt, { special: true });
  if (echo && !json) write(prompt);
  const spoken = await speaker.answer(promptIds, json ? () => {} : write);
  const { text, ids, tokensPerSecond, stop } = spoken;
  if (json) printJson({ text, ids, promptIds, tokensPerSecond, stop });
  else speaker.summarize(spoken);
}

async function chat(tokenizer: Tokenizer, speaker: Speaker, signal: AbortSignal): Promise<void> {
  if (!tokenizer.hasChat)
    throw new UserError(
      "input",
      "this model has no chat template",
      "use --prompt, or add chat_template.jinja from the model's repository",
    );
  // On a terminal the line editor takes over echo and Ctrl-C. It draws on stderr: stdout is for the answers.
  const terminal = Boolean(process.stdin.isTTY && process.stderr.isTTY);
  const lines = createInterface({
    input: process.stdin,
    terminal,
    prompt: "> ",
    ...(terminal && { output: process.stderr }),
  });
  lines.on("SIGINT", () => process.kill(process.pid, "SIGINT"));
  const stop = () => lines.close();
  signal.addEventListener("abort", stop);
  const history: Message[] = [];
  try {
    if (terminal) lines.prompt();
    for await (const line of lines) {
      if (line.trim() !== "") {
        history.push({ role: "user", content: line });
        const ids = tokenizer.encode(tokenizer.chat(history, { addGenerationPrompt: true }));
        const spoken = await speaker.answer(ids, write);
        speaker.summarize(spoken);
        history.push({ role: "assistant", content: spoken.text });
      }
      if (signal.aborted) break;
      if (terminal) lines.prompt();
    }
  } finally {
    signal.removeEventListener("abort", stop);
    lines.close();
    if (terminal) process.stderr.write("\n");
  }
}

const write = (text: string): void => void process.stdout.write(text);

interface Spoken {
  readonly text: string;
  readonly ids: readonly number[];
  readonly tokensPerSecond: number;
  /** What ended it: the limit asked for, a stop token, or the end of the model's context. */
  readonly stop: "length" | "stop" | "context";
}

/** A model with its sampling settings. Remembers what it was fed, so that a conversation is not read anew each turn. */
class Speaker {
  readonly #model: Model;
  readonly #tokenizer: Tokenizer;
  readonly #sampling: SampleOptions;
  readonly #stop: readonly number[];
  readonly #maxTokens: number;
  readonly #signal: AbortSignal;
  #fed: number[] = [];

  constructor(model: Model, tokenizer: Tokenizer, flags: Flags, signal: AbortSignal) {
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#sampling = sampling(flags, model.generation);
    this.#stop = tokenizer.stopIds(model.generation.eos);
    this.#maxTokens = flags.maxTokens ?? (model.generation.maxNew || defaultMaxTokens);
    this.#signal = signal;
  }

  /** Continue `ids`, handing out the text as it comes. */
  async answer(ids: readonly number[], say: (text: string) => void): Promise<Spoken> {
    const { facts, session } = this.#model;
    checkIds(ids, facts);
    const room = facts.context - ids.length;
    const maxTokens = Math.min(this.#maxTokens, room);
    const text = this.#tokenizer.stream({ skipSpecial: true });
    const made: number[] = [];
    const times: number[] = [];
    let all = "";
    const tell = (piece: string) => {
      all += piece;
      if (piece) say(piece);
    };
    const options = { ...this.#sampling, maxTokens, stop: this.#stop, signal: this.#signal };
    for await (const id of generateIds(session, this.#unfed(ids), options)) {
      times.push(performance.now());
      made.push(id);
      tell(text.push(id));
    }
    tell(text.end());
    if (!all.endsWith("\n")) say("\n");
    this.#signal.throwIfAborted();
    const stopped = made.length < maxTokens;
    // The last token of a text that met its limit was handed out, but not fed.
    this.#fed = [...ids, ...(stopped ? made : made.slice(0, -1))];
    const stop = stopped ? "stop" : maxTokens < this.#maxTokens ? "context" : "length";
    return { text: all, ids: made, tokensPerSecond: speed(times), stop };
  }

  /** Says on stderr how it went. */
  summarize({ ids, tokensPerSecond, stop }: Spoken): void {
    const { facts, kind, bytes } = this.#model;
    if (stop === "context")
      note(`stopped at the end of the model's context, ${number(facts.context)} tokens`);
    process.stderr.write(
      `${plural(ids.length, "token")}, ${tokensPerSecond.toFixed(1)} tokens/s, ${kind} ${size(bytes)}\n`,
    );
  }

  /** The part of `ids` that the session has yet to see. It starts over when it was fed anything else. */
  #unfed(ids: readonly number[]): readonly number[] {
    const fed = this.#fed.length;
    if (fed < ids.length && this.#fed.every((id, i) => id === ids[i])) return ids.slice(fed);
    this.#model.session.reset();
    return ids;
  }
}

/** Tokens per second after the first, whose time is spent on reading the prompt; 0 when there are too few to tell. */
function speed(times: readonly number[]): number {
  const [first = 0, last = 0] = [times[0], times.at(-1)];
  return last > first ? Number((((times.length - 1) * 1000) / (last - first)).toFixed(2)) : 0;
}

/** The flags win over the checkpoint's settings; asking for anything random turns sampling on. */
function sampling(flags: Flags, model: Generation): SampleOptions {
  const { greedy, temperature, topK, topP, seed } = flags;
  const asked = [temperature, topK, topP, seed].some((flag) => flag !== undefined);
  if (greedy || !(asked || model.sample)) return {};
  return defined({
    temperature: temperature ?? model.temperature ?? 1,
    topK: topK ?? model.topK ?? undefined,
    topP: topP ?? model.topP ?? undefined,
    seed,
  });
}

import { basename, resolve } from "node:path";
import type { About, EmittedFile, ModelFacts } from "../../backends/backend.ts";
import type { TextFacts } from "../../backends/wgsl/runtime/program.ts";
import { UserError } from "../../ir/error.ts";
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { loadTokenizer, type Tokenizer } from "../tokenizer/tokenizer.ts";
import { compileTemplate } from "../tokenizer/turns.ts";
import { version } from "../version.ts";

/** Whether a file of this name says on what terms weights may be used. */
export const isLicence = (path: string): boolean => /^(licen[cs]e|notice|use_policy)([._-].*)?$/i.test(path);

/** What an artifact that runs by itself must know of the checkpoint; `copied` are files that are in it already. */
export async function aboutOf(
  checkpoint: Checkpoint,
  facts: ModelFacts,
  copied: readonly EmittedFile[],
  warn: (message: string) => void,
): Promise<About> {
  const { generation, dir } = checkpoint;
  const file = copied.find((f) => f.path === "tokenizer.json") ?? null;
  const tokenizer = file ? await loadTokenizer(dir) : undefined;
  const text: TextFacts = {
    bos: tokenizer?.bosId ?? generation.bos,
    stops: tokenizer?.stopIds(generation.eos) ?? generation.eos,
    sampling: {
      sample: generation.sample,
      temperature: generation.temperature,
      topK: generation.topK,
      topP: generation.topP,
      maxTokens: generation.maxNew,
    },
    chat: turnsOf(tokenizer, warn),
    tokenizer: file,
  };
  const licences = copied.map((f) => f.path).filter(isLicence);
  return { name: nameOf(dir), version, facts, text, licences };
}

function turnsOf(tokenizer: Tokenizer | undefined, warn: (message: string) => void): TextFacts["chat"] {
  if (!tokenizer) return { missing: "the checkpoint has no tokenizer.json" };
  if (!tokenizer.hasChat) return { missing: "the checkpoint has no chat template" };
  try {
    return compileTemplate((messages, addGenerationPrompt) =>
      tokenizer.chat(messages, { addGenerationPrompt }),
    );
  } catch (e) {
    if (!(e instanceof UserError)) throw e;
    warn(`${e.message}, so chat() is left out; generate() works`);
    return { missing: e.message };
  }
}

/** The checkpoint's folder or file; in the Hub's cache, the model's name. */
function nameOf(dir: string): string {
  const path = resolve(dir);
  return /models--[^/\\]+?--([^/\\]+)[/\\]snapshots[/\\]/.exec(path)?.[1] ?? basename(path, ".gguf");
}

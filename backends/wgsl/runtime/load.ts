import type { Gemma, LoadOptions } from "./api.ts";
import { GemmaError } from "./error.ts";
import { Model } from "./gemma.ts";
import type { FileFact, Program } from "./program.ts";
import { Runner } from "./runner.ts";
import { Tokenizer } from "./text/tokenizer.ts";
import { Files } from "./weights/files.ts";

export type { Gemma, LoadOptions, ModelInfo, Progress, Run, SampleOptions } from "./api.ts";
export { GemmaError } from "./error.ts";
export type { Message } from "./text/turns.ts";

/**
 * Loads the model from the folder at `url`, with the program that `fact` names. Weights go chunk by chunk to the GPU
 * while kernels compile. Throws GemmaError.
 */
export async function loadModel(
  url: string | URL,
  fact: FileFact,
  options: LoadOptions = {},
): Promise<Gemma> {
  const base = new URL(url, globalThis.location?.href);
  // A folder is meant, with or without a slash at its end.
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  const files = new Files(base, options.signal);
  const program: Program = JSON.parse(await files.text(fact));
  if (program.format !== "gemmac-program/1")
    throw new GemmaError(
      "corrupt",
      `program.json has the format ${program.format}`,
      "copy the artifact again",
    );
  const words = program.text.tokenizer;
  const [runner, tokenizer] = await Promise.all([
    Runner.start(program, base, options),
    words && files.text(words).then((text) => new Tokenizer(JSON.parse(text))),
  ]);
  return new Model(program, runner, tokenizer ?? undefined);
}

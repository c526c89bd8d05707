import type { ModelFacts, Session } from "../backend.ts";
import { talk } from "../c/session.ts";
import { build, buildForProcessor } from "./build.ts";

export interface OpenOptions {
  readonly facts: ModelFacts;
  /** Origins of values to hand out with each step. */
  readonly watch?: Readonly<Record<string, string>>;
  /** Run the kernels on the processor, where there is no GPU. */
  readonly processor?: boolean;
}

/**
 * Builds the artifact in `dir` and talks to its program, on this machine's GPU, or on the processor where `processor` or
 * GEMMAC_CUDA=processor says so. Throws UserError when there is no compiler or no GPU, or the program refuses.
 */
export async function openSession(
  dir: string,
  { facts, watch = {}, processor = process.env.GEMMAC_CUDA === "processor" }: OpenOptions,
): Promise<Session> {
  const trace = Object.keys(watch).length > 0;
  const program = await (processor ? buildForProcessor : build)(dir, { trace });
  return talk(program, dir, { facts, watch });
}

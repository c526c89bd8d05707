import { access, constants } from "node:fs/promises";
import { dirname } from "node:path";
import { CommanderError } from "commander";
import { type Trouble, UserError } from "../../ir/error.ts";
import { PassError } from "../../passes/pipeline.ts";
import { TypeScriptError } from "../plugin/typescript.ts";
import { plain, printJson } from "./terminal.ts";

type Outcome = Trouble | "done" | "bug" | "interrupted";

/** What the process says with its exit code. */
export const exitCodes = {
  done: 0,
  bug: 1,
  usage: 2,
  input: 3,
  verify: 4,
  environment: 5,
  interrupted: 130,
} as const satisfies Record<Outcome, number>;

/** The part of `gemmac --help` that documents them. */
export const exitCodeHelp = `Exit codes:
  0    done
  1    a bug in gemmac
  2    wrong usage
  3    bad input: the checkpoint, artifact or text
  4    verification failed
  5    environment: missing runtime, full disk, permissions
  130  interrupted`;

/** The user pressed Ctrl-C. */
class Interrupted extends Error {}

/**
 * Run `work` with a signal that Ctrl-C aborts. Throws Interrupted when it did, however `work` ended. Pressed
 * again, Ctrl-C ends the process at once.
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const stop = () => controller.abort(new Interrupted());
  for (const name of ["SIGINT", "SIGTERM"]) process.once(name, stop);
  try {
    const result = await work(controller.signal);
    controller.signal.throwIfAborted();
    return result;
  } catch (error) {
    throw controller.signal.aborted ? controller.signal.reason : error;
  } finally {
    for (const name of ["SIGINT", "SIGTERM"]) process.off(name, stop);
  }
}

/**
 * `work`, which writes `path`: a system error that names no path, such as a full disk's, or a temporary one gets
 * this one.
 */
export async function naming<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (isSystemError(error) && (!error.path || error.path.includes(".partial"))) error.path = path;
    throw error;
  }
}

/**
 * Find out before the work, not after, whether `path` can be made: its folder, or with `parents` the nearest one
 * there is, must be writable. Throws the system's error.
 */
export async function checkWritable(path: string, parents: boolean): Promise<void> {
  const folder = dirname(path);
  try {
    await access(folder, constants.W_OK);
  } catch (error) {
    if (!(parents && folder !== path && isSystemError(error) && error.code === "ENOENT")) throw error;
    await checkWritable(folder, parents);
  }
}

const isSystemError = (error: unknown): error is NodeJS.ErrnoException =>
  error instanceof Error && "syscall" in error && "code" in error;

/** Whether the reader of our output went away, as `head` does. That is no error. */
export const isBrokenPipe = (error: unknown): boolean => isSystemError(error) && error.code === "EPIPE";

const system: Readonly<Record<string, readonly [Trouble, string, string]>> = {
  ENOSPC: ["environment", "the disk is full", "free some space or write elsewhere"],
  EDQUOT: ["environment", "the disk quota is used up", "free some space or write elsewhere"],
  EACCES: ["environment", "permission denied", "check its permissions"],
  EPERM: ["environment", "permission denied", "check its permissions"],
  EROFS: ["environment", "the file system is read-only", "write elsewhere"],
  EMFILE: ["environment", "too many files are open", "raise the limit with `ulimit -n`"],
  ENFILE: ["environment", "too many files are open", "close other programs"],
  ENOENT: ["input", "there is no such file or folder", "check the path"],
  ENOTDIR: ["input", "a part of this path is not a folder", "check the path"],
  ENAMETOOLONG: ["input", "the name is too long", "use a shorter one"],
  ELOOP: ["input", "its links lead in a circle", "check the path"],
  EISDIR: ["input", "is a folder, not a file", "check the path"],
};

/**
 * What to tell of a pass that failed, and of where the graph before it is `saved`, if it is. One that was asked for is its
 * author's to mend; one of gemmac's own pipeline has no excuse, unless it refuses what it is given.
 */
export function blame(
  { pass, cause, message }: PassError,
  asked: readonly { readonly name: string }[],
  saved = "",
): Error {
  const told = (text: string) => [text, saved].filter(Boolean).join("; ");
  if (cause instanceof UserError) return new UserError(cause.trouble, message, told(cause.next), { cause });
  return asked.some(({ name }) => name === pass)
    ? new UserError("input", message, saved || "mend the pass, or give it other options", { cause })
    : new Error(told(message), { cause });
}

/** Does `work`, which runs passes, some of them `asked` for. */
export async function blaming<T>(
  asked: readonly { readonly name: string }[],
  work: () => T | Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw error instanceof PassError ? blame(error, asked) : error;
  }
}

interface Explanation {
  readonly kind: Outcome;
  readonly message: string;
  readonly next: string;
}

function explain(error: unknown, command: string | undefined): Explanation {
  if (error instanceof UserError) return { kind: error.trouble, message: error.message, next: error.next };
  if (error instanceof PassError) return explain(blame(error, []), command);
  if (error instanceof Interrupted) return { kind: "interrupted", message: "interrupted", next: "" };
  if (error instanceof CommanderError) {
    const message = error.message.replace(/^error: /, "").replace(/\.$/, "");
    return { kind: "usage", message, next: `see ${["gemmac", command, "--help"].filter(Boolean).join(" ")}` };
  }
  const known = isSystemError(error) ? system[error.code ?? ""] : undefined;
  if (known && isSystemError(error)) {
    const [kind, what, next] = known;
    return { kind, message: `${error.path ?? "the output"}: ${what}`, next };
  }
  if (error instanceof RangeError && /allocation failed|typed array length/i.test(error.message))
    return { kind: "environment", message: "not enough memory", next: "use a machine with more" };
  const message = error instanceof Error ? error.message : String(error);
  return { kind: "bug", message, next: "this is a bug in gemmac, please report it" };
}

/** Help and version are printed by throwing, too. */
const isAnswer = (error: unknown): boolean => error instanceof CommanderError && error.exitCode === 0;
/** `gemmac` alone: commander has already printed the help. */
const isHelp = (error: unknown): boolean =>
  error instanceof CommanderError && error.code === "commander.help";

/** Tell the user what went wrong, on one line of stderr; type errors follow it. Returns the exit code. */
export function report(error: unknown, command: string | undefined, json: boolean): number {
  if (isAnswer(error)) return exitCodes.done;
  if (isHelp(error)) return exitCodes.usage;
  const { kind, message, next } = explain(error, command);
  // A message may quote several lines, such as a line of IR.
  const line = plain(message.replace(/\s*\n\s*/g, ": "));
  process.stderr.write(`gemmac: ${[line, next].filter(Boolean).join("; ")}\n`);
  const details = error instanceof TypeScriptError ? error.details.trimEnd() : undefined;
  if (details) process.stderr.write(`\n${details.split("\n").map(plain).join("\n")}\n`);
  if (process.env.GEMMAC_DEBUG === "1" && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  const exitCode = exitCodes[kind];
  if (json) printJson({ error: { kind, message: line, next, exitCode, ...(details && { details }) } });
  return exitCode;
}

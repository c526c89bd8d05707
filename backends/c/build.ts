import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, readFile, rename, stat } from "node:fs/promises";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { UserError } from "../../ir/error.ts";

const run = promisify(execFile);

/** How to build: fast code, or code that is built fast or checked. */
export interface BuildOptions {
  /** Whether named values are handed out as they are computed. */
  readonly trace?: boolean;
  /** In the place of what GEMMAC_CFLAGS says, or of -O3. */
  readonly optimize?: readonly string[];
}

const common = ["-std=c11", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-pthread"];

/** The C compiler to use, from CC or cc; undefined when there is none. */
export async function compiler(): Promise<string | undefined> {
  const name = process.env.CC || "cc";
  return run(name, ["--version"]).then(
    () => name,
    () => undefined,
  );
}

/**
 * Builds the program of the artifact in `dir` and gives its path. What was built before from the same sources is used
 * again. Throws UserError when there is no compiler, or the sources do not build.
 */
export async function build(
  dir: string,
  { trace = false, optimize = (process.env.GEMMAC_CFLAGS ?? "-O3").split(" ") }: BuildOptions = {},
): Promise<string> {
  const cc = await compiler();
  if (!cc)
    throw new UserError(
      "environment",
      "running a C artifact needs a C compiler, and there is no cc",
      "install gcc or clang, or name one in CC",
    );
  const flags = [...common, ...optimize, ...(trace ? ["-DGEMMA_TRACE"] : [])];
  const sources = ["gemma.c", "main.c", "gemma.h", "tokenizer.h"];
  const hash = createHash("sha256").update(JSON.stringify([cc, flags]));
  for (const name of sources) hash.update(await readFile(join(dir, name)));
  const cache = join(tmpdir(), `gemmac-c-${userInfo().uid}`);
  await mkdir(cache, { recursive: true, mode: 0o700 });
  const program = join(cache, hash.digest("hex").slice(0, 32));
  if (await stat(program).catch(() => undefined)) return program;
  const partial = `${program}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  try {
    await run(cc, [...flags, "-o", partial, join(dir, "gemma.c"), join(dir, "main.c"), "-lm"]);
  } catch (cause) {
    const said = String((cause as { stderr?: unknown }).stderr ?? cause);
    const line = said.split("\n").find((l) => /error/.test(l)) ?? said.split("\n")[0];
    throw new UserError("input", `${dir}: ${cc} cannot build it: ${line}`, "compile the checkpoint again", {
      cause,
    });
  }
  await rename(partial, program);
  return program;
}

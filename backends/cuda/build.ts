import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rename, stat } from "node:fs/promises";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { UserError } from "../../ir/error.ts";

const run = promisify(execFile);

/** How to build: for which use, with what compiler flags. */
export interface BuildOptions {
  /** Whether named values are handed out as they are computed. */
  readonly trace?: boolean;
  /** In the place of -O1, on the processor. */
  readonly optimize?: readonly string[];
}

const answers = (program: string, ...args: string[]): Promise<boolean> =>
  run(program, args).then(
    () => true,
    () => false,
  );
const nvcc = () => process.env.NVCC || "nvcc";

/** Why no CUDA program can be built and run here, in words; undefined when one can. */
export async function gpuMissing(): Promise<string | undefined> {
  if (!(await answers(nvcc(), "--version"))) return "there is no nvcc";
  return (await answers("nvidia-smi", "-L")) ? undefined : "there is no NVIDIA GPU";
}

/** Builds the program of the artifact in `dir` for this machine's GPU and gives its path. Throws UserError. */
export async function build(dir: string, { trace = false }: BuildOptions = {}): Promise<string> {
  const missing = await gpuMissing();
  if (missing)
    throw new UserError(
      "environment",
      `running a CUDA artifact needs nvcc and an NVIDIA GPU, and ${missing}`,
      "run it on a machine with both, or set GEMMAC_CUDA=processor to run its kernels on the processor, slowly",
    );
  const flags = ["-std=c++17", "-O3", "-arch=native", ...(trace ? ["-DGEMMA_TRACE"] : [])];
  return built(dir, nvcc(), flags, []);
}

/** The C++ compiler that stands in for nvcc; undefined when there is none. */
export async function emulated(): Promise<string | undefined> {
  const name = process.env.CXX || "c++";
  return (await answers(name, "--version")) ? name : undefined;
}

/** Builds the same sources for the processor, with its threads as fibers: to see what they compute. Throws UserError. */
export async function buildForProcessor(
  dir: string,
  { trace = false, optimize = ["-O1"] }: BuildOptions = {},
): Promise<string> {
  const cxx = await emulated();
  if (!cxx)
    throw new UserError(
      "environment",
      "running CUDA on the processor needs a C++ compiler, and there is no c++",
      "install g++ or clang++, or name one in CXX",
    );
  const include = fileURLToPath(new URL("./processor", import.meta.url));
  const flags = [
    ...[
      "-std=c++17",
      "-w",
      "-ffp-contract=off",
      "-fno-strict-aliasing",
      "-U_FORTIFY_SOURCE",
      "-DGEMMA_MAPPED_WEIGHTS",
      "-DGEMMA_TUNE_STEPS=1",
    ],
    ...optimize,
    ...(trace ? ["-DGEMMA_TRACE"] : []),
    `-I${include}`,
  ];
  return built(dir, cxx, flags, ["-x", "c++"], include);
}

/** Runs the compiler, unless it built the same before. */
async function built(
  dir: string,
  compiler: string,
  flags: readonly string[],
  language: readonly string[],
  headers?: string,
): Promise<string> {
  const own = (await readdir(dir)).filter((name) => /\.(cuh?|h)$/.test(name)).sort();
  const hash = createHash("sha256").update(JSON.stringify([compiler, flags]));
  for (const name of own) hash.update(await readFile(join(dir, name)));
  if (headers)
    for (const name of (await readdir(headers)).sort()) hash.update(await readFile(join(headers, name)));
  const cache = join(tmpdir(), `gemmac-cuda-${userInfo().uid}`);
  await mkdir(cache, { recursive: true, mode: 0o700 });
  const program = join(cache, hash.digest("hex").slice(0, 32));
  if (await stat(program).catch(() => undefined)) return program;
  const partial = `${program}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  try {
    const files = [...language, join(dir, "gemma.cu"), join(dir, "main.cu")];
    await run(compiler, [...flags, "-o", partial, ...files], { maxBuffer: 1 << 26 });
  } catch (cause) {
    const said = String((cause as { stderr?: unknown }).stderr ?? cause);
    const line = said.split("\n").find((l) => /error/.test(l)) ?? said.split("\n")[0];
    throw new UserError(
      "input",
      `${dir}: ${compiler} cannot build it: ${line}`,
      "compile the checkpoint again",
      {
        cause,
      },
    );
  }
  await rename(partial, program);
  return program;
}

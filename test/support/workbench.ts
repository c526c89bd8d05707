import { spawn } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const root = join(import.meta.dirname, "../..");
export const binary = join(root, "dist/src/cli/main.js");
const address = (path: string) => pathToFileURL(join(root, "dist/src", path)).href;
/** The built library's address in quotes, for scripts that run outside of the tests. */
export const library = JSON.stringify(address("index.js"));
/** The built library in this process: the one that passes written by users see. */
export const built: typeof import("../../src/index.ts") = await import(address("index.js"));
export const tiny = join(root, "test/data/models/gemma1-mqa");

export interface Done {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Starts node in `dir`: the process, and what it will have written when it is done. */
export function start(dir: string, args: readonly string[], input = "") {
  const child = spawn(process.execPath, args, { cwd: dir });
  let [out, err] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text) => void (out += text));
  child.stderr.setEncoding("utf8").on("data", (text) => void (err += text));
  child.stdin.end(input);
  const done = new Promise<Done>((resolve) => child.on("close", (code) => resolve({ code, out, err })));
  return { child, done };
}

/**
 * Runs the built command line in this process, which saves it half a second of start each time; a test of the
 * process itself, its pipes and signals, starts `binary`.
 */
export async function gemmac(dir: string, args: readonly string[]): Promise<Done> {
  const { main } = await import(address("cli/program.js"));
  const [stdout, stderr] = [process.stdout.write, process.stderr.write];
  let [out, err] = ["", ""];
  const into = (take: (text: string) => void) => (text: string | Uint8Array) => {
    take(String(text));
    return true;
  };
  process.stdout.write = into((text) => void (out += text));
  process.stderr.write = into((text) => void (err += text));
  try {
    await inside(dir, () => main(args));
    return { code: Number(process.exitCode ?? 0), out, err };
  } finally {
    process.exitCode = undefined;
    [process.stdout.write, process.stderr.write] = [stdout, stderr];
  }
}

async function inside<T>(dir: string, work: () => Promise<T>): Promise<T> {
  const from = process.cwd();
  process.chdir(dir);
  try {
    return await work();
  } finally {
    process.chdir(from);
  }
}

/** A folder of its own, in which the built command line and scripts run. */
export class Workbench {
  readonly dir: string;
  private constructor(dir: string) {
    this.dir = dir;
  }
  static async make(): Promise<Workbench> {
    return new Workbench(await mkdtemp(join(tmpdir(), "gemmac-bench-")));
  }
  remove(): Promise<void> {
    return rm(this.dir, { recursive: true });
  }
  path(...parts: string[]): string {
    return join(this.dir, ...parts);
  }

  /** Put files into the folder. */
  async write(files: Readonly<Record<string, string>>): Promise<void> {
    for (const [name, text] of Object.entries(files)) {
      await mkdir(this.path(dirname(name)), { recursive: true });
      await writeFile(this.path(name), text);
    }
  }

  /** Does `work`, which may use `built`, with the folder as the current one. */
  inside<T>(work: () => Promise<T>): Promise<T> {
    return inside(this.dir, work);
  }
  /** Runs a script in a process of its own. */
  script(text: string): Promise<Done> {
    return start(this.dir, ["--input-type=module", "-e", text]).done;
  }
  gemmac(...args: string[]): Promise<Done> {
    return gemmac(this.dir, args);
  }
  /** Compiles the tiny checkpoint. */
  compile(name: string, ...args: string[]): Promise<Done> {
    return this.gemmac("compile", tiny, "--target", "onnx", "--out", name, ...args);
  }
}

import { spawn } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const root = join(import.meta.dirname, "../..");
export const binary = join(root, "dist/src/cli/main.js");
/** The built library, for scripts that run outside of the tests. */
export const library = JSON.stringify(pathToFileURL(join(root, "dist/src/index.js")).href);
export const tiny = join(root, "test/data/models/gemma1-mqa");

export interface Done {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/**
 * Runs the built command line in this process, which saves it half a second of start each time; a test of the
 * process itself, its pipes and signals, starts `binary`.
 */
export async function gemmac(dir: string, args: readonly string[]): Promise<Done> {
  const { main } = await import(pathToFileURL(join(root, "dist/src/cli/program.js")).href);
  const from = process.cwd();
  const [stdout, stderr] = [process.stdout.write, process.stderr.write];
  let [out, err] = ["", ""];
  process.stdout.write = (text: string | Uint8Array) => ((out += text), true);
  process.stderr.write = (text: string | Uint8Array) => ((err += text), true);
  process.chdir(dir);
  try {
    await main(args);
    return { code: Number(process.exitCode ?? 0), out, err };
  } finally {
    process.chdir(from);
    process.exitCode = undefined;
    [process.stdout.write, process.stderr.write] = [stdout, stderr];
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

  /** Runs a script in a process of its own. */
  script(text: string): Promise<Done> {
    const child = spawn(process.execPath, ["--input-type=module", "-e", text], { cwd: this.dir });
    let [out, err] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (text) => void (out += text));
    child.stderr.setEncoding("utf8").on("data", (text) => void (err += text));
    return new Promise((resolve) => child.on("close", (code) => resolve({ code, out, err })));
  }
  gemmac(...args: string[]): Promise<Done> {
    return gemmac(this.dir, args);
  }
  /** Compiles the tiny checkpoint. */
  compile(name: string, ...args: string[]): Promise<Done> {
    return this.gemmac("compile", tiny, "--target", "onnx", "--out", name, ...args);
  }
}

import { spawn } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const root = join(import.meta.dirname, "../..");
const binary = join(root, "dist/src/cli/main.js");
/** The built library, for scripts that run outside of the tests. */
export const library = JSON.stringify(pathToFileURL(join(root, "dist/src/index.js")).href);
export const tiny = join(root, "test/data/models/gemma1-mqa");

export interface Done {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
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

  node(...args: string[]): Promise<Done> {
    const child = spawn(process.execPath, args, { cwd: this.dir });
    let [out, err] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (text) => void (out += text));
    child.stderr.setEncoding("utf8").on("data", (text) => void (err += text));
    return new Promise((resolve) => child.on("close", (code) => resolve({ code, out, err })));
  }
  script(text: string): Promise<Done> {
    return this.node("--input-type=module", "-e", text);
  }
  gemmac(...args: string[]): Promise<Done> {
    return this.node(binary, ...args);
  }
  /** Compiles the tiny checkpoint. */
  compile(name: string, ...args: string[]): Promise<Done> {
    return this.gemmac("compile", tiny, "--target", "onnx", "--out", name, ...args);
  }
}

import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { UserError } from "../../ir/error.ts";
import type { ModelFacts, Session, Step } from "../backend.ts";
import { type BuildOptions, build } from "./build.ts";
import { weightsFile } from "./weights.ts";

export interface OpenOptions {
  readonly facts: ModelFacts;
  /** Origins of values to hand out with each step. */
  readonly watch?: Readonly<Record<string, string>>;
  readonly optimize?: BuildOptions["optimize"];
  readonly threads?: number;
}

/** Tags of the frames that `serve` in runtime/main.c writes. */
const [traced, scores, failed] = [1, 2, 3];

/** Builds the artifact in `dir` and talks to its program. Throws UserError when there is no compiler or it refuses. */
export async function openSession(
  dir: string,
  { facts, watch = {}, optimize, threads }: OpenOptions,
): Promise<Session> {
  const trace = Object.keys(watch).length > 0;
  const program = await build(dir, { trace, ...(optimize && { optimize }) });
  return talk(program, dir, { facts, watch }, threads ? ["--threads", String(threads)] : []);
}

/** A session with the program of the artifact in `dir`, built from runtime/main.c. */
export function talk(
  program: string,
  dir: string,
  { facts, watch = {} }: Pick<OpenOptions, "facts" | "watch">,
  given: readonly string[] = [],
): Session {
  const names = new Set(Object.keys(watch));
  const options = ["--serve", "--weights", join(dir, weightsFile), ...given];
  const child = spawn(program, options, { stdio: ["pipe", "pipe", "pipe"] });
  const pipe = new Pipe(child, dir);
  return {
    facts,
    async append(ids, { last = false } = {}): Promise<Step> {
      pipe.send([ids.length, last ? 0 : 1, ...ids]);
      const watched = new Map<string, Part[]>();
      for (;;) {
        const [tag, a, b] = [...new Uint32Array((await pipe.read(12)).buffer)] as [number, number, number];
        if (tag === traced) {
          const [length = 0] = new Uint32Array((await pipe.read(4)).buffer);
          const name = new TextDecoder().decode(await pipe.read(length));
          const values = new Float32Array((await pipe.read(a * b * 4)).buffer);
          if (names.has(name)) watched.set(name, [...(watched.get(name) ?? []), { rows: a, values }]);
        } else if (tag === scores) {
          const logits = new Float32Array((await pipe.read(a * b * 4)).buffer);
          return {
            logits,
            watched: new Map([...watched].map(([k, parts]) => [k, joined(parts, ids.length)])),
          };
        } else if (tag === failed)
          throw new UserError("input", new TextDecoder().decode(await pipe.read(a)), "feed other tokens");
        else throw new Error(`${dir}: the program answers what it should not`);
      }
    },
    reset: () => pipe.send([0, 0]),
    async close() {
      child.stdin.end();
      if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    },
  };
}

/** Values of some of the tokens that were fed, a row for each of them, or for each head and of it for each token. */
interface Part {
  readonly rows: number;
  readonly values: Float32Array;
}

/** The parts of one value for all of `tokens`: heads stay in front where there are several. */
function joined(parts: readonly Part[], tokens: number): Float32Array {
  if (parts.length === 1) return (parts[0] as Part).values;
  const heads = parts.reduce((n, p) => n + p.rows, 0) / tokens;
  const pieces = Number.isInteger(heads) && heads > 0 ? heads : 1;
  const out = new Float32Array(parts.reduce((n, p) => n + p.values.length, 0));
  let at = 0;
  for (let h = 0; h < pieces; h++)
    for (const { values } of parts) {
      const each = values.length / pieces;
      out.set(values.subarray(h * each, (h + 1) * each), at);
      at += each;
    }
  return out;
}

/** Whole numbers in, bytes out. */
class Pipe {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #dir: string;
  readonly #chunks: Buffer[] = [];
  #held = 0;
  #said = "";
  #ended = false;
  #wake: () => void = () => {};

  constructor(child: ChildProcessWithoutNullStreams, dir: string) {
    this.#child = child;
    this.#dir = dir;
    child.stdout.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#held += chunk.length;
      this.#wake();
    });
    child.stderr.on("data", (chunk: Buffer) => {
      this.#said += chunk;
    });
    child.stdin.on("error", () => {}); // whoever reads hears of it
    child.on("error", () => this.#end());
    child.on("close", () => this.#end());
  }

  #end(): void {
    this.#ended = true;
    this.#wake();
  }

  send(words: readonly number[]): void {
    this.#child.stdin.write(Buffer.from(Int32Array.from(words).buffer));
  }

  async read(bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    while (this.#held < bytes && !this.#ended)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    if (this.#held < bytes) throw this.#trouble();
    const out = new Uint8Array(bytes);
    for (let at = 0; at < bytes; ) {
      const chunk = this.#chunks[0] as Buffer;
      const n = Math.min(chunk.length, bytes - at);
      out.set(chunk.subarray(0, n), at);
      at += n;
      if (n === chunk.length) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(n);
    }
    this.#held -= bytes;
    return out;
  }

  #trouble(): UserError {
    const said = this.#said
      .trim()
      .split("\n")[0]
      ?.replace(/^gemma: /, "");
    return new UserError(
      "input",
      said || `${this.#dir}: its program ended with ${this.#child.signalCode ?? this.#child.exitCode}`,
      "compile the checkpoint again",
    );
  }
}

import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { UserError } from "../../../ir/error.ts";
import type { DType } from "../../../ir/type.ts";
import { workerPy } from "./worker-py.ts";

/**
 * An argument of a call: a weight of the file, as it is or as the only one of several, or its first rows; several weights
 * that follow one another there; a value that an earlier call left; or a tensor given here.
 */
export type Arg =
  | { readonly weight: string; readonly shape: readonly number[]; readonly stack?: readonly string[] }
  | { readonly state: string }
  | { readonly zeros: readonly number[]; readonly dtype: DType }
  | { readonly dtype: DType; readonly shape: readonly number[]; readonly data: Uint8Array };

export const int32 = (shape: readonly number[], values: readonly number[]): Arg => ({
  dtype: "i32",
  shape,
  data: new Uint8Array(Int32Array.from(values).buffer),
});

export interface Call {
  readonly module: string;
  readonly args: readonly Arg[];
  /** Names under which results stay on the device; undefined for those that do not. */
  readonly keep?: readonly (string | undefined)[];
  /** Results to hand back, by number, as f32. */
  readonly fetch: readonly number[];
}

/** The Python that is asked for JAX: GEMMAC_PYTHON, or the first on the path. */
const python = (): string => process.env.GEMMAC_PYTHON || "python3";

/** A Python process that runs modules in XLA, by JAX. Close it when done. */
export class Worker {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #chunks: Buffer[] = [];
  #length = 0;
  #wake: () => void = () => {};
  #over = false;
  #complaints = "";
  #last: Promise<unknown> = Promise.resolve();

  private constructor(child: ChildProcessWithoutNullStreams) {
    this.#child = child;
    child.stdout.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#length += chunk.length;
      this.#wake();
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#complaints = (this.#complaints + text).slice(-4000);
    });
    const end = () => {
      this.#over = true;
      this.#wake();
    };
    child.on("error", end);
    child.on("close", end);
    child.stdin.on("error", () => {}); // its end is told of by "close"
  }

  /** Throws UserError when there is no Python with JAX. */
  static async start(): Promise<Worker> {
    const worker = new Worker(spawn(python(), ["-c", workerPy], { stdio: "pipe" }));
    try {
      await worker.#ask({ do: "hello" });
    } catch (cause) {
      await worker.close();
      const why = worker.#complaints.trim().split("\n").at(-1) || `${python()} does not start`;
      throw new UserError(
        "environment",
        `running StableHLO needs Python with JAX: ${why}`,
        "pip install jax flatbuffers, and name that Python in GEMMAC_PYTHON if it is not python3",
        { cause },
      );
    }
    return worker;
  }

  /** The file that `weight` arguments are read from. */
  async weights(path: string): Promise<void> {
    await this.#ask({ do: "weights", path });
  }

  /** Makes a module known under a name; the arguments of these numbers are given up by each call. */
  async module(name: string, blob: Uint8Array, donate: readonly number[] = []): Promise<void> {
    await this.#ask({ do: "module", name, donate }, [blob]);
  }

  async run({ module, args, keep = [], fetch }: Call): Promise<Float32Array[]> {
    const payload = args.flatMap((a) => ("data" in a ? [a.data] : []));
    const plain = args.map((a) => ("data" in a ? { dtype: a.dtype, shape: a.shape } : a));
    const named = keep.map((name) => name ?? null);
    const { header, body } = await this.#ask(
      { do: "run", name: module, args: plain, keep: named, fetch },
      payload,
    );
    let at = body.byteOffset;
    return (header.sizes as number[]).map((n) => {
      const result = new Float32Array(body.buffer, at, n);
      at += result.byteLength;
      return result;
    });
  }

  /** Forget what calls left. */
  async clear(): Promise<void> {
    await this.#ask({ do: "clear" });
  }

  async close(): Promise<void> {
    this.#child.stdin.end();
    if (!this.#over) await new Promise<void>((resolve) => (this.#wake = () => this.#over && resolve()));
  }

  #ask(request: object, payload: readonly Uint8Array[] = []) {
    const turn = this.#last.then(() => this.#exchange(request, payload));
    this.#last = turn.catch(() => {});
    return turn;
  }

  async #exchange(request: object, payload: readonly Uint8Array[]) {
    const bytes = payload.reduce((n, p) => n + p.length, 0);
    const header = Buffer.from(JSON.stringify({ ...request, bytes }));
    const length = Buffer.alloc(4);
    length.writeUInt32LE(header.length);
    this.#child.stdin.write(Buffer.concat([length, header, ...payload]));
    const answer = JSON.parse((await this.#take((await this.#take(4)).readUInt32LE(0))).toString("utf8"));
    const body = await this.#take(Number(answer.bytes ?? 0));
    if (typeof answer.error === "string") throw new Error(answer.error);
    return { header: answer as Readonly<Record<string, unknown>>, body };
  }

  async #take(n: number): Promise<Buffer> {
    while (this.#length < n) {
      if (this.#over)
        throw new Error(`Python ended: ${this.#complaints.trim().split("\n").slice(-3).join(" ")}`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const all = Buffer.concat(this.#chunks.splice(0));
    const rest = all.subarray(n);
    if (rest.length) this.#chunks.push(rest);
    this.#length = rest.length;
    // A copy lies at an address that floats may have.
    return Buffer.from(new Uint8Array(all.subarray(0, n)).buffer);
  }
}

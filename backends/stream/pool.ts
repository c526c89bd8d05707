import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { type Codes, type CodesJob, encodeRows } from "./codes.ts";

interface Pending {
  readonly resolve: (done: Codes) => void;
  readonly reject: (cause: unknown) => void;
}

/**
 * Threads that quantize. Run from TypeScript sources, which Node cannot load into a thread, it works on this one.
 * Close it when done.
 */
export class CodesPool {
  readonly #workers: Worker[] = [];
  readonly #pending = new Map<number, Pending>();
  #next = 0;

  /** How many jobs to keep under way. */
  readonly width: number = Math.max(2, Math.min(8, availableParallelism()));

  run(job: CodesJob): Promise<Codes> {
    if (import.meta.url.endsWith(".ts")) return Promise.resolve(encodeRows(job));
    if (this.#workers.length < this.width) this.#start();
    const id = this.#next++;
    const worker = this.#workers[id % this.#workers.length] as Worker;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      worker.postMessage({ id, job }, [job.bytes.buffer as ArrayBuffer]);
    });
  }

  #start(): void {
    // Flags of the process, such as --input-type, are not for a file.
    const worker = new Worker(new URL("./worker.js", import.meta.url), { execArgv: [] });
    worker.on("message", ({ id, done }: { id: number; done: Codes }) => {
      this.#pending.get(id)?.resolve(done);
      this.#pending.delete(id);
    });
    worker.on("error", (cause) => {
      for (const { reject } of this.#pending.values()) reject(cause);
      this.#pending.clear();
    });
    this.#workers.push(worker);
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.splice(0).map((w) => w.terminate()));
  }
}

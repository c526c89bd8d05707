import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { Workbench } from "./simd/index.ts";

interface Pending<Done> {
  readonly resolve: (done: Done) => void;
  readonly reject: (cause: unknown) => void;
}

/** One kind of work that threads do. */
export interface Work<Job, Done> {
  /** The module of a thread, which gets the workbench's memory: it answers `{ id, job }` with `{ id, done }`. */
  readonly thread: URL;
  /** The same on this thread. */
  readonly here: (bench: Workbench, job: Job) => Done;
  /** Where the data of jobs lie. */
  readonly bench: Workbench;
}

/**
 * Threads for one kind of work. Run from TypeScript sources, which Node cannot load into a thread, it works on this one.
 * Close it when done.
 */
export class Pool<Job, Done> {
  readonly #work: Work<Job, Done>;
  readonly #workers: Worker[] = [];
  readonly #pending = new Map<number, Pending<Done>>();
  #next = 0;

  /** How many jobs to keep under way. */
  readonly width: number = Math.max(2, Math.min(8, availableParallelism()));

  constructor(work: Work<Job, Done>) {
    this.#work = work;
  }

  run(job: Job): Promise<Done> {
    if (import.meta.url.endsWith(".ts")) return Promise.resolve(this.#work.here(this.#work.bench, job));
    if (this.#workers.length < this.width) this.#start();
    const id = this.#next++;
    const worker = this.#workers[id % this.#workers.length] as Worker;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      worker.postMessage({ id, job });
    });
  }

  #start(): void {
    // Flags of the process, such as --input-type, are not for a file.
    const worker = new Worker(this.#work.thread, { execArgv: [], workerData: this.#work.bench.memory });
    worker.on("message", ({ id, done }: { id: number; done: Done }) => {
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

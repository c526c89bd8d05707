import type { Progress } from "../api.ts";
import type { ChunkFile, Program } from "../program.ts";
import type { Files } from "./files.ts";
import { room, type Store } from "./store.ts";

/** Downloads at a time: enough to keep a line busy, few enough to keep memory small. */
const lanes = 3;

/** Where weights go. */
export type Place = (weight: number, offset: number, bytes: Uint8Array<ArrayBuffer>) => void;

export interface StreamOptions {
  readonly files: Files;
  readonly store: Store | undefined;
  readonly place: Place;
  readonly progress: (progress: Omit<Progress, "stage">) => void;
  readonly notice: (message: string) => void;
}

/**
 * Brings every chunk from the browser's storage, or else from the server, checks it, and hands its parts on. Memory
 * holds a few chunks at most. Throws GemmaError; what was checked before stays in the store.
 */
export async function streamWeights(program: Program, options: StreamOptions): Promise<void> {
  const { files, store, place, notice } = options;
  const total = program.chunks.reduce((sum, c) => sum + c.bytes, 0);
  const clock = new Clock(total, options.progress);
  let keeping = store;
  const free = store && (await room());
  if (free !== undefined && free < total)
    notice(
      `the browser gives this site room for ${megabytes(free)} where the weights take ${megabytes(total)}: part of them will be fetched again at the next visit`,
    );
  const one = async (chunk: ChunkFile) => {
    const held = await store?.get(chunk);
    if (held) clock.cached(held.length);
    const bytes = held ?? (await files.read(chunk, (n) => clock.arrived(n)));
    let at = 0;
    for (const part of chunk.parts) {
      place(part.weight, part.offset, bytes.subarray(at, at + part.bytes));
      at += part.bytes;
    }
    if (held || !keeping) return;
    const why = await keeping.put(chunk, bytes);
    if (why === undefined || !keeping) return;
    keeping = undefined;
    notice(`the browser does not keep the weights (${why}): they will be fetched again at the next visit`);
  };
  const queue = [...program.chunks];
  const lane = async () => {
    for (let chunk = queue.shift(); chunk; chunk = queue.shift()) await one(chunk);
  };
  const running = Array.from({ length: lanes }, lane);
  try {
    await Promise.all(running);
  } finally {
    queue.length = 0;
    await Promise.allSettled(running);
  }
  await store?.keepOnly(program.chunks);
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;

/** Counts bytes and estimates the time left, from the rate of what came over the line. */
class Clock {
  readonly #total: number;
  readonly #tell: StreamOptions["progress"];
  readonly #start = performance.now();
  #cached = 0;
  #fetched = 0;

  constructor(total: number, tell: StreamOptions["progress"]) {
    this.#total = total;
    this.#tell = tell;
  }

  cached(bytes: number): void {
    this.#cached += bytes;
    this.#report();
  }

  arrived(bytes: number): void {
    this.#fetched += bytes;
    this.#report();
  }

  #report(): void {
    const done = this.#cached + this.#fetched;
    const rate = this.#fetched / ((performance.now() - this.#start) / 1000);
    const secondsLeft = rate > 0 ? (this.#total - done) / rate : undefined;
    this.#tell({ done, total: this.#total, cached: this.#cached, secondsLeft });
  }
}

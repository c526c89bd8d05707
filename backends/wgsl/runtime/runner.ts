import type { LoadOptions, Progress } from "./api.ts";
import { GemmaError } from "./error.ts";
import { concatenated } from "./floats.ts";
import { acquire } from "./gpu/device.ts";
import { type Draw, Engine, type Ran } from "./gpu/engine.ts";
import { pipelines } from "./gpu/pipelines.ts";
import type { Program } from "./program.ts";
import { Files } from "./weights/files.ts";
import { Store } from "./weights/store.ts";
import { streamWeights } from "./weights/stream.ts";

/** Times a lost device is asked for again before giving up on a token. */
const revivals = 3;

/** What is on one device, until that is lost. */
interface Alive {
  readonly engine: Engine;
  readonly device: string;
  /** Why the device was lost, once it was. */
  lost: string | undefined;
}

/** Feeds tokens to the model, and remembers them: when the device is lost, it is set up again and they are fed anew. */
export class Runner {
  readonly #program: Program;
  readonly #base: URL;
  readonly #options: LoadOptions;
  #alive: Alive;
  #log: number[] = [];
  #disposed = false;

  private constructor(program: Program, base: URL, options: LoadOptions, alive: Alive) {
    this.#program = program;
    this.#base = base;
    this.#options = options;
    this.#alive = alive;
  }

  /** Sets the program up on a device. Throws GemmaError. */
  static async start(program: Program, base: URL, options: LoadOptions): Promise<Runner> {
    return new Runner(program, base, options, await setUp(program, base, options));
  }

  get device(): string {
    return this.#alive.device;
  }

  /** The part of `ids` that is yet to be fed; at least one, because the scores are of the last. */
  unread(ids: readonly number[]): readonly number[] {
    return ids.slice(this.#common(ids));
  }

  /** The scores after exactly these tokens. What was fed before is not fed again. */
  async feed(ids: readonly number[]): Promise<Ran> {
    this.rewind(this.#common(ids));
    return this.append(ids.slice(this.#log.length));
  }

  /** The token that follows exactly these, drawn on the GPU. */
  async draw(ids: readonly number[], how: Draw): Promise<number> {
    this.rewind(this.#common(ids));
    return this.#append(ids.slice(this.#log.length), async (engine, unfed) => {
      const last = unfed.length - 1 - ((unfed.length - 1) % engine.longest);
      if (last > 0) await fed(engine, unfed.slice(0, last));
      return engine.draw(unfed.slice(last), how);
    });
  }

  /** Feeds tokens after those before. */
  append(ids: readonly number[]): Promise<Ran> {
    return this.#append(ids, fed);
  }

  async #append<R>(
    ids: readonly number[],
    work: (engine: Engine, unfed: readonly number[]) => Promise<R>,
  ): Promise<R> {
    this.#log.push(...ids);
    for (let n = 0; ; n++) {
      if (this.#disposed) throw new GemmaError("usage", "the model was disposed of", "load it again");
      const { engine } = this.#alive;
      try {
        return await work(engine, this.#log.slice(engine.fed));
      } catch (e) {
        // A lost device makes calls fail a moment before it says that it is lost.
        await new Promise((done) => setTimeout(done, 50));
        const { lost } = this.#alive;
        if (lost === undefined || this.#disposed) {
          this.#log.length = engine.fed;
          throw e;
        }
        if (n === revivals)
          throw new GemmaError(
            "device",
            `the GPU was lost ${n + 1} times in a row: ${lost}`,
            "close other pages that use the GPU, then reload; a smaller model may fit better",
          );
        this.#options.onNotice?.(`the GPU was lost (${lost}); setting the model up again`);
        this.#alive = await setUp(this.#program, this.#base, this.#options);
      }
    }
  }

  /** Forgets the tokens fed after the first `keep`. What the device must see again for that is fed with the next ones. */
  rewind(keep: number): void {
    this.#log.length = keep;
    this.#alive.engine.rewind(keep);
  }

  dispose(): void {
    this.#disposed = true;
    this.#alive.engine.destroy();
  }

  /** How many tokens at the beginning of `ids` are in the caches; never all of them. */
  #common(ids: readonly number[]): number {
    const { fed } = this.#alive.engine;
    let n = 0;
    while (n < fed && n < ids.length - 1 && ids[n] === this.#log[n]) n++;
    return n;
  }
}

/** Feeds tokens in pieces that the program takes, and joins what comes out. */
async function fed(engine: Engine, ids: readonly number[]): Promise<Ran> {
  const runs: Ran[] = [];
  for (let at = 0; at < ids.length; at += engine.longest)
    runs.push(await engine.run(ids.slice(at, at + engine.longest)));
  const [only] = runs;
  if (runs.length === 1 && only) return only;
  const ofLast = runs.at(-1)?.ofLast ?? new Map();
  const kept = [...(runs[0]?.kept.keys() ?? [])].map((origin) => {
    const parts = runs.flatMap((r) => r.kept.get(origin) ?? []);
    return [origin, concatenated(ofLast.has(origin) ? parts.slice(-1) : parts)] as const;
  });
  return { logits: concatenated(runs.map((r) => r.logits)), kept: new Map(kept), ofLast };
}

async function setUp(program: Program, base: URL, options: LoadOptions): Promise<Alive> {
  const stop = new AbortController();
  const notice = (message: string) => {
    if (!stop.signal.aborted) options.onNotice?.(message);
  };
  const signal = options.signal;
  const gpu = await acquire(options, program);
  let state: Progress = {
    stage: "download",
    done: 0,
    total: program.chunks.reduce((sum, c) => sum + c.bytes, 0),
    cached: 0,
    secondsLeft: undefined,
  };
  const tell = (more: Partial<Progress>) => {
    state = { ...state, ...more };
    options.onProgress?.(state);
  };
  tell({});
  const either = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
  const files = new Files(base, either);
  const alive: Alive = { engine: await Engine.create(program, gpu), device: gpu.name, lost: undefined };
  gpu.device.addEventListener("uncapturederror", ({ error }) => notice(`WebGPU complains: ${error.message}`));
  void gpu.device.lost.then(({ reason, message }) => {
    alive.lost = (message || reason).replace(/\.$/, "");
    stop.abort(new GemmaError("device", `the GPU was lost while loading: ${alive.lost}`, "reload the page"));
  });
  try {
    const store = options.cache === false ? undefined : await Store.open(program.name);
    const weights = streamWeights(program, {
      files,
      store,
      place: (weight, offset, bytes) => alive.engine.place(weight, offset, bytes),
      progress: tell,
      notice,
    });
    const kernels = pipelines(program, gpu, { files, notice, progress: (stage) => tell({ stage }) });
    const [made] = await Promise.all([kernels, weights]).catch(async (e) => {
      stop.abort(e);
      // Compiling cannot be stopped. What fails of it now, on a device that is no more, is no news.
      kernels.catch(() => {});
      await Promise.allSettled([weights]);
      throw e;
    });
    alive.engine.prepare(made);
    tell({ stage: "ready" });
    return alive;
  } catch (e) {
    alive.engine.destroy();
    throw e;
  }
}

import { randomBytes } from "node:crypto";
import { open, rm } from "node:fs/promises";
import { availableParallelism, freemem } from "node:os";
import { join } from "node:path";
import { HashedFile } from "../../backends/files.ts";
import { product } from "../../backends/reference/index.ts";
import { hasNonFinite } from "../../backends/stream/floats.ts";
import { decode, encodeTile, even, inTile, tilesFor, Workbench } from "../../backends/stream/index.ts";
import { proofTokens } from "../verify/proof.ts";
import { type Coding, sum, type Work } from "./work.ts";

/** Seconds, and what they are made of. */
export interface TimeEstimate {
  readonly seconds: number;
  readonly write: number;
  /** Of the proof. */
  readonly verify: number;
  /** How the numbers were obtained, and what they leave out. */
  readonly basis: string;
}

/** Measured as multiples of other work, in two threads. */
const measured = {
  /** Processor time with threads, for messages and the collector, of what their work takes alone. */
  threads: 1.6,
  /** Processor time of ONNX Runtime for a number of a matrix, of what the interpreter takes for one that is not coded. */
  asRun: 2.6,
  inFloats: 8,
  /** Seconds to start threads or the runtime. */
  start: 0.3,
} as const;

/** Predicts how long `work` takes, from a short trial of each kind of it, in `folder`. `planned` is what the passes took. */
export async function timeOf(work: Work, folder: string, planned: number): Promise<TimeEstimate> {
  const cores = availableParallelism();
  /** What one thread does while others do the rest. */
  const beside = (own: number, threads: number) => {
    const all = measured.threads * threads;
    return Math.max(own, all / Math.min(cores, 8), (own + all) / cores);
  };
  const trials = new Trials();
  const late = Math.max(0, work.written - heldBack());
  const file = await tryFile(folder, late > 0);
  const { coded, widened, proof } = work;
  const passed = work.read * file.read + work.written * file.write + (widened && widened * trials.widening());
  const coding = sum(coded.map((c) => c.numbers * trials.encoding(c.coding)));
  const writing = Math.max(beside(passed, coding), late * file.sync);
  const write = planned + writing + (coded.length > 0 ? measured.start : 0);

  const multiplied = sum(proof.products.map((p) => p.numbers * trials.multiplying(p.rows, p.coding)));
  const stored = sum(proof.products.map((p) => p.stored));
  const runtime = measured.asRun * proof.asRun + measured.inFloats * proof.inFloats;
  const ran = (runtime * trials.multiplying(proofTokens)) / cores;
  const verify = 2 * measured.start + beside(stored * file.read, multiplied) + ran;
  return {
    seconds: write + verify,
    write,
    verify,
    basis: `a few milliseconds of each kind of work, tried here, as if nothing else ran; the checkpoint is taken to be read as fast as from memory${
      runtime > 0 ? "" : ". What builds and runs the artifact for its proof is not counted"
    }`,
  };
}

/** Bytes that the system takes before who writes must wait for the disk: Linux lets a tenth to a fifth of memory be unwritten. */
const heldBack = (): number => 0.15 * freemem();

/** Seconds that kinds of work take for a number here. Each is tried once. */
class Trials {
  readonly #known = new Map<string, number>();
  readonly #bench = new Workbench();
  readonly #noise = noise(1 << 19);

  widening(): number {
    return this.#tried("widening", this.#noise.length / 2, () => () => decode("bf16", this.#noise));
  }

  encoding(coding: Coding): number {
    const { bytes, numbers, columns } = this.#rows(coding.block);
    return this.#tried(JSON.stringify(coding), numbers, () => {
      const [tile] = tilesFor(this.#bench, numbers, 1);
      if (!tile) throw new Error("there is no room for a trial");
      tile.bytes.set(bytes);
      const stored = tile.bytes.subarray(0, bytes.length);
      const job = { dtype: "bf16", bytes: stored, columns, ...jobOf(coding, columns) } as const;
      const placed = inTile(tile, job, numbers / columns);
      return () => encodeTile(this.#bench, placed);
    });
  }

  /** A number of a matrix with one of each of `m` rows. */
  multiplying(m: number, coding?: Coding): number {
    const { bytes, numbers, columns } = this.#rows(coding?.block ?? 1);
    return this.#tried(JSON.stringify({ m, coding }), numbers, () => {
      const stored = this.#bench.take(bytes.length);
      stored.set(bytes);
      const rows = {
        dtype: "bf16",
        bytes: stored,
        columns,
        ...(coding && { coding: jobOf(coding, columns) }),
      } as const;
      const x = this.#doubles(even(m) * columns).fill(0.5);
      const { buffer, byteOffset } = this.#bench.take(4 * columns);
      const row = new Float32Array(buffer, byteOffset, columns);
      const out = this.#doubles((even(m) * numbers) / columns);
      return () => product(this.#bench, { x, m, rows, row, out });
    });
  }

  #doubles(n: number): Float64Array {
    const { buffer, byteOffset } = this.#bench.take(8 * n);
    return new Float64Array(buffer, byteOffset, n);
  }

  /** Rows of whole blocks, of about 2,048 numbers. */
  #rows(block: number): { readonly bytes: Uint8Array; readonly numbers: number; readonly columns: number } {
    const columns = 2 * block * Math.max(1, Math.floor(1024 / block));
    const numbers = columns * Math.max(1, Math.floor(this.#noise.length / 2 / columns));
    return { bytes: this.#noise.subarray(0, 2 * numbers), numbers, columns };
  }

  /** The fastest of a few milliseconds: other processes only ever slow it. */
  #tried(name: string, numbers: number, prepare: () => () => unknown): number {
    const known = this.#known.get(name);
    if (known !== undefined) return known;
    const work = prepare();
    const end = performance.now() + 40;
    let best = Number.POSITIVE_INFINITY;
    for (let start = performance.now(); start < end; ) {
      work();
      const now = performance.now();
      best = Math.min(best, now - start);
      start = now;
    }
    const cost = best / 1000 / numbers;
    this.#known.set(name, cost);
    return cost;
  }
}

const jobOf = ({ to, block, around, search }: Coding, columns: number) => ({
  ...{ to, block, around },
  ...(search && { importance: new Float32Array(columns).fill(1) }),
});

/** bf16 numbers, none of which is NaN. */
function noise(numbers: number): Uint8Array {
  const bytes = randomBytes(2 * numbers);
  for (let i = 1; i < bytes.length; i += 2) bytes[i] = (bytes[i] as number) & 0xbf;
  return bytes;
}

/** Seconds that a byte takes: handed to the system and hashed; read back and looked over; down on the disk. */
interface FileTrial {
  readonly write: number;
  readonly read: number;
  readonly sync: number;
}

/** Writes a small file to `folder` and reads it back; waits for the disk if told. Where none can be written a usual disk is taken. */
async function tryFile(folder: string, sync: boolean): Promise<FileTrial> {
  const name = `.gemmac-plan-${process.pid}`;
  const bytes = noise(1 << 21);
  const perByte = async (work: (turn: number) => Promise<unknown>, turns = 5) => {
    let best = Number.POSITIVE_INFINITY;
    for (let turn = 0; turn < turns; turn++) {
      const start = performance.now();
      await work(turn);
      best = Math.min(best, performance.now() - start);
    }
    return best / 1000 / bytes.length;
  };
  let out: HashedFile;
  try {
    out = await HashedFile.create(folder, name);
  } catch {
    return { write: 1e-9, read: 0.5e-9, sync: 3e-9 };
  }
  const path = join(folder, name);
  try {
    const write = await perByte(() => out.write(bytes));
    await out.close();
    const file = await open(path, "r+");
    try {
      const buffer = new Uint8Array(bytes.length);
      const read = await perByte(async (turn) => {
        await file.read(buffer, 0, buffer.length, turn * buffer.length);
        hasNonFinite("bf16", buffer);
      });
      const synced = async () => (await perByte(() => file.sync(), 1)) / 5;
      return { write, read, sync: sync ? await synced() : 0 };
    } finally {
      await file.close();
    }
  } finally {
    await rm(path, { force: true });
  }
}

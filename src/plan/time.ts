import { randomBytes } from "node:crypto";
import { open, rm } from "node:fs/promises";
import { availableParallelism, freemem } from "node:os";
import { join } from "node:path";
import { HashedFile } from "../../backends/files.ts";
import { hasNonFinite } from "../../backends/stream/floats.ts";
import {
  byteLength,
  type CodesJob,
  decode,
  encodeTile,
  inTile,
  tilesFor,
  Workbench,
} from "../../backends/stream/index.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import { block_scale, block_scale_search, preparations, quantize } from "../../ir/ops/index.ts";
import { dtypes } from "../../ir/type.ts";
import { rowParts } from "../../passes/fold-weights.ts";

/** Seconds, and what they are made of. */
export interface TimeEstimate {
  readonly seconds: number;
  readonly write: number;
  readonly verify: number;
  /** How the numbers were obtained. */
  readonly basis: string;
}

/** Bytes or elements a second, as this machine does them now. */
interface Speeds {
  /** Hashed and handed to the system, and down on the disk. */
  readonly write: number;
  readonly disk: number;
  /** Read from memory and looked over. */
  readonly read: number;
  readonly widen: number;
  readonly multiply: number;
  readonly quantize: number;
}

/** Predicts how long compiling takes, from a short trial of each kind of work in `folder`. */
export async function timeOf(
  graph: Graph,
  bytes: number,
  folder: string,
  planned: number,
): Promise<TimeEstimate> {
  const made = graph.weights().flatMap((w) => rowParts(graph.setup[String(w.attrs.name)] ?? w));
  const coded = made.filter((v) => v.op === quantize);
  const widened = made.filter((v) => v.op.name !== "param" && !coding.has(v.op));
  const speeds = await trial(folder, coded[0]);
  const stored = graph.stored();
  const read = stored.reduce((sum, v) => sum + byteLength(v), 0);
  const own = bytes / speeds.write + read / speeds.read + elements(widened) / speeds.widen;
  const threads = (threadOverhead * elements(coded)) / speeds.quantize;
  const cores = availableParallelism();
  // What the system holds in memory is written later.
  const disk = Math.max(0, bytes - freemem() / 10) / speeds.disk;
  const start = planned + (coded.length > 0 ? 0.2 : 0);
  const write = start + Math.max(own, disk, threads / Math.min(cores, 8), (own + threads) / cores);
  const verify = 0.4 + elements(stored) / speeds.multiply;
  return {
    seconds: write + verify,
    write,
    verify,
    basis:
      "a trial of less than a second of each kind of work here; the checkpoint is taken to be read as fast as from memory",
  };
}

/** Time that threads take beyond the work itself, for messages and the collector: measured. */
const threadOverhead = 1.6;

const coding: ReadonlySet<unknown> = new Set(Object.values(preparations));
const elements = (vs: readonly Value[]): number =>
  vs.reduce((sum, v) => sum + byteLength(v) / (dtypes[v.dtype] / 8), 0);

async function trial(folder: string, coded: Value | undefined): Promise<Speeds> {
  const bytes = randomBytes(1 << 22);
  // No weight of a model is NaN.
  for (let i = 1; i < bytes.length; i += 2) bytes[i] = (bytes[i] as number) & 0xbf;
  const n = bytes.length / 2;
  const x = Float64Array.from(decode("bf16", bytes).subarray(0, 2048));
  return {
    ...(await files(folder, bytes)),
    widen: n / (await seconds(() => decode("bf16", bytes))),
    multiply: n / (await seconds(() => multiplied(decode("bf16", bytes), x))),
    quantize: coded ? await quantizing(coded, bytes) : Number.POSITIVE_INFINITY,
  };
}

/** Seconds that `work` takes once it is warm, over long enough for other processes to have their turns. */
async function seconds(work: () => unknown): Promise<number> {
  await work();
  const start = performance.now();
  let n = 0;
  for (; performance.now() - start < 40; n++) await work();
  return (performance.now() - start) / 1000 / n;
}

async function quantizing(v: Value, bytes: Uint8Array): Promise<number> {
  const scale = v.inputs[1] as Value;
  const attrs = scale.attrs as { to: CodesJob["to"]; block: number; around?: CodesJob["around"] };
  const columns = Math.max(attrs.block, 2048 - (2048 % attrs.block));
  const rows = Math.floor(2 ** 18 / columns) || 1;
  const bench = new Workbench();
  const [tile] = tilesFor(bench, rows * columns, 1);
  if (!tile) return Number.POSITIVE_INFINITY;
  tile.bytes.set(bytes.subarray(0, rows * columns * 2));
  const job: CodesJob = {
    dtype: "bf16",
    bytes: tile.bytes.subarray(0, rows * columns * 2),
    columns,
    block: attrs.block,
    to: attrs.to,
    around: (scale.op === block_scale && attrs.around) || "zero",
    ...(scale.op === block_scale_search && { importance: new Float32Array(columns).fill(1) }),
  };
  const placed = inTile(tile, job, rows);
  return (rows * columns) / (await seconds(() => encodeTile(bench, placed)));
}

/** As the reference interpreter multiplies a few tokens: six sums over each row. */
function multiplied(w: Float32Array, x: Float64Array): number {
  let total = 0;
  for (let at = 0; at < w.length; at += x.length)
    for (let t = 0; t < 2; t++) {
      let [a, b, c] = [0, 0, 0];
      for (let j = 0; j < x.length; j++) {
        const [y, z] = [w[at + j] as number, x[j] as number];
        a += y * z;
        b += y * (z + 1);
        c += y * (z + 2);
      }
      total += a + b + c;
    }
  return total;
}

/** Writes and reads back a small file. */
async function files(folder: string, bytes: Uint8Array): Promise<Pick<Speeds, "write" | "disk" | "read">> {
  const name = `.gemmac-plan-${process.pid}`;
  const path = join(folder, name);
  let out: HashedFile;
  try {
    out = await HashedFile.create(folder, name);
  } catch {
    return { write: 4e8, disk: 3e8, read: 2e9 };
  }
  try {
    const total = 5 * bytes.length;
    const start = performance.now();
    for (let i = 0; i < 5; i++) await out.write(bytes);
    await out.close();
    const written = performance.now();
    const file = await open(path, "r+");
    try {
      await file.sync();
      const synced = performance.now();
      for (let i = 0; i < 5; i++) {
        const buffer = new Uint8Array(bytes.length);
        await file.read(buffer, 0, buffer.length, i * buffer.length);
        hasNonFinite("bf16", buffer);
      }
      const read = performance.now();
      const rate = (ms: number) => (total * 1000) / ms;
      return { write: rate(written - start), disk: rate(synced - start), read: rate(read - synced) };
    } finally {
      await file.close();
    }
  } finally {
    await rm(path, { force: true });
  }
}

import { createHash, randomBytes } from "node:crypto";
import { open, rm } from "node:fs/promises";
import { availableParallelism, freemem } from "node:os";
import { join } from "node:path";
import { byteLength, type CodesJob, decode, encodeRows } from "../../backends/stream/index.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import { block_scale, block_scale_search, quantize } from "../../ir/ops/index.ts";
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
  readonly hash: number;
  readonly widen: number;
  readonly multiply: number;
  readonly quantize: number;
  /** Into memory, and down to the disk. */
  readonly buffered: number;
  readonly disk: number;
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
  const speeds = await trial(folder, coded[0]);
  const widened = made.filter((v) => v.op.name !== "param" && v.inputs.length > 0 && v.op !== quantize);
  const elements = (vs: readonly Value[]) =>
    vs.reduce((sum, v) => sum + byteLength(v) / (dtypes[v.dtype] / 8), 0);
  const cores = availableParallelism();
  const own = bytes / speeds.hash + elements(widened) / speeds.widen;
  const threads = elements(coded) / speeds.quantize;
  const held = Math.min(bytes, freemem() / 10);
  const disk = held / speeds.buffered + (bytes - held) / speeds.disk;
  const write = planned + Math.max(own, disk, threads / cores, (own + threads) / cores);
  const stored = graph.stored();
  const verify = 0.4 + elements(stored) / speeds.multiply;
  return {
    seconds: write + verify,
    write,
    verify,
    basis:
      "a trial of under half a second of hashing, decoding, quantizing, multiplying and writing here; the checkpoint is taken to be read faster than all that",
  };
}

async function trial(folder: string, coded: Value | undefined): Promise<Speeds> {
  const bytes = randomBytes(1 << 22);
  // Small exponents: no weight of a model is NaN.
  for (let i = 1; i < bytes.length; i += 2) bytes[i] = (bytes[i] as number) & 0xbf;
  const n = bytes.length / 2;
  const floats = decode("bf16", bytes);
  const x = Float64Array.from(floats.subarray(0, 2048));
  const { buffered, disk } = await writing(folder, bytes);
  return {
    hash: bytes.length / seconds(() => createHash("sha256").update(bytes).digest()),
    widen: n / seconds(() => decode("bf16", bytes)),
    multiply: n / seconds(() => multiplied(decode("bf16", bytes), x)),
    quantize: coded ? quantizing(coded, bytes) : Number.POSITIVE_INFINITY,
    buffered,
    disk,
  };
}

/** The better of two tries, the first of which also warms up. */
function seconds(work: () => unknown): number {
  const once = () => {
    const start = performance.now();
    work();
    return (performance.now() - start) / 1000;
  };
  return Math.min(once(), once());
}

function quantizing(v: Value, bytes: Uint8Array): number {
  const scale = v.inputs[1] as Value;
  const attrs = scale.attrs as { to: CodesJob["to"]; block: number; around?: CodesJob["around"] };
  const columns = Math.max(attrs.block, 2048 - (2048 % attrs.block));
  const rows = Math.floor(2 ** 18 / columns) || 1;
  const job: CodesJob = {
    dtype: "bf16",
    bytes: bytes.slice(0, rows * columns * 2),
    columns,
    block: attrs.block,
    to: attrs.to,
    around: (scale.op === block_scale && attrs.around) || "zero",
    ...(scale.op === block_scale_search && { importance: new Float32Array(columns).fill(1) }),
  };
  return (rows * columns) / seconds(() => encodeRows(job));
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

async function writing(folder: string, bytes: Uint8Array): Promise<{ buffered: number; disk: number }> {
  const path = join(folder, `.gemmac-plan-${process.pid}`);
  const file = await open(path, "wx").catch(() => undefined);
  if (!file) return { buffered: 1e9, disk: 5e8 };
  try {
    const start = performance.now();
    for (let i = 0; i < 4; i++) await file.write(bytes);
    const buffered = performance.now();
    await file.sync();
    const total = 4 * bytes.length * 1000;
    return { buffered: total / (buffered - start), disk: total / (performance.now() - start) };
  } finally {
    await file.close();
    await rm(path, { force: true });
  }
}

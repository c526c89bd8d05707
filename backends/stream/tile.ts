import { type Codes, type CodesJob, encodeRows } from "./codes.ts";
import type { Workbench } from "./simd/index.ts";

/** Elements that a thread works on at once; a row that is longer is worked on whole. */
export const tileElements = 1 << 19;

/** Room for rows as they are stored, and for their codes. */
export interface Tile {
  readonly bytes: Uint8Array;
  readonly codes: Uint8Array;
  readonly scales: Uint8Array;
  readonly zeros: Uint8Array;
  readonly row: Float32Array;
}

/** Tiles of a workbench for rows of so many elements in all. Memory that nobody touches takes up none. */
export const tilesFor = (bench: Workbench, elements: number, count: number): Tile[] =>
  Array.from({ length: count }, () => {
    const [bytes, codes, scales, zeros] = [4, 1, 4, 1].map((width) => bench.take(width * elements)) as [
      Uint8Array,
      Uint8Array,
      Uint8Array,
      Uint8Array,
    ];
    const row = bench.take(4 * elements);
    return { bytes, codes, scales, zeros, row: floats(row, elements) };
  });

const floats = ({ buffer, byteOffset }: Uint8Array, length: number) =>
  new Float32Array(buffer, byteOffset, length);

/** Rows to quantize and where to put what comes of it, all of it in a workbench's memory. Plain data, for threads. */
export interface TileJob extends CodesJob {
  readonly into: Codes;
  /** Room for one row. */
  readonly row: Float32Array;
}

/** `job` with a tile's room for its answer. */
export function inTile(tile: Tile, job: CodesJob, rows: number): TileJob {
  const count = (rows * job.columns) / job.block;
  const packed = (n: number) => Math.ceil(job.to === "i4" ? n / 2 : n);
  const into = {
    codes: tile.codes.subarray(0, packed(rows * job.columns)),
    scales: floats(tile.scales, count),
    zeros: tile.zeros.subarray(0, job.around === "middle" ? packed(count) : 0),
  };
  return { ...job, into, row: tile.row.subarray(0, job.columns) };
}

/** What `encodeRows` makes of a job, in its place; tells whether a number is NaN or infinite. */
export function encodeTile(bench: Workbench, job: TileJob): boolean {
  const { dtype, bytes, columns, block, to, around, importance, into, row } = job;
  if (around === "zero" && !importance && bench.takes(block)) {
    const rows = (into.scales.length * block) / columns;
    const [width, codes, scales] = [bytes.length / rows, into.codes.length / rows, columns / block];
    for (let r = 0; r < rows; r++) {
      bench.widen(dtype, bytes.subarray(r * width, (r + 1) * width), row);
      bench.encode(to, block, row, into.codes.subarray(r * codes), into.scales.subarray(r * scales));
    }
  } else {
    const made = encodeRows(job);
    into.codes.set(made.codes);
    into.scales.set(made.scales);
    into.zeros.set(made.zeros);
  }
  return bench.nonFinite(dtype, bytes);
}

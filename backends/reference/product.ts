import type { Code } from "../../ir/ops/codes.ts";
import type { BlockFormatName } from "../../ir/ops/ggml.ts";
import type { DType } from "../../ir/type.ts";
import { decode, decodeRows, encodeRows, even, type Workbench } from "../stream/index.ts";

/** Rows of a matrix as they are stored, and the codes that they are rounded to, if any. Plain data, for threads. */
export interface StoredRows {
  readonly dtype: DType | BlockFormatName;
  readonly bytes: Uint8Array;
  readonly columns: number;
  readonly coding?: {
    readonly to: Code;
    readonly block: number;
    readonly around: "zero" | "middle";
    readonly importance?: Float32Array;
  };
}

/** The numbers that such rows stand for. */
export function valuesOf({ dtype, bytes, columns, coding }: StoredRows): Float32Array {
  return coding ? decodeRows(coding, encodeRows({ dtype, bytes, columns, ...coding })) : decode(dtype, bytes);
}

/** Some rows of a matrix, and what to multiply them with. All of it lies in a workbench's memory. Plain data, for threads. */
export interface ProductJob {
  /** What `interleaved` makes of [m, columns]. */
  readonly x: Float64Array;
  readonly m: number;
  readonly rows: StoredRows;
  /** Room for one row, and for one number more where it has an odd number of them. */
  readonly row: Float32Array;
  /** Where the sums go: `even(m)` for each of the matrix's rows. */
  readonly out: Float64Array;
}

/** x · rowsᵀ; each sum runs in f64 and in the order of columns, as the meaning of `linear` has it. */
export function product(bench: Workbench, { x, m, rows, row, out }: ProductJob): void {
  const { dtype, bytes, columns, coding } = rows;
  const width = even(m);
  const count = out.length / width;
  const fast = !coding || (coding.around === "zero" && !coding.importance && bench.takes(coding.block));
  const stored = bytes.length / count;
  const all = fast ? undefined : valuesOf(rows);
  for (let r = 0; r < count; r++) {
    if (all) row.set(all.subarray(r * columns, (r + 1) * columns));
    else bench.widen(dtype, bytes.subarray(r * stored, (r + 1) * stored), row);
    if (coding && !all) bench.round(coding.to, coding.block, row);
    row.fill(0, columns);
    bench.dots(row, x, m, out.subarray(r * width, (r + 1) * width));
  }
}

import type { Code } from "../../ir/ops/codes.ts";
import type { BlockFormatName } from "../../ir/ops/ggml.ts";
import type { DType } from "../../ir/type.ts";
import { decode, decodeRows, encodeRows } from "../stream/index.ts";

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

/** Some rows of a matrix, and what to multiply them with: `x` is [m, columns]. */
export interface ProductJob {
  readonly x: Float64Array;
  readonly m: number;
  readonly rows: StoredRows;
}

/** x · rowsᵀ, one row of m sums for each of the matrix's rows; each sum runs in the order of columns. */
export function product({ x, m, rows }: ProductJob): Float64Array {
  const w = valuesOf(rows);
  const k = rows.columns;
  const out = new Float64Array((w.length / k) * m);
  for (let at = 0, to = 0; at < w.length; at += k, to += m) {
    let i = 0;
    for (; i + 6 <= m; i += 6) sixDots(x, i * k, w, at, k, out, to + i);
    for (; i < m; i++) {
      let sum = 0;
      for (let j = 0; j < k; j++) sum += (x[i * k + j] as number) * (w[at + j] as number);
      out[to + i] = sum;
    }
  }
  return out;
}

/** Six sums at once, which do not wait for each other. */
function sixDots(
  x: Float64Array,
  from: number,
  w: Float32Array,
  at: number,
  k: number,
  out: Float64Array,
  to: number,
): void {
  let [a, b, c, d, e, f] = [0, 0, 0, 0, 0, 0];
  for (let j = 0, i = from; j < k; j++, i++) {
    const y = w[at + j] as number;
    a += (x[i] as number) * y;
    b += (x[i + k] as number) * y;
    c += (x[i + 2 * k] as number) * y;
    d += (x[i + 3 * k] as number) * y;
    e += (x[i + 4 * k] as number) * y;
    f += (x[i + 5 * k] as number) * y;
  }
  out.set([a, b, c, d, e, f], to);
}

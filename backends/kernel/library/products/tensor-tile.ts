import { type Expr, lanes } from "../../lang/index.ts";
import { bits } from "../format.ts";
import type { GemmShape } from "./gemm.ts";

/** Threads of a group that multiplies on tensor cores: eight warps. */
export const tensorThreads = 256;
/** Tokens that one group covers. */
export const tokensOfTile = 128;
/** Bytes of shared memory that every device of compute capability 8.0 or later gives a group that asks for it. */
const sharedBytes = 99 * 1024;
/** Tiles on their way and at work, at most. */
const mostStages = 4;
/** A group of fewer rows still has its share of a device of 132 multiprocessors, when 1,024 tokens are multiplied. */
const manyRows = (2 * 132 * 256) / (1024 / tokensOfTile);

/** What a group holds of the matrix and of x, and how its warps share the products of that. */
export interface TensorTile {
  readonly rows: number;
  /** Of the matrix and of x, that are multiplied between two meetings of the threads. */
  readonly columns: number;
  /** Of bf16 whose sum x is. */
  readonly parts: number;
  readonly stages: number;
  readonly warps: { readonly rows: number; readonly tokens: number };
  /** Tiles of 16 rows and of 8 tokens that are a warp's own. */
  readonly own: { readonly rows: number; readonly tokens: number };
  /** Of the matrix, and of one part of x. */
  readonly w: Stored;
  readonly x: Stored;
}

/** How numbers lie in shared memory, as rows of pieces of 16 bytes. */
export interface Stored {
  /** What is read of it at once. */
  readonly type: "u32" | "u32x2" | "u32x4";
  /** Of one row, and of a whole stage. */
  readonly pieces: number;
  readonly stage: number;
  /** Pieces of a row that neighbouring threads read together. */
  readonly span: number;
}

/** Elements of a piece. */
export const ofPiece = ({ type }: Stored): number => 4 / lanes(type).count;

/**
 * 64 rows of a warp by 64 tokens read the fewest bytes of shared memory for each product that registers allow: 4 KB for 16
 * columns. Where the rows are few, or sums of blocks stand beside the sums, a warp has half the tokens.
 */
export function tensorTile({ rows, columns: all, format, epilogue, rounds }: GemmShape): TensorTile {
  const { dtype, block } = format;
  const scaled = block > 0 && block !== all;
  const large = !scaled && rows * (epilogue.gate ? 2 : 1) >= manyRows;
  const warps = large ? { rows: 4, tokens: 2 } : { rows: 2, tokens: 4 };
  const columns = dtype === "bf16" || (dtype === "i8" && !rounds) ? 32 : 64;
  const parts = rounds ? 1 : 2;
  const stored = (type: Stored["type"], inRow: number, ofRows: number, span: number): Stored => ({
    type,
    pieces: inRow,
    stage: inRow * ofRows,
    span,
  });
  const tileRows = warps.rows * 64;
  const whole = dtype === "bf16";
  const w = stored(whole ? "u32x4" : "u32", (columns * bits[dtype]) / 128, tileRows, 1);
  const x = stored(whole ? "u32x4" : "u32x2", columns / 8, tokensOfTile, whole ? 1 : 2);
  return {
    rows: tileRows,
    columns,
    parts,
    stages: Math.min(mostStages, Math.floor(sharedBytes / 16 / (w.stage + parts * x.stage))),
    warps,
    own: { rows: 4, tokens: tokensOfTile / warps.tokens / 8 },
    w,
    x,
  };
}

/**
 * Where piece `piece` of a row lies, counted in pieces. What the threads of a warp read at once, `span` pieces of each of
 * several rows, must lie in different banks of shared memory, which repeat every 128 bytes: rows that would meet there have
 * their pieces in another order.
 */
export function pieceAt(
  row: Expr<"u32">,
  piece: Expr<"u32">,
  { pieces, span }: Pick<Stored, "pieces" | "span">,
): Expr<"u32"> {
  const [spans, rowsOfLine] = [pieces / span, Math.max(1, 8 / pieces)];
  const turn = row.div(rowsOfLine).mod(spans).mul(span);
  return row.mul(pieces).add(spans === 1 ? piece : piece.xor(turn));
}

import { describe, expect, test } from "vitest";
import { u32 } from "../backends/kernel/lang/index.ts";
import type { GemmShape } from "../backends/kernel/library/products/gemm.ts";
import {
  pieceAt,
  type Stored,
  type TensorTile,
  tensorThreads,
  tensorTile,
  tokensOfTile,
} from "../backends/kernel/library/products/tensor-tile.ts";

const kinds = [
  ["bf16", 0],
  ["i8", 4096],
  ["i8", 32],
  ["i4", 4096],
  ["i4", 32],
] as const;
const shapes = kinds.flatMap(([dtype, block]) =>
  [2048, 16384].flatMap((rows) =>
    [true, false].map((rounds): [string, GemmShape] => [
      `${dtype}${block ? ` by ${block}` : ""}, ${rows} rows, x ${rounds ? "rounded" : "in two parts"}`,
      { rows, columns: 4096, format: { dtype, block, zero: false }, epilogue: {}, rounds },
    ]),
  ),
);

/** What pieceAt computes for known numbers. */
function placeOf(row: number, piece: number, stored: Stored): number {
  const { node } = pieceAt(u32(row), u32(piece), stored);
  if (node.kind !== "literal") throw new Error("not folded");
  return Number(node.value);
}

/** Bytes that eight neighbouring rows' threads ask for at once, as ranges of 16 or fewer; all must be in different banks. */
function banks(stored: Stored, bytes: number, step: number): number[] {
  const rows = 128 / (bytes * (stored.span === 2 ? 2 : 1));
  const words: number[] = [];
  for (let row = 0; row < Math.min(8, rows); row++)
    for (let s = 0; s < stored.span; s++) {
      const at = placeOf(row, step * stored.span + s, stored) * 16;
      for (let b = 0; b < bytes; b += 4) words.push(((at + b) / 4) % 32);
    }
  return words;
}

describe("tiles of tensor cores", () => {
  const bytesOf = ({ w, x, stages, parts }: TensorTile) => stages * (w.stage + parts * x.stage) * 16;

  test.each(shapes)(
    "%s: fit what every GPU of 8.0 or later gives a group, two of them at least",
    (_, shape) => {
      const tile = tensorTile(shape);
      expect(tile.stages).toBeGreaterThanOrEqual(2);
      expect(bytesOf(tile)).toBeLessThanOrEqual(99 * 1024);
      expect(tile.warps.rows * tile.warps.tokens * 32).toBe(tensorThreads);
      expect([tile.warps.rows * tile.own.rows * 16, tile.warps.tokens * tile.own.tokens * 8]).toEqual([
        tile.rows,
        tokensOfTile,
      ]);
      // Every thread copies as much.
      for (const all of [tile.rows * tile.w.pieces, tokensOfTile * tile.x.pieces])
        expect(all % tensorThreads).toBe(0);
    },
  );

  test.each(shapes)("%s: pieces have places of their own, and are read from different banks", (_, shape) => {
    const { w, x, columns } = tensorTile(shape);
    for (const stored of [w, x]) {
      const places = new Set<number>();
      for (let row = 0; row < 16; row++)
        for (let piece = 0; piece < stored.pieces; piece++) places.add(placeOf(row, piece, stored));
      expect(places.size).toBe(16 * stored.pieces);
      // Codes of 4 bits: a step reads half of a piece.
      const bytes = Math.min(16, (stored.pieces * 16 * 16) / columns / stored.span);
      for (let step = 0; step < stored.pieces / stored.span; step++) {
        const words = banks(stored, bytes, step);
        expect(new Set(words).size).toBe(words.length);
      }
    }
  });
});

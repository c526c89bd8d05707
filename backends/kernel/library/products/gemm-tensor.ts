import {
  type Expr,
  type Kernel,
  type KernelBuilder,
  kernel,
  pair,
  quad,
  type Readable,
  range,
  u32,
  unpack,
  type Var,
  type Writable,
} from "../../lang/index.ts";
import { bits, type Format, Matrix } from "../format.ts";
import { activations, softcap } from "../math.ts";
import { type GemmShape, gemmName } from "./gemm.ts";
import {
  ofPiece,
  pieceAt,
  type Stored,
  type TensorTile,
  tensorThreads,
  tensorTile,
  tokensOfTile,
} from "./tensor-tile.ts";
import { bf16Parts, bf16Pieces } from "./to-bf16.ts";

/** Whether tensor cores can read so many rows of this format without losing anything: in bf16, a scale for each step. */
export const tensorReads = ({ dtype, block, zero }: Format, rows: number): boolean =>
  rows % 2 === 0 && !zero && (dtype === "bf16" || ((dtype === "i8" || dtype === "i4") && block % 16 === 0));

/** Two numbers that bf16 holds, in one word: the first in the lower half. */
const pairOf = (a: Expr<"f32">, b: Expr<"f32">): Expr<"u32"> =>
  a.bits("u32").shr(16).or(b.bits("u32").and(0xffff0000));

/**
 * Many vectors by one matrix on tensor cores, y = x·Wᵀ. Weights become bf16 in registers, exactly; x is given in bf16, see
 * `toBf16`: in one part where it is to be rounded, else in two, so that 16 bits of it count. The next tiles are on their way
 * while one is multiplied. Groups that run at the same time share rows of the matrix, so that it comes from memory about once.
 */
export function gemmTensor(s: GemmShape): Kernel {
  const { gate, residual } = s.epilogue;
  const doc =
    `y = ${residual ? "residual + " : ""}${gate ? `${gate}(x·Aᵀ) · (x·Bᵀ), A above B` : "x·Wᵀ"} for each token, on tensor ` +
    `cores, x as ${s.rounds ? "bf16" : "two bf16"}${s.leaves ? ", and so y" : ""}`;
  const left = s.leaves ? `_bf16${s.leaves > 1 ? "_pair" : ""}` : "";
  const name = `${gemmName(s).replace("gemm_", "gemm_tensor_")}${s.rounds ? "_rounded" : ""}${left}`;
  const tile = tensorTile(s);
  return kernel(name, { doc, threads: tensorThreads }, (k) => {
    const x = k.input("x", "u32x4");
    const matrix = new Matrix(k, s.format, s.columns);
    const added = residual ? k.input("residual", "f32x2") : undefined;
    const y: Result = s.leaves
      ? { parts: s.leaves, to: k.output("y", "u32") }
      : { parts: undefined, to: k.output("y", "f32x2") };
    const tokens = k.uniform("tokens");
    const w = k.shared("w_tiles", tile.w.type, tile.stages * tile.w.stage * ofPiece(tile.w));
    const xs = k.shared("x_tiles", tile.x.type, tile.stages * tile.parts * tile.x.stage * ofPiece(tile.x));

    const firstRow = k.let("first_row", k.group.y.mul(gate ? tile.rows / 2 : tile.rows));
    const firstToken = k.let("first_token", k.group.x.mul(tokensOfTile));
    const [warp, lane] = [k.let("warp", k.thread.div(32)), k.let("lane", k.thread.mod(32))];
    const [g, t] = [k.let("g", lane.div(4)), k.let("t", lane.mod(4))];
    const warpRow = k.let("warp_row", warp.mod(tile.warps.rows).mul(tile.own.rows * 16));
    const warpToken = k.let("warp_token", warp.div(tile.warps.rows).mul(tile.own.tokens * 8));
    const place = { firstRow, firstToken, warpRow, warpToken, lane, g, t, tokens };
    const sums = range(tile.own.rows).map((i) =>
      range(tile.own.tokens).map((j) => k.zero(`sum${i}${j}`, "f32x4")),
    );
    const loader = new Loader(k, s, tile, { x, matrix, w, xs, ...place });
    const ahead = tile.stages - 1;
    const count = Math.ceil(s.columns / tile.columns);
    for (const n of range(Math.min(ahead, count))) loader.matrix(u32(n));
    k.await();
    for (const n of range(ahead)) {
      if (n < count) loader.x(u32(n));
      k.batch();
    }
    k.for("start", { to: count }, (start) => {
      k.arrive(ahead - 1);
      k.barrier();
      k.if(start.add(ahead).lt(count), () => {
        const next = k.let("next", start.add(ahead));
        loader.matrix(next);
        loader.x(next);
      });
      k.batch();
      const stage = k.let("stage", start.mod(tile.stages));
      multiply(k, s, tile, { matrix, w, xs, sums, start, stage, rowOf: loader.rowOf, ...place });
    });
    write(k, s, tile, { matrix, sums, added, y, ...place });
  });
}

interface Place {
  /** Of the group, then of the warp in it. */
  readonly firstRow: Expr<"u32">;
  readonly firstToken: Expr<"u32">;
  readonly warpRow: Expr<"u32">;
  readonly warpToken: Expr<"u32">;
  /** The thread's place in its warp: see `mma`. */
  readonly lane: Expr<"u32">;
  readonly g: Expr<"u32">;
  readonly t: Expr<"u32">;
  readonly tokens: Expr<"u32">;
}

interface Tiles extends Place {
  readonly x: Readable<"u32x4">;
  readonly matrix: Matrix;
  readonly w: Writable<Stored["type"]>;
  readonly xs: Writable<Stored["type"]>;
}

/** Sends tiles on their way, from memory to where the group reads them. */
class Loader {
  readonly #k: KernelBuilder;
  readonly #s: GemmShape;
  readonly #tile: TensorTile;
  readonly #tiles: Tiles;

  constructor(k: KernelBuilder, s: GemmShape, tile: TensorTile, tiles: Tiles) {
    this.#k = k;
    this.#s = s;
    this.#tile = tile;
    this.#tiles = tiles;
  }

  /**
   * The row of the matrix behind one of the tile. Rows g and g + 8 of sixteen, which a thread has sums of, are neighbours in
   * the matrix; of gated ones each warp has as many of either half.
   */
  readonly rowOf = (row: Expr<"u32">): Expr<"u32"> => {
    const { rows, epilogue } = this.#s;
    const { firstRow } = this.#tiles;
    const neighbour = row.mod(8).mul(2).add(row.div(8).mod(2));
    const [both, one] = [this.#tile.own.rows * 16, this.#tile.own.rows * 8];
    const sixteen = row.div(16).mul(16);
    if (!epilogue.gate)
      return firstRow
        .add(sixteen)
        .add(neighbour)
        .min(rows - 1);
    return firstRow
      .add(row.div(both).mul(one).add(sixteen.mod(one)).add(neighbour))
      .min(rows - 1)
      .add(row.mod(both).div(one).mul(rows));
  };

  /** The tile of the matrix at `start`. */
  matrix(start: Expr<"u32">): void {
    const { matrix, w } = this.#tiles;
    const { rows, stages, w: stored } = this.#tile;
    const { pieces, stage } = stored;
    const whole = matrix.pieces % pieces === 0;
    for (const n of range((rows * pieces) / tensorThreads)) {
      const i = this.#k.thread.add(n * tensorThreads);
      const [row, own] = [this.#k.let("tile_row", i.div(pieces)), i.mod(pieces)];
      const piece = this.#k.let("piece", start.mul(pieces).add(own));
      const to = start
        .mod(stages)
        .mul(stage)
        .add(pieceAt(row, own, stored));
      const from = whole ? piece : piece.min(matrix.pieces - 1);
      const some = whole ? undefined : piece.lt(matrix.pieces);
      matrix.copy(w, to.mul(ofPiece(stored)), this.rowOf(row), from, some);
    }
  }

  /** The numbers of the group's tokens that go with it; zeros for tokens that are not there. */
  x(start: Expr<"u32">): void {
    const { x, xs, tokens, firstToken } = this.#tiles;
    const { stages, parts, x: stored } = this.#tile;
    const { pieces, stage } = stored;
    const pitch = bf16Pieces(this.#s.columns);
    for (const part of range(parts))
      for (const n of range((tokensOfTile * pieces) / tensorThreads)) {
        const i = this.#k.thread.add(n * tensorThreads);
        const [row, own] = [this.#k.let("tile_token", i.div(pieces)), i.mod(pieces)];
        const token = this.#k.let("token", firstToken.add(row));
        const there = token.min(tokens.sub(1));
        const from = (part === 0 ? there : there.add(tokens)).mul(pitch).add(start.mul(pieces)).add(own);
        const to = start
          .mod(stages)
          .mul(parts)
          .add(part)
          .mul(stage)
          .add(pieceAt(row, own, stored));
        this.#k.copy(xs, to.mul(ofPiece(stored)), x, from, token.lt(tokens));
      }
  }
}

interface Multiplied extends Omit<Tiles, "x"> {
  readonly sums: readonly (readonly Var<"f32x4">[])[];
  readonly start: Expr<"u32">;
  readonly stage: Expr<"u32">;
  rowOf(row: Expr<"u32">): Expr<"u32">;
}

/** Adds one tile's products to the sums. Sixteen columns are one step of the tensor cores. */
function multiply(k: KernelBuilder, s: GemmShape, tile: TensorTile, m: Multiplied): void {
  const { matrix, sums, start } = m;
  const steps = tile.columns / 16;
  // Codes with scales by block: the sums of a block first.
  const scaled = s.format.block > 0 && !matrix.rowScale;
  const each = scaled ? Math.min(steps, s.format.block / 16) : steps;
  for (let step = 0; step < steps; step += each) {
    const of = scaled ? sums.map((row, i) => row.map((_, j) => k.zero(`part${i}${j}`, "f32x4"))) : sums;
    for (const inner of range(each)) {
      const at = step + inner;
      const ws = range(tile.own.rows).map((i) => rowsOf(k, s.format, tile, m, i, at));
      const xs = s.format.dtype === "bf16" ? tokensAsStored : tokensAsCodes;
      for (const part of range(tile.parts))
        xs(k, tile, m, part, at, (j, pair) => {
          for (const i of range(tile.own.rows)) k.mma(of[i]?.[j] as Var<"f32x4">, ws[i] as Four, pair);
        });
    }
    if (!scaled) continue;
    for (const i of range(tile.own.rows)) {
      const scales = [0, 8].map((up) => {
        const row = m.rowOf(m.warpRow.add(i * 16 + up).add(m.g));
        const column = start
          .mul(tile.columns)
          .add(step * 16)
          .min(s.columns - 16);
        return k.let(`scale${i}${up ? "b" : "a"}`, matrix.scaleAt(row, column) as Expr<"f32">);
      }) as [Expr<"f32">, Expr<"f32">];
      for (const j of range(tile.own.tokens)) {
        const [sum, part] = [sums[i]?.[j], of[i]?.[j]] as [Var<"f32x4">, Var<"f32x4">];
        sum.inc(part.mul(quad(scales[0], scales[0], scales[1], scales[1])));
      }
    }
  }
}

type Pair = [Expr<"u32">, Expr<"u32">];
type Four<T = Expr<"u32">> = readonly [T, T, T, T];

/** Sixteen rows of the matrix by the sixteen columns of step `at`, as the first operand. */
function rowsOf(
  k: KernelBuilder,
  { dtype }: Format,
  tile: TensorTile,
  { w, warpRow, stage, lane, g, t }: Multiplied,
  i: number,
  at: number,
): Four {
  const begin = stage.mul(tile.w.stage);
  if (dtype === "bf16") {
    const place = pieceAt(warpRow.add(i * 16).add(lane.mod(16)), lane.div(16).add(at * 2), tile.w);
    return k.matrices(`w${i}`, w as Writable<"u32x4">, begin.add(place));
  }
  // Four neighbouring columns of a row are a thread's own, in x too: sums do not mind which column is which.
  const [low, above] = [0, 8].map((up) => {
    const piece = pieceAt(warpRow.add(i * 16 + up).add(g), u32(Math.floor((at * bits[dtype]) / 8)), tile.w);
    const word = begin
      .add(piece)
      .mul(4)
      .add(dtype === "i8" ? t : t.div(2).add((at % 2) * 2));
    const codes = k.let("codes", w.at(word) as Expr<"u32">);
    const four = dtype === "i8" ? unpack("i8x4", codes) : unpack("i4x4.low", codes.shr(t.mod(2).mul(16)));
    const [a, b, c, d] = k.let("four", four).lanes() as unknown as Four<Expr<"f32">>;
    return [pairOf(a, b), pairOf(c, d)];
  }) as [Pair, Pair];
  return [low[0], above[0], low[1], above[1]].map((e, n) => k.let(`w${i}${n}`, e)) as unknown as Four;
}

/** Hands out eight tokens at a time of step `at`, as the second operand; for a matrix whose columns are in order. */
function tokensAsStored(
  k: KernelBuilder,
  tile: TensorTile,
  { xs, warpToken, stage, lane }: Multiplied,
  part: number,
  at: number,
  use: (j: number, pair: Pair) => void,
): void {
  const begin = stage.mul(tile.parts).add(part).mul(tile.x.stage);
  for (let j = 0; j < tile.own.tokens; j += 2) {
    const token = warpToken.add(lane.div(16).add(j).mul(8)).add(lane.mod(8));
    const place = pieceAt(
      token,
      lane
        .div(8)
        .mod(2)
        .add(at * 2),
      tile.x,
    );
    const [a, b, c, d] = k.matrices(`x${j}${part || ""}`, xs as Writable<"u32x4">, begin.add(place));
    use(j, [a, b]);
    use(j + 1, [c, d]);
  }
}

/** The same in the order of columns that codes have. */
function tokensAsCodes(
  k: KernelBuilder,
  tile: TensorTile,
  { xs, warpToken, stage, g, t }: Multiplied,
  part: number,
  at: number,
  use: (j: number, pair: Pair) => void,
): void {
  const begin = stage.mul(tile.parts).add(part).mul(tile.x.stage);
  for (const j of range(tile.own.tokens)) {
    const piece = pieceAt(warpToken.add(j * 8).add(g), t.div(2).add(at * 2), tile.x);
    const pair = k.let(`x${j}${part || ""}`, xs.at(begin.add(piece).mul(2).add(t.mod(2))) as Expr<"u32x2">);
    use(j, pair.lanes() as Pair);
  }
}

interface Written extends Place {
  readonly matrix: Matrix;
  readonly sums: readonly (readonly Var<"f32x4">[])[];
  readonly added: Readable<"f32x2"> | undefined;
  readonly y: Result;
}
/** Two neighbouring rows of y for each token: as they are, or as a word for each part. */
type Result =
  | { readonly parts: undefined; readonly to: Writable<"f32x2"> }
  | { readonly parts: 1 | 2; readonly to: Writable<"u32"> };

/** What comes after the product, and where it goes. */
function write(k: KernelBuilder, s: GemmShape, tile: TensorTile, w: Written): void {
  const { matrix, sums, added, y, tokens } = w;
  const { gate } = s.epilogue;
  const halves = gate ? 2 : 1;
  const own = tile.own.rows / halves;
  const inWarp = w.warpRow.div(halves).add(w.g.mul(2));
  for (const i of range(own)) {
    const row = k.let("row", w.firstRow.add(inWarp).add(i * 16));
    k.if(row.lt(s.rows), () => {
      const scales = range(halves).map((h) =>
        range(2).map((up) => {
          const scale = matrix.rowScale && matrix.scaleAt(row.add(h * s.rows + up), u32(0));
          return scale && k.let(`scale${h || ""}${up ? "b" : "a"}`, scale);
        }),
      );
      for (const j of range(tile.own.tokens))
        for (const odd of [0, 1]) {
          const token = k.let(
            "token",
            w.firstToken
              .add(w.warpToken)
              .add(j * 8 + odd)
              .add(w.t.mul(2)),
          );
          k.if(token.lt(tokens), () => {
            const [low, high] = range(2).map((up) => {
              const [first, second] = range(halves).map((h) => {
                const acc = sums[h * own + i]?.[j] as Var<"f32x4">;
                const sum = acc.lane(2 * up + odd) as Expr<"f32">;
                const scale = scales[h]?.[up];
                return scale ? sum.mul(scale) : sum;
              }) as [Expr<"f32">, Expr<"f32">];
              const value = gate ? activations[gate](k.let("gate", first)).mul(second) : first;
              return k.let(
                up ? "high" : "low",
                s.epilogue.softcap ? softcap(value, s.epilogue.softcap) : value,
              );
            }) as [Expr<"f32">, Expr<"f32">];
            if (y.parts) {
              const words = bf16Parts(low, high, y.parts);
              words.forEach((word, part) => {
                const place = token.add(tokens.mul(part)).mul(bf16Pieces(s.rows) * 4);
                y.to.set(place.add(row.div(2)), word);
              });
              return;
            }
            const place = k.let("place", token.mul(s.rows / 2).add(row.div(2)));
            const both = pair(low, high);
            y.to.set(place, added ? added.at(place).add(both) : both);
          });
        }
    });
  }
}

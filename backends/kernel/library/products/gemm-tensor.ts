import {
  type Expr,
  type Kernel,
  type KernelBuilder,
  kernel,
  literal,
  quad,
  type Readable,
  range,
  select,
  unpack,
  type Var,
  type Writable,
} from "../../lang/index.ts";
import { bits, type Format, Matrix } from "../format.ts";
import { activations, softcap } from "../math.ts";
import { type GemmShape, gemmName } from "./gemm.ts";

/** Rows of the matrix, tokens, and columns that a group holds at a time. */
export const tensorTile = { rows: 128, tokens: 64, columns: 64 } as const;
const warps = { rows: 4, tokens: 2 } as const;
export const tensorThreads = warps.rows * warps.tokens * 32;
/** What each warp makes of it: tiles of 16 rows by 8 tokens. */
const own = {
  rows: tensorTile.rows / warps.rows / 16,
  tokens: tensorTile.tokens / warps.tokens / 8,
} as const;
/** Sixteen columns are one step of the tensor cores. */
const steps = tensorTile.columns / 16;

/** Whether tensor cores can read a matrix of this format without losing anything: in bf16, a scale for each step. */
export const tensorReads = ({ dtype, block, zero }: Format): boolean =>
  !zero && (dtype === "bf16" || ((dtype === "i8" || dtype === "i4") && block % 16 === 0));

/** The bf16 that is `x` cut off, as the upper half of its bits; and what is left of it. */
const high = (x: Expr<"f32">): Expr<"u32"> => x.bits("u32").and(0xffff0000);
/** Two numbers that bf16 holds, or is cut off to, in one word: the first in the lower half. */
const pairOf = (a: Expr<"f32">, b: Expr<"f32">): Expr<"u32"> => a.bits("u32").shr(16).or(high(b));

/** Words that a thread reads of a tile for one step: four columns of a row. */
function fourColumns(
  format: Format,
  tile: Readable<"u32">,
  row: Expr<"u32">,
  step: number,
  t: Expr<"u32">,
): [Expr<"u32">, Expr<"u32">] {
  const at = row.mul(pitchOf(format));
  if (format.dtype === "bf16") {
    const word = at.add(step * 8).add(t.mul(2));
    return [tile.at(word), tile.at(word.add(1))];
  }
  let codes =
    format.dtype === "i8" ? tile.at(at.add(step * 4).add(t)) : tile.at(at.add(step * 2).add(t.div(2)));
  if (format.dtype === "i4") codes = codes.shr(t.mod(2).mul(16));
  const [a, b, c, d] = unpack(format.dtype === "i8" ? "i8x4" : "i4x4.low", codes).lanes() as Expr<"f32">[];
  return [pairOf(a as Expr<"f32">, b as Expr<"f32">), pairOf(c as Expr<"f32">, d as Expr<"f32">)];
}
/** Words from one row of a tile to the next: so many more than needed that eight rows fall on different banks. */
const pitchOf = ({ dtype }: Format): number =>
  (tensorTile.columns * bits[dtype]) / 32 + (dtype === "bf16" ? 8 : 4);
const xPitch = tensorTile.columns / 2 + 8;

/**
 * Many vectors by one matrix on tensor cores, y = x·Wᵀ. Weights become bf16 in registers, exactly; x is the sum of two
 * bf16, with `exact`, so that 16 bits of it count, else one. The next tile is on its way while this one is multiplied.
 */
export function gemmTensor(s: GemmShape, exact: boolean): Kernel {
  const { gate, residual } = s.epilogue;
  const threads = tensorThreads;
  const doc =
    `y = ${residual ? "residual + " : ""}${gate ? `${gate}(x·Aᵀ) · (x·Bᵀ), A above B` : "x·Wᵀ"} for each token, on tensor ` +
    `cores, x as ${exact ? "two bf16" : "bf16"}`;
  const name = `${gemmName(s).replace("gemm_", "gemm_tensor_")}${exact ? "" : "_rough"}`;
  return kernel(name, { doc, threads }, (k) => {
    const x = k.input("x", "f32x4");
    const matrix = new Matrix(k, s.format, s.columns);
    const added = residual ? k.input("residual", "f32") : undefined;
    const y = k.output("y", "f32");
    const tokens = k.uniform("tokens");
    const parts = exact ? 2 : 1;
    const wTile = k.shared("w_tile", "u32", tensorTile.rows * pitchOf(s.format));
    const xTiles = range(parts).map((p) => k.shared(`x_tile${p || ""}`, "u32", tensorTile.tokens * xPitch));

    const rowsOfGroup = gate ? tensorTile.rows / 2 : tensorTile.rows;
    const firstRow = k.let("first_row", k.group.x.mul(rowsOfGroup));
    const firstToken = k.let("first_token", k.group.y.mul(tensorTile.tokens));
    const [warp, lane] = [k.let("warp", k.thread.div(32)), k.let("lane", k.thread.mod(32))];
    const [g, t] = [k.let("g", lane.div(4)), k.let("t", lane.mod(4))];
    const warpRow = k.let("warp_row", warp.mod(warps.rows).mul(own.rows * 16));
    const warpToken = k.let("warp_token", warp.div(warps.rows).mul(own.tokens * 8));
    const sums = range(own.rows).map((i) => range(own.tokens).map((j) => k.zero(`sum${i}${j}`, "f32x4")));

    const loader = new Loader(k, s, { x, matrix, wTile, xTiles, firstRow, firstToken, tokens });
    loader.fetch(literal("u32", 0));
    const count = Math.ceil(s.columns / tensorTile.columns);
    k.for("start", { to: count }, (start) => {
      k.barrier();
      loader.store();
      k.barrier();
      loader.fetch(start.add(1).min(count - 1));
      // Codes with scales by block: the sums of a block first.
      const scaled = s.format.block > 0 && !matrix.rowScale;
      const each = scaled ? Math.min(steps, s.format.block / 16) : steps;
      for (let step = 0; step < steps; step += each) {
        const of = scaled
          ? range(own.rows).map((i) => range(own.tokens).map((j) => k.zero(`part${i}${j}`, "f32x4")))
          : sums;
        for (const inner of range(each)) {
          const at = step + inner;
          const xs = range(own.tokens).map((j) => {
            const word = warpToken
              .add(j * 8)
              .add(g)
              .mul(xPitch)
              .add(at * 8)
              .add(t.mul(2));
            return xTiles.map(
              (tile, p) =>
                [
                  k.let(`x${j}${"ab"[p]}`, tile.at(word)),
                  k.let(`x${j}${"cd"[p]}`, tile.at(word.add(1))),
                ] as const,
            );
          });
          for (const i of range(own.rows)) {
            const row = warpRow.add(i * 16).add(g);
            const [low, above] = [
              fourColumns(s.format, wTile, row, at, t),
              fourColumns(s.format, wTile, row.add(8), at, t),
            ];
            const w = [low[0], above[0], low[1], above[1]].map((e, n) =>
              k.let(`w${i}${n}`, e),
            ) as unknown as readonly [Expr<"u32">, Expr<"u32">, Expr<"u32">, Expr<"u32">];
            xs.forEach((words, j) => {
              for (const b of words) k.mma(of[i]?.[j] as Var<"f32x4">, w, b);
            });
          }
        }
        if (!scaled) continue;
        for (const i of range(own.rows)) {
          const scales = [0, 8].map((up) => {
            const row = loader.rowOf(warpRow.add(i * 16 + up).add(g));
            const column = start
              .mul(tensorTile.columns)
              .add(step * 16)
              .min(s.columns - 16);
            return k.let(`scale${i}${up ? "b" : "a"}`, matrix.scaleAt(row, column) as Expr<"f32">);
          }) as [Expr<"f32">, Expr<"f32">];
          for (const j of range(own.tokens)) {
            const [sum, part] = [sums[i]?.[j], of[i]?.[j]] as [Var<"f32x4">, Var<"f32x4">];
            sum.inc(part.mul(spread(scales[0], scales[1])));
          }
        }
      }
    });
    write(k, s, { matrix, sums, added, y, tokens, firstRow, firstToken, warpRow, warpToken, g, t });
  });
}

const spread = (a: Expr<"f32">, b: Expr<"f32">): Expr<"f32x4"> => quad(a, a, b, b);

interface Tiles {
  readonly x: Readable<"f32x4">;
  readonly matrix: Matrix;
  readonly wTile: Writable<"u32">;
  readonly xTiles: readonly Writable<"u32">[];
  readonly firstRow: Expr<"u32">;
  readonly firstToken: Expr<"u32">;
  readonly tokens: Expr<"u32">;
}

/** Brings tiles from memory to registers, and from there to where the group reads them. */
class Loader {
  readonly #k: KernelBuilder;
  readonly #s: GemmShape;
  readonly #tiles: Tiles;
  readonly #codes: readonly Var<"u32x4">[];
  readonly #xs: readonly Var<"f32x4">[];
  /** 16-byte pieces of a row in one tile. */
  readonly #pieces: number;

  constructor(k: KernelBuilder, s: GemmShape, tiles: Tiles) {
    this.#k = k;
    this.#s = s;
    this.#tiles = tiles;
    this.#pieces = tensorTile.columns / tiles.matrix.step;
    this.#codes = range((tensorTile.rows * this.#pieces) / tensorThreads).map((n) =>
      k.zero(`codes${n}`, "u32x4"),
    );
    this.#xs = range((tensorTile.tokens * tensorTile.columns) / 4 / tensorThreads).map((n) =>
      k.zero(`next${n}`, "f32x4"),
    );
  }

  /** The row of the matrix behind one of the tile: of gated ones each warp has 16 rows of either half. */
  rowOf(row: Expr<"u32">): Expr<"u32"> {
    const { rows, epilogue } = this.#s;
    const { firstRow } = this.#tiles;
    if (!epilogue.gate) return firstRow.add(row).min(rows - 1);
    const base = row.div(32).mul(16).add(row.mod(16));
    return firstRow
      .add(base)
      .min(rows - 1)
      .add(row.mod(32).div(16).mul(rows));
  }

  fetch(start: Expr<"u32">): void {
    const { x, matrix, firstToken, tokens } = this.#tiles;
    const width = this.#s.columns / 4;
    this.#codes.forEach((codes, n) => {
      const i = this.#k.thread.add(n * tensorThreads);
      const piece = this.#k.let(`piece${n}`, start.mul(this.#pieces).add(i.mod(this.#pieces)));
      const whole = matrix.pieces % this.#pieces === 0;
      const loaded = matrix.load(
        this.rowOf(i.div(this.#pieces)),
        whole ? piece : piece.min(matrix.pieces - 1),
      );
      codes.set(whole ? loaded : select(piece.lt(matrix.pieces), loaded, literal("u32x4", 0)));
    });
    this.#xs.forEach((next, n) => {
      const i = this.#k.thread.add(n * tensorThreads);
      const [token, at] = [i.div(16), this.#k.let(`quad${n}`, start.mul(16).add(i.mod(16)))];
      const whole = width % 16 === 0;
      const row = firstToken.add(token).min(tokens.sub(1)).mul(width);
      const loaded = x.at(row.add(whole ? at : at.min(width - 1)));
      next.set(whole ? loaded : select(at.lt(width), loaded, literal("f32x4", 0)));
    });
  }

  store(): void {
    const { wTile, xTiles } = this.#tiles;
    this.#codes.forEach((codes, n) => {
      const i = this.#k.thread.add(n * tensorThreads);
      const at = i.div(this.#pieces).mul(pitchOf(this.#s.format)).add(i.mod(this.#pieces).mul(4));
      const to = this.#k.let(`to${n}`, at);
      codes.lanes().forEach((word, l) => void wTile.set(to.add(l), word));
    });
    this.#xs.forEach((next, n) => {
      const i = this.#k.thread.add(n * tensorThreads);
      const to = this.#k.let(`to_x${n}`, i.div(16).mul(xPitch).add(i.mod(16).mul(2)));
      const all = next.lanes() as Expr<"f32">[];
      const rounded = (e: Expr<"f32">) => e.bits("u32").add(0x8000).bits("f32");
      const near = all.map((e, l) => this.#k.let(`near${n}${"abcd"[l]}`, rounded(e)));
      const left = all.map((e, l) => rounded(e.sub(high(near[l] as Expr<"f32">).bits("f32"))));
      xTiles.forEach((tile, p) => {
        const words = p === 0 ? near : left;
        for (const w of [0, 1])
          tile.set(to.add(w), pairOf(words[2 * w] as Expr<"f32">, words[2 * w + 1] as Expr<"f32">));
      });
    });
  }
}

interface Written {
  readonly matrix: Matrix;
  readonly sums: readonly (readonly Var<"f32x4">[])[];
  readonly added: Readable<"f32"> | undefined;
  readonly y: Writable<"f32">;
  readonly tokens: Expr<"u32">;
  readonly firstRow: Expr<"u32">;
  readonly firstToken: Expr<"u32">;
  readonly warpRow: Expr<"u32">;
  readonly warpToken: Expr<"u32">;
  readonly g: Expr<"u32">;
  readonly t: Expr<"u32">;
}

/** What comes after the product, and where it goes. */
function write(k: KernelBuilder, s: GemmShape, w: Written): void {
  const { matrix, sums, added, y, tokens } = w;
  const { gate } = s.epilogue;
  const scaleOf = (row: Expr<"u32">) =>
    matrix.rowScale ? matrix.scale(row, literal("u32", 0), 0) : undefined;
  for (const i of range(gate ? 1 : own.rows))
    for (const up of [0, 8]) {
      const inWarp = gate ? w.warpRow.div(2) : w.warpRow.add(i * 16);
      const row = k.let("row", w.firstRow.add(inWarp).add(w.g).add(up));
      k.if(row.lt(s.rows), () => {
        const scales = range(gate ? 2 : 1).map((h) => {
          const scale = scaleOf(row.add(h * s.rows));
          return scale && k.let(`scale${h || ""}`, scale);
        });
        for (const j of range(own.tokens))
          for (const odd of [0, 1]) {
            const token = k.let(
              "token",
              w.firstToken
                .add(w.warpToken)
                .add(j * 8 + odd)
                .add(w.t.mul(2)),
            );
            k.if(token.lt(tokens), () => {
              const lane = up / 4 + odd;
              const [first, second] = range(gate ? 2 : 1).map((h) => {
                const acc = sums[gate ? h : i]?.[j] as Var<"f32x4">;
                const sum = acc.lane(lane) as Expr<"f32">;
                return scales[h] ? sum.mul(scales[h]) : sum;
              }) as [Expr<"f32">, Expr<"f32">];
              let value = gate ? activations[gate](k.let("gate", first)).mul(second) : first;
              if (s.epilogue.softcap) value = softcap(value, s.epilogue.softcap);
              const place = k.let("place", token.mul(s.rows).add(row));
              y.set(place, added ? added.at(place).add(value) : value);
            });
          }
      });
    }
}

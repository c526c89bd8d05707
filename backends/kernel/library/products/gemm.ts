import {
  type Expr,
  type Kernel,
  type KernelBuilder,
  kernel,
  literal,
  range,
  select,
  u32,
  type Var,
} from "../../lang/index.ts";
import { type Format, formatName, Matrix } from "../format.ts";
import { activations, softcap } from "../math.ts";
import { type Cut, type Epilogue, epilogueName } from "./gemv.ts";

export interface GemmShape {
  /** Columns of the result: half of the matrix's rows where it is gated. */
  readonly rows: number;
  readonly columns: number;
  readonly format: Format;
  readonly epilogue: Epilogue;
  /** The matrix comes in pieces: the launch says which rows are bound. Not where it is gated. */
  readonly cut?: boolean;
  /** x is rounded to bf16 first, where tensor cores multiply it. */
  readonly rounds?: boolean;
  /** y is left in so many parts of bf16, as tensor cores read it next: see `toBf16`. Not with a residual. */
  readonly leaves?: 1 | 2;
}

export const gemmName = (s: GemmShape): string =>
  `gemm_${formatName(s.format)}_${s.columns}_to_${s.rows}${epilogueName(s.epilogue)}${s.cut ? "_cut" : ""}`;

/** Each thread makes a square of this side. */
const side = 4;
/** Columns that are looked at in one go. Halves take half the memory, so twice as many of them fit. */
const depths = { f32: 32, f16: 64 } as const;

/** Tokens and rows of the matrix that one group covers: as square as its threads allow. */
export function tileOf(threads: number): { readonly tokens: number; readonly rows: number } {
  const across = 2 ** Math.ceil(Math.log2(threads) / 2);
  return { tokens: (threads / across) * side, rows: across * side };
}

/**
 * Many vectors by one matrix: y = x·Wᵀ for x [tokens, columns], in tiles that groups hold in shared memory. With `halves`
 * it comes with a variant in f16.
 */
export function gemm(s: GemmShape, cut: Pick<Cut, "threads"> & { readonly halves?: boolean }): Kernel {
  if (s.epilogue.gate && s.cut)
    throw new TypeError(`${gemmName(s)}: halves of one matrix cannot be cut together`);
  const plain = tiled(s, cut.threads, "f32");
  return cut.halves ? { ...plain, half: tiled(s, cut.threads, "f16") } : plain;
}

/**
 * The product with tiles of `float`. In f16 each vector is scaled by a power of two so that its largest number lies in
 * [1, 2), and only the products of `depths.f16` columns are added up before they go into sums of f32: no x overflows, and
 * no matrix below 2000.
 */
function tiled(s: GemmShape, threads: number, float: "f32" | "f16"): Kernel {
  const { gate, residual } = s.epilogue;
  const doc =
    `y = ${residual ? "residual + " : ""}${gate ? `${gate}(x·Aᵀ) · (x·Bᵀ), A above B` : "x·Wᵀ"} for each token; ` +
    `${s.columns} columns of ${formatName(s.format)}`;
  return kernel(gemmName(s), { doc: float === "f16" ? `${doc}; tiles in halves` : doc, threads }, (k) => {
    const x = k.input("x", "f32x4");
    const matrix = new Matrix(k, s.format, s.columns);
    const added = residual ? k.input("residual", "f32") : undefined;
    const y = k.output("y", "f32");
    const tokens = k.uniform("tokens");
    const rows = s.cut ? k.uniform("rows") : s.rows;
    const before = s.cut ? k.uniform("rows_before") : undefined;

    const type = `${float}x4` as const;
    const depth = depths[float];
    const tile = tileOf(threads);
    const across = tile.rows / side;
    const quads = depth / 4;
    // One more than needed, so that neighbouring rows start in different banks.
    const pitch = quads + 1;
    const xs = k.shared("x_tile", type, tile.tokens * pitch);
    const halves = gate ? 2 : 1;
    const ws = range(halves).map((h) =>
      k.shared(halves > 1 ? `w_tile${h}` : "w_tile", type, tile.rows * pitch),
    );
    const firstToken = k.let("first_token", k.group.y.mul(tile.tokens));
    const firstRow = k.let("first_row", k.group.x.mul(tile.rows));
    const ownToken = k.let("own_token", k.thread.div(across).mul(side));
    const ownRow = k.let("own_row", k.thread.mod(across).mul(side));
    /** One for each product of a token and a row of the thread's square, for each half. */
    const accumulators = <T extends "f32x4" | "f16x4">(name: string, of: T): Var<T>[] =>
      range(halves * side * side).map((n) => k.zero(`${name}${n}`, of));
    const squareAt = (h: number, i: number, j: number) => (h * side + i) * side + j;
    const sums = accumulators("sum", "f32x4");
    const width = s.columns / 4;
    const load = (row: Expr<"u32">, quad: Expr<"u32">) =>
      x.at(firstToken.add(row).min(tokens.sub(1)).mul(width).add(quad));
    const powers = float === "f16" ? powersOfTwo(k, tile.tokens, width, load) : undefined;

    k.for("start", { to: Math.ceil(s.columns / depth) }, (start) => {
      k.comment("The next columns of these tokens and of these rows of the matrix.");
      k.for("i", { from: k.thread, to: tile.tokens * quads, step: threads }, (i) => {
        const [row, quad] = [i.div(quads), i.mod(quads)];
        const at = start.mul(quads).add(quad);
        const loaded = load(row, width % quads === 0 ? at : at.min(width - 1));
        const whole = width % quads === 0 ? loaded : select(at.lt(width), loaded, literal("f32x4", 0));
        xs.set(row.mul(pitch).add(quad), (powers ? whole.mul(powers.below(row)) : whole).to(type));
      });
      const pieces = depth / matrix.step;
      k.for("i", { from: k.thread, to: tile.rows * pieces, step: threads }, (i) => {
        const [own, part] = [k.let("tile_row", i.div(pieces)), k.let("tile_piece", i.mod(pieces))];
        const piece = k.let("piece", start.mul(pieces).add(part));
        ws.forEach((w, h) => {
          const row = k.let(
            "row",
            firstRow
              .add(own)
              .min(typeof rows === "number" ? rows - 1 : rows.sub(1))
              .add(h * s.rows),
          );
          const inside = matrix.pieces % pieces === 0 ? piece : piece.min(matrix.pieces - 1);
          const codes = k.let("codes", matrix.load(row, inside));
          const perGranule = matrix.granule / 4;
          matrix.unpack(codes).forEach((value, j) => {
            const g = Math.floor(j / perGranule);
            const zero = matrix.zero(row, inside, g);
            const scale = matrix.rowScale ? undefined : matrix.scale(row, inside, g);
            const shifted = zero ? value.sub(zero) : value;
            w.set(
              own
                .mul(pitch)
                .add(part.mul(matrix.step / 4))
                .add(j),
              (scale ? shifted.mul(scale) : shifted).to(type),
            );
          });
        });
      });
      k.barrier();
      const parts = (float === "f32" ? sums : accumulators("part", type)) as Var<"f32x4">[];
      k.for("quad", { to: quads }, (quad) => {
        const left = range(side).map((i) => k.let(`left${i}`, xs.at(ownToken.add(i).mul(pitch).add(quad))));
        ws.forEach((w, h) => {
          range(side).forEach((j) => {
            const right = k.let(`right${h ? "b" : ""}${j}`, w.at(ownRow.add(j).mul(pitch).add(quad)));
            for (const i of range(side))
              parts[squareAt(h, i, j)]?.inc((left[i] as Expr<"f32x4">).mul(right as Expr<"f32x4">));
          });
        });
      });
      if (parts !== sums) sums.forEach((sum, n) => void sum.inc((parts[n] as Expr).to("f32x4")));
      k.barrier();
    });

    const at = (h: number, i: number, j: number) => sums[squareAt(h, i, j)]?.sum() as Expr<"f32">;
    range(side).forEach((j) => {
      const row = k.let(`row${j}`, firstRow.add(ownRow).add(j));
      k.if(row.lt(rows), () => {
        const scaleOf = (h: number) =>
          matrix.rowScale ? matrix.scale(row.add(h * s.rows), literal("u32", 0), 0) : undefined;
        const scales = range(halves).map((h) => {
          const scale = scaleOf(h);
          return scale && k.let(`scale${h || ""}`, scale);
        });
        range(side).forEach((i) => {
          const token = k.let("token", firstToken.add(ownToken).add(i));
          k.if(token.lt(tokens), () => {
            const [first, second] = range(halves).map((h) => {
              const factors = [scales[h], powers?.of(ownToken.add(i))];
              return factors.reduce<Expr<"f32">>((sum, f) => (f ? sum.mul(f) : sum), at(h, i, j));
            }) as [Expr<"f32">, Expr<"f32">];
            let value = gate ? activations[gate](k.let("gate", first)).mul(second) : first;
            if (s.epilogue.softcap) value = softcap(value, s.epilogue.softcap);
            const column = before ? row.add(before) : row;
            const place = k.let("place", token.mul(s.rows).add(column));
            y.set(place, added ? added.at(place).add(value) : value);
          });
        });
      });
    });
  });
}

/**
 * For each of the `rows` of x that a group works on, the power of two at or below its largest number: `of` it, and one over
 * it, `below`.
 */
function powersOfTwo(
  k: KernelBuilder,
  rows: number,
  width: number,
  load: (row: Expr<"u32">, quad: Expr<"u32">) => Expr<"f32x4">,
) {
  const exponents = k.shared("exponents", "u32", rows);
  const lanes = Math.min(8, k.threads);
  const teams = k.threads / lanes;
  k.comment("The exponent of the largest number of each of these tokens.");
  k.for("round", { to: rows / teams }, (round) => {
    const row = k.let("scaled_row", round.mul(teams).add(k.thread.div(lanes)));
    const most = k.zero("most", "f32");
    k.for("quad", { from: k.thread.mod(lanes), to: width, step: lanes }, (quad) => {
      const numbers = k.let("numbers", load(row, quad)).lanes();
      most.set(numbers.reduce<Expr<"f32">>((m, x) => m.max(x.abs()), most));
    });
    const [largest] = k.reduce("max", [{ name: "largest", value: most }], lanes);
    k.if(k.thread.mod(lanes).eq(0), () => exponents.set(row, (largest ?? most).bits("u32").and(0x7f800000)));
  });
  k.barrier();
  return {
    of: (row: Expr<"u32">) => exponents.at(row).bits("f32"),
    below: (row: Expr<"u32">) => u32(0x7f000000).sub(exponents.at(row)).bits("f32"),
  };
}

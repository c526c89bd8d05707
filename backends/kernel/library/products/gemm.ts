import { type Expr, type Kernel, kernel, literal, range, select } from "../../lang/index.ts";
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
}

export const gemmName = (s: GemmShape): string =>
  `gemm_${formatName(s.format)}_${s.columns}_to_${s.rows}${epilogueName(s.epilogue)}${s.cut ? "_cut" : ""}`;

/** Each thread makes a square of this side. */
const side = 4;
/** Columns that are looked at in one go. */
const depth = 32;

/** Tokens and rows of the matrix that one group covers: as square as its threads allow. */
export function tileOf(threads: number): { readonly tokens: number; readonly rows: number } {
  const across = 2 ** Math.ceil(Math.log2(threads) / 2);
  return { tokens: (threads / across) * side, rows: across * side };
}

/** Many vectors by one matrix: y = x·Wᵀ for x [tokens, columns], in tiles that groups hold in shared memory. */
export function gemm(s: GemmShape, cut: Pick<Cut, "threads">): Kernel {
  const { gate, residual } = s.epilogue;
  if (gate && s.cut) throw new TypeError(`${gemmName(s)}: halves of one matrix cannot be cut together`);
  const doc =
    `y = ${residual ? "residual + " : ""}${gate ? `${gate}(x·Aᵀ) · (x·Bᵀ), A above B` : "x·Wᵀ"} for each token; ` +
    `${s.columns} columns of ${formatName(s.format)}`;
  return kernel(gemmName(s), { doc, threads: cut.threads }, (k) => {
    const x = k.input("x", "f32x4");
    const matrix = new Matrix(k, s.format, s.columns);
    const added = residual ? k.input("residual", "f32") : undefined;
    const y = k.output("y", "f32");
    const tokens = k.uniform("tokens");
    const rows = s.cut ? k.uniform("rows") : s.rows;
    const before = s.cut ? k.uniform("rows_before") : undefined;

    const tile = tileOf(cut.threads);
    const across = tile.rows / side;
    const quads = depth / 4;
    // One more than needed, so that neighbouring rows start in different banks.
    const pitch = quads + 1;
    const xs = k.shared("x_tile", "f32x4", tile.tokens * pitch);
    const halves = gate ? 2 : 1;
    const ws = range(halves).map((h) =>
      k.shared(halves > 1 ? `w_tile${h}` : "w_tile", "f32x4", tile.rows * pitch),
    );
    const firstToken = k.let("first_token", k.group.y.mul(tile.tokens));
    const firstRow = k.let("first_row", k.group.x.mul(tile.rows));
    const ownToken = k.let("own_token", k.thread.div(across).mul(side));
    const ownRow = k.let("own_row", k.thread.mod(across).mul(side));
    const sums = range(halves).map((h) =>
      range(side).map((i) => range(side).map((j) => k.zero(`sum${h ? "b" : ""}${i}${j}`, "f32x4"))),
    );
    const width = s.columns / 4;

    k.for("start", { to: Math.ceil(s.columns / depth) }, (start) => {
      k.comment("The next columns of these tokens and of these rows of the matrix.");
      k.for("i", { from: k.thread, to: tile.tokens * quads, step: cut.threads }, (i) => {
        const [row, quad] = [i.div(quads), i.mod(quads)];
        const at = start.mul(quads).add(quad);
        const token = firstToken.add(row).min(tokens.sub(1));
        const loaded = x.at(
          token.mul(width).add(width * 4 === s.columns && width % quads === 0 ? at : at.min(width - 1)),
        );
        const whole = width % quads === 0 ? loaded : select(at.lt(width), loaded, literal("f32x4", 0));
        xs.set(row.mul(pitch).add(quad), whole);
      });
      const pieces = depth / matrix.step;
      k.for("i", { from: k.thread, to: tile.rows * pieces, step: cut.threads }, (i) => {
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
              scale ? shifted.mul(scale) : shifted,
            );
          });
        });
      });
      k.barrier();
      k.for("quad", { to: quads }, (quad) => {
        const left = range(side).map((i) => k.let(`left${i}`, xs.at(ownToken.add(i).mul(pitch).add(quad))));
        ws.forEach((w, h) => {
          range(side).forEach((j) => {
            const right = k.let(`right${h ? "b" : ""}${j}`, w.at(ownRow.add(j).mul(pitch).add(quad)));
            for (const i of range(side)) sums[h]?.[i]?.[j]?.inc((left[i] as Expr<"f32x4">).mul(right));
          });
        });
      });
      k.barrier();
    });

    const at = (h: number, i: number, j: number) => sums[h]?.[i]?.[j]?.sum() as Expr<"f32">;
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
              const scale = scales[h];
              return scale ? at(h, i, j).mul(scale) : at(h, i, j);
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

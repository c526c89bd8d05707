import { type Kernel, kernel, range } from "../lang/index.ts";
import { type Format, formatName, Matrix, numberName } from "./format.ts";

export interface EmbedShape {
  readonly columns: number;
  readonly format: Format;
  /** Each number of a row is multiplied by it. */
  readonly scale: number;
  /** Pieces of the table that a launch binds; 0 where it is whole. The launch says which rows each has. */
  readonly pieces: number;
}

/** One group for each token: its row of a table, times a number. */
export function embed(s: EmbedShape, threads: number): Kernel {
  const scale = s.scale === 1 ? "" : `_times${numberName(s.scale)}`;
  const pieces = s.pieces ? `_pieces${s.pieces}` : "";
  const name = `embed_${formatName(s.format)}_${s.columns}${scale}${pieces}`;
  const doc = `each token's row of ${s.columns}${s.scale === 1 ? "" : `, times ${s.scale}`}${s.pieces ? "; of the rows in these pieces of the table" : ""}`;
  return kernel(name, { doc, threads }, (k) => {
    const bound = range(s.pieces || 1).map(() => ({
      matrix: new Matrix(k, s.format, s.columns),
      first: s.pieces ? k.uniform("first_row") : undefined,
      rows: s.pieces ? k.uniform("rows") : undefined,
    }));
    const step = k.input("step", "i32");
    const y = k.output("y", "f32x4");
    const token = k.let("id", step.at(k.group.x.add(k.uniform("ids_at"))).to("u32"));
    for (const { matrix, first, rows } of bound) {
      const row = first ? k.let("row", token.sub(first)) : token;
      const write = () =>
        k.for("piece", { from: k.thread, to: matrix.pieces, step: threads }, (piece) => {
          const codes = k.let("codes", matrix.load(row, piece));
          const perGranule = matrix.granule / 4;
          matrix.unpack(codes).forEach((value, j) => {
            const g = Math.floor(j / perGranule);
            const zero = matrix.zero(row, piece, g);
            const factor = matrix.scale(row, piece, g);
            const shifted = zero ? value.sub(zero) : value;
            const whole = factor ? shifted.mul(factor) : shifted;
            const quad = piece.mul(matrix.step / 4).add(j);
            const set = () =>
              y.set(k.group.x.mul(s.columns / 4).add(quad), s.scale === 1 ? whole : whole.mul(s.scale));
            if (matrix.padded) k.if(quad.lt(s.columns / 4), set);
            else set();
          });
        });
      // A row before the first wraps around to a large number, so one comparison does.
      if (rows) k.if(row.lt(rows), write);
      else write();
    }
  });
}

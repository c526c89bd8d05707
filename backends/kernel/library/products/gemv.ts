import {
  type Expr,
  type Kernel,
  type KernelBuilder,
  kernel,
  literal,
  range,
  select,
  u32,
} from "../../lang/index.ts";
import { type Format, formatName, Matrix, numberName } from "../format.ts";
import { type Activation, activations, softcap } from "../math.ts";
import { type InputNorm, type InputVector, inputNormDoc, inputNormName, inputVector } from "../norm.ts";

/** How the work of a product is laid over threads. */
export interface Cut {
  readonly threads: number;
  /** Neighbouring threads that share a row. */
  readonly lanes: number;
  /** Load the first weights before earlier kernels are done. */
  readonly prefetch: boolean;
}

/** What is done with each number of a product before it is stored. */
export interface Epilogue {
  /** Rows come in two halves: activation(first) · second. */
  readonly gate?: Activation;
  readonly softcap?: number;
  /** Added at the end. */
  readonly residual?: boolean;
}

export interface GemvShape {
  /** Rows of the result: half of the matrix's where it is gated. "uniform" where the launch says how many. */
  readonly rows: number | "uniform";
  /** Pieces of the matrix that a launch binds, 1 when left out. It says at which row each but the first begins, from its own first. */
  readonly pieces?: number;
  readonly columns: number;
  readonly format: Format;
  readonly norm?: InputNorm;
  /** x is a row of a matrix; the launch says which. */
  readonly pickRow?: boolean;
  readonly epilogue: Epilogue;
}

export const epilogueName = ({ gate, softcap: cap, residual }: Epilogue): string =>
  `${gate ? `_${gate}` : ""}${cap ? `_cap${numberName(cap)}` : ""}${residual ? "_add" : ""}`;

export const gemvName = (s: GemvShape): string =>
  `gemv_${formatName(s.format)}_${s.columns}_to_${s.rows === "uniform" ? "n" : s.rows}${(s.pieces ?? 1) > 1 ? `_pieces${s.pieces}` : ""}${s.pickRow ? "_row" : ""}` +
  `${s.norm ? inputNormName(s.norm) : ""}${epilogueName(s.epilogue)}`;

/** Neighbouring threads that share a row: no more than it has pieces. */
export const lanesFor = (cut: Cut, pieces: number): number =>
  Math.min(cut.lanes, 2 ** Math.floor(Math.log2(Math.max(1, pieces))));

/** Rows that one thread works on at a time: they share what it reads of x. */
export const rowsAtOnce = (gated: boolean): number => (gated ? 2 : 4);

/** Rows of the result that one group makes. */
export function rowsOfGroup(s: GemvShape, cut: Cut): number {
  const step = 128 / bitsOf(s.format);
  const teams = cut.threads / lanesFor(cut, Math.ceil(s.columns / step));
  return teams * rowsAtOnce(s.epilogue.gate !== undefined);
}
const bitsOf = (f: Format): number => ({ f32: 32, f16: 16, bf16: 16, i8: 8, i4: 4 })[f.dtype];

/**
 * To have more groups of 128 threads at once, ptxas spills some registers where weights are codes; four have 32 KB of weights on
 * their way.
 */
export const groupsAtOnce = ({ block }: Format, { threads }: Cut): { readonly atOnce?: number } =>
  threads === 128 && block > 0 ? { atOnce: 4 } : {};

/** Matrix times vector: y = W·x, with what comes before and after it. */
export function gemv(s: GemvShape, cut: Cut): Kernel {
  const { gate, residual } = s.epilogue;
  const doc =
    `y = ${residual ? "residual + " : ""}${gate ? `${gate}(A·x) · (B·x), A above B` : "W·x"}` +
    `${s.norm ? `, x ${inputNormDoc(s.norm)}` : ""}; ${s.columns} columns of ${formatName(s.format)}`;
  return kernel(gemvName(s), { doc, threads: cut.threads, ...groupsAtOnce(s.format, cut) }, (k) => {
    const x = inputVector(k, s.columns, s.norm);
    const { pieces = 1 } = s;
    const matrix = new Matrix(k, s.format, s.columns, pieces);
    const begins = range(pieces - 1).map(() => k.uniform("begins"));
    const added = residual ? k.input("residual", "f32") : undefined;
    const y = k.output("y", "f32");
    const rows = s.rows === "uniform" ? k.uniform("rows") : s.rows;
    const picked = s.pickRow ? k.uniform("row").mul(s.columns / 4) : undefined;

    const lanes = lanesFor(cut, matrix.pieces);
    const each = rowsAtOnce(gate !== undefined);
    const team = k.group.x.mul(cut.threads / lanes).add(k.thread.div(lanes));
    const first = k.let("first_row", team.mul(each));
    const guarded = typeof rows !== "number" || rows % (each * (cut.threads / lanes)) !== 0;
    const last = typeof rows === "number" ? rows - 1 : rows.sub(1);
    const own = range(each).map((r) => {
      const row = first.add(r);
      return guarded ? row.min(last) : row;
    });
    const wanted = gate ? [...own, ...own.map((row) => row.add(rows))] : own;
    // Pieces begin at multiples of what a group makes.
    const piece = { which: u32(0), begin: u32(0) };
    for (const begin of begins) {
      const reached = begin.le(k.group.x.mul(each * (cut.threads / lanes)));
      piece.which = select(reached, piece.which.add(1), piece.which);
      piece.begin = select(reached, begin, piece.begin);
    }
    matrix.which = k.let("which", piece.which);
    const begin = k.let("begin", piece.begin);
    const named = wanted.map((row, r) => k.let(`row${r}`, row.sub(begin)));
    const sums = products(k, { x, offset: picked, matrix, lanes, prefetch: cut.prefetch }, named);

    k.if(k.thread.mod(lanes).eq(0), () => {
      for (const r of range(each)) {
        const store = () => {
          let value = sums[r] as Expr<"f32">;
          if (gate) value = activations[gate](k.let(`gate${r}`, value)).mul(sums[each + r] as Expr<"f32">);
          if (s.epilogue.softcap) value = softcap(value, s.epilogue.softcap);
          const row = first.add(r);
          y.set(row, added ? added.at(row).add(value) : value);
        };
        if (guarded) k.if(first.add(r).lt(rows), store);
        else store();
      }
    });
  });
}

export interface Products {
  readonly x: InputVector;
  /** Where x starts, in fours. */
  readonly offset: Expr<"u32"> | undefined;
  readonly matrix: Matrix;
  readonly lanes: number;
  readonly prefetch: boolean;
}

/**
 * The products of x with some rows, summed over the lanes that share them. The root mean square that a norm divides
 * by comes out of the same walk over x, and is applied at the end.
 */
export function products(k: KernelBuilder, p: Products, rows: readonly Expr<"u32">[]): Expr<"f32">[] {
  const { matrix, lanes } = p;
  const lane = k.let("lane", k.thread.mod(lanes));
  const sums = rows.map((_, r) => k.zero(`sum${r}`, "f32x4"));
  const squares = p.x.scale && k.zero("squares", "f32x4");
  const quads = matrix.step / 4;
  const lastQuad = p.matrix.columns / 4 - 1;
  const ahead = p.prefetch ? rows.map((row, r) => k.var(`codes${r}`, matrix.load(row, lane))) : undefined;
  if (p.prefetch) k.await();
  p.x.begin();

  k.for("piece", { from: lane, to: matrix.pieces, step: lanes }, (piece) => {
    const xs = range(quads).map((j) => {
      const quad = piece.mul(quads).add(j);
      const at = matrix.padded ? quad.min(lastQuad) : quad;
      const loaded = p.x.at(p.offset ? p.offset.add(at) : at);
      const whole = matrix.padded ? select(quad.le(lastQuad), loaded, literal("f32x4", 0)) : loaded;
      const value = k.let(`x${j}`, whole);
      if (!p.x.scale || !squares) return value;
      squares.inc(value.mul(value));
      return k.let(`scaled${j}`, value.mul(p.x.scale.at(at)));
    });
    const perGranule = matrix.granule / 4;
    const granules = quads / perGranule;
    const totals = matrix.format.zero
      ? range(granules).map((g) =>
          k.let(
            `total${g}`,
            range(perGranule)
              .map((j) => xs[g * perGranule + j] as Expr<"f32x4">)
              .reduce((a, b) => a.add(b)),
          ),
        )
      : [];
    rows.forEach((row, r) => {
      const loaded = ahead ? (ahead[r] as Expr<"u32x4">) : k.let(`codes${r}`, matrix.load(row, piece));
      const w = matrix.unpack(loaded);
      for (const g of range(granules)) {
        let part = range(perGranule)
          .map((j) => (w[g * perGranule + j] as Expr<"f32x4">).mul(xs[g * perGranule + j] as Expr<"f32x4">))
          .reduce((a, b) => a.add(b));
        const zero = matrix.zero(row, piece, g);
        if (zero) part = part.sub((totals[g] as Expr<"f32x4">).mul(zero));
        const scale = matrix.rowScale ? undefined : matrix.scale(row, piece, g);
        sums[r]?.inc(scale ? part.mul(scale) : part);
      }
    });
    ahead?.forEach((codes, r) => {
      const next = piece.add(lanes).min(matrix.pieces - 1);
      codes.set(matrix.load(rows[r] as Expr<"u32">, next));
    });
  });

  const parts = rows.map((_, r) => ({ name: `product${r}`, value: (sums[r] as Expr<"f32x4">).sum() }));
  if (squares) parts.push({ name: "square", value: squares.sum() });
  const done = k.reduce("+", parts, lanes);
  const square = squares && done.pop();
  const root = square && k.let("inverse_root", square.div(p.matrix.columns).add(p.x.eps).rsqrt());
  return done.map((sum, r) => {
    const scale = matrix.rowScale ? matrix.scale(rows[r] as Expr<"u32">, lane, 0) : undefined;
    const scaled = scale ? sum.mul(scale) : sum;
    return k.let(`value${r}`, root ? scaled.mul(root) : scaled);
  });
}

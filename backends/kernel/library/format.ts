import type { DType } from "../../../ir/type.ts";
import {
  type Expr,
  type KernelBuilder,
  packHalves,
  pair,
  quad,
  type Readable,
  range,
  select,
  type Type,
  u32,
  unpack,
  type Writable,
} from "../lang/index.ts";

/** How the elements of a matrix are stored. */
export interface Format {
  readonly dtype: "f32" | "f16" | "bf16" | "i8" | "i4";
  /** Columns that share a scale; 0 for floats. */
  readonly block: number;
  /** Whether each block has a zero point. */
  readonly zero: boolean;
  /** Whether scales are f16, two to a word; f32 when left out. */
  readonly halfScales?: boolean;
}

export const bits = { f32: 32, f16: 16, bf16: 16, i8: 8, i4: 4 } as const satisfies Record<
  Format["dtype"],
  number
>;
export const isStored = (d: DType): d is Format["dtype"] => Object.hasOwn(bits, d);

/** As part of a kernel's name: `bf16`, `i4b32z`. */
export const formatName = (f: Format): string =>
  `${f.dtype}${f.block ? `b${f.block}${f.halfScales ? "h" : ""}` : ""}${f.zero ? "z" : ""}`;

const quarter = (q: Expr<"u32x4">, i: number): Expr<"u32"> => q.lane(i);

/** The numbers in 16 bytes, in order, before any scale. */
const unpackers: { readonly [K in Format["dtype"]]: (q: Expr<"u32x4">) => Expr<"f32x4">[] } = {
  f32: (q) => [q.bits("f32x4")],
  f16: (q) => halves("f16x2", q),
  bf16: (q) => halves("bf16x2", q),
  i8: (q) => range(4).map((i) => unpack("i8x4", quarter(q, i))),
  i4: (q) => range(8).map((i) => unpack(i % 2 ? "i4x4.high" : "i4x4.low", quarter(q, Math.floor(i / 2)))),
};

function halves(packing: "f16x2" | "bf16x2", q: Expr<"u32x4">): Expr<"f32x4">[] {
  const pair = (i: number) => unpack(packing, quarter(q, i)).lanes();
  return range(2).map((i) => quad(...pair(2 * i), ...pair(2 * i + 1)));
}

/** Floats of which two fit a word. */
export type Half = "f16" | "bf16";
/** How words hold two numbers, the first in the lower half; rounded to nearest, ties to even. */
export const pairs = {
  f16: { pack: (a, b) => packHalves(pair(a, b)), unpack: (word) => unpack("f16x2", word).lanes() },
  bf16: {
    pack: (a, b) => packHalves(pair(a, b), "bf16x2"),
    unpack: (word) => unpack("bf16x2", word).lanes(),
  },
} as const satisfies Record<
  Half,
  {
    pack(a: Expr<"f32">, b: Expr<"f32">): Expr<"u32">;
    unpack(word: Expr<"u32">): readonly Expr<"f32">[];
  }
>;

/** A matrix of weights as a kernel reads it: 16 bytes at a time, its rows padded to that. */
export class Matrix {
  readonly format: Format;
  readonly columns: number;
  /** Elements in 16 bytes. */
  readonly step: number;
  /** 16-byte pieces of a row. */
  readonly pieces: number;
  /** Whether the last piece reaches past the columns. */
  readonly padded: boolean;
  /** For a matrix in several pieces: which of them rows are in, counted from its start. All threads of a group agree. */
  which: Expr<"u32"> = u32(0);
  readonly #k: KernelBuilder;
  readonly #codes: readonly Readable<"u32x4">[];
  readonly #scales: readonly Readable<"f32">[];
  readonly #halfScales: readonly Readable<"u32">[];
  readonly #zeros: readonly Readable<"u32">[];

  /** Declares the buffers `weight` and, for codes, `scales` and `zeros`; as many times as it has pieces. */
  constructor(k: KernelBuilder, format: Format, columns: number, pieces = 1) {
    this.#k = k;
    this.format = format;
    this.columns = columns;
    this.step = 128 / bits[format.dtype];
    this.pieces = Math.ceil(columns / this.step);
    this.padded = columns % this.step !== 0;
    const parts = range(pieces).map(() => ({
      codes: k.weight("weight", "u32x4"),
      scales: format.block && !format.halfScales ? [k.weight("scales", "f32")] : [],
      halfScales: format.halfScales ? [k.weight("scales", "u32")] : [],
      zeros: format.zero ? [k.weight("zeros", "u32")] : [],
    }));
    this.#codes = parts.map((p) => p.codes);
    this.#scales = parts.flatMap((p) => p.scales);
    this.#halfScales = parts.flatMap((p) => p.halfScales);
    this.#zeros = parts.flatMap((p) => p.zeros);
  }

  /** An element of the piece that rows are in; undefined where there are no such buffers. */
  #at<T extends Type>(name: string, type: T, all: readonly Readable<T>[], index: Expr<"u32">) {
    const [only, ...more] = all;
    if (!only || more.length === 0) return only?.at(index);
    const found = this.#k.zero(name, type);
    const from = (piece: number) => found.set((all[piece] as Readable<T>).at(index));
    const choose = (piece: number): void =>
      piece === more.length
        ? from(piece)
        : this.#k.if(
            this.which.eq(piece),
            () => from(piece),
            () => choose(piece + 1),
          );
    choose(0);
    return found;
  }

  /** Elements with one scale: a piece may span several blocks. */
  get granule(): number {
    return this.format.block ? Math.min(this.step, this.format.block) : this.step;
  }
  get #blocks(): number {
    return this.columns / this.format.block;
  }

  load(row: Expr<"u32">, piece: Expr<"u32">): Expr<"u32x4"> {
    return this.#at("of_weight", "u32x4", this.#codes, row.mul(this.pieces).add(piece)) as Expr<"u32x4">;
  }
  /** Sends 16 bytes, or zeros where there are not `some`, on their way to `to`, which begins at `index`. */
  copy<T extends Type>(
    to: Writable<T>,
    index: Expr<"u32">,
    row: Expr<"u32">,
    piece: Expr<"u32">,
    some?: Expr<"bool">,
  ): void {
    this.#k.copy(to, index, this.#codes[0] as Readable<"u32x4">, row.mul(this.pieces).add(piece), some);
  }
  unpack(q: Expr<"u32x4">): Expr<"f32x4">[] {
    return unpackers[this.format.dtype](q);
  }
  /** The scale of granule `g` of a piece, where the format has scales. */
  scale(row: Expr<"u32">, piece: Expr<"u32">, g: number): Expr<"f32"> | undefined {
    return this.#scale(row, this.#blockInRow(piece, g));
  }
  /** The scale of the block that a column is in. */
  scaleAt(row: Expr<"u32">, column: Expr<"u32">): Expr<"f32"> | undefined {
    return this.#scale(row, this.rowScale ? u32(0) : column.div(this.format.block));
  }
  #scale(row: Expr<"u32">, block: Expr<"u32">): Expr<"f32"> | undefined {
    const words = Math.ceil(this.#blocks / 2);
    const pair = this.#at("of_scales", "u32", this.#halfScales, row.mul(words).add(block.div(2)));
    if (!pair) return this.#at("of_scales", "f32", this.#scales, row.mul(this.#blocks).add(block));
    const [low, high] = unpack("f16x2", pair).lanes() as [Expr<"f32">, Expr<"f32">];
    return this.#blocks === 1 ? low : select(block.mod(2).eq(0), low, high);
  }
  zero(row: Expr<"u32">, piece: Expr<"u32">, g: number): Expr<"f32"> | undefined {
    if (this.#zeros.length === 0) return undefined;
    const block = this.#blockInRow(piece, g);
    const codes = 32 / bits[this.format.dtype];
    const words = Math.ceil(this.#blocks / codes);
    const word = this.#at(
      "of_zeros",
      "u32",
      this.#zeros,
      row.mul(words).add(block.div(codes)),
    ) as Expr<"u32">;
    const width = bits[this.format.dtype];
    const up = u32(32 - width).sub(block.mod(codes).mul(width));
    return word
      .shl(up)
      .bits("i32")
      .shr(32 - width)
      .to("f32");
  }
  /** Whether one scale serves the whole row. */
  get rowScale(): boolean {
    return this.format.block === this.columns;
  }

  #blockInRow(piece: Expr<"u32">, g: number): Expr<"u32"> {
    const { block } = this.format;
    if (this.rowScale) return u32(0);
    const inside = block >= this.step ? piece.div(block / this.step) : piece.mul(this.step / block).add(g);
    // Padding has no scale of its own; its codes are zero.
    return this.padded ? inside.min(this.#blocks - 1) : inside;
  }
}

/** A number as part of a kernel's name: to four digits, which tell apart what one model has. */
export const numberName = (n: number): string =>
  String(Number(n.toPrecision(4)))
    .replace("-", "m")
    .replace(/\W/g, "_");

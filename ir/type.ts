import { type Dim, parseDim } from "./dim.ts";

/** Element types and their widths in bits. */
export const dtypes = { f32: 32, f16: 16, bf16: 16, i32: 32, i8: 8, u8: 8, i4: 4, bool: 8 } as const;
export type DType = keyof typeof dtypes;
export const isDType = (s: unknown): s is DType => typeof s === "string" && Object.hasOwn(dtypes, s);
export const isFloat = (d: DType): boolean => d === "f32" || d === "f16" || d === "bf16";

/** The only type a value can have: an element type and a shape. Prints as `bf16[T,2048]`. */
export class TensorType {
  readonly dtype: DType;
  readonly shape: readonly Dim[];
  #text: string | undefined;
  constructor(dtype: DType, shape: readonly Dim[]) {
    for (const d of shape)
      if (typeof d === "number" && !(Number.isSafeInteger(d) && d >= 0))
        throw new TypeError(`${d} in [${shape}] is not a size; sizes are whole and not negative`);
    this.dtype = dtype;
    this.shape = shape;
  }
  get rank(): number {
    return this.shape.length;
  }
  /** The size of one axis. Negative axes count from the end; throws TypeError when out of range. */
  at(axis: number): Dim {
    const size = this.shape.at(axis);
    if (size === undefined) throw new TypeError(`axis ${axis} is out of range for ${this}`);
    return size;
  }
  /** `axis` as a non-negative index. Throws TypeError when out of range. */
  axis(axis: number): number {
    this.at(axis);
    return axis < 0 ? axis + this.rank : axis;
  }
  with(part: { dtype?: DType; shape?: readonly Dim[] }): TensorType {
    return new TensorType(part.dtype ?? this.dtype, part.shape ?? this.shape);
  }
  /** The same type with one axis resized. */
  resized(axis: number, size: Dim): TensorType {
    return this.with({ shape: this.shape.with(this.axis(axis), size) });
  }
  equals(other: TensorType): boolean {
    return (
      this.dtype === other.dtype &&
      this.rank === other.rank &&
      this.shape.every((d, i) => d === other.shape[i])
    );
  }
  toString(): string {
    this.#text ??= `${this.dtype}[${this.shape.join(",")}]`;
    return this.#text;
  }
}

export const tensor = (dtype: DType, ...shape: Dim[]): TensorType => new TensorType(dtype, shape);

/** The shape that all operands stretch to, numpy's rule. Throws TypeError naming both sizes and the axis. */
export function broadcast(...types: TensorType[]): readonly Dim[] {
  const rank = Math.max(...types.map((t) => t.rank));
  return Array.from({ length: rank }, (_, i) => {
    let out: Dim = 1;
    for (const t of types) {
      const d = t.shape[i - (rank - t.rank)] ?? 1;
      if (d === 1 || d === out) continue;
      if (out !== 1)
        throw new TypeError(
          `cannot broadcast: sizes ${out} and ${d} differ at axis ${i - rank}; reshape one`,
        );
      out = d;
    }
    return out;
  });
}

export function parseType(text: string): TensorType {
  const m = /^(\w+)\[(.*)\]$/.exec(text.trim());
  if (!m || !isDType(m[1])) throw new SyntaxError(`${text} is not a type such as f32[T,8]`);
  return new TensorType(m[1], m[2] ? m[2].split(",").map(parseDim) : []);
}

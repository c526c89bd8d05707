import { type Dim, product, Sym } from "../../../ir/dim.ts";
import { type Expr, type KernelBuilder, range, u32 } from "../lang/index.ts";

/** Sizes of the graph as expressions; each open one becomes a uniform of the kernel. */
export class Sizes {
  readonly #k: KernelBuilder;
  readonly #uniforms = new Map<string, Expr<"u32">>();
  constructor(k: KernelBuilder) {
    this.#k = k;
  }
  /** The names of the sizes that became uniforms, in order. */
  get names(): readonly string[] {
    return [...this.#uniforms.keys()];
  }
  of(d: Dim): Expr<"u32"> {
    if (!(d instanceof Sym)) return u32(d);
    let [plus, minus]: [Expr<"u32">, Expr<"u32">] = [u32(0), u32(0)];
    for (const [monomial, c] of d.terms) {
      const factors = monomial.split("*").filter(Boolean);
      const term = factors.reduce((e, name) => e.mul(this.#uniform(name)), u32(Math.abs(c)));
      if (c > 0) plus = plus.add(term);
      else minus = minus.add(term);
    }
    return plus.sub(minus);
  }
  #uniform(name: string): Expr<"u32"> {
    const known = this.#uniforms.get(name) ?? this.#k.uniform(name);
    this.#uniforms.set(name, known);
    return known;
  }
}

/** One element of a tensor of some shape: by its coordinates, by its row-major index, or both. */
export class Place {
  readonly shape: readonly Dim[];
  readonly #k: KernelBuilder;
  readonly #sizes: Sizes;
  #index: Expr<"u32"> | undefined;
  #coordinates: readonly Expr<"u32">[] | undefined;

  constructor(
    k: KernelBuilder,
    sizes: Sizes,
    shape: readonly Dim[],
    at: { readonly index?: Expr<"u32">; readonly coordinates?: readonly Expr<"u32">[] },
  ) {
    this.#k = k;
    this.#sizes = sizes;
    this.shape = shape;
    this.#index = at.index;
    this.#coordinates = at.coordinates;
  }

  get index(): Expr<"u32"> {
    if (this.#index) return this.#index;
    let index: Expr<"u32"> = u32(0);
    this.coordinates.forEach((c, axis) => {
      const size = this.shape[axis] as Dim;
      index = size === 1 ? index : index.mul(this.#sizes.of(size)).add(c);
    });
    this.#index = this.#k.let("at", index);
    return this.#index;
  }

  get coordinates(): readonly Expr<"u32">[] {
    if (this.#coordinates) return this.#coordinates;
    const index = this.index;
    this.#coordinates = range(this.shape.length).map((axis) => {
      const size = this.shape[axis] as Dim;
      if (size === 1) return u32(0);
      const inner = product(this.shape.slice(axis + 1));
      const outer = product(this.shape.slice(0, axis));
      const over = index.div(this.#sizes.of(inner));
      return this.#k.let(`c${axis}`, outer === 1 ? over : over.mod(this.#sizes.of(size)));
    });
    return this.#coordinates;
  }

  /** The same element under another shape with as many elements. */
  reshaped(shape: readonly Dim[]): Place {
    return new Place(this.#k, this.#sizes, shape, { index: this.index });
  }
  /** The element of a tensor of `shape` at these coordinates. */
  moved(shape: readonly Dim[], coordinates: readonly Expr<"u32">[]): Place {
    return new Place(this.#k, this.#sizes, shape, { coordinates });
  }
  /** The element of an operand of `shape` that stretches to this place's shape. */
  shrunk(shape: readonly Dim[]): Place {
    if (shape.length === this.shape.length && shape.every((d, i) => d === this.shape[i])) return this;
    const skip = this.shape.length - shape.length;
    return this.moved(
      shape,
      shape.map((d, i) => (d === 1 ? u32(0) : (this.coordinates[i + skip] as Expr<"u32">))),
    );
  }
}

/** A field of a table: its value and how it is laid out. Numbers take `width` bytes; the rest lies elsewhere. */
export type Field =
  | { readonly number: number; readonly width: 1 | 2 | 4 }
  | { readonly string: string }
  | { readonly bytes: Uint8Array }
  | { readonly numbers: readonly number[]; readonly width: 1 | 2 | 4 }
  | { readonly list: readonly Field[] }
  | { readonly table: Fields };
/** Fields by slot. What is undefined is left out, and read as its default. */
export type Fields = readonly (Field | undefined)[];

/**
 * The bytes of a FlatBuffer whose root is `root`: https://flatbuffers.dev/internals. Written back to front, as
 * offsets point forwards.
 */
export function flatbuffer(root: Fields): Uint8Array {
  const out = new Backwards();
  const at = out.table(root);
  out.align(4, 4);
  out.offset(at);
  return out.bytes();
}

/** Positions are counted from the end of the buffer, which does not move as it grows at the front. */
class Backwards {
  #buffer = Buffer.alloc(1 << 16);
  #used = 0;

  bytes(): Uint8Array {
    return new Uint8Array(this.#buffer.subarray(this.#buffer.length - this.#used));
  }

  /** Pads so that what begins after `size` more bytes is aligned to `width`. */
  align(width: number, size: number): void {
    while ((this.#used + size) % width !== 0) this.#take(1);
  }

  /** A reference to what lies at `to`. */
  offset(to: number): void {
    this.#number(this.#used + 4 - to, 4);
  }

  table(fields: Fields): number {
    const inner = fields.map((f) => (f && !("number" in f) ? this.#element(f) : undefined));
    const end = this.#used;
    const places = new Array<number>(fields.length).fill(0);
    // The widest come first, so that no gaps are needed between them.
    for (const width of [1, 2, 4] as const)
      for (const [slot, f] of fields.entries()) {
        if (!f || ("number" in f ? f.width : 4) !== width) continue;
        this.align(width, width);
        if ("number" in f) this.#number(f.number, width);
        else this.offset(inner[slot] as number);
        places[slot] = this.#used;
      }
    this.align(4, 4);
    this.#take(4); // the distance to the list of places, known below
    const start = this.#used;
    for (const place of places.toReversed()) this.#number(place ? start - place : 0, 2);
    this.#number(start - end, 2);
    this.#number(4 + 2 * fields.length, 2);
    this.#buffer.writeInt32LE(this.#used - start, this.#buffer.length - start);
    return start;
  }

  #element(f: Exclude<Field, { number: number }>): number {
    if ("table" in f) return this.table(f.table);
    if ("string" in f) {
      const text = Buffer.from(f.string, "utf8");
      return this.#vector(Buffer.concat([text, Buffer.of(0)]), text.length, 1);
    }
    if ("bytes" in f) return this.#vector(f.bytes, f.bytes.length, 1);
    if ("numbers" in f) {
      const bytes = Buffer.alloc(f.numbers.length * f.width);
      f.numbers.forEach((n, i) => void bytes.writeUIntLE(n, i * f.width, f.width));
      return this.#vector(bytes, f.numbers.length, f.width);
    }
    const items = f.list.map((item) => this.#element(item as Exclude<Field, { number: number }>));
    this.align(4, 0);
    for (const item of items.toReversed()) this.offset(item);
    this.#number(items.length, 4);
    return this.#used;
  }

  #vector(bytes: Uint8Array, count: number, width: number): number {
    this.align(Math.max(4, width), bytes.length);
    this.#take(bytes.length);
    this.#buffer.set(bytes, this.#buffer.length - this.#used);
    this.#number(count, 4);
    return this.#used;
  }

  #number(value: number, width: 1 | 2 | 4): void {
    this.#take(width);
    this.#buffer.writeUIntLE(value, this.#buffer.length - this.#used, width);
  }

  /** Room for more bytes at the front, all zero. */
  #take(bytes: number): void {
    while (this.#used + bytes > this.#buffer.length) {
      const larger = Buffer.alloc(this.#buffer.length * 2);
      larger.set(this.#buffer, this.#buffer.length);
      this.#buffer = larger;
    }
    this.#used += bytes;
  }
}

import type { UserError } from "../../../ir/error.ts";
import { inputError } from "../json.ts";
import { type ByteFile, readExactly } from "../safetensors.ts";

export const redownload = "download the file again; if it stays, it was written wrongly";

/** No header is read that is longer, in bytes: vocabularies take 10 MB. */
const maxHeader = 200_000_000;
const page = 1 << 18;
/** A byte order mark may be a word of the vocabulary, so it stays. */
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Reads the fields of a GGUF header one after another, a page of the file at a time. Each may throw UserError. */
export class Cursor {
  readonly #file: ByteFile;
  readonly #path: string;
  readonly #size: number;
  #page = new Uint8Array(0);
  /** Where in the file the page begins. */
  #from = 0;
  /** The next byte to read. */
  at = 0;

  constructor(file: ByteFile, path: string, size: number) {
    this.#file = file;
    this.#path = path;
    this.#size = size;
  }

  bad(what: string, next = redownload): UserError {
    return inputError(this.#path, what, next);
  }

  /** The next `n` bytes; valid until the next call. */
  async view(n: number): Promise<DataView> {
    const end = this.at + n;
    if (end > this.#size) throw this.bad(`ends at byte ${this.#size}, in the middle of its header`);
    if (end > maxHeader) throw this.bad(`its header is over the limit of ${maxHeader} bytes`);
    if (end > this.#from + this.#page.length) {
      this.#page = new Uint8Array(Math.min(Math.max(n, page), this.#size - this.at));
      this.#from = this.at;
      await readExactly(this.#file, this.#path, this.at, this.#page);
    }
    const offset = this.at - this.#from;
    this.at = end;
    return new DataView(this.#page.buffer, offset, n);
  }

  async u32(): Promise<number> {
    return (await this.view(4)).getUint32(0, true);
  }

  async u64(what: string): Promise<number> {
    const value = (await this.view(8)).getBigUint64(0, true);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw this.bad(`${what} is ${value}, which is out of range`);
    return Number(value);
  }

  /** How many things follow, each at least `least` bytes long: never more than the file has room for. */
  async count(what: string, least: number): Promise<number> {
    const n = await this.u64(`the number of ${what}`);
    const room = Math.min(this.#size, maxHeader) - this.at;
    if (n * least > room) throw this.bad(`there is no room for ${n} ${what} in the header`);
    return n;
  }

  async string(what: string, max = maxHeader): Promise<string> {
    const length = await this.count(`bytes of ${what}`, 1);
    if (length > max) throw this.bad(`${what}: a string of ${length} bytes is over the limit of ${max}`);
    const { buffer, byteOffset } = await this.view(length);
    try {
      return utf8.decode(new Uint8Array(buffer, byteOffset, length));
    } catch (cause) {
      if (!(cause instanceof TypeError)) throw cause;
      throw this.bad(`${what} is not UTF-8 text`);
    }
  }
}

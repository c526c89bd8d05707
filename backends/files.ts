import { createHash, type Hash } from "node:crypto";
import { type FileHandle, mkdir, open } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { EmittedFile } from "./backend.ts";

/** Writes one file front to back and hashes what passes through. */
export class HashedFile {
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #hash: Hash = createHash("sha256");
  #bytes = 0;

  private constructor(file: FileHandle, path: string) {
    this.#file = file;
    this.#path = path;
  }

  /** Create `path` (with forward slashes) below `dir`, with its folders. */
  static async create(dir: string, path: string): Promise<HashedFile> {
    const full = join(dir, path);
    await mkdir(dirname(full), { recursive: true });
    return new HashedFile(await open(full, "wx"), path);
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Append. The system writes while this thread hashes. */
  async write(bytes: Uint8Array): Promise<void> {
    const written = this.#writeAll(bytes);
    this.#hash.update(bytes);
    this.#bytes += bytes.byteLength;
    await written;
  }

  async #writeAll(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.byteLength; ) {
      const { bytesWritten } = await this.#file.write(bytes, done, bytes.byteLength - done);
      done += bytesWritten;
    }
  }

  /** Append zeros up to `offset`. */
  async padTo(offset: number): Promise<void> {
    if (offset > this.#bytes) await this.write(new Uint8Array(offset - this.#bytes));
  }

  async close(): Promise<EmittedFile> {
    await this.#file.close();
    return { path: this.#path, bytes: this.#bytes, sha256: this.#hash.digest("hex") };
  }

  /** Give the file up, after a failure. */
  async abandon(): Promise<void> {
    await this.#file.close();
  }
}

/** Write a whole small file. */
export async function writeFileHashed(
  dir: string,
  path: string,
  content: string | Uint8Array,
): Promise<EmittedFile> {
  const file = await HashedFile.create(dir, path);
  await file.write(typeof content === "string" ? new TextEncoder().encode(content) : content);
  return file.close();
}

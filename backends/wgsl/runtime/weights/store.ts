import type { FileFact } from "../program.ts";
import { sha256 } from "./files.ts";

/**
 * Files kept in the browser's own storage (OPFS) from visit to visit, under their hashes. A file is put in place
 * whole, after it was checked, and checked again when it is read: an interrupted download leaves nothing wrong.
 */
export class Store {
  readonly #folder: FileSystemDirectoryHandle;

  private constructor(folder: FileSystemDirectoryHandle) {
    this.#folder = folder;
  }

  /** The store of a model; undefined where there is none, as in Node or in a private window. */
  static async open(name: string): Promise<Store | undefined> {
    try {
      const root = await navigator.storage.getDirectory();
      const ours = await root.getDirectoryHandle("gemmac", { create: true });
      return new Store(await ours.getDirectoryHandle(name.replace(/[^\w.-]/g, "_"), { create: true }));
    } catch {
      return undefined;
    }
  }

  async get({ sha256: name, bytes }: FileFact): Promise<Uint8Array<ArrayBuffer> | undefined> {
    try {
      const file = await (await this.#folder.getFileHandle(name)).getFile();
      const held = file.size === bytes ? new Uint8Array(await file.arrayBuffer()) : undefined;
      if (held && (await sha256(held)) === name) return held;
      await this.#folder.removeEntry(name);
    } catch {
      // Not there, or not to be read: it will be fetched.
    }
    return undefined;
  }

  /** Keeps a checked file. Says why not, when the browser does not let it. */
  async put({ sha256: name }: FileFact, content: Uint8Array<ArrayBuffer>): Promise<string | undefined> {
    try {
      const file = await this.#folder.getFileHandle(name, { create: true });
      const writing = await file.createWritable();
      await writing.write(content);
      await writing.close();
      return undefined;
    } catch (e) {
      await this.#folder.removeEntry(name).catch(() => {});
      return e instanceof Error ? e.message : String(e);
    }
  }

  /** Removes what belongs to none of `files`: an earlier version of the model. */
  async keepOnly(files: readonly FileFact[]): Promise<void> {
    const wanted = new Set(files.map((f) => f.sha256));
    try {
      const stale: string[] = [];
      for await (const name of this.#folder.keys()) if (!wanted.has(name)) stale.push(name);
      for (const name of stale) await this.#folder.removeEntry(name);
    } catch {
      // Another page may be using it.
    }
  }
}

/** Bytes that the browser would still keep for this site; undefined when it does not say. */
export async function room(): Promise<number | undefined> {
  try {
    const { quota, usage } = await navigator.storage.estimate();
    return quota === undefined ? undefined : quota - (usage ?? 0);
  } catch {
    return undefined;
  }
}

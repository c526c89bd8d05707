import { GemmaError } from "../error.ts";
import type { FileFact } from "../program.ts";

/** Tries for one file before the user hears of it, and the pause before each further one, in milliseconds. */
const tries = 4;
const pause = 500;

/** Fetches files of one artifact, and holds each against its hash. */
export class Files {
  readonly #base: URL;
  readonly #signal: AbortSignal | undefined;

  constructor(base: URL, signal: AbortSignal | undefined) {
    this.#base = base;
    this.#signal = signal;
  }

  /** The bytes of a file, as published. `arrived` is told of bytes as they come, and takes them back with a minus. */
  async read(file: FileFact, arrived: (bytes: number) => void = () => {}): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = await this.#fetch(file, arrived, "default");
    if ((await sha256(bytes)) === file.sha256) return bytes;
    // The browser's HTTP cache may hold an older or a broken copy.
    arrived(-bytes.length);
    const again = await this.#fetch(file, arrived, "reload");
    const found = await sha256(again);
    if (found === file.sha256) return again;
    arrived(-again.length);
    throw new GemmaError(
      "corrupt",
      `${file.path} is damaged: its sha256 is ${found.slice(0, 12)}…, published was ${file.sha256.slice(0, 12)}…. Nothing of it was kept`,
      "reload; if it stays so, copy the artifact to the server again",
    );
  }

  async text(file: FileFact): Promise<string> {
    return new TextDecoder().decode(await this.read(file));
  }

  /** Goes on where a broken connection stopped, when the server can. */
  async #fetch(
    file: FileFact,
    arrived: (bytes: number) => void,
    cache: RequestCache,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(file.bytes);
    let done = 0;
    let why: unknown;
    for (let n = 0; n < tries; n++) {
      if (n > 0) await sleep(pause * 2 ** (n - 1), this.#signal);
      try {
        const from = done;
        const response = await this.#open(file, from, cache);
        if (from > 0 && response.status !== 206) {
          arrived(-done);
          done = 0;
        }
        for await (const part of stream(response)) {
          if (done + part.length > bytes.length) throw sizeError(file, "more");
          bytes.set(part, done);
          done += part.length;
          arrived(part.length);
        }
        if (done === bytes.length) return bytes;
        why = sizeError(file, `${done}`);
      } catch (e) {
        this.#signal?.throwIfAborted();
        if (e instanceof GemmaError) {
          arrived(-done);
          throw e;
        }
        why = e;
      }
    }
    arrived(-done);
    if (why instanceof GemmaError) throw why;
    throw new GemmaError(
      "download",
      `${file.path} does not come: ${why instanceof Error ? why.message : why}`,
      "look at the connection, then reload: what has come is kept",
      { cause: why },
    );
  }

  async #open(file: FileFact, from: number, cache: RequestCache): Promise<Response> {
    if (!/^[\w-][\w.-]*(\/[\w-][\w.-]*)*$/.test(file.path))
      throw new GemmaError(
        "corrupt",
        `${file.path} is no path inside the artifact`,
        "copy the artifact again",
      );
    const url = new URL(file.path, this.#base);
    if (url.protocol === "file:") return new Response(await readLocal(url));
    const headers: HeadersInit = from > 0 ? { Range: `bytes=${from}-` } : {};
    const response = await fetch(url, { headers, cache, ...(this.#signal && { signal: this.#signal }) });
    if (response.ok) return response;
    const what = `${url.pathname}: the server says ${response.status} ${response.statusText}`.trim();
    // Too many requests, and trouble on the server's side, may pass.
    if (response.status === 429 || response.status >= 500) throw new Error(what);
    throw new GemmaError("download", what, "look whether the whole artifact is on the server");
  }
}

const sizeError = (file: FileFact, found: string): GemmaError =>
  new GemmaError(
    "corrupt",
    `${file.path} has ${found} bytes where ${file.bytes} were published. Nothing of it was kept`,
    "copy the artifact to the server again",
  );

/** A file beside the module, in Node. */
async function readLocal(url: URL): Promise<Uint8Array<ArrayBuffer>> {
  const name = "node:fs/promises";
  const { readFile } = await import(/* @vite-ignore */ /* webpackIgnore: true */ name);
  return readFile(url);
}

async function* stream(response: Response): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  if (!reader) return;
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}

function sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((done, failed) => {
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      failed(signal.reason);
    });
  });
}

/** In hexadecimal. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (b) => b.toString(16).padStart(2, "0")).join("");
}

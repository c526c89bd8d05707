export type Trouble =
  /** No WebGPU here, or no device to be had. */
  | "webgpu"
  /** The device cannot hold what the model needs. */
  | "limit"
  /** A file did not come. */
  | "download"
  /** A file is not what was published. */
  | "corrupt"
  /** More tokens than the model takes. */
  | "context"
  /** Wrong use: two answers at once, or use after dispose(). */
  | "usage"
  /** The GPU was lost again and again, or computes wrong numbers. */
  | "device";

/** What went wrong, in words for the person who sees it, and what to do about it. */
export class GemmaError extends Error {
  readonly trouble: Trouble;
  readonly next: string;
  constructor(trouble: Trouble, message: string, next: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "GemmaError";
    this.trouble = trouble;
    this.next = next;
  }
}

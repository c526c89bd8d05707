import type { DType } from "../ir/type.ts";

export interface TensorInfo {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Size of the stored tensor in bytes. */
  readonly bytes: number;
}

/** Where a model's weights come from. Implementations read byte ranges and never hold a whole file. */
export interface Weights {
  names(): Iterable<string>;
  /** Undefined when there is no such tensor. */
  info(name: string): TensorInfo | undefined;
  /** Fill `into` with the stored little-endian bytes of `name` that start at byte `offset`. */
  read(name: string, offset: number, into: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

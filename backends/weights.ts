import { type BlockFormatName, blockFormat } from "../ir/ops/ggml.ts";
import { type DType, TensorType } from "../ir/type.ts";

export interface TensorInfo {
  /** Of the elements; u8 where they lie in blocks. */
  readonly dtype: DType;
  /** The ggml format of the blocks that a matrix lies in, where it does. */
  readonly format?: BlockFormatName;
  /** Whether a norm's weight holds the whole scale, as GGUF files do, not what there is beyond one. */
  readonly plusOne?: boolean;
  /** Counts elements, blocks or not. */
  readonly shape: readonly number[];
  /** Size of the stored tensor in bytes. */
  readonly bytes: number;
}

/** The type of the param that holds a tensor as it is stored: of bytes, row by row, where it lies in blocks. */
export function storedType({ dtype, format, shape }: Omit<TensorInfo, "bytes">): TensorType {
  if (!format) return new TensorType(dtype, shape);
  const { elements, bytes } = blockFormat(format);
  return new TensorType("u8", [...shape.slice(0, -1), ((shape.at(-1) as number) / elements) * bytes]);
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

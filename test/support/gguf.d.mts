export type TensorType =
  | "f32"
  | "f16"
  | "bf16"
  | "q4_0"
  | "q4_1"
  | "q5_0"
  | "q5_1"
  | "q8_0"
  | "q4_k"
  | "q5_k"
  | "q6_k";
type Scalar = "u32" | "u64" | "i32" | "f32" | "bool" | "string";
export type Given =
  | string
  | boolean
  | number
  | { type: Scalar; value: unknown }
  | { type: Scalar; values: ArrayLike<unknown> & Iterable<unknown> };
export interface Described {
  readonly name: string;
  readonly type: TensorType;
  /** Row-major. */
  readonly shape: readonly number[];
}
export const tensorTypes: Readonly<Record<TensorType, readonly [type: number, elements: number, bytes: number]>>;
export const f32: (value: number) => Given;
export const list: (type: Scalar, values: ArrayLike<unknown> & Iterable<unknown>) => Given;
export const bytesOf: (tensor: Pick<Described, "type" | "shape">) => number;
export const padding: (length: number, alignment?: number) => number;
export const ggufHead: (
  metadata: Readonly<Record<string, Given>>,
  tensors: readonly Described[],
  options?: { alignment?: number },
) => Buffer;
export const ggufFile: (
  metadata: Readonly<Record<string, Given>>,
  tensors: readonly (Described & { readonly data: Uint8Array })[],
  options?: { alignment?: number },
) => Buffer;
export const half: (x: number) => number;
export const encoders: Readonly<
  Record<"f32" | "f16" | "bf16" | "q8_0" | "q4_0" | "q5_0", (x: ArrayLike<number> & Iterable<number>) => Buffer>
>;

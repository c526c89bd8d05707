import onnxProto, { type onnx } from "onnx-proto";
import type { Dim } from "../../ir/dim.ts";
import type { DType } from "../../ir/type.ts";

/** The ONNX element type of each dtype (onnx.proto3, TensorProto.DataType). onnx-proto 8 stops before INT4, hence numbers. */
export const elementType = {
  f32: 1,
  u8: 2,
  i8: 3,
  i32: 6,
  bool: 9,
  f16: 10,
  bf16: 16,
  i4: 22,
} as const satisfies Record<DType, number>;
export const int64 = 7;

/** ONNX IR version and operator set that the files ask for. IR 10 and opset 21 load in ONNX Runtime 1.18 and later. */
export const irVersion = 10;
export const opset = 21;

export type AttributeValue = number | string | readonly number[] | { readonly float: number };

// A CommonJS package: its namespace is the default export.
const { AttributeProto, ModelProto, TensorProto } = onnxProto.onnx;
const attributeType = AttributeProto.AttributeType;

function attribute(name: string, value: AttributeValue): onnx.IAttributeProto {
  if (typeof value === "number") return { name, type: attributeType.INT, i: value };
  if (typeof value === "string")
    return { name, type: attributeType.STRING, s: new TextEncoder().encode(value) };
  if ("float" in value) return { name, type: attributeType.FLOAT, f: value.float };
  return { name, type: attributeType.INTS, ints: [...value] };
}

/** ONNX Runtime's own operators. */
export const contribDomain = "com.microsoft";
const contrib = new Set([
  "MatMulNBits",
  "GatherBlockQuantized",
  "GroupQueryAttention",
  "SkipSimplifiedLayerNormalization",
]);

export const node = (
  opType: string,
  name: string,
  input: readonly string[],
  output: readonly string[],
  attributes: Readonly<Record<string, AttributeValue>> = {},
): onnx.INodeProto => ({
  opType,
  ...(contrib.has(opType) && { domain: contribDomain }),
  name,
  input: [...input],
  output: [...output],
  attribute: Object.entries(attributes).map(([k, v]) => attribute(k, v)),
});

/** A tensor small enough to live in the graph file. */
export const inlineTensor = (
  name: string,
  dataType: number,
  dims: readonly number[],
  rawData: Uint8Array,
): onnx.ITensorProto => ({
  name,
  dataType,
  dims: [...dims],
  rawData,
});

export interface Placement {
  /** File name next to the graph file. */
  readonly location: string;
  readonly offset: number;
  readonly length: number;
}

/** A tensor whose bytes lie in a file of their own. Offsets go in as strings: BigInt would be written as 0. */
export const externalTensor = (
  name: string,
  dataType: number,
  dims: readonly number[],
  at: Placement,
): onnx.ITensorProto => ({
  name,
  dataType,
  dims: [...dims],
  dataLocation: TensorProto.DataLocation.EXTERNAL,
  externalData: Object.entries(at).map(([key, value]) => ({ key, value: String(value) })),
});

/** What ONNX clients call the symbolic sizes. */
const dimParams: Readonly<Record<string, string>> = {
  B: "batch_size",
  T: "sequence_length",
  P: "past_sequence_length",
  "P+T": "total_sequence_length",
};
const dimension = (d: Dim): onnx.TensorShapeProto.IDimension =>
  typeof d === "number" ? { dimValue: d } : { dimParam: dimParams[d.key] ?? d.key };

export const valueInfo = (name: string, elemType: number, shape: readonly Dim[]): onnx.IValueInfoProto => ({
  name,
  type: { tensorType: { elemType, shape: { dim: shape.map(dimension) } } },
});

/** The operator that multiplies by codes as the runtime does fastest: it rounds what it multiplies to 8 bits. */
export const rounds = (n: onnx.INodeProto): boolean => n.opType === "MatMulNBits";

/** The same products in f32: codes times scales, to be held to a reference. */
export const inFloats = (n: onnx.INodeProto): onnx.INodeProto =>
  rounds(n)
    ? { ...n, attribute: (n.attribute ?? []).map((a) => (a.name === "accuracy_level" ? { ...a, i: 1 } : a)) }
    : n;

/** An output whose type and shape the reader infers. */
export const untyped = (name: string): onnx.IValueInfoProto => ({
  name,
  type: { tensorType: { elemType: 1 } },
});

export function encodeModel(graph: onnx.IGraphProto, metadata: Readonly<Record<string, string>>): Uint8Array {
  const model: onnx.IModelProto = {
    irVersion,
    producerName: "gemmac",
    opsetImport: [
      { domain: "", version: opset },
      ...(graph.node?.some((n) => n.domain === contribDomain) ? [{ domain: contribDomain, version: 1 }] : []),
    ],
    graph,
    metadataProps: Object.entries(metadata).map(([key, value]) => ({ key, value })),
  };
  return encodeProto(model);
}

export const encodeProto = (model: onnx.IModelProto): Uint8Array => ModelProto.encode(model).finish();

export const decodeModel = (bytes: Uint8Array): onnx.ModelProto => ModelProto.decode(bytes);

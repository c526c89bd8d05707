import type { onnx } from "onnx-proto";
import type { Graph, Value } from "../../ir/graph.ts";
import { constant } from "../../ir/ops/index.ts";
import type { Emit, EmitRequest, Emitted, EmittedFile, Emitters } from "../backend.ts";
import { HashedFile, writeFileHashed } from "../files.ts";
import { byteLength, WeightStream } from "../stream/index.ts";
import { Builder } from "./builder.ts";
import { declareInputs } from "./interface.ts";
import { elementType, encodeModel, externalTensor, type Placement, valueInfo } from "./proto.ts";

/** Where transformers.js looks for the graph, and for the weights beside it. */
export const modelFile = "onnx/model.onnx";
const dataFile = (n: number) => `model.onnx_data${n ? `_${n}` : ""}`;
/** Tensors start on pages, so that a runtime can map them. */
const page = 4096;
/** Node and browsers read a file whole, up to 2 GiB; data files stay below that. */
export const maxDataFile = 2 ** 31 - page;

/** A tensor of the data files. */
export interface Stored {
  readonly name: string;
  readonly type: number;
  readonly dims: readonly number[];
  readonly length: number;
  blocks(stream: WeightStream): AsyncIterable<Uint8Array>;
}

/** Everything an artifact will hold but the bytes of its weights. */
export interface Layout {
  /** What `onnx/model.onnx` holds. */
  readonly model: Uint8Array;
  /** The tensors of the data files: the graph's weights in order, then tables that the runtime needs. */
  readonly stored: readonly Stored[];
  readonly places: readonly Placement[];
  /** What each origin's value is called in the artifact. */
  readonly activations: Emitted["activations"];
}

/** Lays out the artifact of `graph` with the emitters of one profile. Reads no weights. */
export function layOut({ graph, facts }: Pick<EmitRequest, "graph" | "facts">, profile: Profile): Layout {
  const b = new Builder(graph, facts.context);
  const weights = graph.weights();
  for (const w of weights) b.names.set(w, String(w.attrs.name));
  const output = translate(graph, b, profile.emitters);
  const stored = [
    ...weights.map((w) => profile.layout?.(w, graph) ?? plain(w)),
    ...b.tables.map(tableTensor),
  ];
  const places = plan(stored);
  const external = stored.map((t, i) => externalTensor(t.name, t.type, t.dims, places[i] as Placement));
  const initializer = [...b.initializers, ...external];
  const proto = { name: graph.name, input: b.inputs, output, node: b.nodes, initializer };
  const reached = [...graph.origins].filter(([v]) => b.names.has(v));
  const activations = Object.fromEntries(reached.map(([v, origin]) => [origin, b.name(v)]));
  return { model: encodeModel(proto, {}), stored, places, activations };
}

/**
 * Writes `onnx/model.onnx` and its data files, with the emitters of one profile. Weights stream through: peak memory
 * is a few blocks.
 */
export async function emit(request: EmitRequest, profile: Profile): Promise<Emitted> {
  const { model, stored, places, activations } = layOut(request, profile);
  const file = await writeFileHashed(request.dir, modelFile, model);
  return { files: [file, ...(await writeData(request, stored, places))], activations };
}

/** What distinguishes a profile: its operators, and how some weights lie. */
export interface Profile {
  readonly emitters: Emitters<Builder>;
  /** How `w` is stored, where it is not as it stands. */
  layout?(w: Value, graph: Graph): Stored | undefined;
}

const plain = (w: Value): Stored => ({
  name: String(w.attrs.name),
  type: elementType[w.dtype],
  dims: w.shape.map(Number),
  length: byteLength(w),
  blocks: (stream) => stream.blocks(w),
});

/** Codes as the runtime's own operators take them: unsigned bytes, so that the middle of the range is zero. */
export const unsigned = (w: Value, dims: readonly number[]): Stored => ({
  ...plain(w),
  type: elementType.u8,
  dims,
  async *blocks(stream) {
    const flip = w.dtype === "i4" ? 0x88888888 : 0x80808080;
    for await (const block of stream.blocks(w)) {
      const words = new Uint32Array(block.buffer, block.byteOffset, block.byteLength >> 2);
      for (let i = 0; i < words.length; i++) words[i] = (words[i] as number) ^ flip;
      for (let i = words.length * 4; i < block.length; i++) block[i] = (block[i] as number) ^ (flip & 255);
      yield block;
    }
  },
});

const tableTensor = ({ name, dims, data }: Builder["tables"][number]): Stored => ({
  name,
  type: elementType.f32,
  dims,
  length: data.byteLength,
  async *blocks() {
    yield new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  },
});

/** Where each tensor's bytes will lie. */
function plan(stored: readonly Stored[]): readonly Placement[] {
  let [file, end] = [0, 0];
  return stored.map(({ length }) => {
    let offset = Math.ceil(end / page) * page;
    if (offset + length > maxDataFile && end > 0) [file, offset] = [file + 1, 0];
    end = offset + length;
    return { location: dataFile(file), offset, length };
  });
}

/** Writes the graph's nodes into `b`; gives the outputs. */
function translate(graph: Graph, b: Builder, emitters: Emitters<Builder>): onnx.IValueInfoProto[] {
  declareInputs(b, graph);
  const table: Readonly<Record<string, Emit<Builder>>> = emitters;
  for (const v of graph.values()) {
    if (b.isKnown(v)) continue;
    const emitValue = table[v.op.name];
    if (!emitValue) throw new Error(`no emitter for ${v.op.name}; legalize first`);
    // Numbers are often part of what their user says otherwise: written when something reads them.
    if (v.op === constant) b.defer(v, () => emitValue(b, v));
    else b.names.set(v, emitValue(b, v));
  }
  // An output that no node yields under its own name: an input handed through, or a second name for one value.
  for (const [name, v] of Object.entries(graph.outputs)) if (b.name(v) !== name) b.copy(v, name);
  return Object.entries(graph.outputs).map(([name, v]) => valueInfo(name, elementType[v.dtype], v.shape));
}

async function writeData(
  request: EmitRequest,
  stored: readonly Stored[],
  places: readonly Placement[],
): Promise<EmittedFile[]> {
  const files: EmittedFile[] = [];
  const nonFinite = (name: string) =>
    request.warn(`weight ${name} holds NaN or infinity; the model's answers will too`);
  const stream = new WeightStream(request.graph, request.weights, nonFinite);
  let file: HashedFile | undefined;
  let location: string | undefined;
  try {
    for (const [i, tensor] of stored.entries()) {
      const place = places[i] as Placement;
      if (place.location !== location) {
        if (file) files.push(await file.close());
        location = place.location;
        file = await HashedFile.create(request.dir, `onnx/${location}`);
      }
      const out = file as HashedFile;
      await out.padTo(place.offset);
      for await (const block of tensor.blocks(stream)) {
        await out.write(block);
        request.progress(block.byteLength);
      }
    }
    if (file) files.push(await file.close());
    file = undefined;
    return files;
  } finally {
    await stream.close();
    await file?.abandon();
  }
}

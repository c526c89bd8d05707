import type { onnx } from "onnx-proto";
import type { Graph, Value } from "../../ir/graph.ts";
import type { Emit, EmitRequest, Emitted, EmittedFile } from "../backend.ts";
import { HashedFile, writeFileHashed } from "../files.ts";
import { byteLength, WeightStream } from "../stream/index.ts";
import { Builder } from "./builder.ts";
import { emitters } from "./emitters.ts";
import { declareInputs } from "./interface.ts";
import { elementType, encodeModel, externalTensor, type Placement, valueInfo } from "./proto.ts";

/** Where transformers.js looks for the graph, and for the weights beside it. */
export const modelFile = "onnx/model.onnx";
const dataFile = (n: number) => `model.onnx_data${n ? `_${n}` : ""}`;
/** Tensors start on pages, so that a runtime can map them. */
const page = 4096;
/** Node and browsers read a file whole, up to 2 GiB; data files stay below that. */
const maxDataFile = 2 ** 31 - page;

/** Writes `onnx/model.onnx` and its data files. Weights stream through: peak memory is a few blocks. */
export async function emit(request: EmitRequest): Promise<Emitted> {
  const { graph, dir } = request;
  const weights = graph.weights();
  const places = plan(weights);
  const { proto, activations } = translate(graph, places);
  const files = [await writeFileHashed(dir, modelFile, encodeModel(proto, {}))];
  return { files: [...files, ...(await writeData(request, weights, places))], activations };
}

/** Where each weight's bytes will lie, in the order the graph first reads them. */
function plan(weights: readonly Value[]): ReadonlyMap<Value, Placement> {
  const places = new Map<Value, Placement>();
  let [file, end] = [0, 0];
  for (const w of weights) {
    const length = byteLength(w);
    let offset = Math.ceil(end / page) * page;
    if (offset + length > maxDataFile && end > 0) [file, offset] = [file + 1, 0];
    places.set(w, { location: dataFile(file), offset, length });
    end = offset + length;
  }
  return places;
}

/** The graph in ONNX. */
function translate(
  graph: Graph,
  places: ReadonlyMap<Value, Placement>,
): { proto: onnx.IGraphProto; activations: Record<string, string> } {
  const b = new Builder(graph);
  const external: onnx.ITensorProto[] = [];
  for (const [w, place] of places) {
    const name = String(w.attrs.name);
    external.push(externalTensor(name, w.type, place));
    b.names.set(w, name);
  }
  declareInputs(b, graph);
  const table: Readonly<Record<string, Emit<Builder>>> = emitters;
  for (const v of graph.values()) {
    if (b.names.has(v)) continue;
    const emitValue = table[v.op.name];
    if (!emitValue) throw new Error(`no emitter for ${v.op.name}; legalize first`);
    b.names.set(v, emitValue(b, v));
  }
  const output = Object.entries(graph.outputs).map(([name, v]) =>
    valueInfo(name, elementType[v.dtype], v.shape),
  );
  // An output that no node yields under its own name: an input handed through, or a second name for one value.
  for (const [name, v] of Object.entries(graph.outputs)) if (b.name(v) !== name) b.copy(v, name);
  const reached = [...graph.origins].filter(([v]) => b.names.has(v));
  const activations = Object.fromEntries(reached.map(([v, origin]) => [origin, b.name(v)]));
  const proto = {
    name: graph.name,
    input: b.inputs,
    output,
    node: b.nodes,
    initializer: [...b.initializers, ...external],
  };
  return { proto, activations };
}

async function writeData(
  request: EmitRequest,
  weights: readonly Value[],
  places: ReadonlyMap<Value, Placement>,
): Promise<EmittedFile[]> {
  const files: EmittedFile[] = [];
  const nonFinite = (name: string) =>
    request.warn(`weight ${name} holds NaN or infinity; the model's answers will too`);
  const stream = new WeightStream(request.graph, request.weights, nonFinite);
  let file: HashedFile | undefined;
  let location: string | undefined;
  try {
    for (const w of weights) {
      const place = places.get(w) as Placement;
      if (place.location !== location) {
        if (file) files.push(await file.close());
        location = place.location;
        file = await HashedFile.create(request.dir, `onnx/${location}`);
      }
      const out = file as HashedFile;
      await out.padTo(place.offset);
      for await (const block of stream.blocks(w)) {
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

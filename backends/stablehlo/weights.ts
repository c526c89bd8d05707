import type { Graph, Value } from "../../ir/graph.ts";
import type { DType } from "../../ir/type.ts";
import type { EmitRequest, EmittedFile } from "../backend.ts";
import { HashedFile } from "../files.ts";
import { byteLength, WeightStream } from "../stream/index.ts";
import type { Interface } from "./text/module.ts";

export const weightsFile = "model.safetensors";

/** The graph's weights as they lie in the file: what one argument holds of several lies together. */
export function weightsInOrder(g: Graph, { args }: Interface): Value[] {
  const byName = new Map(g.weights().map((w) => [String(w.attrs.name), w]));
  const names = args.flatMap((a) => (a.group === "weights" ? (a.stack ?? [a.name]) : []));
  return names.map((name) => byName.get(name) as Value);
}

/** Writes one safetensors file: https://github.com/huggingface/safetensors#format. Weights stream through. */
export async function writeWeights(request: EmitRequest, weights: readonly Value[]): Promise<EmittedFile> {
  const file = await HashedFile.create(request.dir, weightsFile);
  const nonFinite = (name: string) =>
    request.warn(`weight ${name} holds NaN or infinity; the model's answers will too`);
  const stream = new WeightStream(request.graph, request.weights, nonFinite);
  let done = false;
  try {
    await file.write(weightsHeader(weights));
    for (const w of weights)
      for await (const block of stream.blocks(w)) {
        await file.write(block);
        request.progress(block.byteLength);
      }
    done = true;
    return await file.close();
  } finally {
    await stream.close();
    if (!done) await file.abandon();
  }
}

/** What the file begins with: its own length, and where each weight lies. */
export function weightsHeader(weights: readonly Value[]): Uint8Array {
  let at = 0;
  const entries = weights.map((w) => {
    const begin = at;
    at += byteLength(w);
    const entry = { dtype: spelled(w.dtype), shape: w.shape.map(Number), data_offsets: [begin, at] };
    return [String(w.attrs.name), entry] as const;
  });
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const header = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, " ");
  header.writeBigUInt64LE(BigInt(header.length - 8));
  json.copy(header, 8);
  return header;
}

const spelled = (dtype: DType): string => dtype.toUpperCase();

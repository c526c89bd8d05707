import type { Value } from "../../ir/graph.ts";
import type { DType } from "../../ir/type.ts";
import type { EmitRequest, EmittedFile } from "../backend.ts";
import { HashedFile } from "../files.ts";
import { byteLength, WeightStream } from "../stream/index.ts";

export const weightsFile = "model.safetensors";

/**
 * The graph's weights in one safetensors file, in the order of `names`: https://github.com/huggingface/safetensors#format.
 * They stream through.
 */
export async function writeWeights(request: EmitRequest, names: readonly string[]): Promise<EmittedFile> {
  const byName = new Map(request.graph.weights().map((w) => [String(w.attrs.name), w]));
  const weights = names.map((name) => byName.get(name) as Value);
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

import type { EmitRequest, EmittedFile } from "../backend.ts";
import { HashedFile } from "../files.ts";
import { type PackedWeight, packedBytes } from "../kernel/index.ts";
import { WeightStream } from "../stream/index.ts";
import type { ChunkFile, WeightBuffer } from "./runtime/program.ts";

/** What one file of weights holds at most: little is lost when a download breaks off, and servers need no ranges. */
export function chunkBytes(total: number): number {
  const step = 1 << 18;
  return Math.min(64 * step, Math.max(1, Math.ceil(total / 16 / step)) * step);
}

/** A buffer for each piece of each weight, in order. */
export const weightBuffers = (weights: readonly PackedWeight[]): WeightBuffer[] =>
  weights.flatMap((w) =>
    w.chunks.map(({ bytes }, i) => ({ name: w.chunks.length > 1 ? `${w.name}[${i}]` : w.name, bytes })),
  );

/** Where the bytes of all buffers, one after another, are cut into files. */
export function cutIntoChunks(buffers: readonly WeightBuffer[]): Omit<ChunkFile, "sha256">[] {
  const most = chunkBytes(buffers.reduce((sum, b) => sum + b.bytes, 0));
  const chunks: { path: string; bytes: number; parts: ChunkFile["parts"][number][] }[] = [];
  for (const [weight, { bytes }] of buffers.entries())
    for (let offset = 0; offset < bytes; ) {
      let open = chunks.at(-1);
      if (!open || open.bytes === most) {
        open = { path: `weights/${String(chunks.length).padStart(4, "0")}.bin`, bytes: 0, parts: [] };
        chunks.push(open);
      }
      const part = Math.min(bytes - offset, most - open.bytes);
      open.parts.push({ weight, offset, bytes: part });
      open.bytes += part;
      offset += part;
    }
  return chunks;
}

/** Streams the weights into files. Peak memory is a few blocks, whatever the model's size. */
export async function writeWeights(
  { graph, weights, dir, progress, warn }: EmitRequest,
  packed: readonly PackedWeight[],
  planned: readonly Omit<ChunkFile, "sha256">[],
): Promise<{ files: EmittedFile[]; chunks: ChunkFile[] }> {
  const stream = new WeightStream(graph, weights, (name) =>
    warn(`${name} holds values that are not finite (NaN or infinity)`),
  );
  const files: EmittedFile[] = [];
  let file: HashedFile | undefined;
  const write = async (block: Uint8Array): Promise<void> => {
    for (let at = 0; at < block.length; ) {
      const chunk = planned[files.length];
      if (!chunk) throw new Error("the weights have more bytes than were planned");
      file ??= await HashedFile.create(dir, chunk.path);
      const part = block.subarray(at, at + chunk.bytes - file.bytes);
      await file.write(part);
      at += part.length;
      if (file.bytes < chunk.bytes) continue;
      files.push(await file.close());
      file = undefined;
    }
  };
  try {
    for (const weight of packed)
      for await (const block of packedBytes(weight, stream)) {
        await write(block);
        progress(block.length);
      }
  } finally {
    await file?.abandon();
    await stream.close();
  }
  if (files.length !== planned.length) throw new Error("the weights have fewer bytes than were planned");
  const chunks = planned.map((c, i) => ({ ...c, sha256: (files[i] as EmittedFile).sha256 }));
  return { files, chunks };
}

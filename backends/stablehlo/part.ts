import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { TensorType } from "../../ir/type.ts";
import { headRows, type ModelFacts, type Named, type Pieces } from "../backend.ts";
import { exportedBlob, flatTrees } from "./jax/exported.ts";
import { type Arg, int32, Worker } from "./jax/worker.ts";
import { aliasOf, MainFunction } from "./text/read.ts";
import { weightsFile } from "./weights.ts";

/**
 * The prefill function of the artifact in `dir`, run piece by piece on a fresh text, so that one layer's weights at a
 * time are in memory. What lies past the text in a step is padding, which is cut off again.
 */
export async function openPieces(dir: string, facts: ModelFacts, ids: readonly number[]): Promise<Pieces> {
  const worker = await Worker.start();
  await worker.weights(join(dir, weightsFile));
  const main = new MainFunction(await readFile(join(dir, "prefill.mlir"), "utf8"));
  const [batch, chunk] = main.typeOf("%tokens").shape.map(Number) as [number, number];
  const tokens = new Array<number[]>(batch).fill([...ids, ...new Array<number>(chunk - ids.length).fill(0)]);
  const inputs: Readonly<Record<string, Arg>> = {
    tokens: int32([batch, chunk], tokens.flat()),
    start: int32([], [0]),
    last: int32([], [ids.length - 1]),
  };
  const logits = main.results[0]?.name ?? "";

  return {
    async run(given, wanted) {
      const values = new Map(given.map((t) => [aliasOf(t.name), t]));
      const known = given.map(({ name }) => ({ name, type: main.typeOf(name) }));
      const asked = wanted.map((name) => (name === "logits" ? logits : name));
      const { text, ...part } = cutHead(main.part(known, asked), facts.vocab, wanted.includes("logits"));
      await worker.module("part", exportedBlob({ name: "part", text, ...part, ...flatTrees(part) }));
      const args = part.args.map(({ name, type }): Arg => {
        const value = values.get(`%${name}`);
        if (value) return { dtype: type.dtype, shape: type.shape.map(Number), data: padded(value, type) };
        if (inputs[name]) return inputs[name];
        if (name.startsWith("past_key_values.")) return { zeros: type.shape.map(Number), dtype: type.dtype };
        return { weight: name, shape: type.shape.map(Number) };
      });
      const out = await worker.run({ module: "part", args, fetch: wanted.map((_, i) => i) });
      await worker.clear();
      return new Map(wanted.map((name, i) => [name, real(out[i] as Float32Array, part.results[i]?.type)]));
    },
    close: () => worker.close(),
  };

  /** `data` [1, tokens, features] as all texts of a step have it. */
  function padded({ data }: Named, type: TensorType): Uint8Array {
    const one = new Float32Array(Number(type.at(1)) * Number(type.at(2)));
    // Of the last layer the text has one row, that of the last token.
    one.set(data.subarray(-one.length));
    const all = new Float32Array(one.length * batch);
    for (let i = 0; i < batch; i++) all.set(one, i * one.length);
    return new Uint8Array(all.buffer);
  }

  /** Of the first text, what is no padding: tokens lie along the last axis but one. */
  function real(data: Float32Array, type: TensorType | undefined): Float32Array {
    const one = data.subarray(0, data.length / batch);
    const [steps, features] = type && type.rank > 1 ? [Number(type.at(-2)), Number(type.at(-1))] : [0, 0];
    if (steps !== chunk) return one;
    const rows = one.length / (steps * features);
    const out = new Float32Array(rows * ids.length * features);
    for (let r = 0; r < rows; r++)
      out.set(
        one.subarray(r * steps * features, (r * steps + ids.length) * features),
        r * ids.length * features,
      );
    return out;
  }
}

type Part = ReturnType<MainFunction["part"]>;

/** Weights lie row by row, so the first rows of a product by a large matrix are a product by a shorter one. */
function cutHead(part: Part, vocab: number, isHead: boolean): Part {
  if (!isHead || vocab <= headRows) return part;
  const text = part.text.replace(/tensor<[^>]*>/g, (type) =>
    type.replace(new RegExp(`(?<=[<x])${vocab}(?=x)`), String(headRows)),
  );
  const cut = <T extends { readonly type: TensorType }>(a: T): T => ({
    ...a,
    type: a.type.with({ shape: a.type.shape.map((d) => (d === vocab ? headRows : d)) }),
  });
  return { ...part, text, args: part.args.map(cut), results: part.results.map(cut) };
}

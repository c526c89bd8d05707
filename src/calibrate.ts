import { evaluate } from "../backends/reference/index.ts";
import type { Weights } from "../backends/weights.ts";
import type { Graph } from "../ir/graph.ts";
import type { HostTensor } from "../ir/tensor.ts";
import { fuseLinear } from "../passes/fusion/fuse.ts";
import { calibrated, importanceName } from "../passes/quantize.ts";
import { loadTokenizer } from "./tokenizer/tokenizer.ts";

/** Tokens that a calibration runs on: enough for means of squares, few enough for the reference interpreter. */
const tokens = 128;

/** Plain prose, a list, a question and some code: what models are asked to go on with. */
const builtIn = `The river had been rising since the morning, and by noon the lower fields were under water. "We should
have moved the cattle yesterday," said the older of the two brothers. He counted them again: forty-one, forty-two.
Question: what is the capital of Portugal? Answer: Lisbon, a city of about 550,000 people on the Atlantic coast.
1. Boil the water. 2. Add salt, 10 g for each litre. 3. Cook for nine minutes; taste before you drain it.
for (let i = 0; i < items.length; i++) { total += items[i].price * (1 + rate); }`;

/** The tokens of `text`, or of a built-in one; spread ids where the checkpoint has no tokenizer. */
export async function calibrationIds(
  dir: string,
  vocab: number,
  context: number,
  text = builtIn,
): Promise<number[]> {
  const length = Math.min(tokens, context);
  const spread = Array.from({ length }, (_, i) => (2 + i * 7919) % vocab);
  const encoded = await loadTokenizer(dir).then(
    (t) => t.encode(text, { special: true }),
    () => spread,
  );
  return encoded.length > 0 && encoded.every((id) => id < vocab) ? encoded.slice(0, length) : spread;
}

const isImportance = (name: string): boolean => name.startsWith(importanceName(""));

/** Whether a pass wants something measured of the model. */
export const asksImportance = (g: Graph): boolean =>
  g.stored().some((v) => isImportance(String(v.attrs.name)));

/**
 * Runs the model `graph` on `ids` and measures what `quantize{method=search}` asks for in `compiled`: the mean square of
 * each column of what a weight is multiplied with. No weights at all when nothing is asked.
 */
export async function measureImportance(
  graph: Graph,
  compiled: Graph,
  weights: Weights,
  ids: readonly number[],
): Promise<Weights> {
  const wanted = new Set(compiled.stored().map((v) => String(v.attrs.name)));
  if (![...wanted].some(isImportance)) return inMemory(new Map());
  const fused = fuseLinear().run(graph);
  const columns = [...calibrated(fused)].filter(([name]) => wanted.has(name));
  const row = (values: readonly number[]): HostTensor => ({
    shape: [1, ids.length],
    data: Float64Array.from(values),
  });
  const inputs: Record<string, HostTensor> = { tokens: row(ids), positions: row(ids.map((_, i) => i)) };
  const out = await evaluate(fused.with({ outputs: Object.fromEntries(columns) }), {
    sizes: { B: 1, T: ids.length },
    weights,
    tensor: (name) => inputs[name],
  });
  return inMemory(new Map(columns.map(([name]) => [name, meanSquares(out[name] as HostTensor)])));
}

function meanSquares({ shape, data }: HostTensor): Float32Array {
  const columns = shape.at(-1) as number;
  const sums = new Float64Array(columns);
  data.forEach((x, i) => {
    sums[i % columns] = (sums[i % columns] as number) + x * x;
  });
  return Float32Array.from(sums, (s) => (s * columns) / data.length);
}

/** Vectors of f32 as weights. */
function inMemory(vectors: ReadonlyMap<string, Float32Array>): Weights {
  return {
    names: () => vectors.keys(),
    info: (name) => {
      const found = vectors.get(name);
      return found && { dtype: "f32", shape: [found.length], bytes: found.byteLength };
    },
    read: async (name, offset, into) => {
      const found = vectors.get(name);
      if (!found) throw new RangeError(`there is no tensor ${name}`);
      into.set(new Uint8Array(found.buffer).subarray(offset, offset + into.length));
    },
    close: async () => {},
  };
}

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Dispatch } from "../backends/kernel/index.ts";
import type { Kernel } from "../backends/kernel/lang/index.ts";
import { drawToken, mostDrawn, shares, topScores } from "../backends/kernel/library/sample.ts";
import { mulberry32, sample } from "../backends/wgsl/runtime/sample.ts";
import { KernelMachine, noCompiler } from "./support/kernel-machine.ts";

const vocabularies = [7, 1003, 2048, 2049, 6500];
const random = mulberry32(1);
const made = (vocab: number, of: (i: number) => number) =>
  Float32Array.from({ length: vocab }, (_, i) => of(i));
const scores: Readonly<Record<string, (vocab: number) => Float32Array>> = {
  "any scores": (vocab) => made(vocab, () => 12 * random() - 6),
  ties: (vocab) => made(vocab, () => Math.floor(3 * random())),
  "all alike": (vocab) => made(vocab, () => -2.5),
  "one that stands out": (vocab) => made(vocab, (i) => (i === vocab - 1 ? 80 : -80)),
  "masked ones": (vocab) => made(vocab, (i) => (i % 3 ? Number.NEGATIVE_INFINITY : random())),
};

/** What the kernels draw, in their C print. */
async function drawn(
  machine: KernelMachine,
  of: Float32Array,
  count: number,
  chances: readonly [temperature: number, topP: number, random: number],
): Promise<number> {
  const vocab = of.length;
  const held: Record<string, number> = {};
  const hold = (name: string, words: Uint32Array | Float32Array) => {
    held[name] = machine.allocate(words.byteLength);
    machine.write(held[name], 0, new Uint8Array(words.buffer));
  };
  hold("scores", of);
  hold("count", Uint32Array.of(count));
  hold("chances", Float32Array.from(chances));
  hold("top_scores", new Float32Array(shares(vocab) * mostDrawn).fill(Number.NaN));
  hold("top_ids", new Uint32Array(shares(vocab) * mostDrawn).fill(0xffffffff));
  hold("token", Uint32Array.of(0xffffffff));
  const launch = (kernel: Kernel, groups: number) => {
    const one = { of: 1, per: 1 };
    const bindings = kernel.buffers.map(
      ({ name }) => ({ space: "arena", offset: held[name] as number, bytes: 0 }) as const,
    );
    const grid = [{ of: groups, per: 1 }, one, one] as const;
    const d: Dispatch = {
      kernel,
      bindings,
      uniforms: [],
      grid,
      origin: "",
      layer: undefined,
      weightBytes: 0,
    };
    machine.launch(d, {}, ({ offset }) => [offset, 0]);
  };
  launch(topScores(vocab, 16), shares(vocab));
  launch(drawToken(vocab), 1);
  const [token] = new Uint32Array((await machine.read(held.token as number, 0, 4)).buffer);
  for (const id of Object.values(held)) machine.free(id);
  return token as number;
}

describe.skipIf(noCompiler)("kernels draw tokens as the sampler of the runtime does", () => {
  let machine: KernelMachine;
  beforeAll(async () => {
    machine = await KernelMachine.make(vocabularies.flatMap((v) => [topScores(v, 16), drawToken(v)]));
  }, 60_000);
  afterAll(() => machine?.close());

  describe.each(Object.keys(scores))("%s", (name) => {
    test.each(vocabularies)("the likeliest of %i", async (vocab) => {
      const of = scores[name]?.(vocab) as Float32Array;
      expect(await drawn(machine, of, 1, [1, 1, 0])).toBe(sample(of, { temperature: 0 }, random));
    });

    test.each(vocabularies)("draws among the best of %i", async (vocab) => {
      const of = scores[name]?.(vocab) as Float32Array;
      for (const topK of [1, 5, mostDrawn])
        for (const temperature of [0.6, 1.3])
          for (const topP of [1, 0.9, 0.3, 0]) {
            const chance = Math.fround(random());
            const want = sample(of, { temperature, topK, topP }, () => chance);
            const got = await drawn(machine, of, Math.min(topK, vocab), [temperature, topP, chance]);
            expect(got, JSON.stringify({ topK, temperature, topP, chance })).toBe(want);
          }
    });
  });
});

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { dim, minus, parseDim, plus, size, times } from "../ir/dim.ts";
import { Graph, intern, type Value } from "../ir/graph.ts";
import { interpret } from "../ir/interpret.ts";
import { constant } from "../ir/ops/index.ts";
import { count, type HostTensor } from "../ir/tensor.ts";
import { print } from "../ir/text/index.ts";
import { broadcast, parseType, type TensorType } from "../ir/type.ts";
import { verify } from "../ir/verify.ts";
import { decompose, decomposeExcept } from "../passes/decompose.ts";
import { foldExcept, foldWeights } from "../passes/fold-weights.ts";
import { canonicalize } from "../passes/fusion/canonicalize.ts";
import {
  fuseAttention,
  fuseGeglu,
  fuseLinear,
  fuseResidualNorm,
  fuseRmsNorm,
  fuseRope,
} from "../passes/fusion/fuse.ts";
import { packLinear } from "../passes/fusion/pack-linear.ts";
import { shareTables } from "../passes/fusion/share-tables.ts";
import { insertKvCache, isCache, quantizeCache } from "../passes/kv-cache.ts";
import { lastLogits } from "../passes/last-logits.ts";
import type { Pass } from "../passes/pass.ts";
import { pass } from "../passes/pass.ts";
import type { Gemma1Config, Gemma2Config, Gemma3Config, GemmaConfig } from "../src/model/config.ts";
import { gemma } from "../src/model/gemma.ts";
import {
  expectRoundTrip,
  expectSameOutputs,
  graphs,
  outcome,
  random,
  randomTensor,
  sameOutcome,
  sizes,
} from "./support/random-graph.ts";

const fusions = [fuseLinear(), fuseRmsNorm(), fuseGeglu(), fuseRope(), fuseAttention()];
const tidying = [canonicalize(), fuseResidualNorm(), packLinear(), shareTables()];
const exact = [
  ...fusions,
  ...tidying,
  decompose(),
  foldWeights(),
  pass("decompose-half", {
    doc: "Half of the composites.",
    run: (g) => decomposeExcept(g, (v) => v.id % 2 === 0),
  })(),
];
const fuse = (g: Graph) => fusions.reduce((h, pass) => pass.run(h), g);
const lower = (g: Graph) => decompose().run(g);

const tiny: Omit<Gemma1Config, "family"> = {
  ...{ vocab: 11, width: 8, hidden: 6, layers: 2, heads: 4, kvHeads: 2, headDim: 4, eps: 1e-6, context: 16 },
  ...{ activation: "gelu_tanh", tied: true, rope: { theta: 10_000, factor: 1 } },
};
const tinyGemma = (part: Partial<Gemma1Config> = {}): Gemma1Config => ({ ...tiny, family: "gemma", ...part });
const windowed = { layerTypes: ["sliding", "full"], window: 2, queryScalar: 6, finalCap: 3 } as const;
const tinyGemma2 = (part: Partial<Gemma2Config> = {}): Gemma2Config => ({
  ...{ ...tiny, ...windowed, family: "gemma2", attentionCap: 5 },
  ...part,
});
const tinyGemma3 = (part: Partial<Gemma3Config> = {}): Gemma3Config => ({
  ...{ ...tiny, ...windowed, family: "gemma3" },
  ...{ rope: { theta: 1_000_000, factor: 8 }, localRope: { theta: 10_000, factor: 1 } },
  ...part,
});

/** Holds `law` to so many random graphs, the same ones in every run. What breaks it is shown as text. */
function forAll(numRuns: number, law: (g: Graph, seed: number) => void): void {
  const property = fc.property(graphs, fc.nat(), law);
  const reporter = ({ errorInstance, counterexample }: fc.RunDetails<[Graph, number]>) => {
    if (counterexample)
      throw new Error(`${errorInstance}\n\nfor ${print(counterexample[0])}`, { cause: errorInstance });
  };
  fc.assert(property, { seed: 2403_08295, numRuns, endOnFailure: true, reporter });
}

/** The very same nodes, by the same names, compute the very same numbers. */
const isSame = (a: Graph, b: Graph): boolean =>
  Object.keys(a.outputs).join() === Object.keys(b.outputs).join() &&
  Object.entries(a.outputs).every(([name, v]) => v === b.outputs[name]);

function expectSameBits(pass: Pass, g: Graph, seed: number): void {
  const after = pass.run(g);
  if (isSame(after, g)) return;
  if (!sameOutcome(outcome(g, sizes, seed), outcome(after, sizes, seed)))
    throw new Error(`${pass.name} changed what the graph computes into\n${print(after)}`);
}

describe("random graphs", () => {
  test("are varied: every op turns up, and so do symbolic sizes", () => {
    const found = new Set<string>();
    for (const g of fc.sample(graphs, { seed: 1, numRuns: 300 })) {
      for (const v of g.values()) found.add(v.op.name);
      if (g.values().some((v) => v.shape.some((d) => typeof d !== "number"))) found.add("a symbolic size");
      for (const v of fuse(lower(g)).values()) found.add(`${v.op.name} found`);
    }
    for (const op of [
      "update",
      "mod",
      "erf",
      "matmul",
      "iota",
      "select",
      "rope",
      "attention",
      "a symbolic size",
    ])
      expect(found).toContain(op);
    for (const op of ["linear", "rms_norm", "gelu", "geglu", "rope", "softmax", "attention"])
      expect(found).toContain(`${op} found`);
  });

  test("print and parse are inverse, before and after any pass", () => {
    forAll(1000, (g) => {
      // Most passes leave most graphs as they are: a text is parsed once.
      const parsed = new Map<string, Graph>();
      for (const after of [g, ...exact.map((pass) => pass.run(g))]) {
        verify(after);
        expectRoundTrip(after, parsed);
      }
    });
  });

  test("decompose(fuse(g)) === decompose(g)", () => {
    forAll(2000, (g) => {
      const plain = lower(g);
      const found = [...fusions, fuseResidualNorm()].map((pass) => pass.run(g));
      for (const after of [...found, fuse(g), fuse(plain)])
        if (!isSame(after, g)) expectSameOutputs(lower(after), plain);
    });
  });

  test("exact passes keep every bit", () => {
    forAll(600, (g, seed) => {
      for (const pass of exact) expectSameBits(pass, g, seed);
    });
  });

  test("passes come to rest", () => {
    const twice = (run: (g: Graph) => Graph, g: Graph) => expectSameOutputs(run(run(g)), run(g));
    forAll(600, (g) => {
      for (const pass of [...fusions, ...tidying, decompose(), foldWeights()]) twice((h) => pass.run(h), g);
    });
  });

  test("what weights decide folds away whole, in one go or in two", () => {
    forAll(1000, (g, seed) => {
      const none = foldExcept(g, () => true);
      expectSameOutputs(none, g);
      const casts = foldExcept(g, (v) => v.op.name !== "cast");
      expectSameBits(foldWeights(), casts, seed);
      const params = (h: Graph) =>
        h
          .stored()
          .map((v) => v.id)
          .sort();
      expect(params(foldWeights().run(casts))).toEqual(params(foldWeights().run(g)));
    });
  });

  test("an expression built again is the same object, whichever operand comes first", () => {
    forAll(1000, (g) => {
      for (const v of g.values()) {
        if (intern(v.op, v.inputs, { ...v.attrs }) !== v) throw new Error(`${v.op.name} was built twice`);
        if (v.op.commutative && intern(v.op, v.inputs.toReversed(), v.attrs) !== v)
          throw new Error(`${v.op.name} minds the order of its operands`);
      }
    });
  });

  test("zero and minus zero are two numbers", () => {
    const zero = constant({ value: 0, dtype: "f32" });
    const minusZero = constant({ value: -0, dtype: "f32" });
    expect(zero === minusZero).toBe(false);
    expectRoundTrip(new Graph("zeros", { inputs: [], outputs: { zero, minusZero } }));
  });

  test("an op that is not commutative keeps its operands apart", () => {
    forAll(500, (g) => {
      for (const v of g.values()) {
        const [a, b] = v.inputs;
        if (v.inputs.length !== 2 || !a || !b || a === b || v.op.commutative) continue;
        if (a.type.equals(b.type) && intern(v.op, [b, a], v.attrs) === v)
          throw new Error(`${v.op.name} does not mind the order of its operands`);
      }
    });
  });
});

describe("sizes", () => {
  const [T, B] = [dim("T"), dim("B")];

  test.each([
    [["f32[2,3]", "f32[3]"], "2,3"],
    [["f32[2,1]", "f32[1,3]", "f32[]"], "2,3"],
    [["f32[T,1]", "f32[B,1,8]"], "B,T,8"],
    [["f32[0]", "f32[1]"], "0"],
    [["f32[P+T]", "f32[T+P]"], "P+T"],
  ])("%s stretch to [%s]", (types, want) => {
    expect(String(broadcast(...types.map(parseType)))).toBe(want);
  });

  test("equal sizes are the same object", () => {
    expect(plus(T, T)).toBe(times(2, T));
    expect(minus(plus(T, B), T)).toBe(B);
    expect(times(plus(T, 1), minus(T, 1))).toBe(minus(times(T, T), 1));
    expect(minus(T, T)).toBe(0);
    expect(size(plus(times(T, B), 3), { T: 5, B: 2 })).toBe(13);
    expect(() => size(T, {})).toThrow("size T is unbound; pass { T: <number> }");
  });

  test("a size is read as it is printed", () => {
    const coefficients = fc.array(fc.integer({ min: -3, max: 3 }), { minLength: 4, maxLength: 4 });
    const property = fc.property(coefficients, ([a = 0, b = 0, c = 0, d = 0]) => {
      const it = [times(a, T), times(b, B), times(c, times(T, B)), d].reduce(plus);
      expect(parseDim(String(it))).toBe(it);
      expect(size(it, { T: 7, B: 11 })).toBe(7 * a + 11 * b + 77 * c + d);
    });
    fc.assert(property, { seed: 4, numRuns: 500 });
  });
});

describe("gemma", () => {
  const models = [
    tinyGemma(),
    tinyGemma({ kvHeads: 1 }),
    tinyGemma({ kvHeads: 4, headDim: 2, tied: false }),
    tinyGemma({ heads: 1, kvHeads: 1, layers: 1, eps: 1e-5, rope: { theta: 500, factor: 1 } }),
    tinyGemma2(),
    tinyGemma3({ activation: "gelu_erf", finalCap: 0, tied: false }),
  ].flatMap((c) => [gemma(c), gemma(c, () => "f32")]);

  test.each(models.map((g, i) => [i, g] as const))("%i: print and parse are inverse", (_, g) => {
    for (const h of [g, fuse(g), lower(g), foldWeights().run(fuse(g))]) {
      verify(h);
      expectRoundTrip(h);
    }
  });

  test.each(models.map((g, i) => [i, g] as const))("%i: fused from either spelling", (_, g) => {
    expectSameOutputs(lower(fuse(g)), lower(g));
    expectSameOutputs(fuse(lower(g)), fuse(g));
    const left = new Set(
      fuse(lower(g))
        .values()
        .map((v) => v.op.name),
    );
    for (const op of ["rms_norm", "rope", "attention", "linear"]) expect(left).toContain(op);
    for (const op of ["matmul", "exp", "tanh", "erf", "rsqrt", "sin", "softmax", "gelu"])
      expect(left).not.toContain(op);
  });

  test.each(models.map((g, i) => [i, g] as const))("%i: every pass keeps every bit", (_, g) => {
    const want = outcome(g, sizes, 5);
    for (const start of [g, fuse(g)])
      for (const pass of exact)
        if (!sameOutcome(want, outcome(pass.run(start), sizes, 5)))
          throw new Error(`${pass.name} changed what gemma computes`);
  });

  test.each(models.map((g, i) => [i, g] as const))(
    "%i: last-logits gives the last row, bit for bit",
    (_, g) => {
      for (const start of [g, fuse(g), insertKvCache().run(fuse(g))]) {
        const [all, last] = [start, lastLogits().run(start)].map((h) => outcome(h, { ...sizes, P: 2 }, 5));
        if (typeof all === "string" || typeof last === "string") throw new Error("a token is out of range");
        const [want, got] = [all?.logits, last?.logits];
        const [B = 0, T = 0, V = 0] = want?.shape ?? [];
        expect(got?.shape).toEqual([B, 1, V]);
        for (let b = 0; b < B; b++)
          expect(got?.data.slice(b * V, (b + 1) * V)).toEqual(
            want?.data.slice(((b + 1) * T - 1) * V, (b + 1) * T * V),
          );
      }
      // After the last attention nothing is as long as the text.
      const cut = lastLogits().run(fuse(g)).values();
      const long = cut.findLast((v) => v.op.name === "linear" && v.type.rank === 3 && v.shape[1] !== 1);
      expect(cut.findLastIndex((v) => v.op.name === "attention")).toBeGreaterThan(cut.indexOf(long as Value));
    },
  );

  test.each(models.map((g, i) => [i, g] as const))("%i: tidied up, one after another", (_, g) => {
    const tidy = tidying.reduce((h, pass) => pass.run(h), fuse(lower(g)));
    const found = new Set(tidy.values().map((v) => v.op.name));
    for (const op of ["residual_rms_norm", "slice"]) expect(found).toContain(op);
    expect(sameOutcome(outcome(g, sizes, 5), outcome(tidy, sizes, 5))).toBe(true);
  });
});

describe("the cache", () => {
  const models = fc.record({
    config: fc
      .record({
        kvHeads: fc.constantFrom(1, 2, 4),
        headDim: fc.constantFrom(2, 4),
        tied: fc.boolean(),
        window: fc.integer({ min: 1, max: 4 }),
        family: fc.constantFrom<(part: Partial<typeof tiny>) => GemmaConfig>(
          tinyGemma,
          tinyGemma2,
          tinyGemma3,
        ),
      })
      .map(({ family, window, ...part }) => ({ ...family(part), window })),
    batch: fc.integer({ min: 1, max: 2 }),
    chunks: fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 4 }),
    first: fc.constantFrom(0, 7),
    spelled: fc.boolean(),
    /** Whether caches hold 8-bit codes. */
    coded: fc.boolean(),
    /** Slots beyond those that are filled; without a number caches grow. */
    spare: fc.option(fc.integer({ min: 0, max: 3 }), { nil: undefined }),
    seed: fc.nat(),
  });

  test("decoding in chunks of any size gives the logits of one full pass", () => {
    const property = fc.property(models, ({ config, batch, chunks, spelled, spare, seed, ...from }) => {
      const written = gemma(config, () => "f32");
      const plain = spelled ? fuse(lower(written)) : written;
      const full = from.coded ? quantizeCache().run(plain) : plain;
      const length = chunks.reduce((a, b) => a + b);
      const capacity = spare === undefined ? 0 : length + spare;
      // A slot's number is its position, so that texts in slots start at 0.
      const first = capacity ? 0 : from.first;
      const step = insertKvCache({ capacity }).run(full);
      verify(step);
      const next = random(seed);
      const ids = Array.from({ length: batch * length }, () => Math.floor(next() * config.vocab));
      /** Columns `from` to `to` of a [batch, length] table. */
      const columns = (from: number, to: number, entry: (row: number, column: number) => number) => ({
        shape: [batch, to - from],
        data: Float64Array.from({ length: batch * (to - from) }, (_, i) =>
          entry(Math.floor(i / (to - from)), from + (i % (to - from))),
        ),
      });
      const feed = (from: number, to: number) => ({
        tokens: columns(from, to, (row, column) => ids[row * length + column] as number),
        positions: columns(from, to, (_, column) => first + column),
      });
      const run = (g: Graph, P: number, T: number, inputs: Record<string, HostTensor>) => {
        const bound = { B: batch, T, P };
        const weight = (name: string, type: TensorType) =>
          randomTensor(type, bound, random(seed + name.length));
        return interpret(g, { sizes: bound, tensor: (name, type) => inputs[name] ?? weight(name, type) });
      };

      const want = run(full, 0, length, feed(0, length)).logits as HostTensor;
      const empty = (v: Value): HostTensor => {
        const shape = v.shape.map((d) => size(d, { B: batch, P: 0 }));
        return { shape, data: new Float64Array(count(shape)) };
      };
      const caches = step.inputs.filter(isCache);
      expect(caches.some((v) => v.dtype === "i8")).toBe(from.coded);
      const cache: Record<string, HostTensor> = Object.fromEntries(
        caches.map((v) => [String(v.attrs.name), empty(v)]),
      );
      let at = 0;
      for (const n of chunks) {
        const past = {
          ...cache,
          past_positions: columns(0, at, (_, column) => first + column),
          start: { shape: [], data: Float64Array.of(at) },
        };
        const out = run(step, at, n, { ...past, ...feed(at, at + n) });
        for (let row = 0; row < batch; row++) {
          const got = out.logits?.data.subarray(row * n * config.vocab, (row + 1) * n * config.vocab);
          const from = (row * length + at) * config.vocab;
          got?.forEach((x, i) => {
            expect(Math.abs(x - (want.data[from + i] as number))).toBeLessThan(1e-5);
          });
          expect(got).toHaveLength(n * config.vocab);
        }
        for (const [name, t] of Object.entries(out))
          if (name.startsWith("present.")) cache[name.replace("present", "past_key_values")] = t;
        at += n;
      }
    });
    fc.assert(property, { seed: 9, numRuns: 60 });
  });
});

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compiler } from "../backends/c/index.ts";
import { type Model, openModel } from "../src/artifact/open.ts";
import { compile } from "../src/compile.ts";
import { argmax, generateIds, type SampleOptions } from "../src/generate.ts";
import { cudaHere } from "./support/cuda.ts";
import { writeGguf } from "./support/gguf-checkpoint.ts";
import { distance, type Golden, readDemo, readGolden } from "./support/goldens.ts";
import { findGpu } from "./support/gpu.ts";
import { findJax } from "./support/jax.ts";

const scratch = mkdtempSync(join(tmpdir(), "gemmac-goldens-"));
const rows: string[] = [];
afterAll(() => {
  rmSync(scratch, { recursive: true, force: true });
  const head = ["model        backend    prefill  hidden   decode   atol     greedy ids"];
  console.log([...head, ...rows].join("\n"));
});

/** One body for every backend: how to open a checkpoint on it. */
const backends: Record<string, (dir: string, name: string) => Promise<string>> = {
  reference: async (dir) => dir,
  standard: (dir, name) => compiled(dir, name, "standard"),
  ort: (dir, name) => compiled(dir, name, "ort"),
  "ort, slots": (dir, name) => compiled(dir, name, "ort", 64),
  gguf: (dir, name) => inGguf(dir, name),
  "gguf, ort": async (dir, name) => compiled(await inGguf(dir, name), `${name}-gguf`, "ort"),
  c: async (dir, name) =>
    (await compile(dir, { targets: ["c"], out: join(scratch, `${name}-c`), verify: false })).out,
  cuda: async (dir, name) => {
    const out = join(scratch, `${name}-cuda`);
    return (await compile(dir, { targets: ["cuda"], out, capacity: 128, verify: false })).out;
  },
  stablehlo: (dir, name) => inXla(dir, `${name}-stablehlo`, false),
  "stablehlo, scan": (dir, name) => inXla(dir, `${name}-scan`, true),
};
const inXla = async (dir: string, name: string, scanLayers: boolean) => {
  const out = join(scratch, name);
  const options = { targets: ["stablehlo"], out, capacity: 128, prefill: 16, scanLayers, verify: false };
  return (await compile(dir, options)).out;
};
const gpu = await findGpu();
if ("name" in gpu)
  backends.wgsl = async (dir, name) => {
    const out = join(scratch, `${name}-wgsl`);
    return (await compile(dir, { targets: ["wgsl"], out, capacity: 128, verify: false })).out;
  };
else test.skip(`wgsl: ${gpu.missing}`, () => {});
const cc = await compiler();
if (!cc) console.warn("SKIPPED: the goldens of c, because there is no C compiler");
const cuda = await cudaHere();
if (cuda !== "a GPU") console.warn(`the goldens of cuda: ${cuda}`);

/** The checkpoint as llama.cpp's converter writes it, in its own dtype. */
const inGguf = (dir: string, name: string) =>
  writeGguf(dir, join(scratch, `${name}.gguf`), (_, dtype) => (dtype === "bf16" ? "bf16" : "f32"));

async function compiled(
  dir: string,
  name: string,
  profile: "standard" | "ort",
  capacity = 0,
): Promise<string> {
  const out = join(scratch, `${name}-${profile}-${capacity}`);
  return (await compile(dir, { targets: ["onnx"], out, profile, capacity, verify: false })).out;
}

const jax = await findJax();
const everything = process.env.GEMMAC_GOLDENS === "all";
/**
 * Without JAX its tests are told as skipped. Those of CUDA run on the processor where there is no GPU, which takes long:
 * two of the models, unless GEMMAC_GOLDENS=all.
 */
const runs = (backend: string, name: string) => {
  const enough = everything || name === "gemma1-mqa" || name === "gemma3";
  const can: Record<string, unknown> = {
    c: cc !== undefined,
    cuda: !cuda.startsWith("SKIPPED") && enough,
    stablehlo: jax,
    "stablehlo, scan": jax,
  };
  return can[backend] ?? true;
};
if (!jax) test.skip("stablehlo: there is no Python with JAX here (GEMMAC_PYTHON names one)", () => {});

/** llama.cpp has no form for the demo model's byte-level tokenizer without special tokens. */
const has = (name: string, backend: string) => name !== "demo" || !backend.startsWith("gguf");
const here = (path: string) => new URL(path, import.meta.url).pathname;

for (const name of ["gemma1-mqa", "gemma1-mha", "gemma2", "gemma3", "demo"])
  describe.each(Object.keys(backends).filter((b) => runs(b, name) && has(name, b)))(
    `${name} on %s`,
    (backend) => {
      const dir = here(name === "demo" ? "../examples/gemma-kjv-2m" : `data/models/${name}`);
      const worst = { prefill: 0, hidden: 0, decode: 0, ids: true };
      let golden: Golden;
      let model: Model;
      /** The same, as it runs with nothing to watch. */
      let plain: Model;
      let hidden: Map<string, string>;

      beforeAll(async () => {
        golden = name === "demo" ? await readDemo(here("data/demo")) : await readGolden(dir);
        const layers = Array.from(
          { length: golden.layers },
          (_, i) => [`layer.${i}`, `model/layers.${i}`] as const,
        );
        hidden = new Map([["embed", "model/embed_tokens"], ...layers, ["final_norm", "model/norm"]]);
        const path = await (backends[backend] as (typeof backends)[string])(dir, name);
        model = await openModel(path, { watch: [...hidden.values()] });
        // Only there do a step of prefill and a loop over layers run.
        plain = /^(stablehlo|wgsl)/.test(backend) ? await openModel(path) : model;
      }, 600_000);
      afterAll(async () => {
        const cells = [worst.prefill, worst.hidden, worst.decode, golden.atol].map((x) =>
          x.toExponential(1).padEnd(8),
        );
        rows.push([name.padEnd(12), backend.padEnd(10), ...cells, worst.ids ? "equal" : "differ"].join(" "));
        await model.close();
        if (plain !== model) await plain.close();
      });

      test("prefill logits and hidden states", async () => {
        for (const { id, input_ids } of golden.prompts) {
          model.session.reset();
          const { logits, watched } = await model.session.append(input_ids);
          worst.prefill = Math.max(worst.prefill, distance(logits, golden.tensors.get(`${id}.logits`)));
          if (!golden.tensors.has(`${id}.hidden.embed`)) continue;
          // Where only the last token is scored, the last layer's sum exists for that token alone, and has no name.
          const named = [...hidden].filter(([, origin]) => watched.get(origin)?.length);
          expect(named.length).toBeGreaterThanOrEqual(hidden.size - 1);
          for (const [key, origin] of named)
            worst.hidden = Math.max(
              worst.hidden,
              distance(watched.get(origin), golden.tensors.get(`p2.hidden.${key}`)),
            );
        }
        expect(worst.prefill).toBeLessThanOrEqual(golden.atol);
        expect(worst.hidden).toBeLessThanOrEqual(golden.atol);
      });

      test("the last token's scores, when only they are asked for", async () => {
        for (const { id, input_ids } of golden.prompts) {
          plain.session.reset();
          const { logits } = await plain.session.append(input_ids, { last: true });
          const want = golden.tensors.get(`${id}.logits`)?.slice(-golden.vocab);
          expect(distance(logits.slice(-golden.vocab), want)).toBeLessThanOrEqual(golden.atol);
        }
      });

      test("decoding step by step, and the greedy ids", async () => {
        // The interpreter takes long, and is the same whatever file the weights come from: one text will do, but for the gate.
        const brief = !everything && (backend === "gguf" || (backend === "reference" && name === "demo"));
        for (const { id, input_ids, generated_ids } of golden.prompts.slice(0, brief ? 1 : undefined)) {
          const want = golden.tensors.get(`${id}.decode_logits`);
          const steps = want || name === "demo" ? generated_ids.length : 1;
          plain.session.reset();
          let { logits } = await plain.session.append(input_ids);
          for (let i = 0; i < steps; i++) {
            const row = logits.slice(-golden.vocab);
            if (want)
              worst.decode = Math.max(
                worst.decode,
                distance(row, want.subarray(i * golden.vocab, (i + 1) * golden.vocab)),
              );
            worst.ids &&= argmax(row) === generated_ids[i];
            if (i + 1 < steps) ({ logits } = await plain.session.append([generated_ids[i] as number]));
          }
        }
        expect(worst.decode).toBeLessThanOrEqual(golden.atol);
        expect(worst.ids).toBe(true);
      });

      if (backend !== "wgsl") return;
      test("the same ids where the device draws them, and others at random", async () => {
        const drawn = async (ids: readonly number[], how: SampleOptions) => {
          plain.session.reset();
          const out: number[] = [];
          for await (const id of generateIds(plain.session, ids, { ...how, maxTokens: 8 })) out.push(id);
          return out;
        };
        for (const { input_ids, generated_ids } of golden.prompts) {
          expect(await drawn(input_ids, {})).toEqual(generated_ids.slice(0, 8));
          const seeded = (seed: number) => drawn(input_ids, { temperature: 2, topK: 40, topP: 0.95, seed });
          const said = await seeded(7);
          expect(await seeded(7)).toEqual(said);
          expect(await seeded(8)).not.toEqual(said);
        }
      });
    },
  );

// The demo model in one Chromium, in our artifact and in onnxruntime-web's WebGPU on our ONNX artifact, in alternating rounds.
import { cpSync, mkdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile } from "../../../dist/src/index.js";
import { findChromium } from "../../external/chromium.mjs";
import { serve } from "../../external/static-server.mjs";
import { installed } from "../packages.mjs";

/**
 * Speeds of both, by round: { chromium, gpu, ours, theirs }, each side with `cold` (seconds from the start of loading to the
 * first token) and `rounds` of { first, rate }. `missing` says why there is nothing to compare, `theirs.failed` why
 * onnxruntime-web did not run.
 */
export async function peers({ scratch, deps, demo, prompts, tokens, rounds, quant }) {
  const chromium = await findChromium();
  if (chromium.missing) return { missing: chromium.missing };
  const ort = installed(deps, "onnxruntime-web");
  if (ort.missing) return { missing: `onnxruntime-web cannot be installed: ${ort.missing}` };
  mkdirSync(scratch, { recursive: true });
  const options = { verify: false, overwrite: true, ...(quant && { quant }) };
  await compile(demo, { targets: ["wgsl"], out: join(scratch, "ours"), capacity: 256, ...options });
  // Both hold the same numbers: bf16 ones widened, which is what onnxruntime-web's kernels for a GPU take.
  await compile(demo, { targets: ["onnx"], out: join(scratch, "theirs"), weights: "f32", ...options });
  cpSync(dirname(fileURLToPath(ort.url)), join(scratch, "ort"), { recursive: true });
  const config = JSON.parse(readFileSync(join(demo, "config.json"), "utf8"));
  const server = await serve(scratch);
  const browser = await chromium.launch();
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(0);
    await page.goto(`${server.url}ours/package.json`);
    const measured = await page.evaluate(inPage, { url: server.url, prompts, tokens, rounds, config });
    return { chromium: browser.version(), version: ort.version, ...measured };
  } finally {
    await browser.close();
    server.close();
  }
}

/** Runs in the page. */
async function inPage({ url, prompts, tokens, rounds, config }) {
  const argmax = (x) => x.reduce((best, v, i) => (v > x[best] ? i : best), 0);
  const seconds = (since) => (performance.now() - since) / 1000;

  async function openOurs() {
    const { load } = await import(`${url}ours/model.js`);
    const gemma = await load(undefined, { cache: false });
    return {
      gpu: gemma.device,
      async run({ text }) {
        for await (const _ of gemma.generate(text, { temperature: 0, maxTokens: tokens }));
        const { secondsToFirst, tokensPerSecond } = gemma.lastRun;
        return { first: secondsToFirst, rate: tokensPerSecond };
      },
    };
  }

  async function openTheirs() {
    const ort = await import(`${url}ort/ort.webgpu.bundle.min.mjs`);
    ort.env.wasm.wasmPaths = `${url}ort/`;
    ort.env.wasm.numThreads = 1;
    const bytes = async (path) => new Uint8Array(await (await fetch(`${url}theirs/onnx/${path}`)).arrayBuffer());
    const session = await ort.InferenceSession.create(await bytes("model.onnx"), {
      executionProviders: ["webgpu"],
      externalData: [{ path: "model.onnx_data", data: await bytes("model.onnx_data") }],
      preferredOutputLocation: Object.fromEntries(
        Array.from({ length: config.num_hidden_layers }).flatMap((_, n) => ["key", "value"].map((kind) => [`present.${n}.${kind}`, "gpu-buffer"])),
      ),
    });
    const shape = [1, config.num_key_value_heads, 0, config.head_dim];
    return {
      async run({ input_ids, greedy_ids }) {
        const start = performance.now();
        let past = Object.fromEntries(
          session.inputNames.filter((n) => n.startsWith("past_key_values.")).map((n) => [n, new ort.Tensor("float32", new Float32Array(0), shape)]),
        );
        let [ids, same] = [input_ids, 0];
        let [fed, first, firstAt] = [0, 0, 0];
        for (let n = 0; n < tokens; n++) {
          fed += ids.length;
          const whole = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
          const out = await session.run({ input_ids: whole(ids), attention_mask: whole(Array(fed).fill(1)), ...past });
          const scores = await out.logits.getData();
          ids = [argmax(scores.subarray(-config.vocab_size))];
          if (same === n && ids[0] === greedy_ids[n]) same++;
          const next = Object.keys(past).map((name) => [name, out[name.replace("past_key_values", "present")]]);
          for (const old of Object.values(past)) old.dispose();
          past = Object.fromEntries(next);
          if (n === 0) [first, firstAt] = [seconds(start), performance.now()];
        }
        for (const old of Object.values(past)) old.dispose();
        return { first, rate: (tokens - 1) / seconds(firstAt), same };
      },
    };
  }

  const sides = {};
  for (const [name, open] of Object.entries({ ours: openOurs, theirs: openTheirs })) {
    const start = performance.now();
    try {
      const { run, gpu } = await open();
      const loaded = seconds(start);
      const { first } = await run(prompts[0]);
      sides[name] = { gpu, run, cold: loaded + first, rounds: [] };
    } catch (e) {
      sides[name] = { failed: String(e?.message ?? e) };
    }
  }
  // Another prompt each time, so that none is remembered.
  for (let n = 1; n <= rounds; n++)
    for (const side of Object.values(sides)) if (side.run) side.rounds.push(await side.run(prompts[n % prompts.length]));
  for (const side of Object.values(sides)) delete side.run;
  return sides;
}

// npm run bench:perplexity: what quantization costs the demo model, in nats per token on held-out text, and what it costs in
// llama.cpp. Windows of 128 tokens, no overlap, each from position 0 with no BOS; the first token of a window is context only.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile, openModel, parsePipeline } from "../../dist/src/index.js";
import { gguf } from "./gguf.mjs";
import { installed } from "./packages.mjs";

const at = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const demo = at("examples/gemma-kjv-2m");
const golden = JSON.parse(readFileSync(at("test/data/demo/golden.json"), "utf8")).perplexity.eval_txt;
const scratch = mkdtempSync(join(tmpdir(), "gemmac-perplexity-"));
const window = 128;

const model = await openModel(demo);
const ids = (await model.tokenizer()).encode(readFileSync(at("test/data/demo/eval.txt"), "utf8"), {
  special: false,
});
await model.close();
if (ids.length !== golden.tokens) throw new Error(`eval.txt is ${ids.length} tokens, not ${golden.tokens}`);

const int = (scheme, block, rest = "") => [
  `${scheme} b${block}${rest ? ` ${rest}` : ""}`,
  `quantize{scheme=${scheme},block=${block}${rest ? `,${rest}` : ""}}`,
];
const variants = [
  ["f32", ""],
  ...["int8", "int4"].map((scheme) => int(scheme, 32, "scales=f16")),
  ...[32, 64].flatMap((block) => [int("int8", block), int("int8", block, "range=middle")]),
  ...[32, 64].flatMap((block) => [
    int("int4", block),
    int("int4", block, "range=middle"),
    int("int4", block, "embed=int8"),
    int("int4", block, "range=middle,embed=int8"),
    int("int4", block, "method=search"),
    int("int4", block, "method=search,embed=int8"),
  ]),
];

const rows = [["weights", "file MB", "nats/token", "change", "perplexity"]];
const scores = new Map();
try {
  for (const [name, passes] of variants) {
    const { bytes, nats } = await measure(passes, "standard");
    scores.set(name, nats);
    rows.push([
      name,
      (bytes / 1e6).toFixed(2),
      nats.toFixed(6),
      changeOf(nats),
      Math.exp(nats).toFixed(3),
    ]);
  }
  printTable(rows);
  const drift = Math.abs(scores.get("f32") - golden.nats_per_token.bf16_weights_f32_compute);
  check(
    `f32 is ${golden.nats_per_token.bf16_weights_f32_compute.toFixed(6)} (off by ${drift.toExponential(1)})`,
    drift < 1e-4,
  );
  // The ort profile multiplies in 8-bit integers and scores the last token only: a few windows, token by token.
  for (const name of [
    "f32",
    "int8 b32",
    "int8 b32 range=middle",
    "int4 b32",
    "int4 b32 range=middle,embed=int8",
  ]) {
    const passes = variants.find(([n]) => n === name)[1];
    const some = 12;
    const standard = (await measure(passes, "standard", some)).nats;
    const ort = (await measure(passes, "ort", some)).nats;
    const apart = 100 * (ort / standard - 1);
    check(
      `ort profile, ${name}: ${ort.toFixed(6)} on ${some} windows, standard ${standard.toFixed(6)} (${apart.toFixed(3)} %)`,
      Math.abs(apart) < 0.1,
    );
  }
  await besideLlama();
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

/** Ours and llama.cpp's as both run: products by codes round what they multiply to 8 bits. */
async function besideLlama() {
  const cache = join(tmpdir(), "gemmac-bench");
  const llama = installed(join(cache, "deps"), "node-llama-cpp");
  if (llama.missing)
    return console.log(`SKIPPED llama.cpp: node-llama-cpp cannot be installed: ${llama.missing}`);
  const some = 34;
  const table = [["weights", "gemmac, profile ort", "change", "weights", "llama.cpp", "change"]];
  let base;
  for (const [name, format] of [
    ["f32", "f32"],
    ["int8 b32", "q8_0"],
    ["int4 b32", "q4_0"],
    ["int4 b32 method=search", "q4_0"],
  ]) {
    const ours = (await measure(variants.find(([n]) => n === name)[1], "ort", some)).nats;
    base ??= ours;
    const theirs = await measureLlama(llama.url, format, some);
    const cells = [ours, theirs].map((nats) => [nats.toFixed(6), changeOf(nats, base)]);
    table.push([name, ...cells[0], format.toUpperCase(), ...cells[1]]);
  }
  console.log(`as they run, the first ${some} windows; node-llama-cpp ${llama.version}`);
  printTable(table);
}

/** The same mean, by llama.cpp. */
async function measureLlama(url, format, windows) {
  const { getLlama, LlamaLogLevel } = await import(url);
  const modelPath = await gguf(demo, join(scratch, `demo.${format}.gguf`), format);
  const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.error });
  const model = await llama.loadModel({ modelPath });
  const context = await model.createContext({ contextSize: window, batchSize: window, sequences: 1 });
  const sequence = context.getSequence();
  const [wanted, vocab] = [{ generateNext: { logits: true } }, model.fileInfo.metadata.tokenizer.ggml.tokens.length];
  let [sum, count] = [0, 0];
  for (let from = 0; from < windows * window; from += window) {
    await sequence.clearHistory();
    const tokens = ids.slice(from, from + window);
    const out = await sequence.controlledEvaluate(tokens.slice(0, -1).map((id) => [id, wanted]));
    for (const [i, { next }] of out.entries()) {
      const scores = Float32Array.from({ length: vocab }, (_, id) => next.logits.get(id));
      sum += surprise(scores, tokens[i + 1]);
      count++;
    }
  }
  await llama.dispose();
  return sum / count;
}

function changeOf(nats, base = scores.get("f32")) {
  const change = 100 * (nats / base - 1);
  return `${change >= 0 ? "+" : ""}${change.toFixed(3)} %`;
}

function printTable(rows) {
  const table = rows.map((r) => `| ${r.join(" | ")} |`);
  table.splice(1, 0, `|${" --- |".repeat(rows[0].length)}`);
  console.log(table.join("\n"));
}

function check(what, holds) {
  console.log(`${holds ? "ok  " : "FAIL"} ${what}`);
  if (!holds) process.exitCode = 1;
}

/** Mean of -ln p over the scored tokens of the first windows. */
async function measure(passes, profile, windows = ids.length / window) {
  const out = join(scratch, "model");
  const report = await compile(demo, {
    targets: ["onnx"],
    out,
    force: true,
    profile,
    verify: false,
    insert: parsePipeline(passes),
  });
  const { session, facts, close } = await openModel(out);
  let [sum, count] = [0, 0];
  for (let w = 0; w < windows; w++) {
    session.reset();
    const tokens = ids.slice(w * window, (w + 1) * window);
    const { logits } = await session.append(tokens.slice(0, -1));
    for (let i = 1; i < window; i++, count++)
      sum += surprise(logits.subarray((i - 1) * facts.vocab, i * facts.vocab), tokens[i]);
  }
  await close();
  return {
    bytes: report.targets[0].files.filter((f) => f.path.startsWith("onnx/")).reduce((n, f) => n + f.bytes, 0),
    nats: sum / count,
  };
}

function surprise(scores, id) {
  let top = -Infinity;
  for (const s of scores) top = Math.max(top, s);
  let sum = 0;
  for (const s of scores) sum += Math.exp(s - top);
  return Math.log(sum) + top - scores[id];
}

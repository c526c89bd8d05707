// npm run real [-- --tokens N --variants f32,int8 --llama FILE]: real weights. Fetches Gemma 3 270M (GGUF, Q4_K_M), compiles it, and compares
// next-token distributions with llama.cpp on the same file, position by position; then lets it answer ten prompts. --llama gives llama.cpp another file, such as
// the one that to_f32.py writes: with f32 weights it does not round activations, so that its own error is left out.
// Skipped, and said so, where no registry can be reached.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { loadTokenizer, openModel } from "../../dist/src/index.js";
import { installed } from "../bench/packages.mjs";
import { fetchGemma } from "./fetch.mjs";

const { values: options } = parseArgs({
  options: {
    tokens: { type: "string", default: "2000" },
    window: { type: "string", default: "700" },
    llama: { type: "string" },
    variants: { type: "string", default: "f32,carried,int8,int4" },
  },
});
const cache = process.env.GEMMAC_REAL_CACHE ?? join(homedir(), ".cache", "gemmac-real");
const found = await fetchGemma(cache);
if (found.missing) {
  console.log(`SKIPPED: the weights cannot be fetched: ${found.missing}`);
  process.exit(0);
}
const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** "f32" is the float reference: every block made numbers, products in f32. */
const flags = {
  f32: ["--profile", "standard", "--weights", "f32"],
  carried: [],
  int8: ["--quant", "int8"],
  int4: ["--quant", "int4"],
};
const models = [];
for (const name of options.variants.split(",")) {
  const out = join(cache, name);
  if (!existsSync(join(out, "manifest.json"))) {
    rmSync(out, { recursive: true, force: true });
    const args = [here("../../dist/src/cli/main.js"), "compile", found.path, "--target", "onnx", "--out", out];
    const { status, stdout, stderr } = spawnSync(process.execPath, [...args, ...flags[name]], {
      encoding: "utf8",
    });
    if (status !== 0) throw new Error(stderr);
    console.log(`${name}: ${stdout.split("\n").filter((l) => /^(onnx|verified|1 target)/.test(l)).join("; ")}`);
  }
  models.push({ name, ...(await openModel(out)) });
}

const tokenizer = await loadTokenizer(found.path);
const read = (path) => readFileSync(here(path), "utf8");
const texts = {
  "KJV, held out": tokenizer.encode(read("../data/demo/eval.txt")).slice(0, Number(options.tokens)),
  English: tokenizer.encode(read("texts/english.txt")),
  code: tokenizer.encode(read("texts/code.txt")),
  Persian: tokenizer.encode(read("texts/persian.txt")),
};

const llama = installed(join(cache, "deps"), "node-llama-cpp");
if (llama.missing) console.log(`SKIPPED llama.cpp: node-llama-cpp cannot be installed: ${llama.missing}`);
const peer = llama.missing ? undefined : await openLlama(llama.url, options.llama ?? found.path);

/** What two distributions differ by, summed over positions: rows are log probabilities. */
class Tally {
  n = 0;
  kl = 0;
  same = 0;
  add(p, q) {
    let kl = 0;
    for (let i = 0; i < p.length; i++) if (p[i] > -80) kl += Math.exp(p[i]) * (p[i] - q[i]);
    this.n++;
    this.kl += Math.max(0, kl);
    this.same += best(p) === best(q) ? 1 : 0;
  }
  toString() {
    return `top-1 ${((100 * this.same) / this.n).toFixed(2)} %, KL ${(this.kl / this.n).toExponential(2)}`;
  }
}
const best = (row) => {
  let top = 0;
  for (let i = 1; i < row.length; i++) if (row[i] > row[top]) top = i;
  return top;
};
function logSoftmax(row) {
  const top = row[best(row)];
  let sum = 0;
  for (let i = 0; i < row.length; i++) sum += Math.exp(row[i] - top);
  const z = top + Math.log(sum);
  return Float64Array.from(row, (x) => x - z);
}

const names = [...models.map((m) => m.name), ...(peer ? ["llama.cpp"] : [])];
for (const [title, ids] of Object.entries(texts)) {
  const start = performance.now();
  const [toLlama, toFloat] = [new Map(), new Map()];
  const tally = (map, name) => map.get(name) ?? (map.set(name, new Tally()), map.get(name));
  const loss = Object.fromEntries(names.map((name) => [name, 0]));
  for (let from = 0; from < ids.length; from += Number(options.window)) {
    const text = [2, ...ids.slice(from, from + Number(options.window))];
    for (const m of models) m.session.reset();
    await peer?.reset();
    // A few rows of the vocabulary at a time.
    for (let at = 0; at < text.length - 1; at += 32) {
      const part = text.slice(at, Math.min(at + 32, text.length - 1));
      const rows = new Map();
      for (const m of models) {
        const { logits } = await m.session.append(part);
        const width = m.facts.vocab;
        rows.set(m.name, part.map((_, i) => logits.subarray(i * width, (i + 1) * width)));
      }
      const theirs = await peer?.rows(part, models[0].facts.vocab);
      for (let i = 0; i < part.length; i++) {
        const log = new Map(models.map((m) => [m.name, logSoftmax(rows.get(m.name)[i])]));
        if (theirs) log.set("llama.cpp", theirs[i]);
        const next = text[at + i + 1];
        for (const name of names) loss[name] -= log.get(name)[next];
        for (const m of models) if (theirs) tally(toLlama, m.name).add(theirs[i], log.get(m.name));
        for (const name of names)
          if (log.has("f32") && name !== "f32") tally(toFloat, name).add(log.get("f32"), log.get(name));
      }
    }
  }
  console.log(`\n${title}: ${ids.length} tokens, ${((performance.now() - start) / 1000).toFixed(0)} s`);
  for (const name of names) {
    const change = peer ? ` (${(100 * (Math.exp((loss[name] - loss["llama.cpp"]) / ids.length) - 1)).toFixed(2)} %)` : "";
    const cells = [`perplexity ${Math.exp(loss[name] / ids.length).toFixed(3)}${change}`];
    if (toLlama.has(name)) cells.push(`to llama.cpp: ${toLlama.get(name)}`);
    if (toFloat.has(name)) cells.push(`to float: ${toFloat.get(name)}`);
    console.log(`  ${name.padEnd(10)} ${cells.join("; ")}`);
  }
}

const prompts = [
  "Question: What is the capital of France?\nAnswer:",
  "Question: How many legs does a spider have?\nAnswer:",
  "Question: Why is the sky blue?\nAnswer:",
  "Question: Who wrote Romeo and Juliet?\nAnswer:",
  "Question: What do bees make?\nAnswer:",
  "Question: Translate to French: good morning.\nAnswer:",
  "Question: Name three primary colours.\nAnswer:",
  "پرسش: پایتخت ایران کجاست؟\nپاسخ:",
  "Question: What is 7 times 8?\nAnswer:",
  "Question: Write a line of Python that prints hello.\nAnswer:",
];
const speaker = models.find((m) => m.name === "carried") ?? models[0];
console.log(`\nAnswers of ${speaker.name}, greedy. The weights are the base model's: it goes on with text, and was not taught to chat.`);
for (const prompt of prompts) {
  speaker.session.reset();
  const ids = tokenizer.encode(prompt, { special: true });
  const answer = [];
  let { logits } = await speaker.session.append(ids, { last: true });
  for (let id = best(logits); answer.length < 40 && !tokenizer.stopIds([1]).includes(id); id = best(logits)) {
    answer.push(id);
    ({ logits } = await speaker.session.append([id], { last: true }));
  }
  console.log(`- ${JSON.stringify(prompt)} → ${JSON.stringify(tokenizer.decode(answer))}`);
}
process.exit(0);

/** llama.cpp's distributions: log probabilities for each position fed. */
async function openLlama(url, path) {
  const { getLlama, LlamaLogLevel } = await import(url);
  const llama = await getLlama({ gpu: false, build: "never", skipDownload: true, logLevel: LlamaLogLevel.error });
  const model = await llama.loadModel({ modelPath: path });
  const context = await model.createContext({ contextSize: 2048, batchSize: 512, sequences: 1 });
  const sequence = context.getSequence();
  const pick = { generateNext: { probabilities: true, options: { temperature: 1, topK: 0, topP: 1, minP: 0 } } };
  return {
    reset: () => sequence.clearHistory(),
    async rows(ids, vocab) {
      const rows = [];
      await sequence.controlledEvaluate(
        ids.map((id) => [id, pick]),
        {
          onTokenResult(i, { next }) {
            const row = new Float64Array(vocab).fill(Number.NEGATIVE_INFINITY);
            // They are f32, and sum to 1 only about.
            let sum = 0;
            for (const p of next.probabilities.values()) sum += p;
            for (const [id, p] of next.probabilities) row[id] = Math.log(Math.max(p / sum, 1e-45));
            rows[i] = row;
          },
        },
      );
      return rows;
    },
  };
}

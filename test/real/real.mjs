// npm run real [-- --tokens N --only float,onnx --window N --threads N]: real weights. Fetches Gemma 3 270M (GGUF, Q4_K_M), compiles
// it to every target, runs each artifact on ten tokens against the float result, compares next-token distributions with llama.cpp's on
// the same file and on the same numbers as f32, position by position, and lets the model answer ten prompts.
// What cannot be fetched or built is skipped, and said so.
import { readFileSync } from "node:fs";
import { cpus, homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { loadTokenizer, openModel } from "../../dist/src/index.js";
import { best, distribution, Tally } from "./agreement.mjs";
import { artifact, names } from "./artifacts.mjs";
import { fetchGemma } from "./fetch.mjs";
import { buildLlama, openLlama, widen } from "./llama.mjs";

const { values: options } = parseArgs({
  options: {
    tokens: { type: "string", default: "2000" },
    window: { type: "string", default: "700" },
    threads: { type: "string", default: String(cpus().length) },
    only: { type: "string", default: names.join() },
    compare: { type: "string", default: "float,onnx,onnx int8,onnx int4" },
  },
});
const cache = process.env.GEMMAC_REAL_CACHE ?? join(homedir(), ".cache", "gemmac-real");
const found = await fetchGemma(cache);
if (found.missing) {
  console.log(`SKIPPED: the weights cannot be fetched: ${found.missing}`);
  process.exit(0);
}
const read = (path) => readFileSync(fileURLToPath(new URL(path, import.meta.url)), "utf8");
const tokenizer = await loadTokenizer(found.path);
const texts = {
  "KJV, held out": tokenizer.encode(read("../data/demo/eval.txt")).slice(0, Number(options.tokens)),
  English: tokenizer.encode(read("texts/english.txt")),
  code: tokenizer.encode(read("texts/code.txt")),
  Persian: tokenizer.encode(read("texts/persian.txt")),
};

console.log("\n| artifact | MB | compile, s | peak RSS, MB | proof | ten tokens: top-1, KL to float |");
console.log(`|${" --- |".repeat(6)}`);
const ten = [2, ...texts.English.slice(0, 9)];
const rowsOf = (logits, n) => Array.from({ length: n }, (_, i) => logits.subarray((i * logits.length) / n, ((i + 1) * logits.length) / n));
const made = new Map();
let float;
for (const name of names.filter((n) => options.only.split(",").includes(n))) {
  const a = artifact(name, found.path, cache);
  if (a.failed) {
    console.log(`| ${name} | FAILED: ${a.failed} |`);
    continue;
  }
  made.set(name, a.out);
  const proof = a.proof ? `${a.proof.worst.share.toExponential(1)} of ${a.proof.worst.allowed.toExponential(1)}` : `SKIPPED: ${a.warnings.join("; ")}`;
  let cell;
  try {
    const model = await openModel(a.out);
    const { logits } = await model.session.append(ten);
    const rows = rowsOf(logits, ten.length).map(distribution);
    await model.close();
    float ??= rows;
    const tally = new Tally();
    for (const [i, row] of rows.entries()) tally.add(float[i], row);
    cell = tally.cells().join(", ");
  } catch (e) {
    cell = `SKIPPED: ${e.message}`;
  }
  const cells = [name, (a.bytes / 1e6).toFixed(0), a.seconds.toFixed(0), (a.rss / 1e6).toFixed(0), proof, cell];
  console.log(`| ${cells.join(" | ")} |`);
}

const llama = buildLlama(cache);
if (llama.missing) console.log(`\nSKIPPED llama.cpp: ${llama.missing}`);
else console.log(`\nllama.cpp as in node-llama-cpp ${llama.version}, ${options.threads} threads, f32 cache, plain attention`);

const models = [];
for (const name of options.compare.split(",").filter((n) => made.has(n))) models.push({ name, ...(await openModel(made.get(name))) });
const vocab = models[0]?.facts.vocab ?? 0;
const peers = llama.missing
  ? []
  : [
      ["llama.cpp, f32", widen(llama.program, found.path, join(cache, "f32.gguf"))],
      ["llama.cpp", found.path],
    ].map(([name, path]) => ({ name, ...openLlama(llama.program, path, options.threads, vocab) }));

/** [what is held against, what is held]. */
const pairs = [
  ["llama.cpp, f32", "float"],
  ["float", "llama.cpp"],
  ...models.filter((m) => m.name !== "float").map((m) => ["float", m.name]),
  ...models.map((m) => ["llama.cpp", m.name]),
].filter((pair) => pair.every((name) => [...models, ...peers].some((m) => m.name === name)));

for (const [title, ids] of pairs.length ? Object.entries(texts) : []) {
  const start = performance.now();
  const tallies = pairs.map(([p, q]) => ({ p, q, tally: new Tally() }));
  const loss = new Map([...peers, ...models].map(({ name }) => [name, 0]));
  let scored = 0;
  for (let from = 0; from < ids.length; from += Number(options.window)) {
    const text = [2, ...ids.slice(from, from + Number(options.window))];
    const fed = text.slice(0, -1);
    for (const m of models) m.session.reset();
    for (const p of peers) p.text(fed);
    // A few rows of the vocabulary at a time.
    for (let at = 0; at < fed.length; at += 32) {
      const part = fed.slice(at, at + 32);
      const rows = new Map();
      for (const p of peers) rows.set(p.name, await p.rows(part.length));
      for (const m of models) rows.set(m.name, rowsOf((await m.session.append(part)).logits, part.length));
      for (let i = 0; i < part.length; i++) {
        const next = text[at + i + 1];
        const here = new Map([...rows].map(([name, all]) => [name, distribution(all[i])]));
        for (const [name, d] of here) loss.set(name, loss.get(name) + d.z - d.row[next]);
        for (const { p, q, tally } of tallies) tally.add(here.get(p), here.get(q));
        scored++;
      }
      const soFar = tallies.map(({ p, q, tally }) => `${p} / ${q}: ${tally.cells().join(" ")}`);
      console.error(`${title}: ${scored} of ${ids.length}; ${soFar.join("; ")}`);
    }
  }
  console.log(`\n${title}: ${scored} tokens in windows of ${options.window}, ${((performance.now() - start) / 1000).toFixed(0)} s`);
  console.log("| held against | what | top-1 | mean KL, nats | perplexities | difference |");
  console.log(`|${" --- |".repeat(6)}`);
  for (const { p, q, tally } of tallies) {
    const [a, b] = [p, q].map((name) => Math.exp(loss.get(name) / scored));
    const cells = [p, q, ...tally.cells(), `${a.toFixed(3)}, ${b.toFixed(3)}`, `${(100 * (b / a - 1)).toFixed(2)} %`];
    console.log(`| ${cells.join(" | ")} |`);
  }
}
for (const p of peers) p.close();

const questions = [
  "What is the capital of France?",
  "How many legs does a spider have?",
  "Why is the sky blue?",
  "Who wrote Romeo and Juliet?",
  "What do bees make?",
  "Translate to French: good morning.",
  "Name three primary colours.",
  "پایتخت ایران کجاست؟",
  "What is 7 times 8?",
  "Write a line of Python that prints hello.",
];
const speaker = models.find((m) => m.name === "onnx") ?? models[0];
if (speaker) console.log(`\nAnswers of ${speaker.name}, greedy. The weights are the base model's: it goes on with text, and was not taught to chat.`);
for (const question of speaker ? questions : []) {
  speaker.session.reset();
  const ids = tokenizer.encode(`Question: ${question}\nAnswer:`, { special: true });
  const answer = [];
  let { logits } = await speaker.session.append(ids, { last: true });
  for (let id = best(logits); answer.length < 40 && !tokenizer.stopIds([1]).includes(id); id = best(logits)) {
    answer.push(id);
    ({ logits } = await speaker.session.append([id], { last: true }));
  }
  console.log(`- ${question} → ${JSON.stringify(tokenizer.decode(answer))}`);
}
process.exit(0);

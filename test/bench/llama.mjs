// npm run bench [-- --rounds N --decode N --wait SECONDS --only TEXT]: decode and prefill speed of our artifacts against llama.cpp on the same
// weights and as many threads, in alternating rounds, with the memory bandwidth of the same minutes beside them.
import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import onnxProto from "onnx-proto";
import { artifact } from "./artifacts.mjs";
import { bandwidth } from "./bandwidth.mjs";
import { gguf } from "./gguf.mjs";
import { installed } from "./packages.mjs";
import { synthetic } from "./synthetic.mjs";

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    decode: { type: "string", default: "32" },
    wait: { type: "string", default: "10" },
    only: { type: "string", default: "" },
    threads: { type: "string", default: String(cpus().length) },
  },
});
const cache = join(tmpdir(), "gemmac-bench");
mkdirSync(cache, { recursive: true });
const checkpoint = await synthetic(cache, "gemma-2b-4layer");
const decode = Number(options.decode);

const ours = [];
for (const [scheme, block] of [
  ["int8", 32],
  ["int8", 128],
  ["int4", 32],
  ["int4", 64],
  ["int4", 128],
]) {
  const name = `${scheme} b${block}`;
  if (!name.includes(options.only)) continue;
  const passes = `quantize{scheme=${scheme},block=${block}}`;
  const out = await artifact(cache, `${scheme}-${block}`, checkpoint, { targets: ["onnx"], passes });
  ours.push({
    name,
    engine: "gemmac",
    path: out,
    bytes: readPerToken(out),
    peer: scheme === "int8" ? "Q8_0" : "Q4_0",
  });
}
const llama = installed(join(cache, "deps"), "node-llama-cpp");
const theirs = [];
if (llama.missing) console.log(`SKIPPED llama.cpp: node-llama-cpp cannot be installed: ${llama.missing}`);
else
  for (const format of ["Q8_0", "Q4_0"].filter((f) => ours.some((m) => m.peer === f))) {
    const path = await gguf(checkpoint, join(cache, `gemma-2b-4layer.${format}.gguf`), format.toLowerCase());
    const rate = { Q8_0: 34 / 32, Q4_0: 18 / 32 }[format];
    theirs.push({ name: format, engine: "llama", path, bytes: matrixParameters() * rate });
  }

const models = [];
for (const spec of [...ours, ...theirs]) {
  try {
    models.push({ ...spec, steps: [], 128: [], 512: [], ...(await start(spec)) });
  } catch (e) {
    console.log(`SKIPPED ${spec.name}: ${e.message}`);
  }
}
const rates = [];
const { by, measure } = bandwidth(cache, Number(options.threads));
const quietness = [];
let rounds = Number(options.rounds);
process.once("SIGINT", () => (rounds = 0)); // the round at hand is the last
for (let round = 0; round < rounds; round++) {
  quietness.push(await quiet());
  rates.push(await measure());
  // Turn about: no model is always the first, or always after the same one.
  console.error(`round ${round + 1} of ${rounds}`);
  const order = [...models.slice(round % models.length), ...models.slice(0, round % models.length)];
  for (const m of order) {
    const short = await ask(m, { prompt: 128, decode });
    const long = await ask(m, { prompt: 512, decode: 0 });
    m.steps.push(short.steps);
    m[128].push(128 / short.prefill);
    m[512].push(512 / long.prefill);
    m.tokens = short.tokens;
  }
}
for (const m of models) m.child.disconnect();

const peak = Math.max(...rates);
const gb = (x) => (x / 1e9).toFixed(1);
console.log(
  `${new Date().toISOString().slice(0, 10)}; ${cpus()[0].model.trim()}, ${cpus().length} cores, ${options.threads} threads`,
);
console.log(
  `node-llama-cpp ${llama.version ?? "none"}; ${rates.length} alternating rounds; decode ${decode} tokens after 128`,
);
console.log(`read bandwidth ${gb(peak)} GB/s (${by}; by round ${rates.map(gb).join(" ")})`);
console.log(
  `cores idle before each measurement: ${(100 * median(quietness)).toFixed(0)} % in the median, ${(100 * Math.min(...quietness)).toFixed(0)} % at worst`,
);
// Other work on the machine only ever slows: the fastest tenth of the steps, and the fastest prefill, say most of the
// engine. Medians are of rounds, and their ratios are taken within rounds.
const figures = {
  "decode best": (m) => 1 / quantile(m.steps.flat(), 0.1),
  "decode median": (m) => m.steps.map((s) => 1 / median(s)),
  "prefill 128 best": (m) => Math.max(...m[128]),
  "prefill 128 median": (m) => m[128],
  "prefill 512 best": (m) => Math.max(...m[512]),
  "prefill 512 median": (m) => m[512],
};
const number = (x) => (x < 100 ? x.toFixed(1) : x.toFixed(0));
const one = (x) => (Array.isArray(x) ? median(x) : x);
const rows = [["model", "MB/token", "share of bw", ...Object.keys(figures)]];
for (const m of models) {
  const peer = models.find((p) => p.name === m.peer);
  const cells = Object.values(figures).map((figure) => {
    const [mine, other] = [figure(m), peer && figure(peer)];
    if (!peer) return number(one(mine));
    const ratio = Array.isArray(mine) ? median(mine.map((x, i) => x / other[i])) : mine / other;
    return `${number(one(mine))} (${ratio.toFixed(2)})`;
  });
  const share = (figures["decode best"](m) * m.bytes) / peak;
  rows.push([
    m.engine === "llama" ? `llama ${m.name}` : m.name,
    (m.bytes / 1e6).toFixed(0),
    share.toFixed(2),
    ...cells,
  ]);
}
const table = rows.map((r) => `| ${r.join(" | ")} |`);
table.splice(1, 0, `|${" --- |".repeat(rows[0].length)}`);
console.log("tokens/s (× llama of the same bits)");
console.log(table.join("\n"));
for (const m of models) console.log(`${m.name}: first tokens ${m.tokens.slice(0, 6).join(" ")}`);

/** Waits, --wait seconds at most, until other work leaves the cores alone. Gives the idle share that it saw last. */
async function quiet() {
  const times = () =>
    cpus().map(({ times }) => [times.idle, Object.values(times).reduce((a, b) => a + b, 0)]);
  let idle = 0;
  for (let i = 0; i <= options.wait / 0.4 && idle < 0.85; i++) {
    const before = times();
    await new Promise((done) => setTimeout(done, 400));
    idle = Math.min(...times().map(([a, b], k) => (a - before[k][0]) / Math.max(1, b - before[k][1])));
  }
  return idle;
}
/** A model in a process of its own, and the promise that fails when the process ends. */
async function start({ engine, path }) {
  const args = [engine, path, options.threads, llama.url ?? ""];
  const child = fork(fileURLToPath(new URL("engine.mjs", import.meta.url)), args);
  const failed = once(child, "exit").then(([code]) =>
    Promise.reject(new Error(`its process ended with ${code}`)),
  );
  failed.catch(() => {});
  await Promise.race([once(child, "message"), failed]);
  return { child, failed };
}
async function ask({ child, failed }, request) {
  quietness.push(await quiet());
  child.send(request);
  const [answer] = await Promise.race([once(child, "message"), failed]);
  return answer;
}
function quantile(xs, q) {
  return xs.toSorted((a, b) => a - b)[Math.floor(q * (xs.length - 1))];
}
function median(xs) {
  const sorted = xs.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

/** Bytes of weights that one token reads: codes, scales and zeros of every product. A look-up reads one row. */
function readPerToken(out) {
  const { graph } = onnxProto.onnx.ModelProto.decode(readFileSync(join(out, "onnx/model.onnx")));
  const size = new Map(
    graph.initializer.map((t) => [
      t.name,
      Number(t.externalData.find((e) => e.key === "length")?.value ?? 0),
    ]),
  );
  const products = graph.node.filter((n) => n.opType === "MatMulNBits");
  return products.flatMap((n) => n.input).reduce((sum, name) => sum + (size.get(name) ?? 0), 0);
}
function matrixParameters() {
  const c = JSON.parse(readFileSync(join(checkpoint, "config.json"), "utf8"));
  const attention = 2 * c.num_attention_heads * c.head_dim + 2 * c.num_key_value_heads * c.head_dim;
  return c.hidden_size * (c.vocab_size + c.num_hidden_layers * (attention + 3 * c.intermediate_size));
}

// npm run bench:wgsl [-- --rounds N --tokens N --peers bf16,int4]: what a WGSL program does for a token, what a browser loads, and
// the speed of the demo model in Chromium against onnxruntime-web's WebGPU, in one run. No GPU is needed: Chromium has one in
// software, on which ratios say how many launches and how much arithmetic there is, and nothing of memory bandwidth.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { compile } from "../../../dist/src/index.js";
import { gzipped, launches } from "./launches.mjs";
import { peers } from "./peers.mjs";

const { values: options } = parseArgs({
  options: { rounds: { type: "string", default: "4" }, tokens: { type: "string", default: "32" }, peers: { type: "string", default: "bf16,int4" } },
});
const at = (path) => fileURLToPath(new URL(`../../../${path}`, import.meta.url));
const demo = at("examples/gemma-kjv-2m");
const scratch = mkdtempSync(join(tmpdir(), "gemmac-bench-wgsl-"));
try {
  console.log(`${cpus()[0].model.trim()}, ${cpus().length} cores, load ${loadavg()[0].toFixed(1)}`);
  table(await launches(demo));
  const { out } = await compile(demo, { targets: ["wgsl"], out: join(scratch, "size"), capacity: 256, verify: false });
  const { module, page, program } = gzipped(out);
  const kB = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;
  console.log(`gzipped: model.js ${kB(module)} (goal 60 kB), chat.html ${kB(page)}, program.json ${kB(program)}`);
  for (const weights of options.peers.split(",").filter(Boolean)) await compare(weights === "bf16" ? undefined : weights);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

async function compare(quant) {
  const { prompts } = JSON.parse(readFileSync(at("test/data/demo/golden.json"), "utf8"));
  const [tokens, rounds] = [Number(options.tokens), Number(options.rounds)];
  const deps = join(tmpdir(), "gemmac-bench", "deps");
  const found = await peers({ scratch: join(scratch, quant ?? "stored"), deps, demo, prompts, tokens, rounds, quant });
  if (found.missing) return console.log(`SKIPPED the browser: ${found.missing}`);
  const { ours, theirs } = found;
  console.log(`${quant ?? "bf16 (f32 in ONNX)"}: Chromium ${found.chromium}, ${ours.gpu}; onnxruntime-web ${found.version}; ${rounds} rounds of ${tokens} tokens`);
  for (const [name, side] of [["gemmac", ours], ["onnxruntime-web", theirs]]) if (side.failed) console.log(`${name} does not run: ${side.failed}`);
  if (ours.failed || theirs.failed) return;
  // The reference is of the weights as they are.
  if (!quant) console.log(`onnxruntime-web's first tokens that are the reference's: ${theirs.rounds.map((r) => `${r.same} of ${tokens}`).join(", ")}`);
  const median = (xs) => xs.toSorted((a, b) => a - b)[xs.length >> 1];
  const of = (side, key) => median(side.rounds.map((r) => r[key]));
  const ratio = (key) => median(ours.rounds.map((r, i) => r[key] / theirs.rounds[i][key])).toFixed(2);
  table([
    ["", "from nothing to a token, s", "first token, s", "tokens/s"],
    ...[["gemmac", ours], ["onnxruntime-web", theirs]].map(([name, s]) => [name, s.cold.toFixed(1), of(s, "first").toFixed(2), of(s, "rate").toFixed(2)]),
    ["gemmac / onnxruntime-web", (ours.cold / theirs.cold).toFixed(2), ratio("first"), ratio("rate")],
  ]);
}

function table(rows) {
  const lines = rows.map((r) => `| ${r.join(" | ")} |`);
  lines.splice(1, 0, `|${" --- |".repeat(rows[0].length)}`);
  console.log(lines.join("\n"));
}

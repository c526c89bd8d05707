// npm run real:speed [-- --rounds N --decode N --only TEXT]: decoding speed of the artifacts of Gemma 3 270M against llama.cpp on the file they
// come from, in alternating rounds with as many threads. The artifacts are those that npm run real has compiled.
import { execFileSync, fork } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { cpus, homedir, loadavg } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { installed } from "../bench/packages.mjs";
import { artifact } from "./artifacts.mjs";
import { fetchGemma } from "./fetch.mjs";

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    decode: { type: "string", default: "24" },
    only: { type: "string", default: "onnx,onnx int8,onnx int4,c,c int8,c int4" },
  },
});
const cache = process.env.GEMMAC_REAL_CACHE ?? join(homedir(), ".cache", "gemmac-real");
const found = await fetchGemma(cache);
const llama = found.missing ? found : installed(join(cache, "deps"), "node-llama-cpp");
if (llama.missing) {
  console.log(`SKIPPED: ${llama.missing}`);
  process.exit(0);
}
const threads = String(cpus().length);
const decode = Number(options.decode);
const speeds = (prefill, steps) => ({ prefill, decode: 1 / median(steps), best: 1 / Math.min(...steps) });

/** Gives tokens a second of one round: 128 tokens at once, then one after the other. */
const engines = {
  async forked(kind, path) {
    const file = fileURLToPath(new URL("../bench/engine.mjs", import.meta.url));
    const child = fork(file, [kind, path, threads, llama.url], { stdio: ["ignore", "ignore", "inherit", "ipc"] });
    await once(child, "message");
    const round = async () => {
      child.send({ prompt: 128, decode });
      const [{ prefill, steps }] = await once(child, "message");
      return speeds(128 / prefill, steps);
    };
    return { round, close: () => child.disconnect() };
  },
  async c(path) {
    execFileSync("make", ["-s", "-C", path, "gemma"], { stdio: ["ignore", "ignore", "inherit"] });
    const round = async () => {
      const said = execFileSync(join(path, "gemma"), ["--bench", "--skip-check", "--threads", threads], { encoding: "utf8" });
      const [prefill, , best] = [...said.matchAll(/: ([\d.]+) tokens/g)].map((m) => Number(m[1]));
      return { prefill, decode: best, best };
    };
    return { round, close() {} };
  },
};

const models = [{ name: "llama.cpp", ...(await engines.forked("llama", found.path)), rounds: [] }];
for (const name of options.only.split(",")) {
  const { out, failed } = artifact(name, found.path, cache);
  if (failed) console.log(`SKIPPED ${name}: ${failed}`);
  else
    models.push({
      name,
      ...(existsSync(join(out, "gemma.c")) ? await engines.c(out) : await engines.forked("gemmac", out)),
      rounds: [],
    });
}
const loads = [];
for (let n = 0; n < Number(options.rounds); n++) {
  loads.push(loadavg()[0].toFixed(1));
  for (const m of [...models.slice(n % models.length), ...models.slice(0, n % models.length)]) m.rounds.push(await m.round());
}
for (const m of models) m.close();

console.log(`${cpus()[0].model.trim()}, ${threads} threads; node-llama-cpp ${llama.version}; ${options.rounds} rounds of ${decode} tokens after 128; load ${loads.join(" ")}`);
console.log("tokens/s; in brackets × llama.cpp: best over best, medians of ratios within rounds\n");
console.log("| artifact | decode best | decode median | prefill 128 best |");
console.log("| --- | --- | --- | --- |");
for (const m of models) {
  const best = (r, key) => Math.max(...r.rounds.map((x) => x[key]));
  const cell = (key, ratio, value = best(m, key)) => `${value.toFixed(1)} (${ratio.toFixed(2)})`;
  const within = median(m.rounds.map((x, i) => x.decode / models[0].rounds[i].decode));
  const cells = [
    cell("best", best(m, "best") / best(models[0], "best")),
    cell("decode", within, median(m.rounds.map((x) => x.decode))),
    cell("prefill", best(m, "prefill") / best(models[0], "prefill")),
  ];
  console.log(`| ${[m.name, ...cells].join(" | ")} |`);
}
process.exit(0);

function median(xs) {
  const sorted = xs.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

// npm run bench:c [-- --rounds N --only TEXT]: decode and prefill of C artifacts against llama.cpp on the same weights,
// in alternating rounds, with the memory bandwidth of the same minutes beside them. Best of each round on both sides.
// `--rounds 0` only makes what is to be measured.
import { execFileSync, fork } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync } from "node:fs";
import { cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { artifact } from "./artifacts.mjs";
import { bandwidth } from "./bandwidth.mjs";
import { gguf } from "./gguf.mjs";
import { installed } from "./packages.mjs";
import { synthetic } from "./synthetic.mjs";

const { values: options } = parseArgs({
  options: { rounds: { type: "string", default: "3" }, only: { type: "string", default: "" } },
});
const threads = String(cpus().length);
const cache = join(tmpdir(), "gemmac-bench");
mkdirSync(cache, { recursive: true });
const checkpoint = await synthetic(cache, "gemma-2b-4layer");

/** Speeds of one round, in tokens a second. */
const programs = [];
for (const [scheme, block] of [["int8", 0], ["int8", 128], ["int8", 32], ["int4", 128], ["int4", 64], ["int4", 32]]) {
  const name = `${scheme} ${block ? `b${block}` : "row"}`;
  if (!name.includes(options.only)) continue;
  const passes = `quantize{scheme=${scheme},block=${block},scales=f16}`;
  const out = await artifact(cache, `c-${scheme}-${block}`, checkpoint, { targets: ["c"], passes });
  execFileSync("make", ["-s", "-C", out, "gemma"], { stdio: ["ignore", "ignore", "inherit"] });
  const bytes = Number(/BYTES_PER_TOKEN ([\d.]+)/.exec(readFileSync(join(out, "gemma.c"), "utf8"))?.[1]);
  programs.push({
    name,
    bytes,
    weights: join(out, "model.safetensors"),
    peer: scheme === "int8" ? "llama Q8_0" : "llama Q4_0",
    round() {
      const said = execFileSync(join(out, "gemma"), ["--bench", "--skip-check", "--threads", threads], { encoding: "utf8" });
      const [a, b, c] = [...said.matchAll(/: ([\d.]+) tokens/g)].map((m) => Number(m[1]));
      return { 128: a, 512: b, decode: c };
    },
  });
}
const llama = installed(join(cache, "deps"), "node-llama-cpp");
if (llama.missing) console.log(`SKIPPED llama.cpp: node-llama-cpp cannot be installed: ${llama.missing}`);
const peers = ["Q8_0", "Q4_0"].filter((format) => programs.some((p) => p.peer === `llama ${format}`));
for (const format of llama.missing ? [] : peers) {
  const path = await gguf(checkpoint, join(cache, `gemma-2b-4layer.${format}.gguf`), format.toLowerCase());
  if (options.rounds === "0") continue;
  const engine = fileURLToPath(new URL("./engine.mjs", import.meta.url));
  const child = fork(engine, ["llama", path, threads, llama.url], { stdio: ["ignore", "ignore", "ignore", "ipc"] });
  await once(child, "message");
  const ask = async (request) => {
    child.send(request);
    return (await once(child, "message"))[0];
  };
  programs.push({
    name: `llama ${format}`,
    child,
    async round() {
      const best = { 128: 0, 512: 0, decode: 0 };
      for (let i = 0; i < 3; i++) {
        const short = await ask({ prompt: 128, decode: 16 });
        const long = await ask({ prompt: 512, decode: 0 });
        best[128] = Math.max(best[128], 128 / short.prefill);
        best[512] = Math.max(best[512], 512 / long.prefill);
        best.decode = Math.max(best.decode, 1 / Math.min(...short.steps));
      }
      return best;
    },
  });
}

if (options.rounds === "0") process.exit();
const { measure } = bandwidth(cache, Number(threads), programs[0]?.weights);
const rates = [];
const rounds = new Map(programs.map((p) => [p.name, []]));
for (let n = 0; n < Number(options.rounds); n++) {
  console.error(`round ${n + 1}, load ${loadavg()[0].toFixed(1)}`);
  for (const p of [...programs.slice(n % programs.length), ...programs.slice(0, n % programs.length)]) {
    rates.push(await measure());
    const found = await p.round();
    rounds.get(p.name).push(found);
    const speeds = ["decode", 128, 512].map((key) => found[key].toFixed(1)).join(", ");
    console.error(`${p.name}: ${speeds} tokens/s; read bandwidth ${(rates.at(-1) / 1e9).toFixed(1)} GB/s`);
  }
}
for (const p of programs) p.child?.disconnect();

const median = (xs) => xs.toSorted((a, b) => a - b)[xs.length >> 1];
const peak = Math.max(...rates);
console.log(`${cpus()[0].model.trim()}, ${threads} threads; node-llama-cpp ${llama.version ?? "none"}; ${options.rounds} rounds`);
console.log(`read bandwidth ${(peak / 1e9).toFixed(1)} GB/s (each time ${rates.map((r) => (r / 1e9).toFixed(1)).join(" ")})`);
console.log("Best tokens/s; in brackets × llama.cpp at the same bits, best over best and median of ratios within rounds");
const rows = [["model", "MB/token", "share of bandwidth", "decode", "prefill 128", "prefill 512"]];
for (const p of programs) {
  const own = rounds.get(p.name);
  const best = (r, key) => Math.max(...r.map((x) => x[key]));
  const cell = (key) => {
    const theirs = rounds.get(p.peer);
    const speed = best(own, key).toFixed(1);
    if (!theirs) return speed;
    const ratio = median(own.map((x, i) => x[key] / theirs[i][key]));
    return `${speed} (${(best(own, key) / best(theirs, key)).toFixed(2)}, ${ratio.toFixed(2)})`;
  };
  const share = p.bytes ? ((best(own, "decode") * p.bytes) / peak).toFixed(2) : "";
  rows.push([p.name, p.bytes ? (p.bytes / 1e6).toFixed(0) : "", share, ...["decode", "128", "512"].map(cell)]);
}
const table = rows.map((r) => `| ${r.join(" | ")} |`);
table.splice(1, 0, `|${" --- |".repeat(rows[0].length)}`);
console.log(table.join("\n"));

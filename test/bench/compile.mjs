// npm run bench:compile [-- --model NAME --rounds N --only KIND,KIND --checkpoint DIR]: seconds and peak memory of
// `gemmac compile` against copying the same bytes and, where PYTHON can import it, the builder of onnxruntime-genai.
import { createHash } from "node:crypto";
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { synthetic } from "./synthetic.mjs";

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: "gemma-2b-4layer" },
    checkpoint: { type: "string" },
    rounds: { type: "string", default: "3" },
    only: { type: "string", default: "cp,stored,f32,int8,int8 unproven" },
  },
});
const cache = join(tmpdir(), "gemmac-bench");
mkdirSync(cache, { recursive: true });
const checkpoint = options.checkpoint ?? (await synthetic(cache, options.model));
const scratch = join(cache, `out-${process.pid}`);
const size = (dir) =>
  readdirSync(dir, { recursive: true }).reduce((sum, f) => sum + statSync(join(dir, f)).size, 0);

const timed = (run) => {
  execFileSync("sync");
  const start = performance.now();
  const result = run();
  execFileSync("sync");
  const seconds = (performance.now() - start) / 1000;
  const manifest = join(scratch, "manifest.json");
  const hash = existsSync(manifest) ? createHash("sha256").update(readFileSync(manifest)).digest("hex") : "";
  const bytes = size(scratch);
  rmSync(scratch, { recursive: true, force: true });
  return { seconds, bytes, hash, ...result };
};
/** A process of its own, so that its peak memory is that of the compiler alone. */
const compile = (settings) => () => {
  const script = `
    const { compile } = await import(${JSON.stringify(new URL("../../dist/src/compile.js", import.meta.url).href)});
    const [checkpoint, out, settings] = process.argv.slice(1);
    await compile(checkpoint, { targets: ["onnx"], out, ...JSON.parse(settings) });
    const { maxRSS, userCPUTime, systemCPUTime } = process.resourceUsage();
    console.log(JSON.stringify({ rss: maxRSS * 1024, cpu: (userCPUTime + systemCPUTime) / 1e6 }));`;
  const args = ["--input-type=module", "-e", script, checkpoint, scratch, JSON.stringify(settings)];
  return JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8" }));
};
const python = process.env.PYTHON ?? "python3";
/** The builder insists on a tokenizer: any will do. */
const withTokenizer = () => {
  const dir = join(cache, `${options.model}-with-tokenizer`);
  rmSync(dir, { recursive: true, force: true });
  mkdirSync(dir);
  const example = fileURLToPath(new URL("../../examples/gemma-kjv-2m", import.meta.url));
  const from = { "tokenizer.json": example, "tokenizer_config.json": example };
  for (const name of readdirSync(checkpoint)) from[name] = checkpoint;
  for (const [name, folder] of Object.entries(from)) symlinkSync(join(folder, name), join(dir, name));
  return dir;
};
const builder = (precision) => () => {
  const script = `
import json, resource, subprocess, sys
subprocess.run([sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", sys.argv[1], "-o", sys.argv[2], "-p", sys.argv[3], "-e", "cpu", "-c", sys.argv[2] + "/cache"], check=True, capture_output=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"rss": used.ru_maxrss * 1024, "cpu": used.ru_utime + used.ru_stime}))`;
  return JSON.parse(
    execFileSync(python, ["-c", script, withTokenizer(), scratch, precision], { encoding: "utf8" }),
  );
};
const kinds = {
  cp: () => void cpSync(checkpoint, scratch, { recursive: true }),
  stored: compile({}),
  f32: compile({ weights: "f32" }),
  int8: compile({ quant: "int8" }),
  int4: compile({ quant: "int4" }),
  "int8 unproven": compile({ quant: "int8", verify: false }),
  "int4 unproven": compile({ quant: "int4", verify: false }),
  "builder int4": builder("int4"),
};

const wanted = options.only.split(",");
const unknown = wanted.find((name) => !Object.hasOwn(kinds, name));
if (unknown) throw new Error(`there is no ${unknown}; choose from ${Object.keys(kinds)}`);
const runs = new Map(wanted.map((name) => [name, []]));
for (let round = 0; round < Number(options.rounds); round++)
  for (const [name, done] of runs) {
    try {
      done.push(timed(kinds[name]));
    } catch (e) {
      const lines = `${e.stderr ?? e.message}`.trim().split("\n");
      console.log(`SKIPPED ${name}: ${lines.at(-1)}`);
      runs.delete(name);
      rmSync(scratch, { recursive: true, force: true });
    }
    console.error(name, JSON.stringify(done.at(-1)));
  }

const median = (xs) => xs.toSorted((a, b) => a - b)[Math.floor(xs.length / 2)];
const seconds = (name) => median((runs.get(name) ?? []).map((r) => r.seconds));
const gb = (bytes) => (bytes / 1e9).toFixed(2);
console.log(
  `${cpus()[0].model.trim()}, ${cpus().length} cores; ${options.model}, ${gb(size(checkpoint))} GB; median of ${options.rounds} rounds, flushed to disk`,
);
console.log("| what | seconds | x cp | of processor | GB out | peak RSS | same bytes each time |");
console.log("| --- | --- | --- | --- | --- | --- | --- |");
for (const [name, done] of runs) {
  const { bytes, hash, rss, cpu } = done[0];
  const cells = [
    name,
    seconds(name).toFixed(1),
    runs.has("cp") ? (seconds(name) / seconds("cp")).toFixed(2) : "",
    cpu ? `${cpu.toFixed(1)} s` : "",
    gb(bytes),
    rss ? `${Math.round(Math.max(...done.map((r) => r.rss)) / 1e6)} MB` : "",
    hash && done.length > 1 ? (done.every((r) => r.hash === hash) ? "yes" : "NO") : "",
  ];
  console.log(`| ${cells.join(" | ")} |`);
}

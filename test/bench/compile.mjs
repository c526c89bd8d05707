// npm run bench:compile [-- DIR]: seconds and peak memory of `gemmac compile` against copying the same bytes.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { synthetic } from "./synthetic.mjs";

const cache = join(tmpdir(), "gemmac-bench");
const checkpoint = process.argv[2] ?? (await synthetic(cache, "gemma-2b-4layer"));
const bytes = readdirSync(checkpoint).reduce((sum, f) => sum + statSync(join(checkpoint, f)).size, 0);
const scratch = join(cache, `out-${process.pid}`);

const timed = (run) => {
  execFileSync("sync");
  const start = performance.now();
  const result = run();
  execFileSync("sync");
  rmSync(scratch, { recursive: true, force: true });
  return { seconds: (performance.now() - start) / 1000, ...result };
};
const copy = () => timed(() => void cpSync(checkpoint, scratch, { recursive: true }));
/** A process of its own, so that its peak memory is that of the compiler alone. */
const compile = (weights) =>
  timed(() => {
    const script = `
      const { compile } = await import(${JSON.stringify(new URL("../../dist/src/compile.js", import.meta.url).href)});
      const [checkpoint, out, weights] = process.argv.slice(1);
      const report = await compile(checkpoint, { targets: ["onnx"], out, weights });
      console.log(JSON.stringify({ bytes: report.targets[0].bytes, rss: process.resourceUsage().maxRSS * 1024 }));`;
    const args = ["--input-type=module", "-e", script, checkpoint, scratch, weights];
    return JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8" }));
  });

mkdirSync(cache, { recursive: true });
const rounds = Array.from({ length: 3 }, () => ({ cp: copy(), stored: compile("stored"), f32: compile("f32") }));
const median = (xs) => xs.toSorted((a, b) => a - b)[Math.floor(xs.length / 2)];
const cp = median(rounds.map((r) => r.cp.seconds));

console.log(`checkpoint ${(bytes / 1e9).toFixed(2)} GB; ${cpus().length} cores; median of ${rounds.length} alternating rounds, flushed to disk`);
console.log("what              seconds   x cp    GB out  peak RSS");
console.log(`cp                ${cp.toFixed(1).padStart(7)}   1.00  ${(bytes / 1e9).toFixed(2).padStart(8)}`);
for (const kind of ["stored", "f32"]) {
  const seconds = median(rounds.map((r) => r[kind].seconds));
  const rss = Math.max(...rounds.map((r) => r[kind].rss));
  const cells = [seconds.toFixed(1).padStart(7), (seconds / cp).toFixed(2).padStart(6), (rounds[0][kind].bytes / 1e9).toFixed(2).padStart(8)];
  console.log(`compile ${kind.padEnd(9)} ${cells.join(" ")}  ${Math.round(rss / 1e6)} MB`);
}

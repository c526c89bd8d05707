// npm run bench:xla [-- --rounds N --compile MODELS]: emit time and size of Gemma 7B's text; seconds that XLA for the CPU takes for
// layers written out and as a loop; decode and prefill beside the same Gemma in plain JAX, on the same weights in one
// process, in alternating rounds. Needs Python with JAX (GEMMAC_PYTHON).
import { execFileSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { artifact } from "../artifacts.mjs";
import { synthetic } from "../synthetic.mjs";

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    steps: { type: "string", default: "12" },
    compile: { type: "string", default: "gemma-2b,gemma-7b" },
    model: { type: "string", default: "gemma-2b-4layer" },
    /** Make what is needed, and measure nothing. */
    prepare: { type: "boolean", default: false },
  },
});
const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const cache = join(tmpdir(), "gemmac-bench");
mkdirSync(cache, { recursive: true });
const checkpoint = await synthetic(cache, options.model);
const shape = { targets: ["stablehlo"], capacity: 512, prefill: 128 };
const artifacts = {
  "f32 weights": await artifact(cache, "xla-f32", checkpoint, { ...shape, weights: "f32" }),
  "f32 weights, scan": await artifact(cache, "xla-scan", checkpoint, { ...shape, weights: "f32", scanLayers: true }),
};
if (options.prepare) process.exit(0);

const quiet = { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] };
const lines = (args) =>
  execFileSync(process.env.GEMMAC_PYTHON || "python3", [at("speed.py"), ...args], quiet)
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
const modules = (...args) => execFileSync(process.execPath, [at("modules.mjs"), ...args], quiet).trim();
console.log(`load ${loadavg()[0].toFixed(2)}`);
for (const [name, folder] of Object.entries(artifacts))
  for (const { what, ours, jax, best, median } of lines(["run", folder, options.rounds, options.steps]))
    console.log(
      `${name}: ${what} ${ours.toFixed(1)} tokens/s at best, JAX ${jax.toFixed(1)}; × JAX ${best.toFixed(2)} at best, ${median.toFixed(2)} in the median`,
    );
for (const model of options.compile.split(",").filter(Boolean)) {
  const folders = [];
  for (const scan of [false, true]) {
    folders.push(join(cache, `xla-${model}-${scan ? "loop" : "written"}`));
    console.log(modules(model, folders.at(-1), ...(scan ? ["scanLayers=true"] : [])));
  }
  for (const { folder, module, seconds, used } of lines(["compile", ...folders]))
    console.log(`${folder}/${module}: ${seconds.toFixed(2)} s in XLA, ${used.toFixed(2)} s of processor time`);
}

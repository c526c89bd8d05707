// node test/bench/xla/modules.mjs PRESET OUT [name=value…]: writes prefill and decode of a preset, without weights, and
// says how long that took and how large the text is. Values are target options: batch=8 mesh=data=2,model=4 quant=int8 …
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { legalize } from "../../../dist/backends/backend.js";
import { described, modulesOf } from "../../../dist/backends/stablehlo/emit.js";
import { stablehlo, withDefaults } from "../../../dist/backends/stablehlo/index.js";
import { exportedBlob, treesOf } from "../../../dist/backends/stablehlo/jax/exported.js";
import { runPasses } from "../../../dist/passes/pipeline.js";
import { pipelineOf } from "../../../dist/src/compile.js";
import { gemma } from "../../../dist/src/model/gemma.js";
import { preset } from "../../../dist/src/model/presets.js";

const [name, out, ...given] = process.argv.slice(2);
const { quant, ...rest } = Object.fromEntries(
  given.map((g) => {
    const at = g.indexOf("=");
    const [key, value] = [g.slice(0, at), g.slice(at + 1)];
    return [key, /^\d+$/.test(value) ? Number(value) : value === "true" ? true : value];
  }),
);
const options = withDefaults(rest);

/** Everything between a config and the files' contents. */
function make() {
  const start = performance.now();
  const backend = stablehlo(rest);
  const graph = legalize(runPasses(gemma(preset(name)), pipelineOf(backend, { quant })).graph, backend);
  const passed = performance.now();
  const modules = modulesOf(graph, options);
  const blobs = Object.entries(modules).map(([n, m]) => [n, exportedBlob({ name: n, ...m, ...treesOf(m) })]);
  const end = performance.now();
  return { graph, modules, blobs, ms: { passes: passed - start, emit: end - passed } };
}
const runs = Array.from({ length: 5 }, make);
const best = (key) => Math.min(...runs.map((r) => r.ms[key])).toFixed(0);
const { graph, modules, blobs } = runs[0];
mkdirSync(out, { recursive: true });
for (const [n, m] of Object.entries(modules)) writeFileSync(join(out, `${n}.mlir`), m.text);
for (const [n, blob] of blobs) writeFileSync(join(out, `${n}.jaxexp`), blob);
const described_ = Object.fromEntries(Object.entries(modules).map(([n, m]) => [n, described(n, m)]));
writeFileSync(join(out, "manifest.json"), JSON.stringify({ mesh: graph.mesh, modules: described_ }));
const kB = (text) => `${(text.length / 1000).toFixed(0)} kB`;
console.log(
  `${name} ${given.join(" ")}: emit ${best("emit")} ms (first ${runs[0].ms.emit.toFixed(0)}), passes ${best("passes")} ms; ` +
    `prefill.mlir ${kB(modules.prefill.text)}, decode.mlir ${kB(modules.decode.text)}`,
);

// npm run bench:passes [-- PRESET]: milliseconds of each pass on a whole model's graph, in fresh processes; no weights.
import { execFileSync } from "node:child_process";

const name = process.argv[2] ?? "gemma-7b";
const dist = (file) => JSON.stringify(new URL(`../../dist/src/${file}`, import.meta.url).href);
const script = `
  const { gemma, preset, runPasses } = await import(${dist("index.js")});
  const { chooseBackends, pipelineOf } = await import(${dist("compile.js")});
  const [backend] = chooseBackends(["onnx"]);
  const graph = gemma(preset(${JSON.stringify(name)}));
  const { records } = runPasses(graph, pipelineOf(backend, { quant: "int8" }));
  console.log(JSON.stringify(records));`;
const runs = Array.from({ length: 5 }, () =>
  JSON.parse(execFileSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" })),
);
const median = (xs) => xs.toSorted((a, b) => a - b)[Math.floor(xs.length / 2)];
const ms = (seconds) => (1000 * seconds).toFixed(1).padStart(7);
console.log(`${name}, int8: median of ${runs.length} fresh processes, ms and nodes left`);
for (const [i, { name: pass, nodes }] of runs[0].entries())
  console.log(`${pass.padEnd(20)} ${ms(median(runs.map((run) => run[i].seconds)))}  ${nodes}`);
const totals = runs.map((run) => run.reduce((sum, { seconds }) => sum + seconds, 0));
console.log(`${"all".padEnd(20)} ${ms(median(totals))}  best ${ms(Math.min(...totals)).trim()}`);

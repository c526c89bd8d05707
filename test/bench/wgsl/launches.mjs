// What WGSL programs do for one token, read off their plans: no GPU, no weights.
import { gzipSync } from "node:zlib";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { legalize } from "../../../dist/backends/backend.js";
import { plan } from "../../../dist/backends/kernel/index.js";
import { wgsl } from "../../../dist/backends/wgsl/index.js";
import { defaultLimits, deviceOf } from "../../../dist/backends/wgsl/limits.js";
import { runPasses } from "../../../dist/passes/pipeline.js";
import { openCheckpoint } from "../../../dist/src/checkpoint/checkpoint.js";
import { pipelineOf } from "../../../dist/src/compile.js";
import { gemma, preset } from "../../../dist/src/index.js";
import { modelGraph } from "../../../dist/src/model/load.js";

const megabytes = (bytes) => (bytes / 1e6).toPrecision(4).replace(/^(\d{4,})\..*/, "$1");

/** Launches and bytes of weights for a token of each model: rows of a table. `demo` is a checkpoint. */
export async function launches(demo) {
  const checkpoint = await openCheckpoint(demo);
  const { graph, facts } = modelGraph(checkpoint);
  const models = [["demo", graph, facts.layers]];
  for (const name of ["gemma-2b", "gemma-2-2b", "gemma-3-1b"]) {
    const config = preset(name);
    models.push([name, gemma(config), config.layers]);
  }
  const rows = [["model", "weights", "launches", "goal, 7 a layer + 6", "MB/token", "MB of weights", "times"]];
  for (const [name, source, layers] of models)
    for (const quant of [undefined, "int8", "int4"]) {
      const { decode, weights } = planned(source, quant);
      const read = decode.dispatches.reduce((sum, d) => sum + bytesOf(d), 0);
      const all = weights.reduce((sum, w) => sum + w.rows * w.rowBytes, 0);
      const [n, goal] = [decode.dispatches.length, 7 * layers + 6];
      rows.push([name, quant ?? "bf16", n, n > goal ? `${goal}, missed` : goal, megabytes(read), megabytes(all), (read / all).toFixed(3)]);
    }
  await checkpoint.close();
  return rows;
}

/** Bytes of weights that a token of a checkpoint reads. */
export async function bytesPerToken(dir, quant) {
  const checkpoint = await openCheckpoint(dir);
  const { decode } = planned(modelGraph(checkpoint).graph, quant);
  await checkpoint.close();
  return decode.dispatches.reduce((sum, d) => sum + bytesOf(d), 0);
}

function planned(source, quant) {
  const backend = wgsl();
  const { graph } = runPasses(source, pipelineOf(backend, quant ? { quant } : {}));
  return plan(legalize(graph, backend), { device: deviceOf(defaultLimits), tokens: 128, keep: [] });
}

/** Of a table that is looked up, one row is read; of all else, everything that is bound. */
const bytesOf = ({ kernel, bindings }) =>
  bindings.reduce((sum, b) => {
    if (b.space !== "weight") return sum;
    return sum + (kernel.name.startsWith("embed") ? b.weight.rowBytes / b.weight.chunks.length : b.bytes);
  }, 0);

/** Bytes of what a browser loads besides weights, gzipped. */
export function gzipped(artifact) {
  const of = (...paths) => gzipSync(Buffer.concat(paths.map((p) => readFileSync(join(artifact, p))))).length;
  return { module: of("model.js"), page: of("chat.html"), program: of("program.json") };
}

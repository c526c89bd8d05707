// node test/bench/wgsl/gpu.mjs [CHECKPOINT …] [--quant bf16,int8,int4] [--tokens N], after npm run build: tokens a second of WGSL
// artifacts on the GPU that Dawn finds here, and which share of its memory bandwidth decoding takes. Needs Node, the npm
// package webgpu and a driver for Vulkan. Without a checkpoint: random weights in Gemma 2B's shape, made here (5 GB of disk).
// It was tried on lavapipe, a GPU in software; no real GPU has run it yet.
import { mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { dawn } from "../../../dist/backends/wgsl/index.js";
import { compile, openModel } from "../../../dist/src/index.js";
import { synthetic } from "../synthetic.mjs";
import { bytesPerToken } from "./launches.mjs";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { quant: { type: "string", default: "bf16,int8,int4" }, tokens: { type: "string", default: "64" } },
});
const cache = join(tmpdir(), "gemmac-bench");
mkdirSync(cache, { recursive: true });
const adapter = await (await dawn()).requestAdapter({ powerPreference: "high-performance" });
if (!adapter) {
  console.log("WebGPU finds no GPU: install a driver for Vulkan");
  process.exit(5);
}
const { vendor, architecture, description } = adapter.info;
console.log(`${description || `${vendor} ${architecture}`}; ${["shader-f16", "subgroups"].filter((f) => adapter.features.has(f)).join(", ") || "no features"}`);
const peak = await bandwidth(await adapter.requestDevice());
console.log(`read bandwidth ${(peak / 1e9).toFixed(1)} GB/s`);
console.log("| model | weights | MB/token | decode, tokens/s | share of bandwidth | prefill, tokens/s |\n| --- | --- | --- | --- | --- | --- |");
for (const checkpoint of positionals.length ? positionals : [await synthetic(cache, "gemma-2b")])
  for (const weights of options.quant.split(",")) {
    const quant = weights === "bf16" ? undefined : weights;
    const name = basename(checkpoint);
    const { out } = await compile(checkpoint, {
      ...{ targets: ["wgsl"], out: join(cache, `wgsl-${name}-${weights}`) },
      ...{ verify: false, force: true, ...(quant && { quant }) },
    });
    const { decode, prefill } = await speeds(out, Number(options.tokens));
    const bytes = await bytesPerToken(checkpoint, quant);
    console.log(`| ${[name, weights, (bytes / 1e6).toFixed(1), decode.toFixed(1), ((decode * bytes) / peak).toFixed(2), prefill.toFixed(1)].join(" | ")} |`);
  }

/** Tokens a second of steps after 128 tokens, the median, and of a prompt of 128, the best of three. Scores come back each time. */
async function speeds(artifact, tokens) {
  const { session, close } = await openModel(artifact);
  const ids = Array.from({ length: 128 }, (_, i) => (i * 7919) % session.facts.vocab);
  const timed = async (work) => {
    const start = performance.now();
    await work();
    return (performance.now() - start) / 1000;
  };
  const prompts = [];
  for (let n = 0; n < 4; n++) {
    session.reset();
    prompts.push(await timed(() => session.append(ids, { last: true })));
  }
  const steps = [];
  for (let n = 0; n < tokens; n++) steps.push(await timed(() => session.append([ids[n % 128]], { last: true })));
  await close();
  return { decode: 1 / steps.toSorted((a, b) => a - b)[tokens >> 1], prefill: 128 / Math.min(...prompts) };
}

/** Bytes a second of a kernel that adds up four buffers of 128 MiB, over and over. */
async function bandwidth(device) {
  const [bytes, passes] = [2 ** 27, 4];
  const code = `
    @group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
    @group(0) @binding(1) var<storage, read_write> y: array<vec4<u32>>;
    @compute @workgroup_size(256) fn sum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>) {
      var s = vec4<u32>();
      for (var i = id.x; i < ${bytes / 16}u; i += n.x * 256u) { s += x[i]; }
      y[id.x] = s;
    }`;
  const pipeline = device.createComputePipeline({ layout: "auto", compute: { module: device.createShaderModule({ code }), entryPoint: "sum" } });
  const groups = 4096;
  const { STORAGE } = GPUBufferUsage;
  const y = device.createBuffer({ size: groups * 256 * 16, usage: STORAGE });
  const bound = Array.from({ length: 4 }, () => {
    const x = device.createBuffer({ size: bytes, usage: STORAGE });
    return device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries: [x, y].map((buffer, binding) => ({ binding, resource: { buffer } })) });
  });
  let best = 0;
  for (let round = 0; round < 5; round++) {
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    for (let n = 0; n < passes; n++)
      for (const group of bound) {
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(groups);
      }
    pass.end();
    const start = performance.now();
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
    best = Math.max(best, (passes * bound.length * bytes) / ((performance.now() - start) / 1000));
  }
  device.destroy();
  return best;
}

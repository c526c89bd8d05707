// deno run --allow-read --unstable-webgpu naga-shaders.js FILE...: whether naga, the WebGPU of Firefox and Deno, takes
// each shader. Prints a line for each that it refuses; ends with 1 if there is one, and with 3 without an adapter.
const adapter = await navigator.gpu?.requestAdapter();
if (!adapter) Deno.exit(3);
const device = await adapter.requestDevice();
let refused = 0;
for (const path of Deno.args) {
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code: Deno.readTextFileSync(path) });
  device.createComputePipeline({ layout: "auto", compute: { module } });
  const error = await device.popErrorScope();
  if (!error) continue;
  refused++;
  console.log(`FAIL ${path}: ${error.message.slice(0, 500)}`);
}
console.log(`naga takes ${Deno.args.length - refused} of ${Deno.args.length} shaders`);
Deno.exit(refused ? 1 : 0);

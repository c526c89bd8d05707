// node test/external/stablehlo.mjs: StableHLO artifacts in XLA on the CPU, on 8 virtual devices where they are for a mesh, by
// the Python in GEMMAC_PYTHON; in XLA for the TPU, which compiles without one, and in IREE, where GEMMAC_LIBTPU and
// GEMMAC_IREE name folders that hold those packages. Ends with 1 where one does not do what it should.
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile } from "../../dist/src/index.js";

const at = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const json = (path) => JSON.parse(readFileSync(path, "utf8"));
const scratch = mkdtempSync(join(tmpdir(), "gemmac-xla-"));

/** Sums in another order. */
const close = 1e-5;
/** bf16 keeps 8 bits of what is multiplied and of what the caches hold. */
const rounded = 3e-2;
/** One sum over devices for the embedding and two for each layer that is written, and nothing gathered. */
const megatron = (model, layers) => ({
  "all-reduce": 1 + 2 * (layers ?? json(at(`test/data/models/${model}/config.json`)).num_hidden_layers),
  "all-gather": 0,
});

/** Pairs of artifacts of one model, each given by its options, that must score alike. */
const cases = [
  ...["gemma1-mqa", "gemma1-mha"].map((model) => ({
    model,
    other: { mesh: "data=2,model=4" },
    off: close,
    collectives: megatron(model),
  })),
  { model: "gemma1-mqa", other: { mesh: "data=2,model=2,fsdp=2" }, off: close },
  { model: "gemma1-mha", other: { mesh: "fsdp=8" }, off: close },
  {
    model: "gemma1-mqa",
    one: { quant: "int8" },
    other: { quant: "int8", mesh: "data=2,model=4" },
    off: close,
    collectives: megatron("gemma1-mqa"),
  },
  { model: "gemma1-mqa", one: { quant: "int8" }, other: { quant: "int8", rows: 8 }, off: close },
  { model: "gemma1-mqa", other: { arithmetic: "bf16" }, off: rounded },
  {
    model: "gemma1-mha",
    one: { arithmetic: "bf16" },
    other: { arithmetic: "bf16", mesh: "data=2,model=4" },
    off: rounded,
    collectives: megatron("gemma1-mha"),
  },
  { model: "gemma3", other: { mesh: "data=2,model=2,fsdp=2" }, off: close },
  ...["gemma2", "gemma3"].map((model) => ({
    model,
    other: { mesh: "data=2,model=2" },
    off: close,
    collectives: megatron(model),
  })),
  // Layers as a loop: its body stands once, whatever the number of turns.
  ...["gemma1-mqa", "gemma1-mha", "gemma2", "gemma3"].map((model) => ({
    model,
    other: { scanLayers: true },
    off: close,
  })),
  ...["gemma1-mqa", "gemma1-mha"].map((model) => ({
    model,
    other: { scanLayers: true, mesh: "data=2,model=4" },
    off: close,
    collectives: megatron(model, 1),
  })),
  {
    model: "gemma1-mqa",
    one: { quant: "int8" },
    other: { quant: "int8", scanLayers: true },
    off: close,
  },
];

const artifacts = new Map();
/** The artifact of a model under these options, compiled once. */
async function artifact(model, { mesh, ...options } = {}) {
  const key = JSON.stringify([model, options, mesh]);
  if (!artifacts.has(key)) {
    const out = join(scratch, `${artifacts.size}`);
    const shape = { batch: 2, capacity: 64, prefill: 16, ...(mesh && { mesh }) };
    await compile(at(model), { targets: ["stablehlo"], out, verify: false, ...shape, ...options });
    artifacts.set(key, out);
  }
  return artifacts.get(key);
}
const shown = (options = {}) =>
  Object.entries(options)
    .map(([k, v]) => `${k} ${v}`)
    .join(", ") || "plain";

let failed = 0;
/** Runs a script of Python; its last lines are the reason where it fails. */
function python(args, { cwd = scratch, env = {} } = {}) {
  const options = { cwd, encoding: "utf8", env: { ...process.env, JAX_PLATFORMS: "cpu", ...env } };
  const { status, stdout, stderr } = spawnSync(process.env.GEMMAC_PYTHON ?? "python3", args, options);
  process.stdout.write(stdout ?? "");
  if (status === 0) return stdout;
  failed++;
  console.log(`FAIL ${args.join(" ")}\n${String(stderr).trim().split("\n").slice(-3).join("\n")}`);
  return undefined;
}
const script = at("test/external/stablehlo.py");

try {
  const pairs = [];
  for (const { model, one, other, ...rest } of cases) {
    const name = `${model}, ${shown(other)}${one ? ` against ${shown(one)}` : ""}`;
    const [a, b] = [await artifact(`test/data/models/${model}`, one), await artifact(`test/data/models/${model}`, other)];
    pairs.push({ name, one: a, other: b, collectives: {}, ...rest });
  }
  writeFileSync(join(scratch, "cases.json"), JSON.stringify(pairs));
  python([script, "parse", ...artifacts.values()]);
  python([script, "same", join(scratch, "cases.json")]);

  // A blob in a folder of its own, in a process that has JAX and nothing of gemmac.
  mkdirSync(join(scratch, "alone"));
  copyFileSync(join(pairs[0].one, "decode.jaxexp"), join(scratch, "alone", "decode.jaxexp"));
  python(["-I", script, "load", "decode.jaxexp"], { cwd: join(scratch, "alone") });

  // The program that the artifact carries, against the reference's own text, on one device and on eight.
  const [{ text, decoded, greedy_ids }] = json(at("test/data/demo/golden.json")).prompts;
  for (const mesh of [undefined, "data=2,model=4"]) {
    const demo = await artifact("examples/gemma-kjv-2m", { mesh, capacity: 128 });
    const args = ["run.py", "--prompt", text, "--temperature", "0", "--max-tokens", String(greedy_ids.length)];
    const said = python(args, { cwd: demo, env: { XLA_FLAGS: "--xla_force_host_platform_device_count=8" } });
    if (said !== undefined && text + said.trimEnd() !== decoded.trimEnd() && said.trim() !== decoded.trim()) {
      failed++;
      console.log(`FAIL run.py, ${shown({ mesh })}: not the reference's text\n${decoded}`);
    }
  }

  // Other compilers for the same files.
  const beside = (folder) => ({ PYTHONPATH: folder ?? "" });
  const plain = await artifact("test/data/models/gemma1-mqa");
  const sharded = await artifact("test/data/models/gemma1-mqa", { mesh: "data=2,model=4" });
  const narrow = await artifact("test/data/models/gemma1-mqa", { quant: "int8", rows: 8 });
  python([at("test/external/in_iree.py"), plain], { env: beside(process.env.GEMMAC_IREE) });
  const tpu = [at("test/bench/xla/tpu.py"), "v5e:2x4", plain, sharded, narrow];
  python(tpu, { env: beside(process.env.GEMMAC_LIBTPU) });
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
if (failed) {
  console.log(`${failed} failed`);
  process.exitCode = 1;
}

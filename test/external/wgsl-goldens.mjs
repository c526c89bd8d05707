// node test/external/wgsl-goldens.mjs, after npm run build: the goldens of WGSL on SwiftShader, the software GPU that Chromium
// brings: no f16, other subgroups than lavapipe. With the argument halves: on the GPU at hand, prompts in f16. Says so where
// that cannot be had. Ends with 1 where one is missed. The demo model is left to browser.mjs: each takes 20 s to compile.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { create, globals } from "webgpu";
import { compile } from "../../dist/src/index.js";
import { findChromium } from "./chromium.mjs";

const names = ["gemma1-mqa", "gemma1-mha", "gemma2", "gemma3"];
const [mode] = process.argv.slice(2);
if (mode === "here" || mode === "halves") await goldens(mode === "halves");
else await onSwiftShader();

/** Starts this script again with the driver. Vulkan's loader lies beside it. */
async function onSwiftShader() {
  const chromium = await findChromium();
  const home = chromium.path && dirname(chromium.path);
  const drivers = [home, "/usr/lib/chromium"].map((dir) => dir && join(dir, "vk_swiftshader_icd.json"));
  const driver = drivers.find((path) => path && existsSync(path));
  if (!driver) {
    console.log(`SKIPPED the goldens on SwiftShader: ${chromium.missing ?? `the Chromium in ${home} has none`}`);
    return;
  }
  const libraries = [process.env.LD_LIBRARY_PATH, dirname(driver)].filter(Boolean).join(delimiter);
  const { status } = spawnSync(process.execPath, [fileURLToPath(import.meta.url), "here"], {
    stdio: "inherit",
    env: { ...process.env, VK_ICD_FILENAMES: driver, LD_LIBRARY_PATH: libraries, XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR ?? tmpdir() },
  });
  process.exitCode = status ?? 1;
}

async function goldens(halves) {
  Object.assign(globalThis, globals, { dawn: create([]) });
  const adapter = await globalThis.dawn.requestAdapter();
  if (!adapter || (halves && !adapter.features.has("shader-f16")))
    console.log(`SKIPPED the goldens${halves ? " in halves" : ""}: ${adapter?.info.description ?? "Dawn finds no adapter"}${adapter ? " has none" : ""}`);
  else for (const name of names) await golden(name, halves);
}

/** Prompts through prefill and token by token: the scores after each, and the greedy ids. */
async function golden(name, halves) {
  const start = performance.now();
  const dir = fileURLToPath(new URL(`../data/models/${name}`, import.meta.url));
  const { prompts, fp64_check, effective } = JSON.parse(readFileSync(join(dir, "golden.json"), "utf8"));
  // What halves may do to the scores: a share of the largest.
  const allowed = (row) => (halves ? 2e-2 * row.reduce((m, x) => Math.max(m, Math.abs(x)), 0) : fp64_check.suggested_atol);
  const vocab = effective.vocab_size;
  const tensors = floats(join(dir, "golden.safetensors"));
  const scratch = mkdtempSync(join(tmpdir(), "gemmac-swiftshader-"));
  try {
    const { out } = await compile(dir, { targets: ["wgsl"], out: join(scratch, name), capacity: 128, verify: false });
    const { load } = await import(pathToFileURL(join(out, "model.js")).href);
    const gemma = await load(undefined, { gpu: globalThis.dawn, halves });
    let [worst, share, equal, scored] = [0, 0, true, 0];
    for (const { id, input_ids, generated_ids } of prompts) {
      const steps = tensors[`${id}.decode_logits`] ?? tensors[`${id}.logits`].slice(-vocab);
      for (let i = 0; i < steps.length / vocab; i++) {
        const row = await gemma.logits([...input_ids, ...generated_ids.slice(0, i)]);
        const want = steps.subarray(i * vocab, (i + 1) * vocab);
        const off = row.reduce((m, x, j) => Math.max(m, Math.abs(x - want[j])), 0);
        worst = Math.max(worst, off);
        share = Math.max(share, off / allowed(want));
        equal &&= row.indexOf(Math.max(...row)) === generated_ids[i];
        scored++;
      }
    }
    const { device } = gemma;
    gemma.dispose();
    const right = equal && share <= 1;
    const seconds = ((performance.now() - start) / 1000).toFixed(0);
    console.log(`${right ? "ok  " : "FAIL"} ${name} on ${device}: off by ${worst.toExponential(1)}, ${(100 * share).toFixed(0)} % of what is allowed, over ${scored} tokens, ids ${equal ? "equal" : "differ"}, ${seconds} s`);
    if (!right) process.exitCode = 1;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** The f32 tensors of a small safetensors file. */
function floats(path) {
  const bytes = readFileSync(path);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = Object.entries(JSON.parse(bytes.toString("utf8", 8, start)));
  const stored = header.filter(([, { dtype }]) => dtype === "F32");
  return Object.fromEntries(stored.map(([name, { data_offsets: [from, to] }]) => [name, new Float32Array(bytes.buffer.slice(bytes.byteOffset + start + from, bytes.byteOffset + start + to))]));
}

// node test/external/swiftshader.mjs, after npm run build: the goldens of WGSL on SwiftShader, the software GPU that Chromium
// brings: no f16, other subgroups than lavapipe. Says so where it cannot be had. Ends with 1 where one is missed.
// The demo model is left to browser.mjs: each takes 20 s to compile here.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile, openModel } from "../../dist/src/index.js";
import { findChromium } from "./chromium.mjs";

const names = ["gemma1-mqa", "gemma1-mha", "gemma2", "gemma3"];
if (process.argv[2] === "here") for (const name of names) await golden(name);
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

/** Prompts through prefill and token by token: the scores after each, and the greedy ids. */
async function golden(name) {
  const start = performance.now();
  const dir = fileURLToPath(new URL(`../data/models/${name}`, import.meta.url));
  const { prompts, fp64_check, effective } = JSON.parse(readFileSync(join(dir, "golden.json"), "utf8"));
  const [atol, vocab] = [fp64_check.suggested_atol, effective.vocab_size];
  const tensors = floats(join(dir, "golden.safetensors"));
  const scratch = mkdtempSync(join(tmpdir(), "gemmac-swiftshader-"));
  try {
    const { out } = await compile(dir, { targets: ["wgsl"], out: join(scratch, name), capacity: 128, verify: false });
    const { session, close } = await openModel(out);
    let [worst, equal, scored] = [0, true, 0];
    for (const { id, input_ids, generated_ids } of prompts) {
      session.reset();
      const steps = tensors[`${id}.decode_logits`] ?? tensors[`${id}.logits`].slice(-vocab);
      for (let i = 0; i < steps.length / vocab; i++) {
        const { logits } = await session.append(i === 0 ? input_ids : [generated_ids[i - 1]], { last: true });
        const row = logits.slice(-vocab);
        for (const [j, x] of row.entries()) worst = Math.max(worst, Math.abs(x - steps[i * vocab + j]));
        equal &&= row.indexOf(Math.max(...row)) === generated_ids[i];
        scored++;
      }
    }
    await close();
    const right = equal && worst <= atol;
    const seconds = ((performance.now() - start) / 1000).toFixed(0);
    console.log(`${right ? "ok  " : "FAIL"} ${name} on SwiftShader: ${worst.toExponential(1)} of ${atol} over ${scored} tokens, ids ${equal ? "equal" : "differ"}, ${seconds} s`);
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

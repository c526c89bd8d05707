// node test/external/naga.mjs, after npm run build: whether naga, the second validator of WGSL, takes every kernel that
// needs no feature, of models of all kinds and weights. Says so where it cannot be had. Ends with 1 where it refuses one.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile } from "../../dist/src/compile.js";
import { installed } from "../bench/packages.mjs";

const at = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const models = [
  ["test/data/models/gemma1-mqa", {}],
  ["test/data/models/gemma1-mha", {}],
  ["test/data/models/gemma2", {}],
  ["test/data/models/gemma3", { quant: "int8" }],
  ["examples/gemma-kjv-2m", { quant: "int4" }],
];

const scratch = mkdtempSync(join(tmpdir(), "gemmac-naga-"));
try {
  process.exitCode = await check();
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

async function check() {
  const cache = join(tmpdir(), "gemmac-bench", "deps");
  const deno = installed(cache, "deno");
  if (deno.missing) return skipped(`the package deno cannot be installed: ${deno.missing}`);
  const binary = executable(join(cache, "node_modules", "deno"));
  if (!binary) return skipped("the package deno has no program for this system");
  const shaders = new Map();
  for (const [i, [dir, options]] of models.entries()) {
    const out = join(scratch, String(i));
    await compile(at(dir), { targets: ["wgsl"], out, capacity: 128, verify: false, ...options });
    for (const name of readdirSync(join(out, "kernels")))
      if (name.endsWith(".wgsl")) shaders.set(name, join(out, "kernels", name));
  }
  const args = ["run", "--allow-read", "--unstable-webgpu", at("test/external/naga-shaders.js"), ...shaders.values()];
  const { status, stdout, stderr, error } = spawnSync(binary, args, { encoding: "utf8", timeout: 300_000 });
  process.stdout.write(stdout ?? "");
  if (status === 3) return skipped("Deno finds no adapter: run sh .ci/lavapipe.sh and name its driver");
  if (status !== 0) console.log(String(error ?? stderr).trim().split("\n").slice(-5).join("\n"));
  return status === 0 ? 0 : 1;
}

function skipped(why) {
  console.log(`SKIPPED naga: ${why}`);
  return 0;
}

/** The program lies in a package of its own, one for each system. */
function executable(home) {
  const require = createRequire(join(home, "package.json"));
  const names = [`${process.platform}-${process.arch}`, `${process.platform}-${process.arch}-glibc`];
  for (const name of names)
    try {
      return require.resolve(`@deno/${name}/deno`);
    } catch {
      // Not for this system.
    }
  return undefined;
}

// Compiles CUDA artifacts with nvcc and reads what ptxas says of each kernel: spilled registers fail, and so does decoding
// that has fewer than 32 KB of weights in flight on a multiprocessor. No GPU is needed.
// Usage: node test/external/nvcc.mjs NVCC [sm_80 sm_90 …]
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { legalize } from "../../dist/backends/backend.js";
import { cuda, layOutCuda } from "../../dist/backends/cuda/index.js";
import { sources } from "../../dist/backends/cuda/emit.js";
import { runtimePart } from "../../dist/backends/c/runtime.js";
import { factsOf, pipelineOf } from "../../dist/src/compile.js";
import { gemma, preset, runPasses } from "../../dist/src/index.js";

const [nvcc, ...given] = process.argv.slice(2);
if (!nvcc) throw new Error("say which nvcc");
const targets = given.length ? given : ["sm_80", "sm_90"];
const root = join(import.meta.dirname, "../..");
const scratch = mkdtempSync(join(tmpdir(), "gemmac-nvcc-"));
/** Registers and threads that a multiprocessor has, and bytes of weights that each thread of a product has on their way. */
const [registers, threadsAtOnce, ahead] = [65536, 2048, 64];
const least = 32 * 1024;
let wrong = 0;

function compiled(from, ...options) {
  const dir = join(scratch, from.split("/").at(-1) + options.join(""));
  execFileSync("node", [join(root, "dist/src/cli/main.js"), "compile", join(root, from), "--target", "cuda", "--out", dir, "--no-verify", ...options]);
  return dir;
}

/** The sources of a released model's shape; no weights are needed to compile them. */
async function shaped(name, quant, arithmetic = "f32") {
  const backend = cuda({ capacity: 4096, arithmetic });
  const config = preset(name);
  const pipeline = pipelineOf(backend, quant ? { quant } : {});
  const graph = legalize(runPasses(gemma(config), pipeline).graph, backend);
  const facts = factsOf(graph, config);
  const dir = join(scratch, [name, quant ?? "bf16", ...(arithmetic === "bf16" ? ["rounding"] : [])].join("-"));
  mkdirSync(dir);
  for (const [path, text] of await sources(layOutCuda({ graph, facts }), [])) writeFileSync(join(dir, path), text);
  writeFileSync(join(dir, "gemma.h"), await runtimePart("gemma.h", "gpu"));
  writeFileSync(join(dir, "sample.cuh"), readFileSync(join(root, "dist/backends/cuda/runtime/sample.cuh")));
  return dir;
}

/** Compiles one artifact for one kind of GPU, and says how its kernels came out. */
function look(dir, sm, ...flags) {
  const args = ["-std=c++17", "-O3", ...flags, `-arch=${sm}`, "-Xptxas", "-v", "-cubin", "-o", join(scratch, "gemma.cubin"), join(dir, "gemma.cu")];
  const { status, stdout, stderr } = spawnSync(nvcc, args, { encoding: "utf8" });
  const label = [dir.split("/").at(-1), sm, ...flags].join(" ");
  if (status !== 0) {
    wrong++;
    console.log(`${label}: FAILED\n${stdout}${stderr}`);
    return;
  }
  const source = readFileSync(join(dir, "gemma.cu"), "utf8");
  const launches = [...source.matchAll(/launch\(g, (?:(cut_\d+)::)?(\w+), dim3\(.*?\), (?:group\()?(\d+),/g)];
  const decoding = source.indexOf("/* One token, cut");
  const found = [...(stdout + stderr).matchAll(/entry function '(\w+)'[\s\S]*?(\d+) bytes spill stores, (\d+) bytes spill loads[\s\S]*?Used (\d+) registers/g)];
  let [most, lowest] = [0, Number.POSITIVE_INFINITY];
  for (const [, mangled, stores, loads, used] of found) {
    // Mangled names count the letters of each part.
    const own = launches.filter(([, cut, name]) => mangled.startsWith(cut ? `_ZN${cut.length}${cut}${name.length}${name}E` : `_Z${name.length}${name}`));
    const [, cut, name, threads] = own[0] ?? [, , mangled];
    const decodes = own.length === 0 || own.some((l) => l.index > decoding);
    const spilled = Number(stores) + Number(loads);
    if (spilled > 0) console.log(`${label}: ${name} spills ${spilled} bytes${decodes ? "" : ", in prefill only"}`);
    if (spilled > 0) wrong++;
    most = Math.max(most, Number(used));
    if (!decodes || !threads || !/^(gemv|qkv)_/.test(name)) continue;
    const groups = Math.min(Math.floor(registers / (Math.ceil(Number(used) / 8) * 8 * threads)), threadsAtOnce / threads);
    const bytes = groups * threads * ahead;
    lowest = Math.min(lowest, bytes);
    if (bytes < least) {
      wrong++;
      console.log(`${label}: ${cut ?? ""} ${name} has ${bytes / 1024} KB of weights in flight, fewer than ${least / 1024}`);
    }
  }
  if (found.length === 0 || lowest === Number.POSITIVE_INFINITY) wrong++;
  console.log(`${label}: ${found.length} kernels, at most ${most} registers, products with at least ${lowest / 1024} KB of weights in flight`);
}

const demo = compiled("examples/gemma-kjv-2m");
for (const sm of targets) look(demo, sm);
const tiny = compiled("test/data/models/gemma3", "--quant", "int8");
for (const sm of targets) look(tiny, sm);
for (const [name, quant] of [["gemma-2b"], ["gemma-2b", "int8"], ["gemma-2b", "int4"], ["gemma-7b", "int8"]]) look(await shaped(name, quant), targets.at(-1));
// Products and attention that round to bf16, as tensor cores take it fastest.
for (const name of ["gemma-2b", "gemma-7b", "gemma-2-9b", "gemma-3-1b"]) {
  const dir = await shaped(name, undefined, "bf16");
  for (const sm of targets) look(dir, sm);
}
for (const quant of ["int8", "int4"]) look(await shaped("gemma-2b", quant, "bf16"), targets.at(-1));
execFileSync("make", ["-s", "-C", demo, `NVCC=${nvcc}`, "gemma"], { stdio: "inherit" });
const { status, stderr } = spawnSync(join(demo, "gemma"), ["--ids", "1,2"], { encoding: "utf8" });
console.log(`the whole program links, and says: ${stderr.trim() || `exit ${status}`}`);
// With cuBLASLt: linked where its library is, else only compiled.
const [include, lib] = ["include", "lib"].map((name) => join(dirname(nvcc), "..", name));
if (!existsSync(join(include, "cublasLt.h"))) console.log("SKIPPED: cuBLASLt, because its headers are not beside nvcc's");
else {
  look(demo, targets.at(-1), "-DGEMMAC_CUBLASLT");
  const library = existsSync(lib) && readdirSync(lib).find((name) => name.startsWith("libcublasLt.so"));
  if (!library) console.log("SKIPPED: linking with cuBLASLt, because the library is not there");
  else {
    symlinkSync(join(lib, library), join(scratch, "libcublasLt.so"));
    execFileSync("make", ["-s", "-B", "-C", demo, `NVCC=${nvcc}`, `NVCCFLAGS=-O3 -L${scratch}`, "CUBLASLT=1", "gemma"], { stdio: "inherit" });
    const ran = spawnSync(join(demo, "gemma"), ["--ids", "1,2"], { encoding: "utf8", env: { ...process.env, LD_LIBRARY_PATH: lib } });
    console.log(`with cuBLASLt it links too, and says: ${ran.stderr.trim() || `exit ${ran.status}`}`);
  }
}
const cmake = (...args) => spawnSync("cmake", args, { encoding: "utf8" });
if (cmake("--version").status !== 0) console.log("SKIPPED: CMake, because there is no cmake");
else {
  const build = join(demo, "build");
  for (const args of [["-S", demo, "-B", build, `-DCMAKE_CUDA_COMPILER=${nvcc}`, "-DCMAKE_CUDA_ARCHITECTURES=90"], ["--build", build]]) {
    const ran = cmake(...args);
    console.log(`cmake ${args[0]}: ${ran.status === 0 ? "ok" : "FAILED"}`);
    if (ran.status === 0) continue;
    wrong++;
    console.log(`${ran.stdout}${ran.stderr}`);
    break;
  }
}
rmSync(scratch, { recursive: true, force: true });
if (wrong) process.exit(1);

// The artifacts of one checkpoint, each compiled in a process of its own: its seconds and peak memory are the compiler's alone.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { targets } from "../../dist/src/index.js";

const onnx = { targets: ["onnx"] };
/** By name: what to ask the compiler for. "float" makes numbers of every block, and multiplies in f32. */
const asked = {
  float: { ...onnx, profile: "standard", weights: "f32" },
  onnx: { ...onnx },
  "onnx int8": { ...onnx, quant: "int8" },
  "onnx int4": { ...onnx, quant: "int4" },
  "onnx standard": { ...onnx, profile: "standard" },
  ...Object.fromEntries(targets.filter((t) => t.name !== "onnx").map((t) => [t.name, { targets: [t.name] }])),
  "c int8": { targets: ["c"], quant: "int8" },
  "c int4": { targets: ["c"], quant: "int4" },
};
export const names = Object.keys(asked);

/** Compiles what is not in `cache` yet. Gives what was measured then, or why it failed. */
export function artifact(name, checkpoint, cache) {
  const out = join(cache, "artifacts", name.replace(" ", "-"));
  const facts = `${out}.json`;
  if (existsSync(join(out, "manifest.json")) && existsSync(facts)) return { out, ...JSON.parse(readFileSync(facts, "utf8")) };
  mkdirSync(join(cache, "artifacts"), { recursive: true });
  rmSync(out, { recursive: true, force: true });
  const script = `
    import(${JSON.stringify(new URL("../../dist/src/index.js", import.meta.url).href)}).then(async ({ compile }) => {
      const [checkpoint, out, options] = process.argv.slice(1);
      const { seconds, warnings, targets: [t] } = await compile(checkpoint, { out, ...JSON.parse(options) });
      const rss = process.resourceUsage().maxRSS * 1024;
      return { seconds, rss, bytes: t.bytes, proof: t.proof, warnings };
    }).catch((e) => ({ failed: e.message })).then((result) => console.log(JSON.stringify(result)));`;
  const args = ["-e", script, checkpoint, out, JSON.stringify(asked[name])];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  const result = status === 0 ? JSON.parse(stdout) : { failed: stderr.trim() || `its process ended with ${status}` };
  if (result.failed) return result;
  writeFileSync(facts, stdout);
  return { out, ...result };
}

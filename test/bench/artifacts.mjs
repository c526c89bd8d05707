// Compiled artifacts to measure, kept between runs under the hash of the compiler that made them.
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile, parsePipeline } from "../../dist/src/index.js";

const dist = fileURLToPath(new URL("../../dist", import.meta.url));
/** Of every file of the build. */
const build = () => {
  const hash = createHash("sha256");
  const files = readdirSync(dist, { recursive: true, withFileTypes: true }).filter((f) => f.isFile());
  for (const path of files.map((f) => join(f.parentPath ?? f.path, f.name)).sort())
    if (/\.(js|c|h|py)$/.test(path)) hash.update(path.slice(dist.length)).update(readFileSync(path));
  return hash.digest("hex").slice(0, 12);
};

/** The folder `cache/name-<build>`, with the checkpoint compiled by this build; what other builds made is dropped. */
export async function artifact(cache, name, checkpoint, { passes, ...options }) {
  const folder = `${name}-${build()}`;
  for (const old of readdirSync(cache))
    if (old !== folder && (old === name || (old.startsWith(`${name}-`) && /^[0-9a-f]{12}$/.test(old.slice(name.length + 1)))))
      rmSync(join(cache, old), { recursive: true });
  const out = join(cache, folder);
  if (!existsSync(join(out, "manifest.json")))
    await compile(checkpoint, { out, verify: false, ...(passes && { insert: parsePipeline(passes) }), ...options });
  return out;
}

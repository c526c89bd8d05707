// npm packages that only measurements and checks against other clients need, in a folder outside the repository.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

/** Installs `name` in `cache` on first use. Gives the address to import and the version, or why there is none. */
export function installed(cache, name) {
  const home = join(cache, "node_modules", name);
  if (!existsSync(join(home, "package.json"))) {
    mkdirSync(cache, { recursive: true });
    const npm = process.platform === "win32" ? "npm.cmd" : "npm";
    const args = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", cache, name];
    const { status, stderr, error } = spawnSync(npm, args, { encoding: "utf8", timeout: 600_000 });
    if (status !== 0)
      return {
        missing: String(error ?? stderr)
          .trim()
          .split("\n")
          .slice(-3)
          .join("; "),
      };
  }
  const meta = JSON.parse(readFileSync(join(home, "package.json"), "utf8"));
  const root = meta.exports?.["."] ?? meta.exports;
  const entry = firstFile(root?.node ?? root) ?? meta.module ?? meta.main ?? "index.js";
  return { url: pathToFileURL(join(home, entry)).href, version: meta.version };
}

/** The file an ES import takes of one entry of `exports`. */
function firstFile(entry) {
  if (typeof entry === "string" || !entry) return entry;
  return firstFile(entry.import ?? entry.node ?? entry.default);
}

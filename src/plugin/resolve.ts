import { readFileSync, realpathSync } from "node:fs";
import * as nodeModule from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

/** The name under which passes import gemmac. */
export const packageName = "gemmac";

/** What that name must mean in every pass: the modules that are running. Two copies of the op table do not mix. */
export const publicEntry = new URL(
  import.meta.url.endsWith(".ts") ? "../index.ts" : "../index.js",
  import.meta.url,
);

let shared = false;

/** From now on `import "gemmac"` means the running compiler in JavaScript files and packages too. */
export function shareGemmac(): void {
  // Node has had this since 20.6. Before, the file's own node_modules decide.
  if (shared || !nodeModule.register) return;
  shared = true;
  const name = JSON.stringify(packageName);
  const answer = JSON.stringify({ url: publicEntry.href, shortCircuit: true });
  const hook = `export const resolve = async (s, context, next) => s === ${name} ? ${answer} : next(s, context);`;
  nodeModule.register(`data:text/javascript,${encodeURIComponent(hook)}`);
}

/** The URL of what `import specifier` means in `folder`; undefined when no such package is installed there. */
export function resolvePackage(specifier: string, folder: string): string | undefined {
  const require = nodeModule.createRequire(join(folder, "importer.js"));
  const [, name = specifier, rest = ""] = /^((?:@[^/]+\/)?[^/]+)(.*)$/.exec(specifier) ?? [];
  for (const modules of require.resolve.paths(specifier) ?? []) {
    const manifest = readManifest(join(modules, name, "package.json"));
    if (manifest === undefined) continue;
    const target = exported(manifest, `.${rest}`);
    if (target) return pathToFileURL(realpathSync(join(modules, name, target))).href;
    break;
  }
  try {
    return pathToFileURL(require.resolve(specifier)).href;
  } catch {
    return undefined;
  }
}

function readManifest(path: string): object | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return undefined;
  }
}

/** What the manifest's `exports` give to an import of `path`, patterns aside. */
function exported(manifest: object, path: string): string | undefined {
  const entries: unknown = "exports" in manifest ? manifest.exports : undefined;
  const byPath = typeof entries === "object" && entries !== null && Object.hasOwn(entries, path);
  return condition(byPath ? Object.entries(entries).find(([key]) => key === path)?.[1] : entries);
}

function condition(entry: unknown): string | undefined {
  if (typeof entry === "string") return entry;
  if (typeof entry !== "object" || entry === null) return undefined;
  for (const [name, target] of Object.entries(entry))
    if (["node", "import", "module-sync", "default"].includes(name)) return condition(target);
  return undefined;
}

import { lstat, mkdir, readdir, readFile, realpath, rename, rm } from "node:fs/promises";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { UserError } from "../../ir/error.ts";
import { manifestFile, readManifest } from "./manifest.ts";

const elsewhere = "choose another --out, or remove it yourself";
const refuse = (what: string, next = elsewhere) => new UserError("usage", what, next);

/**
 * Checks that the folder `out` may be made, or replaced when `force` says so. Only what gemmac wrote is ever
 * replaced: every file there must stand in the manifest of an artifact. Throws UserError otherwise.
 */
export async function checkOut(
  out: string,
  checkpoint: string,
  force: boolean,
  targets: readonly string[],
): Promise<void> {
  if (out.trim() === "") throw refuse("--out is empty", "name the folder to make");
  const [to, from] = await Promise.all(
    [out, checkpoint].map((path) => realpath(path).catch(() => resolve(path))),
  );
  if (from === to || from?.startsWith(`${to}${sep}`))
    throw refuse(`${out} holds the checkpoint itself`, "choose another --out");
  const found = await lstat(out).catch(() => undefined);
  if (!found) return;
  if (!force) throw refuse(`${out} exists already`, "choose another --out, or pass --force to replace it");
  if (!found.isDirectory()) throw refuse(`${out} is no folder, so --force does not replace it`);
  const foreign = await foreignFile(out, targets);
  if (foreign)
    throw refuse(
      `${join(out, foreign)} is no part of an artifact of gemmac, so --force does not replace ${out}`,
    );
}

/** What `make`, CMake in `build/`, gemma.py and --tune leave inside an artifact, by target. */
const built = /^(gemma|gemma-test|libgemma\.so|tuning\.txt|__pycache__\/gemma\.[\w.-]+\.pyc)$/;
const builds: Readonly<Record<string, RegExp>> = { c: built, cuda: built };

/** A file below `dir` that no manifest lists; `dir` is an artifact, or holds one for each target. */
async function foreignFile(dir: string, targets: readonly string[]): Promise<string | undefined> {
  const known = new Set<string>();
  const made: ((path: string) => boolean | undefined)[] = [];
  for (const place of ["", ...targets]) {
    const manifest = await readManifest(join(dir, place)).catch(() => undefined);
    if (!manifest) continue;
    for (const path of [manifestFile, ...manifest.files.map((f) => f.path)]) known.add(join(place, path));
    const own = Object.hasOwn(builds, manifest.target) ? builds[manifest.target] : undefined;
    const tree = own && (await isCmakeOf(join(dir, place))) ? join("build", sep) : undefined;
    made.push((path) => {
      const inside = relative(place, path);
      return own?.test(inside) || (tree !== undefined && inside.startsWith(tree));
    });
  }
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  const paths = entries.filter((e) => !e.isDirectory()).map((e) => relative(dir, join(e.parentPath, e.name)));
  return paths.find((path) => !known.has(path) && !made.some((is) => is(path)));
}

/** Whether `dir/build` is where CMake builds `dir`, as its cache says. */
async function isCmakeOf(dir: string): Promise<boolean> {
  const cache = await readFile(join(dir, "build", "CMakeCache.txt"), "utf8").catch(() => "");
  return cache.split("\n").includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${await realpath(dir)}`);
}

/** Makes a folder and those above it. Node's own recursive mkdir never returns on file systems such as /proc. */
export async function makeFolder(path: string): Promise<void> {
  const parent = dirname(path);
  if (parent !== path && !(await lstat(parent).catch(() => undefined))) await makeFolder(parent);
  await mkdir(path);
}

/** The folder beside `out` in which it is put together. */
export const partialPath = (out: string): string =>
  join(dirname(resolve(out)), `${basename(resolve(out))}.partial-${process.pid}`);

/** Renames the finished folder to `out`; what stood there goes. */
export async function putInPlace(partial: string, out: string): Promise<void> {
  const old = `${partial}-old`;
  const replaced = await rename(out, old).then(
    () => true,
    () => false,
  );
  await rename(partial, out);
  if (replaced) await rm(old, { recursive: true, force: true });
}

import { access } from "node:fs/promises";
import { isAbsolute, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { UserError } from "../../ir/error.ts";
import { groups, passes } from "../../passes/index.ts";
import type { AnyPassMaker, Pass } from "../../passes/pass.ts";
import { parsePipeline } from "../../passes/pipeline.ts";
import { resolvePackage, shareGemmac } from "./resolve.ts";
import { importTypeScript } from "./typescript.ts";

/** Whether `spec` names passes that gemmac brings, options aside. */
const isBuiltIn = (spec: string): boolean => {
  const name = /^\s*([^{\s]*)/.exec(spec)?.[1] ?? "";
  return passes.has(name) || groups.has(name);
};

/**
 * The passes that `spec` names: gemmac's own, a file such as `./my-pass.ts` or a package, with options in braces
 * where the pass takes some, as in `./my-pass.ts{layers=2}`. Throws UserError, and TypeScriptError when the file does not
 * type-check against the public API.
 */
export async function loadPasses(spec: string): Promise<Pass[]> {
  if (isBuiltIn(spec)) return parsePipeline(spec);
  const [, name = "", options] = /^\s*(.+?)\s*(?:\{([^{}]*)\})?\s*$/s.exec(spec) ?? [];
  if (!name)
    throw new UserError(
      "usage",
      "a pass is asked for without a name",
      "name a pass, a file such as ./my-pass.ts, or a package",
    );
  const found = await loadPlugin(name);
  if (!found)
    throw new UserError(
      "input",
      `there is no package ${name} here`,
      "npm install it, or give the path of a file such as ./my-pass.ts",
    );
  if (options !== undefined && found.length > 1)
    throw new UserError(
      "usage",
      `${name} holds ${found.length} passes (${found.map((p) => p.name).join(", ")}) and takes no options`,
      "leave the braces away",
    );
  return found.map((plugin) => (isMaker(plugin) ? make(plugin, options) : ready(plugin, options)));
}

/**
 * Reads a pipeline that may name gemmac's passes, files and packages; passes of `own`, such as those a target brings,
 * may be named too. Throws UserError.
 */
export async function loadPipeline(text: string, own: readonly Pass[] = []): Promise<Pass[]> {
  const out: Pass[] = [];
  for (const item of text.split(/,(?![^{}]*\})/).map((part) => part.trim())) {
    const name = /^[^{]*/.exec(item)?.[0] ?? "";
    const known = groups.has(name) || passes.has(name);
    const given = known ? undefined : own.find((pass) => pass.name === item);
    if (given) out.push(given);
    else if (known || name === "" || !(await loadPlugin(name))) out.push(...parsePipeline(item));
    else out.push(...(await loadPasses(item)));
  }
  return out;
}

const loaded = new Map<string, Promise<object>>();

/** What a file or package exports as passes; undefined when there is no such package. Throws UserError. */
export async function loadPlugin(name: string): Promise<readonly (AnyPassMaker | Pass)[] | undefined> {
  const isFile = /^\.{0,2}[/\\]|\.[mc]?[jt]s$/.test(name) || isAbsolute(name);
  const place = isFile ? pathToFileURL(resolve(name)).href : resolvePackage(name, process.cwd());
  if (!place) return undefined;
  if (isFile)
    await access(resolve(name)).catch((cause) => {
      const next = "check the path; it starts from the current folder";
      throw new UserError("input", `${name}: there is no such file`, next, { cause });
    });
  const module = loaded.get(place) ?? importModule(place, resolve(name));
  loaded.set(place, module);
  return passesIn(await imported(name, module), name);
}

function importModule(url: string, path: string): Promise<object> {
  if (/\.[mc]?ts$/.test(url)) return importTypeScript(path);
  shareGemmac();
  return import(url);
}

async function imported(name: string, module: Promise<object>): Promise<object> {
  try {
    return await module;
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new UserError("input", `${name} fails when it is loaded: ${why}`, "mend it", { cause });
  }
}

const isObject = (x: unknown): x is Record<string, unknown> => typeof x === "object" && x !== null;
const isLaw = (x: unknown): boolean =>
  x === "exact" || x === "free" || (isObject(x) && typeof x.close === "number");

const isMaker = (x: unknown): x is AnyPassMaker =>
  typeof x === "function" &&
  "doc" in x &&
  "law" in x &&
  isLaw(x.law) &&
  "options" in x &&
  isObject(x.options);
const isPass = (x: unknown): x is Pass =>
  isObject(x) &&
  typeof x.run === "function" &&
  typeof x.name === "string" &&
  isLaw(x.law) &&
  isObject(x.options);

function passesIn(module: object, name: string): readonly (AnyPassMaker | Pass)[] {
  const exported: unknown = "default" in module ? module.default : undefined;
  const list: readonly unknown[] = Array.isArray(exported) ? exported : [exported];
  const next = "write `export default pass(…)` or `rewrite(…)`, or an array of such";
  if (exported === undefined) throw new UserError("input", `${name} has no default export`, next);
  const plugins = list.filter((one) => isMaker(one) || isPass(one));
  if (plugins.length < list.length || list.length === 0) {
    const wrong = list.find((one) => !isMaker(one) && !isPass(one));
    const what = list.length === 0 ? "an empty array" : wrong === null ? "null" : `a ${typeof wrong}`;
    throw new UserError("input", `${name}: its default export is ${what}, not a pass`, next);
  }
  for (const one of plugins) checkName(one.name, name);
  return plugins;
}

function checkName(pass: string, file: string): void {
  const taken = passes.has(pass) || groups.has(pass);
  if (!taken && /^[A-Za-z][\w.-]*$/.test(pass)) return;
  const what = taken
    ? `its pass is called ${pass}, as one of gemmac's is`
    : `${JSON.stringify(pass)} is no name for a pass`;
  throw new UserError("input", `${file}: ${what}`, "call it something like my-pass");
}

const make = (maker: AnyPassMaker, options: string | undefined): Pass => {
  const text = options === undefined ? maker.name : `${maker.name}{${options}}`;
  return parsePipeline(text, () => maker)[0] as Pass;
};

function ready(pass: Pass, options: string | undefined): Pass {
  if (!options?.trim()) return pass;
  throw new UserError(
    "usage",
    `${pass.name} is made already and takes no options`,
    "export the maker, pass(…), and not what calling it gives",
  );
}

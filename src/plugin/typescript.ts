import { mkdtempSync, rmSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { isBuiltin } from "node:module";
import { tmpdir } from "node:os";
import { basename, dirname, join, relative, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { Project, SourceFile } from "ts-morph";
import { UserError } from "../../ir/error.ts";
import { packageName, publicEntry, resolvePackage } from "./resolve.ts";

/** TypeScript that does not type-check. `details` shows each error at its line, as tsc does. */
export class TypeScriptError extends UserError {
  readonly details: string;
  constructor(message: string, details: string) {
    super("input", message, "mend what is shown below");
    this.name = "TypeScriptError";
    this.details = details;
  }
}

/**
 * Where each file went that was translated so far. What two passes share must run once, for an op can be defined
 * only once.
 */
const translated = new Map<string, string>();

/**
 * Type-checks a file and the files that it imports by path against the public API, then runs it. `gemmac` means
 * the running compiler in it. Throws TypeScriptError.
 */
export async function importTypeScript(path: string): Promise<object> {
  if (!translated.has(path)) await translate(path);
  return import(translated.get(path) as string);
}

let scratch: string | undefined;

/** A folder for what is translated. Imports may come late, so that it goes when the process does. */
function scratchFolder(): string {
  if (scratch !== undefined) return scratch;
  const made = mkdtempSync(join(tmpdir(), "gemmac-pass-"));
  process.once("exit", () => rmSync(made, { recursive: true, force: true }));
  return (scratch = made);
}

async function translate(path: string): Promise<void> {
  const { project, transpile } = await (compiler ??= startCompiler());
  const files = ownFiles(project.addSourceFileAtPath(path), new Set());
  check(project, [...files], path);
  const fresh = [...files].filter((file) => !translated.has(file.getFilePath()));
  for (const file of fresh) {
    const place = join(scratchFolder(), `${translated.size}-${basename(file.getFilePath())}.mjs`);
    translated.set(file.getFilePath(), pathToFileURL(place).href);
  }
  for (const file of fresh)
    await writeFile(new URL(translated.get(file.getFilePath()) as string), transpile(linked(file)));
}

interface Compiler {
  readonly project: Project;
  transpile(text: string): string;
}
let compiler: Promise<Compiler> | undefined;

/** One for all files: it reads the public API once. */
async function startCompiler(): Promise<Compiler> {
  const { Project, ts } = await loadTsMorph();
  // A pass runs in Node: with Node's types there is no need of the browser's, which take seconds to read.
  const inNode = ts.getAutomaticTypeDirectiveNames({}, ts.sys).includes("node");
  const language = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext };
  const project = new Project({
    compilerOptions: {
      ...language,
      ...(inNode && { lib: ["lib.es2022.d.ts"] }),
      // As NodeNext, but a file is a module whatever the nearest package.json says.
      moduleResolution: ts.ModuleResolutionKind.Bundler,
      moduleDetection: ts.ModuleDetectionKind.Force,
      strict: true,
      noEmit: true,
      isolatedModules: true,
      allowImportingTsExtensions: true,
      skipLibCheck: true,
      paths: { [packageName]: [fileURLToPath(publicEntry).replace(/\.js$/, ".d.ts")] },
    },
  });
  return {
    project,
    transpile: (text) => ts.transpileModule(text, { compilerOptions: language }).outputText,
  };
}

async function loadTsMorph(): Promise<typeof import("ts-morph")> {
  try {
    return await import("ts-morph");
  } catch (cause) {
    throw new UserError(
      "environment",
      "passes in TypeScript need the package ts-morph, which is not here or does not load",
      "npm install ts-morph, or translate the pass to JavaScript",
      { cause },
    );
  }
}

/** `file` and the TypeScript that it imports by path, itself or through others. */
function ownFiles(file: SourceFile, found: Set<SourceFile>): Set<SourceFile> {
  if (found.has(file)) return found;
  found.add(file);
  for (const literal of file.getImportStringLiterals()) {
    const target = targetOf(file, literal.getLiteralValue());
    if (target) ownFiles(target, found);
  }
  return found;
}

/** The TypeScript file that a relative specifier means. */
function targetOf(file: SourceFile, specifier: string): SourceFile | undefined {
  if (!/^\.{0,2}\//.test(specifier)) return undefined;
  const literal = file.getImportStringLiterals().find((l) => l.getLiteralValue() === specifier);
  const target = literal?.getSymbol()?.getDeclarations()[0]?.getSourceFile();
  return target && !target.isDeclarationFile() && /\.m?ts$/.test(target.getFilePath()) ? target : undefined;
}

function check(project: Project, files: readonly SourceFile[], path: string): void {
  const program = project.getProgram();
  const found = files.flatMap((file) => [
    ...program.getSyntacticDiagnostics(file),
    ...program.getSemanticDiagnostics(file),
  ]);
  if (found.length === 0) return;
  const shown = project.formatDiagnosticsWithColorAndContext(found, { newLineChar: "\n" });
  const errors = found.length === 1 ? "a type error" : `${found.length} type errors`;
  throw new TypeScriptError(
    `${relative(process.cwd(), path)} has ${errors}`,
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what colours are written with
    shown.replace(/\x1b\[[\d;]*m/g, ""),
  );
}

/** The file's text with every import by the URL of what it means, so that it can run from another folder. */
function linked(file: SourceFile): string {
  const path = file.getFilePath();
  const link = (specifier: string): string => {
    if (specifier === packageName) return publicEntry.href;
    if (isBuiltin(specifier)) return specifier;
    const target = targetOf(file, specifier);
    if (target) return translated.get(target.getFilePath()) as string;
    if (/^\.{0,2}\//.test(specifier)) return pathToFileURL(resolve(dirname(path), specifier)).href;
    // What only types are imported from need not be installed.
    return resolvePackage(specifier, dirname(path)) ?? specifier;
  };
  const edits = file
    .getImportStringLiterals()
    .map((literal) => ({ node: literal, text: JSON.stringify(link(literal.getLiteralValue())) }));
  const where = JSON.stringify({ url: pathToFileURL(path).href, filename: path, dirname: dirname(path) });
  const metas = file.getDescendants().filter((node) => node.getText() === "import.meta");
  return [...edits, ...metas.map((node) => ({ node, text: `(${where})` }))]
    .sort((a, b) => b.node.getStart() - a.node.getStart())
    .reduce(
      (text, { node, text: now }) => text.slice(0, node.getStart()) + now + text.slice(node.getEnd()),
      file.getFullText(),
    );
}

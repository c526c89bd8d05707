import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Project, SourceFile } from "ts-morph";
import { tsMorph } from "./ts-morph.ts";

/** The sources of what runs beside the kernels. They lie in the same place in a clone and in the package. */
const folder = new URL("../runtime/", import.meta.url);

/** A file of the runtime, as it stands. */
export const source = (path: string): string => readFileSync(fileURLToPath(new URL(path, folder)), "utf8");

export interface Bundle {
  /** JavaScript without imports and exports: in one module all names are at hand. */
  readonly script: string;
  readonly project: Project;
}

const made = new Map<string, Bundle>();

/** `entry`, a file of the runtime, with all that it imports, as one script. Throws when two files share a name. */
export function bundle(entry: string): Bundle {
  const known = made.get(entry) ?? bundled(entry);
  made.set(entry, known);
  return known;
}

function bundled(entry: string): Bundle {
  const { ModuleKind, Project, ScriptTarget } = tsMorph();
  const project = new Project({
    useInMemoryFileSystem: true,
    compilerOptions: { target: ScriptTarget.ES2022, module: ModuleKind.ESNext, verbatimModuleSyntax: true },
  });
  const order: SourceFile[] = [];
  const read = (path: string): void => {
    if (project.getSourceFile(`/${path}`)) return;
    const file = project.createSourceFile(`/${path}`, source(path));
    for (const to of importsOf(file)) read(to);
    order.push(file);
  };
  read(entry);
  const owners = new Map<string, string>();
  const parts = order.map((file) => {
    for (const name of localNames(file)) {
      const other = owners.get(name);
      if (other) throw new Error(`${file.getFilePath()} and ${other} both declare ${name}`);
      owners.set(name, file.getFilePath());
    }
    return stripped(file);
  });
  return { script: parts.filter(Boolean).join("\n"), project };
}

/** Paths of the runtime's files that `file` imports or hands on. */
function importsOf(file: SourceFile): string[] {
  const all = [...file.getImportDeclarations(), ...file.getExportDeclarations()];
  return all.map((d) => {
    const specifier = d.getModuleSpecifierValue() ?? "";
    if (!specifier.startsWith(".")) throw new Error(`${file.getFilePath()} imports the package ${specifier}`);
    return new URL(specifier, `file://${file.getFilePath()}`).pathname.slice(1);
  });
}

/** The names that a file declares at its top, but for types. */
const localNames = (file: SourceFile): string[] =>
  [...file.getVariableDeclarations(), ...file.getFunctions(), ...file.getClasses()].map(
    (d) => d.getName() ?? "",
  );

/** The file as JavaScript, without its imports and exports. */
function stripped(file: SourceFile): string {
  const { ts } = tsMorph();
  const { outputText } = ts.transpileModule(file.getFullText(), {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
  });
  return outputText
    .replace(/^import [^;]*;\n/gm, "")
    .replace(/^export \{[^}]*\}( from "[^"]*")?;\n/gm, "")
    .replace(/^export (?=(async |default )?(const|let|function|class) |async )/gm, "")
    .trim()
    .concat("\n")
    .replace(/^\n$/, "");
}

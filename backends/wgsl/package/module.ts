import type { Project } from "ts-morph";
import { bundle } from "./bundle.ts";
import { tsMorph } from "./ts-morph.ts";

/** What is particular to one artifact's module. */
export interface ModuleFacts {
  readonly name: string;
  readonly version: string;
  readonly facts: Readonly<Record<string, number>>;
  readonly bytes: number;
  readonly program: { readonly path: string; readonly bytes: number; readonly sha256: string };
}

/** `model.js`: the runtime as one module without imports, and what loads this artifact with it. */
export function moduleText(m: ModuleFacts): string {
  return `${head(m)}\n${bundle("load.ts").script}
/** What this artifact holds. */
export const model = Object.freeze(${JSON.stringify({ name: m.name, ...m.facts, bytes: m.bytes }, null, 2)});

const program = ${JSON.stringify(m.program, null, 2)};

/** Loads the model from the folder at \`url\`; from where this module lies, when left out. Throws GemmaError. */
export const load = (url = new URL(".", import.meta.url), options = {}) => loadModel(url, program, options);

export { GemmaError };
`;
}

/** `model.d.ts`, with the model's numbers as types. */
export function declarationText(m: ModuleFacts): string {
  const literals = Object.entries({ name: m.name, ...m.facts, bytes: m.bytes });
  const { IndentationText, Project, VariableDeclarationKind } = tsMorph();
  const project = new Project({
    useInMemoryFileSystem: true,
    manipulationSettings: { indentationText: IndentationText.TwoSpaces },
  });
  const file = project.createSourceFile(
    "model.d.ts",
    `${head(m)}\n${declarations(bundle("load.ts").project)}\n`,
  );
  file.addVariableStatement({
    declarationKind: VariableDeclarationKind.Const,
    isExported: true,
    hasDeclareKeyword: true,
    docs: ["What this artifact holds."],
    declarations: [
      {
        name: "model",
        type: `{\n${literals.map(([key, value]) => `  readonly ${key}: ${JSON.stringify(value)};`).join("\n")}\n}`,
      },
    ],
  });
  file.addFunction({
    isExported: true,
    hasDeclareKeyword: true,
    name: "load",
    docs: [
      "Loads the model from the folder at `url`; from where this module lies, when left out. Throws GemmaError.",
    ],
    parameters: [
      { name: "url", type: "string | URL", hasQuestionToken: true },
      { name: "options", type: "LoadOptions", hasQuestionToken: true },
    ],
    returnType: "Promise<Gemma>",
  });
  return file.getFullText();
}

const head = (m: ModuleFacts): string =>
  `// ${m.name}, compiled by gemmac ${m.version}. Runs on WebGPU; needs nothing else.\n`;

/** Declarations of what users of the module see. */
function declarations(project: Project): string {
  const { ts } = tsMorph();
  const shown = ["text/turns.ts", "api.ts", "error.ts"];
  const hidden = new Set(["Around", "Turns", "renderTurns"]);
  return shown
    .map((path) => {
      const source = project.getSourceFileOrThrow(`/${path}`);
      const { outputText } = ts.transpileDeclaration(source.getFullText(), {
        compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
      });
      const file = project.createSourceFile(`/declared/${path}`, outputText, { overwrite: true });
      for (const d of [...file.getImportDeclarations(), ...file.getExportDeclarations()]) d.remove();
      for (const d of [...file.getInterfaces(), ...file.getFunctions()])
        if (hidden.has(d.getName() ?? "")) d.remove();
      return file.getFullText().trim();
    })
    .join("\n\n");
}

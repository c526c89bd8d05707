import { existsSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { Project, type SourceFile, SyntaxKind } from "ts-morph";
import { describe, expect, test } from "vitest";

const root = join(import.meta.dirname, "..");
const project = new Project({
  tsConfigFilePath: join(root, "tsconfig.json"),
  skipAddingFilesFromTsConfig: true,
  skipFileDependencyResolution: true,
});
/** Each folder may import itself and what stands to its left. */
const order = ["ir", "passes", "backends", "src"];
const folders = [...order, "examples", "test"];
const files = project.addSourceFilesAtPaths(folders.map((folder) => join(root, folder, "**/*.ts")));

/** Where the type checker may be told to look away. Lengthen it only with a reason that a reviewer accepts. */
const allowed = {
  any: ["ir/graph.ts", "ir/op.ts", "ir/pattern.ts", "passes/pass.ts", "passes/rewrite.ts"],
  nonNull: [] as string[],
};

const path = (file: SourceFile) => relative(root, file.getFilePath());
const folderOf = (file: SourceFile) => path(file).split("/")[0] as string;
const shipped = files.filter((file) => folderOf(file) !== "test");
const holding = (kind: SyntaxKind) => files.filter((f) => f.getDescendantsOfKind(kind).length > 0).map(path);

interface Import {
  readonly from: string;
  readonly specifier: string;
  /** The project file that is meant, or undefined for a package. */
  readonly to: string | undefined;
}

/** Imports and re-exports, static and dynamic, types included. */
function importsOf(file: SourceFile): Import[] {
  const declarations = [...file.getImportDeclarations(), ...file.getExportDeclarations()];
  const calls = file
    .getDescendantsOfKind(SyntaxKind.CallExpression)
    .filter((call) => call.getExpression().isKind(SyntaxKind.ImportKeyword))
    .map((call) => call.getArguments()[0]?.asKind(SyntaxKind.StringLiteral)?.getLiteralValue());
  const specifiers = [...declarations.map((d) => d.getModuleSpecifierValue()), ...calls];
  return specifiers
    .filter((specifier) => specifier !== undefined)
    .map((specifier) => ({
      from: path(file),
      specifier,
      to: specifier.startsWith(".")
        ? relative(root, join(dirname(file.getFilePath()), specifier))
        : undefined,
    }));
}

const imports = files.flatMap(importsOf);
const spell = ({ from, specifier }: Import) => `${from} imports ${specifier}`;

test("the rules below look at something", () => {
  for (const folder of [...order, "test"])
    expect(files.filter((file) => folderOf(file) === folder)).not.toEqual([]);
  expect(imports.filter(({ to }) => to?.startsWith("ir/")).length).toBeGreaterThan(50);
});

describe("imports", () => {
  test.each(order)("%s imports only itself and what is below it", (here) => {
    const below = order.slice(0, order.indexOf(here) + 1);
    const wrong = imports.filter(
      ({ from, to }) => from.startsWith(`${here}/`) && to && !below.includes(to.split("/")[0] as string),
    );
    expect(wrong.map(spell)).toEqual([]);
  });

  test("examples import only the public entry point", () => {
    const wrong = imports.filter(
      ({ from, to, specifier }) =>
        from.startsWith("examples/") &&
        to !== "src/index.ts" &&
        specifier !== "gemmac" &&
        !specifier.startsWith("node:"),
    );
    expect(wrong.map(spell)).toEqual([]);
  });

  test("name .ts files, which exist", () => {
    const known = new Set(files.map(path));
    // Scripts that run as they are share plain JavaScript with the tests.
    const isScript = (to: string) => /^test\/.*\.mjs$/.test(to) && existsSync(join(root, to));
    const wrong = imports.filter(({ to }) => to !== undefined && !known.has(to) && !isScript(to));
    expect(wrong.map(spell)).toEqual([]);
  });

  test("come back to no file", () => {
    const state = new Map<string, "open" | "done">();
    const cycles: string[] = [];
    const visit = (file: string, trail: readonly string[]): void => {
      if (state.get(file) === "done") return;
      if (state.get(file) === "open") {
        cycles.push([...trail.slice(trail.indexOf(file)), file].join(" → "));
        return;
      }
      state.set(file, "open");
      for (const { from, to } of imports) if (from === file && to) visit(to, [...trail, file]);
      state.set(file, "done");
    };
    for (const file of files) visit(path(file), []);
    expect(cycles).toEqual([]);
  });
});

describe("size", () => {
  test("no file is longer than 400 lines", () => {
    const long = files.map((file) => `${path(file)}: ${file.getEndLineNumber() - 1}`);
    expect(long.filter((line) => Number(line.split(": ")[1]) > 400)).toEqual([]);
  });

  test("no folder holds more than nine files", () => {
    const counts = new Map<string, number>();
    for (const file of shipped) counts.set(dirname(path(file)), (counts.get(dirname(path(file))) ?? 0) + 1);
    expect([...counts].filter(([, n]) => n > 9)).toEqual([]);
  });
});

describe("style", () => {
  test("`any` stands only where the list says, and the list is short", () => {
    const used = holding(SyntaxKind.AnyKeyword).filter((file) => !file.startsWith("test/"));
    expect(used.sort()).toEqual(allowed.any);
    expect(allowed.any.length).toBeLessThanOrEqual(5);
  });

  test("nothing is said to be non-null with !", () => {
    expect(holding(SyntaxKind.NonNullExpression)).toEqual(allowed.nonNull);
  });

  test("the type checker is silenced only where a test expects its error", () => {
    const silenced = files.filter((file) => /@ts-(ignore|nocheck)/.test(file.getFullText()));
    const expecting = files.filter((file) => /\/\/ @ts-expect-error/.test(file.getFullText()));
    expect(silenced.map(path).filter((file) => file !== `test/${basename(import.meta.filename)}`)).toEqual(
      [],
    );
    expect(expecting.map(folderOf).filter((folder) => folder !== "test")).toEqual([]);
  });

  test("comments are sentences, not banners", () => {
    const banner = /^\s*(\/\/|\/\*+|\*)\s*([-=*#~_─═]{4,}|[-=─═]{2,}\s)/m;
    expect(files.filter((file) => banner.test(file.getFullText())).map(path)).toEqual([]);
  });
});

import { readFile } from "node:fs/promises";
import type { Command } from "commander";
import { UserError } from "../../../ir/error.ts";
import type { Value } from "../../../ir/graph.ts";
import { parse } from "../../../ir/text/index.ts";
import { verify } from "../../../ir/verify.ts";
import { type Manifest, readManifest } from "../../artifact/manifest.ts";
import { type Checkpoint, type Generation, openCheckpoint } from "../../checkpoint/checkpoint.ts";
import { modelGraph } from "../../model/load.ts";
import type { ConfigKey } from "../../model/reading/index.ts";
import { loadTokenizer } from "../../tokenizer/tokenizer.ts";
import { heading, number, plural, print, printJson, size, table } from "../terminal.ts";

/** Adds `gemmac inspect`. */
export function addInspect(program: Command): void {
  program
    .command("inspect")
    .summary("print what is in a checkpoint, artifact or IR file")
    .description("Check a checkpoint, an artifact or a file of textual IR, and print what is in it.")
    .argument("<path>", "folder of a checkpoint or an artifact, a .gguf or a .ir file")
    .option("--json", "print JSON")
    .addHelpText(
      "after",
      "\nExamples:\n  gemmac inspect gemma-2b\n  gemmac inspect gemma-2b-onnx --json\n  gemmac inspect graph.ir",
    )
    .action(async (path: string, { json }: { json?: boolean }) => {
      const show = <T>(found: T, display: (found: T) => void) => (json ? printJson(found) : display(found));
      if (path.endsWith(".ir")) return show(await inspectIr(path), printIr);
      const manifest = await readManifest(path);
      if (manifest) return show({ kind: "artifact", path, ...manifest } as const, printArtifact);
      return show(await inspectCheckpoint(path), printCheckpoint);
    });
}

type Row = readonly [string, ...string[]];

function section(title: string, rows: readonly Row[]): void {
  if (rows.length === 0) return;
  print(`\n${heading(title)}`);
  print(table(rows));
}

async function inspectCheckpoint(path: string) {
  const checkpoint = await openCheckpoint(path);
  try {
    const { config, keys, ignored, generation, weights, files } = checkpoint;
    const infos = [...weights.names()].flatMap((name) => weights.info(name) ?? []);
    const bytes: Record<string, number> = {};
    for (const { dtype, format, bytes: n } of infos)
      bytes[format ?? dtype] = (bytes[format ?? dtype] ?? 0) + n;
    return {
      kind: "checkpoint",
      path,
      files: files.map((file) => file.path),
      family: config.family,
      config: keys,
      ignored,
      warnings: modelGraph(checkpoint).warnings,
      tensors: infos.length,
      parameters: infos.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
      bytes,
      generation,
      ...(await inspectTokenizer(checkpoint, generation.eos)),
    } as const;
  } finally {
    await checkpoint.close();
  }
}

async function inspectTokenizer({ folder, dir }: Checkpoint, eos: readonly number[]) {
  if (!(await folder.names()).includes("tokenizer.json"))
    return { tokenizer: null, stop: eos.map((id) => ({ id, token: null })) };
  const tokenizer = await loadTokenizer(dir);
  return {
    tokenizer: { size: tokenizer.size, chatTemplate: tokenizer.hasChat, bos: tokenizer.bosId ?? null },
    stop: tokenizer.stopIds(eos).map((id) => ({ id, token: tokenizer.idToToken(id) ?? null })),
  };
}

/** A setting in one cell: of a list, how often each entry is in it. */
function shown(value: unknown): string {
  if (!Array.isArray(value))
    return typeof value === "object" && value ? JSON.stringify(value) : String(value);
  return [...new Set(value)].map((x) => `${value.filter((y) => y === x).length} ${x}`).join(", ");
}

const configRows = (keys: readonly ConfigKey[]): Row[] =>
  keys.map(({ key, value, source, note = "" }) => [key, shown(value), source, note]);

const samplingRows = ({ sample, temperature, topK, topP, maxNew }: Generation): Row[] => {
  const limits = { temperature, "top k": topK, "top p": topP, "max tokens": maxNew };
  const rows = Object.entries(limits).map(([key, value]): Row => [key, String(value)]);
  return [["sampling", sample ? "yes" : "no, greedy"], ...rows.filter(([, value]) => value !== "null")];
};

function printCheckpoint(c: Awaited<ReturnType<typeof inspectCheckpoint>>): void {
  const { tokenizer, stop, generation } = c;
  print(heading(`checkpoint  ${c.path}`));
  section("Model", [
    ["family", c.family],
    ["tensors", number(c.tensors)],
    ["parameters", number(c.parameters)],
    ...Object.entries(c.bytes).map(([dtype, n]): Row => [dtype, size(n)]),
    ["files", c.files.join(" ")],
  ]);
  section("Config", configRows(c.config));
  if (c.ignored.length > 0) section("Ignored keys of config.json", [[c.ignored.join(" ")]]);
  section("Text", [
    ["tokenizer", tokenizer ? plural(tokenizer.size, "token") : "none"],
    ["chat template", tokenizer?.chatTemplate ? "yes" : "none"],
    [
      "stop tokens",
      stop.map(({ id, token }) => (token === null ? `${id}` : `${token} (${id})`)).join(", ") || "none",
    ],
    ...samplingRows(generation),
  ]);
  section(
    "Warnings",
    c.warnings.map((warning) => [warning]),
  );
}

function printArtifact(m: Manifest & { readonly path: string }): void {
  print(heading(`artifact  ${m.path}`));
  section("Made", [
    ["target", m.target],
    ["profile", m.profile],
    ["by", `gemmac ${m.gemmac}`],
    ["passes", m.passes],
    ["from", m.source.files.map(({ path, bytes }) => `${path} (${size(bytes)})`).join(", ")],
    ...(m.source.revision === null ? [] : [["revision", m.source.revision] as const]),
    ["licence", [...m.licence.files, m.licence.notice].join(" ")],
  ]);
  section(
    "Model",
    Object.entries({ ...m.model, ...m.facts }).map(([key, value]) => [key, shown(value)]),
  );
  section("Config", configRows(m.config));
  section(
    "Files",
    m.files.map(({ path, bytes, sha256 }) => [path, size(bytes), `sha256 ${sha256.slice(0, 12)}…`]),
  );
}

async function inspectIr(path: string) {
  const text = await readFile(path, "utf8");
  try {
    const graph = parse(text);
    verify(graph);
    const ops: Record<string, number> = {};
    for (const { op } of graph.values()) if (op.name !== "param") ops[op.name] = (ops[op.name] ?? 0) + 1;
    const typed = (values: readonly Value[]) =>
      Object.fromEntries(values.map((v) => [String(v.attrs.name), String(v.type)]));
    return {
      kind: "ir",
      path,
      name: graph.name,
      inputs: typed(graph.inputs),
      weights: typed(graph.stored()),
      setup: Object.fromEntries(Object.entries(graph.setup).map(([name, v]) => [name, String(v.type)])),
      outputs: Object.fromEntries(Object.entries(graph.outputs).map(([name, v]) => [name, String(v.type)])),
      ops,
    } as const;
  } catch (cause) {
    // Whatever parsing and verifying throw is about the text.
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new UserError("input", `${path}: ${why}`, "correct the file at that place", { cause });
  }
}

function printIr(g: Awaited<ReturnType<typeof inspectIr>>): void {
  print(heading(`graph ${g.name}  ${g.path}`));
  section("Inputs", Object.entries(g.inputs));
  section("Outputs", Object.entries(g.outputs));
  section("Weights", Object.entries(g.weights));
  section("Made from weights once", Object.entries(g.setup));
  const counts = Object.entries(g.ops).sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1));
  section(
    "Ops",
    counts.map(([op, n]) => [op, number(n)]),
  );
}

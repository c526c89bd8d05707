import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { Graph } from "../ir/graph.ts";
import { exp, param } from "../ir/ops/index.ts";
import { parse, print } from "../ir/text/index.ts";
import { tensor } from "../ir/type.ts";
import { GraphError, verify } from "../ir/verify.ts";
import { decompose } from "../passes/decompose.ts";
import { passes } from "../passes/index.ts";
import { parsePipeline } from "../passes/pipeline.ts";
import { expectRoundTrip, expectSameOutputs } from "./support/random-graph.ts";

const golden = join(import.meta.dirname, "golden");
const texts = (folder: string) =>
  readdirSync(folder)
    .filter((file) => file.endsWith(".ir"))
    .map((file) => ({ file, text: readFileSync(join(folder, file), "utf8") }));
const header = (text: string, key: string) => new RegExp(`^// ${key}: (.*)$`, "m").exec(text)?.[1];

/**
 * Each file is a graph and, above it, what to do: `// passes: a, b` to run, `// law: …` for the law of exact
 * fusion, `// never: op` for what must not be found. What comes out is blessed with `npx vitest run -u`.
 */
describe("golden", () => {
  test.each(texts(golden))("$file", async ({ file, text }) => {
    const before = parse(text);
    verify(before);
    expectRoundTrip(before);

    const after = parsePipeline(header(text, "passes") ?? "").reduce((g, pass) => pass.run(g), before);
    verify(after);
    expectRoundTrip(after);
    if (header(text, "law")) expectSameOutputs(decompose().run(after), decompose().run(before));
    for (const op of header(text, "never")?.split(", ") ?? [])
      expect(after.values().map((v) => v.op.name)).not.toContain(op);
    await expect(print(after)).toMatchFileSnapshot(join(golden, `${file}.out`));
  });

  test.each([...passes.keys()])("%s has a golden test and a near miss", (name) => {
    const runs = new RegExp(`(^|[ ,])${name}($|[ ,{])`);
    const about = texts(golden).filter(({ text }) => runs.test(header(text, "passes") ?? ""));
    const missed = about.filter(({ text }) => header(text, "near miss"));
    expect(missed).not.toEqual([]);
    expect(missed.length).toBeLessThan(about.length);
  });
});

/** `// error: …` stands on the line to blame, or alone when the file as a whole is; `// verify: …` parses first. */
describe("errors", () => {
  test.each(texts(join(golden, "errors")))("$file", ({ text }) => {
    const rule = header(text, "verify");
    if (rule) return expect(() => verify(parse(text))).toThrow(rule);

    const lines = text.split("\n");
    const guilty = lines.findIndex((line) => line.includes("// error: "));
    const [code, message] = String(lines[guilty]).split("// error: ") as [string, string];
    const thrown = errorOf(() => parse(text));
    expect(thrown).toBeInstanceOf(SyntaxError);
    expect(thrown?.message).toContain(message);
    if (code === "") expect(thrown?.message).not.toMatch(/^line/);
    else {
      expect(thrown?.message).toMatch(new RegExp(`^line ${guilty + 1}: `));
      expect(thrown?.message.split("\n")[1]).toBe(`  ${code.trim()}`);
    }
  });

  const x = param({ name: "x", type: tensor("f32", 2, 3) });
  const short = param({ name: "x", type: tensor("f32", 4) });
  const made = param({ name: "w", type: tensor("f32", 9) });
  test.each<[string, ConstructorParameters<typeof Graph>[1]]>([
    ["graph g: it has no outputs; return at least one value", { inputs: [x], outputs: {} }],
    ["is a exp; inputs must be params", { inputs: [exp(x)], outputs: { y: exp(x) } }],
    ["input x is listed twice; list it once", { inputs: [x, x], outputs: { y: x } }],
    ["two params are called x: f32[2,3] and f32[4]; rename one", { inputs: [x], outputs: { y: short } }],
    [
      "setup makes w : f32[2,3], but the graph reads f32[9]",
      { inputs: [], outputs: { y: made }, setup: { w: exp(x) } },
    ],
    ["alias: there is no output z", { inputs: [x], outputs: { y: x }, aliases: { z: "x" } }],
  ])("%s", (message, parts) => {
    expect(() => verify(new Graph("g", parts))).toThrow(GraphError);
    expect(() => verify(new Graph("g", parts))).toThrow(message);
  });
});

function errorOf(run: () => void): Error | undefined {
  try {
    run();
  } catch (e) {
    return e as Error;
  }
  return undefined;
}

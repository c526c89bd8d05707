import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parse } from "../ir/text/index.ts";
import { passes } from "../passes/index.ts";
import { built, library, tiny, Workbench } from "./support/workbench.ts";

let bench: Workbench;
beforeAll(async () => void (bench = await Workbench.make()));
afterAll(() => bench.remove());

/** What the built library makes of each spec: the passes it loads, or why it does not. */
const loading = (specs: readonly string[], how: "loadPasses" | "loadPipeline" = "loadPasses") =>
  bench.inside(async () => {
    const made = new Map<string, string>();
    for (const spec of specs)
      made.set(
        spec,
        await built[how](spec).then(built.printPipeline, (e) => [e.trouble, e.message, e.next].join("|")),
      );
    return Object.fromEntries(made);
  });

const simple = (name: string, more = "") =>
  `import { pass } from "gemmac";\nexport default pass("${name}", { doc: "Nothing.", ${more} run: (g) => g });\n`;

describe("loading", () => {
  test("a type error is shown at its line, as tsc shows it", async () => {
    await bench.write({
      "bad.ts": `import { mul, pass, tanh } from "gemmac";\nimport { half } from "./half.ts";\n
export default pass("bad", {
  doc: "Two mistakes, one of them in another file.",
  run: (g) => g.with({ outputs: { logits: mul(tanh("logits"), half(2)) } }),
});\n`,
      "half.ts": "export const half = (x: number): string => x / 2;\n",
    });
    const { code, out, err } = await bench.compile("never", "--pass", "./bad.ts", "--json");
    expect(code).toBe(3);
    const lines = err.split("\n");
    expect(lines[0]).toMatch(/^gemmac: bad\.ts has \d type errors; mend what is shown below$/);
    expect(err).toMatch(/^bad\.ts:6:52 - error TS\d+: /m);
    expect(err).toContain('6   run: (g) => g.with({ outputs: { logits: mul(tanh("logits"), half(2)) } }),');
    expect(err).toMatch(
      /^half\.ts:1:44 - error TS2322: Type 'number' is not assignable to type 'string'\.$/m,
    );
    const shown = { kind: "input", details: expect.stringContaining("error TS2322") };
    expect(JSON.parse(out)).toMatchObject({ error: shown });
    expect(await readdir(bench.dir)).not.toContain("never");
  });

  test("TypeScript, JavaScript, packages, options, arrays", async () => {
    await bench.write({
      "lib/deep.ts": "export const deep: number = 3;\n",
      "options.ts": `import { int, pass, type Graph } from "gemmac";\nimport { deep } from "./lib/deep.ts";\n
export default pass("options", { doc: ".", options: { n: int(deep), m: int() }, run: (g: Graph) => g });\n`,
      "place.ts": `import { pass } from "gemmac";
export default pass(new URL(import.meta.url).pathname.split("/").at(-1) ?? "", { doc: ".", run: (g) => g })();\n`,
      "plain.mjs": simple("plain"),
      "several.ts": `import { pass } from "gemmac";\nimport plain from "./plain.mjs";
const two = pass("two", { doc: ".", law: { close: 1e-3 }, run: (g) => g });
export default [plain, two()];\n`,
      "plain.d.mts": `import type { Pass } from "gemmac";\ndeclare const made: (options?: {}) => Pass;\nexport default made;\n`,
      "node_modules/@me/nothing/package.json": `{ "type": "module", "exports": { ".": { "import": "./main.js" } } }`,
      "node_modules/@me/nothing/main.js": `import { int, pass } from "gemmac";
export default pass("nothing", { doc: ".", options: { n: int(1) }, run: (g) => g });\n`,
      "node_modules/old-style/package.json": `{ "type": "module", "main": "./index.js" }`,
      "node_modules/old-style/index.js": simple("old-style-pass"),
    });
    const specs = ["./options.ts{m=5}", "./options.ts{m=5, n=7}", "place.ts", "./plain.mjs", "./several.ts"];
    expect(await loading([...specs, "@me/nothing{n=4}", "old-style"])).toEqual({
      "./options.ts{m=5}": "options{n=3,m=5}",
      "./options.ts{m=5, n=7}": "options{n=7,m=5}",
      "place.ts": "place.ts",
      "./plain.mjs": "plain",
      "./several.ts": "plain,two",
      "@me/nothing{n=4}": "nothing{n=4}",
      "old-style": "old-style-pass",
    });
    const text = "fuse-linear,./options.ts{m=2,n=1},@me/nothing,insert-kv-cache{capacity=8}";
    expect(await loading([text, "fuse,frob", "frob{x=1}"], "loadPipeline")).toEqual({
      [text]: "fuse-linear,options{n=1,m=2},nothing{n=1},insert-kv-cache{capacity=8}",
      "fuse,frob": expect.stringMatching(
        /^usage\|there is no pass frob\|choose from fuse, .*\.\/my-pass\.ts$/,
      ),
      "frob{x=1}": expect.stringMatching(/^usage\|there is no pass frob\|/),
    });
  });

  test("the compiler and the pass are one: ops, values and their identity", async () => {
    await bench.write({
      "same.ts": `import { Graph, pass, registry, composite, mul } from "gemmac";
export const twice = composite("twice", { doc: ".", inputs: ["x"], example: [["f32[2]"]], decompose: ({ x }) => mul(x, 2) });
export default pass("same", { doc: ".", run: (g) => {
  if (!(g instanceof Graph) || registry.get("twice") !== twice) throw new Error("another copy");
  return g;
} });\n`,
      "again.ts": `import { pass } from "gemmac";\nimport { twice } from "./same.ts";
export default pass("again", { doc: twice.doc, run: (g) => g });\n`,
      "same.mjs": `import { Graph, pass } from "gemmac";
export default pass("same-js", { doc: ".", run: (g) => { if (!(g instanceof Graph)) throw new Error("another copy"); return g; } });\n`,
    });
    const script = `import { gemma, loadPasses, preset, runPasses } from ${library};
      for (const spec of ["./same.ts", "./again.ts", "./same.ts", "./same.mjs"])
        console.log(runPasses(gemma(preset("gemma-2b")), await loadPasses(spec)).records[0].name);`;
    // A copy of gemmac in the pass's own node_modules does not get in between.
    const copy = bench.path("node_modules/gemmac");
    await mkdir(copy, { recursive: true });
    await writeFile(join(copy, "package.json"), `{ "type": "module", "exports": "./index.js" }`);
    await writeFile(join(copy, "index.js"), "throw new Error('another copy');\n");
    const { out, err } = await bench.script(script);
    await rm(copy, { recursive: true });
    expect([out, err]).toEqual(["same\nagain\nsame\nsame-js\n", ""]);
  });

  test("what is wrong is said in one line", async () => {
    await bench.write({
      "none.ts": "export const x = 1;\n",
      "number.ts": "export default 1;\n",
      "function.ts": "export default () => 1;\n",
      "empty.ts": "export default [];\n",
      "half.mjs": simple("half-pass")
        .replace("export default", "export default [null, ")
        .replace(/;\n$/, "];\n"),
      "taken.ts": simple("fuse-linear"),
      "unnamed.ts": simple("two words"),
      "made.ts": simple("made").replace(/;\n$/, "();\n"),
      "fails.ts": `throw new Error("no luck");\n${simple("fails")}`,
      "twice.ts": `import { composite, mul } from "gemmac";
composite("gelu", { doc: ".", inputs: ["x"], example: [["f32[2]"]], decompose: ({ x }) => mul(x, 2) });\n${simple("twice")}`,
    });
    const noPass = (what: string) =>
      expect.stringMatching(`^input\\|.*${what}, not a pass\\|write .export default pass`);
    expect(
      await loading([
        "./none.ts",
        "./number.ts",
        "./function.ts",
        "./empty.ts",
        "./half.mjs",
        "./taken.ts",
        "./unnamed.ts",
        "./made.ts{x=1}",
        "./several.ts{x=1}",
        "./options.ts",
        "./options.ts{frob=1}",
        "./options.ts{m=a}",
        "./fails.ts",
        "./twice.ts",
        "./nowhere.ts",
        "nowhere",
      ]),
    ).toEqual({
      "./none.ts": expect.stringMatching(/^input\|\.\/none\.ts has no default export\|write/),
      "./number.ts": noPass("its default export is a number"),
      "./function.ts": noPass("its default export is a function"),
      "./empty.ts": noPass("its default export is an empty array"),
      "./half.mjs": noPass("its default export is null"),
      "./taken.ts": expect.stringMatching(/^input\|.*called fuse-linear, as one of gemmac's is\|call it/),
      "./unnamed.ts": expect.stringMatching(/^input\|.*"two words" is no name for a pass\|/),
      "./made.ts{x=1}": expect.stringMatching(
        /^usage\|made is made already and takes no options\|export the maker/,
      ),
      "./several.ts{x=1}": expect.stringMatching(/^usage\|\.\/several\.ts holds 2 passes \(plain, two\)/),
      "./options.ts": expect.stringMatching(/^usage\|options: m is required\|/),
      "./options.ts{frob=1}": "usage|options has no option frob=1|it takes n (int), m (int)",
      "./options.ts{m=a}": "usage|options: m is a|give int",
      "./fails.ts": expect.stringMatching(/^input\|\.\/fails\.ts fails when it is loaded: no luck\|mend it$/),
      "./twice.ts": expect.stringMatching(/^input\|.*an op called gelu exists already/),
      "./nowhere.ts": expect.stringMatching(/^input\|\.\/nowhere\.ts: there is no such file\|check the path/),
      nowhere: expect.stringMatching(/^input\|there is no package nowhere here\|npm install it/),
    });
  });
});

describe("laws", () => {
  const scaling = (name: string, law: string, factor: string) => `import { map, mul, pass } from "gemmac";
export default pass("${name}", {
  doc: "Scales the output projection of layer 1.",
  law: ${law},
  run: (g) => map(g, (v, before) => (g.origins.get(before)?.endsWith("1/self_attn/o_proj") ? mul(v, ${factor}) : v)),
});\n`;

  test("a pass that breaks its law is blamed, with the place and the numbers", async () => {
    await bench.write({
      "liar.ts": scaling("liar", '"exact"', "1.01"),
    });
    const exact = await bench.compile("liar", "--pass", "./liar.ts");
    expect([exact.code, exact.out]).toEqual([4, ""]);
    expect(exact.err).toMatch(
      /^gemmac: pass liar broke its law \(exact\): output logits moves by 0\.\d+; first at model\/layers\.1\/self_attn\/o_proj \(mul\): 0\.\d+ where 0 is allowed; mend the pass, or declare law: "free" if it is meant to change results$/m,
    );
    expect(await readdir(bench.dir)).not.toContain("liar");
  });

  test("within its law, or free of any, it passes; dropped outputs and small models count", async () => {
    await bench.write({
      "free.ts": scaling("free", '"free"', "1.01"),
      "sloppy.ts": scaling("sloppy", "{ close: 1e-4 }", "1.1"),
      "near.ts": scaling("near", "{ close: 1e-3 }", "1.00001"),
      "drops.ts": `import { pass, add } from "gemmac";
export default pass("drops", { doc: ".", run: (g) => g.with({ outputs: { scores: add(Object.values(g.outputs)[0] ?? 0, 1) } }) });\n`,
      "large.ts": `import { pass } from "gemmac";
export default pass("large", { doc: ".", law: "free", run: (g) => {
  if (g.outputs.logits?.fixed(-1) !== 512) throw new Error("not the model I know");
  return g;
} });\n`,
    });
    const done: string[] = [];
    for (const name of ["free", "near", "sloppy", "drops", "large"])
      await bench.inside(async () => {
        const insert = await built.loadPasses(`./${name}.ts`);
        await built.compile(tiny, { targets: ["onnx"], out: name, insert }).then(
          () => done.push("ok"),
          (e) => done.push(`${e.trouble} ${e.message}`),
        );
      });
    expect(done).toEqual([
      "ok",
      "ok",
      expect.stringMatching(
        /^verify pass sloppy broke its law \(close: 0\.0001\): output logits moves by [\d.]+; first at model\/layers\.1\/self_attn\/o_proj \(mul\): [\d.]+ where [\d.e-]+ is allowed$/,
      ),
      "verify pass drops broke its law (exact): the output logits is gone",
      "verify pass large fails on a small model of the same kind: not the model I know",
    ]);
  });

  test("a pass that throws is named, and the graph before it saved", async () => {
    await bench.write({
      "throws.ts": simple("throws").replace("(g) => g", '() => { throw new Error("no\\nluck"); }'),
    });
    const { code, out, err } = await bench.compile("thrown", "--pass", "./throws.ts");
    expect([code, out]).toEqual([3, ""]);
    expect(err).toBe("gemmac: pass throws: no: luck; the graph before it is in thrown.failed-throws.ir\n");
    const saved = parse(await readFile(bench.path("thrown.failed-throws.ir"), "utf8"));
    expect(saved.values().map((v) => v.op.name)).toContain("rms_norm");
    const misused = await bench.compile("misused", "--passes", "fuse,insert-kv-cache{capacity=-1}");
    expect(misused.code).toBe(3);
    expect(misused.err).toMatch(
      /^gemmac: pass insert-kv-cache: capacity is -1; .*misused\.failed-insert-kv-cache\.ir\n$/,
    );
  });
});

describe("the command line", () => {
  test("lists passes, tells of one, and prints a target's pipeline", async () => {
    const { code, out, err } = await bench.gemmac("passes");
    expect([code, err]).toEqual([0, ""]);
    for (const name of passes.keys()) expect(out).toMatch(new RegExp(`^  ${name} `, "m"));
    expect(out.split("\n").every((line) => line.length <= 80)).toBe(true);
    const one = JSON.parse((await bench.gemmac("passes", "insert-kv-cache", "--json")).out);
    expect(one).toMatchObject([{ law: "exact", options: [{ name: "capacity", kind: "int", default: "0" }] }]);
    await bench.write({ "mine.mjs": simple("mine", 'law: "free",') });
    expect((await bench.gemmac("passes", "./mine.mjs")).out).toBe("mine  law: free\nNothing.\n");
    const unknown = await bench.gemmac("passes", "frob");
    expect(unknown).toMatchObject({
      code: 2,
      err: expect.stringMatching(/^gemmac: no pass is called "frob"; .*\n$/),
    });

    const text = (await bench.gemmac("passes", "--target", "onnx")).out.trim();
    expect(text).toMatch(
      /^share-tables,carry-blocks,fuse-linear,.*insert-kv-cache.*fold-weights\{work=blockwise,casts=leave\}$/,
    );
    const whole = await bench.compile("whole", "--no-verify", "--passes", text, "--json");
    expect(whole.code).toBe(0);
    const records: { name: string; seconds: number; nodes: number }[] = JSON.parse(whole.out).targets[0]
      .passes;
    expect(records.map((r) => r.name).join()).toBe(text.replace(/\{[^}]*\}/g, ""));
    for (const r of records) expect([r.nodes > 50, r.seconds >= 0]).toEqual([true, true]);
    expect(JSON.parse(await readFile(bench.path("whole/manifest.json"), "utf8")).passes).toBe(text);
  });

  test("prints graphs after passes", async () => {
    const args = ["--pass", "./mine.mjs", "--verbose", "--no-verify", "--profile", "standard"];
    const all = await bench.compile("printed", ...args, "--print-after", "all", "--print-to", "graphs");
    expect(all.code).toBe(0);
    expect(all.out).toMatch(/^ {2}mine +[\d.]+ ms +\d+ nodes$/m);
    const files = (await readdir(bench.path("graphs"))).sort();
    expect(files.slice(0, 2)).toEqual(["00-share-tables.ir", "01-carry-blocks.ir"]);
    expect(files.find((file) => file.endsWith("-mine.ir"))).toBe("07-mine.ir");
    for (const file of files) parse(await readFile(bench.path("graphs", file), "utf8"));

    const few = await bench.compile("few", ...args, "--print-after", "mine,frob");
    const at = few.err.indexOf("// after mine\n");
    expect(at).toBeGreaterThanOrEqual(0);
    expect(few.err.slice(0, at)).not.toContain("// after");
    parse(few.err.slice(at, few.err.indexOf("\n}\n", at) + 3));
    expect(few.err).toContain("gemmac: warning: --print-after names frob, which did not run\n");
  });
});

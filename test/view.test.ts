import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { dim } from "../ir/dim.ts";
import { Graph } from "../ir/graph.ts";
import { add, mul, param } from "../ir/ops/index.ts";
import { parse, print } from "../ir/text/index.ts";
import { tensor } from "../ir/type.ts";
import { parsePipeline, runPasses } from "../passes/pipeline.ts";
import { gemma } from "../src/model/gemma.ts";
import { preset } from "../src/model/presets.ts";
import { Aligner, structures } from "../src/view/align.ts";
import { bytesOf, type Step, stepsOf, type ViewData, viewData } from "../src/view/data.ts";
import { diffGraphs, ranges } from "../src/view/diff.ts";
import { model } from "../src/view/model.ts";
import { embedded, escapeHtml, pageOf } from "../src/view/page.ts";
import { Browser, browser } from "./support/browser.ts";
import { gemmac as run, tiny } from "./support/workbench.ts";

let tmp: string;
beforeAll(async () => void (tmp = await mkdtemp(join(tmpdir(), "gemmac-view-"))));
// A browser's processes may write to its profile for a moment after it has closed.
afterAll(() => rm(tmp, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }));

const gemmac = (...args: string[]) => run(tmp, args);
const pipeline =
  "share-tables,fuse-linear,fuse-rms-norm,fuse-geglu,insert-kv-cache,fold-weights{work=blockwise,casts=leave}";
const stageNames = ["model", ...parsePipeline(pipeline).map((p) => p.name)];
const steps = (name: string) => stepsOf(gemma(preset(name)), "The graph.", parsePipeline(pipeline));
const untimed = (all: readonly Step[]) => all.map(({ seconds: _, ...step }) => step);
const stageCalled = (name: string) => stageNames.indexOf(name);

/** What a stage changed, as `mark op` with counts. */
function changed(data: ViewData, stage: number): Record<string, number> {
  const out: Record<string, number> = {};
  for (const { i, stage: s, mark } of model(data).itemsOf({ stage, show: "changes", q: "", at: -1 })) {
    const key = `${mark} ${s.op(i)[0]}`;
    out[key] = (out[key] ?? 0) + 1;
  }
  return out;
}

describe("the data of the page", () => {
  const all = steps("gemma-2b");
  const data = viewData("gemma-2b", all);

  test("every value of every stage is there, with its op, type and operands", () => {
    expect(data.stages.map((s) => s.name)).toEqual(stageNames);
    const { shown } = model(data);
    all.forEach(({ graph }, n) => {
      const s = shown(n);
      const body = graph.values();
      const listed = s.rows.map((_, i) => i).filter((i) => !s.once(i));
      expect(listed.map((i) => `${s.op(i)[0]} ${s.type(i)[0]}`).sort()).toEqual(
        body.map((v) => `${v.op.name} ${v.type}`).sort(),
      );
      for (const i of listed)
        for (const [k, operand] of s.row(i)[4].entries()) {
          expect(s.at.get(operand), `operand ${k}`).toBeLessThan(i);
        }
      const origins = listed.map((i) => s.origin(i)).filter(Boolean);
      expect(origins.sort()).toEqual(body.flatMap((v) => graph.origins.get(v) ?? []).sort());
    });
  });

  test("a pass changes what it says, and nothing that only comes after it", () => {
    const norms = changed(data, stageCalled("fuse-rms-norm"));
    expect(norms).toEqual({
      "del mul": 111,
      "del mean": 37,
      "del add": 37,
      "del rsqrt": 37,
      "add rms_norm": 37,
    });
    const caches = changed(data, stageCalled("insert-kv-cache"));
    expect(caches).toEqual({ "add param": 37, "add concat": 37, "add attention": 18, "del attention": 18 });
    const folded = changed(data, stageCalled("fold-weights"));
    expect(folded["add param"]).toBe(38);
    expect(folded["setup add"]).toBe(37);
    expect(
      Object.keys(folded).filter((k) => k.startsWith("del") && !/rms_norm|gather|linear/.test(k)),
    ).toEqual([]);
  });

  test("rows are shared: a stage stores only what changed", () => {
    const listed = data.stages.reduce((sum, s) => sum + s.rows.length, 0);
    expect(data.rows.length).toBeLessThan(listed / 4);
  });

  test("bytes are those of the weights; symbolic sizes stay", () => {
    const { itemsOf, treeOf, totalsOf, formula } = model(data);
    const totals = totalsOf(treeOf(itemsOf({ stage: 0, show: "after", q: "", at: -1 })));
    // 2,506,172,416 parameters in bf16.
    expect([...totals.weights]).toEqual([["", 2 * 2_506_172_416]]);
    expect(totals.ops).toBe(all[0]?.graph.values().filter((v) => !/param|constant/.test(v.op.name)).length);
    const [B, T, P] = [dim("B"), dim("T"), dim("P")];
    expect(bytesOf(tensor("bf16", B, T, 2048))).toEqual({ "B*T": 4096 });
    expect(bytesOf(tensor("i4", 3, 4))).toEqual({ "": 6 });
    expect(formula(Object.entries(bytesOf(tensor("f32", B, T, 2048))))).toBe("8.19 kB × B·T");
    const joined = add(param({ name: "x", type: tensor("f32", P) }), 1).type;
    expect(formula(Object.entries(bytesOf(joined)))).toBe("4 bytes × P");
  });

  test("layers of the same structure are said to be", () => {
    for (const { same } of data.stages) {
      expect(same).toHaveLength(17);
      expect(new Set(same.map(([, first]) => data.scopes[first]))).toEqual(new Set(["model/layers.0"]));
    }
    const odd = all[0]?.graph as Graph;
    const last = [...odd.origins].find(([, o]) => o === "model/layers.17")?.[0];
    const other = new Graph("odd", {
      inputs: odd.inputs,
      outputs: { y: mul(last ?? 0, 2) },
      origins: new Map([...odd.origins].map(([v, o]) => [v, o.replace("layers.3/mlp", "layers.3/moe")])),
    });
    const found = [...structures(new Aligner().add(other))];
    expect(found.filter(([, text]) => text !== found[0]?.[1]).map(([path]) => path)).toEqual([
      "model/layers.3",
    ]);
  });

  test("the same graphs give the same bytes, however they were made", () => {
    const once = pageOf(viewData("x", untimed(all)));
    expect(pageOf(viewData("x", untimed(steps("gemma-2b"))))).toBe(once);
    const reread = untimed(all).map((step) => ({ ...step, graph: parse(print(step.graph)) }));
    expect(viewData("x", reread)).toEqual(viewData("x", untimed(all)));
    expect(Buffer.byteLength(once)).toBeLessThan(2_000_000);
  });

  test("search finds ops, origins, types and attributes", () => {
    const { itemsOf } = model(data);
    const found = (q: string) =>
      itemsOf({ stage: stageCalled("fold-weights"), show: "after", q, at: -1 }).length;
    expect(found("rms_norm")).toBe(37);
    expect(found("layers.17 linear q_proj")).toBe(1);
    expect(found("SCALE=0.0625")).toBe(18);
    expect(found("f32[B,T,256000]")).toBe(1);
    expect(found("no such thing")).toBe(0);
  });
});

describe("diff", () => {
  test("prints what a pass changed, once for layers that change alike", async () => {
    const { code, out, err } = await gemmac("diff", tiny, "--pass", "fuse-rms-norm");
    expect([code, err]).toEqual([0, ""]);
    expect(out).toMatchInlineSnapshot(`
      "fuse-rms-norm
        x · rsqrt(mean(x²) + eps) · scale → rms_norm(x, scale).
        after share-tables, carry-blocks, fuse-linear

      model/layers.0  the same in layers 1..2

      @ model/layers.0/input_layernorm
      - %1 = mul embed_tokens, embed_tokens : f32[B,T,64]
      - %2 = mean %1 : f32[B,T,1]
      - %3 = add %2, 0.000001 : f32[B,T,1]
      - %4 = rsqrt %3 : f32[B,T,1]
      - %5 = mul embed_tokens, %4 : f32[B,T,64]
        param %weight : f32[64]
        %6 = add %weight, 1 : f32[64]
      - input_layernorm = mul %5, %6 : f32[B,T,64]
      + input_layernorm = rms_norm embed_tokens, %6 : f32[B,T,64]

      @ model/layers.0/post_attention_layernorm
      - %7 = mul self_attn, self_attn : f32[B,T,64]
      - %8 = mean %7 : f32[B,T,1]
      - %9 = add %8, 0.000001 : f32[B,T,1]
      - %10 = rsqrt %9 : f32[B,T,1]
      - %11 = mul self_attn, %10 : f32[B,T,64]
        param %weight : f32[64]
        %12 = add %weight, 1 : f32[64]
      - post_attention_layernorm = mul %11, %12 : f32[B,T,64]
      + post_attention_layernorm = rms_norm self_attn, %12 : f32[B,T,64]

      @ model/norm
      - $1 = mul layers.2, layers.2 : f32[B,T,64]
      - $2 = mean $1 : f32[B,T,1]
      - $3 = add $2, 0.000001 : f32[B,T,1]
      - $4 = rsqrt $3 : f32[B,T,1]
      - $5 = mul layers.2, $4 : f32[B,T,64]
        param %weight : f32[64]
        $6 = add %weight, 1 : f32[64]
      - norm = mul $5, $6 : f32[B,T,64]
      + norm = rms_norm layers.2, $6 : f32[B,T,64]

      Summary
        all nodes  152 -> 116
        mul        25 -> 4
        add        20 -> 13
        mean       7 -> 0
        rsqrt      7 -> 0
        rms_norm   0 -> 7
      "
    `);
  });

  test("--layer and --json", async () => {
    const { code, out } = await gemmac("diff", "gemma-2b", "--pass", "fuse-geglu", "--layer", "5", "--json");
    expect(code).toBe(0);
    const found = JSON.parse(out);
    expect(found.ops).toEqual([
      { op: "gelu", before: 18, after: 0 },
      { op: "mul", before: 19, after: 1 },
      { op: "geglu", before: 0, after: 18 },
    ]);
    expect(found.sections).toHaveLength(1);
    expect(found.sections[0].layer).toBe("model/layers.5");
  });

  test("a value is no change because its operands changed", () => {
    const g = gemma({ ...preset("gemma-2b"), layers: 2 });
    const { graph } = runPasses(g, parsePipeline("share-tables,fuse-linear"));
    expect(diffGraphs(graph, graph).sections).toEqual([]);
    const { sections } = diffGraphs(g, graph, { context: 0 });
    const lines = sections.flatMap((s) => s.blocks.flatMap((b) => b.lines));
    expect(new Set(lines.map((l) => l.op))).toEqual(
      new Set(["gather", "cast", "mul", "transpose", "matmul", "linear"]),
    );
    expect(sections.find((s) => s.layer === "model/layers.0")?.alsoIn).toEqual([1]);
  });

  test("ranges", () => {
    expect([ranges([1, 2, 3]), ranges([1, 3, 4, 9])]).toEqual(["1..3", "1, 3..4, 9"]);
  });

  test("wrong usage is said", async () => {
    for (const [args, message] of [
      [["diff", "gemma-2b", "--pass", "frob"], "there is no pass frob"],
      [["diff", "gemma-2b", "--pass", "fuse-geglu", "--layer", "99"], "no layer 99"],
      [["diff", "nowhere", "--pass", "fuse-geglu"], "nowhere"],
      [["view", "gemma-2b", "-o", tmp], "is a folder"],
      [["view", "gemma-2b", "-o", "x.html", "--target", "onnx", "--passes", "fuse"], "both name passes"],
    ] as const) {
      const { code, err } = await gemmac(...args);
      expect([2, 3]).toContain(code);
      expect(err).toContain(message);
    }
  });
});

describe("text from graphs is data", () => {
  const evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>&\u2028";
  const x = param({ name: "x", type: tensor("f32", 2) });
  const y = add(x, 1);
  const hostile = new Graph("g", { inputs: [x], outputs: { y }, origins: new Map([[y, evil]]) });

  test("escaping", () => {
    expect(escapeHtml(`<a href="x">'&`)).toBe("&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
    expect(embedded({ evil })).not.toMatch(/[<>&\u2028]/);
    expect(JSON.parse(embedded({ evil }))).toEqual({ evil });
  });

  test("a hostile title and origin stay inside of their elements", () => {
    const page = pageOf(viewData(evil, [{ name: "model", doc: evil, graph: hostile }]));
    expect(page).not.toContain("<script>alert");
    expect(page).not.toContain("<img");
    expect(page.match(/<script\b/g)).toHaveLength(2);
    expect(page).toMatch(/default-src 'none'; script-src 'sha256-[\w+/=]+'; style-src 'sha256-[\w+/=]+';/);
    expect(page).not.toMatch(/\b(src|href)="?https?:/);
  });
});

if (!browser)
  console.warn("view.test: no Chromium found, so no browser looks at the page; set CHROME to its path");

describe.skipIf(!browser)("in a browser", () => {
  let page: Browser;
  let url: string;
  beforeAll(async () => {
    const out = join(tmp, "gemma-2b.html");
    const { code, err } = await gemmac("view", "gemma-2b", "--passes", pipeline, "-o", out);
    expect([code, err]).toEqual([0, ""]);
    url = String(pathToFileURL(out));
    page = await Browser.open(String(browser), join(tmp, "profile"));
  });
  afterAll(() => page?.close());
  const rows = () => page.evaluate("document.querySelectorAll('#outline .row').length");
  const title = () => page.evaluate("document.querySelector('h1').textContent");

  test("shows the graph, without a complaint", async () => {
    await page.go(`${url}#stage=0`);
    expect(await title()).toBe("model");
    expect(await rows()).toBeGreaterThan(50);
    const folded = "[...document.querySelectorAll('.twin')].filter(e => !e.closest('details').open).length";
    expect(await page.evaluate(folded)).toBe(17);
    expect(await page.evaluate("document.getElementById('head').textContent")).toContain(
      "5.01 GB of weights",
    );
    expect(page.complaints).toEqual([]);
  });

  test("the address keeps stage, view and search", async () => {
    await page.evaluate("void (location.hash = '#stage=3&show=changes')");
    await expect.poll(title).toBe("fuse-rms-norm");
    expect(await page.evaluate("document.querySelectorAll('.row.del').length")).toBe(6 * 3);
    expect(await page.evaluate("document.querySelectorAll('.row.add').length")).toBe(3);
    await page.evaluate("void (location.hash = '#stage=3&q=rms_norm')");
    await expect.poll(rows).toBe(37);
    expect(await page.evaluate("document.getElementById('found').textContent")).toBe("37 matches");
    expect(await page.evaluate("document.getElementById('search').value")).toBe("rms_norm");
  });

  test("keys search and step through the passes", async () => {
    await page.evaluate("void (location.hash = '#stage=1')");
    await expect.poll(title).toBe("share-tables");
    await page.key("ArrowRight");
    await expect.poll(title).toBe("fuse-linear");
    await page.key("/");
    for (const letter of "gelu") await page.key(letter);
    await expect.poll(rows).toBe(18);
    expect(await page.evaluate("location.hash")).toBe("#stage=2&q=gelu");
    await page.key("Escape");
    await expect.poll(rows).toBeGreaterThan(50);
  });

  test("an operand leads to its value, also in a folded layer", async () => {
    await page.evaluate(`void (location.hash = '#stage=${stageCalled("fold-weights")}')`);
    await expect.poll(() => page.evaluate("location.hash")).toBe(`#stage=${stageCalled("fold-weights")}`);
    await page.evaluate(
      "[...document.querySelectorAll('a.ref')].find(a => a.textContent === 'layers.17').click()",
    );
    const seen = "document.querySelector('.flash .name')?.textContent";
    await expect.poll(() => page.evaluate(seen)).toBe("layers.17");
  });

  test("pictures for light, dark and phone", async () => {
    await page.evaluate("void (location.hash = '#stage=3')");
    await expect.poll(title).toBe("fuse-rms-norm");
    for (const [name, width, height, scheme] of [
      ["light", 1360, 900, "light"],
      ["dark", 1360, 900, "dark"],
      ["phone", 390, 844, "light"],
    ] as const) {
      const png = await page.look(width, height, scheme);
      expect(png.length).toBeGreaterThan(20_000);
      await writeFile(join(process.env.GEMMAC_SCREENSHOTS ?? tmp, `view-${name}.png`), png);
      // Nothing makes the page wider than the window.
      expect(await page.evaluate("document.documentElement.scrollWidth")).toBeLessThanOrEqual(width);
    }
    expect(page.complaints).toEqual([]);
  });

  test("a hostile graph runs nothing", async () => {
    const file = join(tmp, "evil.ir");
    const origin = "a/<img/src=x/onerror=document.title=1>";
    await writeFile(file, `graph g(%x: f32[2]) {\n  %0 = add %x, 1 : f32[2] @${origin}\n  return y=%0\n}\n`);
    const out = join(tmp, "evil.html");
    expect((await gemmac("view", file, "-o", out)).code).toBe(0);
    expect((await gemmac("view", file, "-o", out)).err).toContain("exists already");
    expect((await gemmac("view", file, "-o", out, "--force")).code).toBe(0);
    expect(await readFile(out, "utf8")).not.toContain("<img");
    await page.go(String(pathToFileURL(out)));
    expect(await page.evaluate("document.querySelectorAll('img').length")).toBe(0);
    expect(await page.evaluate("document.getElementById('outline').textContent")).toContain("<img");
    expect(page.complaints).toEqual([]);
  });
});

// node test/external/browser.mjs [folder for screenshots], after npm run build: the chat page of a WGSL artifact in a real Chromium, with the faults
// that people meet. Says so where no Chromium can be had. Ends with 1 where something is wrong.
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { legalize } from "../../dist/backends/backend.js";
import { wgsl } from "../../dist/backends/wgsl/index.js";
import { runPasses } from "../../dist/passes/pipeline.js";
import { aboutOf } from "../../dist/src/artifact/about.js";
import { openCheckpoint } from "../../dist/src/checkpoint/checkpoint.js";
import { modelGraph } from "../../dist/src/model/load.js";
import { findChromium } from "./chromium.mjs";
import { serve } from "./static-server.mjs";

const at = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const json = (path) => JSON.parse(readFileSync(path, "utf8"));
const screens = process.argv[2];
if (screens) mkdirSync(screens, { recursive: true });
const golden = json(at("test/data/demo/golden.json")).prompts;
const counts = { ok: 0, failed: 0 };
function check(what, holds, more = "") {
  counts[holds ? "ok" : "failed"]++;
  console.log(`${holds ? "ok  " : "FAIL"} ${what}${holds ? "" : `: ${more}`}`);
}

const browserOf = await findChromium();
if (browserOf.missing) {
  console.log(`SKIPPED the chat page in a browser: ${browserOf.missing}`);
  process.exit(0);
}
const scratch = mkdtempSync(join(tmpdir(), "gemmac-browser-"));
const out = join(scratch, "demo");
await artifact(at("examples/gemma-kjv-2m"));
const chunks = json(join(out, "program.json")).chunks.map((c) => c.path);
const server = await serve(out);
const browser = await browserOf.launch();
console.log(`Chromium ${browser.version()}`);

/** Emits the artifact of a checkpoint. */
async function artifact(dir) {
  mkdirSync(out);
  const checkpoint = await openCheckpoint(dir);
  const { graph, facts } = modelGraph(checkpoint);
  const backend = wgsl({ capacity: 256 });
  const tokenizer = readFileSync(join(dir, "tokenizer.json"));
  writeFileSync(join(out, "tokenizer.json"), tokenizer);
  const sha256 = createHash("sha256").update(tokenizer).digest("hex");
  const copied = [{ path: "tokenizer.json", bytes: tokenizer.length, sha256 }];
  await backend.emit({
    graph: legalize(runPasses(graph, backend.passes).graph, backend),
    weights: checkpoint.weights,
    facts,
    about: () => aboutOf(checkpoint, facts, copied, console.warn),
    dir: out,
    progress: () => {},
    warn: console.warn,
  });
  await checkpoint.close();
}

/** A page in a profile of its own. What goes wrong in it is told. */
async function open({ viewport = { width: 1200, height: 800 }, scheme = "light", of = browser } = {}) {
  const context = await of.newContext({ viewport, colorScheme: scheme });
  const page = await context.newPage();
  const complaints = [];
  page.on("pageerror", (e) => complaints.push(e.message));
  page.on("console", (m) => m.type() === "error" && complaints.push(m.text()));
  return { page, complaints, close: () => context.close() };
}
const ready = (page) => page.waitForSelector("#form:not([hidden])", { timeout: 120_000 });
const shoot = async (page, name) => screens && page.screenshot({ path: join(screens, `${name}.png`) });
async function slide(page, id, value) {
  await page.evaluate(
    ([id, value]) => {
      const range = document.getElementById(id);
      range.value = value;
      range.dispatchEvent(new Event("input"));
    },
    [id, value],
  );
}
async function write(page, prompt, { greedy = true, tokens = 16 } = {}) {
  if (greedy) await slide(page, "temperature", 0);
  await slide(page, "longest", tokens);
  await page.fill("#input", prompt);
  await page.keyboard.press("Enter");
}
const written = (page) => page.waitForSelector("#send:not([hidden])", { timeout: 120_000 });
const lastTurn = (page) => page.locator(".turn.model").last().textContent();
/** What greedy decoding writes after a prompt: at least the reference's tokens, as text. */
const begins = (text, { decoded }) => text.startsWith(decoded.slice(0, Math.min(text.length, decoded.length)));
/** Names of the files that the browser has stored whole. */
const kept = (page) =>
  page.evaluate(async () => {
    const names = [];
    try {
      const ours = await (await navigator.storage.getDirectory()).getDirectoryHandle("gemmac");
      const folder = await ours.getDirectoryHandle("gemma-kjv-2m");
      for await (const [name, file] of folder.entries()) if ((await file.getFile()).size > 0) names.push(name);
    } catch {
      // The page has not come that far.
    }
    return names;
  });
const fetched = () => server.requests.filter((r) => r.path.startsWith("weights/")).map((r) => r.path);

try {
  await speaks();
  await looks();
  await resumes();
  await brokenConnection();
  await losesTheGpu();
  await corruptChunk();
  await worker();
  await withoutWebGpu();
} catch (e) {
  check("the run", false, e.stack);
} finally {
  await browser.close();
  server.close();
  rmSync(scratch, { recursive: true, force: true });
}
console.log(`${counts.ok} ok, ${counts.failed} failed`);
if (counts.failed) process.exitCode = 1;

async function speaks() {
  const { page, complaints, close } = await open();
  await page.goto(`${server.url}chat.html`);
  await ready(page);
  for (const prompt of golden.slice(0, 2)) {
    await write(page, prompt.text, { tokens: 32 });
    await written(page);
    const text = await lastTurn(page);
    check(`the page continues ${JSON.stringify(prompt.text)} as the reference does`, text.length > prompt.text.length && begins(text, prompt), text);
  }
  await write(page, golden[0].text, { tokens: 240 });
  await page.waitForSelector(".turn.model:last-of-type .plain, .turn.model .plain");
  await page.click("#stop");
  await written(page);
  const meta = await page.locator(".meta").last().textContent();
  check("the stop button stops", /· stopped/.test(meta), meta);
  const ids = await page.evaluate(async (prompts) => {
    const { load } = await import("./model.js");
    const gemma = await load();
    const all = [];
    for (const { input_ids, greedy_ids } of prompts) {
      const known = [...input_ids];
      while (known.length < input_ids.length + greedy_ids.length) {
        const scores = await gemma.logits(known);
        known.push(scores.indexOf(Math.max(...scores)));
      }
      all.push(known.slice(input_ids.length));
    }
    gemma.dispose();
    return all;
  }, golden);
  for (const [i, { greedy_ids }] of golden.entries())
    check(`logits() gives the reference's ${greedy_ids.length} greedy tokens, prompt ${i}`, String(ids[i]) === String(greedy_ids), `${ids[i]} is not ${greedy_ids}`);
  check("nothing complains", complaints.length === 0, complaints.join("; "));
  await close();
}

async function looks() {
  const sizes = { phone: { width: 390, height: 780 }, desktop: { width: 1200, height: 800 } };
  for (const [size, viewport] of Object.entries(sizes))
    for (const scheme of ["light", "dark"]) {
      const { page, close } = await open({ viewport, scheme });
      server.faults.hold.add(chunks[2]);
      await page.goto(`${server.url}chat.html`);
      await page.waitForFunction(() => parseFloat(document.getElementById("fill").style.width) > 20);
      await shoot(page, `${size}-${scheme}-loading`);
      server.faults.hold.clear();
      await ready(page);
      await shoot(page, `${size}-${scheme}-ready`);
      await write(page, "In the beginning", { greedy: false, tokens: 96 });
      await page.waitForSelector(".turn.model .plain");
      await shoot(page, `${size}-${scheme}-writing`);
      await written(page);
      await page.click("#settings");
      await shoot(page, `${size}-${scheme}-done`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
      check(`the page fits a ${size} (${scheme})`, !wide, "it scrolls sideways");
      await close();
    }
}

async function resumes() {
  const { page, close } = await open();
  server.requests.length = 0;
  server.faults.hold.add(chunks.at(-1));
  await page.goto(`${server.url}chat.html`);
  while ((await kept(page)).length < chunks.length - 1) await page.waitForTimeout(50);
  const before = fetched();
  await page.reload();
  server.faults.hold.clear();
  await ready(page);
  const again = fetched().slice(before.length);
  check("a reload half way fetches only what is missing", again.length === 1 && again[0] === chunks.at(-1), `fetched again: ${again}`);
  server.requests.length = 0;
  await page.reload();
  await ready(page);
  check("a further visit fetches no weights", fetched().length === 0, String(fetched()));
  await write(page, golden[0].text);
  await written(page);
  check("and speaks", begins(await lastTurn(page), golden[0]), await lastTurn(page));
  await close();
}

async function brokenConnection() {
  const { page, close } = await open();
  server.requests.length = 0;
  server.faults.cut.add(chunks[0]);
  await page.goto(`${server.url}chat.html`);
  await ready(page);
  const ranges = server.requests.filter((r) => r.path === chunks[0]).map((r) => r.range);
  check("a connection that breaks goes on where it stopped", ranges.length === 2 && /^bytes=[1-9]/.test(ranges[1] ?? ""), String(ranges));
  await close();
}

async function losesTheGpu() {
  const { page, close } = await open();
  await page.goto(`${server.url}chat.html`);
  await ready(page);
  await write(page, golden[0].text, { tokens: 96 });
  await page.waitForSelector(".turn.model .plain");
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  const gpu = processInfo.find((p) => p.type === "GPU");
  process.kill(gpu.id, "SIGKILL");
  await written(page);
  const [text, notice, meta] = [await lastTurn(page), await page.textContent("#notices"), await page.locator(".meta").last().textContent()];
  check("an answer goes on after the GPU process was killed", /GPU was lost/.test(notice) && begins(text, golden[0]) && /96 tokens/.test(meta), `${notice} | ${meta} | ${text}`);
  await close();
}

async function corruptChunk() {
  const { page, close } = await open();
  server.faults.flip.add(chunks[1]);
  await page.goto(`${server.url}chat.html`);
  await page.waitForSelector(".notice.bad", { timeout: 60_000 });
  const said = await page.textContent(".notice.bad");
  check("a corrupt chunk is named, with what to do", said.toLowerCase().includes(chunks[1]) && /damaged/.test(said) && /copy the artifact/.test(said), said);
  await shoot(page, "corrupt-chunk");
  const bad = json(join(out, "program.json")).chunks[1].sha256;
  const names = await kept(page);
  check("and is not kept", !names.includes(bad), String(names));
  server.faults.flip.clear();
  await page.click("#load");
  await ready(page);
  check("and loads once the server is mended", true);
  await close();
}

async function worker() {
  const { page, close } = await open();
  // A page without the policy of chat.html, which lets no worker run.
  await page.goto(`${server.url}package.json`);
  const text = await page.evaluate(async ({ url, prompt }) => {
    const code = `import(${JSON.stringify(url)} + "model.js").then(async ({ load }) => {
      const gemma = await load(); let text = "";
      for await (const piece of gemma.generate(${JSON.stringify(prompt)}, { temperature: 0, maxTokens: 12 })) text += piece;
      postMessage(text);
    }).catch((e) => postMessage("failed: " + e.message))`;
    const made = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })), { type: "module" });
    return new Promise((done) => (made.onmessage = (m) => done(m.data)));
  }, { url: server.url, prompt: golden[0].text }).catch((e) => e.message);
  check("the module runs in a worker", begins(golden[0].text + text, golden[0]), text);
  await close();
}

async function withoutWebGpu() {
  const bare = await browserOf.launch({ webgpu: false });
  try {
    const { page, close } = await open({ of: bare });
    await page.goto(`${server.url}chat.html`);
    await page.waitForSelector(".notice.bad", { timeout: 60_000 });
    const said = await page.textContent(".notice.bad");
    check("no GPU: the page says what to do", /WebGPU/.test(said) && /driver|Chrome/.test(said), said);
    await shoot(page, "no-gpu");
    await close();
    const other = await open({ of: bare, viewport: { width: 390, height: 780 } });
    await other.page.addInitScript(() => Object.defineProperty(Navigator.prototype, "gpu", { value: undefined }));
    await other.page.goto(`${server.url}chat.html`);
    await other.page.waitForSelector(".notice.bad", { timeout: 60_000 });
    const told = await other.page.textContent(".notice.bad");
    check("no WebGPU: the page says which browsers have it", /no WebGPU/.test(told) && /Chrome/.test(told), told);
    await shoot(other.page, "no-webgpu");
    await other.close();
  } finally {
    await bare.close();
  }
}

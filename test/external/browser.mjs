// node test/external/browser.mjs [folder for screenshots], after npm run build: the chat page of a WGSL artifact in a real
// Chromium, with the faults that people meet. Says so where no Chromium can be had. Ends with 1 where something is wrong.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile } from "../../dist/src/compile.js";
import { findChromium } from "./chromium.mjs";
import { serve } from "./static-server.mjs";

const at = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const json = (path) => JSON.parse(readFileSync(path, "utf8"));
const screens = process.argv[2];
if (screens) mkdirSync(screens, { recursive: true });
const golden = json(at("test/data/demo/golden.json")).prompts;
const begun = performance.now();
const counts = { ok: 0, failed: 0 };
function check(what, holds, more = "") {
  counts[holds ? "ok" : "failed"]++;
  const seconds = `${((performance.now() - begun) / 1000).toFixed(0)} s`.padStart(6);
  console.log(`${holds ? "ok  " : "FAIL"} ${seconds}  ${what}${holds ? "" : `: ${more}`}`);
}

const chromium = await findChromium();
if (chromium.missing) {
  console.log(`SKIPPED the chat page in a browser: ${chromium.missing}`);
  process.exit(0);
}
const scratch = mkdtempSync(join(tmpdir(), "gemmac-browser-"));
const out = join(scratch, "demo");
await compile(at("examples/gemma-kjv-2m"), { targets: ["wgsl"], out, capacity: 256, verify: false });
const chunks = json(join(out, "program.json")).chunks.map((c) => c.path);
const server = await serve(out);
const browser = await chromium.launch();
console.log(`Chromium ${browser.version()}`);

/** On a GPU in software compiling is what takes long: pages compile nothing until `compileNow()` is called in them. */
function compileLater() {
  if (!globalThis.GPUDevice) return;
  const { prototype } = GPUDevice;
  const compile = prototype.createComputePipelineAsync;
  const told = new Promise((done) => (globalThis.compileNow = done));
  prototype.createComputePipelineAsync = async function (...args) {
    await told;
    return compile.apply(this, args);
  };
}

/** A page, in a profile of its own unless one is given. What goes wrong in it is told. */
async function open({ of = browser, profile, path = "chat.html", from = server, before = compileLater } = {}) {
  const context = profile ?? (await of.newContext());
  const page = await context.newPage();
  page.setDefaultTimeout(240_000);
  const complaints = [];
  page.on("pageerror", (e) => complaints.push(e.message));
  page.on("console", (m) => m.type() === "error" && complaints.push(m.text()));
  await page.addInitScript(before);
  await page.goto(`${from.url}${path}`, { waitUntil: "commit" });
  return { page, complaints, close: () => context.close() };
}

const sizes = { phone: { width: 390, height: 780 }, desktop: { width: 1200, height: 800 } };
/** The page as it is, on a phone and a desktop, light and dark. It must fit. */
async function looks(page, name) {
  let wide = "";
  for (const [size, viewport] of Object.entries(sizes))
    for (const colorScheme of ["light", "dark"]) {
      await page.setViewportSize(viewport);
      await page.emulateMedia({ colorScheme });
      if (screens) await page.screenshot({ path: join(screens, `${name}-${size}-${colorScheme}.png`) });
      if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) wide += ` ${size}`;
    }
  check(`${name}: the page fits phone and desktop`, wide === "", `it scrolls sideways on${wide}`);
}

const ready = async (page) => {
  await page.evaluate(() => compileNow());
  await page.waitForSelector("#form:not([hidden])");
};
const written = (page) => page.waitForSelector("#send:not([hidden])");
const lastTurn = (page) => page.locator(".turn.model").last().textContent();
const lastMeta = (page) => page.locator(".meta").last().textContent();
/** Text that the model goes on with, greedily. */
async function write(page, prompt, tokens) {
  await page.evaluate(
    (values) => {
      for (const [id, value] of Object.entries(values)) {
        const range = document.getElementById(id);
        range.value = value;
        range.dispatchEvent(new Event("input"));
      }
    },
    { temperature: 0, longest: tokens },
  );
  await page.fill("#input", prompt);
  await page.keyboard.press("Enter");
}
/** Whether a text is what greedy decoding writes after a prompt: at least the reference's tokens, as text. */
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
async function keptUntil(page, count) {
  while ((await kept(page)).length < count) await page.waitForTimeout(50);
}
const fetched = () => server.requests.filter((r) => r.path.startsWith("weights/")).map((r) => r.path);

try {
  await aVisit();
  await brokenConnection();
  await corruptChunk();
  await worker();
  await conversation();
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

/** Loads, is interrupted, loads on, writes, is stopped, loses its GPU, and comes again. */
async function aVisit() {
  server.faults.hold.add(chunks.at(-1));
  const { page, complaints, close } = await open();
  await keptUntil(page, chunks.length - 1);
  await looks(page, "loading");
  const before = fetched();
  await page.reload({ waitUntil: "commit" });
  server.faults.hold.clear();
  await keptUntil(page, chunks.length);
  const again = fetched().slice(before.length);
  check("a reload half way fetches only what is missing", String(again) === chunks.at(-1), `fetched again: ${again}`);
  await ready(page);
  await looks(page, "ready");

  for (const prompt of golden.slice(0, 2)) {
    await write(page, prompt.text, 32);
    await written(page);
    const text = await lastTurn(page);
    const right = text.length > prompt.text.length && begins(text, prompt);
    check(`the page continues ${JSON.stringify(prompt.text)} as the reference does`, right, text);
  }
  await page.click("#settings");
  await looks(page, "settings");
  await page.click("#settings");
  await write(page, golden[0].text, 240);
  await page.waitForFunction(() => document.querySelectorAll(".turn.model .plain").length === 3);
  await looks(page, "writing");
  await page.click("#stop");
  await written(page);
  check("the stop button stops", /· stopped/.test(await lastMeta(page)), await lastMeta(page));
  check("nothing complains", complaints.length === 0, complaints.join("; "));

  await write(page, golden[0].text, 48);
  await page.waitForFunction(() => document.querySelectorAll(".turn.model .plain").length === 4);
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  process.kill(processInfo.find((p) => p.type === "GPU").id, "SIGKILL");
  await written(page);
  const [text, notice, meta] = [await lastTurn(page), await page.textContent("#notices"), await lastMeta(page)];
  const went = /GPU was lost/.test(notice) && begins(text, golden[0]) && /48 tokens/.test(meta);
  check("an answer goes on after the GPU process was killed", went, `${notice} | ${meta} | ${text}`);
  await looks(page, "gpu-lost");

  server.requests.length = 0;
  const { page: later } = await open({ profile: page.context() });
  await later.waitForFunction(() => document.getElementById("track").getAttribute("aria-valuenow") === "100");
  const bytes = await later.textContent("#bytes");
  check("a further visit fetches no weights", fetched().length === 0 && /from this device/.test(bytes), `${fetched()} ${bytes}`);
  await close();
}

async function brokenConnection() {
  server.requests.length = 0;
  server.faults.cut.add(chunks[0]);
  const { page, close } = await open();
  await keptUntil(page, chunks.length);
  const ranges = server.requests.filter((r) => r.path === chunks[0]).map((r) => r.range);
  check("a connection that breaks goes on where it stopped", ranges.length === 2 && /^bytes=[1-9]/.test(ranges[1]), String(ranges));
  await close();
}

async function corruptChunk() {
  server.faults.flip.add(chunks[1]);
  const { page, close } = await open();
  await page.waitForSelector(".notice.bad");
  const said = await page.textContent(".notice.bad");
  const clear = said.toLowerCase().includes(chunks[1]) && /damaged/.test(said) && /copy the artifact/.test(said);
  check("a corrupt chunk is named, with what to do", clear, said);
  await looks(page, "corrupt-chunk");
  const bad = json(join(out, "program.json")).chunks[1].sha256;
  check("and is not kept", !(await kept(page)).includes(bad), String(await kept(page)));
  server.faults.flip.clear();
  await page.click("#load");
  await keptUntil(page, chunks.length);
  check("and comes once the server is mended", (await kept(page)).includes(bad));
  await close();
}

/** From a page without the policy of chat.html, which lets no worker run. */
async function worker() {
  const { page, close } = await open({ path: "package.json" });
  await page.waitForLoadState();
  const { input_ids, greedy_ids } = golden[2];
  const got = await page.evaluate(
    ({ url, text, ids, count }) => {
      const code = `(async () => {
        const { load } = await import(${JSON.stringify(url)} + "model.js");
        const gemma = await load();
        let said = "";
        for await (const piece of gemma.generate(${JSON.stringify(text)}, { temperature: 0, maxTokens: 12 })) said += piece;
        const known = ${JSON.stringify(ids)};
        while (known.length < ${ids.length + count}) {
          const scores = await gemma.logits(known);
          known.push(scores.indexOf(Math.max(...scores)));
        }
        gemma.dispose();
        postMessage({ said, known: known.slice(${ids.length}) });
      })().catch((e) => postMessage({ failed: e.message }))`;
      const made = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })), { type: "module" });
      return new Promise((done) => (made.onmessage = (m) => done(m.data)));
    },
    { url: server.url, text: golden[0].text, ids: input_ids, count: greedy_ids.length },
  );
  const { said = "", known = [], failed } = got;
  check("the module runs in a worker", said !== "" && begins(golden[0].text + said, golden[0]), failed ?? said);
  check(`and logits() gives the reference's ${greedy_ids.length} greedy tokens`, String(known) === String(greedy_ids), failed ?? known);
  await close();
}

/** The page of a model that chats. The model is a stand-in: what is looked at is the page. */
async function conversation() {
  const dir = join(scratch, "chat");
  mkdirSync(dir);
  writeFileSync(join(dir, "chat.html"), readFileSync(join(out, "chat.html"), "utf8").replace('"canChat":false', '"canChat":true'));
  const answer =
    "# Waves\nWater **rises** and *falls*:\n\n1. wind pushes it,\n2. gravity pulls it back.\n\n- `height` is half of it\n- so is patience\n\n" +
    "```js\nconst wave = (t) => Math.sin(2 * Math.PI * t) + 0.25 * Math.sin(4 * Math.PI * t) + Math.random();\n```\n\n<b>Nothing</b> else.";
  writeFileSync(
    join(dir, "model.js"),
    `export const load = async () => ({
      device: "a stand-in", lastRun: { tokens: 64, tokensPerSecond: 25, stop: "stop" },
      async *chat(messages) {
        if (messages.length > 2) throw Object.assign(new Error("the text has 5000 tokens, and this model takes fewer than 4096"), { next: "shorten it, or start a new conversation" });
        for (const piece of ${JSON.stringify(answer)}.split(/(?<= )/)) { yield piece; await new Promise((done) => setTimeout(done, 2)); }
      } });`,
  );
  const chat = await serve(dir);
  const { page, complaints, close } = await open({ from: chat });
  await page.waitForSelector("#form:not([hidden])");
  await looks(page, "chat-ready");
  await page.fill("#input", "Why is the sea never still?\nI have been watching it.");
  await page.keyboard.press("Enter");
  await written(page);
  const shown = await page.$eval(".turn.model", (e) => [...e.children].map((c) => c.localName).join(" "));
  check("an answer's Markdown is shown, and its tags are text", shown === "h3 p ol ul pre p" && /<b>/.test(await lastTurn(page)), shown);
  await looks(page, "chat-answer");
  await page.fill("#input", "And then?");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".notice.bad");
  await written(page);
  const [told, left] = [await page.textContent(".notice.bad"), await page.inputValue("#input")];
  check("a text that is too long is told, and given back", /start a new conversation/.test(told) && left === "And then?", `${told} | ${left}`);
  await looks(page, "chat-too-long");
  check("nothing complains of the page", complaints.length === 0, complaints.join("; "));
  await close();
  chat.close();
}

async function withoutWebGpu() {
  const bare = await chromium.launch({ webgpu: false });
  try {
    const { page, close } = await open({ of: bare });
    await page.waitForSelector(".notice.bad");
    const said = await page.textContent(".notice.bad");
    check("no GPU: the page says what to do", /WebGPU/.test(said) && /driver|Chrome/.test(said), said);
    await looks(page, "no-gpu");
    await close();
    const hidden = () => Object.defineProperty(Navigator.prototype, "gpu", { value: undefined });
    const other = await open({ of: bare, before: hidden });
    await other.page.waitForSelector(".notice.bad");
    const told = await other.page.textContent(".notice.bad");
    check("no WebGPU: the page says which browsers have it", /no WebGPU/.test(told) && /Chrome/.test(told), told);
    await looks(other.page, "no-webgpu");
    await other.close();
  } finally {
    await bare.close();
  }
}

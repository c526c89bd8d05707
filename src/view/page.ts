import { createHash } from "node:crypto";
import { client } from "./client.ts";
import type { ViewData } from "./data.ts";
import { model, Shown } from "./model.ts";

/**
 * One HTML file that needs nothing else. The policy in its head lets run exactly the script in it, and load nothing;
 * names from the graph are data, never markup.
 */
export function pageOf(data: ViewData): string {
  const script = `"use strict";\n${Shown}\n${model}\n${client}\nclient(model);\n`;
  const policy = `default-src 'none'; script-src '${hash(script)}'; style-src '${hash(style)}'; base-uri 'none'; form-action 'none'`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escapeHtml(data.title)} · gemmac</title>
<style>${style}</style>
</head>
<body>
<header>
<div class="brand"><b>gemmac</b> <span>${escapeHtml(data.title)}</span></div>
<div class="tools">
<label class="search"><span class="hidden">Search</span><input id="search" type="search" autocomplete="off" spellcheck="false" placeholder="Search op, name, type, attribute"><kbd>/</kbd></label>
<span id="found" role="status"></span>
<div class="segments" role="group" aria-label="What to show"><button id="show-before">Before</button><button id="show-after">After</button><button id="show-changes">Changes</button></div>
</div>
</header>
<div class="columns">
<nav aria-label="Passes"><div id="stages"></div>
<div class="legend"><p><span class="delta add">+</span> new or changed</p><p><span class="delta del">−</span> gone or changed</p><p><span class="delta setup">›</span> moved to the setup</p><p><kbd>←</kbd> <kbd>→</kbd> pass <kbd>/</kbd> search</p><p><kbd>b</kbd> before <kbd>a</kbd> after <kbd>c</kbd> changes</p></div>
</nav>
<main><section id="head" aria-live="polite"></section><section id="outline" aria-label="Graph"></section><noscript>This page needs JavaScript to draw the graph.</noscript></main>
</div>
<script type="application/json" id="data">${embedded(data)}</script>
<script>${script}</script>
</body>
</html>
`;
}

const hash = (text: string): string => `sha256-${createHash("sha256").update(text).digest("base64")}`;

/** JSON that cannot end the element it stands in. */
export const embedded = (data: unknown): string =>
  JSON.stringify(data).replace(
    /[<>&\u2028\u2029]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );

const entities: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};
export const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (c) => entities[c] ?? c);

const style = `
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #ffffff; --ink: #22201c; --soft: #6f6a61; --faint: #8c867b; --rule: #e8e4db; --hover: #f3f0e9;
  --accent: #4a3fc4; --accent-soft: #ecebfa;
  --composite: #4a3fc4; --contract: #a3510a; --math: #b3236e; --shape: #0a7180; --leaf: #6f6a61; --other: #4d7c0f;
  --add: #17753a; --add-bg: #e9f6ec; --del: #b42318; --del-bg: #fdeeec; --setup: #8f5a00; --setup-bg: #fdf4de;
  --sans: ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Code", "JetBrains Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #141417; --card: #1a1a1e; --ink: #e9e7e2; --soft: #a09b92; --faint: #827d76; --rule: #2b2a2f; --hover: #222126;
    --accent: #aaa4ff; --accent-soft: #272543;
    --composite: #aaa4ff; --contract: #f0a860; --math: #f08cba; --shape: #63cbd9; --leaf: #a09b92; --other: #a3d165;
    --add: #74d28f; --add-bg: #16291c; --del: #ff938a; --del-bg: #331a19; --setup: #e6bb63; --setup-bg: #2d2413;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 4.5rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 14px/1.5 var(--sans); }
button, input { font: inherit; color: inherit; }
button { cursor: pointer; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
kbd { font: 11px/1 var(--mono); color: var(--soft); border: 1px solid var(--rule); border-bottom-width: 2px; border-radius: 4px; padding: 2px 5px; background: var(--card); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }

header { position: sticky; top: 0; z-index: 2; display: flex; align-items: center; gap: 12px 24px; padding: 10px 20px; background: color-mix(in srgb, var(--paper) 88%, transparent); backdrop-filter: blur(10px); border-bottom: 1px solid var(--rule); }
.brand { width: 232px; flex: none; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; letter-spacing: -0.01em; }
.brand b { color: var(--accent); font-weight: 700; }
.brand span { color: var(--soft); margin-left: 6px; }
.tools { display: flex; flex: 1; align-items: center; gap: 12px; min-width: 0; }
.search { position: relative; flex: 0 1 420px; min-width: 0; }
.search input { width: 100%; padding: 6px 34px 6px 12px; border: 1px solid var(--rule); border-radius: 8px; background: var(--card); font-size: 13.5px; }
.search input::placeholder { color: var(--faint); }
.search input:focus { outline: 2px solid var(--accent); outline-offset: -1px; }
.search kbd { position: absolute; right: 8px; top: 50%; transform: translateY(-50%); pointer-events: none; }
.search input:focus + kbd, .search input:not(:placeholder-shown) + kbd { display: none; }
#found { color: var(--soft); font-size: 12.5px; white-space: nowrap; flex: 1; }
.segments { display: flex; padding: 2px; border-radius: 8px; background: var(--hover); border: 1px solid var(--rule); }
.segments button { border: 0; background: none; padding: 3px 12px; border-radius: 6px; font-size: 13px; color: var(--soft); }
.segments button[aria-pressed="true"] { background: var(--card); color: var(--ink); box-shadow: 0 1px 2px rgb(0 0 0 / 0.12); }
.segments button:disabled { opacity: 0.4; cursor: default; }

.columns { display: grid; grid-template-columns: 272px minmax(0, 1fr); max-width: 1680px; margin: 0 auto; }
nav { position: sticky; top: 53px; align-self: start; max-height: calc(100vh - 53px); overflow: auto; padding: 18px 8px 24px 14px; }
.stage { display: grid; grid-template-columns: 1.6em 1fr; width: 100%; text-align: left; border: 0; background: none; border-radius: 8px; padding: 7px 10px; }
.stage:hover { background: var(--hover); }
.stage[aria-current="true"] { background: var(--accent-soft); }
.stage[aria-current="true"] .what { color: var(--accent); }
.stage .no { color: var(--faint); font: 12px/21px var(--mono); }
.stage .what { font-weight: 600; overflow-wrap: anywhere; }
.figures { grid-column: 2; display: flex; gap: 8px; font-size: 12px; color: var(--soft); font-variant-numeric: tabular-nums; }
.figures .ms { margin-left: auto; color: var(--faint); }
.legend { margin: 18px 10px 0; padding-top: 12px; border-top: 1px solid var(--rule); color: var(--soft); font-size: 12px; }
.legend p { margin: 5px 0; }

.delta { font: 600 12px/1.5 var(--mono); }
.delta.add { color: var(--add); } .delta.del { color: var(--del); } .delta.setup { color: var(--setup); }
.soft { color: var(--soft); }
main { padding: 22px 24px 80px 12px; min-width: 0; }
h1 { font: 650 24px/1.25 var(--sans); letter-spacing: -0.02em; margin: 0; }
.doc { margin: 6px 0 0; max-width: 76ch; color: var(--soft); overflow-wrap: anywhere; }
code { font: 0.92em var(--mono); background: var(--hover); border-radius: 4px; padding: 1px 4px; }
.facts { margin: 10px 0 0; font-variant-numeric: tabular-nums; white-space: pre-wrap; }
.counts { display: flex; flex-wrap: wrap; gap: 6px; margin: 10px 0 0; }
.chip { border: 1px solid var(--rule); background: var(--card); border-radius: 999px; padding: 1px 10px; font: 12px/1.6 var(--mono); color: var(--del); }
.chip.up { color: var(--add); }
.chip b { color: var(--ink); font-weight: 600; }
.chip:hover { border-color: var(--faint); }
#outline { margin-top: 18px; }
.empty { color: var(--soft); padding: 40px 0; text-align: center; }

.scope { border-left: 1px solid transparent; }
.body { margin-left: 8px; padding-left: 9px; border-left: 1px solid var(--rule); }
summary { display: flex; align-items: baseline; gap: 10px; padding: 3px 8px 3px 4px; border-radius: 6px; cursor: pointer; list-style: none; font-size: 13px; }
summary::-webkit-details-marker { display: none; }
summary::before { content: ""; flex: none; align-self: center; width: 0; height: 0; border: 4px solid transparent; border-left: 5px solid var(--faint); border-right: 0; margin: 0 1px 0 4px; transition: transform 0.1s; }
details[open] > summary::before { transform: rotate(90deg); }
summary:hover { background: var(--hover); }
.path { font-weight: 600; overflow-wrap: anywhere; }
.grow { flex: 1; }
.pill { font: 11px/1.5 var(--mono); color: var(--soft); background: var(--hover); border: 1px solid var(--rule); border-radius: 999px; padding: 0 8px; white-space: nowrap; }
summary .soft { font-size: 12px; white-space: nowrap; font-variant-numeric: tabular-nums; }

.row { display: grid; grid-template-columns: 14px calc(20em - 18px * var(--depth, 1)) minmax(0, 1fr) auto 11.5em; column-gap: 10px; align-items: baseline; padding: 2.5px 8px 2.5px 2px; border-radius: 5px; font: 12.5px/1.5 var(--mono); cursor: pointer; }
.row:hover { background: var(--hover); }
.row.still { cursor: default; }
.mark { font-style: normal; text-align: center; font-weight: 700; }
.name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-weight: 600; }
.name.auto { font-weight: 400; color: var(--faint); }
.expr { overflow-wrap: anywhere; }
.op { font-weight: 600; }
.op.composite { color: var(--composite); } .op.contract { color: var(--contract); } .op.math { color: var(--math); }
.op.shape { color: var(--shape); } .op.leaf { color: var(--leaf); font-weight: 400; } .op.other { color: var(--other); }
.ref { color: inherit; text-decoration: underline; text-decoration-color: var(--rule); text-underline-offset: 3px; }
.ref:hover { color: var(--accent); text-decoration-color: currentColor; }
.num { color: var(--soft); }
.attrs { color: var(--soft); }
.type { text-align: right; color: var(--ink); overflow-wrap: anywhere; }
.bytes { text-align: right; color: var(--faint); font: 12px/1.6 var(--sans); font-variant-numeric: tabular-nums; }
.bytes.weight { color: var(--ink); }
summary .bytes { min-width: 7em; }
.row.add { background: var(--add-bg); } .row.add .mark { color: var(--add); }
.row.del { background: var(--del-bg); } .row.del .mark { color: var(--del); }
.row.setup { background: var(--setup-bg); } .row.setup .mark { color: var(--setup); }
.row.add:hover, .row.del:hover, .row.setup:hover { filter: brightness(0.98); }
.flash { animation: flash 1.6s ease-out; }
@keyframes flash { from { box-shadow: 0 0 0 2px var(--accent); } to { box-shadow: 0 0 0 2px transparent; } }
.detail { grid-column: 2 / -1; display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 3px 16px; margin: 4px 0 8px; padding: 10px 14px; border: 1px solid var(--rule); border-radius: 8px; background: var(--card); cursor: auto; }
.detail dt { color: var(--soft); font: 12px/1.6 var(--sans); } .detail dd { margin: 0; white-space: normal; overflow-wrap: anywhere; }

@media (max-width: 1100px) { .columns { grid-template-columns: 220px minmax(0, 1fr); } .brand { width: 180px; } .row { grid-template-columns: 14px calc(14em - 18px * var(--depth, 1)) minmax(0, 1fr) auto; } .row .bytes { grid-column: 3 / -1; } }
@media (max-width: 760px) {
  header { flex-wrap: wrap; padding: 8px 12px; gap: 8px; }
  .brand { width: auto; flex: 1; }
  .tools { flex: 1 1 100%; gap: 8px; }
  .search { flex: 1 1 0; }
  .search kbd, .legend { display: none; }
  .search input { padding-right: 10px; font-size: 16px; }
  #found { flex: none; }
  #found:empty { display: none; }
  .segments button { padding: 4px 8px; }
  .columns { display: block; }
  nav { position: static; max-height: none; padding: 8px 12px; border-bottom: 1px solid var(--rule); }
  #stages { display: flex; gap: 6px; overflow-x: auto; scrollbar-width: none; }
  .stage { flex: none; width: auto; border: 1px solid var(--rule); padding: 5px 10px; }
  .figures .ms { display: none; }
  main { padding: 16px 10px 60px; }
  .body { margin-left: 6px; padding-left: 3px; }
  .row { display: block; position: relative; padding: 5px 6px 5px 14px; }
  .mark { position: absolute; left: 1px; }
  .row .name { white-space: normal; margin-right: 8px; }
  .row .type { display: inline-block; color: var(--soft); } .row .bytes { float: right; } .row .expr::after { content: "\\A"; white-space: pre; }
  summary .bytes { min-width: 0; } summary .bytes:empty { display: none; }
  .pill.twin { max-width: 40vw; overflow: hidden; text-overflow: ellipsis; }
  .detail { clear: both; }
}
@media (prefers-reduced-motion: reduce) { * { transition: none !important; animation: none !important; } }
`;

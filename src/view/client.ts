import type { ViewData } from "./data.ts";
import type { Item, Mark, Model, Scope, Shown, State } from "./model.ts";

/** The little of the browser that the page uses; the compiler's own code shall not see these names. */
interface El {
  className: string;
  textContent: string | null;
  title: string;
  value: string;
  open: boolean;
  disabled: boolean;
  readonly style: { setProperty(name: string, value: string): void };
  readonly classList: { toggle(name: string, on?: boolean): void };
  append(...parts: (El | string)[]): void;
  replaceChildren(...parts: (El | string)[]): void;
  setAttribute(name: string, value: string): void;
  addEventListener(type: string, listener: (e: UiEvent) => void): void;
  closest(selector: string): El | null;
  scrollIntoView(how: object): void;
  focus(): void;
  blur(): void;
  select(): void;
  remove(): void;
}
interface UiEvent {
  readonly key: string;
  readonly target: El;
  readonly altKey: boolean;
  readonly ctrlKey: boolean;
  readonly metaKey: boolean;
  preventDefault(): void;
  stopPropagation(): void;
}
declare const document: {
  title: string;
  createElement(tag: string): El;
  getElementById(id: string): El;
};
declare const location: { hash: string; replace(url: string): void };
declare const addEventListener: (type: string, listener: (e: UiEvent) => void) => void;

/** Draws the page. Its source text goes into the file, so it must not use anything from outside of itself. */
export function client(model: (data: ViewData) => Model): void {
  const $ = (id: string) => document.getElementById(id);
  const data = JSON.parse($("data").textContent ?? "") as ViewData;

  const { shown, itemsOf, treeOf, totalsOf, opCounts, formula, count, digits } = model(data);

  const text = (table: readonly string[], i: number) => table[i] ?? "";
  const isLeaf = (op: string) => op === "param" || op === "constant";

  const h = (tag: string, className = "", ...parts: (El | string)[]): El => {
    const el = document.createElement(tag);
    if (className) el.className = className;
    el.append(...parts);
    return el;
  };
  /** Text with its `code` set as such. */
  const prose = (words: string) => words.split("`").map((part, n) => (n % 2 ? h("code", "", part) : part));

  const read = (): State => {
    const given = new URLSearchParams(location.hash.slice(1));
    const stage = Math.min(Math.max(Math.trunc(Number(given.get("stage"))) || 0, 0), data.stages.length - 1);
    const wanted = given.get("show");
    const show = stage > 0 && (wanted === "before" || wanted === "changes") ? wanted : "after";
    return { stage, show, q: given.get("q") ?? "", at: Number(given.get("at") ?? -1) };
  };
  let state = read();
  /** The address is the state: whatever changes it is drawn by the `hashchange` that follows. */
  const go = (change: Partial<State>, keepHistory = false) => {
    const { stage, show, q, at } = { ...state, at: -1, ...change };
    const parts = new URLSearchParams({ stage: String(stage) });
    if (show !== "after") parts.set("show", show);
    if (q) parts.set("q", q);
    if (at >= 0) parts.set("at", String(at));
    if (keepHistory) location.hash = `#${parts}`;
    else location.replace(`#${parts}`);
  };

  const link = (item: Item, place: number, scope: string): El => {
    const i = item.stage.at.get(place);
    if (i === undefined) return h("span", "", "?");
    const name = item.stage.name(i, scope);
    if (item.stage.op(i)[0] === "constant") return h("span", "num", name);
    const el = h("a", "ref", name);
    el.setAttribute("href", "#");
    el.title = `${item.stage.op(i)[0]} : ${item.stage.type(i)[0]}`;
    el.addEventListener("click", (e) => {
      e.preventDefault();
      e.stopPropagation();
      // What a pass removed is found in the graph before it.
      const show = item.mark === "del" ? "before" : state.show === "before" ? "before" : "after";
      go({ at: place, q: "", show }, true);
    });
    return el;
  };

  const signs: Record<Mark, string> = { "": "", add: "+", del: "−", setup: "›" };
  function rowOf(item: Item): El {
    const { i, stage, mark } = item;
    const [place, , , , operands] = stage.row(i);
    const [op, kind, doc] = stage.op(i);
    const scope = stage.scope(i);
    const leaf = isLeaf(op);
    const weight = stage.isWeight(i);
    const name = h("span", stage.origin(i) || leaf ? "name" : "name auto", stage.name(i, scope));
    name.title = stage.origin(i) || (leaf ? stage.attrs(i) : text(stage.label, i));
    const word = h("b", `op ${kind}`, leaf ? (weight ? "weight" : "input") : op);
    word.title = doc;
    const expr = h("span", "expr", word, " ");
    operands.forEach((o, n) => {
      if (n) expr.append(", ");
      expr.append(link(item, o, scope));
    });
    const recipe = stage.made.get(place);
    if (recipe !== undefined) expr.append(h("span", "soft", "set up from "), link(item, recipe, scope));
    if (!leaf && stage.attrs(i)) expr.append(" ", h("span", "attrs", stage.attrs(i)));
    if (stage.once(i)) expr.append(" ", h("span", "pill", "setup"));
    const [type, bytes] = stage.type(i);
    const el = h("div", `row ${mark}`, h("i", "mark", signs[mark]), name, expr, h("span", "type", type));
    el.append(h("span", weight ? "bytes weight" : "bytes", formula(Object.entries(bytes))));
    drawn.set(place, el);
    el.style.setProperty(
      "--depth",
      String(stage.inputs.has(place) ? 1 : scope.split("/").filter(Boolean).length),
    );
    let detail: El | undefined;
    el.addEventListener("click", () => {
      if (detail) {
        detail.remove();
        detail = undefined;
      } else el.append((detail = detailOf(item)));
    });
    return el;
  }

  function detailOf(item: Item): El {
    const { i, stage, mark } = item;
    const [place, , , , operands] = stage.row(i);
    const [op, , doc, inputs] = stage.op(i);
    const list = h("dl", "detail");
    const fact = (key: string, ...parts: (El | string)[]) =>
      list.append(h("dt", "", key), h("dd", "", ...parts));
    fact(op, ...prose(doc));
    fact("stands in", stage.scope(i) || "the whole graph");
    if (isLeaf(op)) fact("name", stage.attrs(i));
    operands.forEach((o, n) => {
      const at = stage.at.get(o) ?? 0;
      fact(text(inputs, n), link(item, o, ""), ` : ${stage.type(at)[0]}`);
    });
    if (!isLeaf(op) && stage.attrs(i)) fact("attributes", stage.attrs(i));
    const users = (stage.users.get(place) ?? []).flatMap((u, n) => [n ? ", " : "", link(item, u, "")]);
    if (users.length > 0) fact("used by", ...users);
    fact("bytes", formula(Object.entries(stage.type(i)[1])));
    const why = { "": "", add: "new, or changed, in this pass", del: "gone, or changed, after this pass" };
    if (mark) fact("pass", mark === "setup" ? "moves to the setup, which runs at compile time" : why[mark]);
    list.addEventListener("click", (e) => e.stopPropagation());
    return list;
  }

  /** No origin has spaces. */
  const inputsPath = "runtime inputs";
  /** How many rows may be drawn before anyone asks for them. */
  const budgetAtStart = 400;
  let budget = budgetAtStart;
  /** The scopes drawn, and how to open each. */
  const opened = new Map<string, () => void>();
  /** The rows drawn, by place. */
  const drawn = new Map<number, El>();
  /** What the reader opened or closed stays so from stage to stage. */
  const chosen = new Map<string, boolean>();

  function scopeOf(scope: Scope, now: Shown, searching: boolean): El {
    const { ops, weights, marks } = totalsOf(scope);
    const twin = searching ? undefined : now.same.get(scope.path);
    const bytes = weights.size > 0 ? formula(weights) : "";
    const head = h(
      "summary",
      "",
      h("span", "path", text(scope.path.split("/"), scope.path.split("/").length - 1)),
    );
    if (twin) head.append(h("span", "pill twin", `= ${twin.split("/").at(-1)}`));
    for (const mark of ["add", "del", "setup"] as const)
      if (marks[mark]) head.append(h("span", `delta ${mark}`, `${signs[mark]}${marks[mark]}`));
    head.append(
      h("span", "grow"),
      h("span", "soft", ops && state.show !== "changes" ? count(ops, "op") : ""),
      h("span", "bytes weight", bytes),
    );
    const el = h("details", "scope", head);
    const body = h("div", "body");
    el.append(body);
    let filled = false;
    const fill = () => {
      if (!filled) body.append(...childrenOf(scope, now, searching));
      filled = true;
    };
    const open = () => {
      el.open = true;
      fill();
    };
    opened.set(scope.path, open);
    head.addEventListener("click", () => chosen.set(scope.path, !el.open));
    el.addEventListener("toggle", () => el.open && fill());
    const wanted = searching ? undefined : chosen.get(scope.path);
    if (wanted ?? (!twin && budget > 0 && (scope.path !== inputsPath || scope.items.length <= 8))) open();
    return el;
  }

  function childrenOf(scope: Scope, now: Shown, searching: boolean): El[] {
    budget -= scope.items.length;
    const rows = scope.items.map((item) => ({ order: item.order, draw: () => rowOf(item) }));
    const inner = [...scope.scopes.values()].map((s) => ({
      order: s.last,
      draw: () => scopeOf(s, now, searching),
    }));
    return [...rows, ...inner].sort((a, b) => a.order - b.order).map(({ draw }) => draw());
  }

  function drawOutline(): void {
    const now = shown(state.show === "before" ? state.stage - 1 : state.stage);
    const items = itemsOf(state);
    budget = budgetAtStart;
    opened.clear();
    drawn.clear();
    const isInput = ({ i, stage }: Item) => stage.inputs.has(stage.row(i)[0]);
    const inputs: Scope = { path: inputsPath, items: items.filter(isInput), scopes: new Map(), last: -1 };
    const out = $("outline");
    out.replaceChildren();
    if (inputs.items.length > 0) out.append(scopeOf(inputs, now, state.q !== ""));
    out.append(...childrenOf(treeOf(items.filter((x) => !isInput(x))), now, state.q !== ""));
    if (state.show !== "changes" && !state.q) out.append(outputsOf(now));
    const nothing = state.q ? `Nothing here matches “${state.q}”.` : "This pass changes nothing.";
    if (items.length === 0) out.append(h("p", "empty", nothing));
    $("found").textContent = state.q ? count(items.length, "match").replace(/chs$/, "ches") : "";
  }

  function outputsOf(now: Shown): El {
    const n = state.show === "before" ? state.stage - 1 : state.stage;
    const outputs = data.stages[n]?.outputs ?? [];
    const body = h("div", "body");
    const head = h(
      "summary",
      "",
      h("span", "path", "outputs"),
      h("span", "grow"),
      h("span", "soft", String(outputs.length)),
    );
    for (const [name, place, over] of outputs) {
      const i = now.at.get(place) as number;
      const item: Item = { i, stage: now, mark: "", order: 0 };
      const [type, bytes] = now.type(i);
      const expr = h("span", "expr", h("b", "op leaf", "output"), " ", link(item, place, ""));
      if (over) expr.append(h("span", "soft", ` written over ${over}`));
      const row = h(
        "div",
        "row still",
        h("i", "mark"),
        h("span", "name", name),
        expr,
        h("span", "type", type),
      );
      row.append(h("span", "bytes", formula(Object.entries(bytes))));
      body.append(row);
    }
    const el = h("details", "scope", head, body);
    el.open = outputs.length <= 8;
    return el;
  }

  const sum = (counts: Map<string, number>) => [...counts.values()].reduce((a, b) => a + b, 0);

  function drawHead(): void {
    const n = state.stage;
    const stage = data.stages[n];
    const weights = totalsOf(treeOf(itemsOf({ stage: n, show: "after", q: "", at: -1 }))).weights;
    const counts = opCounts(n);
    const facts = [count(sum(counts), "op"), `${formula(weights)} of weights`];
    if (stage && stage.ms !== null) facts.push(`${digits(stage.ms)} ms`);
    if (stage?.options) facts.push(stage.options);
    const changes = h("div", "counts");
    if (n > 0) {
      const was = opCounts(n - 1);
      for (const op of new Set([...was.keys(), ...counts.keys()])) {
        const [a, b] = [was.get(op) ?? 0, counts.get(op) ?? 0];
        if (a === b) continue;
        const chip = h("button", "chip", h("b", "", op), ` ${a} → ${b}`);
        chip.classList.toggle("up", b > a);
        chip.addEventListener("click", () => go({ q: op, show: "changes" }));
        changes.append(chip);
      }
    }
    const title = h("h1", "", stage?.name ?? "");
    $("head").replaceChildren(
      title,
      h("p", "doc", ...prose(stage?.doc ?? "")),
      h("p", "facts", facts.join("  ·  ")),
      changes,
    );
    for (const show of ["before", "after", "changes"]) {
      const button = $(`show-${show}`);
      button.setAttribute("aria-pressed", String(show === state.show));
      button.disabled = n === 0 && show !== "after";
    }
    stageButtons.forEach((el, i) => {
      el.setAttribute("aria-current", String(i === n));
      if (i === n) el.scrollIntoView({ block: "nearest", inline: "nearest" });
    });
    document.title = `${stage?.name} · ${data.title} · gemmac`;
  }

  const stageButtons = data.stages.map((stage, n) => {
    const total = sum(opCounts(n));
    const el = h("button", "stage", h("span", "no", String(n)), h("span", "what", stage.name));
    const items = n > 0 ? itemsOf({ stage: n, show: "changes", q: "", at: -1 }) : [];
    const figures = h("span", "figures", count(total, "op"));
    for (const mark of ["add", "del", "setup"] as const) {
      const k = items.filter((item) => item.mark === mark).length;
      if (k > 0) figures.append(h("span", `delta ${mark}`, `${signs[mark]}${k}`));
    }
    if (n > 0 && items.length === 0) figures.append(h("span", "soft", "no change"));
    if (stage.ms !== null) figures.append(h("span", "ms", `${digits(stage.ms)} ms`));
    el.append(figures);
    el.title = stage.doc;
    el.addEventListener("click", () => go({ stage: n }, true));
    return el;
  });

  /** Opens the scopes around a place, scrolls there and marks it for a moment. */
  function reveal(place: number): void {
    const s = shown(state.show === "before" ? state.stage - 1 : state.stage);
    const i = s.at.get(place);
    if (i === undefined) return;
    const parts = s.scope(i).split("/");
    const paths = s.inputs.has(place) ? [inputsPath] : parts.map((_, n) => parts.slice(0, n + 1).join("/"));
    for (const path of paths) opened.get(path)?.();
    const el = drawn.get(place);
    el?.scrollIntoView({ block: "center" });
    el?.classList.toggle("flash", true);
    setTimeout(() => el?.classList.toggle("flash", false), 1600);
  }

  function drawSearch(): void {
    if ($("search").value !== state.q) $("search").value = state.q;
  }

  function keys(e: UiEvent): void {
    if (e.altKey || e.ctrlKey || e.metaKey) return;
    const typing = e.target === $("search");
    if (e.key === "Escape" && (typing || state.q)) {
      go({ q: "" });
      $("search").blur();
    } else if (typing) return;
    else if (e.key === "/") {
      $("search").focus();
      $("search").select();
    } else if (e.key === "ArrowRight" || (e.key === "ArrowDown" && e.target.closest("#stages"))) step(1);
    else if (e.key === "ArrowLeft" || (e.key === "ArrowUp" && e.target.closest("#stages"))) step(-1);
    else if (e.key === "b") go({ show: "before" });
    else if (e.key === "a") go({ show: "after" });
    else if (e.key === "c") go({ show: "changes" });
    else return;
    e.preventDefault();
  }
  const step = (by: number) => {
    const stage = Math.min(Math.max(state.stage + by, 0), data.stages.length - 1);
    if (stage !== state.stage) go({ stage });
  };

  function follow(): void {
    const was = state;
    state = read();
    const { stage, show, q, at } = state;
    if (stage !== was.stage || show !== was.show || q !== was.q) {
      if (stage !== was.stage || show !== was.show) drawHead();
      drawSearch();
      drawOutline();
    }
    if (at >= 0) reveal(at);
  }

  let waiting: ReturnType<typeof setTimeout> | undefined;
  $("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => go({ q: $("search").value.trim() }), 80);
  });
  for (const show of ["before", "after", "changes"] as const)
    $(`show-${show}`).addEventListener("click", () => go({ show }));
  addEventListener("keydown", keys);
  addEventListener("hashchange", follow);

  $("stages").append(...stageButtons);
  drawHead();
  drawSearch();
  drawOutline();
  if (state.at >= 0) reveal(state.at);
}

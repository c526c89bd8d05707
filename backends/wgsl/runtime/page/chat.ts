import type { Gemma, LoadOptions, Progress, SampleOptions } from "../api.ts";
import type { GemmaError } from "../error.ts";
import type { Message } from "../text/turns.ts";
import { markdown } from "./markdown.ts";

/** What the page is told of its model. */
export interface PageFacts {
  readonly bytes: number;
  readonly context: number;
  readonly canChat: boolean;
  readonly sampling: {
    readonly sample: boolean;
    readonly temperature: number | null;
    readonly topK: number | null;
    readonly topP: number | null;
    readonly maxTokens: number | null;
  };
}
interface ModelModule {
  load(url?: string | URL, options?: LoadOptions): Promise<Gemma>;
}

/** Models up to this size are loaded without being asked for. */
const small = 100e6;
const seen = `gemmac:${location.pathname}`;

const find = <T extends HTMLElement>(id: string): T => {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element ${id}`);
  return found as T;
};
const facts: PageFacts = JSON.parse(find("facts").textContent ?? "{}");
const [log, main, form, input] = [
  find("log"),
  find("main"),
  find("form"),
  find<HTMLTextAreaElement>("input"),
];
const [send, stop, load] = [find<HTMLButtonElement>("send"), find("stop"), find("load")];
const status = find("status");

const starters = facts.canChat
  ? ["Explain WebGPU to a child.", "Write a haiku about the sea.", "Give me three ideas for dinner."]
  : ["In the beginning", "And it came to pass", "The LORD is my"];

let gemma: Gemma | undefined;
let messages: Message[] = [];
let writing: AbortController | undefined;

const size = (bytes: number): string =>
  bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(1)} MB`;

function duration(seconds: number): string {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function notice(text: string, next = "", bad = false): void {
  const made = document.createElement("div");
  made.className = bad ? "notice bad" : "notice";
  const words = document.createElement("span");
  if (bad) {
    const strong = document.createElement("b");
    strong.textContent = text;
    words.append(strong, next);
  } else words.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "×";
  close.setAttribute("aria-label", "Dismiss");
  close.addEventListener("click", () => made.remove());
  made.append(words, close);
  find("notices").append(made);
}

/** Names of files keep their first letter. */
function sentence(text: string): string {
  const first = /^\S*[./]\S/.test(text) ? text.charAt(0) : text.charAt(0).toUpperCase();
  return text && `${first}${text.slice(1)}.`;
}

function complain(e: unknown): void {
  const { message = String(e), next = "" } = e as GemmaError;
  notice(sentence(message), sentence(next), true);
}

function welcome(state: "ask" | "loading" | "ready"): void {
  find("welcome-title").textContent = {
    ask: "A language model, in this page",
    loading: "Getting ready",
    ready: facts.canChat ? "What is on your mind?" : "Begin a text",
  }[state];
  find("welcome-text").textContent = {
    ask: `It runs on your own GPU. ${size(facts.bytes)} of weights are downloaded once and kept by the browser; what you write never leaves this device.`,
    loading: "Weights are checked as they come, and kept for the next visit.",
    ready: facts.canChat
      ? "What you write never leaves this device."
      : "This model continues a text that you begin. What you write never leaves this device.",
  }[state];
  load.textContent = `Load the model (${size(facts.bytes)})`;
  load.hidden = state !== "ask";
  find("progress").hidden = state !== "loading";
  find("starters").hidden = state !== "ready";
  for (const id of ["new", "settings", "form"]) find(id).hidden = state !== "ready";
}

function showProgress({ stage, done, total, cached, secondsLeft }: Progress): void {
  const share = total > 0 ? done / total : 1;
  find("fill").style.width = `${(share * 100).toFixed(1)}%`;
  find("track").setAttribute("aria-valuenow", (share * 100).toFixed(0));
  const kept = cached > 0 ? `, ${size(cached)} from this device` : "";
  find("bytes").textContent = `${size(done)} of ${size(total)}${kept}`;
  const left = done < total && secondsLeft !== undefined ? `${duration(secondsLeft)} left` : "";
  find("left").textContent = left || (stage === "check" || stage === "compile" ? "preparing the GPU" : "");
  status.textContent = `loading ${Math.floor(share * 100)} %`;
}

async function start(): Promise<void> {
  const cancel = new AbortController();
  const stopLoading = () => cancel.abort();
  find("cancel").addEventListener("click", stopLoading, { once: true });
  welcome("loading");
  try {
    const here = new URL("./model.js", document.baseURI).href;
    const module: ModelModule = await import(here);
    gemma = await module.load(undefined, {
      onProgress: showProgress,
      onNotice: (text) => notice(sentence(text)),
      signal: cancel.signal,
    });
    localStorage.setItem(seen, "1");
    status.textContent = `on ${gemma.device}`;
    welcome("ready");
    if (matchMedia("(pointer: fine)").matches) input.focus();
  } catch (e) {
    status.textContent = "not loaded";
    welcome("ask");
    if (cancel.signal.aborted) return;
    load.textContent = "Try again";
    complain(e);
  } finally {
    find("cancel").removeEventListener("click", stopLoading);
  }
}

function turn(kind: "user" | "model"): HTMLElement {
  const made = document.createElement("div");
  made.className = `turn ${kind}`;
  log.append(made);
  return made;
}

/** Keeps the end in view, unless the reader has scrolled away from it. */
function follow(change: () => void): void {
  const near = main.scrollHeight - main.scrollTop - main.clientHeight < 80;
  change();
  if (near) main.scrollTop = main.scrollHeight;
}

const settingsOf = (): SampleOptions => ({
  temperature: find<HTMLInputElement>("temperature").valueAsNumber,
  topK: find<HTMLInputElement>("topk").valueAsNumber,
  topP: find<HTMLInputElement>("topp").valueAsNumber,
  maxTokens: find<HTMLInputElement>("longest").valueAsNumber,
});

async function ask(text: string): Promise<void> {
  if (!gemma || writing) return;
  find("welcome").hidden = true;
  writing = new AbortController();
  const { signal } = writing;
  send.hidden = true;
  stop.hidden = false;
  const given = document.createElement("span");
  const asked = facts.canChat ? turn("user") : undefined;
  if (asked) {
    asked.textContent = text;
    messages.push({ role: "user", content: text });
  }
  const shown = turn("model");
  shown.classList.add("waiting");
  const meta = document.createElement("div");
  meta.className = "meta";
  shown.after(meta);
  main.scrollTop = main.scrollHeight;
  let answer = "";
  let drawn = 0;
  const draw = () => {
    drawn = 0;
    follow(() => {
      if (facts.canChat) shown.replaceChildren(...markdown(answer));
      else {
        given.className = "given";
        given.textContent = text;
        const plain = document.createElement("span");
        plain.className = "plain";
        plain.append(given, answer);
        shown.replaceChildren(plain);
      }
      tell(meta, gemma);
    });
  };
  try {
    const options = { ...settingsOf(), signal };
    const pieces = facts.canChat ? gemma.chat(messages, options) : gemma.generate(text, options);
    for await (const piece of pieces) {
      answer += piece;
      // One drawing a frame, however fast the tokens come.
      drawn ||= requestAnimationFrame(draw);
    }
  } catch (e) {
    complain(e);
  } finally {
    cancelAnimationFrame(drawn);
    if (answer) draw();
    shown.classList.remove("waiting");
    if (answer) {
      if (facts.canChat) messages.push({ role: "assistant", content: answer });
      finish(meta, answer, text);
    } else {
      // Nothing came of it: the text goes back to where it was written.
      if (facts.canChat) messages.pop();
      for (const part of [asked, shown, meta]) part?.remove();
      input.value ||= text;
      grow();
    }
    writing = undefined;
    send.hidden = false;
    stop.hidden = true;
    status.textContent = `on ${gemma.device}`;
  }
}

function tell(meta: HTMLElement, model: Gemma | undefined): void {
  const run = model?.lastRun;
  if (!run) return;
  const speed = run.tokensPerSecond > 0 ? `, ${run.tokensPerSecond.toFixed(1)} tokens/s` : "";
  meta.textContent = `${run.tokens} ${run.tokens === 1 ? "token" : "tokens"}${speed}`;
}

const endings: Readonly<Record<string, string>> = {
  length: "limit reached",
  context: "stopped: the conversation fills what the model can hold",
  aborted: "stopped",
};

function finish(meta: HTMLElement, answer: string, prompt: string): void {
  tell(meta, gemma);
  const ending = endings[gemma?.lastRun?.stop ?? ""];
  if (ending) meta.append(` · ${ending}`);
  const copy = document.createElement("button");
  copy.type = "button";
  copy.textContent = "Copy";
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(facts.canChat ? answer : prompt + answer);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  meta.append(copy);
}

function setting(id: string, value: number, show: (value: number) => string): void {
  const range = find<HTMLInputElement>(id);
  const tellValue = () => (find(`${id}-value`).textContent = show(range.valueAsNumber));
  range.valueAsNumber = value;
  range.addEventListener("input", tellValue);
  tellValue();
}

function grow(): void {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
}

const { sampling } = facts;
setting("temperature", sampling.sample ? (sampling.temperature ?? 1) : 0, (v) =>
  v === 0 ? "likeliest" : v.toFixed(2),
);
setting("topk", sampling.topK ?? 0, (v) => (v === 0 ? "all" : String(v)));
setting("topp", sampling.topP ?? 1, (v) => v.toFixed(2));
find<HTMLInputElement>("longest").max = String(Math.max(16, Math.min(4096, facts.context)));
setting("longest", Math.min(sampling.maxTokens ?? 1024, facts.context), String);
input.placeholder = facts.canChat ? "Message" : "Begin a text";
input.setAttribute("aria-label", input.placeholder);
for (const text of starters) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = text;
  button.addEventListener("click", () => void ask(text));
  find("starters").append(button);
}

load.addEventListener("click", () => void start());
stop.addEventListener("click", () => writing?.abort());
input.addEventListener("input", grow);
input.addEventListener("keydown", (e) => {
  if (e.key !== "Enter" || e.shiftKey || e.isComposing) return;
  e.preventDefault();
  (form as HTMLFormElement).requestSubmit();
});
form.addEventListener("submit", (e) => {
  e.preventDefault();
  const text = facts.canChat ? input.value.trim() : input.value;
  if (!text || writing) return;
  input.value = "";
  grow();
  void ask(text);
});
find("new").addEventListener("click", () => {
  writing?.abort();
  messages = [];
  log.replaceChildren();
  find("welcome").hidden = false;
  welcome("ready");
});
find("settings").addEventListener("click", () => {
  const open = find("panel").hidden;
  find("panel").hidden = !open;
  find("settings").setAttribute("aria-expanded", String(open));
});

welcome("ask");
if (facts.bytes <= small || localStorage.getItem(seen)) void start();

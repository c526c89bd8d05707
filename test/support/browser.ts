import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import type { Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

/** Where a browser is, if there is one: CHROME, or where Linux packages put it. */
export const browser = [
  process.env.CHROME,
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
].find((path) => path && existsSync(path));

/** A headless browser, spoken to over a pipe. */
export class Browser {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (answer: { result?: unknown; error?: unknown }) => void>();
  /** What the page complained of. */
  readonly complaints: unknown[] = [];
  #session: string | undefined;
  #last = 0;

  private constructor(path: string, profile: string) {
    const flags = [
      "headless",
      "no-sandbox",
      "disable-gpu",
      "disable-quic",
      "no-first-run",
      "hide-scrollbars",
    ];
    const quiet = ["disable-background-networking", "disable-component-update", "disable-sync"];
    const own = [`user-data-dir=${profile}`, "remote-debugging-pipe"];
    this.#child = spawn(
      path,
      [...flags, ...quiet, ...own].map((f) => `--${f}`),
      {
        stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
      },
    );
    let text = "";
    (this.#child.stdio[4] as Readable).setEncoding("utf8").on("data", (chunk: string) => {
      const messages = (text + chunk).split("\0");
      text = messages.pop() ?? "";
      for (const message of messages) this.#hear(JSON.parse(message));
    });
  }

  static async open(path: string, profile: string): Promise<Browser> {
    const b = new Browser(path, profile);
    const { targetId } = await b.send<{ targetId: string }>("Target.createTarget", { url: "about:blank" });
    const attached = await b.send<{ sessionId: string }>("Target.attachToTarget", {
      targetId,
      flatten: true,
    });
    b.#session = attached.sessionId;
    for (const domain of ["Page", "Runtime", "Log"]) await b.send(`${domain}.enable`);
    return b;
  }

  #hear(m: { id?: number; method?: string; params?: unknown; result?: unknown; error?: unknown }): void {
    if (m.id !== undefined) this.#waiting.get(m.id)?.(m);
    else if (/exceptionThrown|entryAdded|consoleAPICalled/.test(m.method ?? ""))
      this.complaints.push(m.params);
  }

  send<T>(method: string, params: object = {}): Promise<T> {
    const id = ++this.#last;
    const message = { id, method, params, ...(this.#session && { sessionId: this.#session }) };
    (this.#child.stdio[3] as Writable).write(`${JSON.stringify(message)}\0`);
    return new Promise((resolve, reject) =>
      this.#waiting.set(id, ({ result, error }) =>
        error ? reject(new Error(JSON.stringify(error))) : resolve(result as T),
      ),
    );
  }

  async evaluate(expression: string): Promise<unknown> {
    type Answer = { result: { value: unknown }; exceptionDetails?: unknown };
    const options = { expression, returnByValue: true, awaitPromise: true };
    const { result, exceptionDetails } = await this.send<Answer>("Runtime.evaluate", options);
    if (exceptionDetails) throw new Error(JSON.stringify(exceptionDetails));
    return result.value;
  }

  async go(url: string): Promise<void> {
    await this.send("Page.navigate", { url });
    const loaded = `document.readyState === "complete" && location.href === ${JSON.stringify(url)}`;
    while (!(await this.evaluate(loaded))) await sleep(20);
  }

  async key(key: string): Promise<void> {
    for (const type of ["keyDown", "keyUp"])
      await this.send("Input.dispatchKeyEvent", {
        type,
        key,
        ...(key.length === 1 && type === "keyDown" && { text: key }),
      });
  }

  async look(width: number, height: number, scheme: "light" | "dark"): Promise<Buffer> {
    const size = { width, height, deviceScaleFactor: 1, mobile: width < 500 };
    await this.send("Emulation.setDeviceMetricsOverride", size);
    const features = [{ name: "prefers-color-scheme", value: scheme }];
    await this.send("Emulation.setEmulatedMedia", { features });
    const { data } = await this.send<{ data: string }>("Page.captureScreenshot", { format: "png" });
    return Buffer.from(data, "base64");
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      this.#child.once("close", () => resolve());
      this.#child.kill();
    });
  }
}

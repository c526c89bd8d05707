import type { Expr, Memory, Stmt } from "../lang/index.ts";
import { decimal } from "./expression.ts";

/** Lines of text at growing depth. */
export class Lines {
  readonly #lines: string[] = [];
  #depth = 0;

  add(...lines: readonly string[]): void {
    for (const line of lines) this.#lines.push(line ? `${"  ".repeat(this.#depth)}${line}` : "");
  }
  /** `head {`, what `body` adds, `}`. */
  block(head: string, body: () => void, tail = "}"): void {
    this.add(head ? `${head} {` : "{");
    this.#depth++;
    body();
    this.#depth--;
    this.add(tail);
  }
  /** `head {`, `yes`, and with a `no` that too: `} else {`, `no`, `}`. */
  branch(head: string, yes: () => void, no: (() => void) | undefined): void {
    this.block(head, yes, no ? "} else {" : "}");
    if (!no) return;
    this.#depth++;
    no();
    this.#depth--;
    this.add("}");
  }
  toString(): string {
    return `${this.#lines.join("\n")}\n`;
  }
}

export type Of<K extends Stmt["kind"]> = Extract<Stmt, { kind: K }>;

/** How one language writes each statement. Every kind is there: tsc sees to it. */
export type StatementPrinters = { readonly [K in Stmt["kind"]]: (s: Of<K>) => void };

export function printBody(body: readonly Stmt[], printers: StatementPrinters): void {
  for (const s of body) (printers[s.kind] as (s: Stmt) => void)(s);
}

/** Comment lines of at most about 100 characters. */
export function comment(text: string, mark = "// "): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line && line.length + word.length > 100) {
      lines.push(mark + line);
      line = "";
    }
    line += line ? ` ${word}` : word;
  }
  return [...lines, mark + line];
}

/** Names of reduce: what it is called in helper functions. */
export const reducers = { "+": "sum", max: "max", min: "min" } as const;

/** Results of one reduce, in bundles of at most four that travel as one vector. */
export function bundles(
  s: Of<"reduce">,
): { readonly names: readonly string[]; readonly values: readonly Expr[] }[] {
  const out: { names: string[]; values: Expr[] }[] = [];
  for (const { name, value } of s.results) {
    const last = out.at(-1);
    if (last && last.names.length < 4) {
      last.names.push(name);
      last.values.push(value);
    } else out.push({ names: [name], values: [value] });
  }
  return out;
}

/** What C and CUDA call functions of floats. */
export const floatFunctions: Readonly<Record<string, string>> = {
  exp: "expf",
  exp2: "exp2f",
  tanh: "tanhf",
  sqrt: "sqrtf",
  sin: "sinf",
  cos: "cosf",
  floor: "floorf",
  pow: "powf",
};

/** The head of a loop in C and CUDA, over whole numbers of the type `word`. */
export function loopHead(s: Of<"for">, word: string, expression: (e: Expr) => string): string {
  const [from, to, step] = [s.from, s.to, s.step].map(expression);
  return `for (${word} ${s.name} = ${from}; ${s.name} < ${to}; ${s.name} += ${step})`;
}

/** Statements that C and CUDA write alike; `body` writes those inside. */
export const alike = (
  out: Lines,
  expression: (e: Expr) => string,
  body: (inner: readonly Stmt[]) => void,
): Pick<StatementPrinters, "store" | "if" | "comment"> => ({
  store: (s) => out.add(`${s.memory.name}[${expression(s.index)}] = ${expression(s.value)};`),
  if: (s) =>
    out.branch(
      `if (${expression(s.cond)})`,
      () => body(s.yes),
      s.no.length > 0 ? () => body(s.no) : undefined,
    ),
  comment: (s) => out.add(...comment(s.text)),
});

/** How C and CUDA declare a pointer to memory of elements of `type`; `restrict` is how they say that none overlap. */
export const pointerTo = (m: Memory, type: string, restrict: string): string =>
  `${m.space === "weight" || m.space === "input" ? "const " : ""}${type} *${restrict} `;

/** The numbers of a table, eight a line. */
export function rows(values: readonly number[]): string[] {
  const lines: string[] = [];
  for (let i = 0; i < values.length; i += 8)
    lines.push(
      `  ${values
        .slice(i, i + 8)
        .map(decimal)
        .join(", ")},`,
    );
  return lines;
}

const columns = 80;

/** Untrusted text with its control characters spelled out, so that it cannot steer the terminal. */
export const plain = (text: string): string =>
  text.replace(/\p{Cc}/gu, (c) => `\\u{${c.codePointAt(0)?.toString(16)}}`);

/** One line, or several, on stdout. */
export function print(text = ""): void {
  process.stdout.write(`${text}\n`);
}

/** One JSON document on stdout, lists of numbers on one line each. */
export function printJson(value: unknown): void {
  // Only layout has line breaks: inside strings JSON escapes them.
  const lists = /\[\n\s+(-?\d[\d.e+-]*(?:,\n\s+-?\d[\d.e+-]*)*)\n\s+\]/g;
  print(
    JSON.stringify(value, null, 2).replace(lists, (list) => list.replace(/\n\s+/g, "").replaceAll(",", ", ")),
  );
}

/** One remark on stderr. */
export function note(text: string): void {
  process.stderr.write(`gemmac: ${plain(text)}\n`);
}

/** A heading: bold on a terminal, unless NO_COLOR is set. */
export const heading = (text: string): string =>
  process.stdout.isTTY && !process.env.NO_COLOR ? `\x1b[1m${text}\x1b[22m` : text;

/** Aligned columns, two spaces apart. The last one is wrapped to 80 columns in all. */
export function table(rows: readonly (readonly string[])[], indent = "  "): string {
  const cells = rows.map((row) => row.map(plain));
  const count = Math.max(0, ...cells.map((row) => row.length));
  const widths = Array.from({ length: count }, (_, i) =>
    Math.max(0, ...cells.map((row) => row[i]?.length ?? 0)),
  );
  const offset = widths.slice(0, -1).reduce((sum, width) => sum + width + 2, indent.length);
  return cells
    .map((row) => {
      const fixed = widths.slice(0, -1).map((width, i) => (row[i] ?? "").padEnd(width + 2));
      const last = wrap(row[count - 1] ?? "", Math.max(columns - offset, 20));
      return `${indent}${fixed.join("")}${last.join(`\n${" ".repeat(offset)}`)}`.trimEnd();
    })
    .join("\n");
}

/** Text in lines of at most `width` characters, broken at spaces. */
export function wrap(text: string, width = columns): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line ? `${line} ${word}` : word;
  }
  return [...lines, line];
}

/** What a doc comes down to in a list. */
export const firstSentence = (doc: string): string => /^.*?\.(?= [A-Z]|$)/s.exec(doc)?.[0] ?? doc;

/** A number of bytes, as disks are sold: 1 kB is 1000 bytes. */
export function size(bytes: number): string {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = bytes < 1000 ? 0 : Math.min(Math.floor(Math.log10(bytes) / 3), units.length - 1);
  return `${significant(bytes / 1000 ** power)} ${units[power]}`;
}

/** Three digits, and never an exponent. */
const significant = (x: number): string => (x >= 100 ? x.toFixed(0) : String(Number(x.toPrecision(3))));

/** A length of time, as a reader wants it. */
export const duration = (seconds: number): string =>
  seconds >= 90
    ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`
    : `${significant(seconds)} s`;

/** A large count, with its thousands apart. */
export const number = (n: number): string => n.toLocaleString("en-US");

/** A number, and a noun in the form that goes with it. */
export const plural = (n: number, noun: string): string => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;

/** A line on stderr that is written over and over. Off a terminal nothing is shown. */
export class StatusLine {
  readonly #on = process.stderr.isTTY === true;
  #last = 0;

  /** Show the text, at most ten times a second. */
  show(text: () => string): void {
    const now = performance.now();
    if (!this.#on || now - this.#last < 100) return;
    this.#last = now;
    process.stderr.write(`\r\x1b[K${text().slice(0, (process.stderr.columns || columns) - 1)}`);
  }

  /** Take the line away, before anything else is written. */
  clear(): void {
    if (this.#on && this.#last) process.stderr.write("\r\x1b[K");
    this.#last = 0;
  }
}

import type { Dim } from "../../../ir/dim.ts";
import type { Repeat } from "../../repeat.ts";
import { printDim } from "./dims.ts";
import { columnsOf, findLayers } from "./layers.ts";
import type { Buffer, Line, Piece, Ref, Shown } from "./line.ts";
import { layOutMemory, meetings } from "./memory.ts";
import { inWaves } from "./order.ts";

export interface Printed {
  /** The functions that compute one step: `struct layer`, `layer`, `step`. */
  readonly text: string;
  readonly arenaBytes: number;
  readonly offsets: ReadonlyMap<Buffer, number>;
}

/** Prints a program; `offsetOf` tells where each weight lies in the file. */
export function printProgram(given: readonly Line[], offsetOf: (weight: string) => number): Printed {
  const { lines, waves } = inWaves(given);
  const { offsets, bytes } = layOutMemory(lines, waves);
  const meet = meetings(lines, offsets);
  const repeat = findLayers(lines, offsets);
  const spell = (ref: Ref): string => {
    if (ref.is === "weight") return String(offsetOf(ref.name));
    return ref.is === "number" ? ref.text : String(offsets.get(ref.store));
  };
  const printer = new Printer(lines, meet, offsets, spell);
  const inner = repeat ? printer.layers(repeat) : "";
  return { text: inner + printer.step(repeat), arenaBytes: bytes, offsets };
}

class Printer {
  readonly #lines: readonly Line[];
  readonly #meet: readonly boolean[];
  readonly #offsets: ReadonlyMap<Buffer, number>;
  readonly #spell: (ref: Ref) => string;

  constructor(
    lines: readonly Line[],
    meet: readonly boolean[],
    offsets: ReadonlyMap<Buffer, number>,
    spell: (ref: Ref) => string,
  ) {
    this.#lines = lines;
    this.#meet = meet;
    this.#offsets = offsets;
    this.#spell = spell;
  }

  /** The function of one layer, and the table of what differs between layers. */
  layers(repeat: Repeat): string {
    const { from, period, times } = repeat;
    const { columns, of } = columnsOf(this.#lines, repeat, this.#spell);
    const rows = Array.from(
      { length: times },
      (_, n) => `  {${columns.map((c) => c.values[n]).join(", ")}},`,
    );
    const body = this.#lines.slice(from, from + period).map((line, i) => {
      const column = (k: number) => of(i, k) && `l->${of(i, k)?.name}`;
      const meets = Array.from({ length: times }, (_, n) => this.#meet[from + n * period + i]).some(Boolean);
      return { line, meets, column, layer: this.#layerNumber(repeat, i) };
    });
    return `/* What differs between layers: weights, by where they lie in the file, and numbers. */
struct layer {
${columns.map((c) => `  ${c.type} ${c.name};`).join("\n")}
};
static const struct layer layers[${times}] = {
${rows.join("\n")}
};

static void run_layer(gemma *g, const struct thread *t, int n) {
  const struct layer *l = &layers[n];
${this.#body(body)}}

`;
  }

  /** The number in the origin of line `i` of the body, in terms of the iteration n. */
  #layerNumber({ from, period }: Repeat, i: number): string {
    const at = (n: number) =>
      Number(/\d+/.exec(this.#lines[from + n * period + i]?.shows?.origin ?? "0")?.[0] ?? 0);
    const [first, step] = [at(0), at(1) - at(0)];
    return `${step === 1 ? "n" : `${step} * n`}${first ? ` + ${first}` : ""}`;
  }

  /** The function that every thread runs for each step. */
  step(repeat: Repeat | undefined): string {
    const plain = (line: Line, i: number) => ({
      line,
      meets: this.#meet[i] ?? false,
      column: () => undefined,
      layer: /\d+/.exec(line.shows?.origin ?? "")?.[0] ?? "0",
    });
    const all = this.#lines.map(plain);
    const { from, period, times } = repeat ?? { from: all.length, period: 0, times: 0 };
    const end = from + period * times;
    const loop = repeat ? [`  for (int n = 0; n < ${times}; n++) run_layer(g, t, n);\n`] : [];
    return `/* One step of all threads: T tokens after P others, the last R of them scored. */
static void step(void *model, const struct thread *t) {
  gemma *g = model;
${[this.#block(all.slice(0, from)), ...loop, this.#block(all.slice(end))].join("")}  meet(t);
}
`;
  }

  #block(lines: readonly Numbered[]): string {
    return lines.length ? `  {\n${this.#body(lines).replace(/^(?=.)/gm, "  ")}  }\n` : "";
  }

  #body(lines: readonly Numbered[]): string {
    const names = new Names(
      this.#offsets,
      lines.map((l) => l.line),
    );
    const spoken = lines.map(({ line, meets, column, layer }) => {
      const piece = (p: Piece, k: number): string => {
        if (typeof p === "string") return p;
        if (p.is === "memory") return names.of(p.store);
        const value = column(k) ?? this.#spell(p);
        return p.is === "weight" ? `WEIGHT(${p.ctype}, ${value})` : value;
      };
      const text = line.pieces.map(piece).join("");
      const shown = line.shows ? `\n${this.#trace(line.shows, names, layer)}` : "";
      return `${meets && text ? "meet(t);\n" : ""}${text}${shown}`;
    });
    const uses = spoken.filter((line) => line.trim() !== "").join("\n");
    const sizes = ["T", "P", "R"].filter((s) => new RegExp(`\\b${s}\\b`).test(uses + names.declarations()));
    const head = sizes.length ? `const long ${sizes.map((s) => `${s} = g->${s}`).join(", ")};\n` : "";
    return `${head}${names.declarations()}${uses}`.replace(/^(?=.)/gm, "  ").concat("\n");
  }

  #trace({ origin, buffer, rows, columns }: Shown, names: Names, layer: string): string {
    return `TRACE("${origin.replace(/\d+/, "%d")}", ${layer}, ${names.of(buffer)}, ${printDim(rows as Dim)}, ${columns});`;
  }
}

interface Numbered {
  readonly line: Line;
  readonly meets: boolean;
  readonly column: (piece: number) => string | undefined;
  readonly layer: string;
}

/** Names that mean something in C, or in the functions printed here. */
const reserved = (
  "auto break case char const continue default do double else enum extern float for goto if inline int long register " +
  "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while g l n t model layers"
).split(" ");

/** Names for the memory that some lines use, one for each buffer. */
class Names {
  readonly #names = new Map<Buffer, string>();
  readonly #declared: string[] = [];

  constructor(offsets: ReadonlyMap<Buffer, number>, lines: readonly Line[]) {
    const said = lines.flatMap((line) => line.pieces.filter((piece) => typeof piece === "string")).join(" ");
    const taken = new Set([...reserved, ...(said.match(/[A-Za-z_]\w*/g) ?? [])]);
    const written = new Set<unknown>();
    for (const line of lines) {
      for (const store of line.writes) written.add(store);
      for (const piece of line.pieces) {
        if (typeof piece === "string" || piece.is !== "memory" || this.#names.has(piece.store)) continue;
        const { store } = piece;
        // What a layer is handed goes by one name in all layers.
        const wanted = written.has(store) || store.lasting ? store.label : "input";
        let name = wanted;
        for (let n = 2; taken.has(name); n++) name = `${wanted}_${n}`;
        taken.add(name);
        this.#names.set(store, name);
        this.#declared.push(
          `${store.ctype} *const ${name} = ARENA(${store.ctype}, ${offsets.get(store)});\n`,
        );
      }
    }
  }
  of(buffer: Buffer): string {
    return this.#names.get(buffer) ?? buffer.label;
  }
  declarations(): string {
    return this.#declared.join("");
  }
}

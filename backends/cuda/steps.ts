import { type Dim, product, Sym } from "../../ir/dim.ts";
import { printDim } from "../c/program/dims.ts";
import { columnsOf, findLayers } from "../c/program/layers.ts";
import type { Line, Piece, Ref } from "../c/program/line.ts";
import { askedBytes, type Binding, type Dispatch, type Extent, type Phase } from "../kernel/index.ts";

/** Where memory lies that outlives a step. */
export interface Places {
  weight(name: string): number;
  state(name: string): number;
}

/** The functions that launch one phase: `name(g)`, and one for each layer where layers are alike. */
export function printSteps(
  name: string,
  phase: Phase,
  places: Places,
  spelled: (kernel: string) => string,
): string {
  const lines = phase.dispatches.flatMap((d, i) => [
    line(launch(d, spelled)),
    ...phase.named.filter((n) => n.after === i).map((n) => line(trace(n))),
  ]);
  const spell = (ref: Ref): string => {
    if (ref.is === "memory") return "0";
    if (ref.is === "weight") return String(places.weight(ref.name));
    return ref.role.endsWith("cache") ? String(places.state(ref.text)) : ref.text;
  };
  const repeat = findLayers(lines, new Map());
  const sizes = (body: string) => (/\bT\b/.test(body) ? "  const unsigned T = g->T;\n" : "");
  const plain = (some: readonly Line[]) =>
    some
      .map(({ pieces }) => `  ${pieces.map((p) => (typeof p === "string" ? p : spell(p))).join("")}\n`)
      .join("");
  if (!repeat) {
    const body = plain(lines);
    return `static void ${name}(gemma *g) {\n${sizes(body)}${body}}\n`;
  }
  const { from, period, times } = repeat;
  const { columns, of } = columnsOf(lines, repeat, spell);
  const inner = lines
    .slice(from, from + period)
    .map(({ pieces }, i) => {
      const text = pieces.map((p, k) => {
        if (typeof p === "string") return p;
        const column = of(i, k);
        return column ? `l->${column.name}` : spell(p);
      });
      return `  ${text.join("")}\n`;
    })
    .join("");
  const rows = Array.from({ length: times }, (_, n) => `  {${columns.map((c) => c.values[n]).join(", ")}},`);
  const outer = [
    plain(lines.slice(0, from)),
    `  for (int n = 0; n < ${times}; n++) ${name}_layer(g, n);\n`,
    plain(lines.slice(from + period * times)),
  ].join("");
  return `/* What differs between layers: where weights, caches and activations lie, in bytes. */
static const struct ${name}_layer_places {
${columns.map((c) => `  ${c.type} ${c.name};`).join("\n")}
} ${name}_layers[${times}] = {
${rows.join("\n")}
};
static void ${name}_layer(gemma *g, int n) {
  const struct ${name}_layer_places *l = &${name}_layers[n];
${sizes(inner)}${inner}}

static void ${name}(gemma *g) {
${sizes(outer)}${outer}}
`;
}

const line = (pieces: readonly Piece[]): Line => ({
  pieces,
  reads: [],
  writes: [],
  replaces: [],
  once: false,
});

function launch(d: Dispatch, spelled: (kernel: string) => string): Piece[] {
  const { kernel, bindings, uniforms, grid } = d;
  const sides = [...grid];
  while (sides.length > 1 && sides.at(-1)?.of === 1) sides.pop();
  const asked = askedBytes(kernel);
  const threads = asked > 0 ? `group(${kernel.threads}, ${asked})` : kernel.threads;
  return [
    `launch(g, ${spelled(kernel.name)}, dim3(${sides.map(groups).join(", ")}), ${threads}`,
    ...bindings.flatMap((b, i) => [", ", ...pointer(b, kernel.buffers[i]?.name ?? "memory")]),
    ...uniforms.map((u) => `, ${printDim(u)}`),
    ");",
  ];
}

function groups({ of, per, most }: Extent): string {
  const limit = most ?? Number.POSITIVE_INFINITY;
  if (!(of instanceof Sym)) return String(Math.min(limit, Math.ceil(of / per)));
  const count = per === 1 ? printDim(of) : `groups(${printDim(of)}, ${per})`;
  return most === undefined ? count : `min(${count}, ${most}u)`;
}

function pointer(b: Binding, buffer: string): Piece[] {
  if (b.space === "weight") return ["g->weights + ", { is: "weight", name: b.weight.name, ctype: "" }];
  if (b.space === "arena")
    return ["g->arena + ", { is: "number", role: buffer, type: "size_t", text: String(b.offset) }];
  return [
    "g->state + ",
    { is: "number", role: `${buffer.replace(/_?cache$/, "")}_cache`, type: "size_t", text: b.state.name },
  ];
}

function trace({ origin, result }: Phase["named"][number]): Piece[] {
  const { shape, binding } = result;
  const layer = /\d+/.exec(origin)?.[0];
  const rows: Dim = product(shape.slice(0, -1));
  return [
    `TRACE(g, "${origin.replace(/\d+/, "%d")}", `,
    { is: "number", role: "layer", type: "int", text: layer ?? "0" },
    ", g->arena + ",
    { is: "number", role: "seen", type: "size_t", text: String(binding.offset) },
    `, ${printDim(rows)}, ${shape.at(-1) ?? 1});`,
  ];
}

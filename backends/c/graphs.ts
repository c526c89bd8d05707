import { type Sizes, size } from "../../ir/dim.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import { emitters } from "./ops/emitters.ts";
import { copy, packedPlace } from "./ops/generic.ts";
import { Builder } from "./program/builder.ts";
import { printProgram } from "./program/print.ts";
import { runtimePart } from "./runtime.ts";

/**
 * A program that runs graphs that are no language models, one after another, each with one f32 output: to try what
 * every op becomes. It takes the file of `data`, the file to write outputs to, and a number of threads.
 */
export async function graphSource(
  graphs: readonly Graph[],
  sizes: Sizes,
  bytesOf: (v: Value) => Uint8Array,
): Promise<{ source: string; data: Uint8Array }> {
  const data: Uint8Array[] = [];
  let end = 0;
  const put = (bytes: Uint8Array): number => {
    const at = end;
    const room = Math.ceil(bytes.length / 64) * 64;
    data.push(bytes, new Uint8Array(room - bytes.length));
    end += room;
    return at;
  };
  const programs = graphs.map((graph, n) => {
    const cx = new Builder(graph, emitters, sizes);
    const inputs = graph.inputs.map((v) => ({ v, buffer: cx.provide(v, String(v.attrs.name)) }));
    const [y] = Object.values(graph.outputs);
    if (!y) throw new TypeError("the graph has no output");
    const found = packedPlace(cx, y);
    const place = found.store.kind === "arena" ? found : copy(cx, y, found);
    cx.add(
      [],
      inputs.map((i) => i.buffer),
      [],
    );
    cx.add([], [place.store], []);
    // What is provided is there before the first line.
    cx.lines.unshift({
      pieces: [],
      reads: [],
      writes: inputs.map((i) => i.buffer),
      replaces: [],
      once: true,
    });
    const offsets = new Map(graph.weights().map((w) => [String(w.attrs.name), put(bytesOf(w))]));
    const {
      text,
      arenaBytes,
      offsets: memory,
    } = printProgram(cx.lines, (name) => offsets.get(name) as number);
    if (place.store.kind !== "arena") throw new TypeError("the output is not computed");
    const fills = inputs.map(({ v, buffer }) => {
      const bytes = bytesOf(v);
      return `  memcpy(g->arena + ${memory.get(buffer)}, g->file + ${put(bytes)}, ${bytes.length});`;
    });
    const renamed = text.replace(/\b(step|run_layer|layers|struct layer)\b(?= ?[([{*]| \w)/g, `$1_${n}`);
    const output = { offset: memory.get(place.store), count: size(cx.count(y), sizes) };
    return { n, text: renamed, fills, arenaBytes, output };
  });
  const bytes = new Uint8Array(end);
  data.reduce((at, part) => {
    bytes.set(part, at);
    return at + part.length;
  }, 0);
  const arena = Math.max(...programs.map((p) => p.arenaBytes));
  const part = async (name: string) => (await runtimePart(name)).trimEnd();
  const runs = programs.map(
    ({ n, fills, output }) =>
      `${fills.join("\n")}\n  g->team.step = step_${n};\n  team_run(&g->team);\n  fwrite(g->arena + ${output.offset}, 4, ${output.count}, out);`,
  );
  const source = [
    await part("prelude.c"),
    `enum { VOCAB = 1, CONTEXT = 8, CHUNK = 8, SCORED = 1, CACHES = 0, MOST_HEAD_DIM = 256 };`,
    ...(await Promise.all(
      ["vectors.c", "team.c", "products.c", "codes.c", "rows.c", "attention.c", "state.c"].map(part),
    )),
    ...programs.map((p) => p.text),
    `int main(int argc, char **argv) {
  if (argc != 4) return 2;
  static gemma model;
  gemma *g = &model;
  uint8_t *file = malloc(${end + 64});
  FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
  if (!file || !in || !out || fread(file, 1, ${end}, in) != ${end}) return 1;
  g->file = file;
  g->arena = aligned_alloc(256, ${arena + 256});
  g->T = ${sizes.T}, g->P = ${sizes.P}, g->R = ${sizes.R};
  if (!g->arena || team_open(&g->team, atoi(argv[3]), 0, NULL, g)) return 1;
${runs.join("\n")}
  team_close(&g->team);
  free(g->arena);
  free(file);
  fclose(in);
  return fclose(out) ? 1 : 0;
}`,
  ];
  return { source: `${source.join("\n\n")}\n`, data: bytes };
}

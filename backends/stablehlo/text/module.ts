import {
  type Graph,
  type Mesh,
  type OpDef,
  postorder,
  type Sharding,
  type Value,
} from "../../../ir/graph.ts";
import { constant, param } from "../../../ir/ops/index.ts";
import type { TensorType } from "../../../ir/type.ts";
import { checkDivides, devices } from "../../../passes/specialize/shard.ts";
import type { Emit } from "../../backend.ts";
import { findLoop, type Loop, type Stack } from "../layers/find.ts";
import { nameOfOne } from "../layers/names.ts";
import { writeLoop } from "../layers/write.ts";
import { Body, type Ssa, type Tuning } from "./body.ts";
import { axesText, identifier, meshText, tensorType } from "./dialect.ts";

/** An argument of a module's function. */
export interface Argument {
  /** "weights" and "caches" come as tables by name, what has neither as itself. */
  readonly group: "weights" | "caches" | "inputs";
  readonly name: string;
  readonly type: TensorType;
  /** The tensors of the weights' file that it holds, along its first axis, where they are several. */
  readonly stack?: readonly string[];
  /** How it is cut over the mesh; whole on every device where there is a mesh and this says nothing. */
  readonly sharding?: Sharding;
}
export interface Result {
  readonly name: string;
  readonly type: TensorType;
  readonly sharding?: Sharding;
  /** The argument whose memory it takes over. */
  readonly over?: string;
}

/** How a module is called: arguments and results in their order. */
export interface Interface {
  readonly args: readonly Argument[];
  readonly results: readonly Result[];
  readonly mesh?: Mesh | undefined;
}

export interface Module extends Interface {
  readonly text: string;
  /** What each origin's value is called in the text. */
  readonly activations: Readonly<Record<string, string>>;
}

export type Table = Readonly<Record<string, Emit<Body>>>;

/** Composites that the table lacks are written by `named`. */
export interface Writer {
  readonly table: Table;
  readonly named: Emit<Body>;
  /** Whether layers that are alike are turns of a loop. */
  readonly scanLayers: boolean;
  /** Lowers what stands for a composite to what the table has. */
  lower(v: Value): Value;
  readonly tuning: Tuning;
}

/** Writes `g`, whose sizes are all known, as one module. */
export function writeModule(name: string, g: Graph, writer: Writer): Module {
  const outlines = new Outlines(writer);
  const body = new Body(writer.tuning, (v) => outlines.name(v), g.origins);
  const loop = writer.scanLayers ? findLoop(g) : undefined;
  const { args, results } = interfaceOf(g, loop);
  for (const [v, sharding] of g.mesh ? g.shardings : []) checkDivides(v, sharding, g.mesh ?? {});
  const params = new Map([...g.inputs, ...g.weights()].map((v) => [String(v.attrs.name), v]));
  const declared = args.map((a) => {
    const made = body.called(a.name, a.type);
    const param = params.get(a.name);
    if (param) body.define(param, made);
    return made;
  });
  derivePositions(body, g);
  const write = (b: Body, values: readonly Value[]) => translate(b, values, writer, g.shardings);
  write(body, loop ? loop.before : g.values());
  const stacks = new Map(args.map((a, i) => [a.name, declared[i] as Ssa]));
  const kept = loop && writeLoop(body, loop, stacks, write);
  if (loop) write(body, loop.after);
  const outputs = results.map(({ name }) => kept?.get(name) ?? body.of(g.outputs[name] as Value));
  const over = new Map(results.map((r, i) => [r.over, i]));
  const cut = (sharding: Sharding | undefined) =>
    g.mesh && sharding ? [`sdy.sharding = #sdy.sharding<@mesh, ${axesText(sharding)}>`] : [];
  const braced = (parts: readonly string[]) => (parts.length ? ` {${parts.join(", ")}}` : "");
  const inputs = declared.map((a, i) => {
    const at = over.get(args[i]?.name);
    // Which result takes over the memory of a tensor that is cut is found once the pieces are known.
    const donor = g.mesh ? "jax.buffer_donor = true" : `tf.aliasing_output = ${at} : i32`;
    return `${a.name}: ${tensorType(a.type)}${braced([...cut(args[i]?.sharding), ...(at === undefined ? [] : [donor])])}`;
  });
  const types = results.map(
    ({ name, type, sharding }) =>
      `${tensorType(type)}${braced([`jax.result_info = "${name}"`, ...cut(sharding)])}`,
  );
  const text = [
    `module @${identifier(name)} attributes {mhlo.num_partitions = ${devices(g.mesh ?? {})} : i32, mhlo.num_replicas = 1 : i32} {`,
    ...(g.mesh ? [`  ${meshText(g.mesh)}`] : []),
    "  func.func public @main(",
    inputs.map((line) => `      ${line}`).join(",\n"),
    `  ) -> (${types.join(", ")}) {`,
    ...body.lines.map((line) => `    ${line}`),
    `    return ${outputs.map((o) => o.name).join(", ")} : ${outputs.map((o) => tensorType(o.type)).join(", ")}`,
    "  }",
    ...outlines.texts,
    "}",
    "",
  ].join("\n");
  const reached = [...g.origins].flatMap(([v, origin]) =>
    body.has(v) ? [[origin, body.of(v).name] as const] : [],
  );
  const looped = [...(loop?.origins.values() ?? [])].flatMap(({ all, each }) =>
    each.map((origin, n) => [origin, nameOfOne(`%${identifier(all)}`, n)] as const),
  );
  return {
    text,
    args,
    results,
    mesh: g.mesh,
    activations: Object.fromEntries([...reached, ...looped]),
  };
}

/** Weights and caches by name, as tables are flattened; then the other inputs. Results likewise, caches last. */
function interfaceOf(g: Graph, loop: Loop | undefined): Interface {
  const overwritten = new Map(Object.entries(g.aliases).map(([output, input]) => [input, output]));
  for (const { name, next } of loop?.caches ?? []) overwritten.set(name, next);
  const derived = positionsOf(g);
  const placed = (v: Value | undefined) => {
    const sharding = v && g.shardings.get(v);
    return sharding ? { sharding } : {};
  };
  const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1);
  const stacked = new Set([...(loop?.weights ?? []), ...(loop?.caches ?? [])].flatMap((s) => s.members));
  const single = (group: Argument["group"]) => (v: Value) => ({
    group,
    name: String(v.attrs.name),
    type: v.type,
    ...placed(v),
  });
  const several =
    (group: Argument["group"]) =>
    ({ name, members }: Stack) => {
      const { type, sharding } = { sharding: undefined, ...single(group)(members[0] as Value) };
      const stack = members.map((v) => String(v.attrs.name));
      const all = type.with({ shape: [members.length, ...type.shape] });
      return { group, name, type: all, stack, ...(sharding && { sharding: [undefined, ...sharding] }) };
    };
  const inputs = g.inputs.filter((v) => v !== derived?.positions && !stacked.has(v));
  const isCache = (v: Value) => overwritten.has(String(v.attrs.name));
  const caches = [
    ...inputs.filter(isCache).map(single("caches")),
    ...(loop?.caches ?? []).map(several("caches")),
  ].sort(byName);
  const weights = [
    ...g
      .weights()
      .filter((v) => !stacked.has(v))
      .map(single("weights")),
    ...(loop?.weights ?? []).map(several("weights")),
  ].sort(byName);
  const args = [...weights, ...caches, ...inputs.filter((v) => !isCache(v)).map(single("inputs"))];
  const over = new Set(caches.map((c) => overwritten.get(c.name)));
  const own = new Set(loop?.caches.flatMap((c) => c.outputs));
  const results: Result[] = [
    ...Object.entries(g.outputs)
      .filter(([name]) => !over.has(name) && !own.has(name))
      .map(([name, v]) => ({ name, type: v.type, ...placed(v) })),
    ...caches.map(({ name, type, ...c }) => ({
      name: overwritten.get(name) as string,
      type,
      ...("sharding" in c && c.sharding && { sharding: c.sharding }),
      over: name,
    })),
  ];
  return { args, results };
}

/** A model that is told where its step starts need not be told where its tokens stand. */
function positionsOf(g: Graph): { start: Value; positions: Value } | undefined {
  const [start, positions] = ["start", "positions"].map((name) =>
    g.inputs.find((v) => v.attrs.name === name),
  );
  return start && positions ? { start, positions } : undefined;
}

function derivePositions(b: Body, g: Graph): void {
  const found = positionsOf(g);
  if (!found) return;
  const { type } = found.positions;
  const from = b.broadcast(b.of(found.start), type.shape.map(Number), []);
  b.define(found.positions, b.same("add", [from, b.iota(type, 1)]));
}

function translate(
  b: Body,
  values: readonly Value[],
  { table, named }: Pick<Writer, "table" | "named">,
  shardings: ReadonlyMap<Value, Sharding> = new Map(),
): void {
  for (const v of values) {
    // Numbers are written where they are used, in the shape that is wanted there.
    if (b.has(v) || v.op === constant) continue;
    const write = table[v.op.name] ?? (v.op.composite ? named : undefined);
    if (!write) throw new Error(`no emitter for ${v.op.name}; legalize first`);
    const sharding = shardings.get(v);
    const name = sharding ? b.anonymously(() => write(b, v)) : write(b, v);
    const made = { name, type: v.type };
    const axes = sharding && `<@mesh, ${axesText(sharding)}> : ${tensorType(v.type)}`;
    b.define(v, axes ? b.line(`sdy.sharding_constraint ${name} ${axes}`, v.type, v) : made);
  }
}

/** Functions beside the main one: what each composite stands for, once for all operands of the same types. */
class Outlines {
  readonly texts: string[] = [];
  readonly #names = new Map<string, string>();
  readonly #counts = new Map<OpDef, number>();
  readonly #writer: Writer;

  constructor(writer: Writer) {
    this.#writer = writer;
  }

  name(v: Value): string {
    const key = `${v.op.name}(${v.inputs.map((i) => i.type)})${JSON.stringify(v.attrs)}`;
    const known = this.#names.get(key);
    if (known) return known;
    const count = this.#counts.get(v.op) ?? 0;
    this.#counts.set(v.op, count + 1);
    const name = `gemmac.${identifier(v.op.name)}${count ? `_${count}` : ""}`;
    this.#names.set(key, name);
    const text = this.#write(name, v);
    this.texts.push(text);
    return name;
  }

  #write(name: string, v: Value): string {
    const operands = v.inputs.map((i, n) => param({ name: v.op.inputs[n] as string, type: i.type }));
    const meaning = this.#writer.lower(v.op.decompose?.(operands, v.attrs) as Value);
    const body = new Body(this.#writer.tuning, (inner) => this.name(inner));
    const args = operands.map((p) => {
      const made = body.called(String(p.attrs.name), p.type);
      body.define(p, made);
      return made;
    });
    translate(body, postorder([meaning]), this.#writer);
    const result: Ssa = body.of(meaning);
    const inputs = args.map((a) => `${a.name}: ${tensorType(a.type)}`).join(", ");
    return [
      `  func.func private @${name}(${inputs}) -> ${tensorType(result.type)} {`,
      ...body.lines.map((line) => `    ${line}`),
      `    return ${result.name} : ${tensorType(result.type)}`,
      "  }",
    ].join("\n");
  }
}

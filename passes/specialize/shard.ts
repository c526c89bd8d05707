import { UserError } from "../../ir/error.ts";
import type { Graph, Mesh, Sharding, Value } from "../../ir/graph.ts";
import { string } from "../../ir/op.ts";
import { attention, gather, linear, param, quant_gather, quant_linear } from "../../ir/ops/index.ts";
import { pass } from "../pass.ts";

/** The axes that the plan knows: texts, heads and features, and the rest of each weight. */
const axes = ["data", "model", "fsdp"] as const;

export const shard = pass("shard", {
  doc:
    "Says how weights, caches and activations lie on a mesh such as mesh=data:2/model:4: texts over data; heads, the " +
    "feed-forward block and the vocabulary over model (Megatron's plan: two sums over devices a layer, and one for the " +
    "embedding); the other axis of each weight over fsdp. Key and value heads that do not divide are kept whole.",
  options: { mesh: string() },
  run: (g, options) => {
    const mesh = parseMesh(options.mesh);
    const shardings = new Map<Value, Sharding>();
    const plan = planOf(g, mesh);
    for (const v of [...g.inputs, ...g.values()]) {
      const found = plan(v)?.map((axis) =>
        axis !== undefined && mesh[axis] !== undefined ? axis : undefined,
      );
      if (!found) continue;
      checkDivides(v, found, mesh);
      shardings.set(v, found);
    }
    return g.with({ mesh, shardings });
  },
});

/** Reads `data:2/model:4`. Throws TypeError naming what is no axis. */
export function parseMesh(text: string): Mesh {
  const entries = text.split("/").map((part) => {
    const [name = "", size] = part.split(":");
    if (!axes.some((axis) => axis === name) || !/^[1-9]\d{0,5}$/.test(size ?? ""))
      throw new TypeError(`${part} is no axis of a mesh; write data=2,model=4, of ${axes.join(", ")}`);
    return [name, Number(size)] as const;
  });
  if (new Set(entries.map(([name]) => name)).size < entries.length)
    throw new TypeError(`${text} names an axis twice`);
  return Object.fromEntries(entries);
}

export const devices = (mesh: Mesh): number => Object.values(mesh).reduce((n, size) => n * size, 1);

/** Weights by a part of their name: the axis of their rows and that of their columns. */
const weights: readonly (readonly [RegExp, Sharding | "kv"])[] = [
  [/\bembed_tokens\b|\blm_head\b/, ["model", "fsdp"]],
  [/\bq_proj\b/, ["model", "fsdp"]],
  [/\b[kv]_proj\b/, "kv"],
  [/\bo_proj\b|\bdown_proj\b/, ["fsdp", "model"]],
  [/\bgate_proj\b|\bup_proj\b/, ["model", "fsdp"]],
];

function planOf(g: Graph, mesh: Mesh): (v: Value) => Sharding | undefined {
  const heads = g.values().flatMap((v) => attention.of(v) ?? []);
  const model = mesh.model ?? 1;
  for (const { q } of heads)
    if (q.fixed(1) % model !== 0)
      throw new UserError(
        "usage",
        `${q.fixed(1)} heads do not divide over model=${model}`,
        "choose another mesh",
      );
  const kv = heads.every(({ k }) => k.fixed(1) % model === 0) ? "model" : undefined;
  const inputs = new Set(g.inputs);
  const scales = new Set(g.values().flatMap((v) => quant_gather.of(v)?.scale ?? []));
  const ofWeight = (name: string): Sharding | undefined => {
    const found = weights.find(([pattern]) => pattern.test(name))?.[1];
    return found === "kv" ? [kv, "fsdp"] : found;
  };
  return (v) => {
    if (v.op === param) {
      const name = String(v.attrs.name);
      if (inputs.has(v)) {
        if (name.startsWith("past_key_values.")) return ["data", kv, undefined, undefined];
        return v.shape.map((_, axis) => (axis === 0 ? "data" : undefined));
      }
      const [rows, columns] = ofWeight(name) ?? [];
      // What is no matrix is small, and so are the scales of a table: whole, they are looked up without another sum.
      if (v.type.rank !== 2 || scales.has(v)) return v.shape.map(() => undefined);
      return [rows, v.shape[1] === 1 ? undefined : columns];
    }
    const w = linear.of(v)?.w ?? quant_linear.of(v)?.codes;
    if (w) {
      const [rows] = ofWeight(weightName(w)) ?? [];
      return ["data", ...v.shape.slice(2).map(() => undefined), rows === "fsdp" ? undefined : rows];
    }
    // What bounds the scores leaves them where they are.
    if (v === g.outputs.logits) return ["data", ...v.shape.slice(2).map(() => undefined), "model"];
    if (gather.of(v) || quant_gather.of(v))
      return v.shape.map((_, axis) => (axis === 0 ? "data" : undefined));
    return undefined;
  };
}

/** The weight that `w` is, or is made of. */
const weightName = (w: Value): string =>
  w.op === param ? String(w.attrs.name) : w.inputs[0] ? weightName(w.inputs[0]) : "";

/** Throws UserError when a size that is known does not divide over its axis. */
export function checkDivides(v: Value, sharding: Sharding, mesh: Mesh): void {
  for (const [i, axis] of sharding.entries()) {
    const [size, count] = [v.shape[i], (axis && mesh[axis]) || 1];
    if (typeof size === "number" && size % count !== 0)
      throw new UserError(
        "usage",
        `${v.op === param ? v.attrs.name : v.op.name} : ${v.type} does not divide over ${axis}=${count} along axis ${i}`,
        axis === "data" ? "choose another batch or mesh" : "choose another mesh",
      );
  }
}

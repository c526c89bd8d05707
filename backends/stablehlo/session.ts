import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../../ir/error.ts";
import { type DType, TensorType } from "../../ir/type.ts";
import type { ModelFacts, ModuleInterface, Session, Step } from "../backend.ts";
import { exportedBlob, flatTrees } from "./jax/exported.ts";
import { type Arg, int32, Worker } from "./jax/worker.ts";
import { MainFunction } from "./text/read.ts";
import { weightsFile } from "./weights.ts";

export interface OpenOptions {
  readonly facts: ModelFacts;
  readonly modules: Readonly<Record<string, ModuleInterface>>;
  /** Values to hand out with each step: origin → name in the text. */
  readonly watch?: Readonly<Record<string, string>>;
}

/** Opens the artifact in `dir`, in a Python with JAX. Throws UserError when there is none. */
export async function openSession(
  dir: string,
  { facts, modules, watch = {} }: OpenOptions,
): Promise<Session> {
  const watched = Object.entries(watch);
  const { prefill, decode: stacked } = modules;
  // With its inner values in sight, the text has no loop.
  const decode = stacked && (watched.length > 0 ? apart(stacked) : stacked);
  if (!prefill || !decode)
    throw new UserError(
      "input",
      `${dir}: its manifest lists no prefill and decode`,
      "compile the checkpoint again",
    );
  const worker = await Worker.start();
  await worker.weights(join(dir, weightsFile));
  const types = new Map<string, TensorType>();
  const widths = new Map<string, number>();
  const load = async (name: string, m: ModuleInterface, inner: readonly string[]) => {
    const main = new MainFunction(await readFile(join(dir, `${name}.mlir`), "utf8"));
    const args = m.args.map(({ name, dtype, shape }) => ({
      group: "inputs" as const,
      name,
      type: typeOf(dtype, shape),
    }));
    // Tokens lie along the axis by which the two functions differ, or the last but one.
    for (const [origin, v] of watched) {
      const [type, other] = [main.typeOf(v), types.get(origin)];
      types.set(origin, type);
      const axis = type.shape.findIndex((d, i) => other !== undefined && d !== other.shape[i]);
      const after = type.shape.slice(axis < 0 ? -1 : axis + 1);
      widths.set(
        origin,
        after.map(Number).reduce((a, b) => a * b, 1),
      );
    }
    const own = m.results.map((r) => ({ name: r.name, type: typeOf(r.dtype, r.shape) }));
    const results = [...own, ...inner.map((v) => ({ name: v, type: main.typeOf(v) }))];
    const text = main.watching(inner);
    const blob = exportedBlob({ name, text, args, results, ...flatTrees({ args, results }) });
    const donate = m.args.flatMap((a, i) => (a.group === "caches" ? [i] : []));
    await worker.module(name, blob, donate);
  };
  const shapeOf = (m: ModuleInterface, name: string) => m.args.find((a) => a.name === name)?.shape ?? [];
  const [batch = 1, chunk = 1] = shapeOf(prefill, "tokens");
  const caches = decode.args.filter((a) => a.group === "caches");
  const slotsOf = (a: (typeof caches)[number]) => a.shape.at(-2) ?? 0;
  const slots = Math.max(...caches.map(slotsOf));
  /** A ring would lose to the padding what it must keep. */
  const pads = caches.every((a) => slotsOf(a) === slots);
  try {
    await load(
      "decode",
      decode,
      watched.map(([, name]) => name),
    );
    await load("prefill", prefill, []);
  } catch (cause) {
    await worker.close();
    const why = cause instanceof Error ? cause.message.replace(/\s+/g, " ") : String(cause);
    throw new UserError("input", `${dir}: JAX cannot load it: ${why}`, "compile the checkpoint again", {
      cause,
    });
  }

  let fed = 0;
  const step = async (
    name: string,
    m: ModuleInterface,
    ids: readonly number[],
    real: number,
  ): Promise<Step> => {
    const row = [
      ...ids,
      ...new Array<number>(Math.max(0, (shapeOf(m, "tokens")[1] ?? 0) - ids.length)).fill(0),
    ];
    const inputs: Readonly<Record<string, Arg>> = {
      tokens: int32([batch, row.length], new Array(batch).fill(row).flat()),
      start: int32([], [fed]),
      last: int32([], [real - 1]),
    };
    const args = m.args.map((a): Arg => {
      if (a.group === "weights")
        return { weight: a.name, shape: a.shape, ...(a.stack && { stack: a.stack }) };
      if (a.group === "caches") return fed === 0 ? { zeros: a.shape, dtype: a.dtype } : { state: a.name };
      return inputs[a.name] as Arg;
    });
    const inner = name === "decode" ? watched : [];
    const keep = m.results.map((r) => r.over);
    const logits = m.results.findIndex((r) => r.over === undefined);
    const fetch = [logits, ...inner.map((_, i) => m.results.length + i)];
    const out = await worker.run({ module: name, args, keep, fetch });
    fed += real;
    // All texts of a batch are the same one here.
    const first = (x: Float32Array | undefined) =>
      (x ?? new Float32Array()).subarray(0, (x?.length ?? 0) / batch);
    return {
      logits: first(out[0]),
      watched: new Map(inner.map(([origin], i) => [origin, first(out[i + 1])])),
    };
  };

  return {
    facts,
    async append(ids, { last = false } = {}): Promise<Step> {
      const steps: Step[] = [];
      for (let at = 0; at < ids.length; ) {
        const [left, room] = [ids.length - at, slots - fed];
        const many = last && watched.length === 0 && room >= chunk && (left >= chunk || (pads && left > 1));
        const n = Math.min(left, many ? chunk : 1);
        const [name, m] = many ? (["prefill", prefill] as const) : (["decode", decode] as const);
        steps.push(await step(name, m, ids.slice(at, at + n), n));
        at += n;
      }
      if (last) return { ...(steps.at(-1) as Step), watched: joined(steps, watched) };
      return {
        logits: Float32Array.from(steps.flatMap((s) => [...s.logits])),
        watched: joined(steps, watched),
      };
    },
    reset() {
      fed = 0;
    },
    close: () => worker.close(),
  };

  /** Steps behind one another along the axis of tokens. */
  function joined(
    steps: readonly Step[],
    names: readonly (readonly [string, string])[],
  ): Map<string, Float32Array> {
    return new Map(
      names.map(([origin]) => {
        const parts = steps.map((s) => s.watched.get(origin) as Float32Array);
        const features = widths.get(origin) ?? parts[0]?.length ?? 1;
        const rows = (parts[0]?.length ?? 0) / features;
        const out = new Float32Array(parts.length * rows * features);
        parts.forEach((p, t) => {
          for (let r = 0; r < rows; r++)
            out.set(p.subarray(r * features, (r + 1) * features), (r * parts.length + t) * features);
        });
        return [origin, out];
      }),
    );
  }
}

/** A module without its loop: what it holds of all layers comes as one of each. */
function apart({ file, args, results }: ModuleInterface): ModuleInterface {
  const stacks = new Map(args.flatMap((a) => (a.stack ? [[a.name, a.stack] as const] : [])));
  const one = (shape: readonly number[]) => [1, ...shape.slice(1)];
  return {
    file,
    args: args.flatMap(({ stack, ...a }) =>
      stack ? stack.map((name) => ({ ...a, name, shape: one(a.shape) })) : [a],
    ),
    results: results.flatMap((r) => {
      const stack = r.over === undefined ? undefined : stacks.get(r.over);
      return stack ? stack.map((over) => ({ ...r, name: over, shape: one(r.shape), over })) : [r];
    }),
  };
}

const typeOf = (dtype: DType, shape: readonly number[]) => new TensorType(dtype, shape);

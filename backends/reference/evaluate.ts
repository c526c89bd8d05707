import { type Sizes, size } from "../../ir/dim.ts";
import { type Graph, postorder, type Value } from "../../ir/graph.ts";
import { type BlockFormatName, blockFormat } from "../../ir/ops/ggml.ts";
import {
  block_scale_search,
  cast,
  dequantize,
  gather,
  ggml_codes,
  ggml_dequantize,
  ggml_scales,
  linear,
  param,
  quantize,
} from "../../ir/ops/index.ts";
import { count, type HostTensor, store } from "../../ir/tensor.ts";
import { dtypes, type TensorType } from "../../ir/type.ts";
import { decode, even, interleaved, Pool, tileElements, Workbench } from "../stream/index.ts";
import type { Weights } from "../weights.ts";
import { type ProductJob, product, type StoredRows, valuesOf } from "./product.ts";

export interface StreamingEnv {
  readonly sizes: Sizes;
  /** The runtime inputs. */
  tensor(name: string, type: TensorType): HostTensor | undefined;
  readonly weights: Weights;
  /**
   * Is given each output as soon as it is there, which then need not be kept; left out, all are kept and given at the end. What
   * it gives back is read in the output's place from then on.
   */
  readonly deliver?: (name: string, value: HostTensor) => HostTensor | undefined;
}

/**
 * What `interpret` computes, bit for bit, without ever holding a weight: matrix products read their weight in
 * blocks of rows, and table look-ups read only the rows they need. Run `fuse-linear` first.
 */
export async function evaluate(g: Graph, env: StreamingEnv): Promise<Record<string, HostTensor>> {
  const results: Record<string, HostTensor> = {};
  const keep = (name: string, value: HostTensor) => {
    results[name] = value;
    return undefined;
  };
  const { deliver = keep } = env;
  const outputs = new Map<Value, string[]>();
  for (const [name, v] of Object.entries(g.outputs)) outputs.set(v, [...(outputs.get(v) ?? []), name]);
  const pending = new Map<Value, number>();
  const counted = new Set<Value>();
  /** Counts how often values are operands on the way to `roots`, from what was counted before. */
  const countUses = (roots: readonly Value[]) => {
    for (const u of postorder(roots, counted)) {
      counted.add(u);
      for (const i of u.inputs) pending.set(i, (pending.get(i) ?? 0) + 1);
    }
  };
  countUses([...outputs.keys()]);
  const done = new Map<Value, HostTensor>();
  const bench = new Workbench();
  const pool = new Pool<ProductJob, void>({
    thread: new URL("./worker.js", import.meta.url),
    here: product,
    bench,
  });

  const run = async (v: Value): Promise<HostTensor> => {
    const known = done.get(v);
    if (known) return known;
    const own = await compute(v);
    let made = own;
    for (const name of outputs.get(v) ?? []) made = deliver(name, own) ?? made;
    done.set(v, made);
    outputs.delete(v);
    return made;
  };
  /** Operands are let go after their last use. */
  const release = (v: Value) => {
    const left = (pending.get(v) ?? 0) - 1;
    pending.set(v, left);
    if (left <= 0) done.delete(v);
  };
  const compute = async (v: Value): Promise<HostTensor> => {
    const { op, type } = v;
    if (op === param) return bound(v);
    const look = gather.of(v);
    const table = look && rowsOf(look.table);
    if (look && table) return rows(look.table, table, await run(look.index), concrete(type));
    const product = linear.of(v);
    const weight = product && rowsOf(product.w);
    if (product && weight) {
      const x = await run(product.x);
      release(product.x);
      return multiply(x, product.w, weight, concrete(type));
    }
    if (op.decompose) {
      const inner = op.decompose(v.inputs, v.attrs);
      countUses([inner]);
      const value = await run(inner);
      for (const i of v.inputs) release(i);
      return value;
    }
    if (!op.eval) throw new Error(`${op.name} has neither a meaning nor a decomposition`);
    const operands: HostTensor[] = [];
    for (const i of v.inputs) operands.push(await run(i));
    for (const i of v.inputs) release(i);
    const out = { dtype: type.dtype, shape: concrete(type), sizes: env.sizes };
    return store(op.eval(operands, v.attrs, out), type.dtype);
  };
  const concrete = (t: TensorType) => t.shape.map((d) => size(d, env.sizes));

  const runtime = new Set(g.inputs);
  /** What stands behind a param that the setup makes. */
  const recipe = (v: Value): Value => (v.op === param ? (g.setup[String(v.attrs.name)] ?? v) : v);
  /** Rows of a matrix that is stored, or decoded from what a setup quantizes; undefined for anything else. */
  const rowsOf = (v: Value): Rows | undefined => {
    const made = recipe(v);
    const source = made.op === cast && made.dtype === "f32" ? (made.inputs[0] as Value) : made;
    if (source.op === param && source.type.rank === 2 && !runtime.has(source)) {
      const columns = source.fixed(1);
      return async (from, to, into) => ({
        dtype: source.dtype,
        bytes: await bytesOf(source, from * columns, (to - from) * columns, into),
        columns,
      });
    }
    const unpacked = ggml_dequantize.of(source);
    if (unpacked) return blockRows(source, unpacked.blocks, unpacked.attrs.format);
    const codes = dequantize.of(source);
    return codes && quantizedRows(source, recipe(codes.codes), recipe(codes.scale));
  };
  /** Rows out of stored blocks. */
  const blockRows = (v: Value, stored: Value, format: BlockFormatName): Rows | undefined => {
    if (stored.op !== param || runtime.has(stored)) return undefined;
    const columns = v.fixed(1);
    const width = (columns / blockFormat(format).elements) * blockFormat(format).bytes;
    return async (from, to, into = new Uint8Array((to - from) * width)) => {
      const bytes = into.subarray(0, (to - from) * width);
      await env.weights.read(String(stored.attrs.name), from * width, bytes);
      return { dtype: format, bytes, columns };
    };
  };
  const quantizedRows = (v: Value, codes: Value, scale: Value): Rows | undefined => {
    const kept = ggml_codes.of(codes);
    if (kept && ggml_scales(kept.blocks, kept.attrs) === scale)
      return blockRows(v, kept.blocks, kept.attrs.format);
    const made = quantize.of(codes);
    const x = made && rowsOf(made.x);
    if (!made || !x || recipe(made.scale) !== scale) return undefined;
    const { to, around = "zero" } = scale.attrs as { to: "i8" | "i4"; around?: "zero" | "middle" };
    const coding = { to, around, block: v.fixed(1) / scale.fixed(1) };
    const found = block_scale_search.of(scale);
    return async (from, end, into) => {
      const importance = found && (await read(found.importance, 0, v.fixed(1)));
      return { ...(await x(from, end, into)), coding: { ...coding, ...(importance && { importance }) } };
    };
  };
  const bound = async (v: Value): Promise<HostTensor> => {
    const name = String(v.attrs.name);
    const made = g.setup[name];
    if (made) {
      countUses([made]);
      return run(made);
    }
    const shape = concrete(v.type);
    const given = runtime.has(v)
      ? env.tensor(name, v.type)
      : { shape, data: Float64Array.from(await read(v, 0, count(shape))) };
    if (!given) throw new Error(`no tensor for param ${name} : ${v.type}`);
    return given;
  };
  const bytesOf = async (v: Value, from: number, n: number, into?: Uint8Array): Promise<Uint8Array> => {
    const width = dtypes[v.dtype] / 8;
    const bytes = (into ?? new Uint8Array(n * width)).subarray(0, n * width);
    await env.weights.read(String(v.attrs.name), from * width, bytes);
    return bytes;
  };
  const read = async (v: Value, from: number, n: number): Promise<Float32Array> =>
    decode(v.dtype, await bytesOf(v, from, n));

  const rows = async (
    table: Value,
    source: Rows,
    index: HostTensor,
    shape: readonly number[],
  ): Promise<HostTensor> => {
    const n = table.fixed(1);
    const data = new Float64Array(count(shape));
    for (const [i, row] of index.data.entries()) {
      if (row < 0 || row >= table.fixed(0))
        throw new RangeError(`index ${row} is outside the table of ${table.fixed(0)} rows`);
      data.set(valuesOf(await source(row, row + 1)), i * n);
    }
    return { shape, data };
  };

  const rooms = new Map<string, Uint8Array>();
  /** Room in the workbench, which the next product uses again. */
  const room = (name: string, bytes: number): Uint8Array => {
    const had = rooms.get(name);
    const made = had && had.length >= bytes ? had : bench.take(bytes);
    rooms.set(name, made);
    return made.subarray(0, bytes);
  };
  const doubles = (name: string, n: number) => {
    const { buffer, byteOffset } = room(name, 8 * n);
    return new Float64Array(buffer, byteOffset, n);
  };
  const multiply = async (
    x: HostTensor,
    w: Value,
    source: Rows,
    shape: readonly number[],
  ): Promise<HostTensor> => {
    const [n, k] = [w.fixed(0), w.fixed(1)];
    const m = count(x.shape) / k;
    const data = new Float64Array(m * n);
    const step = Math.max(1, Math.floor(tileElements / Math.max(k, even(m))));
    // Threads are worth it where there are several blocks.
    const slots = n > step ? pool.width + 1 : 1;
    const factors = doubles("x", even(m) * even(k));
    interleaved(x.data, m, k, factors);
    const queue: { readonly from: number; readonly out: Float64Array; readonly done: Promise<void> }[] = [];
    const take = async () => {
      const { from, out, done } = queue.shift() as (typeof queue)[number];
      await done;
      for (let r = 0, at = 0; at < out.length; r++, at += even(m))
        for (let i = 0; i < m; i++) data[i * n + from + r] = out[at + i] as number;
    };
    for (let from = 0, turn = 0; from < n; from += step, turn++) {
      // The room that comes next is that of the oldest job.
      if (queue.length === slots) await take();
      const [to, slot] = [Math.min(n, from + step), turn % slots];
      const rows = await source(from, to, room(`stored.${slot}`, 4 * step * k));
      const { buffer, byteOffset } = room(`row.${slot}`, 4 * even(k));
      const row = new Float32Array(buffer, byteOffset, even(k));
      const out = doubles(`out.${slot}`, even(m) * (to - from));
      const job = { x: factors, m, rows, row, out };
      const done = slots > 1 ? pool.run(job) : Promise.resolve(product(bench, job));
      done.catch(() => {}); // heard of when it is waited for
      queue.push({ from, out, done });
    }
    while (queue.length > 0) await take();
    return store({ shape, data }, "f32");
  };

  try {
    for (const v of [...outputs.keys()]) if (outputs.has(v)) await run(v);
    return results;
  } finally {
    await pool.close();
  }
}

/** Rows [from, to) of a matrix, in `into` or in bytes of their own. */
type Rows = (from: number, to: number, into?: Uint8Array) => Promise<StoredRows>;

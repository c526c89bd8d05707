import { type Dim, plus, product } from "../../../ir/dim.ts";
import type { Value } from "../../../ir/graph.ts";
import {
  attention,
  cast,
  concat,
  constant,
  linear,
  param,
  quant_gather,
  quant_linear,
  rms_norm,
  rope,
} from "../../../ir/ops/index.ts";
import type { Builder, Place } from "../program/builder.ts";
import { number, text } from "../program/line.ts";
import { packedPlace } from "./generic.ts";

/** A matrix that is stored, and how; a cast to f32 is undone. */
function storedMatrix(cx: Builder, v: Value): Value | undefined {
  const source = v.op === cast && v.dtype === "f32" ? (v.inputs[0] as Value) : v;
  return source.op === param && !cx.isInput(source) && source.type.rank === 2 ? source : undefined;
}

const stored = (cx: Builder, v: Value): boolean => v.op === param && !cx.isInput(v);
const floats = new Set(["f32", "bf16", "f16"]);

/** Rows of x [.., K] as they lie one after the other. */
const rowsOf = (cx: Builder, v: Value): Dim => product(cx.shape(v).slice(0, -1));

function linearBy(cx: Builder, v: Value): string {
  const { x, w } = linear.of(v) as NonNullable<ReturnType<typeof linear.of>>;
  const matrix = storedMatrix(cx, w);
  if (!matrix || v.dtype !== "f32" || x.dtype !== "f32" || !floats.has(matrix.dtype)) return cx.lower(v);
  const from = packedPlace(cx, x);
  const out = cx.allocate(v);
  const weight = cx.place(matrix);
  const call = text`linear_${matrix.dtype}(t, ${rowsOf(cx, v)}, ${matrix.fixed(1)}, ${matrix.fixed(0)}, ${cx.pointer(from)}, ${cx.pointer(weight)}, ${cx.pointer(out)});`;
  return cx.compute(v, out, call, [from.store]);
}

/** How codes are given: stored codes, scales and zeros, or a zero that is no stored number. Undefined for anything else. */
function coded(cx: Builder, codes: Value, scale: Value, zero: Value) {
  const scales = storedMatrix(cx, scale);
  if (!stored(cx, codes) || (scales?.dtype !== "f32" && scales?.dtype !== "f16")) return undefined;
  const around = zero.op === constant && zero.attrs.value === 0;
  if (!around && (!stored(cx, zero) || zero.type.rank !== 2)) return undefined;
  return {
    block: codes.fixed(1) / scale.fixed(1),
    codes: cx.pointer(cx.place(codes)),
    scales: cx.pointer(cx.place(scales)),
    half: scales.dtype === "f16",
    zeros: around ? ["NULL"] : cx.pointer(cx.place(zero)),
    around,
  };
}

/** Floats in a vector, at most. */
const mostLanes = 16;

function quantLinear(cx: Builder, v: Value): string {
  const { x, codes, scale, zero } = quant_linear.of(v) as NonNullable<ReturnType<typeof quant_linear.of>>;
  const weight = coded(cx, codes, scale, zero);
  if (!weight || x.dtype !== "f32") return cx.lower(v);
  const bits = codes.dtype === "i4" ? 4 : 8;
  const [N, K] = [codes.fixed(0), codes.fixed(1)];
  const rows = rowsOf(cx, v);
  const from = packedPlace(cx, x);
  const name = `${cx.label(x)}_whole`;
  const whole = cx.shared(`whole ${x.id} ${bits} ${weight.block} ${weight.around}`, () => {
    const at = (part: string, ctype: string, count: Dim): Place => ({
      store: cx.buffer(ctype, count, `${name}_${part}`),
      offset: 0,
      strides: [1],
    });
    // A last panel of tokens is there whole.
    const q = at("codes", "int16_t", product([rows === 1 ? rows : plus(rows, mostLanes - 1), K]));
    const scales = at("scales", "float", rows);
    // Some instruction sets multiply 4-bit codes plus 8.
    const sums =
      weight.around && bits === 8 ? undefined : at("sums", "float", product([rows, K / weight.block]));
    parts.set(q, { scales, sums });
    const out = text`(struct whole){${cx.pointer(q)}, ${cx.pointer(scales)}, ${sums ? cx.pointer(sums) : "NULL"}}`;
    const written = [q.store, scales.store, ...(sums ? [sums.store] : [])];
    cx.add(
      text`to_whole(t, ${rows}, ${K}, ${weight.block}, ${bits}, ${cx.pointer(from)}, ${out});`,
      [from.store],
      written,
    );
    return q;
  });
  const { scales, sums } = parts.get(whole) as Parts;
  const out = cx.allocate(v);
  const given = text`(struct whole){${cx.pointer(whole)}, ${cx.pointer(scales)}, ${sums ? cx.pointer(sums) : "NULL"}}`;
  const call = text`linear_i${bits}${weight.half ? "_f16" : ""}(t, ${rows}, ${K}, ${N}, ${weight.block}, ${given}, ${weight.codes}, ${weight.scales}, ${weight.zeros}, ${cx.pointer(out)});`;
  const read = [whole.store, scales.store, ...(sums ? [sums.store] : [])];
  return cx.compute(v, out, call, read);
}
interface Parts {
  readonly scales: Place;
  readonly sums: Place | undefined;
}
/** What goes with the codes of activations. */
const parts = new WeakMap<Place, Parts>();

const tableTypes: Readonly<Record<string, string>> = {
  f32: "TABLE_F32",
  bf16: "TABLE_BF16",
  f16: "TABLE_F16",
};

/** Rows of a stored table; undefined when it is none. */
function rows(cx: Builder, v: Value, table: Value, index: Value): string | undefined {
  const matrix = storedMatrix(cx, table);
  const type = matrix && tableTypes[matrix.dtype];
  if (!matrix || !type) return undefined;
  const at = packedPlace(cx, index);
  const out = cx.allocate(v);
  const call = text`take_rows(t, ${cx.count(index)}, ${matrix.fixed(1)}, ${cx.pointer(at)}, ${type}, ${cx.pointer(cx.place(matrix))}, 0, TABLE_F32, NULL, NULL, ${cx.pointer(out)});`;
  return cx.compute(v, out, call, [at.store]);
}

function quantGather(cx: Builder, v: Value): string {
  const { codes, scale, zero, index } = quant_gather.of(v) as NonNullable<ReturnType<typeof quant_gather.of>>;
  const table = coded(cx, codes, scale, zero);
  if (!table) return cx.lower(v);
  const at = packedPlace(cx, index);
  const out = cx.allocate(v);
  const type = codes.dtype === "i4" ? "TABLE_I4" : "TABLE_I8";
  const call = text`take_rows(t, ${cx.count(index)}, ${codes.fixed(1)}, ${cx.pointer(at)}, ${type}, ${table.codes}, ${table.block}, ${table.half ? "TABLE_F16" : "TABLE_F32"}, ${table.scales}, ${table.zeros}, ${cx.pointer(out)});`;
  return cx.compute(v, out, call, [at.store]);
}

function rmsNorm(cx: Builder, v: Value): string {
  const { x, scale, attrs } = rms_norm.of(v) as NonNullable<ReturnType<typeof rms_norm.of>>;
  const n = x.type.at(-1);
  if (v.dtype !== "f32" || typeof n !== "number" || scale.dtype !== "f32" || scale.type.rank !== 1)
    return cx.lower(v);
  const from = cx.place(x);
  const by = packedPlace(cx, scale);
  // Heads are normalised where they lie; what is no row of rows is brought together first.
  const source = lies(cx, x, from) ? from : packedPlace(cx, x);
  const out = cx.allocate(v, cx.label(v), false, [...source.strides]);
  const call = text`rms_norm(t, ${rowsOf(cx, v)}, ${n}, ${number("eps", attrs.eps, "float")}, ${cx.pointer(source)}, ${cx.pointer(by)}, ${cx.pointer(out)});`;
  return cx.compute(v, out, call, [source.store, by.store]);
}

/** Whether the elements fill their memory without gaps, rows whole, in whatever order of rows. */
function lies(cx: Builder, v: Value, place: Place): boolean {
  const shape: readonly Dim[] = cx.shape(v);
  const axes = shape.map((n, axis) => [n, place.strides[axis] as Dim] as const).filter(([n]) => n !== 1);
  let want: Dim = 1;
  const open: (readonly [Dim, Dim])[] = [...axes];
  if (open.at(-1)?.[1] !== 1) return false;
  while (open.length > 0) {
    const next = open.findIndex(([, stride]) => stride === want);
    if (next < 0) return false;
    const [[size] = [1]] = open.splice(next, 1);
    want = product([want, size as Dim]);
  }
  return place.offset === 0;
}

/** Numbers of heads × rows vectors, as the runtime takes them. */
const heads = (cx: Builder, place: Place) =>
  text`(struct heads){${cx.pointer(place)}, ${place.strides[1] as Dim}, ${place.strides[2] as Dim}}`;

/** Heads that lie beside one another for each token, so that merging them moves nothing. */
function besides(cx: Builder, v: Value): Place {
  const [, H, T, D] = cx.shape(v) as [Dim, Dim, Dim, Dim];
  return cx.allocate(v, cx.label(v), false, [product([H, T, D]), D, product([H, D]), 1]);
}

function ropeBy(cx: Builder, v: Value): string {
  const { x, positions, attrs } = rope.of(v) as NonNullable<ReturnType<typeof rope.of>>;
  const [, H, T, D] = cx.shape(v) as [Dim, Dim, Dim, Dim];
  const from = cx.place(x);
  if (v.dtype !== "f32" || typeof D !== "number" || from.strides[3] !== 1) return cx.lower(v);
  const half = D / 2;
  const at = packedPlace(cx, positions);
  const angles = (name: string) => ({
    store: cx.buffer("float", product([T, half]), name, true),
    offset: 0,
    strides: [half, 1],
  });
  const key = `rope ${positions.id} ${attrs.theta} ${attrs.factor} ${half}`;
  const cosine = cx.shared(key, () => {
    const [cosines, sines] = [angles("rope_cosine"), angles("rope_sine")];
    cx.add(
      text`rope_angles(t, ${T}, ${half}, ${number("theta", attrs.theta, "float")}, ${number("factor", attrs.factor, "float")}, ${cx.pointer(at)}, ${cx.pointer(cosines)}, ${cx.pointer(sines)});`,
      [at.store],
      [cosines.store, sines.store],
      true,
    );
    sine.set(cosines, sines);
    return cosines;
  });
  const sines = sine.get(cosine) as Place;
  const out = besides(cx, v);
  const call = text`rope(t, ${H}, ${T}, ${half}, ${heads(cx, from)}, ${cx.pointer(cosine)}, ${cx.pointer(sines)}, ${heads(cx, out)});`;
  return cx.compute(v, out, call, [from.store, cosine.store, sines.store]);
}
const sine = new WeakMap<Place, Place>();

/** A cache that grows by this step's keys or values; undefined for anything else. */
export function grown(v: Value): { past: string; fresh: Value } | undefined {
  const joined = concat.of(v);
  if (!joined || v.type.rank !== 4 || joined.attrs.axis !== 2 || joined.a.op !== param) return undefined;
  const past = String(joined.a.attrs.name);
  return past.startsWith("past_key_values.") ? { past, fresh: joined.b } : undefined;
}

/** Writes this step's keys or values into their cache, once. */
export function remember(cx: Builder, { past, fresh }: { past: string; fresh: Value }): number {
  const index = cx.caches.findIndex((c) => c.name === past);
  const cache = cx.caches[index];
  if (!cache) throw new Error(`there is no cache ${past}`);
  if (cache.written) return index;
  cache.written = true;
  const place = cx.place(fresh);
  const from = place.strides[3] === 1 ? place : packedPlace(cx, fresh);
  cx.add(
    text`remember(t, ${cx.shape(fresh)[2] as Dim}, P, ${cache.heads}, ${cache.headDim}, ${heads(cx, from)}, g->cache[${number(past.endsWith(".key") ? "key_cache" : "value_cache", index)}]);`,
    [from.store],
    [{ kind: "cache", index }],
  );
  return index;
}

function attend(cx: Builder, v: Value): string {
  const {
    q,
    k,
    v: values,
    qpos,
    kpos,
    attrs,
  } = attention.of(v) as NonNullable<ReturnType<typeof attention.of>>;
  const [keys, vals] = [grown(k), grown(values)];
  const slots = concat.of(kpos);
  const plain =
    attrs.causal &&
    slots?.a.attrs.name === "past_positions" &&
    slots.b === qpos &&
    qpos.attrs.name === "positions" &&
    cx.isInput(qpos);
  if (!keys || !vals || !plain || v.dtype !== "f32") return cx.lower(v);
  const [, H, T, D] = cx.shape(v) as [Dim, Dim, Dim, Dim];
  const place = cx.place(q);
  const query = place.strides[3] === 1 ? place : packedPlace(cx, q);
  const [keyCache, valueCache] = [remember(cx, keys), remember(cx, vals)];
  for (const index of [keyCache, valueCache]) {
    const cache = cx.caches[index];
    if (cache) cache.window = attrs.window;
  }
  const out = besides(cx, v);
  const cap = number("cap", attrs.softcap, "float");
  const scale = number("scale", attrs.scale, "float");
  const call = text`attend(t, ${T}, P, ${H}, ${k.fixed(1)}, ${D}, ${scale}, ${cap}, ${number("window", attrs.window)}, ${heads(cx, query)}, g->cache[${number("key_cache", keyCache)}], g->cache[${number("value_cache", valueCache)}], ${heads(cx, out)});`;
  return cx.compute(v, out, call, [
    query.store,
    { kind: "cache", index: keyCache },
    { kind: "cache", index: valueCache },
  ]);
}

export const fused = {
  linear: linearBy,
  quantLinear,
  quantGather,
  rows,
  rmsNorm,
  rope: ropeBy,
  attention: attend,
} as const;

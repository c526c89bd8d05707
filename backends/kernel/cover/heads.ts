import type { Dim } from "../../../ir/dim.ts";
import type { Graph, Value } from "../../../ir/graph.ts";
import { attention, concat, reshape, rms_norm, rope, transpose, update } from "../../../ir/ops/index.ts";
import { gemv, rowsOfGroup } from "../library/gemv.ts";
import { type HeadsShape, pairsOfGroup, qkv, ropeHeads } from "../library/rope.ts";
import {
  alike,
  cutFor,
  manyTokens,
  normBefore,
  type Product,
  packed,
  plainVector,
  productOfWeights,
  rowsOf,
  value,
  whole,
} from "./product.ts";
import type { Bound, Launch, Match, Scene, Tile } from "./tile.ts";

interface Turn {
  readonly positions: Value;
  readonly theta: number;
  readonly factor: number;
}
interface HeadNorm {
  readonly scale: Value;
  readonly eps: number;
}
/** Heads as the model writes them: a product, split, perhaps normalised, swapped and turned. */
interface Heads {
  readonly product: Product;
  readonly norm: HeadNorm | undefined;
  readonly turn: Turn | undefined;
  /** The same heads of another product. */
  rebuild(product: Value): Value;
}

const swap = { perm: [0, 2, 1, 3] } as const;

function headsOf(v: Value, scene: Scene): Heads | undefined {
  const turned = rope.of(v);
  const swapped = transpose.of(turned?.x ?? v);
  if (!swapped || String(swapped.attrs.perm) !== String(swap.perm)) return undefined;
  const normed = rms_norm.of(swapped.x);
  const split = reshape.of(normed?.x ?? swapped.x);
  const product = split && productOfWeights(split.x, scene);
  if (!split || !product || split.x.type.rank !== 3) return undefined;
  if (normed && !plainVector(normed.scale, scene)) return undefined;
  return {
    product,
    norm: normed && { scale: normed.scale, eps: normed.attrs.eps },
    turn: turned && { positions: turned.positions, theta: turned.attrs.theta, factor: turned.attrs.factor },
    rebuild: (p) => {
      const parts = reshape(p, split.attrs);
      const unit = normed ? rms_norm(parts, normed.scale, normed.attrs) : parts;
      const heads = transpose(unit, swap);
      return turned ? rope(heads, turned.positions, turned.attrs) : heads;
    },
  };
}

/** Where new keys (or values) go, what they are, and what then stands there. */
interface Stored {
  readonly kind: "slots" | "ring" | "fresh";
  readonly fresh: Value;
  readonly made: Value;
  readonly start: Value | undefined;
  readonly slots: number;
  readonly past: Value | undefined;
}

/** How attention gets at keys: from a cache, beside a ring, or as they are. */
export function storedBy(k: Value, scene: Scene): Stored {
  const written = update.of(k);
  if (written && written.attrs.axis === 2 && !written.attrs.wrap && scene.nextOf(written.dest) === k) {
    const { src: fresh, start, dest } = written;
    return { kind: "slots", fresh, made: k, start, slots: dest.fixed(2), past: dest };
  }
  const beside = concat.of(k);
  const next = beside && scene.nextOf(beside.a);
  const ring = next && update.of(next);
  if (
    beside &&
    ring?.attrs.wrap &&
    ring.attrs.axis === 2 &&
    ring.src === beside.b &&
    beside.attrs.axis === 2
  ) {
    const common = { fresh: beside.b, start: ring.start, slots: beside.a.fixed(2), past: beside.a };
    // A single token pushes out only what its own window hides, so it may go in first.
    if (next && beside.b.shape[2] === 1) return { ...common, kind: "ring", made: next };
    return { ...common, kind: "fresh", made: beside.b };
  }
  return { kind: "fresh", fresh: k, made: k, start: undefined, slots: 0, past: undefined };
}

/** What the layers of one graph project, by each value that comes out of it. */
const found = new WeakMap<Graph, ReadonlyMap<Value, Match>>();

/** Query, key and value of a layer, turned and stored, in one launch for one token and in two for more. */
export const heads: Tile = {
  name: "heads",
  match(v, scene) {
    let known = found.get(scene.graph);
    if (!known) {
      const all = scene.graph.values().flatMap((a) => {
        const m = attention.of(a) ? layer(a, scene) : undefined;
        return m ? m.makes.map((made) => [made, m] as const) : [];
      });
      known = new Map(all);
      found.set(scene.graph, known);
    }
    return known.get(v);
  },
};

function layer(a: Value, scene: Scene): Match | undefined {
  const given = attention.of(a);
  if (!given || a.shape[0] !== 1 || a.dtype !== "f32") return undefined;
  const [keys, values] = [storedBy(given.k, scene), storedBy(given.v, scene)];
  const [q, k, v] = [given.q, keys.fresh, values.fresh].map((x) => headsOf(x, scene));
  if (
    !q?.turn ||
    !k?.turn ||
    !v ||
    v.turn ||
    v.norm ||
    keys.kind !== values.kind ||
    keys.slots !== values.slots
  )
    return undefined;
  const { turn } = q;
  if (turn.positions !== k.turn.positions || turn.theta !== k.turn.theta || turn.factor !== k.turn.factor)
    return undefined;
  if (keys.start !== values.start || q.norm?.eps !== k.norm?.eps || !q.norm !== !k.norm) return undefined;
  if (!alike(q.product, k.product) || !alike(q.product, v.product)) return undefined;
  const positions = scene.stepAt(turn.positions);
  const start = keys.start && scene.stepAt(keys.start);
  if (positions === undefined || (keys.kind !== "fresh" && start === undefined)) return undefined;
  const headDim = a.fixed(3);
  const shape: HeadsShape = {
    heads: given.q.fixed(1),
    kvHeads: keys.fresh.fixed(1),
    headDim,
    theta: turn.theta,
    factor: turn.factor,
    ...(q.norm && { norm: { eps: q.norm.eps } }),
    store: keys.kind === "fresh" ? { kind: "fresh" } : { kind: keys.kind, slots: keys.slots },
    places: { positions, start: keys.kind === "fresh" ? undefined : start },
  };
  const restored = (s: Stored, h: Heads): Value => {
    const fresh = h.rebuild(h.product.over(q.product.x));
    if (s.kind === "fresh" || !s.past || !s.start) return fresh;
    return update(s.past, fresh, s.start, { axis: 2, wrap: s.kind === "ring" });
  };
  const norms = q.norm && k.norm && [q.norm.scale, k.norm.scale];
  const pieces = [q, k, v].map((h) => h.product);
  const fused = oneLaunch(pieces, shape, scene);
  const common = {
    makes: [given.q, keys.made, values.made],
    rebuilt: [q.rebuild(q.product.over(q.product.x)), restored(keys, k), restored(values, v)],
  };
  const outputs = { q: value(given.q), key: value(keys.made), value: value(values.made) };
  if (fused)
    return {
      ...common,
      needs: [fused.x],
      launches: () => [{ ...fused.launch, bind: { ...fused.launch.bind, ...outputs } }],
    };
  const tokens = rowsOf(q.product.x);
  const norm = tokens === 1 ? normBefore(q.product.x, scene) : undefined;
  return {
    ...common,
    needs: [norm?.x ?? q.product.x],
    launches: () => {
      const { launch, projected } = projection(pieces, tokens, norm, scene);
      const bind: Record<string, Bound> = { projected, step: { kind: "step" }, ...outputs };
      if (norms) bind.head_norms = whole(scene.pack(norms, "numbers"));
      const groups = { of: shape.heads + 2 * shape.kvHeads, per: 1 };
      const threads = Math.min(scene.device.threads, 2 ** Math.ceil(Math.log2(headDim / 2)));
      return [
        launch,
        {
          kernel: ropeHeads(shape, threads),
          bind,
          uniforms: { tokens },
          grid: [groups, { of: tokens, per: 1 }],
        },
      ];
    },
  };
}

/** All of it for one token, where no head must be whole before it goes on and the buffers suffice. */
function oneLaunch(
  products: readonly Product[],
  shape: HeadsShape,
  scene: Scene,
): { x: Value; launch: Launch } | undefined {
  const first = products[0] as Product;
  if (rowsOf(first.x) !== 1 || shape.norm) return undefined;
  const fused = normBefore(first.x, scene);
  const weights = packed(products, scene);
  if (weights.some(([, w]) => w.chunks.length > 1)) return undefined;
  const cut = cutFor(scene.device);
  const spec = {
    ...shape,
    columns: first.columns,
    format: first.format,
    ...(fused && { inputNorm: fused.attrs }),
  };
  const kernel = qkv(spec, cut);
  if (kernel.buffers.length > scene.device.buffers) return undefined;
  const x = fused?.x ?? first.x;
  const bind: Record<string, Bound> = { x: value(x), step: { kind: "step" } };
  if (fused) bind.norm = whole(scene.pack([fused.scale], "numbers"));
  for (const [name, w] of weights) bind[name] = whole(w);
  const pairs = ((shape.heads + 2 * shape.kvHeads) * shape.headDim) / 2;
  return { x, launch: { kernel, bind, uniforms: {}, grid: [{ of: pairs, per: pairsOfGroup(spec, cut) }] } };
}

/** The three products as one, into memory that only the next launch reads. */
function projection(
  products: readonly Product[],
  tokens: Dim,
  norm: ReturnType<typeof normBefore>,
  scene: Scene,
): { launch: Launch; projected: Bound } {
  const first = products[0] as Product;
  const weights = packed(products, scene);
  const rows = products.reduce((n, p) => n + p.rows, 0);
  const projected: Bound = { kind: "scratch", scratch: { rows: tokens, columns: rows } };
  const spec = {
    rows,
    columns: first.columns,
    format: first.format,
    ...(norm && { norm: norm.attrs }),
    epilogue: {},
  };
  const bind: Record<string, Bound> = { x: value(norm?.x ?? first.x), y: projected };
  if (norm) bind.norm = whole(scene.pack([norm.scale], "numbers"));
  for (const [name, w] of weights) bind[name] = whole(w);
  if (tokens === 1) {
    const cut = cutFor(scene.device);
    const grid = [{ of: rows, per: rowsOfGroup(spec, cut) }] as const;
    return { launch: { kernel: gemv(spec, cut), bind, uniforms: {}, grid }, projected };
  }
  return { launch: { ...manyTokens(spec, tokens, scene.device), bind }, projected };
}

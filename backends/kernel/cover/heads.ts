import { type Dim, times } from "../../../ir/dim.ts";
import type { Value } from "../../../ir/graph.ts";
import {
  attention,
  cast,
  concat,
  reshape,
  rms_norm,
  rope,
  transpose,
  update,
} from "../../../ir/ops/index.ts";
import { unrounded } from "../../../passes/specialize/narrow.ts";
import type { Half } from "../library/format.ts";
import type { GemmShape } from "../library/products/gemm.ts";
import { gemv, rowsOfGroup } from "../library/products/gemv.ts";
import { type HeadsShape, keepPairs, pairsOfGroup, qkv, ropeHeads } from "../library/rope.ts";
import { alike, type Product, packed, productOfWeights } from "./factors.ts";
import { asIs, type Input, inputs, plainVector, Shared } from "./input.ts";
import { factor, manyTokens } from "./many-tokens.ts";
import { cutFor } from "./product.ts";
import {
  type Bound,
  binds,
  type Launch,
  type Match,
  rowsOf,
  type Scene,
  type Tile,
  value,
  whole,
} from "./tile.ts";

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
  /** Before they are rounded to `pairs`. */
  readonly fresh: Value;
  readonly made: Value;
  readonly start: Value | undefined;
  readonly slots: number;
  readonly past: Value | undefined;
  readonly pairs: Half | undefined;
}

/** What `v` is the widened form of, if `v` is that. */
const narrowOf = (v: Value): Value | undefined => cast.of(v)?.x;

/** How attention gets at keys: from a cache, beside a ring, or as they are. */
export function storedBy(k: Value, scene: Scene): Stored {
  /** What a cache holds, where attention reads it widened; and how. */
  const held = (seen: Value) => {
    const narrow = narrowOf(seen);
    const pairs = narrow && scene.pairs(update.of(narrow)?.dest ?? narrow);
    return { of: pairs ? narrow : seen, pairs };
  };
  const whole = held(k);
  const written = update.of(whole.of);
  /** `x` before it was rounded, where it was. */
  const unrounded = (x: Value, pairs: Half | undefined) => (pairs ? narrowOf(x) : x);
  if (written && written.attrs.axis === 2 && !written.attrs.wrap && scene.nextOf(written.dest) === whole.of) {
    const { src, start, dest } = written;
    const { of: made, pairs } = whole;
    const fresh = unrounded(src, pairs);
    if (fresh) return { kind: "slots", fresh, made, start, slots: dest.fixed(2), past: dest, pairs };
  }
  const beside = concat.of(k);
  const old = beside && held(beside.a);
  const next = old && scene.nextOf(old.of);
  const ring = next && update.of(next);
  const kept = beside && unrounded(beside.b, old?.pairs);
  const fresh = kept && unrounded(kept, old?.pairs);
  if (
    beside &&
    old &&
    fresh &&
    ring?.attrs.wrap &&
    ring.attrs.axis === 2 &&
    ring.src === kept &&
    beside.attrs.axis === 2
  ) {
    const { of: past, pairs } = old;
    const common = { fresh, start: ring.start, slots: past.fixed(2), past, pairs };
    // A single token pushes out only what its own window hides, so it may go in first.
    if (next && beside.b.shape[2] === 1) return { ...common, kind: "ring", made: next };
    return { ...common, kind: "fresh", made: beside.b };
  }
  const none = undefined;
  return { kind: "fresh", fresh: k, made: k, start: none, slots: 0, past: none, pairs: none };
}

const layers = new Shared((a, scene) => (attention.of(a) ? layer(a, scene) : undefined));

/** Query, key and value of a layer, turned and stored, in one launch for one token and in two for more. */
export const heads: Tile = {
  name: "heads",
  match: (v, scene) => layers.match(v, scene),
};

function layer(a: Value, scene: Scene): Match | undefined {
  const given = attention.of(a);
  if (!given || a.shape[0] !== 1 || a.dtype !== "f32") return undefined;
  const [keys, values] = [storedBy(given.k, scene), storedBy(given.v, scene)];
  const query = (scene.device.tensorCores && unrounded(given.q, "bf16")) || given.q;
  const [q, k, v] = [query, keys.fresh, values.fresh].map((x) => headsOf(x, scene));
  if (
    !q?.turn ||
    !k?.turn ||
    !v ||
    v.turn ||
    v.norm ||
    keys.kind !== values.kind ||
    keys.slots !== values.slots ||
    keys.pairs !== values.pairs
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
    ...(keys.pairs && { pairs: keys.pairs }),
  };
  const places = { positions_at: positions, start_at: start ?? 0 };
  const restored = (s: Stored, h: Heads, x: Value): Value => {
    const heads = h.rebuild(h.product.over(x));
    const kept = s.pairs ? cast(heads, { to: s.pairs }) : heads;
    const fresh = s.pairs && s.kind === "fresh" ? cast(kept, { to: "f32" }) : kept;
    if (s.kind === "fresh" || !s.past || !s.start) return fresh;
    return update(s.past, fresh, s.start, { axis: 2, wrap: s.kind === "ring" });
  };
  const norms = q.norm && k.norm && [q.norm.scale, k.norm.scale];
  const pieces = [q, k, v].map((h) => h.product);
  // In pieces they are products of their own.
  if (packed(pieces, scene).some(([, w]) => w.chunks.length > 1)) return undefined;
  const outputs = { q: value(query), key: value(keys.made), value: value(values.made) };
  const match = (input: Input, launches: Match["launches"]): Match => {
    const x = input.over(input.x);
    return {
      makes: [query, keys.made, values.made, ...input.makes],
      rebuilt: [q.rebuild(q.product.over(x)), restored(keys, k, x), restored(values, v, x), ...input.rebuilt],
      needs: [input.x, ...input.needs],
      launches,
    };
  };
  const { x } = q.product;
  const tokens = rowsOf(x);
  const ways = tokens === 1 ? inputs(x, pieces.length, scene) : [asIs(x)];
  for (const input of ways) {
    const launch = tokens === 1 && oneLaunch(pieces, shape, input, scene);
    if (launch)
      return match(input, () => [{ ...launch, uniforms: places, bind: { ...launch.bind, ...outputs } }]);
  }
  for (const input of ways) {
    const { launch, projected, spec } = projection(pieces, tokens, input, scene);
    if (!binds(launch.kernel, scene.device)) continue;
    return match(input, () => {
      const x = tokens === 1 ? { bound: value(input.x), before: [] } : factor(input.x, spec, scene);
      const bind: Record<string, Bound> = { projected, step: { kind: "step" }, ...outputs };
      if (norms) bind.head_norms = whole(scene.pack(norms, "numbers"));
      const groups = { of: shape.heads + 2 * shape.kvHeads, per: 1 };
      const threads = Math.min(scene.device.threads, 2 ** Math.ceil(Math.log2(headDim / 2)));
      const grid = [groups, { of: tokens, per: 1 }] as const;
      const product = { ...launch, bind: { ...launch.bind, x: x.bound } };
      return [
        ...x.before,
        product,
        { kernel: ropeHeads(shape, threads), bind, uniforms: { tokens, ...places }, grid },
      ];
    });
  }
  return undefined;
}

/** New keys or values that stand in memory, into a cache of two numbers to a word. */
export const keep: Tile = {
  name: "keep",
  match(v, scene) {
    const written = update.of(v);
    const pairs = written && scene.pairs(written.dest);
    const start = written && scene.stepAt(written.start);
    if (!pairs || start === undefined || scene.nextOf(written.dest) !== v) return undefined;
    const { src, dest, attrs } = written;
    const x = cast(src, { to: "f32" });
    const [kvHeads, headDim] = [dest.fixed(1), dest.fixed(3)];
    const shape = { kvHeads, headDim, slots: dest.fixed(2), ring: attrs.wrap, pairs };
    const { threads } = scene.device;
    const tokens = src.type.at(2);
    return {
      makes: [v],
      rebuilt: [update(dest, src, written.start, attrs)],
      needs: [x],
      launches: () => [
        {
          kernel: keepPairs(shape, threads),
          bind: { x: value(x), step: { kind: "step" }, cache: value(v) },
          uniforms: { tokens, start_at: start },
          grid: [{ of: times(tokens, (kvHeads * headDim) / 2), per: threads }],
        },
      ],
    };
  },
};

/** All of it for one token, where no head must be whole before it goes on and the buffers suffice. */
function oneLaunch(
  products: readonly Product[],
  shape: HeadsShape,
  input: Input,
  scene: Scene,
): Launch | undefined {
  const first = products[0] as Product;
  const weights = packed(products, scene);
  if (shape.norm) return undefined;
  const cut = cutFor(scene.device);
  const { columns, format } = first;
  const spec = { ...shape, columns, format, ...(input.norm && { inputNorm: input.norm }) };
  const kernel = qkv(spec, cut);
  if (!binds(kernel, scene.device)) return undefined;
  const bind: Record<string, Bound> = { x: value(input.x), ...input.bind(), step: { kind: "step" } };
  for (const [name, w] of weights) bind[name] = whole(w);
  const pairs = ((shape.heads + 2 * shape.kvHeads) * shape.headDim) / 2;
  return { kernel, bind, uniforms: {}, grid: [{ of: pairs, per: pairsOfGroup(spec, cut) }] };
}

/** The three products as one, into memory that only the next launch reads. */
function projection(
  products: readonly Product[],
  tokens: Dim,
  input: Input,
  scene: Scene,
): { launch: Launch; projected: Bound; spec: GemmShape } {
  const { columns, format, rounds } = products[0] as Product;
  const weights = packed(products, scene);
  const rows = products.reduce((n, p) => n + p.rows, 0);
  const projected: Bound = { kind: "scratch", scratch: { rows: tokens, columns: rows } };
  const spec = { rows, columns, format, rounds, ...(input.norm && { norm: input.norm }), epilogue: {} };
  const bind: Record<string, Bound> = { ...input.bind(), y: projected };
  for (const [name, w] of weights) bind[name] = whole(w);
  if (tokens === 1) {
    const cut = cutFor(scene.device);
    const grid = [{ of: rows, per: rowsOfGroup(spec, cut) }] as const;
    return { launch: { kernel: gemv(spec, cut), bind, uniforms: {}, grid }, projected, spec };
  }
  return { launch: { ...manyTokens(spec, tokens, scene.device), bind }, projected, spec };
}

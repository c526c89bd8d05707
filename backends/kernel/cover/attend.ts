import { type Dim, plus, times } from "../../../ir/dim.ts";
import type { Value } from "../../../ir/graph.ts";
import { attention, cast, concat, iota, reshape, transpose } from "../../../ir/ops/index.ts";
import { ringPositions } from "../../../passes/kv-cache.ts";
import { rounded, unrounded } from "../../../passes/specialize/narrow.ts";
import {
  type AttentionShape,
  attention as attentionKernel,
  combine,
  queriesAtOnce,
} from "../library/attention/attention.ts";
import { operands, paddedHead, tensorKeys, tensorQueries } from "../library/attention/operands.ts";
import { attentionTensor, tensorAttends } from "../library/attention/tensor.ts";
import type { Half } from "../library/format.ts";
import { storedBy } from "./heads.ts";
import { leave } from "./many-tokens.ts";
import { type Bound, type Launch, type Match, type Scene, type Tile, value } from "./tile.ts";

/** Attention, with the heads put side by side again where the model does that next. */
export const attend: Tile = {
  name: "attend",
  match(v, scene) {
    const merged = reshape.of(v);
    const swapped = merged && transpose.of(merged.x);
    const inner = swapped && attention.of(swapped.x);
    if (swapped && inner && String(swapped.attrs.perm) === "0,2,1,3" && scene.uses(swapped.x) === 1) {
      const rows = inner.q.fixed(1) * inner.q.fixed(3);
      if (v.type.rank === 3 && v.shape[2] === rows && v.shape[1] === inner.q.shape[2])
        return match(v, swapped.x, scene, (a) => reshape(transpose(a, swapped.attrs), merged.attrs));
    }
    return attention.of(v) ? match(v, v, scene, (a) => a) : undefined;
  },
};

/** Where the keys are, and which positions they hold. */
interface Keys {
  readonly needs: readonly Value[];
  readonly bind: Readonly<Record<string, Bound>>;
  readonly slots: number | Value;
  readonly fresh: boolean;
  /** The slots' type, where a word holds two numbers. */
  readonly pairs?: Half | undefined;
  readonly positions: AttentionShape["positions"];
  readonly uniforms: Readonly<Record<string, number>>;
}

function match(v: Value, a: Value, scene: Scene, finish: (a: Value) => Value): Match | undefined {
  const given = attention.of(a);
  if (!given || a.shape[0] !== 1 || a.dtype !== "f32") return undefined;
  const { attrs } = given;
  // Tensor cores round what they multiply; what does not run on them is left as it is.
  const source = scene.device.tensorCores ? unrounded(given.q, "bf16") : undefined;
  const q = source ?? given.q;
  const [H, G, D] = [q.fixed(1), given.k.fixed(1), q.fixed(3)];
  const queryPositions = scene.stepAt(given.qpos);
  if (D % 4 !== 0 || queryPositions === undefined) return undefined;
  const keys = keysOf(given, scene);
  if (!keys) return undefined;
  const tokens = q.type.at(2);
  const { device } = scene;
  const shared = H / G;
  const most = queriesAtOnce(D, device.sharedBytes);
  const rows = tokens === 1 ? Math.min(most, shared) : most;
  const known = typeof keys.slots === "number" ? keys.slots : undefined;
  const busy = device.busy ? Math.ceil(device.busy / G) : device.splits;
  const splits = tokens === 1 && known ? Math.min(device.splits, busy, Math.ceil(known / 32)) : 1;
  const shape: AttentionShape = {
    heads: H,
    kvHeads: G,
    headDim: D,
    ...attrs,
    slots: known ?? "uniform",
    fresh: keys.fresh,
    ...(keys.pairs && { pairs: keys.pairs }),
    positions: keys.positions,
    rows,
    splits,
    joined: splits > 1 && device.lastArriver,
    byToken: v !== a,
  };
  const onCores =
    source !== undefined &&
    tokens !== 1 &&
    [given.k, given.v].every(isBf16) &&
    tensorAttends(shape, device.sharedBytes);
  return {
    makes: [v],
    rebuilt: [
      finish(
        attention(source ? rounded(source, "bf16") : q, given.k, given.v, given.qpos, given.kpos, attrs),
      ),
    ],
    needs: [q, ...keys.needs],
    launches: () => {
      const bind: Record<string, Bound> = { q: value(q), step: { kind: "step" }, ...keys.bind };
      const slots = typeof keys.slots === "number" ? keys.slots : keys.slots.type.at(2);
      const uniforms = { tokens, slots, positions_at: queryPositions, ...keys.uniforms };
      if (onCores) {
        const { bound: y, leaves } = shape.byToken ? leave(v, scene, 1) : { bound: value(v) };
        const given = { bind, uniforms, y, leavesBf16: leaves !== undefined };
        return tensorLaunches({ ...shape, rows: tensorQueries }, slots, given);
      }
      const kernel = attentionKernel(shape, device);
      const tiles = { of: times(tokens, shared), per: rows };
      const grid = [tiles, { of: G, per: 1 }, { of: splits, per: 1 }] as const;
      if (splits === 1) return [{ kernel, bind: { ...bind, y: value(v) }, uniforms, grid }];
      const parts: Bound = { kind: "scratch", scratch: { rows: splits * H, columns: D } };
      const stats: Bound = { kind: "scratch", scratch: { rows: splits * H, columns: 2 } };
      if (shape.joined)
        return [
          { kernel, bind: { ...bind, parts, stats, arrivals: scene.counters, y: value(v) }, uniforms, grid },
        ];
      const threads = Math.min(device.threads, 2 ** Math.ceil(Math.log2(D / 4)));
      const joined: Launch = {
        kernel: combine(shape, threads),
        bind: { parts, stats, y: value(v) },
        uniforms: { tokens },
        grid: [
          { of: shared, per: 1 },
          { of: G, per: 1 },
        ],
      };
      return [{ kernel, bind: { ...bind, parts, stats }, uniforms, grid }, joined];
    },
  };
}

/** Whether `x` holds nothing that would be lost by rounding to bf16. */
function isBf16(x: Value): boolean {
  const both = concat.of(x);
  return both ? isBf16(both.a) && isBf16(both.b) : cast.of(x)?.x.dtype === "bf16";
}

/** Keys and values as tensor cores read them, then attention of `tokens` queries. */
function tensorLaunches(
  shape: AttentionShape,
  slots: Dim,
  given: Pick<Launch, "bind"> & {
    readonly uniforms: Launch["uniforms"] & { readonly tokens: Dim };
    readonly y: Bound;
    readonly leavesBf16: boolean;
  },
): Launch[] {
  const { heads, kvHeads, headDim } = shape;
  const { uniforms } = given;
  const keys = shape.fresh ? plus(slots, uniforms.tokens) : slots;
  const queries = times(uniforms.tokens, heads / kvHeads);
  const laid = { rows: plus(keys, tensorKeys - 1), columns: kvHeads * paddedHead(headDim) };
  const bind: Launch["bind"] = {
    ...given.bind,
    operands: { kind: "scratch", scratch: laid },
    reach: { kind: "scratch", scratch: { rows: plus(keys, queries), columns: 2 } },
  };
  const each = { of: kvHeads, per: 1 };
  return [
    {
      kernel: operands(shape),
      bind,
      uniforms,
      grid: [{ of: keys, per: tensorKeys }, each, { of: 2, per: 1 }],
    },
    {
      kernel: attentionTensor(shape, given.leavesBf16),
      bind: { ...bind, y: given.y },
      uniforms,
      grid: [{ of: queries, per: tensorQueries }, each],
    },
  ];
}

function keysOf(given: NonNullable<ReturnType<typeof attention.of>>, scene: Scene): Keys | undefined {
  const { k, v, qpos, kpos, attrs } = given;
  const [keys, values] = [storedBy(k, scene), storedBy(v, scene)];
  const { pairs } = keys;
  if (pairs !== values.pairs) return undefined;
  const S = k.type.at(2);
  const slotted = typeof S === "number" && kpos === iota({ shape: [1, S], dtype: "i32" });
  if (slotted && attrs.causal)
    return {
      needs: [keys.made, values.made],
      bind: { key: value(keys.made), value: value(values.made) },
      slots: S,
      fresh: false,
      pairs,
      positions: "slot",
      uniforms: {},
    };
  const ring = keys.past && values.past && keys.start && keys.start === values.start ? keys : undefined;
  const slots = ring?.past && iota({ shape: [1, ring.slots], dtype: "i32" });
  const isRing =
    slots &&
    ring.start &&
    attrs.causal &&
    attrs.window === ring.slots &&
    keys.slots === values.slots &&
    kpos === concat(ringPositions(ring.start, ring.slots, slots), qpos);
  const start = ring?.start && scene.stepAt(ring.start);
  if (keys.kind === "ring" && values.kind === "ring" && isRing && start !== undefined) {
    // Written already, each slot holds the latest position up to the token's own: all that a window of this size shows.
    const bind = { key: value(keys.made), value: value(values.made) };
    return {
      needs: [keys.made, values.made],
      bind,
      slots: keys.slots,
      fresh: false,
      pairs,
      positions: "ring",
      uniforms: { start_at: start },
    };
  }
  const at = scene.stepAt(kpos);
  const inList = { positions: "listed", uniforms: { list_at: at ?? 0 } } as const;
  const list: Bound = at === undefined ? value(kpos) : { kind: "step" };
  const listed = at === undefined ? [kpos] : [];
  const beside = [concat.of(k), concat.of(v)] as const;
  if (
    keys.past &&
    values.past &&
    beside[0] &&
    beside[1] &&
    keys.kind === "fresh" &&
    values.kind === "fresh"
  ) {
    const [a, b] = beside;
    const [oldKeys, oldValues] = [keys.past, values.past];
    const bind = {
      key: value(oldKeys),
      value: value(oldValues),
      fresh_key: value(a.b),
      fresh_value: value(b.b),
      slot_positions: list,
    };
    const needs = [oldKeys, oldValues, a.b, b.b, ...listed];
    return { needs, bind, slots: keys.slots, fresh: true, pairs, ...inList };
  }
  const bind = { key: value(k), value: value(v), slot_positions: list };
  return { needs: [k, v, ...listed], bind, slots: k, fresh: false, ...inList };
}

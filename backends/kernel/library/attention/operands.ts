import {
  type Expr,
  f32,
  fourWords,
  i32,
  type Kernel,
  type KernelBuilder,
  kernel,
  literal,
  type Readable,
  range,
  select,
  u32,
} from "../../lang/index.ts";
import { pairs } from "../format.ts";
import { type AttentionShape, attentionName } from "./attention.ts";

/** Queries that one group of tensor cores answers, sixteen to a pair of warps. */
export const tensorQueries = 64;
/** Keys of one tile: each thread of a row has eight that follow one another. */
export const tensorKeys = 32;

/** Numbers of a head and zeros after them: four threads share a row, and each reads eight numbers at once. */
export const paddedHead = (headDim: number): number => Math.ceil(headDim / 32) * 32;
/** Sixteen bytes of a tile of keys; of values there are as many. */
export const tileQuads = (headDim: number): number => (tensorKeys * paddedHead(headDim)) / 8;

export const isMasked = (s: AttentionShape): boolean => s.causal || s.window > 0;
/** Whether slots lie in order of position, so that nobody looks past the newest query, or before all windows. */
export const isOrdered = (s: AttentionShape): boolean => s.causal && s.positions === "slot";

/** Of a group here: a warp for each eight columns of keys, which one product takes. */
const threads = 128;

/** Keys and queries, as both kernels count them. */
export function counts(k: KernelBuilder, s: AttentionShape) {
  const step = k.input("step", "i32");
  const listed = isMasked(s) && s.positions === "listed" ? k.input("slot_positions", "i32") : undefined;
  const tokens = k.uniform("tokens");
  const positionsAt = k.uniform("positions_at");
  const listAt = listed ? k.uniform("list_at") : undefined;
  const slots = typeof s.slots === "number" ? u32(s.slots) : k.uniform("slots");
  const count = k.let("slot_count", s.fresh ? slots.add(tokens) : slots);
  const shared = s.heads / s.kvHeads;
  return {
    tokens,
    slots,
    count,
    shared,
    tiles: k.let("tiles", count.add(tensorKeys - 1).div(tensorKeys)),
    queries: k.let("query_count", tokens.mul(shared)),
    tokenOf: (query: Expr<"u32">) => query.div(shared).min(tokens.sub(1)),
    positionAt: (token: Expr<"u32">) => step.at(token.add(positionsAt)),
    /** The position that a slot holds. */
    held: (slot: Expr<"u32">) =>
      listed && listAt ? listed.at(slot.min(count.sub(1)).add(listAt)) : slot.to("i32"),
  };
}

/** Where a thread stands in what its warp multiplies: see `mma`. */
export function places(k: KernelBuilder) {
  const lane = k.let("lane", k.thread.mod(32));
  const [g, t] = [k.let("g", lane.div(4)), k.let("t", lane.mod(4))];
  return { warp: k.let("warp", k.thread.div(32)), lane, g, t };
}

/** Words of two bf16: each number of one beside that of the other. */
export const beside = (a: Expr<"f32x4">, b: Expr<"f32x4">): Expr<"u32x4"> =>
  fourWords(...range(4).map((i) => pairs.bf16.pack(a.lane(i), b.lane(i))));

/** Reads numbers of a key or value, where `row` counts the slots of a head, and those of the heads before it. */
type Read<T extends "u32x4" | "f32"> = (row: Expr<"u32">, at: Expr<"u32">) => Expr<T>;
interface Source<T extends "u32x4" | "f32"> {
  readonly old: Read<T>;
  readonly fresh: Read<T> | undefined;
}

/** Eight numbers of a key in words of two, number i beside i + D/2: as caches hold them whose words have two numbers. */
function keysOf(k: KernelBuilder, s: AttentionShape): Source<"u32x4"> {
  const eights = s.headDim / 8;
  const floats =
    (from: Readable<"f32x4">): Read<"u32x4"> =>
    (row, at) => {
      const first = k.let("first", row.mul(2 * eights).add(at));
      return beside(k.let("lower", from.at(first)), k.let("upper", from.at(first.add(eights))));
    };
  const both =
    (from: Readable<"u32x4">): Read<"u32x4"> =>
    (row, at) =>
      from.at(row.mul(eights).add(at));
  return {
    old: s.pairs ? both(k.input("key", "u32x4")) : floats(k.input("key", "f32x4")),
    fresh: s.fresh ? floats(k.input("fresh_key", "f32x4")) : undefined,
  };
}

/** One number of a value. */
function valuesOf(k: KernelBuilder, s: AttentionShape): Source<"f32"> {
  const D = s.headDim;
  const floats =
    (from: Readable<"f32">): Read<"f32"> =>
    (row, at) =>
      from.at(row.mul(D).add(at));
  const both =
    (from: Readable<"u32">): Read<"f32"> =>
    (row, at) => {
      const word = from.at(row.mul(D / 2).add(at.mod(D / 2)));
      const [lower, upper] = twoOf(pairs.bf16.unpack(word));
      return select(at.lt(D / 2), lower, upper);
    };
  return {
    old: s.pairs ? both(k.input("value", "u32")) : floats(k.input("value", "f32")),
    fresh: s.fresh ? floats(k.input("fresh_value", "f32")) : undefined,
  };
}

type Two = [Expr<"f32">, Expr<"f32">];
const twoOf = (all: readonly Expr<"f32">[]): Two => all as Two;

/**
 * Keys and values for attention on tensor cores: bf16, in the order in which the threads of a warp bring them to a product,
 * so that groups copy them as they are, and neighbours read neighbouring 16 bytes. A product sums in any order: what a
 * thread reads of a key at once are its share of two steps, and words are those of a cache that has two numbers in each. Of
 * values a word has two keys, and columns are dealt so that a thread gets four neighbouring numbers of the result.
 *
 * Groups: x over tiles of keys, y over key heads, z keys and values. With a mask there also is `reach`: the least and the
 * largest position of each tile of keys, where they are listed, and then of the queries of each group.
 */
export function operands(s: AttentionShape): Kernel {
  const doc = `keys and values of ${s.headDim} numbers as bf16, in the order in which tensor cores want them`;
  const name = attentionName(s).replace("attention", "attention_operands");
  return kernel(name, { doc, threads }, (k) => {
    const keys = keysOf(k, s);
    const values = valuesOf(k, s);
    const { tokens, slots, count, tiles, queries, tokenOf, positionAt, held } = counts(k, s);
    const out = k.output("operands", "u32x4");
    const reach = isMasked(s) ? k.output("reach", "i32") : undefined;
    const [tile, kvHead] = [k.let("tile", k.group.x), k.let("key_head", k.group.y)];
    const firstSlot = k.let("first_slot", tile.mul(tensorKeys));
    const { warp, lane, g, t } = places(k);

    const least = (name: string, value: Expr<"i32">) => k.reduce("min", [{ name, value }])[0] as Expr<"i32">;
    const most = (name: string, value: Expr<"i32">) => k.reduce("max", [{ name, value }])[0] as Expr<"i32">;
    if (reach)
      k.if(kvHead.add(k.group.z).eq(0), () => {
        const note = (at: Expr<"u32">, position: Expr<"i32">) => {
          const own = k.let("own", position);
          const [low, high] = [least("low", own), most("high", own)];
          k.if(k.thread.eq(0), () => {
            reach.set(at.mul(2), low);
            reach.set(at.mul(2).add(1), high);
          });
        };
        if (s.positions === "listed") note(tile, held(firstSlot.add(lane)));
        const queryTiles = queries.add(tensorQueries - 1).div(tensorQueries);
        k.for("query_tile", { from: tile, to: queryTiles, step: k.groups }, (queryTile) => {
          const query = queryTile.mul(tensorQueries).add(k.thread.mod(tensorQueries));
          note(tiles.add(queryTile), positionAt(tokenOf(query)));
        });
      });

    // What lies behind the newest query may be anything, and counts as zeros.
    let to = count;
    const needed = [firstSlot.lt(count)];
    if (isOrdered(s)) {
      const [oldest, newest] = [k.var("oldest", i32(2 ** 31 - 1)), k.var("newest", i32(-1))];
      k.for("token", { from: k.thread, to: tokens, step: threads }, (token) => {
        const position = k.let("position", positionAt(token));
        oldest.set(oldest.min(position));
        newest.set(newest.max(position));
      });
      to = k.let("slots_end", most("last", newest).add(1).to("u32").min(count));
      needed.push(firstSlot.lt(to));
      if (s.window) {
        const past = firstSlot.add(tensorKeys - 1 + s.window).to("i32");
        needed.push(least("first", oldest).le(past));
      }
    }
    const found = <T extends "u32x4" | "f32">(
      { old, fresh }: Source<T>,
      slot: Expr<"u32">,
      at: Expr<"u32">,
      none: Expr<T>,
    ): Expr<T> => {
      const cached = old(kvHead.mul(slots).add(slot.min(slots.sub(1))), at);
      if (!fresh) return select(slot.lt(to), cached, none);
      const own = fresh(kvHead.mul(tokens).add(slot.max(slots).sub(slots).min(tokens.sub(1))), at);
      return select(slot.lt(to), select(slot.lt(slots), cached, own), none);
    };

    const eights = s.headDim / 8;
    const base = k.let(
      "base",
      kvHead
        .mul(tiles)
        .add(tile)
        .mul(2 * tileQuads(s.headDim)),
    );
    const layKeys = () => {
      // Column g of the warp's own product is key 2·warp + g % 2 of the eight that thread g / 2 of a row has.
      const slot = k.let("slot", firstSlot.add(g.div(2).mul(8)).add(warp.mul(2)).add(g.mod(2)));
      k.for("step", { to: paddedHead(s.headDim) / 32 }, (step) => {
        const eight = k.let("eight", step.mul(4).add(t));
        const to = base.add(step.mul(threads)).add(k.thread);
        const none = literal("u32x4", 0);
        if (s.headDim % 32 === 0) out.set(to, found(keys, slot, eight, none));
        else out.set(to, select(eight.lt(eights), found(keys, slot, eight.min(eights - 1), none), none));
      });
    };
    const layValues = () =>
      k.for("eight", { from: warp, to: eights, step: threads / 32 }, (eight) => {
        // Of two products, columns 2t and 2t + 1 are numbers 4t to 4t + 3 of sixteen.
        const sixteen = eight.div(2).mul(16);
        const number = k.let("number", sixteen.add(g.div(2).mul(4)).add(eight.mod(2).mul(2)).add(g.mod(2)));
        const read = range(8).map((i) => {
          const slot = k.let("slot", firstSlot.add(t.mul(8)).add(i));
          return k.let(`value${i}`, found(values, slot, number, f32(0)));
        });
        const both = range(4).map((i) => pairs.bf16.pack(...twoOf(read.slice(2 * i, 2 * i + 2))));
        out.set(base.add(tileQuads(s.headDim)).add(eight.mul(32)).add(lane), fourWords(...both));
      });
    k.if(
      needed.reduce((a, b) => a.and(b)),
      () => k.if(k.group.z.eq(0), layKeys, layValues),
    );
  });
}

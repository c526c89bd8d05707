import {
  type Expr,
  f32,
  type Kernel,
  type KernelBuilder,
  kernel,
  literal,
  quad,
  type Readable,
  range,
  select,
  u32,
  type Var,
  type Writable,
} from "../../lang/index.ts";
import { type Half, numberName, pairs } from "../format.ts";
import { softcap as capped } from "../math.ts";

/** Which position each slot holds. */
export type SlotPositions =
  /** Slot s holds position s. */
  | "slot"
  /** Slot s holds the latest position up to that of the newest token that is s modulo `slots`. */
  | "ring"
  /** A list of i32. */
  | "listed";

export interface AttentionShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly scale: number;
  readonly causal: boolean;
  /** 0 for none. */
  readonly window: number;
  /** 0 for none. */
  readonly softcap: number;
  /** Slots of keys, or "uniform" where the launch says how many. */
  readonly slots: number | "uniform";
  /** As many more keys as there are queries, in buffers of their own after the slots. */
  readonly fresh: boolean;
  /** The slots' type, where a word holds numbers i and i + headDim/2. */
  readonly pairs?: Half;
  readonly positions: SlotPositions;
  /** Queries (tokens times heads that share a key head) that one group answers. */
  readonly rows: number;
  /** Groups that share the keys of one query; more than one leaves parts for `combine`. */
  readonly splits: number;
  /** Whether the last group to arrive joins the parts by itself. */
  readonly joined: boolean;
  /** Whether the result is [tokens, heads, headDim], as projections want it, or [heads, tokens, headDim]. */
  readonly byToken: boolean;
}

export const attentionName = (s: AttentionShape): string =>
  `attention_${s.heads}q${s.kvHeads}kv${s.headDim}_${s.slots === "uniform" ? "n" : s.slots}${s.pairs ? `_${s.pairs}` : ""}${s.fresh ? "_and_fresh" : ""}_${s.positions}_scale${numberName(s.scale)}` +
  `${s.causal ? "" : "_all"}${s.window ? `_window${s.window}` : ""}${s.softcap ? `_cap${numberName(s.softcap)}` : ""}` +
  `_rows${s.rows}${s.splits > 1 ? `_split${s.splits}` : ""}${s.joined ? "_joined" : ""}${s.byToken ? "" : "_by_head"}`;

/** Queries that one group can answer at once, so that at least as many keys fit beside them. */
export function queriesAtOnce(headDim: number, sharedBytes: number): number {
  const fits = (rows: number) => 2 * rows * 4 * (headDim + 4) + 4 * rows * (rows + 3) + 1024 <= sharedBytes;
  return [16, 8, 4, 2].find(fits) ?? 1;
}

/** Keys that are looked at in one go: as many as fit beside the queries. */
const keysAtOnce = (headDim: number, sharedBytes: number, rows: number): number => {
  const row = 4 * (headDim + 4);
  const fits = Math.floor((sharedBytes - rows * (row + 16) - 1024) / (row + 4 * rows));
  return Math.max(1, Math.min(32, 2 ** Math.floor(Math.log2(Math.max(1, fits)))));
};

/** The score of a slot that the mask hides: next to any visible one its weight is exactly zero. */
export const hidden = -1e30;
/** The largest score of no slots. */
export const nothing = -3e38;

/**
 * softmax(q·kᵀ·scale)·v with the running maximum and sum of Milakov & Gimelshein (2018), so that no row of scores
 * ever stands in memory. Groups: x over queries, y over key heads, z over shares of the keys.
 */
export function attention(
  s: AttentionShape,
  { threads, sharedBytes }: { threads: number; sharedBytes: number },
): Kernel {
  const doc =
    `attention of ${s.heads} heads over ${s.kvHeads} key heads of ${s.headDim}` +
    `${s.window ? `, the last ${s.window} positions only` : ""}${s.softcap ? `, scores within ±${s.softcap}` : ""}` +
    `${s.splits > 1 ? `; each query's keys are shared by ${s.splits} groups${s.joined ? ", the last of which joins what they found" : ""}` : ""}`;
  // Of groups that share one query's keys there are no more than keep a GPU busy; of others two of 256 threads already read
  // as much of the memory that they share as they can, two thirds of the time each.
  const atOnce = Math.max(1, Math.floor(512 / threads));
  return kernel(attentionName(s), { doc, threads, atOnce }, (k) => {
    const q = k.input("q", "f32x4");
    const key = slotQuads(k, "key", s);
    const value = slotQuads(k, "value", s);
    const freshKey = s.fresh ? k.input("fresh_key", "f32x4") : undefined;
    const freshValue = s.fresh ? k.input("fresh_value", "f32x4") : undefined;
    const step = k.input("step", "i32");
    const masked = s.causal || s.window > 0;
    const listed = masked && s.positions === "listed" ? k.input("slot_positions", "i32") : undefined;
    const out = s.splits > 1 ? k.output("parts", "f32x4") : k.output("y", "f32x4");
    const stats = s.splits > 1 ? k.output("stats", "f32") : undefined;
    const counts = s.joined ? k.counter("arrivals") : undefined;
    const y = s.joined ? k.output("y", "f32x4") : undefined;
    const tokens = k.uniform("tokens");
    // Where the step has the queries' positions, the newest token's, and what `slot_positions` begins at.
    const positionsAt = k.uniform("positions_at");
    const startAt = s.positions === "ring" ? k.uniform("start_at") : undefined;
    const listAt = listed ? k.uniform("list_at") : undefined;

    const shared = s.heads / s.kvHeads;
    const quads = s.headDim / 4;
    const pitch = quads + 1;
    const rows = s.rows;
    const keys = keysAtOnce(s.headDim, sharedBytes, rows);
    const queries = k.shared("queries", "f32x4", rows * pitch);
    const tile = k.shared("tile", "f32x4", keys * pitch);
    const scores = k.shared("scores", "f32", rows * keys);
    const largest = k.shared("largest", "f32", rows);
    const total = k.shared("total", "f32", rows);
    const fade = k.shared("fade", "f32", rows);

    const firstRow = k.let("first_query", k.group.x.mul(rows));
    const kvHead = k.let("key_head", k.group.y);
    const allRows = k.let("query_count", tokens.mul(shared));
    const tokenOf = (row: Expr<"u32">) => row.div(shared).min(tokens.sub(1));
    const headOf = (row: Expr<"u32">) => kvHead.mul(shared).add(row.mod(shared));
    const positionOf = (row: Expr<"u32">) => step.at(tokenOf(row).add(positionsAt));

    const slots = typeof s.slots === "number" ? u32(s.slots) : k.uniform("slots");
    const count = k.let("slot_count", s.fresh ? slots.add(tokens) : slots);
    // Slots in order of position end with the newest query and, in a window, begin near the oldest.
    let [from, to]: [Expr<"u32">, Expr<"u32">] = [u32(0), count];
    if (s.positions === "slot" && s.causal) {
      const inTile = Math.floor((rows - 1) / shared) + 2;
      const spans = range(Math.min(inTile, rows)).map((i) =>
        step.at(firstRow.div(shared).add(i).min(tokens.sub(1)).add(positionsAt)),
      );
      const newest = spans.reduce((a, b) => a.max(b));
      to = k.let("slots_end", newest.add(1).max(0).to("u32").min(count));
      if (s.window) {
        const oldest = spans.reduce((a, b) => a.min(b));
        from = k.let(
          "slots_begin",
          oldest
            .add(1 - s.window)
            .max(0)
            .to("u32")
            .min(to),
        );
      }
    }
    if (startAt) to = k.let("slots_end", step.at(startAt).add(1).max(0).to("u32").min(count));
    if (s.splits > 1) {
      const share = k.let(
        "share",
        to
          .sub(from)
          .add(s.splits - 1)
          .div(s.splits),
      );
      const begin = k.let("share_begin", from.add(k.group.z.mul(share)).min(to));
      to = k.let("share_end", begin.add(share).min(to));
      from = begin;
    }

    k.for("i", { from: k.thread, to: rows * quads, step: threads }, (i) => {
      const [r, quad] = [i.div(quads), i.mod(quads)];
      const row = firstRow.add(r).min(allRows.sub(1));
      const at = headOf(row).mul(tokens).add(tokenOf(row)).mul(quads).add(quad);
      queries.set(r.mul(pitch).add(quad), q.at(at).mul(s.scale));
    });
    k.for("r", { from: k.thread, to: rows, step: threads }, (r) => {
      largest.set(r, f32(nothing));
      total.set(r, f32(0));
    });
    // A share of no keys goes straight to the end, where other threads read these.
    k.barrier();
    const owned = Math.ceil((rows * quads) / threads);
    const sums = range(owned).map((o) => k.zero(`sum${o}`, "f32x4"));
    /** The output numbers that are this thread's: a query of the tile and four numbers of its head. */
    const own = (o: number) => {
      const i = k.thread.add(o * threads);
      return {
        r: i.div(quads),
        quad: i.mod(quads),
        some: (o + 1) * threads <= rows * quads ? undefined : i.lt(rows * quads),
      };
    };

    k.for("first_slot", { from, to, step: keys }, (firstSlot) => {
      // No constant, so that compilers which unroll whatever they can leave these loops alone.
      const here = k.let("slots_here", to.sub(firstSlot).min(keys));
      const load = (slotted: typeof key, fresh: typeof freshKey) => {
        const each = quads / slotted.quads;
        k.for("i", { from: k.thread, to: keys * each, step: threads }, (i) => {
          const [j, quad] = [i.div(each), i.mod(each)];
          const slot = k.let("slot", firstSlot.add(j).min(to.sub(1)));
          const put = (read: readonly Expr<"f32x4">[]) =>
            read.forEach(
              (four, n) =>
                void tile.set(
                  j
                    .mul(pitch)
                    .add(quad)
                    .add(n * each),
                  four,
                ),
            );
          const old = () =>
            put(
              slotted.at(
                kvHead
                  .mul(slots)
                  .add(slot.min(slots.sub(1)))
                  .mul(each)
                  .add(quad),
              ),
            );
          if (!fresh) return old();
          const at = kvHead.mul(tokens).add(slot.sub(slots)).mul(quads).add(quad);
          k.if(slot.lt(slots), old, () => put(range(slotted.quads).map((n) => fresh.at(at.add(n * each)))));
        });
      };
      load(key, freshKey);
      k.barrier();
      k.for("i", { from: k.thread, to: rows * keys, step: threads }, (i) => {
        const [r, j] = [k.let("r", i.div(keys)), k.let("j", i.mod(keys))];
        const products = k.zero("products", "f32x4");
        k.for("quad", { to: quads }, (quad) =>
          products.inc(queries.at(r.mul(pitch).add(quad)).mul(tile.at(j.mul(pitch).add(quad)))),
        );
        let score = k.let("raw_score", products.sum());
        if (s.softcap) score = k.let("capped_score", capped(score, s.softcap));
        const slot = k.let("slot", firstSlot.add(j));
        let held: Expr<"i32"> | undefined;
        if (listed && listAt) held = listed.at(slot.min(count.sub(1)).add(listAt));
        else if (s.positions === "slot") held = slot.to("i32");
        if (held && masked) {
          const position = k.let("position", positionOf(firstRow.add(r)));
          const at = k.let("held", held);
          if (s.window) score = select(position.sub(at).lt(s.window), score, f32(hidden));
          if (s.causal) score = select(at.le(position), score, f32(hidden));
        }
        scores.set(i, score);
      });
      k.barrier();
      load(value, freshValue);
      k.for("r", { from: k.thread, to: rows, step: threads }, (r) => {
        const before = k.let("before", largest.at(r));
        const most = k.var("most", before);
        k.for("j", { to: here }, (j) => most.set(most.max(scores.at(r.mul(keys).add(j)))));
        const sum = k.zero("sum", "f32");
        k.for("j", { to: here }, (j) => {
          const weight = k.let("weight", scores.at(r.mul(keys).add(j)).sub(most).exp());
          scores.set(r.mul(keys).add(j), weight);
          sum.inc(weight);
        });
        const faded = k.let("faded", before.sub(most).exp());
        fade.set(r, faded);
        largest.set(r, most);
        total.set(r, total.at(r).mul(faded).add(sum));
      });
      k.barrier();
      const update = (some: readonly number[]) => {
        const all = some.map((o) => ({ sum: sums[o] as Var<"f32x4">, ...own(o) }));
        for (const { sum, r } of all) sum.set(sum.mul(fade.at(r)));
        k.for("j", { to: here }, (j) => {
          const four = k.let("value", tile.at(j.mul(pitch).add(all[0]?.quad ?? 0)));
          for (const { sum, r } of all) sum.inc(four.mul(scores.at(r.mul(keys).add(j))));
        });
      };
      // Where all of a thread's numbers are the same of their heads, it reads values once for all of its queries; those of
      // one token are few.
      if (s.splits === 1 && threads % quads === 0 && (rows * quads) % threads === 0) update(range(owned));
      else
        for (const o of range(owned)) {
          const { some } = own(o);
          if (some) k.if(some, () => update([o]));
          else update([o]);
        }
      k.barrier();
    });

    sums.forEach((sum, o) => {
      const { r, quad, some } = own(o);
      const row = firstRow.add(r);
      const inside = row.lt(allRows);
      k.if(some ? some.and(inside) : inside, () => {
        if (stats) {
          const place = k.let("place", k.group.z.mul(s.kvHeads).add(kvHead).mul(allRows).add(row));
          out.set(place.mul(quads).add(quad), sum);
          k.if(quad.eq(0), () => {
            stats.set(place.mul(2), largest.at(r));
            stats.set(place.mul(2).add(1), total.at(r));
          });
          return;
        }
        out.set(placeOf(s, headOf(row), tokenOf(row), tokens).mul(quads).add(quad), sum.div(total.at(r)));
      });
    });

    if (!counts || !y || !stats) return;
    const seen = k.shared("arrived_before", "u32", 1);
    const queryTiles = k.let("query_tiles", allRows.add(rows - 1).div(rows));
    const ownCount = k.let("own_count", kvHead.mul(queryTiles).add(k.group.x));
    k.comment("What this group wrote is seen by whoever finds it counted.");
    k.fence();
    k.barrier();
    k.if(k.thread.eq(0), () => seen.set(0, counts.add(ownCount, 1)));
    k.fence();
    k.barrier();
    k.if(seen.at(0).eq(s.splits - 1), () => {
      k.for("i", { from: k.thread, to: rows * quads, step: threads }, (i) => {
        const row = k.let("query", firstRow.add(i.div(quads)));
        const place = (z: Expr<"u32">) => z.mul(s.kvHeads).add(kvHead).mul(allRows).add(row);
        const to = placeOf(s, headOf(row), tokenOf(row), tokens);
        k.if(row.lt(allRows), () => join(k, s.splits, place, quads, i.mod(quads), out, stats, y, to));
      });
      // The next launch counts from zero again.
      k.if(k.thread.eq(0), () => void counts.add(ownCount, 2 ** 32 - s.splits));
    });
  });
}

/** Slots of keys or values, 16 bytes at a time: four numbers of a head, or as pairs four and those half a head on. */
function slotQuads(k: KernelBuilder, name: string, s: AttentionShape) {
  const half = s.pairs && pairs[s.pairs];
  if (!half) {
    const numbers = k.input(name, "f32x4");
    return { quads: 1, at: (i: Expr<"u32">): Expr<"f32x4">[] => [numbers.at(i)] };
  }
  const words = k.input(name, "u32x4");
  const at = (i: Expr<"u32">): Expr<"f32x4">[] => {
    const both = k
      .let("words", words.at(i))
      .lanes()
      .map((word) => half.unpack(word));
    return range(2).map((n) => quad(...both.map((two) => two[n] as Expr<"f32">)));
  };
  return { quads: 2, at };
}

/** Joins the parts of one query, four numbers of it, into row `to` of the result. */
function join(
  k: KernelBuilder,
  splits: number,
  place: (z: Expr<"u32">) => Expr<"u32">,
  quads: number,
  quad: Expr<"u32">,
  parts: Readable<"f32x4">,
  stats: Readable<"f32">,
  y: Writable<"f32x4">,
  to: Expr<"u32">,
): void {
  const most = k.var("most", f32(nothing));
  k.for("z", { to: splits }, (z) => most.set(most.max(stats.at(place(z).mul(2)))));
  const [sum, total] = [k.var("sum", literal("f32x4", 0)), k.zero("total", "f32")];
  k.for("z", { to: splits }, (z) => {
    const at = k.let("at", place(z));
    const weight = k.let("weight", stats.at(at.mul(2)).sub(most).exp());
    sum.inc(parts.at(at.mul(quads).add(quad)).mul(weight));
    total.inc(stats.at(at.mul(2).add(1)).mul(weight));
  });
  y.set(to.mul(quads).add(quad), sum.div(total));
}

/** The row of the result that belongs to a head and a token. */
export const placeOf = (
  s: AttentionShape,
  head: Expr<"u32">,
  token: Expr<"u32">,
  tokens: Expr<"u32">,
): Expr<"u32"> => (s.byToken ? token.mul(s.heads).add(head) : head.mul(tokens).add(token));

/** Joins what the groups that shared a query's keys have left: one group for each key head and query. */
export function combine(s: AttentionShape, threads: number): Kernel {
  const doc = `the ${s.splits} parts of each query's attention into one`;
  return kernel(attentionName(s).replace("attention", "combine"), { doc, threads }, (k) => {
    const parts = k.input("parts", "f32x4");
    const stats = k.input("stats", "f32");
    const y = k.output("y", "f32x4");
    const tokens = k.uniform("tokens");
    const shared = s.heads / s.kvHeads;
    const quads = s.headDim / 4;
    const allRows = tokens.mul(shared);
    const [row, kvHead] = [k.let("query", k.group.x), k.let("key_head", k.group.y)];
    const place = (z: Expr<"u32">) => z.mul(s.kvHeads).add(kvHead).mul(allRows).add(row);
    const head = kvHead.mul(shared).add(row.mod(shared));
    const to = placeOf(s, head, row.div(shared), tokens);
    k.for("quad", { from: k.thread, to: quads, step: threads }, (quad) =>
      join(k, s.splits, place, quads, quad, parts, stats, y, to),
    );
  });
}

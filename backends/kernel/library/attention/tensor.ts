import {
  type Expr,
  f32,
  fourWords,
  type Kernel,
  kernel,
  literal,
  quad,
  range,
  select,
  twoWords,
  u32,
} from "../../lang/index.ts";
import { pairs } from "../format.ts";
import { type AttentionShape, attentionName, hidden, nothing, placeOf } from "./attention.ts";
import {
  beside,
  counts,
  isMasked,
  isOrdered,
  places,
  tensorKeys,
  tensorQueries,
  tileQuads,
} from "./operands.ts";

/** Two warps for each sixteen queries: each scores half of the keys, and sums half of the numbers. */
const threads = (tensorQueries / 16) * 64;
/** Bytes that a group shares besides a tile of keys and one of values. */
const besideTiles = threads * 16 + tensorQueries * 2 * 4;

/** Whether tensor cores can do it: of wider heads a thread's registers do not hold its share of two rows. */
export const tensorAttends = (s: AttentionShape, sharedBytes: number): boolean =>
  s.splits === 1 &&
  s.pairs !== "f16" &&
  s.positions !== "ring" &&
  s.headDim % 16 === 0 &&
  s.headDim <= 256 &&
  2 * 16 * tileQuads(s.headDim) + besideTiles <= sharedBytes;

/** How far scores, as powers of 2, may rise above what the weights of their row are measured by, until sums are scaled. */
const headroom = 12;
/** A thread has rows g and g + 8 of a product. */
const two = [0, 1] as const;
const ab = ["a", "b"] as const;
type Both<T> = [T, T];
type Four<T extends "u32" | "f32" = "u32"> = [Expr<T>, Expr<T>, Expr<T>, Expr<T>];
const both = <T>(make: (r: 0 | 1) => T): Both<T> => [make(0), make(1)];

/**
 * softmax(q·kᵀ·scale)·v on tensor cores, after FlashAttention-2 (Dao 2023): scores and sums stay in registers, and the
 * scores of two products are, as weights, what a thread brings to the next. What is multiplied is bf16, sums are f32. The
 * maximum that weights are measured by follows only when scores rise above it by `headroom`: a weight of 2^12 is no less
 * exact than one of 1. The result may be left in bf16, as `toBf16` leaves it: tokens, then heads, that are 64 numbers at least.
 * Values are on their way while keys are multiplied, and the next keys while values are.
 * Groups: x over queries, y over key heads.
 */
export function attentionTensor(s: AttentionShape, leavesBf16 = false): Kernel {
  const doc =
    `attention of ${s.heads} heads over ${s.kvHeads} key heads of ${s.headDim}` +
    `${s.window ? `, the last ${s.window} positions only` : ""}${s.softcap ? `, scores within ±${s.softcap}` : ""}, on tensor cores in bf16${leavesBf16 ? ", and so y" : ""}`;
  const name = `${attentionName(s).replace("attention", "attention_tensor")}${leavesBf16 ? "_leaves_bf16" : ""}`;
  return kernel(name, { doc, threads }, (k) => {
    const q = k.input("q", "f32x4");
    const operands = k.input("operands", "u32x4");
    const { tokens, count, shared, tiles, queries, tokenOf, positionAt, held } = counts(k, s);
    const reach = isMasked(s) ? k.input("reach", "i32") : undefined;
    const y = leavesBf16 ? undefined : k.output("y", "f32x4");
    const words = leavesBf16 ? k.output("y", "u32x2") : undefined;
    const quads = tileQuads(s.headDim);
    const tile = { keys: k.shared("keys", "u32x4", quads), values: k.shared("values", "u32x4", quads) };
    const weightsOfAll = k.shared("weights", "u32x4", threads);
    const ofRows = k.shared("of_rows", "f32", 2 * tensorQueries);

    // The newest queries see the most keys, and come first.
    const queryTile = k.let("query_tile", s.causal ? k.groups.sub(1).sub(k.group.x) : k.group.x);
    const kvHead = k.let("key_head", k.group.y);
    const headOf = (row: Expr<"u32">) => kvHead.mul(shared).add(row.mod(shared));
    const { warp, lane, g, t } = places(k);
    const half = k.let("half", warp.mod(2));
    const inGroup = both((r) =>
      k.let(
        `in_group_${ab[r]}`,
        warp
          .div(2)
          .mul(16)
          .add(g)
          .add(8 * r),
      ),
    );
    const rowOf = (r: 0 | 1) => queryTile.mul(tensorQueries).add(inGroup[r]);
    const eights = s.headDim / 8;
    const steps = Math.ceil(eights / 4);

    const own = both((r) => {
      const query = k.let("query", rowOf(r).min(queries.sub(1)));
      const begin = k.let(
        "begin",
        headOf(query)
          .mul(tokens)
          .add(tokenOf(query))
          .mul(2 * eights),
      );
      return range(steps).flatMap((step) => {
        const eight = t.add(step * 4);
        const whole = step * 4 + 4 <= eights;
        const [lower, upper] = both((h) => {
          const read = q.at(begin.add(h * eights).add(whole ? eight : eight.min(eights - 1)));
          return k.let("numbers", whole ? read : select(eight.lt(eights), read, literal("f32x4", 0)));
        });
        return beside(lower, upper)
          .lanes()
          .map((word, i) => k.let(`query${step * 4 + i}${ab[r]}`, word));
      });
    });
    /** What this thread brings to step `i` of sixteen numbers. */
    const ownAt = (i: number) => [own[0][2 * i], own[1][2 * i], own[0][2 * i + 1], own[1][2 * i + 1]] as Four;

    const reachOf = (name: string, tile: Expr<"u32">, last: number) =>
      reach && k.let(name, reach.at(tile.mul(2).add(last)));
    const [oldest, newest] = both((i) => reachOf(i ? "newest" : "oldest", tiles.add(queryTile), i));
    let [from, to]: Both<Expr<"u32">> = [u32(0), tiles];
    const tileOf = (position: Expr<"i32">) => position.max(0).to("u32").div(tensorKeys);
    if (isOrdered(s) && oldest && newest) {
      to = k.let("tiles_end", tileOf(newest.add(tensorKeys)).min(tiles));
      if (s.window) from = k.let("tiles_begin", tileOf(oldest.add(1 - s.window)).min(to));
    }
    /** The least and the largest position of a tile's keys. */
    const span = (tile: Expr<"u32">) => {
      const first = tile.mul(tensorKeys);
      return {
        low: (!isOrdered(s) && reachOf("low", tile, 0)) || first.to("i32"),
        high: (!isOrdered(s) && reachOf("high", tile, 1)) || first.add(tensorKeys - 1).to("i32"),
      };
    };
    const every = (all: readonly Expr<"bool">[]) => all.reduce((a, b) => a.and(b));
    /** Where tiles are in no order, those are passed by of which no query of the group sees a key. */
    const ifSeen = (tile: Expr<"u32">, yes: () => void, no?: () => void) => {
      if (isOrdered(s) || !oldest || !newest) return yes();
      const { low, high } = span(tile);
      const seen = [
        ...(s.causal ? [low.le(newest)] : []),
        ...(s.window ? [oldest.sub(high).lt(s.window)] : []),
      ];
      k.if(every(seen), yes, no);
    };
    const send = (which: Expr<"u32">, what: "keys" | "values") => {
      const begin = kvHead
        .mul(tiles)
        .add(which)
        .mul(2 * quads);
      const at = k.let("at", begin.add(what === "keys" ? 0 : quads).add(k.thread));
      for (const n of range(Math.ceil(quads / threads))) {
        const copy = () => k.copy(tile[what], k.thread.add(n * threads), operands, at.add(n * threads));
        if ((n + 1) * threads <= quads) copy();
        else k.if(k.thread.lt(quads - n * threads), copy);
      }
    };
    /** The keys of a tile, if it is there and will be looked at; a batch in any case. */
    const sendKeys = (which: Expr<"u32">) => {
      k.if(which.lt(to), () => ifSeen(which, () => send(which, "keys")));
      k.batch();
    };

    // Columns 2i and 2i + 1 of eight make quads of numbers, and a warp has half of these, or one more than there are.
    const ownQuads = Math.ceil(eights / 4);
    const sums = range(2 * ownQuads).map((i) => k.zero(`sum${i}`, "f32x4"));
    const totals = both((r) => k.zero(`total_${ab[r]}`, "f32"));
    const largest = both((r) => k.var(`largest_${ab[r]}`, f32(nothing)));
    /** What this warp and the one that has the other half found of their rows, once all threads have met. */
    const tell = (found: readonly Expr<"f32">[]) =>
      k.if(t.eq(0), () => {
        for (const r of two) ofRows.set(half.mul(tensorQueries).add(inGroup[r]), found[r] as Expr<"f32">);
      });
    const told = (r: 0 | 1) => both((h) => ofRows.at(inGroup[r].add(h * tensorQueries)));

    sendKeys(from);
    k.for("tile", { from, to }, (which) => {
      const next = which.add(1);
      const look = () => {
        k.arrive(0);
        k.barrier();
        send(which, "values");
        k.batch();
        // Two sums of each, so that fewer products wait for one another.
        const parts = both((i) => both((j) => k.zero(`score${j}${ab[i]}`, "f32x4")));
        for (const step of range(steps))
          for (const j of two) {
            const place = lane.add(half.mul(64)).add((step * 4 + j) * 32);
            const key = k.let("key", tile.keys.at(place));
            for (const i of two)
              k.mma(parts[i][j], ownAt(2 * step + i), [key.lane(2 * i), key.lane(2 * i + 1)]);
          }
        const scores = parts[0];
        for (const j of two) scores[j].inc(parts[1][j]);

        /** Lanes 0 and 1 are keys 2j and 2j + 1 of four in this thread's first row; 2 and 3 in the second. */
        const each = (change: (score: Expr<"f32">, key: number, row: 0 | 1) => Expr<"f32">) => {
          scores.forEach((score, j) => {
            const lanes = two.flatMap((r) => two.map((l) => change(score.lane(2 * r + l), 2 * j + l, r)));
            score.set(quad(...lanes));
          });
        };
        each((score) =>
          s.softcap
            ? score
                .mul(s.scale / s.softcap)
                .tanh()
                .mul(s.softcap * Math.LOG2E)
            : score.mul(s.scale * Math.LOG2E),
        );
        const { low, high } = span(which);
        const allSeen = [
          ...(isOrdered(s) ? [] : [next.mul(tensorKeys).le(count)]),
          ...(s.causal && oldest ? [high.le(oldest)] : []),
          ...(s.window && newest ? [newest.sub(low).lt(s.window)] : []),
        ];
        k.if(every(allSeen).not(), () => {
          const positions = reach && both((r) => k.let("position", positionAt(tokenOf(rowOf(r)))));
          const first = k.let("first", which.mul(tensorKeys).add(t.mul(8)).add(half.mul(4)));
          const slots = range(4).map((i) => first.add(i));
          const at = slots.map((slot) => k.let("held", held(slot)));
          each((score, key, row) => {
            const there = at[key] as Expr<"i32">;
            let shown = score;
            if (positions && s.window) shown = select(positions[row].sub(there).lt(s.window), shown, hidden);
            if (positions && s.causal) shown = select(there.le(positions[row]), shown, hidden);
            return isOrdered(s) ? shown : select((slots[key] as Expr<"u32">).lt(count), shown, nothing);
          });
        });

        const most = two.map((r) => {
          const all = scores.flatMap((score) => two.map((l) => score.lane(2 * r + l)));
          return { name: `most_${ab[r]}`, value: all.reduce((a, b) => a.max(b)) };
        });
        tell(k.reduce("max", most, 4));
        k.barrier();
        sendKeys(next);
        const risen = both((r) => {
          const [one, other] = told(r);
          const now = k.let(`now_${ab[r]}`, one.max(other));
          return k.let(`risen_${ab[r]}`, select(largest[r].add(headroom).lt(now), now, largest[r]));
        });
        k.if(largest[0].ne(risen[0]).or(largest[1].ne(risen[1])), () => {
          const fade = both((r) => k.let(`fade_${ab[r]}`, largest[r].sub(risen[r]).exp2()));
          for (const r of two) totals[r].set(totals[r].mul(fade[r]));
          for (const r of two) largest[r].set(risen[r]);
          for (const sum of sums) sum.set(sum.mul(quad(fade[0], fade[0], fade[1], fade[1])));
        });
        const own = scores.flatMap((score) =>
          two.map((r) => {
            const weights = both((l) =>
              k.let(
                "weight",
                score
                  .lane(2 * r + l)
                  .sub(risen[r])
                  .exp2(),
              ),
            );
            totals[r].inc(weights[0].add(weights[1]));
            return pairs.bf16.pack(...weights);
          }),
        );
        weightsOfAll.set(k.thread, fourWords(...own));
        k.arrive(1);
        k.barrier();
        const weights = both((h) => {
          const place = warp
            .div(2)
            .mul(64)
            .add(h * 32)
            .add(lane);
          return k.let("weights", weightsOfAll.at(place)).lanes() as Four;
        });
        sums.forEach((sum, i) => {
          const place = lane.add(half.mul(2 * ownQuads * 32)).add(i * 32);
          const value = k.let("value", tile.values.at(place));
          for (const h of two) k.mma(sum, weights[h], [value.lane(2 * h), value.lane(2 * h + 1)]);
        });
      };
      ifSeen(which, look, () => sendKeys(next));
    });

    const all = two.map((r) => ({ name: `all_${ab[r]}`, value: totals[r] }));
    tell(k.reduce("+", all, 4));
    k.barrier();
    for (const r of two) {
      const row = k.let("row", rowOf(r));
      k.if(row.lt(queries), () => {
        const [one, other] = told(r);
        const share = k.let("share", f32(1).div(one.add(other)));
        const to = k.let(
          "to",
          placeOf(s, headOf(row), tokenOf(row), tokens)
            .mul(2 * eights)
            .add(t),
        );
        for (const i of range(ownQuads)) {
          const quads = k.let("quads", half.mul(ownQuads).add(i));
          const four = two.flatMap((n) => two.map((l) => (sums[2 * i + n] as Expr<"f32x4">).lane(2 * r + l)));
          const place = to.add(quads.mul(4));
          const write = () => {
            if (!words) return y?.set(place, quad(...four).mul(share));
            const [a, b, c, d] = four.map((x) => x.mul(share)) as Four<"f32">;
            words.set(place, twoWords(pairs.bf16.pack(a, b), pairs.bf16.pack(c, d)));
          };
          if (eights % 4 === 0) write();
          else k.if(quads.lt(eights / 2), write);
        }
      });
    }
  });
}

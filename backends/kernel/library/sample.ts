import {
  type Expr,
  f32,
  type Kernel,
  type KernelBuilder,
  kernel,
  type Readable,
  select,
  u32,
  type Writable,
} from "../lang/index.ts";

/** Scores that one group looks at. */
const share = 2048;
/** The most tokens that a draw can be among. */
export const mostDrawn = 64;

/** Groups that share `vocab` scores. */
export const shares = (vocab: number): number => Math.ceil(vocab / share);
/** Threads of `drawToken`: one for each share. */
export const drawThreads = (vocab: number): number => 2 ** Math.ceil(Math.log2(shares(vocab)));

/** What the elements of a draw's `chances` are. */
export const chances = { temperature: 0, topP: 1, random: 2 } as const;

/** Below any score that counts, and the id of no token. */
const nothing = -3e38;
const nobody = 0xffffffff;

interface Candidate {
  readonly score: Expr<"f32">;
  readonly id: Expr<"u32">;
}

/** The best of what each thread brings; of equals the one with the smallest id. */
function best(k: KernelBuilder, { score, id }: Candidate): Candidate {
  const [highest] = k.reduce("max", [{ name: "highest", value: score }]);
  const most = highest ?? score;
  const [first] = k.reduce("min", [{ name: "winner", value: select(score.eq(most), id, u32(nobody)) }]);
  return { score: most, id: first ?? id };
}

/** The `count` best scores of each share, best first: group g leaves them, and whose they are, from g · 64 on. */
export function topScores(vocab: number, threads: number): Kernel {
  const doc = `the best of ${vocab} scores in each share of ${share}, best first`;
  return kernel(`top_scores_${vocab}`, { doc, threads }, (k) => {
    const scores = k.input("scores", "f32");
    const count = k.input("count", "u32").at(0);
    const top = k.output("top_scores", "f32");
    const ids = k.output("top_ids", "u32");
    const first = k.let("first", k.group.x.mul(share));
    const end = k.let("end", first.add(share).min(vocab));
    // Each thread goes through its own scores, from the best of them down: of equals the one with the smallest id first.
    const mine = { score: k.var("own_score", f32(-nothing)), id: k.var("own_id", u32(0)) };
    const look = () => {
      const [last, taken] = [k.let("last_score", mine.score), k.let("last_id", mine.id)];
      mine.score.set(f32(nothing));
      mine.id.set(u32(nobody));
      k.for("id", { from: first.add(k.thread), to: end, step: threads }, (id) => {
        const score = k.let("score", scores.at(id));
        const open = score.lt(last).or(score.eq(last).and(taken.lt(id)));
        k.if(open.and(mine.score.lt(score)), () => {
          mine.score.set(score);
          mine.id.set(id);
        });
      });
    };
    look();
    k.for("place", { to: count }, (place) => {
      const { score, id } = best(k, mine);
      k.if(k.thread.eq(0), () => {
        const at = k.let("into", k.group.x.mul(mostDrawn).add(place));
        top.set(at, score);
        ids.set(at, id);
      });
      k.if(mine.id.eq(id).and(id.ne(nobody)), look);
    });
  });
}

/**
 * One token drawn among the best of all shares: by softmax(score / temperature), among those that first sum to `topP`.
 * One group; `random` in [0, 1) decides. The best one where only that is asked for.
 */
export function drawToken(vocab: number): Kernel {
  const lists = shares(vocab);
  const threads = drawThreads(vocab);
  const doc = `one token drawn among the best of ${lists} shares of the scores`;
  return kernel(`draw_token_${vocab}`, { doc, threads }, (k) => {
    const top = k.input("top_scores", "f32");
    const ids = k.input("top_ids", "u32");
    const count = k.input("count", "u32").at(0);
    const how = k.input("chances", "f32");
    const token = k.output("token", "u32");
    const scores = k.shared("best_scores", "f32", mostDrawn);
    const tokens = k.shared("best_ids", "u32", mostDrawn);
    // Thread t goes down the list of share t, which is sorted.
    const next = k.zero("next", "u32");
    const mine = { score: k.var("own_score", f32(nothing)), id: k.var("own_id", u32(nobody)) };
    const look = () => {
      const some = k.thread.lt(lists).and(next.lt(count));
      mine.score.set(f32(nothing));
      mine.id.set(u32(nobody));
      k.if(some, () => {
        const at = k.let("from", k.thread.mul(mostDrawn).add(next));
        mine.score.set(top.at(at));
        mine.id.set(ids.at(at));
      });
    };
    look();
    k.for("place", { to: count }, (place) => {
      const { score, id } = best(k, mine);
      k.if(k.thread.eq(0), () => {
        scores.set(place, score);
        tokens.set(place, id);
      });
      k.if(mine.id.eq(id), () => {
        next.inc(u32(1));
        look();
      });
    });
    k.barrier();
    k.if(k.thread.eq(0), () => draw(k, how, count, scores, tokens, token));
  });
}

/** What `sample` of the WGSL runtime does, in f32. */
function draw(
  k: KernelBuilder,
  how: Readable<"f32">,
  count: Expr<"u32">,
  scores: Writable<"f32">,
  tokens: Writable<"u32">,
  token: Writable<"u32">,
): void {
  const temperature = k.let("temperature", how.at(chances.temperature));
  const likeliest = k.let("likeliest", scores.at(0));
  const total = k.zero("total", "f32");
  k.for("i", { to: count }, (i) => {
    const weight = k.let("weight", scores.at(i).sub(likeliest).div(temperature).exp());
    scores.set(i, weight);
    total.inc(weight);
  });
  const wanted = k.let("wanted", how.at(chances.topP).mul(total));
  const kept = k.zero("kept", "f32");
  const size = k.zero("size", "u32");
  k.for("i", { to: count }, (i) =>
    k.if(kept.lt(wanted), () => {
      kept.inc(scores.at(i));
      size.set(i.add(1));
    }),
  );
  const left = k.var("left", how.at(chances.random).mul(kept));
  const chosen = k.var("chosen", tokens.at(0));
  const open = k.var("open", u32(1));
  k.for("i", { to: size }, (i) =>
    k.if(open.eq(1), () => {
      left.set(left.sub(scores.at(i)));
      k.if(left.lt(0), () => {
        chosen.set(tokens.at(i));
        open.set(u32(0));
      });
    }),
  );
  token.set(0, chosen);
}

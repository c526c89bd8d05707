import {
  type Expr,
  f32,
  type Kernel,
  type KernelBuilder,
  kernel,
  range,
  select,
  u32,
  type Writable,
} from "../lang/index.ts";
import { type Format, formatName, type Half, Matrix, numberName, pairs as wordsOf } from "./format.ts";
import { frequencies, turn } from "./math.ts";
import { type InputNorm, inputNormDoc, inputNormName, inputVector } from "./norm.ts";
import { type Cut, groupsAtOnce, lanesFor, products } from "./products/gemv.ts";

/** Heads that are projected together, turned, and put where attention looks for them. */
export interface HeadsShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly theta: number;
  readonly factor: number;
  /** Normalise queries and keys by head first. */
  readonly norm?: { readonly eps: number };
  /**
   * Where keys and values go: slot `start + t` of a cache of so many slots; the same modulo them; or, without a
   * cache, [heads, tokens, headDim].
   */
  readonly store: { readonly kind: "slots" | "ring"; readonly slots: number } | { readonly kind: "fresh" };
  /** What keys and values are rounded to; a word of the cache then holds numbers i and i + headDim/2. */
  readonly pairs?: Half;
}

const headsName = (s: HeadsShape): string =>
  `${s.heads}q${s.kvHeads}kv${s.headDim}_theta${numberName(s.theta)}${s.factor === 1 ? "" : `_by${numberName(s.factor)}`}` +
  `${s.norm ? `_norm${numberName(s.norm.eps)}` : ""}_${s.store.kind}${s.store.kind === "fresh" ? "" : s.store.slots}${s.pairs ? `_${s.pairs}` : ""}`;

interface Targets {
  readonly q: Writable<"f32">;
  readonly key: Kept;
  readonly value: Kept;
}
/** Stores numbers i and i + headDim/2 of the row that begins at number `row`. */
type Kept = (row: Expr<"u32">, i: Expr<"u32">, low: Expr<"f32">, high: Expr<"f32">) => void;

const put =
  (k: KernelBuilder, s: HeadsShape, into: Writable<"f32">): Kept =>
  (row, i, low, high) => {
    const from = k.let("into", row.add(i));
    into.set(from, low);
    into.set(from.add(s.headDim / 2), high);
  };

/** Declares the buffers that keys and values go to. */
function targets(k: KernelBuilder, s: HeadsShape): Targets {
  const { pairs } = s;
  const kept = (name: string): Kept => {
    if (!pairs) return put(k, s, k.output(name, "f32"));
    const { pack, unpack } = wordsOf[pairs];
    if (s.store.kind !== "fresh") {
      const words = k.output(name, "u32");
      return (row, i, low, high) => words.set(row.div(2).add(i), pack(low, high));
    }
    const rounded = put(k, s, k.output(name, "f32"));
    return (row, i, low, high) => {
      const [a, b] = unpack(k.let("word", pack(low, high)));
      rounded(row, i, a as Expr<"f32">, b as Expr<"f32">);
    };
  };
  return { q: k.output("q", "f32"), key: kept("key"), value: kept("value") };
}

/** The step's whole numbers. The launch says where they lie: the first slot to write only where there is a cache. */
interface Step {
  position(t: Expr<"u32">): Expr<"i32">;
  start(): Expr<"i32">;
}
function stepOf(k: KernelBuilder, s: HeadsShape): Step {
  const step = k.input("step", "i32");
  const positions = k.uniform("positions_at");
  const start = s.store.kind === "fresh" ? positions : k.uniform("start_at");
  return { position: (t) => step.at(t.add(positions)), start: () => step.at(start) };
}

/** The place of number 0 of a key head's row for token t. */
function keyRow(
  s: HeadsShape,
  step: Step,
  head: Expr<"u32">,
  t: Expr<"u32">,
  tokens: Expr<"u32">,
): Expr<"u32"> {
  if (s.store.kind === "fresh") return head.mul(tokens).add(t).mul(s.headDim);
  const { slots } = s.store;
  const slot = step.start().to("u32").add(t);
  const row = s.store.kind === "ring" ? slot.mod(slots) : slot;
  return head.mul(slots).add(row).mul(s.headDim);
}

/** Stores numbers `i` and `i + D/2` of one head, turned by the token's position unless they are values. */
function place(
  k: KernelBuilder,
  s: HeadsShape,
  to: Targets,
  step: Step,
  at: {
    readonly head: Expr<"u32">;
    readonly t: Expr<"u32">;
    readonly tokens: Expr<"u32">;
    readonly i: Expr<"u32">;
  },
  low: Expr<"f32">,
  high: Expr<"f32">,
): void {
  const frequency = k.table("frequency", frequencies(s.headDim, s.theta, s.factor));
  const { head, t, tokens, i } = at;
  k.if(
    head.lt(s.heads + s.kvHeads),
    () => {
      const angle = k.let("angle", step.position(t).to("f32").mul(frequency.at(i)));
      const { sin, cos } = turn(angle, (name, e) => k.let(name, e));
      const [sine, cosine] = [k.let("sine", sin), k.let("cosine", cos)];
      const a = k.let("turned_low", low.mul(cosine).sub(high.mul(sine)));
      const b = k.let("turned_high", high.mul(cosine).add(low.mul(sine)));
      k.if(
        head.lt(s.heads),
        () => put(k, s, to.q)(head.mul(tokens).add(t).mul(s.headDim), i, a, b),
        () => to.key(keyRow(s, step, head.sub(s.heads), t, tokens), i, a, b),
      );
    },
    () => to.value(keyRow(s, step, head.sub(s.heads + s.kvHeads), t, tokens), i, low, high),
  );
}

/** Queries, keys and values of many tokens, projected already: [tokens, (heads + 2·kvHeads)·headDim]. */
export function ropeHeads(s: HeadsShape, threads: number): Kernel {
  const doc =
    `queries and keys${s.norm ? " normalised by head and" : ""} turned by position; keys and values into ` +
    `${s.store.kind === "fresh" ? "rows by head" : "their cache"}`;
  return kernel(`rope_${headsName(s)}`, { doc, threads }, (k) => {
    const projected = k.input("projected", "f32");
    // Scale of the query norm, then of the key norm.
    const scales = s.norm && k.weight("head_norms", "f32");
    const step = stepOf(k, s);
    const to = targets(k, s);
    const tokens = k.uniform("tokens");
    const [D, half, all] = [s.headDim, s.headDim / 2, s.heads + 2 * s.kvHeads];
    const [head, t] = [k.let("head", k.group.x), k.let("token", k.group.y)];
    const row = k.let("row", t.mul(all).add(head).mul(D));
    const inverse = s.norm && k.var("inverse_root", f32(1));
    if (s.norm && inverse) {
      const squares = k.zero("squares", "f32");
      k.for("i", { from: k.thread, to: D, step: threads }, (i) => {
        const value = k.let("value_", projected.at(row.add(i)));
        squares.inc(value.mul(value));
      });
      const [square] = k.reduce("+", [{ name: "square", value: squares }]);
      if (square)
        k.if(head.lt(s.heads + s.kvHeads), () =>
          inverse.set(
            square
              .div(D)
              .add(s.norm?.eps ?? 0)
              .rsqrt(),
          ),
        );
    }
    k.for("i", { from: k.thread, to: half, step: threads }, (i) => {
      const [low, high] = [
        k.var("low", projected.at(row.add(i))),
        k.var("high", projected.at(row.add(i).add(half))),
      ];
      if (scales && inverse)
        k.if(head.lt(s.heads + s.kvHeads), () => {
          const from = k.let("from", select(head.lt(s.heads), u32(0), u32(D)).add(i));
          low.set(low.mul(inverse).mul(scales.at(from)));
          high.set(high.mul(inverse).mul(scales.at(from.add(half))));
        });
      place(k, s, to, step, { head, t, tokens, i }, low, high);
    });
  });
}

/**
 * Keys or values [kvHeads, tokens, headDim] into their cache, two to a word: slot `start + t`, in a ring modulo the slots,
 * where the last of the tokens that fall on one slot stays.
 */
export function keepPairs({ kvHeads, headDim, slots, ring, pairs }: KeptShape, threads: number): Kernel {
  const name = `keep_${kvHeads}kv${headDim}_${ring ? "ring" : "slots"}${slots}_${pairs}`;
  const doc = `keys or values into their cache of ${slots} slots, as ${pairs}, numbers i and i + ${headDim / 2} to a word`;
  return kernel(name, { doc, threads }, (k) => {
    const x = k.input("x", "f32");
    const step = k.input("step", "i32");
    const cache = k.output("cache", "u32");
    const [tokens, startAt] = [k.uniform("tokens"), k.uniform("start_at")];
    const half = headDim / 2;
    const n = k.let("n", k.group.x.mul(threads).add(k.thread));
    k.if(n.lt(tokens.mul(kvHeads * half)), () => {
      const [i, row] = [k.let("i", n.mod(half)), k.let("row", n.div(half))];
      const [head, t] = [k.let("head", row.div(tokens)), k.let("token", row.mod(tokens))];
      const slot = k.let("slot", step.at(startAt).to("u32").add(t));
      const from = k.let("from", row.mul(headDim).add(i));
      k.if(ring ? tokens.le(t.add(slots)) : slot.lt(slots), () =>
        cache.set(
          head
            .mul(slots)
            .add(ring ? slot.mod(slots) : slot)
            .mul(half)
            .add(i),
          wordsOf[pairs].pack(x.at(from), x.at(from.add(half))),
        ),
      );
    });
  });
}

/** A cache whose words hold two numbers. */
export interface KeptShape {
  readonly kvHeads: number;
  readonly headDim: number;
  readonly slots: number;
  readonly ring: boolean;
  readonly pairs: Half;
}

export interface QkvShape extends HeadsShape {
  readonly columns: number;
  readonly format: Format;
  readonly inputNorm?: InputNorm;
}

/** Pairs of numbers that one thread makes at a time. */
const pairs = 2;

export const pairsOfGroup = (s: QkvShape, cut: Cut): number => {
  const lanes = lanesFor(cut, Math.ceil((s.columns * bitsOf[s.format.dtype]) / 128));
  return (cut.threads / lanes) * pairs;
};
const bitsOf = { f32: 32, f16: 16, bf16: 16, i8: 8, i4: 4 } as const;

/** One token from the residual stream to turned queries and written cache: norm, three projections, rotation. */
export function qkv(s: QkvShape, cut: Cut): Kernel {
  const name = `qkv_${formatName(s.format)}_${s.columns}_to_${headsName(s)}${s.inputNorm ? `_after${inputNormName(s.inputNorm)}` : ""}`;
  const doc =
    `query, key and value of one token from the residual stream${s.inputNorm ? `, ${inputNormDoc(s.inputNorm)}` : ""}: ` +
    "projections, rotation by position, and the new key and value into their cache";
  return kernel(name, { doc, threads: cut.threads, ...groupsAtOnce(s.format, cut) }, (k) => {
    const x = inputVector(k, s.columns, s.inputNorm);
    const matrix = new Matrix(k, s.format, s.columns);
    const step = stepOf(k, s);
    const to = targets(k, s);
    const [D, half] = [s.headDim, s.headDim / 2];
    const count = (s.heads + 2 * s.kvHeads) * half;
    const lanes = lanesFor(cut, matrix.pieces);
    const perGroup = (cut.threads / lanes) * pairs;
    const team = k.group.x.mul(cut.threads / lanes).add(k.thread.div(lanes));
    const first = k.let("first_pair", team.mul(pairs));
    const guarded = count % perGroup !== 0;
    const own = range(pairs).map((p) => {
      const pair = guarded ? first.add(p).min(count - 1) : first.add(p);
      const named = k.let(`pair${p}`, pair);
      return { head: k.let(`head${p}`, named.div(half)), i: k.let(`i${p}`, named.mod(half)) };
    });
    const rows = own.flatMap(({ head, i }, p) => {
      const low = k.let(`row${p}`, head.mul(D).add(i));
      return [low, k.let(`row${p}_high`, low.add(half))];
    });
    const sums = products(k, { x, offset: undefined, matrix, lanes, prefetch: cut.prefetch }, rows);
    k.if(k.thread.mod(lanes).eq(0), () => {
      own.forEach(({ head, i }, p) => {
        const [low, high] = [sums[2 * p], sums[2 * p + 1]] as [Expr<"f32">, Expr<"f32">];
        const store = () => place(k, s, to, step, { head, i, t: u32(0), tokens: u32(1) }, low, high);
        if (guarded) k.if(first.add(p).lt(count), store);
        else store();
      });
    });
  });
}

import {
  type EmittedFile,
  headRows,
  type ModelFacts,
  type Named,
  type Pieces,
  type Step,
} from "../../backends/backend.ts";
import { openReference } from "../../backends/reference/index.ts";
import type { Weights } from "../../backends/weights.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import { count } from "../../ir/tensor.ts";
import type { Law } from "../../passes/pass.ts";
import { holdsCodes } from "../artifact/clients.ts";
import { compare, difference, type RowAgreement } from "./compare.ts";
import { type CodedProduct, codedProducts, roundedOrigin, withRounded } from "./rounding.ts";
import { stages } from "./stages.ts";

/** Tokens that an artifact is proven on. */
export const proofTokens = 6;

export interface ProofRequest {
  /** The artifact. */
  readonly dir: string;
  /** What the target wrote there. */
  readonly files: readonly EmittedFile[];
  /** What each origin's value is called in it. */
  readonly activations: Readonly<Record<string, string>>;
  /** The model as the checkpoint defines it. */
  readonly original: Graph;
  /** What the target was given after all passes; without its caches, where those have a fixed size. */
  readonly compiled: Graph;
  /** What each pass that ran promises about results. */
  readonly laws: readonly Law[];
  /** Whether only gemmac's own passes ran, so that what caches hold is known. */
  readonly own: boolean;
  readonly facts: ModelFacts;
  /** The original's, which differ from the artifact's where passes dropped layers. */
  readonly originalFacts: ModelFacts;
  readonly weights: Weights;
  readonly ids: readonly number[];
}

export interface Worst {
  readonly origin: string;
  readonly share: number;
  readonly allowed: number;
}

/** How far an artifact lies from what it should compute, on a few tokens. */
export interface Proof {
  readonly ok: boolean;
  readonly tokens: number;
  /** What it ran on, where that is not what it is for. */
  readonly instead?: string;
  /** The largest difference of any activation, as a share of the largest value there, and where it is. */
  readonly worst: Worst;
  /** The same of products as they run, where they round what they multiply to so many bits. */
  readonly rounded?: Worst & { readonly bits: 8 | 16 };
  /** The artifact's scores for the next token against those of the graph it was made from. */
  readonly scores: RowAgreement;
  /** What passes that may change results did to the scores; absent when there were none. */
  readonly loss?: RowAgreement;
}

/**
 * f32 in another order of sums; and what rounding to 8 bits what it multiplies may do to one product by codes. That is the
 * runtime's doing and only tells a broken kernel: of factors that are rounded already the product is held to the first.
 */
const allowed = { float: 2e-4, rounded: 0.12 } as const;

/** Whether a pass with this law may change results by more than an artifact may: then that is held to what it made. */
export const moves = (law: Law): boolean => law === "free" || (law !== "exact" && law.close > allowed.float);

/** What an artifact is held to. */
export interface Twin {
  readonly step: Step;
  /** The origins that both can show, in the order of the graph. */
  readonly watch: readonly string[];
}

/** What an artifact must compute: the checkpoint's own graph where passes were to keep results, else the graph that they made. */
export function twinGraph(
  { compiled, original, laws }: Pick<ProofRequest, "compiled" | "original" | "laws">,
  products: readonly CodedProduct[] = [],
): Graph {
  const graph = laws.some(moves) ? compiled : original;
  return products.length > 0 ? withRounded(graph, products) : graph;
}

/**
 * Runs the reference interpreter on that. These of its products are also computed of rounded factors. With `follow`, watched
 * values of the artifact's run, each value is computed from the artifact's own before it.
 */
export async function runTwin(
  request: Omit<ProofRequest, "dir">,
  products: readonly CodedProduct[] = [],
  follow?: ReadonlyMap<string, Float32Array>,
): Promise<Twin> {
  const { laws, facts, originalFacts, weights, ids } = request;
  const watch = watched(request);
  const more = products.flatMap((p) => (p.factor ? [p.product, p.factor] : [])).map(roundedOrigin);
  const twin = openReference(twinGraph(request, products), weights, {
    facts: laws.some(moves) ? facts : originalFacts,
    watch: [...watch, ...more],
    ...(follow && { follow }),
  });
  return { step: await twin.append(ids, { last: true }), watch };
}

/** The products that are proven as they run, where an artifact's products round. */
export function roundingProducts(
  request: Pick<ProofRequest, "compiled" | "activations" | "facts">,
): CodedProduct[] {
  const heads = headsOf(request);
  return codedProducts(
    request.compiled,
    watched(request).filter((origin) => !heads.has(origin)),
  );
}

/** The origins that both sides can show, in the order of the graph. */
function watched({ compiled, activations }: Pick<ProofRequest, "compiled" | "activations">): string[] {
  const inOrder = compiled.values().flatMap((v) => compiled.origins.get(v) ?? []);
  return inOrder.filter((origin) => Object.hasOwn(activations, origin));
}

/** The checkpoint's own scores, where passes may have changed them: to tell how far. */
export async function plainScores({
  original,
  laws,
  originalFacts,
  weights,
  ids,
}: ProofRequest): Promise<Float32Array | undefined> {
  if (!laws.some(moves)) return undefined;
  const plain = openReference(original, weights, { facts: originalFacts });
  return (await plain.append(ids, { last: true })).logits;
}

/**
 * Runs an artifact on a few tokens, a few weights at a time, each operation on exact operands, and compares every named
 * activation with the reference interpreter, which streams the weights: memory stays bounded. Passes that were to
 * keep results are held to the checkpoint's own graph, others to the graph they made.
 */
export async function prove(
  request: ProofRequest,
  open: (dir: string, facts: ModelFacts, ids: readonly number[]) => Promise<Pieces>,
): Promise<Proof> {
  const { facts, ids } = request;
  const pieces = await open(request.dir, facts, ids);
  // Meanwhile, as the other leaves cores idle at times.
  const plain = plainScores(request);
  plain.catch(() => {}); // heard of when it is waited for
  try {
    const products = pieces.rounded ? roundingProducts(request) : [];
    const twin = await runTwin(request, products);
    const proof = await held(request, pieces, products, twin);
    const scores = await plain;
    return scores ? { ...proof, loss: compare(scores, twin.step.logits) } : proof;
  } finally {
    await Promise.allSettled([plain, pieces.close()]);
  }
}

/** The origins of scores. */
function headsOf({ compiled, facts }: Pick<ProofRequest, "compiled" | "facts">): ReadonlySet<string> {
  const isScores = (v: Value) => v.type.rank === 3 && v.shape[2] === facts.vocab;
  return new Set([...compiled.origins].flatMap(([v, origin]) => (isScores(v) ? [origin] : [])));
}

/** Compares the artifact's pieces with what they should give. */
async function held(
  request: ProofRequest,
  pieces: Pieces,
  products: readonly CodedProduct[],
  { step: want, watch }: Twin,
): Promise<Proof> {
  const { compiled, facts, ids, activations } = request;
  const nothing: Worst = { origin: "", share: 0, allowed: Number.POSITIVE_INFINITY };
  let [worst, rounded] = [nothing, nothing];
  const worse = (known: Worst, origin: string, a: Float32Array, b: Float32Array, allowed: number): Worst => {
    const share = shareOff(a, b);
    return share / allowed > known.share / known.allowed ? { origin, share, allowed } : known;
  };
  const tensor = (origin: string) => activations[origin] as string;
  const heads = headsOf(request);
  /** What both have: an artifact may give the last tokens only, and of their scores the first ones. */
  const common = (origin: string, a: Float32Array, b: Float32Array): [Float32Array, Float32Array] => {
    if (!heads.has(origin) || b.length === a.length) return [a.subarray(-b.length), b];
    const row = b.subarray(-rowLength(b.length, ids.length, facts.vocab));
    return [a.subarray(a.length - facts.vocab).subarray(0, row.length), row];
  };
  // Caches of codes round what they hold, and a tie may fall either way.
  const tolerance = holdsCodes(compiled) ? allowed.rounded : allowed.float;
  /**
   * Runs products by codes as they run, of factors that their rounding leaves as they are, and gives those that are proven
   * so. The others, where a kernel rounds in another way, must also do in f32.
   */
  const provenAsRun = async (
    some: readonly CodedProduct[],
    given: readonly Named[],
  ): Promise<ReadonlySet<string>> => {
    const run = async (factors: readonly Named[], wanted: readonly CodedProduct[]) => {
      const names = wanted.map(({ product }) => tensor(product));
      return (
        (names.length > 0 && (await pieces.rounded?.(factors, names))) || new Map<string, Float32Array>()
      );
    };
    const ofRounded = (origin: string) => want.watched.get(roundedOrigin(origin));
    const named = some.filter(({ product }) => ofRounded(product));
    const factors = new Set(named.flatMap((p) => p.factor ?? []));
    const got = await run(rowsOf([...factors], request, ofRounded), named);
    const proven = new Set<string>();
    for (const { product } of named) {
      const [a, exact, b] = [ofRounded(product), want.watched.get(product), got.get(tensor(product))];
      if (!a || !exact || !b || shareOff(...common(product, a, b)) > allowed.float) continue;
      worst = worse(worst, product, ...common(product, a, b), allowed.float);
      rounded = worse(rounded, product, ...common(product, exact, b), allowed.rounded);
      proven.add(product);
    }
    const others = some.filter(({ product }) => !proven.has(product));
    const plain = await run(given, others);
    for (const { product } of others) {
      const [a, b] = [want.watched.get(product), plain.get(tensor(product))];
      if (a && b) rounded = worse(rounded, product, ...common(product, a, b), allowed.rounded);
    }
    return proven;
  };
  let scores: Float32Array | undefined;
  const given: Named[] = [];
  for (const { origins } of stages(compiled, watch)) {
    const last = origins.includes(watch.at(-1) as string);
    // Scores may be cut, and then are of no use to what comes after.
    const known = origins.filter((o) => !heads.has(o));
    given.push(...rowsOf(known, request, (o) => want.watched.get(o)));
    const coded = products.filter(({ product }) => origins.includes(product));
    const proven = await provenAsRun(coded, given);
    const others = origins.filter((origin) => !proven.has(origin));
    const wanted = [...others.map(tensor), ...(last ? ["logits"] : [])];
    const got = wanted.length > 0 ? await pieces.run(given, wanted) : new Map<string, Float32Array>();
    for (const origin of others) {
      const [a, b] = [want.watched.get(origin), got.get(tensor(origin))];
      if (a && b && tensor(origin) !== "logits")
        worst = worse(worst, origin, ...common(origin, a, b), tolerance);
    }
    if (last) scores = got.get("logits");
  }
  if (!scores) throw new Error("the artifact gives no logits");
  // A large head is checked on its first rows; with all tokens scored, the last one's row stands at the end.
  const row = scores.subarray(-Math.min(scores.length, rowLength(scores.length, ids.length, facts.vocab)));
  const agreement = compare(want.logits.subarray(0, row.length), row);
  worst = worse(worst, "logits", want.logits.subarray(0, row.length), row, tolerance);
  const ok = [worst, rounded].every((w) => w.share <= w.allowed);
  return {
    ok,
    tokens: ids.length,
    worst: rounded.share > rounded.allowed ? rounded : worst,
    scores: agreement,
    ...(rounded !== nothing && { rounded: { ...rounded, bits: 8 } }),
  };
}

/** The exact values of these origins, for what comes after: those laid out [1, tokens, features], or one token's. */
function rowsOf(
  origins: readonly string[],
  { compiled, activations, ids }: ProofRequest,
  valueOf: (origin: string) => Float32Array | undefined,
): Named[] {
  const made = new Map([...compiled.origins].map(([v, origin]) => [origin, v]));
  return origins.flatMap((origin) => {
    const [name, all, v] = [activations[origin], valueOf(origin), made.get(origin)];
    if (!name || !all || v?.type.rank !== 3) return [];
    const dims = [1, v.shape[1] === 1 ? 1 : ids.length, v.fixed(2)];
    return [{ name, data: all.subarray(-count(dims)), dims }];
  });
}

/** One token's share of the scores, where they may be of one token or of all, and of all words or the first ones. */
function rowLength(length: number, tokens: number, vocab: number): number {
  return [vocab, headRows].find((width) => length === width || length === width * tokens) ?? length;
}

/** The largest difference as a share of the largest value, or of 1 if that is larger. */
export function shareOff(want: Float32Array, got: Float32Array): number {
  const largest = want.reduce((m, x) => Math.max(m, Math.abs(x)), 1);
  return difference(want, got).max / largest;
}

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
import { quant_linear } from "../../ir/ops/index.ts";
import { count } from "../../ir/tensor.ts";
import type { Law } from "../../passes/pass.ts";
import { holdsCodes } from "../artifact/clients.ts";
import { compare, difference, type RowAgreement } from "./compare.ts";
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
 * f32 in another order of sums; and one product by codes as it runs, where it rounds to 8 bits what it multiplies. That
 * is the runtime's doing and only tells a broken kernel: in f32 the same codes are held to the first.
 */
const allowed = { float: 2e-4, rounded: 0.12 } as const;

/** What an artifact is held to. */
export interface Twin {
  readonly step: Step;
  /** The origins that both can show, in the order of the graph. */
  readonly watch: readonly string[];
}

/**
 * Runs the reference interpreter on what an artifact must compute: the checkpoint's own graph where passes were to keep
 * results, else the graph that they made.
 */
export async function runTwin(request: Omit<ProofRequest, "dir">): Promise<Twin> {
  const { compiled, original, laws, facts, originalFacts, weights, ids, activations } = request;
  const exact = !laws.includes("free");
  const inOrder = compiled.values().flatMap((v) => compiled.origins.get(v) ?? []);
  const watch = inOrder.filter((origin) => Object.hasOwn(activations, origin));
  const twin = exact
    ? openReference(original, weights, { facts: originalFacts, watch })
    : openReference(compiled, weights, { facts, watch });
  return { step: await twin.append(ids, { last: true }), watch };
}

/** What the passes of `request` that may change results did to the scores; undefined when there are none. */
export async function lossOf(
  { original, laws, originalFacts, weights, ids }: ProofRequest,
  scores: Float32Array,
): Promise<RowAgreement | undefined> {
  if (!laws.includes("free")) return undefined;
  const plain = openReference(original, weights, { facts: originalFacts });
  return compare((await plain.append(ids, { last: true })).logits, scores);
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
  const { step: want, watch } = await runTwin(request);
  const pieces = await open(request.dir, facts, ids);
  try {
    return await held(request, pieces, watch, want);
  } finally {
    await pieces.close();
  }
}

/** Compares the artifact's pieces with what they should give. */
async function held(
  request: ProofRequest,
  pieces: Pieces,
  watch: readonly string[],
  want: Step,
): Promise<Proof> {
  const { compiled, facts, ids, activations } = request;
  const nothing: Worst = { origin: "", share: 0, allowed: Number.POSITIVE_INFINITY };
  let [worst, rounded] = [nothing, nothing];
  const worse = (known: Worst, origin: string, a: Float32Array, b: Float32Array, allowed: number): Worst => {
    const share = shareOff(a, b);
    return share / allowed > known.share / known.allowed ? { origin, share, allowed } : known;
  };
  const named = (some: readonly string[]) => some.map((origin) => activations[origin] as string);
  const originsOf = (has: (v: Value) => boolean) =>
    new Set([...compiled.origins].flatMap(([v, origin]) => (has(v) ? [origin] : [])));
  const heads = originsOf((v) => v.type.rank === 3 && v.shape[2] === facts.vocab);
  const products = originsOf((v) => quant_linear.of(v) !== undefined);
  /** What both have: an artifact may give the last tokens only, and of their scores the first ones. */
  const common = (origin: string, a: Float32Array, b: Float32Array): [Float32Array, Float32Array] => {
    if (!heads.has(origin) || b.length === a.length) return [a.subarray(-b.length), b];
    const row = b.subarray(-rowLength(b.length, ids.length, facts.vocab));
    return [a.subarray(a.length - facts.vocab).subarray(0, row.length), row];
  };
  let scores: Float32Array | undefined;
  const given: Named[] = [];
  // Caches of codes round what they hold, and a tie may fall either way.
  const tolerance = holdsCodes(compiled) ? allowed.rounded : allowed.float;
  for (const { origins } of stages(compiled, watch)) {
    const last = origins.includes(watch.at(-1) as string);
    // Scores may be cut, and then are of no use to what comes after.
    given.push(
      ...rowsOf(
        origins.filter((o) => !heads.has(o)),
        request,
        want.watched,
      ),
    );
    const wanted = last ? [...named(origins), "logits"] : named(origins);
    const got = await pieces.run(given, wanted);
    const pairs = origins.flatMap((origin) => {
      const [name, a] = [activations[origin] as string, want.watched.get(origin)];
      const b = got.get(name);
      return !a || !b || name === "logits" ? [] : [{ origin, name, a, b }];
    });
    for (const { origin, a, b } of pairs) worst = worse(worst, origin, ...common(origin, a, b), tolerance);
    if (last) scores = got.get("logits");
    const coded = pairs.filter(({ origin }) => products.has(origin) && !heads.has(origin));
    if (!pieces.rounded || coded.length === 0) continue;
    const asRun = await pieces.rounded(given, named(coded.map(({ origin }) => origin)));
    for (const { origin, name, a } of coded)
      rounded = worse(rounded, origin, ...common(origin, a, asRun.get(name) ?? a), allowed.rounded);
  }
  if (!scores) throw new Error("the artifact gives no logits");
  // A large head is checked on its first rows; with all tokens scored, the last one's row stands at the end.
  const row = scores.subarray(-Math.min(scores.length, rowLength(scores.length, ids.length, facts.vocab)));
  const agreement = compare(want.logits.subarray(0, row.length), row);
  worst = worse(worst, "logits", want.logits.subarray(0, row.length), row, tolerance);
  const ok = [worst, rounded].every((w) => w.share <= w.allowed);
  const proof = {
    ok,
    tokens: ids.length,
    worst: rounded.share > rounded.allowed ? rounded : worst,
    scores: agreement,
    ...(rounded !== nothing && { rounded: { ...rounded, bits: 8 as const } }),
  };
  const loss = await lossOf(request, want.logits);
  return loss ? { ...proof, loss } : proof;
}

/** The exact values of these origins, for what comes after: those laid out [1, tokens, features], or one token's. */
function rowsOf(
  origins: readonly string[],
  { compiled, activations, ids }: ProofRequest,
  values: ReadonlyMap<string, Float32Array>,
): Named[] {
  const made = new Map([...compiled.origins].map(([v, origin]) => [origin, v]));
  return origins.flatMap((origin) => {
    const [name, all, v] = [activations[origin], values.get(origin), made.get(origin)];
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

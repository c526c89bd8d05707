import type { ModelFacts, Named, Pieces, Step } from "../../backends/backend.ts";
import { openReference } from "../../backends/reference/index.ts";
import type { Weights } from "../../backends/weights.ts";
import type { Graph } from "../../ir/graph.ts";
import { quant_linear } from "../../ir/ops/index.ts";
import { count } from "../../ir/tensor.ts";
import type { Law } from "../../passes/pass.ts";
import { compare, difference, type RowAgreement } from "./compare.ts";
import { stages } from "./stages.ts";

export interface ProofRequest {
  /** The artifact. */
  readonly dir: string;
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

/** How far an artifact lies from what it should compute, on a few tokens. */
export interface Proof {
  readonly ok: boolean;
  readonly tokens: number;
  /** What it ran on, where that is not what it is for. */
  readonly instead?: string;
  /** The largest difference of any activation, as a share of the largest value there, and where it is. */
  readonly worst: { readonly origin: string; readonly share: number; readonly allowed: number };
  /** The artifact's scores for the next token against those of the graph it was made from. */
  readonly scores: RowAgreement;
  /** What passes that may change results did to the scores; absent when there were none. */
  readonly loss?: RowAgreement;
}

/**
 * f32 in another order of sums; and 8-bit activations, where a product by codes rounds what it multiplies: over a
 * layer that added up to 0.073 in Gemma 3 270M, where norms stretch small values; over one operation it is less.
 */
const allowed = { float: 2e-4, codes: 0.12 } as const;

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
  let worst = { origin: "", share: 0, allowed: Number.POSITIVE_INFINITY };
  let scores: Float32Array | undefined;
  const given: Named[] = [];
  const rounds = compiled.inputs.some((v) => v.dtype === "i8") || compiled.values().some(quant_linear.of);
  const tolerance = rounds ? allowed.codes : allowed.float;
  for (const { origins } of stages(compiled, watch)) {
    const tensors = origins.map((origin) => activations[origin] as string);
    const last = origins.includes(watch.at(-1) as string);
    given.push(...rowsOf(origins, request, want.watched));
    const got = await pieces.run(given, last ? [...tensors, "logits"] : tensors);
    for (const origin of origins) {
      const [a, b] = [want.watched.get(origin), got.get(activations[origin] as string)];
      if (!a || !b || activations[origin] === "logits") continue;
      const share = shareOff(a.subarray(-b.length), b);
      if (share / tolerance > worst.share / worst.allowed) worst = { origin, share, allowed: tolerance };
    }
    if (last) scores = got.get("logits");
  }
  if (!scores) throw new Error("the artifact gives no logits");
  // A large head is checked on its first rows; with all tokens scored, the last one's row stands at the end.
  const row = scores.subarray(-Math.min(scores.length, rowLength(scores.length, ids.length, facts.vocab)));
  const agreement = compare(want.logits.subarray(0, row.length), row);
  const off = shareOff(want.logits.subarray(0, row.length), row);
  if (off / tolerance > worst.share / worst.allowed)
    worst = { origin: "logits", share: off, allowed: tolerance };
  const proof = { ok: worst.share <= worst.allowed, tokens: ids.length, worst, scores: agreement };
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
  if (length % vocab === 0) return vocab;
  return length > vocab || length % tokens !== 0 ? length : length / tokens;
}

/** The largest difference as a share of the largest value, or of 1 if that is larger. */
export function shareOff(want: Float32Array, got: Float32Array): number {
  const largest = want.reduce((m, x) => Math.max(m, Math.abs(x)), 1);
  return difference(want, got).max / largest;
}

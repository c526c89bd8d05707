import type { Session, Step } from "../../backends/backend.ts";
import { concatenated } from "../../backends/wgsl/runtime/floats.ts";
import { product } from "../../ir/dim.ts";
import { compare } from "./compare.ts";
import {
  type Proof,
  type ProofRequest,
  plainScores,
  runTwin,
  shareOff,
  type Twin,
  type Worst,
} from "./proof.ts";

/** f32 in another order of sums; and products in halves, whose sums are rounded too. Over all layers. */
const allowed = { float: 2e-4, halves: 2e-2 } as const;

/**
 * Activations rounded to 16 bits where they meet codes. A rounding goes up or down whatever others did, and a layer's adds to
 * what is there, so over layers they add up as a random walk does: with the root of their number, as was measured from 2 to
 * 36. After 18 layers of real weights it was 1.7e-3, 4e-4 times the root: half as much again is allowed, and of few layers more.
 */
export const allowedByCodes = (layers: number): number => Math.max(2e-3, 6e-4 * Math.sqrt(layers));

/** How far what passes round may take results, at most. */
const roundingOf = ({ laws }: Pick<ProofRequest, "laws">): number =>
  Math.max(0, ...laws.map((law) => (typeof law === "object" ? law.close : 0)));

const allowedUnrounded = ({ compiled, facts }: Pick<ProofRequest, "compiled" | "facts">): number =>
  compiled.values().some((v) => v.op.name === "quant_linear") ? allowedByCodes(facts.layers) : allowed.float;

/**
 * The share of a value's largest number by which an artifact of `compiled` may be off. What passes round may fall to either
 * side where sums differ in their last bits: a tenth of what rounding all of it may do, where the interpreter follows the
 * artifact, or else a quarter.
 */
const allowedWhole = (
  request: Pick<ProofRequest, "compiled" | "laws" | "facts">,
  followed: boolean,
): number => allowedUnrounded(request) + roundingOf(request) / (followed ? 10 : 4);

/**
 * The same for a run that the twin does not follow: from layer to layer all that is rounded may come to fall to other sides, so
 * that two runs lie as far apart as each lies from one without rounding.
 */
export const allowedApart = (request: Pick<ProofRequest, "compiled" | "laws" | "facts">): number =>
  allowedUnrounded(request) + roundingOf(request);

/**
 * Runs an artifact that holds its weights, so that it may run whole, on a few tokens, and compares every named
 * activation with the reference interpreter, as `prove` does for ONNX. Where passes round, the interpreter follows the
 * artifact, value by value, as else each rounding that falls to another side would lead to more of them. `stepwise` runs it
 * once more, a token at a time, where that is another program; then it does not follow; `asRun` opens it as it runs where `open` has products rounded less.
 */
export async function proveWhole(
  request: ProofRequest,
  open: (watch: Readonly<Record<string, string>>) => Promise<Session>,
  twin?: Twin,
  { stepwise = false, asRun }: { readonly stepwise?: boolean; readonly asRun?: typeof open } = {},
): Promise<Proof> {
  const session = await open(request.activations);
  try {
    const heads = headsOf(request);
    const got = await session.append(request.ids, { last: true });
    const follows = roundingOf(request) > 0 && !stepwise;
    const { step, watch } =
      (follows ? undefined : twin) ?? (await runTwin(request, [], follows ? got.watched : undefined));
    const want = tokensFirst(step, heads);
    const runs = [tokensFirst(got, heads)];
    if (stepwise) runs.push(await tokenByToken(session, request.ids));
    const worse = (known: Worst, got: Step): Worst => {
      let worst = known;
      for (const origin of ["logits", ...watch]) {
        const of = (s: Step) => (origin === "logits" ? s.logits : s.watched.get(origin));
        const [a, b] = [of(want), of(got)];
        if (!a || !b) continue;
        const share = shareOff(a.subarray(-b.length), b.subarray(-a.length));
        if (!(share <= worst.share)) worst = { ...worst, origin, share };
      }
      return worst;
    };
    const none = { origin: "logits", share: 0 } as const;
    const worst = runs.reduce(worse, { ...none, allowed: allowedWhole(request, follows) });
    const rounded =
      asRun && worse({ ...none, allowed: allowed.halves }, tokensFirst(await once(asRun, request), heads));
    const plain = await plainScores(request);
    const scores = compare(want.logits, (runs.at(-1) as Step).logits);
    const broken = [worst, rounded].find((w) => w && !(w.share <= w.allowed));
    return {
      ok: !broken,
      tokens: request.ids.length,
      worst: broken ?? worst,
      scores,
      ...(rounded && { rounded: { ...rounded, bits: 16 } }),
      ...(plain && { loss: compare(plain, want.logits) }),
    };
  } finally {
    await session.close();
  }
}

/** What a session of its own computes for the tokens at once. */
async function once(
  open: (watch: Readonly<Record<string, string>>) => Promise<Session>,
  { activations, ids }: ProofRequest,
): Promise<Step> {
  const session = await open(activations);
  try {
    return await session.append(ids, { last: true });
  } finally {
    await session.close();
  }
}

/** How many rows of how many numbers a token has in a value, where tokens come after heads. */
interface Heads {
  readonly count: number;
  readonly size: number;
}

function headsOf({ original }: ProofRequest): ReadonlyMap<string, Heads> {
  const found = [...original.origins].flatMap(([v, origin]) => {
    const axis = v.shape.findLastIndex((d) => typeof d !== "number");
    const [count, size] = [product(v.shape.slice(1, axis)), product(v.shape.slice(axis + 1))];
    return typeof count === "number" && typeof size === "number" ? [[origin, { count, size }] as const] : [];
  });
  return new Map(found);
}

/** Values laid out [heads, tokens, size] as [tokens, heads, size], so that the last token stands at the end. */
function tokensFirst({ logits, watched }: Step, heads: ReadonlyMap<string, Heads>): Step {
  const swapped = [...watched].map(([origin, x]) => {
    const { count, size } = heads.get(origin) ?? { count: 1, size: 1 };
    if (count === 1) return [origin, x] as const;
    const tokens = x.length / count / size;
    const out = new Float32Array(x.length);
    for (let h = 0; h < count; h++)
      for (let t = 0; t < tokens; t++)
        out.set(x.subarray((h * tokens + t) * size, (h * tokens + t + 1) * size), (t * count + h) * size);
    return [origin, out] as const;
  });
  return { logits, watched: new Map(swapped) };
}

/** The last token's scores, and the watched values of all, when each is fed alone. */
async function tokenByToken(session: Session, ids: readonly number[]): Promise<Step> {
  session.reset();
  const steps: Step[] = [];
  for (const id of ids) {
    const { logits, watched } = await session.append([id], { last: true });
    steps.push({ logits: logits.slice(), watched: new Map([...watched].map(([o, v]) => [o, v.slice()])) });
  }
  const last = steps.at(-1) as Step;
  const rows = (origin: string) => steps.flatMap((s) => s.watched.get(origin) ?? []);
  const joined = [...last.watched.keys()].map((o) => [o, concatenated(rows(o))] as const);
  return { logits: last.logits, watched: new Map(joined) };
}

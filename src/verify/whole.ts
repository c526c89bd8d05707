import type { Session } from "../../backends/backend.ts";
import { compare } from "./compare.ts";
import { lossOf, type Proof, type ProofRequest, runTwin, shareOff, type Twin } from "./proof.ts";

/** f32 in another order of sums; and activations rounded to 16 bits where they meet codes. Over all layers. */
const allowed = { float: 2e-4, codes: 2e-3 } as const;

/** The share of a value's largest number by which an artifact of `compiled` may be off. */
export const allowedWhole = ({ compiled }: Pick<ProofRequest, "compiled">): number =>
  compiled.values().some((v) => v.op.name === "quant_linear") ? allowed.codes : allowed.float;

/**
 * Runs an artifact that maps its weights, so that it may run whole, on a few tokens, and compares every named
 * activation with the reference interpreter, as `prove` does for ONNX.
 */
export async function proveWhole(
  request: ProofRequest,
  open: (watch: Readonly<Record<string, string>>) => Promise<Session>,
  twin?: Twin,
): Promise<Proof> {
  const session = await open(request.activations);
  try {
    const { step: want, watch } = twin ?? (await runTwin(request));
    const got = await session.append(request.ids, { last: true });
    const tolerance = allowedWhole(request);
    let worst = { origin: "logits", share: shareOff(want.logits, got.logits), allowed: tolerance };
    for (const origin of watch) {
      const [a, b] = [want.watched.get(origin), got.watched.get(origin)];
      if (!a || !b) continue;
      const share = shareOff(a.subarray(-b.length), b);
      if (!(share <= worst.share)) worst = { origin, share, allowed: tolerance };
    }
    const loss = await lossOf(request, want.logits);
    const scores = compare(want.logits, got.logits);
    const ok = worst.share <= tolerance;
    return { ok, tokens: request.ids.length, worst, scores, ...(loss && { loss }) };
  } finally {
    await session.close();
  }
}

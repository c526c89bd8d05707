import { UserError } from "../../ir/error.ts";
import type { Graph, Value } from "../../ir/graph.ts";
import { interpret } from "../../ir/interpret.ts";
import type { HostTensor } from "../../ir/tensor.ts";
import { verify } from "../../ir/verify.ts";
import { passes } from "../../passes/index.ts";
import type { Law, Pass } from "../../passes/pass.ts";
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { scaled, surrogate, surroundings } from "./surrogate.ts";

export const lawText = (law: Law): string => (typeof law === "string" ? law : `close: ${law.close}`);

/**
 * Holds the user's passes in a pipeline to their laws, on a tiny random model of the checkpoint's kind. gemmac's own
 * passes, and those the target brings, `own`, are held to theirs by its tests. Throws UserError that names the pass,
 * the value where it first goes wrong, and by how much. `warn` hears when a law could not be tried.
 */
export function checkLaws(
  { config, weights }: Pick<Checkpoint, "config" | "weights">,
  pipeline: readonly Pass[],
  own: readonly Pass[],
  warn: (message: string) => void,
): void {
  const isForeign = ({ name }: Pass) => !passes.has(name) && !own.some((pass) => pass.name === name);
  const until = pipeline.findLastIndex(isForeign) + 1;
  if (until === 0) return;
  let before = surrogate(config, (name) => {
    const { dtype = "bf16", format, plusOne = false } = weights.info(name) ?? {};
    // Its rows are too short for blocks.
    return { dtype: format ? "f32" : dtype, plusOne };
  });
  for (const pass of pipeline.slice(0, until).map(scaled)) {
    try {
      const after = pass.run(before);
      verify(after);
      if (isForeign(pass)) checkLaw(pass, before, after);
      before = after;
    } catch (cause) {
      if (cause instanceof UserError) throw cause;
      const why = cause instanceof Error ? cause.message : String(cause);
      if (isForeign(pass))
        throw new UserError(
          "verify",
          `pass ${pass.name} fails on a small model of the same kind: ${why}`,
          "a pass must take models of any size; read sizes off the types",
          { cause },
        );
      warn(`the laws of user passes were not tried, for ${pass.name} fails on a small model: ${why}`);
      return;
    }
  }
}

/** Holds one pass to its law, given a small graph and what the pass made of it. Throws UserError. */
export function checkLaw(pass: Pass, before: Graph, after: Graph): void {
  const env = surroundings(before, after);
  if (pass.law === "free") return void interpret(after, env);
  for (const [name, v] of Object.entries(before.outputs)) {
    const now = after.outputs[name];
    if (!now) throw breach(pass, `the output ${name} is gone`);
    if (!now.type.equals(v.type)) throw breach(pass, `output ${name} was ${v.type} and is ${now.type}`);
  }
  const places = byOrigin(before);
  const placesAfter = byOrigin(after);
  const want = interpret(watched(before, places), env);
  const got = interpret(watched(after, placesAfter), env);
  const off = (key: string): Difference | undefined => {
    const [a, b] = [want[key], got[key]];
    return a && b && difference(a, b, pass.law);
  };
  const output = Object.keys(before.outputs).find((name) => off(name));
  if (output === undefined) return;
  const origin = [...places.keys()].find((key) => off(key));
  const place = origin === undefined ? undefined : (placesAfter.get(origin) ?? places.get(origin));
  const moved = off(output) as Difference;
  const first = origin === undefined ? undefined : off(origin);
  const where =
    place && first
      ? `; first at ${origin?.slice(at.length)} (${place.op.name}): ${shown(first.by)} where ${shown(first.allowed)} is allowed`
      : `, where ${shown(moved.allowed)} is allowed`;
  throw breach(pass, `output ${output} moves by ${shown(moved.by)}${where}`);
}

const breach = (pass: Pass, what: string): UserError =>
  new UserError(
    "verify",
    `pass ${pass.name} broke its law (${lawText(pass.law)}): ${what}`,
    'mend the pass, or declare law: "free" if it is meant to change results',
  );

/** Marks a watched value's name, so that it cannot be an output's. */
const at = "@";

/** The named values that `g` computes, in the order in which it does. */
const byOrigin = (g: Graph): ReadonlyMap<string, Value> =>
  new Map(
    g.values().flatMap((v) => {
      const origin = g.origins.get(v);
      return origin === undefined ? [] : [[at + origin, v] as const];
    }),
  );

const watched = (g: Graph, places: ReadonlyMap<string, Value>): Graph =>
  g.with({ outputs: { ...g.outputs, ...Object.fromEntries(places) } });

interface Difference {
  readonly by: number;
  readonly allowed: number;
}

/** How far `got` is from `want`, if it is further than the law allows. */
function difference(want: HostTensor, got: HostTensor, law: Law): Difference | undefined {
  if (String(want.shape) !== String(got.shape)) return undefined;
  const largest = want.data.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
  const allowed = typeof law === "object" ? law.close * largest : 0;
  let [by, same] = [0, true];
  for (const [i, a] of want.data.entries()) {
    const b = got.data[i] as number;
    if (Object.is(a, b)) continue;
    same = false;
    const d = Math.abs(a - b);
    by = Number.isNaN(d) ? Number.POSITIVE_INFINITY : Math.max(by, d);
  }
  const kept = typeof law === "object" ? by <= allowed : same;
  return kept ? undefined : { by, allowed };
}

/** Three digits; -0 for 0 is the only change of bits that moves nothing. */
const shown = (x: number): string => String(Number(x.toPrecision(3)));

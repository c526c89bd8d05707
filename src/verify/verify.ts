import type { Weights } from "../../backends/weights.ts";
import { UserError } from "../../ir/error.ts";
import type { Value } from "../../ir/graph.ts";
import { blockFormat } from "../../ir/ops/ggml.ts";
import { carryBlocks } from "../../passes/fusion/carry-blocks.ts";
import { passes } from "../../passes/index.ts";
import type { Pass } from "../../passes/pass.ts";
import { parsePipeline } from "../../passes/pipeline.ts";
import { type Manifest, manifestFile, readManifest } from "../artifact/manifest.ts";
import { openModel, openOnReference } from "../artifact/open.ts";
import { openCheckpoint } from "../checkpoint/checkpoint.ts";
import { modelGraph } from "../model/load.ts";
import { isTarget, type Target, targetTable } from "../target.ts";
import { loadTokenizer } from "../tokenizer/tokenizer.ts";
import { compare, difference } from "./compare.ts";
import { longestWindow } from "./probe.ts";

export interface VerifyOptions {
  /** Texts to run both on; they need the checkpoint's tokenizer. */
  readonly prompts?: readonly string[];
  /** Token ids to run both on. Without prompts and ids, a built-in text (or spread ids) is used. */
  readonly ids?: readonly (readonly number[])[];
  /** Largest difference allowed, as a share of the largest reference value of a tensor, or of 1 if that is larger. */
  readonly tolerance?: number;
  readonly progress?: (done: number, total: number) => void;
}

export interface Divergence {
  readonly origin: string;
  readonly maxDifference: number;
  /** What was allowed there. */
  readonly tolerance: number;
}

/** How far the artifact's logits lie from the checkpoint's, over all positions of all prompts. */
export interface VerifyReport {
  readonly ok: boolean;
  readonly tokens: number;
  readonly maxDifference: number;
  readonly meanDifference: number;
  /** Mean Kullback-Leibler divergence from the checkpoint's next-token distribution, in nats. */
  readonly kl: number;
  /** Share of positions with the same likeliest token, and mean overlap of the five likeliest. */
  readonly top1: number;
  readonly top5: number;
  readonly tolerance: number;
  /** How near the next-token distributions are as the artifact runs, where its runtime rounds what it multiplies. */
  readonly rounded?: Pick<VerifyReport, "kl" | "top1" | "top5">;
  /** The first activation, in the model's order, that lies outside the tolerance. */
  readonly firstDivergence?: Divergence;
}

const defaultTolerance = 2e-4;
/** What rounding to 8 bits may do to the scores, as a share of the largest: enough to notice a broken kernel. */
const roundedTolerance = 0.2;
const builtIn = "The quick brown fox jumps over the lazy dog. In the beginning, 3 + 4 = 7.";

/**
 * Runs an artifact and the checkpoint it was made from on the same tokens and compares logits and activations.
 * The checkpoint runs on the reference interpreter, in bounded memory; for a quantized artifact it is quantized in the
 * same way first, and multiplies in f32; what its runtime's rounding does to the scores is told beside. Throws
 * UserError when they cannot be run.
 */
export async function verify(
  artifact: string,
  checkpoint: string,
  options: VerifyOptions = {},
): Promise<VerifyReport> {
  const manifest = await readManifest(artifact);
  if (!manifest)
    throw new UserError(
      "input",
      `${artifact}: has no ${manifestFile}`,
      "pass a folder that gemmac compile made",
    );
  const opened = await openCheckpoint(checkpoint);
  try {
    checkSameShape(manifest, opened.config, checkpoint);
    const sequences = await choose(options, manifest, checkpoint);
    const watch = Object.keys(manifest.activations);
    const rounding = quantizing(manifest);
    const reference = await openOnReference(checkpoint, opened, {
      watch,
      passes: rounding,
      calibration: manifest.calibration,
    });
    const candidate = await openModel(artifact, { watch, exact: true });
    try {
      const { graph } = modelGraph(opened);
      const tally = new Tally(
        options.tolerance ?? toleranceOf(manifest, opened.weights),
        manifest.facts.vocab,
        graph.origins.get(graph.outputs.logits as Value) ?? "logits",
      );
      const wanted: Rows[] = [];
      for (const [i, ids] of sequences.entries()) {
        options.progress?.(i, sequences.length);
        for (const model of [reference, candidate]) model.session.reset();
        const want = await reference.session.append(ids);
        tally.add(watch, want, await candidate.session.append(ids));
        wanted.push({ logits: want.logits, watched: new Map() });
      }
      options.progress?.(sequences.length, sequences.length);
      const exact = tally.report();
      const target = targetOf(manifest);
      if (!exact.ok || !target?.probe) return exact;
      const report = (await target.rounds?.(artifact))
        ? { ...exact, ...(await asRun(artifact, sequences, wanted, tally)) }
        : exact;
      const longest = Math.max(...sequences.map((ids) => ids.length));
      const windows = isOwn(manifest) && longest <= longestWindow(graph);
      const { activations, facts } = manifest;
      const { weights } = opened;
      const fault = await target.probe({
        dir: artifact,
        activations,
        original: graph,
        facts,
        weights,
        windows,
      });
      return fault ? { ...report, ok: false, firstDivergence: fault } : report;
    } finally {
      await candidate.close();
    }
  } finally {
    await opened.close();
  }
}

/**
 * Some runtimes always round what they multiply with codes; over all layers that adds up. And in caches of codes a tie may
 * fall either way.
 */
function toleranceOf(manifest: Manifest, weights: Weights): number {
  if (/\bquantize-cache\b/.test(manifest.passes)) return roundedTolerance;
  const ofCodes = targetOf(manifest)?.codesTolerance;
  const byCodes = ofCodes && quantized(manifest, weights) ? ofCodes(manifest.facts.layers) : defaultTolerance;
  const laws = quantizing(manifest).map((p) => p.law);
  return byCodes + Math.max(0, ...laws.map((law) => (typeof law === "object" ? law.close : 0)));
}

const targetOf = ({ target }: Manifest): Target | undefined =>
  isTarget(target) ? targetTable[target] : undefined;

/** What the rounding of the artifact's products does to its scores. */
async function asRun(
  artifact: string,
  sequences: readonly (readonly number[])[],
  wanted: readonly Rows[],
  exact: Tally,
): Promise<Pick<VerifyReport, "rounded" | "firstDivergence"> & { ok?: boolean }> {
  const { session, close } = await openModel(artifact);
  try {
    const tally = exact.anew(roundedTolerance);
    for (const [i, ids] of sequences.entries()) {
      session.reset();
      tally.add([], wanted[i] as Rows, await session.append(ids));
    }
    const { kl, top1, top5, ok, firstDivergence } = tally.report();
    return { rounded: { kl, top1, top5 }, ...(firstDivergence && { ok, firstDivergence }) };
  } finally {
    await close();
  }
}

/** Whether only gemmac's own passes made the artifact, so that what its caches hold is known. */
function isOwn(manifest: Manifest): boolean {
  const own = new Set([
    ...passes.keys(),
    ...targetTable.onnx.backend({ profile: "ort" }).passes.map((p) => p.name),
  ]);
  return manifest.passes
    .replace(/\{[^{}]*\}/g, "")
    .split(",")
    .every((name) => own.has(name));
}

/** A quantized artifact is held to the checkpoint quantized in the same way, so that only its own faults show. */
function quantizing({ passes }: Manifest): readonly Pass[] {
  const texts = passes.match(/\b(quantize(-cache)?|narrow-caches|round-factors)\b(?!-)(\{[^{}]*\})?/g) ?? [];
  const carried = passes.includes(carryBlocks.name) ? [carryBlocks.name] : [];
  return texts.length ? parsePipeline(["share-tables", ...carried, "fuse-linear", ...texts].join()) : [];
}

/** Whether products in the artifact are by codes: made by a pass, or carried over from the checkpoint. */
function quantized({ passes }: Manifest, weights: Weights): boolean {
  const carries = passes.includes(carryBlocks.name);
  const coded = (name: string) => {
    const format = weights.info(name)?.format;
    return format !== undefined && blockFormat(format).codes !== undefined;
  };
  return /\bquantize(?!-)\b/.test(passes) || (carries && [...weights.names()].some(coded));
}

function checkSameShape(manifest: Manifest, config: Manifest["model"], checkpoint: string): void {
  const made: Readonly<Record<string, unknown>> = { ...manifest.model };
  const differs = Object.entries(config).find(
    ([key, value]) => JSON.stringify(made[key]) !== JSON.stringify(value),
  );
  if (!differs) return;
  const [key, value] = differs.map((x) => (typeof x === "string" ? x : JSON.stringify(x)));
  const theirs = typeof made[differs[0]] === "object" ? JSON.stringify(made[differs[0]]) : made[differs[0]];
  throw new UserError(
    "input",
    `the artifact was made for ${key} = ${theirs}, but ${checkpoint} has ${value}`,
    "pass the checkpoint it was compiled from",
  );
}

async function choose(
  options: VerifyOptions,
  { facts }: Manifest,
  checkpoint: string,
): Promise<readonly (readonly number[])[]> {
  const { prompts = [], ids = [] } = options;
  const chosen = [...ids];
  for (const text of prompts) chosen.push((await loadTokenizer(checkpoint)).encode(text, { special: true }));
  if (chosen.length === 0) chosen.push(await defaultIds(facts.vocab, facts.context, checkpoint));
  for (const sequence of chosen) {
    const bad = sequence.find((id) => !Number.isInteger(id) || id < 0 || id >= facts.vocab);
    if (bad !== undefined)
      throw new UserError(
        "usage",
        `token id ${bad} is outside the vocabulary of ${facts.vocab}`,
        "pass ids from 0 up to the vocabulary's size",
      );
    if (sequence.length === 0 || sequence.length > facts.context)
      throw new UserError(
        "usage",
        `a prompt has ${sequence.length} tokens`,
        `pass between 1 and ${facts.context}`,
      );
  }
  return chosen;
}

/** The built-in text, or ids spread over the vocabulary when the checkpoint has no tokenizer of its own. */
export async function defaultIds(vocab: number, context: number, checkpoint: string): Promise<number[]> {
  const length = Math.min(24, context);
  const spread = Array.from({ length }, (_, i) => (2 + i * 7919) % vocab);
  const encoded = await loadTokenizer(checkpoint).then(
    (t) => t.encode(builtIn, { special: true }),
    () => spread,
  );
  return encoded.every((id) => id < vocab) ? encoded.slice(0, length) : spread;
}

interface Rows {
  readonly logits: Float32Array;
  readonly watched: ReadonlyMap<string, Float32Array>;
}

/** Sums up the comparison of one forward pass after another. */
class Tally {
  readonly #tolerance: number;
  readonly #vocab: number;
  readonly #head: string;
  #tokens = 0;
  #max = 0;
  #sum = 0;
  #kl = 0;
  #top1 = 0;
  #top5 = 0;
  /** The first activation outside the tolerance, and the scores if they are. */
  #first: Divergence | undefined;
  #last: Divergence | undefined;

  constructor(tolerance: number, vocab: number, head: string) {
    this.#tolerance = tolerance;
    this.#vocab = vocab;
    this.#head = head;
  }

  /** One for the same model, with nothing in it. */
  anew(tolerance: number): Tally {
    return new Tally(tolerance, this.#vocab, this.#head);
  }

  add(order: readonly string[], want: Rows, got: Rows): void {
    for (const origin of order) {
      const [a, b] = [want.watched.get(origin), got.watched.get(origin)];
      if (a && b && !this.#first) this.#first = this.#diverges(origin, a, b);
    }
    this.#last ??= this.#diverges(this.#head, want.logits, got.logits);
    for (let at = 0; at < want.logits.length; at += this.#vocab) {
      this.#row(want.logits.subarray(at, at + this.#vocab), got.logits.subarray(at, at + this.#vocab));
    }
  }

  #diverges(origin: string, want: Float32Array, got: Float32Array): Divergence | undefined {
    const largest = want.reduce((m, x) => Math.max(m, Math.abs(x)), 1);
    const tolerance = this.#tolerance * largest;
    const maxDifference = want.length === got.length ? difference(want, got).max : Number.POSITIVE_INFINITY;
    return maxDifference <= tolerance ? undefined : { origin, maxDifference, tolerance };
  }

  #row(want: Float32Array, got: Float32Array): void {
    const { max, sum } = difference(want, got);
    const { kl, top1, top5 } = compare(want, got);
    this.#tokens++;
    this.#max = Math.max(this.#max, max);
    this.#sum += sum;
    this.#kl += kl;
    this.#top1 += top1;
    this.#top5 += top5;
  }

  report(): VerifyReport {
    const n = this.#tokens;
    const first = this.#first ?? this.#last;
    return {
      ok: !first,
      tokens: n,
      maxDifference: this.#max,
      meanDifference: this.#sum / (n * this.#vocab),
      kl: this.#kl / n,
      top1: this.#top1 / n,
      top5: this.#top5 / n,
      tolerance: this.#tolerance,
      ...(first && { firstDivergence: first }),
    };
  }
}

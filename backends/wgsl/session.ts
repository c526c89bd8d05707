import { pathToFileURL } from "node:url";
import { UserError } from "../../ir/error.ts";
import type { Drawing, ModelFacts, Session, Step } from "../backend.ts";
import { bundle } from "./package/bundle.ts";
import type { Gemma, LoadOptions } from "./runtime/api.ts";
import type { GemmaError } from "./runtime/error.ts";
import { concatenated } from "./runtime/floats.ts";
import { takesHalves } from "./runtime/gpu/halves.ts";
import type { FileFact } from "./runtime/program.ts";

/** What the runtime's model offers besides its public face. */
interface Driven extends Gemma {
  append(ids: readonly number[]): Promise<{
    readonly logits: Float32Array;
    readonly kept: ReadonlyMap<string, Float32Array>;
    readonly ofLast: ReadonlyMap<string, readonly number[]>;
  }>;
  draw(ids: readonly number[], settings: Required<Drawing>, random: () => number): Promise<number>;
  rewind(keep: number): void;
}
interface Runtime {
  loadModel(url: URL, program: FileFact, options: LoadOptions): Promise<Driven>;
}

export interface OpenOptions {
  readonly facts: ModelFacts;
  /** The file of the artifact that says what to run, as its manifest has it. */
  readonly program: FileFact;
  /** Origins of values to hand out with each step. */
  readonly watch: readonly string[];
  /** Whether all products are to be in f32, on GPUs that are faster at halves too. */
  readonly exact?: boolean;
  readonly notice?: (message: string) => void;
}

/**
 * Opens the artifact in `dir` on Dawn, the WebGPU of Chromium. Its program is run by gemmac's own runtime, so that no
 * code of an artifact is run here. Throws UserError when there is no WebGPU or the artifact is damaged.
 */
export async function openSession(dir: string, options: OpenOptions): Promise<Session> {
  const { facts, program, watch, exact = false, notice = () => {} } = options;
  const gpu = await dawn();
  const runtime = await loadRuntime();
  const model = await runtime
    .loadModel(pathToFileURL(`${dir}/`), program, {
      gpu,
      cache: false,
      ...(exact && { halves: false }),
      onNotice: notice,
    })
    .catch((e) => {
      throw inWords(e, dir);
    });
  const fed: number[] = [];
  const append = async (ids: readonly number[], last: boolean): Promise<Step> => {
    const start = fed.length;
    const { logits, kept, ofLast } = await model.append(ids);
    fed.push(...ids);
    const watched = new Map([...kept].filter(([origin]) => watch.includes(origin)));
    if (last || logits.length === ids.length * facts.vocab) return { logits, watched };
    // A program scores the last token of a run, so rows for all tokens take one run each.
    model.rewind(start);
    const rows: Float32Array[] = [];
    const late = new Map<string, Float32Array[]>();
    for (const [origin, shape] of ofLast)
      if (watched.delete(origin) && shape.at(-1) === shape.reduce((a, b) => a * b, 1)) late.set(origin, []);
    for (const id of ids) {
      const one = await model.append([id]);
      rows.push(one.logits);
      for (const [origin, parts] of late) parts.push(one.kept.get(origin) ?? new Float32Array(0));
    }
    for (const [origin, parts] of late) watched.set(origin, concatenated(parts));
    return { logits: concatenated(rows), watched };
  };
  return {
    facts,
    append: (ids, { last = false } = {}) =>
      append(ids, last).then(
        (step) => (last ? { ...step, logits: step.logits.subarray(-facts.vocab) } : step),
        (e) => {
          throw inWords(e, dir);
        },
      ),
    draw: async (ids, { temperature = 0, topK = 0, topP = 1 }, random) => {
      fed.push(...ids);
      return model.draw(fed, { temperature, topK, topP }, random).catch((e) => {
        throw inWords(e, dir);
      });
    },
    reset() {
      fed.length = 0;
      model.rewind(0);
    },
    async close() {
      model.dispose();
    },
  };
}

const held: { runtime?: Promise<Runtime> } = {};

/** The runtime that artifacts carry, from gemmac's own sources. */
function loadRuntime(): Promise<Runtime> {
  const load = (): Promise<Runtime> => {
    const text = `${bundle("load.ts").script}\nexport { loadModel };\n`;
    return import(`data:text/javascript;base64,${Buffer.from(text).toString("base64")}`);
  };
  held.runtime ??= load();
  return held.runtime;
}

/** Dawn's GPU, made once. It must stay reachable: collected as garbage, it takes the process with it. */
export async function dawn(): Promise<object> {
  const keep = globalThis as { gemmacDawn?: object };
  if (keep.gemmacDawn) return keep.gemmacDawn;
  try {
    const { create, globals } = await import("webgpu");
    Object.assign(globalThis, globals);
    keep.gemmacDawn = create([]);
    return keep.gemmacDawn;
  } catch (cause) {
    throw new UserError(
      "environment",
      "running WGSL needs the package webgpu, which is not here or does not load",
      "npm install webgpu",
      { cause },
    );
  }
}

/** Whether artifacts multiply in halves on the GPU here, unless they are to be exact. */
export async function halvesHere(): Promise<boolean> {
  const adapter = await ((await dawn()) as GPU).requestAdapter();
  return adapter !== null && takesHalves(adapter);
}

function inWords(e: unknown, dir: string): unknown {
  const { trouble, message, next, name } = e as GemmaError;
  if (name !== "GemmaError") return e;
  if (trouble === "webgpu")
    return new UserError(
      "environment",
      "WebGPU finds no GPU here",
      "install a driver for Vulkan; without a GPU, Mesa 25's lavapipe does, named in VK_ICD_FILENAMES",
      { cause: e },
    );
  const kind = trouble === "corrupt" || trouble === "download" ? "input" : "environment";
  return new UserError(kind, `${dir}: ${message}`, next, { cause: e });
}

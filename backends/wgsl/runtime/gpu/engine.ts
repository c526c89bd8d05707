import { GemmaError } from "../error.ts";
import { type Binding, type Dispatch, type Phase, type Program, type Result, sizeOf } from "../program.ts";
import type { Acquired, Pipeline } from "./device.ts";

/** Launches in one submission: the GPU starts on the first while the rest is still being recorded. */
const perSubmit = 32;
/** Uniform bindings start at multiples of this. */
const alignment = 256;

/** A phase, ready to run. */
interface Prepared {
  readonly phase: Phase;
  /** Its launches, and after them those that draw a token. */
  readonly dispatches: readonly Dispatch[];
  readonly groups: readonly GPUBindGroup[];
  readonly pipelines: readonly GPUComputePipeline[];
  readonly uniforms: GPUBuffer | undefined;
  /** What `uniforms` and `grids` were made for. */
  size: number;
  grids: readonly (readonly [number, number, number])[];
}

/** The scores of one run, and what else was asked for. */
export interface Ran {
  readonly logits: Float32Array;
  readonly kept: ReadonlyMap<string, Float32Array>;
  /** Which of `kept` are of the last token only, and their shapes. */
  readonly ofLast: ReadonlyMap<string, readonly number[]>;
}

/** How the next token is drawn on the GPU. */
export interface Draw {
  /** Among so many of the likeliest; 1 takes the likeliest. */
  readonly count: number;
  readonly temperature: number;
  readonly topP: number;
  /** In [0, 1): says which. */
  readonly random: number;
}

/** A program's storage and launches on one device. */
export class Engine {
  readonly #device: GPUDevice;
  readonly #program: Program;
  readonly #weights: readonly GPUBuffer[];
  readonly #states: readonly GPUBuffer[];
  readonly #arena: GPUBuffer;
  readonly #step: GPUBuffer | undefined;
  readonly #stepWords: number;
  #staging: GPUBuffer | undefined;
  #prefill: Prepared | undefined;
  #decode: Prepared | undefined;
  /** Tokens that are in the caches. */
  #fed = 0;

  /** Takes the memory that the program needs. Throws GemmaError when the device has less. */
  static async create(program: Program, gpu: Acquired): Promise<Engine> {
    gpu.device.pushErrorScope("out-of-memory");
    const engine = new Engine(program, gpu);
    const error = await gpu.device.popErrorScope();
    if (!error) return engine;
    engine.destroy();
    const bytes = [...program.weights, ...program.states].reduce(
      (sum, b) => sum + b.bytes,
      program.arenaBytes,
    );
    throw new GemmaError(
      "limit",
      `the GPU has not the ${(bytes / 1e6).toFixed(0)} MB free that this model takes`,
      "close other pages that use it, or compile the model with --quant int4, which makes it smaller",
      { cause: error },
    );
  }

  private constructor(program: Program, { device }: Acquired) {
    this.#device = device;
    this.#program = program;
    const storage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
    const create = (label: string, bytes: number) =>
      device.createBuffer({ label, size: Math.max(4, Math.ceil(bytes / 4) * 4), usage: storage });
    this.#weights = program.weights.map((w) => create(w.name, w.bytes));
    this.#states = program.states.map((s) => create(s.name, s.bytes));
    this.#arena = create("activations", program.arenaBytes);
    const step = program.states.findIndex((s) => s.kind === "step");
    this.#step = this.#states[step];
    this.#stepWords = (program.states[step]?.bytes ?? 0) / 4;
  }

  /** Takes part of a weight's bytes. */
  place(weight: number, offset: number, bytes: Uint8Array<ArrayBuffer>): void {
    this.#device.queue.writeBuffer(this.#weights[weight] as GPUBuffer, offset, bytes);
  }

  /** Binds everything for good; runs come after. */
  prepare(pipelines: readonly Pipeline[]): void {
    const { prefill, decode, sampling } = this.#program;
    this.#prefill = this.#prepared(prefill, sampling?.prefill ?? [], pipelines);
    this.#decode = this.#prepared(decode, sampling?.decode ?? [], pipelines);
  }

  get fed(): number {
    return this.#fed;
  }

  /** Most tokens that one run takes. */
  get longest(): number {
    return this.#program.prefill.open.T ?? 1;
  }

  /**
   * Forgets tokens: those from `keep` on. What stays in the caches behind it is never looked at; but a ring that went
   * round has lost what it held before, so then all tokens are forgotten.
   */
  rewind(keep: number): void {
    if (keep >= this.#fed) return;
    const { ring } = this.#program;
    this.#fed = ring === null || this.#fed <= ring ? keep : 0;
  }

  /** Feeds tokens, at most `longest`, after those fed before. The scores are of the last token, or of all of them. */
  async run(ids: readonly number[]): Promise<Ran> {
    const prepared = this.#begin(ids);
    const { phase } = prepared;
    const kept = new Map(Object.entries(phase.kept));
    const logits = phase.outputs.logits as Result;
    const open = { T: ids.length, B: 1 };
    const wanted = [logits, ...kept.values()].map(({ binding, shape }) => ({
      binding,
      bytes: 4 * shape.reduce<number>((n, d) => n * sizeOf(d, open), 1),
    }));
    const words = await this.#finish(prepared, phase.dispatches.length, wanted);
    const floats = new Float32Array(words);
    let word = 0;
    const parts = wanted.map(({ bytes }) => floats.subarray(word, (word += bytes / 4)));
    const fixed = [...kept].flatMap(([origin, { shape }]) => {
      const sizes = shape.filter((d) => typeof d === "number");
      return sizes.length === shape.length ? [[origin, sizes] as const] : [];
    });
    return {
      ofLast: new Map(fixed),
      logits: parts[0] as Float32Array,
      kept: new Map([...kept.keys()].map((origin, i) => [origin, parts[i + 1] as Float32Array])),
    };
  }

  /** Feeds tokens as `run` does, draws the next one on the GPU, and brings only that here. */
  async draw(ids: readonly number[], how: Draw): Promise<number> {
    const { sampling, states } = this.#program;
    if (!sampling) throw new Error("the program draws no tokens");
    const prepared = this.#begin(ids);
    const write = (state: number, words: Uint32Array<ArrayBuffer> | Float32Array<ArrayBuffer>) =>
      this.#device.queue.writeBuffer(this.#states[state] as GPUBuffer, 0, words);
    write(sampling.count, Uint32Array.of(how.count));
    write(sampling.chances, Float32Array.of(how.temperature, how.topP, how.random));
    const bytes = states[sampling.token]?.bytes ?? 4;
    const binding: Binding = ["state", sampling.token, 0, bytes];
    const words = await this.#finish(prepared, prepared.dispatches.length, [{ binding, bytes }]);
    const [token = this.#program.facts.vocab] = new Uint32Array(words);
    if (token >= this.#program.facts.vocab)
      throw new GemmaError(
        "device",
        "the GPU's scores are no numbers, so no token can be drawn",
        "update the graphics driver or the browser, and reload",
      );
    return token;
  }

  /** Makes ready for these tokens. */
  #begin(ids: readonly number[]): Prepared {
    const prepared = ids.length === 1 ? this.#decode : this.#prefill;
    if (!prepared) throw new Error("prepare() was not called");
    this.#resize(prepared, { T: ids.length, B: 1 });
    this.#writeStep(ids);
    return prepared;
  }

  /** Launches the first `count` kernels of what was made ready, and brings what is wanted of the GPU's memory here. */
  async #finish(
    prepared: Prepared,
    count: number,
    wanted: readonly { readonly binding: Binding; readonly bytes: number }[],
  ): Promise<ArrayBuffer> {
    const staging = this.#stagingFor(wanted.reduce((sum, { bytes }) => sum + bytes, 0));
    let encoder = this.#device.createCommandEncoder();
    let pass = encoder.beginComputePass();
    for (let i = 0; i < count; i++) {
      pass.setPipeline(prepared.pipelines[i] as GPUComputePipeline);
      pass.setBindGroup(0, prepared.groups[i] as GPUBindGroup);
      pass.dispatchWorkgroups(...(prepared.grids[i] as [number, number, number]));
      if ((i + 1) % perSubmit === 0 && i + 1 < count) {
        pass.end();
        this.#device.queue.submit([encoder.finish()]);
        encoder = this.#device.createCommandEncoder();
        pass = encoder.beginComputePass();
      }
    }
    pass.end();
    let at = 0;
    for (const { binding, bytes } of wanted) {
      encoder.copyBufferToBuffer(this.#buffer(binding), binding[2], staging, at, bytes);
      at += bytes;
    }
    this.#device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ, 0, at);
    const words = staging.getMappedRange(0, at).slice(0);
    staging.unmap();
    this.#fed += prepared.size;
    return words;
  }

  destroy(): void {
    for (const buffer of [...this.#weights, ...this.#states, this.#arena]) buffer.destroy();
    this.#staging?.destroy();
    this.#prefill?.uniforms?.destroy();
    this.#decode?.uniforms?.destroy();
    this.#device.destroy();
  }

  #prepared(phase: Phase, draws: readonly Dispatch[], pipelines: readonly Pipeline[]): Prepared {
    const device = this.#device;
    const dispatches = [...phase.dispatches, ...draws];
    const slots = dispatches.filter((d) => d.uniforms.length > 0).length;
    const uniforms =
      slots > 0
        ? device.createBuffer({
            label: "uniforms",
            size: slots * alignment,
            usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
          })
        : undefined;
    let slot = 0;
    const groups = dispatches.map((d) => {
      const resources: GPUBufferBinding[] = d.bindings.map((b) => ({
        buffer: this.#buffer(b),
        offset: b[2],
        size: Math.ceil(b[3] / 4) * 4,
      }));
      if (uniforms && d.uniforms.length > 0)
        resources.push({
          buffer: uniforms,
          offset: slot++ * alignment,
          size: Math.ceil(d.uniforms.length / 4) * 16,
        });
      const entries = resources.map((resource, binding) => ({ binding, resource }));
      return device.createBindGroup({ layout: (pipelines[d.kernel] as Pipeline).layout, entries });
    });
    const own = dispatches.map((d) => (pipelines[d.kernel] as Pipeline).pipeline);
    return { phase, dispatches, groups, pipelines: own, uniforms, size: -1, grids: [] };
  }

  /** Grids and uniforms for a number of tokens. */
  #resize(prepared: Prepared, open: Readonly<Record<string, number>>): void {
    if (prepared.size === open.T) return;
    prepared.size = open.T ?? 0;
    const { dispatches } = prepared;
    prepared.grids = dispatches.map(({ grid }) => {
      const [x = 1, y = 1, z = 1] = grid.map(([of, per, most = Number.POSITIVE_INFINITY]) =>
        Math.min(most, Math.ceil(sizeOf(of, open) / per)),
      );
      return [x, y, z] as const;
    });
    if (!prepared.uniforms) return;
    const words = new Uint32Array(prepared.uniforms.size / 4);
    let slot = 0;
    for (const { uniforms } of dispatches)
      if (uniforms.length > 0)
        words.set(
          uniforms.map((u) => sizeOf(u, open)),
          (slot++ * alignment) / 4,
        );
    this.#device.queue.writeBuffer(prepared.uniforms, 0, words);
  }

  /** The graph's whole-number inputs: tokens, their positions, and where the caches go on. */
  #writeStep(ids: readonly number[]): void {
    if (!this.#step) return;
    const values: Readonly<Record<string, (i: number) => number>> = {
      tokens: (i) => ids[i] as number,
      positions: (i) => this.#fed + i,
      start: () => this.#fed,
    };
    const words = new Int32Array(this.#stepWords);
    for (const { name, at, length } of this.#program.inputs) {
      const value = values[name];
      if (!value) throw new Error(`the program has an input ${name} that nothing is known of`);
      for (let i = 0; i < Math.min(length, ids.length); i++) words[at + i] = value(i);
    }
    this.#device.queue.writeBuffer(this.#step, 0, words);
  }

  #buffer([space, index]: Binding): GPUBuffer {
    if (space === "arena") return this.#arena;
    return (space === "weight" ? this.#weights : this.#states)[index] as GPUBuffer;
  }

  #stagingFor(bytes: number): GPUBuffer {
    if (this.#staging && this.#staging.size >= bytes) return this.#staging;
    this.#staging?.destroy();
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    this.#staging = this.#device.createBuffer({ label: "results", size: bytes, usage });
    return this.#staging;
  }
}

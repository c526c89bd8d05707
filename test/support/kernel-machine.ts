import { type ChildProcessWithoutNullStreams, execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Kernel } from "../../backends/kernel/lang/index.ts";
import type {
  Binding,
  Dispatch,
  PackedWeight,
  Phase,
  Plan,
  Result,
  State,
} from "../../backends/kernel/plan/types.ts";
import { packedBytes } from "../../backends/kernel/plan/weights.ts";
import { c, cPrelude, cuda, cudaPrelude } from "../../backends/kernel/print/index.ts";
import type { WeightStream } from "../../backends/stream/index.ts";
import { type Sizes, size } from "../../ir/dim.ts";

/** Why kernels cannot run here, or undefined when they can. */
export const noCompiler = ((): string | undefined => {
  try {
    execFileSync("gcc", ["--version"], { stdio: "ignore" });
    return undefined;
  } catch {
    return "there is no gcc";
  }
})();

/** What runs kernels as one language prints them: its compiler, and how a launch is spelled. */
interface Language {
  readonly compiler: readonly [command: string, ...flags: string[]];
  readonly prelude: string;
  print(k: Kernel): string;
  /** Launches `k` on x, y and z groups with the buffers b and the words u. */
  launch(k: Kernel): string;
}
const uniforms = (k: Kernel, float: string) =>
  k.uniforms.map((u, n) => (u.type === "f32" ? `${float}(u[${n}])` : `u[${n}]`));

const languages = {
  c: {
    compiler: [
      ..."gcc -x c -std=c11 -Wall -Wextra -Werror -Wno-unused-function -Wno-unused-parameter".split(" "),
      ..."-Wno-unused-variable -ffp-contract=off -O0".split(" "),
    ] as [string],
    prelude: cPrelude,
    print: c,
    launch: (k) => `for (uint32_t n = 0; n < z; n++)
        for (uint32_t j = 0; j < y; j++)
          for (uint32_t i = 0; i < x; i++)
            ${k.name}(${["(Group){i, j, n}", "x", ...k.buffers.map((_, n) => `b[${n}]`), ...uniforms(k, "f32_from_u32")].join(", ")});`,
  },
  /** Groups of fibers: copies that are sent ahead arrive when they are waited for. */
  cuda: {
    compiler: [
      ..."c++ -x c++ -std=c++17 -w -ffp-contract=off -fno-strict-aliasing -U_FORTIFY_SOURCE -O0".split(" "),
      `-I${fileURLToPath(new URL("../../backends/cuda/processor", import.meta.url))}`,
    ] as [string],
    prelude: `#include <cuda_runtime.h>\n${cudaPrelude}
struct memory_at { void *at; template <typename T> operator T *() const { return (T *)at; } };`,
    print: cuda,
    launch: (k) => `{
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(x, y, z), config.blockDim = dim3(${k.threads});
        cudaLaunchKernelEx(${["&config", k.name, ...k.buffers.map((_, n) => `memory_at{b[${n}]}`), ...uniforms(k, "bits_as<float>")].join(", ")});
      }`,
  },
} as const satisfies Record<string, Language>;

/** Runs the commands that arrive on its standard input: allocate, write, read, launch. */
const main = (kernels: readonly Kernel[], { launch }: Language) => `
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
static void get(void *to, size_t bytes) { if (fread(to, 1, bytes, stdin) != bytes) exit(0); }
static uint32_t word(void) { uint32_t w; get(&w, 4); return w; }
static void run(uint32_t kernel, uint32_t x, uint32_t y, uint32_t z, void **b, const uint32_t *u) {
  (void)b, (void)u;
  switch (kernel) {
${kernels.map((k, i) => `    case ${i}: ${launch(k)}\n      break;`).join("\n")}
  }
}
int main(void) {
  static unsigned char *memory[1 << 16];
  for (;;) {
    const uint32_t command = word(), id = word();
    if (command == 1) {
      const size_t bytes = ((size_t)word() + 255) / 256 * 256;
      memory[id] = (unsigned char *)aligned_alloc(256, bytes + 256);
      memset(memory[id], 0, bytes + 256);
    } else if (command == 2) {
      const uint32_t offset = word(), bytes = word();
      get(memory[id] + offset, bytes);
    } else if (command == 3) {
      const uint32_t offset = word(), bytes = word();
      fwrite(memory[id] + offset, 1, bytes, stdout);
      fflush(stdout);
    } else if (command == 5) {
      free(memory[id]);
      memory[id] = 0;
    } else {
      const uint32_t x = word(), y = word(), z = word(), buffers = word(), uniforms = word();
      void *b[32];
      uint32_t u[32];
      for (uint32_t i = 0; i < buffers; i++) { const uint32_t m = word(); b[i] = memory[m] + word(); }
      get(u, uniforms * 4);
      run(id, x, y, z, b, u);
    }
  }
}
`;

/** Where kernels run: memory by number, launches in order. */
export interface Machine {
  allocate(bytes: number): number;
  free(id: number): void;
  write(id: number, offset: number, data: Uint8Array): void;
  read(id: number, offset: number, bytes: number): Promise<Uint8Array>;
  launch(d: Dispatch, sizes: Sizes, place: (b: Binding) => readonly [id: number, offset: number]): void;
}

/** Kernels as C, or as CUDA for the processor, in a process of their own that holds the memory. */
export class KernelMachine implements Machine {
  readonly #kernels: ReadonlyMap<string, number>;
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #waiting: { bytes: number; resolve(b: Buffer): void; reject(e: Error): void }[] = [];
  #arrived: Buffer = Buffer.alloc(0);
  #next = 0;
  #dead: Error | undefined;

  /** One call of a compiler for all of `kernels`. */
  static async make(
    kernels: readonly Kernel[],
    printed: keyof typeof languages = "c",
    env: Readonly<Record<string, string>> = {},
  ): Promise<KernelMachine> {
    const dir = mkdtempSync(join(tmpdir(), "gemmac-kernels-"));
    try {
      const language: Language = languages[printed];
      const unique = [...new Map(kernels.map((k) => [k.name, k])).values()];
      const source = join(dir, "source");
      writeFileSync(
        source,
        [language.prelude, ...unique.map(language.print), main(unique, language)].join("\n"),
      );
      const [command, ...flags] = language.compiler;
      await promisify(execFile)(command, [...flags, "-o", join(dir, "kernels"), source, "-lm"]);
      const running = spawn(join(dir, "kernels"), { stdio: "pipe", env: { ...process.env, ...env } });
      await once(running, "spawn");
      return new KernelMachine(running, new Map(unique.map((k, i) => [k.name, i])));
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  }

  private constructor(running: ChildProcessWithoutNullStreams, kernels: ReadonlyMap<string, number>) {
    this.#process = running;
    this.#kernels = kernels;
    this.#process.stdout.on("data", (data: Buffer) => {
      this.#arrived = Buffer.concat([this.#arrived, data]);
      this.#deliver();
    });
    this.#process.stderr.on("data", (data: Buffer) => process.stderr.write(data));
    this.#process.stdin.on("error", () => {});
    this.#process.on("exit", (code, signal) => {
      this.#dead = new Error(`the kernels ended with ${signal ?? code}`);
      for (const w of this.#waiting.splice(0)) w.reject(this.#dead);
    });
  }

  #deliver(): void {
    for (
      let first = this.#waiting[0];
      first && this.#arrived.length >= first.bytes;
      first = this.#waiting[0]
    ) {
      this.#waiting.shift();
      first.resolve(this.#arrived.subarray(0, first.bytes));
      this.#arrived = this.#arrived.subarray(first.bytes);
    }
  }
  #send(words: readonly number[], data?: Uint8Array): void {
    this.#process.stdin.write(new Uint8Array(Uint32Array.from(words).buffer));
    if (data) this.#process.stdin.write(data.slice());
  }

  allocate(bytes: number): number {
    this.#send([1, this.#next, bytes]);
    return this.#next++;
  }
  free(id: number): void {
    this.#send([5, id]);
  }
  write(id: number, offset: number, data: Uint8Array): void {
    this.#send([2, id, offset, data.length], data);
  }
  read(id: number, offset: number, bytes: number): Promise<Uint8Array> {
    if (this.#dead) return Promise.reject(this.#dead);
    this.#send([3, id, offset, bytes]);
    return new Promise<Buffer>((resolve, reject) => {
      this.#waiting.push({ bytes, resolve, reject });
      this.#deliver();
    }).then((b) => new Uint8Array(b));
  }
  launch(d: Dispatch, sizes: Sizes, place: (b: Binding) => readonly [id: number, offset: number]): void {
    const kernel = this.#kernels.get(d.kernel.name);
    if (kernel === undefined) throw new Error(`${d.kernel.name} was not compiled`);
    const grid = d.grid.map(({ of, per, most = Number.POSITIVE_INFINITY }) =>
      Math.min(most, Math.ceil(size(of, sizes) / per)),
    );
    const uniforms = d.uniforms.map((u) => size(u, sizes));
    this.#send([
      4,
      kernel,
      ...grid,
      d.bindings.length,
      uniforms.length,
      ...d.bindings.flatMap(place),
      ...uniforms,
    ]);
  }
  close(): void {
    this.#process.kill();
  }
}

/** The memory of one plan on a machine. */
export class PlanRun {
  readonly #plan: Plan;
  readonly #machine: Machine;
  readonly #arena: number;
  readonly #states = new Map<State, number>();
  readonly #weights = new Map<PackedWeight, readonly number[]>();

  constructor(plan: Plan, machine: Machine) {
    this.#plan = plan;
    this.#machine = machine;
    this.#arena = machine.allocate(plan.arenaBytes);
    // What a kernel has not written must not matter.
    machine.write(this.#arena, 0, new Uint8Array(plan.arenaBytes).fill(0xff));
    for (const s of plan.states) this.#states.set(s, machine.allocate(s.bytes));
    for (const w of plan.weights)
      this.#weights.set(
        w,
        w.chunks.map((piece) => machine.allocate(piece.bytes)),
      );
  }

  /** Puts the weights where the plan wants them. */
  async load(stream: WeightStream): Promise<void> {
    for (const w of this.#plan.weights) {
      const parts: Uint8Array[] = [];
      for await (const block of packedBytes(w, stream)) parts.push(block.slice());
      const bytes = Buffer.concat(parts);
      if (bytes.length !== w.rows * w.rowBytes) throw new Error(`${w.name}: ${bytes.length} bytes`);
      w.chunks.forEach((piece, i) => {
        const from = piece.firstRow * w.rowBytes;
        this.#machine.write(this.#weights.get(w)?.[i] as number, 0, bytes.subarray(from, from + piece.bytes));
      });
    }
  }

  set(input: string, data: Float32Array | Int32Array): void {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const step = this.#plan.inputs.find((i) => i.name === input);
    const state = this.#plan.states.find((s) => s.name === (step ? "step" : input));
    if (!state) throw new Error(`the plan has no input ${input}`);
    this.#machine.write(this.#states.get(state) as number, (step?.at ?? 0) * 4, bytes);
  }

  #place = (b: Binding): readonly [number, number] => {
    if (b.space === "arena") return [this.#arena, b.offset];
    if (b.space === "state") return [this.#states.get(b.state) as number, b.offset];
    return [this.#weights.get(b.weight)?.[b.chunk] as number, b.offset];
  };

  run(phase: Phase, sizes: Sizes = {}): void {
    for (const d of phase.dispatches) this.#machine.launch(d, sizes, this.#place);
  }

  async result(r: Result, sizes: Sizes = {}): Promise<Float64Array> {
    const n = r.shape.reduce<number>((n, d) => n * size(d, sizes), 1);
    const [id, offset] = this.#place(r.binding);
    const bytes = await this.#machine.read(id, offset, n * 4);
    const float = r.dtype === "f32" || r.dtype === "bf16" || r.dtype === "f16";
    return Float64Array.from(float ? new Float32Array(bytes.buffer) : new Int32Array(bytes.buffer));
  }

  free(): void {
    for (const id of [this.#arena, ...this.#states.values(), ...[...this.#weights.values()].flat()])
      this.#machine.free(id);
  }
}

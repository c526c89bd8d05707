import {
  type Expr,
  type Kernel,
  lanes,
  type Memory,
  parts,
  reads,
  statements,
} from "../../kernel/lang/index.ts";
import { madeUp } from "../runtime/gpu/made-up.ts";
import type { Fill, KernelCheck } from "../runtime/program.ts";
import { type JsMemory, type JsValue, javascript } from "./javascript.ts";

/** Words compared of one buffer, spread over those that were written. */
const compared = 48;
/** No small case reads further than this; what does is an index that does not count, such as one below zero. */
const mostWords = 1 << 22;

/**
 * A small case of a kernel for the runtime to try it on: one group, made-up numbers, and what must come out. `given`
 * says what buffers of some names hold.
 */
export function knownAnswer(
  k: Kernel,
  uniforms: Readonly<Record<string, number>>,
  given: Readonly<Record<string, Fill>> = {},
): KernelCheck {
  const fills = fillsOf(k).map((fill, i) => given[k.buffers[i]?.name ?? ""] ?? fill);
  const held = k.buffers.map((m, i) => new Held(m, fills[i] as Fill, i));
  const memory = Object.fromEntries([
    ...k.buffers.map((m, i) => [m.name, held[i] as Held] as const),
    ...k.shared.map((m) => [m.name, new Held(m, "zero", 0)] as const),
  ]);
  javascript(k)({ memory, uniforms, group: { x: 0, y: 0, z: 0 }, groups: 1 });
  return {
    grid: [1, 1, 1],
    uniforms: k.uniforms.map((u) => uniforms[u.name] ?? 0),
    buffers: held.map((h) => ({ words: h.touched, fill: h.fill })),
    want: held.flatMap((h) => h.want()),
  };
}

// Halves stand in variants of kernels only, which are held to what the kernel itself gives.
const views = {
  f32: Float32Array,
  f16: Float32Array,
  i32: Int32Array,
  u32: Uint32Array,
  bool: Uint32Array,
} as const;

/** A buffer of a small case, as large as what is touched of it. */
class Held implements JsMemory {
  readonly fill: Fill;
  readonly #memory: Memory;
  readonly #index: number;
  readonly #width: number;
  #words = new Uint32Array(0);
  /** The words as what the memory holds. */
  #view: Float32Array | Int32Array | Uint32Array = this.#words;
  readonly #written = new Set<number>();
  touched = 4;

  constructor(memory: Memory, fill: Fill, index: number) {
    this.fill = fill;
    this.#memory = memory;
    this.#index = index;
    this.#width = lanes(memory.type).count;
  }

  load(index: number): JsValue {
    if (!this.#reach(index)) return this.#width === 1 ? 0 : new Array<number>(this.#width).fill(0);
    const from = index * this.#width;
    if (this.#width === 1) return this.#view[from] as number;
    const out = new Array<number>(this.#width);
    for (let i = 0; i < out.length; i++) out[i] = this.#view[from + i] as number;
    return out;
  }

  store(index: number, value: JsValue): void {
    if (!this.#reach(index)) return;
    const put = (at: number, v: number) => {
      this.#view[at] = v;
      this.#written.add(at);
    };
    if (typeof value === "number") put(index, value);
    else for (const [i, v] of value.entries()) put(index * this.#width + i, v);
  }

  count(index: number, by: number): number {
    const before = this.load(index) as number;
    this.store(index, before + by);
    return before;
  }

  want(): KernelCheck["want"] {
    const all = [...this.#written].sort((a, b) => a - b);
    const at = all.filter((_, i) => i % Math.ceil(all.length / compared) === 0);
    if (at.length === 0) return [];
    const float = lanes(this.#memory.type).scalar === "f32";
    const view = float ? this.#view : this.#words;
    return [{ buffer: this.#index, float, at, values: at.map((i) => view[i] as number) }];
  }

  /** Whether there is such an element; the buffer grows until there is. */
  #reach(index: number): boolean {
    const end = (index + 1) * this.#width;
    if (index < 0 || end > mostWords) return false;
    if (end > this.#words.length) {
      const old = this.#words;
      this.#words = madeUp(this.fill, 2 ** Math.ceil(Math.log2(Math.max(1024, end))), this.#index);
      this.#words.set(old);
      this.#view = new views[lanes(this.#memory.type).scalar](this.#words.buffer);
    }
    this.touched = Math.max(this.touched, Math.ceil(end / 4) * 4);
    return true;
  }
}

/** How each buffer is made up: floats as floats, codes as what they are unpacked as, whole numbers small. */
function fillsOf(k: Kernel): Fill[] {
  /** All that a variable is ever set to. */
  const values = new Map<string, Expr[]>();
  const found = new Map<string, Fill>();
  const loads = (e: Expr, seen = new Set<Expr>()): Memory[] => {
    if (seen.has(e)) return [];
    seen.add(e);
    const { node } = e;
    const inner = node.kind === "name" ? (values.get(node.name) ?? []) : parts(e);
    const below = inner.flatMap((p) => loads(p, seen));
    return node.kind === "load" ? [node.memory, ...below] : below;
  };
  const look = (e: Expr): void => {
    const { node } = e;
    if (node.kind === "unpack" && node.a.node.kind !== "literal") {
      const fill = node.packing === "f16x2" || node.packing === "bf16x2" ? node.packing : "bits";
      for (const m of loads(node.a)) if (lanes(m.type).scalar === "u32") found.set(m.name, fill);
    }
    if (node.kind === "bits" && lanes(e.type).scalar === "f32")
      for (const m of loads(node.a)) if (lanes(m.type).scalar === "u32") found.set(m.name, "f32");
    for (const p of parts(e)) look(p);
  };
  for (const s of statements(k.body)) {
    if (s.kind === "let" || s.kind === "var" || s.kind === "set")
      values.set(s.name, [...(values.get(s.name) ?? []), s.value]);
    for (const e of reads(s)) look(e);
  }
  return k.buffers.map((m) => {
    if (m.space === "counter") return "zero";
    if (lanes(m.type).scalar === "f32") return "f32";
    // Indices, positions and lengths: small, so that a small case stays small.
    return found.get(m.name) ?? [3, 1, 2];
  });
}

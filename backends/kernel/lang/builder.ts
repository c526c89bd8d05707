import { checkKernel } from "./check.ts";
import { type Builtin, Expr, literal, type Memory, u32 } from "./expr.ts";
import type { Kernel, Stmt, Uniform } from "./kernel.ts";
import { tidy } from "./tidy.ts";
import type { Type } from "./type.ts";

/** Memory that can be read. */
export interface Readable<T extends Type> {
  at(index: Expr<"u32"> | number): Expr<T>;
}
/** Memory that can be written, and read back. */
export interface Writable<T extends Type> extends Readable<T> {
  set(index: Expr<"u32"> | number, value: Expr<T>): void;
}
/** A variable; as an expression, what it holds when it is read. */
export class Var<T extends Type> extends Expr<T> {
  readonly #write: (value: Expr<T>) => void;
  constructor(type: T, name: string, write: (value: Expr<T>) => void) {
    super(type, { kind: "name", name, of: "local" }, false);
    this.#write = write;
  }
  set(value: Expr<T>): void {
    this.#write(value);
  }
  /** Adds to it. */
  inc(value: Expr<T>): void {
    this.#write(this.add(value));
  }
}

type Four<T> = readonly [T, T, T, T];
const index = (i: Expr<"u32"> | number): Expr<"u32"> => (typeof i === "number" ? u32(i) : i);
const builtin = (name: Builtin): Expr<"u32"> => new Expr("u32", { kind: "builtin", name }, name !== "thread");

/** What an author writes a kernel with. Loops in TypeScript unroll; `for` stays a loop. */
export class KernelBuilder {
  /** This thread within its group. */
  readonly thread = builtin("thread");
  /** This group within the grid. */
  readonly group = { x: builtin("group.x"), y: builtin("group.y"), z: builtin("group.z") } as const;
  /** How many groups there are along x. */
  readonly groups = builtin("groups.x");
  readonly threads: number;

  readonly #buffers: Memory[] = [];
  readonly #uniforms: Uniform[] = [];
  readonly #shared: Memory[] = [];
  readonly #tables: Memory[] = [];
  readonly #names = new Set<string>();
  #body: Stmt[] = [];

  constructor(threads: number) {
    this.threads = threads;
  }

  /** Memory that never changes. */
  weight<T extends Type>(name: string, type: T): Readable<T> {
    return this.#buffer({ name, type, space: "weight" });
  }
  /** What an earlier kernel wrote. */
  input<T extends Type>(name: string, type: T): Readable<T> {
    return this.#buffer({ name, type, space: "input" });
  }
  output<T extends Type>(name: string, type: T): Writable<T> {
    return this.#buffer({ name, type, space: "output" });
  }
  /** Memory of this group, for `length` elements. Holds anything at first. */
  shared<T extends Type>(name: string, type: T, length: number): Writable<T> {
    const memory: Memory<T> = { name: this.#unique(name), type, space: "shared", length };
    this.#shared.push(memory);
    return this.#access(memory);
  }
  /** Known numbers, looked up by an index that is not known. */
  table(name: string, values: readonly number[]): Readable<"f32"> {
    const known = this.#tables.find((t) => String(t.values) === String(values));
    if (known) return this.#access(known as Memory<"f32">);
    const memory: Memory<"f32"> = { name: this.#unique(name), type: "f32", space: "table", values };
    this.#tables.push(memory);
    return this.#access(memory);
  }
  /** Counts that all groups add to. `add` gives what was there before. */
  counter(name: string): { add(i: Expr<"u32"> | number, by: Expr<"u32"> | number): Expr<"u32"> } {
    const memory: Memory<"u32"> = { name: this.#unique(name), type: "u32", space: "counter" };
    this.#buffers.push(memory);
    return {
      add: (i, by) => {
        const before = this.#unique(`${name}_before`);
        this.#push({ kind: "count", name: before, memory, index: index(i), by: index(by) });
        return new Expr("u32", { kind: "name", name: before, of: "local" }, false);
      },
    };
  }
  /** A number that the launch passes. */
  uniform<T extends "u32" | "f32" = "u32">(name: string, type: T = "u32" as T): Expr<T> {
    const unique = this.#unique(name);
    this.#uniforms.push({ name: unique, type });
    return new Expr(type, { kind: "name", name: unique, of: "uniform" }, true);
  }

  /** Gives `value` a name. */
  let<T extends Type>(name: string, value: Expr<T>): Expr<T> {
    if (value.node.kind === "name" && !(value instanceof Var)) return value;
    if (value.node.kind === "literal") return value;
    const unique = this.#unique(name);
    this.#push({ kind: "let", name: unique, value });
    return new Expr(value.type, { kind: "name", name: unique, of: "local" }, value.uniform);
  }
  var<T extends Type>(name: string, value: Expr<T>): Var<T> {
    const unique = this.#unique(name);
    this.#push({ kind: "var", name: unique, value });
    return new Var(value.type, unique, (next) => this.#push({ kind: "set", name: unique, value: next }));
  }
  /** A variable that starts at zero. */
  zero<T extends Type>(name: string, type: T): Var<T> {
    return this.var(name, literal(type, 0));
  }

  for(
    name: string,
    range: {
      readonly from?: Expr<"u32"> | number;
      readonly to: Expr<"u32"> | number;
      readonly step?: Expr<"u32"> | number;
    },
    body: (i: Expr<"u32">) => void,
  ): void {
    const [from, to, step] = [index(range.from ?? 0), index(range.to), index(range.step ?? 1)];
    const unique = this.#unique(name);
    const uniform = from.uniform && to.uniform && step.uniform;
    const i = new Expr("u32", { kind: "name", name: unique, of: "local" }, uniform);
    this.#push({ kind: "for", name: unique, from, to, step, body: this.#block(() => body(i)) });
  }
  if(cond: Expr<"bool">, yes: () => void, no: () => void = () => {}): void {
    this.#push({ kind: "if", cond, yes: this.#block(yes), no: this.#block(no) });
  }
  barrier(): void {
    this.#push({ kind: "barrier" });
  }
  fence(): void {
    this.#push({ kind: "fence" });
  }
  /** Earlier kernels are done. Inputs may be read from here on; without a call, from the start. */
  await(): void {
    this.#push({ kind: "await" });
  }
  /** Begins to copy the 16 bytes `from.at(at)` to where `to.at(index)` begins: zeros where `some` is false. */
  copy<T extends Type>(
    to: Writable<T>,
    index: Expr<"u32">,
    from: Readable<Type>,
    at: Expr<"u32">,
    some: Expr<"bool"> = literal("bool", true),
  ): void {
    const [dest, source] = [to.at(index).node, from.at(at).node];
    if (dest.kind !== "load" || source.kind !== "load") return;
    this.#push({ kind: "copy", memory: dest.memory, index, from: source.memory, at, some });
  }
  /** The copies begun since the last call are a batch, which `arrive` counts. */
  batch(): void {
    this.#push({ kind: "batch" });
  }
  /** Waits until of this thread's batches no more than the `left` newest are on their way. */
  arrive(left: number): void {
    this.#push({ kind: "arrive", left });
  }
  comment(text: string): void {
    this.#push({ kind: "comment", text });
  }

  /** Reduces each of `values` over `lanes` neighbouring threads (all of the group, when left out). */
  reduce<T extends "f32" | "u32" | "i32">(
    op: "+" | "max" | "min",
    values: readonly { readonly name: string; readonly value: Expr<T> }[],
    lanes = this.threads,
  ): Expr<T>[] {
    if (lanes === 1) return values.map(({ name, value }) => this.let(name, value));
    const results = values.map(({ name, value }) => ({ name: this.#unique(name), value }));
    this.#push({ kind: "reduce", op, lanes, results });
    return results.map(({ name, value }) => new Expr(value.type, { kind: "name", name, of: "local" }, false));
  }

  /** Adds to `acc` what a warp multiplies by its tensor cores; see the statement `mma` for what each thread brings. */
  mma(
    acc: Var<"f32x4">,
    a: readonly [Expr<"u32">, Expr<"u32">, Expr<"u32">, Expr<"u32">],
    b: readonly [Expr<"u32">, Expr<"u32">],
  ): void {
    if (acc.node.kind === "name") this.#push({ kind: "mma", acc: acc.node.name, a, b });
  }

  /** Four matrices of shared memory as operands of `mma`; see the statement `matrices` for which row each thread names. */
  matrices(
    name: string,
    tile: Writable<"u32x4">,
    at: Expr<"u32">,
  ): readonly [Expr<"u32">, Expr<"u32">, Expr<"u32">, Expr<"u32">] {
    const names = ["a", "b", "c", "d"].map((which) =>
      this.#unique(`${name}${which}`),
    ) as unknown as Four<string>;
    const { node } = tile.at(at);
    if (node.kind === "load")
      this.#push({ kind: "matrices", names, memory: node.memory as Memory<"u32x4">, index: at });
    return names.map(
      (n) => new Expr("u32", { kind: "name", name: n, of: "local" }, false),
    ) as unknown as Four<Expr<"u32">>;
  }

  /** The kernel, checked. */
  done(name: string, doc: string, atOnce?: number): Kernel {
    const kernel: Kernel = {
      name,
      doc,
      threads: this.threads,
      ...(atOnce && { atOnce }),
      buffers: this.#buffers,
      uniforms: this.#uniforms,
      shared: this.#shared,
      tables: this.#tables,
      body: tidy(this.#body),
    };
    checkKernel(kernel);
    return kernel;
  }

  #push(s: Stmt): void {
    this.#body.push(s);
  }
  #block(write: () => void): Stmt[] {
    const outer = this.#body;
    this.#body = [];
    write();
    const made = this.#body;
    this.#body = outer;
    return made;
  }
  #buffer<T extends Type>(given: Memory<T>): Writable<T> {
    const memory = { ...given, name: this.#unique(given.name) };
    this.#buffers.push(memory);
    return this.#access(memory);
  }
  #access<T extends Type>(memory: Memory<T>): Writable<T> {
    const fixed = memory.space !== "output" && memory.space !== "shared";
    return {
      at: (i) => {
        const at = index(i);
        return new Expr(memory.type, { kind: "load", memory, index: at }, fixed && at.uniform);
      },
      set: (i, value) => {
        if (value.type !== memory.type)
          throw new TypeError(`${memory.name} holds ${memory.type}, not ${value.type}`);
        this.#push({ kind: "store", memory, index: index(i), value });
      },
    };
  }
  #unique(name: string): string {
    let free = reserved.has(name) ? `${name}_` : name;
    for (let n = 2; this.#names.has(free); n++) free = `${name}${/\d$/.test(name) ? "_" : ""}${n}`;
    this.#names.add(free);
    return free;
  }
}

/** Words that mean something in one of the languages that kernels are printed in. */
const reserved = new Set(
  (
    "abs active and array atomic auto bool break case char class const continue default delete diagnostic discard do " +
    "double else enable enum exp exp2 extern false float floor fn for goto half if inline int let log long loop max min " +
    "mod namespace new not or override packed pow private ptr register requires restrict return sampler shared short " +
    "signed sin sizeof sqrt static struct switch tanh target template texture this thread threads group groups true " +
    "NULL Self abstract alias alignas alignof as asm asm_fragment async atomicAdd attribute await become " +
    "binding_array bitcast cast catch clamp co_await co_return co_yield coherent column_major common compile " +
    "compile_fragment concept const_assert const_cast consteval constexpr constinit continuing crate debugger " +
    "decltype demote demote_to_helper dot dot4I8Packed dynamic_cast explicit export extends external " +
    "fallthrough filter final finally float_of fma friend from fxgroup get groupshared highp impl implements " +
    "import instanceof interface inverseSqrt launch layout lowp macro macro_rules match mediump meta module " +
    "move mut mutable nil noexcept noinline nointerpolation noperspective null nullptr of operator " +
    "pack2x16float pack_bf16 pack_f16 package packoffset partition pass patch pixelfragment precise precision premerge priv " +
    "protected pub public readonly ref regardless reinterpret_cast require resource round select self set " +
    "smooth snorm static_assert static_cast std storageBarrier subgroup subroutine super thread_local throw " +
    "trait try type typeid typename typeof unless unorm unpack2x16float unpack_bf16 unpack_i4 unpack_i8 " +
    "unsafe unsized use varying wgsl where with workgroupBarrier writeonly yield " +
    "typedef u32 i32 f32 uniform union unsigned using var vec vec4 virtual void volatile while workgroup xor"
  )
    .split(" ")
    .filter(Boolean),
);

/** Writes a kernel of `threads` a group. The name must tell all that the text depends on. */
export function kernel(
  name: string,
  { doc, threads, atOnce }: Pick<Kernel, "doc" | "threads" | "atOnce">,
  write: (k: KernelBuilder) => void,
): Kernel {
  if (!/^[a-z][a-z0-9_]*$/.test(name))
    throw new TypeError(`${name} is not a kernel's name such as gemv_i8_2048`);
  if (!Number.isInteger(Math.log2(threads)))
    throw new TypeError(`${name}: ${threads} threads are no power of two`);
  const k = new KernelBuilder(threads);
  write(k);
  return k.done(name, doc, atOnce);
}

/** 0, 1, …, n - 1: loops that unroll. */
export const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

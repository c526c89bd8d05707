import { type Code, i32, type Kind, unsigned } from "./instructions.ts";

const types: Readonly<Record<Kind, number>> = { i32: 0x7f, f32: 0x7d, f64: 0x7c, v128: 0x7b };
const [block, loop, end, branch, branchIf] = [0x02, 0x03, 0x0b, 0x0c, 0x0d];
const [localGet, localSet] = [0x20, 0x21];
const noResult = 0x40;

/** A variable; reading it is an expression. */
export interface Local<K extends Kind> extends Code<K> {
  readonly index: number;
}

/** The body of a function as it is written: statements, one after another. */
export class Body {
  readonly code: number[] = [];
  readonly #kinds: Kind[] = [];
  readonly #parameters: number;

  constructor(parameters: number) {
    this.#parameters = parameters;
  }

  get locals(): readonly Kind[] {
    return this.#kinds;
  }

  /** A new variable that begins as `value`, or as zero. */
  local<K extends Kind>(kind: K, value?: Code<K>): Local<K> {
    const made = local(kind, this.#parameters + this.#kinds.push(kind) - 1);
    if (value) this.set(made, value);
    return made;
  }

  set<K extends Kind>(to: Local<K>, value: Code<K>): void {
    this.code.push(...value.bytes, localSet, ...unsigned(to.index));
  }

  /** An address or counter goes on by `n`. */
  advance(to: Local<"i32">, n: Code<"i32"> | number): void {
    this.set(to, i32.add(to, typeof n === "number" ? i32.const(n) : n));
  }

  /** Writes at an address. Alignment is a hint. */
  store(address: Code<"i32">, value: Code<Kind>, offset = 0): void {
    const code = { i32: [0x36], f32: [0x38], f64: [0x39], v128: [0xfd, 11] }[value.kind];
    this.code.push(...address.bytes, ...value.bytes, ...code, 0, ...unsigned(offset));
  }

  /** Writes the first 8 bytes of a vector. */
  storeLow(address: Code<"i32">, value: Code<"v128">): void {
    this.code.push(...address.bytes, ...value.bytes, 0xfd, 91, 0, 0, 0);
  }

  return(value: Code<"i32">): void {
    this.code.push(...value.bytes, 0x0f);
  }

  if(condition: Code<"i32">, body: () => void): void {
    this.code.push(...condition.bytes, 0x04, noResult);
    body();
    this.code.push(end);
  }

  while(condition: Code<"i32">, body: () => void): void {
    this.code.push(block, noResult, loop, noResult);
    // Leaves the outer block when it no longer holds.
    this.code.push(...condition.bytes, 0x45, branchIf, 1);
    body();
    this.code.push(branch, 0, end, end);
  }
}

const local = <K extends Kind>(kind: K, index: number): Local<K> => ({
  kind,
  index,
  bytes: [localGet, ...unsigned(index)],
});

/** A function of whole numbers, such as addresses in the memory. */
export interface Func {
  readonly name: string;
  readonly parameters: number;
  readonly result: boolean;
  readonly body: Body;
}

/** `build` writes the body; with a result, it returns a number in the end. */
export function func<const P extends readonly string[]>(
  name: string,
  parameters: P,
  build: (f: Body, p: Readonly<Record<P[number], Local<"i32">>>) => void,
  { result = false } = {},
): Func {
  const body = new Body(parameters.length);
  const named = Object.fromEntries(parameters.map((p, i) => [p, local("i32", i)]));
  build(body, named as Record<P[number], Local<"i32">>);
  return { name, parameters: parameters.length, result, body };
}

const vector = (items: readonly (readonly number[])[]): number[] => [
  ...unsigned(items.length),
  ...items.flat(),
];
const section = (id: number, content: readonly number[]): number[] => [
  id,
  ...unsigned(content.length),
  ...content,
];
const text = (s: string): number[] => [...unsigned(s.length), ...new TextEncoder().encode(s)];

/** The most pages of 64 KiB that a memory may have. */
export const maxPages = 65536;

/** The bytes of a module with these functions, which work in a shared memory that it imports as `env.memory`. */
export function assemble(functions: readonly Func[]): Uint8Array<ArrayBuffer> {
  const signatures = functions.map(({ parameters, result }) => [
    0x60,
    ...vector(Array.from({ length: parameters }, () => [types.i32])),
    ...vector(result ? [[types.i32]] : []),
  ]);
  const sharedMemory = [...text("env"), ...text("memory"), 2, 3, 0, ...unsigned(maxPages)];
  const bodies = functions.map(({ body, result }) => {
    const locals = vector(body.locals.map((kind) => [1, types[kind]]));
    // A function with a result has returned before.
    const code = [...locals, ...body.code, ...(result ? [0x00] : []), end];
    return [...unsigned(code.length), ...code];
  });
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, vector(signatures)),
    ...section(2, vector([sharedMemory])),
    ...section(3, vector(functions.map((_, i) => unsigned(i)))),
    ...section(7, vector(functions.map(({ name }, i) => [...text(name), 0, ...unsigned(i)]))),
    ...section(10, vector(bodies)),
  ]);
}

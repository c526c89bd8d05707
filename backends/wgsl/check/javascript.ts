import {
  type Binary,
  declares,
  type Expr,
  type Kernel,
  lanes,
  meets,
  type Node,
  type Scalar,
  type Stmt,
  statements,
  type Unary,
} from "../../kernel/lang/index.ts";

/** A number, or the lanes of a vector. */
export type JsValue = number | number[];

/** Memory as a kernel in JavaScript sees it. */
export interface JsMemory {
  load(index: number): JsValue;
  store(index: number, value: JsValue): void;
  /** Adds, and says what was there before. */
  count(index: number, by: number): number;
}

/** Where a group stands, and what it works on. */
export interface JsLaunch {
  readonly memory: Readonly<Record<string, JsMemory>>;
  readonly uniforms: Readonly<Record<string, number>>;
  readonly group: { readonly x: number; readonly y: number; readonly z: number };
  readonly groups: number;
}

/**
 * A kernel as a JavaScript function that runs one group, for small cases of it: threads run one after another between
 * the places where they meet, and floats are rounded to f32 after each operation.
 */
export function javascript(k: Kernel): (launch: JsLaunch) => void {
  const names = [...statements(k.body)].flatMap(declares).map((d) => d.name);
  const body = together(k.body, k.threads).join("\n");
  const text = [
    ...[...new Set(body.match(vectorName))].map(vectorFunction),
    ...names.map((name) => `const ${name}_ = new Array(${k.threads});`),
    ...k.tables.map((m) => `const ${m.name} = [${(m.values ?? []).map(Math.fround).join(", ")}];`),
    body,
  ].join("\n");
  const run = new Function("memory", "uniforms", "group", "groups", "lib", text);
  return ({ memory, uniforms, group, groups }) => run(memory, uniforms, group, groups, library);
}

type Of<K extends Stmt["kind"]> = Extract<Stmt, { kind: K }>;

/** Statements that all threads run in step where they meet, and each on its own where they do not. */
function together(body: readonly Stmt[], threads: number): string[] {
  const out: string[] = [];
  let alone: Stmt[] = [];
  const flush = () => {
    if (alone.length > 0) out.push(`for (let t = 0; t < ${threads}; t++) {`, ...alone.flatMap(single), "}");
    alone = [];
  };
  for (const s of body) {
    if (!meets(s)) {
      alone.push(s);
      continue;
    }
    flush();
    if (s.kind === "reduce") out.push(...reduce(s, threads));
    if (s.kind === "if")
      out.push(
        `{ const t = 0; var taken = ${js(s.cond)}; }`,
        "if (taken) {",
        ...together(s.yes, threads),
        "} else {",
        ...together(s.no, threads),
        "}",
      );
    if (s.kind === "for") {
      const i = `${s.name}_all`;
      out.push(
        `for (let t = 0, ${i} = ${js(s.from)}; ${i} < ${js(s.to)}; ${i} += ${js(s.step)}) {`,
        `${s.name}_.fill(${i});`,
        ...together(s.body, threads),
        "}",
      );
    }
  }
  flush();
  return out;
}

function reduce(s: Of<"reduce">, threads: number): string[] {
  return s.results.flatMap(({ name, value }) => {
    const scalar = value.type as Scalar;
    return [
      `for (let t = 0; t < ${threads}; t++) ${name}_[t] = ${js(value)};`,
      `lib.reduce(${name}_, ${s.lanes}, (a, b) => ${binary(s.op, scalar, "a", "b")});`,
    ];
  });
}

type Singles = { readonly [K in Stmt["kind"]]: (s: Of<K>) => string[] };

const singles: Singles = {
  let: (s) => [`${s.name}_[t] = ${js(s.value)};`],
  var: (s) => [`${s.name}_[t] = ${js(s.value)};`],
  set: (s) => [`${s.name}_[t] = ${js(s.value)};`],
  store: (s) => [`memory.${s.memory.name}.store(${js(s.index)}, ${js(s.value)});`],
  for: (s) => [
    `for (${s.name}_[t] = ${js(s.from)}; ${s.name}_[t] < ${js(s.to)}; ${s.name}_[t] += ${js(s.step)}) {`,
    ...s.body.flatMap(single),
    "}",
  ],
  if: (s) => [`if (${js(s.cond)}) {`, ...s.yes.flatMap(single), "} else {", ...s.no.flatMap(single), "}"],
  barrier: () => [],
  reduce: () => {
    throw new Error("a reduction stands where threads do not meet");
  },
  count: (s) => [`${s.name}_[t] = memory.${s.memory.name}.count(${js(s.index)}, ${js(s.by)});`],
  mma: () => {
    throw new Error("WGSL has no tensor cores");
  },
  matrices: () => {
    throw new Error("WGSL has no tensor cores");
  },
  copy: () => {
    throw new Error("WGSL has no copies that arrive later");
  },
  batch: () => [],
  arrive: () => [],
  fence: () => [],
  await: () => [],
  comment: () => [],
};
const single = (s: Stmt): string[] => (singles[s.kind] as (s: Stmt) => string[])(s);

type Printers = { readonly [K in Node["kind"]]: (n: Extract<Node, { kind: K }>, e: Expr) => string };

const builtins = {
  thread: "t",
  "group.x": "group.x",
  "group.y": "group.y",
  "group.z": "group.z",
  "groups.x": "groups",
} as const;

const printers: Printers = {
  literal: ({ value }, e) => (e.type === "f32" ? `${Math.fround(Number(value))}` : String(value)),
  name: (n) => (n.of === "uniform" ? `uniforms.${n.name}` : `${n.name}_[t]`),
  builtin: (n) => builtins[n.name],
  binary: (n, e) => {
    // Comparisons give bool, whatever they compare.
    const { scalar } = lanes(n.a.type);
    const { count } = lanes(e.type);
    if (count === 1) return binary(n.op, scalar, js(n.a), js(n.b));
    const kinds = [n.a, n.b].map((p) => (lanes(p.type).count === 1 ? "s" : "v")).join("");
    return `vector_${operators.indexOf(n.op)}_${scalar}_${count}_${kinds}(${js(n.a)}, ${js(n.b)})`;
  },
  unary: (n, e) => {
    const { scalar, count } = lanes(e.type);
    return count === 1 ? unary(n.op, scalar, js(n.a)) : `${js(n.a)}.map((a) => ${unary(n.op, scalar, "a")})`;
  },
  select: (n) => `(${js(n.cond)} ? ${js(n.yes)} : ${js(n.no)})`,
  convert: (n, e) => {
    const { scalar, count } = lanes(e.type);
    return count === 1 ? converted(scalar, js(n.a)) : `${js(n.a)}.map((a) => ${converted(scalar, "a")})`;
  },
  bits: (n, e) => {
    const [to, { scalar: from, count }] = [lanes(e.type).scalar, lanes(n.a.type)];
    const call = (a: string) => `lib.bits(${a}, "${from}", "${to}")`;
    return count === 1 ? call(js(n.a)) : `${js(n.a)}.map((a) => ${call("a")})`;
  },
  load: (n) =>
    n.memory.space === "table"
      ? `${n.memory.name}[${js(n.index)}]`
      : `memory.${n.memory.name}.load(${js(n.index)})`,
  lane: (n) => `${js(n.a)}[${n.lane}]`,
  vector: (n) => `[${n.lanes.map(js).join(", ")}]`,
  unpack: (n) => `lib["${n.packing}"](${js(n.a)})`,
  pack: (n) => `lib["pack ${n.packing}"](${js(n.a)})`,
  dot4i8: (n) => `lib.dot4i8(${js(n.a)}, ${js(n.b)})`,
};

const operators = "+ - * / % & | ^ << >> < <= == != && || min max pow".split(" ") as Binary[];
const vectorName = /\bvector_\d+_\w+?_[24]_[sv]{2}\b/g;

/** A function over the lanes of vectors, by a name as `binary` prints it. */
function vectorFunction(name: string): string {
  const [, op, scalar, count, kinds = ""] = name.split("_");
  const operand = (which: number, i: number) => `${"ab"[which]}${kinds[which] === "v" ? `[${i}]` : ""}`;
  const each = Array.from({ length: Number(count) }, (_, i) =>
    binary(operators[Number(op)] as Binary, scalar as Scalar, operand(0, i), operand(1, i)),
  );
  return `const ${name} = (a, b) => [${each.join(", ")}];`;
}

/** An expression as JavaScript, for thread `t`. */
const js = (e: Expr): string => (printers[e.node.kind] as (n: Node, e: Expr) => string)(e.node, e);

function binary(op: Binary, scalar: Scalar, a: string, b: string): string {
  if (op === "min" || op === "max") return `Math.${op}(${a}, ${b})`;
  if (op === "pow") return `Math.fround(${a} ** ${b})`;
  if (scalar === "bool" || ["<", "<=", "==", "!=", "&&", "||"].includes(op)) return `(${a} ${op} ${b})`;
  if (op === ">>") return `(${a} ${scalar === "u32" ? ">>>" : ">>"} ${b})`;
  if (scalar === "f32") return `Math.fround(${a} ${op} ${b})`;
  if (op === "*") return cut(scalar, `Math.imul(${a}, ${b})`);
  return cut(scalar, op === "/" ? `Math.trunc(${a} / ${b})` : `(${a} ${op} ${b})`);
}

function unary(op: Unary, scalar: Scalar, a: string): string {
  if (op === "not") return `!${a}`;
  if (op === "neg") return scalar === "i32" ? `(-${a} | 0)` : `(-${a})`;
  if (op === "rsqrt") return `Math.fround(1 / Math.sqrt(${a}))`;
  return `Math.fround(Math.${op}(${a}))`;
}

const cut = (scalar: Scalar, a: string): string => (scalar === "u32" ? `(${a} >>> 0)` : `(${a} | 0)`);

function converted(scalar: Scalar, a: string): string {
  if (scalar === "f16") throw new Error("small cases are computed in f32");
  if (scalar === "bool") return `(${a} != 0)`;
  return scalar === "f32" ? `Math.fround(Number(${a}))` : cut(scalar, `Math.trunc(Number(${a}))`);
}

const cell = new DataView(new ArrayBuffer(4));
const signed = (bits: number, a: number, shift: number): number => (a << (32 - bits - shift)) >> (32 - bits);

/** IEEE half precision. */
function half(h: number): number {
  const [sign, exponent, fraction] = [h & 0x8000 ? -1 : 1, (h >>> 10) & 31, h & 1023];
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction * 2 ** -24);
}

const fromBits = (bits: number): number => {
  cell.setUint32(0, bits >>> 0);
  return cell.getFloat32(0);
};

/** Rounds to the nearest half, ties to even. */
function toHalf(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const a = Math.abs(value);
  if (Number.isNaN(a)) return 0x7e00;
  if (a >= 65520) return sign | 0x7c00;
  const exponent = a < 2 ** -14 ? -14 : Math.floor(Math.log2(a));
  const scaled = a / 2 ** (exponent - 10);
  const low = Math.floor(scaled);
  const rounded = scaled - low > 0.5 || (scaled - low === 0.5 && low % 2 === 1) ? low + 1 : low;
  // A fraction that overflows moves into the exponent by itself.
  return sign | (a < 2 ** -14 ? rounded : ((exponent + 15) << 10) + rounded - 1024);
}

/** Rounds to the nearest bf16, ties to even. */
function toBf16(value: number): number {
  cell.setFloat32(0, value);
  const bits = cell.getUint32(0);
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** What the printed text calls. */
const library = {
  /** Each run of `lanes` values becomes what combining them in a tree gives. */
  reduce(values: number[], lanes: number, both: (a: number, b: number) => number): void {
    for (let first = 0; first < values.length; first += lanes) {
      for (let step = lanes / 2; step >= 1; step /= 2)
        for (let i = first; i < first + step; i++)
          values[i] = both(values[i] as number, values[i + step] as number);
      values.fill(values[first] as number, first, first + lanes);
    }
  },
  bits(a: number, from: Scalar, to: Scalar): number {
    if (from === "f32") cell.setFloat32(0, a);
    else cell.setUint32(0, a >>> 0);
    if (to === "f32") return cell.getFloat32(0);
    return to === "u32" ? cell.getUint32(0) : cell.getInt32(0);
  },
  i8x4: (a: number) => [0, 8, 16, 24].map((shift) => signed(8, a, shift)),
  "i4x4.low": (a: number) => [0, 4, 8, 12].map((shift) => signed(4, a, shift)),
  "i4x4.high": (a: number) => [16, 20, 24, 28].map((shift) => signed(4, a, shift)),
  f16x2: (a: number) => [half(a & 0xffff), half(a >>> 16)],
  bf16x2: (a: number) => [fromBits(a << 16), fromBits(a & 0xffff0000)],
  "pack f16x2": ([low = 0, high = 0]: number[]) => (toHalf(low) | (toHalf(high) << 16)) >>> 0,
  "pack bf16x2": ([low = 0, high = 0]: number[]) => (toBf16(low) | (toBf16(high) << 16)) >>> 0,
  dot4i8: (a: number, b: number) =>
    [0, 8, 16, 24].reduce((sum, shift) => sum + signed(8, a, shift) * signed(8, b, shift), 0),
};

import {
  type Kernel,
  lanes,
  type Memory,
  type Scalar,
  type Stmt,
  statements,
  type Type,
} from "../lang/index.ts";
import { bitsOf, type Dialect, decimal, expressions } from "./expression.ts";
import {
  bundles,
  comment,
  Lines,
  type Of,
  printBody,
  reducers,
  rows,
  type StatementPrinters,
} from "./statement.ts";

export interface WgslOptions {
  /** Use subgroup operations; the device must have the feature "subgroups". */
  readonly subgroups?: boolean;
}

const type = (t: Type): string => {
  const { scalar, count } = lanes(t);
  return count === 1 ? scalar : `vec${count}<${scalar}>`;
};

const functions = { rsqrt: "inverseSqrt" } as Readonly<Record<string, string>>;

const dialect: Dialect = {
  type,
  literal: (scalar, value) => {
    if (scalar === "f32") {
      const v = Number(value);
      return Number.isFinite(Math.fround(v)) ? decimal(v) : `float_of(${bitsOf(v)}u)`;
    }
    if (scalar === "f16") return `${value}h`;
    return scalar === "u32" ? `${value}u` : `${value}`;
  },
  name: (name, of) => (of === "uniform" ? `launch.${name}` : name),
  builtins: {
    thread: "thread",
    "group.x": "group.x",
    "group.y": "group.y",
    "group.z": "group.z",
    "groups.x": "groups.x",
  },
  // Past 15 it is ±1 to the last bit, and some drivers compute ∞/∞ there.
  call: (op, t, args) =>
    op === "tanh"
      ? `tanh(clamp(${args[0]}, ${type(t)}(-15.0), ${type(t)}(15.0)))`
      : `${functions[op] ?? op}(${args.join(", ")})`,
  select: (cond, yes, no) => `select(${no}, ${yes}, ${cond})`,
  convert: (to, a) => `${type(to)}(${a})`,
  bits: (to, a) => `bitcast<${type(to)}>(${a})`,
  load: (m, index) => `${m.name}[${index}]`,
  lane: (a, i) => `${a}.${"xyzw"[i]}`,
  vector: (t, parts) => `${type(t)}(${new Set(parts).size === 1 ? parts[0] : parts.join(", ")})`,
  unpack: {
    i8x4: (a) => `unpack_i8(${a})`,
    "i4x4.low": (a) => `unpack_i4(${a})`,
    "i4x4.high": (a) => `unpack_i4(${a} >> 16u)`,
    f16x2: (a) => `unpack2x16float(${a})`,
    bf16x2: (a) => `unpack_bf16(${a})`,
  },
  pack: { f16x2: (a) => `pack2x16float(${a})`, bf16x2: (a) => `pack_bf16(${a})` },
  dot4i8: (a, b) => `dot4I8Packed(${a}, ${b})`,
};

/** Functions that some kernels call. One that is not named in the text is left out. */
const helpers: Readonly<Record<string, string>> = {
  float_of: "fn float_of(bits: u32) -> f32 {\n  return bitcast<f32>(bits);\n}",
  unpack_i8:
    "fn unpack_i8(codes: u32) -> vec4<f32> {\n" +
    "  return vec4<f32>(vec4<i32>(vec4<u32>(codes) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));\n}",
  unpack_i4:
    "fn unpack_i4(codes: u32) -> vec4<f32> {\n" +
    "  return vec4<f32>(vec4<i32>(vec4<u32>(codes) << vec4<u32>(28u, 24u, 20u, 16u)) >> vec4<u32>(28u));\n}",
  unpack_bf16:
    "fn unpack_bf16(halves: u32) -> vec2<f32> {\n" +
    "  return bitcast<vec2<f32>>(vec2<u32>(halves << 16u, halves & 0xffff0000u));\n}",
  // To the nearest, ties to even.
  pack_bf16:
    "fn pack_bf16(a: vec2<f32>) -> u32 {\n" +
    "  let bits = bitcast<vec2<u32>>(a);\n" +
    "  let near = bits + vec2<u32>(0x7fffu) + ((bits >> vec2<u32>(16u)) & vec2<u32>(1u));\n" +
    "  return (near.x >> 16u) | (near.y & 0xffff0000u);\n}",
};

/** A module with one entry point, which is called as the kernel is. Bindings are 0, 1, …, uniforms after the buffers. */
export function wgsl(k: Kernel, options: WgslOptions = {}): string {
  const expression = expressions(dialect);
  const out = new Lines();
  const reduces = [...statements(k.body)].filter((s): s is Of<"reduce"> => s.kind === "reduce");
  const subgroups = (options.subgroups ?? false) && reduces.some((s) => s.lanes === k.threads);
  const meetings = new Map<string, string>();
  for (const s of reduces)
    for (const b of bundles(s)) {
      const scalar = s.results[0]?.value.type as Scalar;
      const r = reduction(s, scalar, b.names.length, k.threads, subgroups);
      meetings.set(r.name, r.text);
    }

  const body = (stmts: readonly Stmt[]) => printBody(stmts, printers);
  const printers: StatementPrinters = {
    let: (s) => out.add(`let ${s.name} = ${expression(s.value)};`),
    var: (s) => out.add(`var ${s.name}: ${type(s.value.type)} = ${expression(s.value)};`),
    set: (s) => out.add(`${s.name} = ${expression(s.value)};`),
    store: (s) => out.add(`${s.memory.name}[${expression(s.index)}] = ${expression(s.value)};`),
    for: (s) => {
      const [from, to, step] = [s.from, s.to, s.step].map(expression);
      out.block(`for (var ${s.name} = ${from}; ${s.name} < ${to}; ${s.name} += ${step})`, () => body(s.body));
    },
    if: (s) =>
      out.branch(
        `if (${expression(s.cond)})`,
        () => body(s.yes),
        s.no.length > 0 ? () => body(s.no) : undefined,
      ),
    barrier: () => out.add("workgroupBarrier();"),
    reduce: (s) => {
      const scalar = s.results[0]?.value.type as Scalar;
      for (const { names, values } of bundles(s)) {
        const call = reduction(s, scalar, names.length, k.threads, subgroups).name;
        const parts = values.map(expression);
        if (names.length === 1) {
          out.add(`let ${names[0]} = ${call}(thread, ${parts[0]});`);
          continue;
        }
        const width = names.length === 2 ? 2 : 4;
        while (parts.length < width) parts.push(parts[0] as string);
        const all = `${names.join("_")}`;
        out.add(`let ${all} = ${call}(thread, vec${width}<${scalar}>(${parts.join(", ")}));`);
        names.forEach((n, i) => void out.add(`let ${n} = ${all}.${"xyzw"[i]};`));
      }
    },
    count: (s) =>
      out.add(`let ${s.name} = atomicAdd(&${s.memory.name}[${expression(s.index)}], ${expression(s.by)});`),
    mma: () => {
      throw new Error(`${k.name}: WGSL has no tensor cores`);
    },
    matrices: () => {
      throw new Error(`${k.name}: WGSL has no tensor cores`);
    },
    copy: () => {
      throw new Error(`${k.name}: WGSL has no copies that arrive later`);
    },
    batch: () => {},
    arrive: () => {},
    fence: () => out.add("storageBarrier();"),
    await: () => {},
    comment: (s) => out.add(...comment(s.text)),
  };

  const text = new Lines();
  out.block(`@compute @workgroup_size(${k.threads})\nfn ${k.name}(${parameters(subgroups)})`, () => {
    if (subgroups) out.add("subgroup = vec2<u32>(subgroup_lane, subgroup_lanes);");
    body(k.body);
  });
  const main = out.toString();
  if (subgroups) text.add("enable subgroups;", "");
  if (/\bf16\b/.test(main)) text.add("enable f16;", "");
  text.add(...comment(k.doc), "");
  k.buffers.forEach((m, i) => void text.add(`@group(0) @binding(${i}) ${buffer(m)}`));
  if (k.uniforms.length > 0) {
    text.block("struct Launch", () => text.add(...k.uniforms.map((u) => `${u.name}: ${u.type},`)));
    text.add(`@group(0) @binding(${k.buffers.length}) var<uniform> launch: Launch;`);
  }
  for (const m of k.shared) text.add(`var<workgroup> ${m.name}: array<${type(m.type)}, ${m.length}>;`);
  for (const m of k.tables) {
    const values = m.values ?? [];
    text.add(`const ${m.name} = array<f32, ${values.length}>(`, ...rows(values), ");");
  }
  if (subgroups) text.add("var<private> subgroup: vec2<u32>;");
  const reductions = [...meetings.values()].join("\n\n");
  const used = Object.keys(helpers).filter((name) => main.includes(`${name}(`));
  const functionsText = [...used.map((n) => helpers[n]), reductions].filter(Boolean).join("\n\n");
  return [text.toString(), functionsText && `${functionsText}\n\n`, main]
    .filter(Boolean)
    .join("\n")
    .trimStart();
}

function parameters(subgroups: boolean): string {
  const all = [
    "@builtin(local_invocation_index) thread: u32",
    "@builtin(workgroup_id) group: vec3<u32>",
    "@builtin(num_workgroups) groups: vec3<u32>",
  ];
  if (subgroups)
    all.push(
      "@builtin(subgroup_invocation_id) subgroup_lane: u32",
      "@builtin(subgroup_size) subgroup_lanes: u32",
    );
  return `\n  ${all.join(",\n  ")}\n`;
}

const buffer = (m: Memory): string => {
  const access = m.space === "weight" || m.space === "input" ? "read" : "read_write";
  const element = m.space === "counter" ? "atomic<u32>" : type(m.type);
  return `var<storage, ${access}> ${m.name}: array<${element}>;`;
};

/** A function in which threads meet and combine what each brings. */
function reduction(
  s: Of<"reduce">,
  scalar: Scalar,
  count: number,
  threads: number,
  subgroups: boolean,
): { name: string; text: string } {
  const width = count === 3 ? 4 : count;
  const t = width === 1 ? scalar : `vec${width}<${scalar}>`;
  const word = reducers[s.op];
  const whole = s.lanes === threads;
  const name = `${word}_of_${s.lanes}${width > 1 ? `x${width}` : ""}${scalar === "f32" ? "" : `_${scalar}`}`;
  const scratch = `${name}_scratch`;
  const both = (a: string, b: string) => (s.op === "+" ? `${a} + ${b}` : `${word}(${a}, ${b})`);
  const out = new Lines();
  if (subgroups && whole) {
    const operation = s.op === "+" ? "subgroupAdd" : s.op === "max" ? "subgroupMax" : "subgroupMin";
    out.add(`var<workgroup> ${scratch}: array<${t}, ${threads}>;`);
    out.block(`fn ${name}(thread: u32, value: ${t}) -> ${t}`, () => {
      out.add(`let part = ${operation}(value);`);
      out.add(`if (subgroup.x == 0u) { ${scratch}[thread / subgroup.y] = part; }`);
      out.add("workgroupBarrier();", `var all = ${scratch}[0];`);
      out.add(
        `for (var i = 1u; i < ${threads}u / subgroup.y; i++) { all = ${both("all", `${scratch}[i]`)}; }`,
      );
      out.add("workgroupBarrier();", "return all;");
    });
    return { name, text: out.toString().trimEnd() };
  }
  out.add(`var<workgroup> ${scratch}: array<${t}, ${threads}>;`);
  out.block(`fn ${name}(thread: u32, value: ${t}) -> ${t}`, () => {
    const lane = whole ? "thread" : `(thread & ${s.lanes - 1}u)`;
    out.add(`${scratch}[thread] = value;`, "workgroupBarrier();");
    out.block(`for (var step = ${s.lanes / 2}u; step > 0u; step >>= 1u)`, () => {
      out.add(
        `if (${lane} < step) { ${scratch}[thread] = ${both(`${scratch}[thread]`, `${scratch}[thread + step]`)}; }`,
      );
      out.add("workgroupBarrier();");
    });
    out.add(
      `let all = ${scratch}[${whole ? "0" : `thread - ${lane}`}];`,
      "workgroupBarrier();",
      "return all;",
    );
  });
  return { name, text: out.toString().trimEnd() };
}

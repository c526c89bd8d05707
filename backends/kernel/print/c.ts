import {
  declares,
  type Expr,
  type Kernel,
  lanes,
  meets,
  parts,
  reads,
  type Stmt,
  type Type,
} from "../lang/index.ts";
import { type Dialect, decimal, expressions } from "./expression.ts";
import {
  alike,
  comment,
  floatFunctions,
  Lines,
  loopHead,
  type Of,
  pointerTo,
  printBody,
  reducers,
  rows,
  type StatementPrinters,
} from "./statement.ts";

const scalars = { f32: "float", f16: "_Float16", i32: "int32_t", u32: "uint32_t", bool: "bool" } as const;
const type = (t: Type): string => {
  const { scalar, count } = lanes(t);
  return count === 1 ? scalars[scalar] : `${scalar}x${count}`;
};

const dialect = (isArray: (name: string) => boolean): Dialect => ({
  type,
  literal: (scalar, value) => {
    if (scalar === "f32" || scalar === "f16") {
      const v = Number(value);
      if (Number.isNaN(v)) return "NAN";
      if (!Number.isFinite(Math.fround(v))) return v > 0 ? "INFINITY" : "-INFINITY";
      return `${decimal(v)}f`;
    }
    return scalar === "u32" ? `${value}u` : `${value}`;
  },
  name: (name) => (isArray(name) ? `${name}[thread]` : name),
  builtins: {
    thread: "thread",
    "group.x": "group.x",
    "group.y": "group.y",
    "group.z": "group.z",
    "groups.x": "groups_x",
  },
  call: (op, t, args) => {
    const spelled = floatFunctions[op] ?? `${op}_${t.split("x")[0]}`;
    const { count } = lanes(t);
    return count === 1 ? `${spelled}(${args.join(", ")})` : `${op}_${t}(${args.join(", ")})`;
  },
  select: (cond, yes, no) => `(${cond} ? ${yes} : ${no})`,
  convert: (to, a) =>
    lanes(to).count > 1 ? `__builtin_convertvector(${a}, ${type(to)})` : `(${type(to)})(${a})`,
  bits: (to, a, from) => `${lanes(to).count > 1 ? `(${type(to)})` : `${to}_from_${from}`}(${a})`,
  load: (m, index) => `${m.name}[${index}]`,
  lane: (a, i) => `${a}[${i}]`,
  vector: (t, all) => {
    const each = all.length === lanes(t).count ? all : Array(lanes(t).count).fill(all[0]);
    return `(${type(t)}){${each.join(", ")}}`;
  },
  unpack: {
    i8x4: (a) => `unpack_i8(${a})`,
    "i4x4.low": (a) => `unpack_i4(${a})`,
    "i4x4.high": (a) => `unpack_i4((${a}) >> 16)`,
    f16x2: (a) => `unpack_f16(${a})`,
    bf16x2: (a) => `unpack_bf16(${a})`,
  },
  pack: { f16x2: (a) => `pack_f16(${a})`, bf16x2: (a) => `pack_bf16(${a})` },
  dot4i8: (a, b) => `dot4i8(${a}, ${b})`,
});

/** What the kernels call; once, before the first of them. gcc and clang, on little-endian machines. */
export const cPrelude = `#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef float f32x2 __attribute__((vector_size(8)));
typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x2 __attribute__((vector_size(8)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint32_t u32x2 __attribute__((vector_size(8)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
#ifdef __FLT16_MAX__
typedef _Float16 f16x2 __attribute__((vector_size(4)));
typedef _Float16 f16x4 __attribute__((vector_size(8)));
#endif
/** Which group of a launch runs. */
typedef struct { uint32_t x, y, z; } Group;

static inline float f32_from_u32(uint32_t a) { float b; memcpy(&b, &a, 4); return b; }
static inline float f32_from_i32(int32_t a) { float b; memcpy(&b, &a, 4); return b; }
static inline uint32_t u32_from_f32(float a) { uint32_t b; memcpy(&b, &a, 4); return b; }
static inline int32_t i32_from_f32(float a) { int32_t b; memcpy(&b, &a, 4); return b; }
static inline uint32_t u32_from_i32(int32_t a) { return (uint32_t)a; }
static inline int32_t i32_from_u32(uint32_t a) { return (int32_t)a; }
static inline float rsqrt_f32(float a) { return 1.0f / sqrtf(a); }
static inline float abs_f32(float a) { return fabsf(a); }
static inline int32_t abs_i32(int32_t a) { return a < 0 ? -a : a; }
static inline float min_f32(float a, float b) { return b < a ? b : a; }
static inline float max_f32(float a, float b) { return a < b ? b : a; }
static inline int32_t min_i32(int32_t a, int32_t b) { return b < a ? b : a; }
static inline int32_t max_i32(int32_t a, int32_t b) { return a < b ? b : a; }
static inline uint32_t min_u32(uint32_t a, uint32_t b) { return b < a ? b : a; }
static inline uint32_t max_u32(uint32_t a, uint32_t b) { return a < b ? b : a; }
static inline f32x4 unpack_i8(uint32_t codes) {
  return (f32x4){(int8_t)codes, (int8_t)(codes >> 8), (int8_t)(codes >> 16), (int8_t)(codes >> 24)};
}
static inline f32x4 unpack_i4(uint32_t codes) {
  return (f32x4){(int32_t)(codes << 28) >> 28, (int32_t)(codes << 24) >> 28, (int32_t)(codes << 20) >> 28,
                 (int32_t)(codes << 16) >> 28};
}
static inline float f32_from_half(uint32_t half) {
  const float magnitude = (half & 0x7c00) == 0x7c00
                              ? f32_from_u32(0x7f800000 | (half & 0x3ff) << 13)
                              : f32_from_u32((half & 0x7fff) << 13) * 0x1p112f;
  return half & 0x8000 ? -magnitude : magnitude;
}
static inline uint32_t half_from_f32(float a) {
  const uint32_t sign = u32_from_f32(a) >> 16 & 0x8000;
  const float magnitude = fabsf(a);
  if (magnitude != magnitude) return sign | 0x7e00;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  /* Adding a number 2^13 times as large rounds to the last bit that a half keeps. */
  if (magnitude < 0x1p-14f) return sign | (u32_from_f32(magnitude + 0.5f) - u32_from_f32(0.5f));
  const uint32_t bits = u32_from_f32(magnitude);
  return sign | ((bits - (112u << 23) + 0xfff + (bits >> 13 & 1)) >> 13);
}
static inline f32x2 unpack_f16(uint32_t halves) {
  return (f32x2){f32_from_half(halves & 0xffff), f32_from_half(halves >> 16)};
}
static inline uint32_t pack_f16(f32x2 a) { return half_from_f32(a[0]) | half_from_f32(a[1]) << 16; }
static inline f32x2 unpack_bf16(uint32_t halves) {
  return (f32x2){f32_from_u32(halves << 16), f32_from_u32(halves & 0xffff0000u)};
}
static inline uint32_t pack_bf16(f32x2 a) {
  const u32x2 bits = (u32x2)a, near = bits + 0x7fff + (bits >> 16 & 1);
  return near[0] >> 16 | (near[1] & 0xffff0000u);
}
static inline int32_t dot4i8(uint32_t a, uint32_t b) {
  int32_t sum = 0;
  for (int i = 0; i < 32; i += 8) sum += (int8_t)(a >> i) * (int8_t)(b >> i);
  return sum;
}
static inline void copy_16(void *to, const void *from, bool some) {
  if (some) memcpy(to, from, 16);
  else memset(to, 0, 16);
}
/* What each warp of 32 threads multiplies by tensor cores; see mma in the kernel language. */
static inline void mma_bf16(f32x4 *sums, uint32_t (*a)[4], uint32_t (*b)[2], uint32_t threads) {
  for (uint32_t thread = 0; thread < threads; thread++) {
    const uint32_t warp = thread / 32 * 32, g = thread % 32 / 4, t = thread % 4;
    for (uint32_t i = 0; i < 4; i++) {
      const uint32_t row = i / 2, column = 2 * t + i % 2;
      /* Tokens that are not there are columns of zeros. */
      uint32_t some = 0;
      for (uint32_t k = 0; k < 8; k++) some |= b[warp + column * 4 + k / 2][k % 2];
      if (!some) continue;
      float sum = 0;
      for (uint32_t k = 0; k < 16; k++) {
        const uint32_t from = k % 8 / 2, up = k % 2 ? 0 : 16;
        sum += f32_from_u32(a[warp + g * 4 + from][row + k / 8 * 2] << up & 0xffff0000u) *
               f32_from_u32(b[warp + column * 4 + from][k / 8] << up & 0xffff0000u);
      }
      sums[thread][i] += sum;
    }
  }
}
/* In the order of a tree, as groups of threads do it. */
#define REDUCE(name, type, both)                                                          \\
  static inline void name(type *values, uint32_t threads, uint32_t lanes) {               \\
    for (uint32_t first = 0; first < threads; first += lanes) {                           \\
      type *v = values + first;                                                           \\
      for (uint32_t step = lanes / 2; step > 0; step /= 2)                                \\
        for (uint32_t i = 0; i < step; i++) { const type a = v[i], b = v[i + step]; v[i] = both; } \\
      for (uint32_t i = 1; i < lanes; i++) v[i] = v[0];                                   \\
    }                                                                                     \\
  }
REDUCE(sum_f32, float, a + b) REDUCE(max_of_f32, float, a < b ? b : a) REDUCE(min_of_f32, float, b < a ? b : a)
REDUCE(sum_u32, uint32_t, a + b) REDUCE(max_of_u32, uint32_t, a < b ? b : a) REDUCE(min_of_u32, uint32_t, b < a ? b : a)
REDUCE(sum_i32, int32_t, a + b) REDUCE(max_of_i32, int32_t, a < b ? b : a) REDUCE(min_of_i32, int32_t, b < a ? b : a)
#undef REDUCE
`;

/**
 * A function that runs one group of a launch: `name(group, groups_x, buffers…, uniforms…)`. What stands between two
 * meetings of the threads becomes a loop over them.
 */
export function c(k: Kernel): string {
  const alone = k.threads === 1;
  const arrays = alone ? new Map<string, Type>() : crossing(k.body);
  const expression = expressions(dialect((name) => arrays.has(name)));
  const out = new Lines();

  /** Statements that no thread waits in. */
  const leaf = (stmts: readonly Stmt[]) => printBody(stmts, leaves);
  const declare = (name: string, t: Type, value: string, fixed: boolean) =>
    out.add(
      arrays.has(name)
        ? `${name}[thread] = ${value};`
        : `${fixed ? "const " : ""}${type(t)} ${name} = ${value};`,
    );
  const unreachable = (s: Stmt) => {
    throw new Error(`${k.name}: threads meet at ${s.kind} in flow that is not uniform`);
  };
  const leaves: StatementPrinters = {
    let: (s) => declare(s.name, s.value.type, expression(s.value), true),
    var: (s) => declare(s.name, s.value.type, expression(s.value), false),
    set: (s) => out.add(`${arrays.has(s.name) ? `${s.name}[thread]` : s.name} = ${expression(s.value)};`),
    for: (s) => out.block(loopHead(s, "uint32_t", expression), () => leaf(s.body)),
    ...alike(out, expression, leaf),
    barrier: unreachable,
    reduce: unreachable,
    mma: unreachable,
    matrices: unreachable,
    count: (s) => {
      const added = `__atomic_fetch_add(&${s.memory.name}[${expression(s.index)}], ${expression(s.by)}, __ATOMIC_ACQ_REL)`;
      declare(s.name, "u32", added, true);
    },
    copy: (s) => {
      const [to, from] = [
        `${s.memory.name} + ${expression(s.index)}`,
        `${s.from.name} + ${expression(s.at)}`,
      ];
      out.add(`copy_16(${to}, ${from}, ${expression(s.some)});`);
    },
    batch: () => {},
    arrive: () => {},
    fence: () => out.add("__atomic_thread_fence(__ATOMIC_SEQ_CST);"),
    await: () => {},
  };
  /** What all threads run, waiting for each other here and there. */
  const region = (stmts: readonly Stmt[]): void => {
    let run: Stmt[] = [];
    const flush = () => {
      if (run.length === 0) return;
      const stood = run;
      run = [];
      if (alone) leaf(stood);
      else out.block(`for (uint32_t thread = 0; thread < ${k.threads}u; thread++)`, () => leaf(stood));
    };
    for (const s of stmts) {
      if (hoists(s)) leaf([s]);
      else if (!meets(s)) run.push(s);
      else {
        flush();
        (meetings[s.kind] as (s: Stmt) => void)(s);
      }
    }
    flush();
  };
  const meetings: Partial<{ readonly [K in Stmt["kind"]]: (s: Of<K>) => void }> = {
    barrier: () => {},
    reduce: (s) => {
      const scalar = s.results[0]?.value.type;
      out.block(`for (uint32_t thread = 0; thread < ${k.threads}u; thread++)`, () => {
        for (const { name, value } of s.results) out.add(`${name}[thread] = ${expression(value)};`);
      });
      const call = s.op === "+" ? `sum_${scalar}` : `${reducers[s.op]}_of_${scalar}`;
      for (const { name } of s.results) out.add(`${call}(${name}, ${k.threads}u, ${s.lanes}u);`);
    },
    mma: (s) =>
      out.block("", () => {
        out.add(`uint32_t mma_a[${k.threads}][4], mma_b[${k.threads}][2];`);
        out.block(`for (uint32_t thread = 0; thread < ${k.threads}u; thread++)`, () => {
          s.a.forEach((e, i) => void out.add(`mma_a[thread][${i}] = ${expression(e)};`));
          s.b.forEach((e, i) => void out.add(`mma_b[thread][${i}] = ${expression(e)};`));
        });
        out.add(`mma_bf16(${s.acc}, mma_a, mma_b, ${k.threads}u);`);
      }),
    matrices: (s) =>
      out.block("", () => {
        out.add(`const u32x4 *rows[${k.threads}];`);
        out.block(`for (uint32_t thread = 0; thread < ${k.threads}u; thread++)`, () =>
          out.add(`rows[thread] = ${s.memory.name} + ${expression(s.index)};`),
        );
        out.block(`for (uint32_t thread = 0; thread < ${k.threads}u; thread++)`, () =>
          s.names.forEach((n, i) => {
            const row = `thread / 32 * 32 + ${8 * i} + thread % 32 / 4`;
            out.add(`${n}[thread] = (*rows[${row}])[thread % 4];`);
          }),
        );
      }),
    for: (s) => out.block(loopHead(s, "uint32_t", expression), () => region(s.body)),
    if: alike(out, expression, region).if,
  };

  const text = new Lines();
  text.add(...comment(k.doc));
  for (const m of k.tables)
    text.add(`static const float ${k.name}_${m.name}[] = {`, ...rows(m.values ?? []), "};");
  const parameters = [
    "Group group",
    "uint32_t groups_x",
    ...k.buffers.map((m) => `${pointerTo(m, type(m.type), "restrict")}${m.name}`),
    ...k.uniforms.map((u) => `${scalars[u.type]} ${u.name}`),
  ];
  region(k.body);
  text.block(`static void ${k.name}(${parameters.join(", ")})`, () => {
    text.add("(void)group, (void)groups_x;");
    if (alone) text.add("const uint32_t thread = 0;", "(void)thread;");
    for (const m of k.tables) text.add(`const float *${m.name} = ${k.name}_${m.name};`);
    for (const m of k.shared) text.add(`${type(m.type)} ${m.name}[${m.length}];`);
    for (const [name, t] of arrays) text.add(`${type(t)} ${name}[${k.threads}];`);
    text.add(...out.toString().trimEnd().split("\n"));
  });
  return text.toString();
}

/** What all threads agree on is computed once, before the loop over them. */
const hoists = (s: Stmt): boolean => s.kind === "let" && s.value.uniform;

/** Variables that outlive the loop over threads that sets them: they need a place for each thread. */
function crossing(body: readonly Stmt[]): Map<string, Type> {
  const home = new Map<string, { type: Type; run: number }>();
  const out = new Map<string, Type>();
  let run = 0;
  const use = (name: string) => {
    const at = home.get(name);
    if (at && at.run !== run) out.set(name, at.type);
  };
  const look = (e: Expr): void => {
    if (e.node.kind === "name" && e.node.of === "local") use(e.node.name);
    for (const p of parts(e)) look(p);
  };
  const walk = (stmts: readonly Stmt[]): void => {
    for (const s of stmts) {
      const meeting = meets(s);
      if (meeting) run++;
      for (const e of reads(s)) look(e);
      if (s.kind === "set") use(s.name);
      if (s.kind === "mma") use(s.acc);
      for (const { name, type: t } of declares(s)) {
        if (s.kind === "reduce" || s.kind === "matrices") out.set(name, t);
        // Loop variables and what is hoisted are scalars around the loops over threads.
        else if (s.kind !== "for" && !hoists(s)) home.set(name, { type: t, run });
      }
      if (s.kind === "for") walk(s.body);
      if (s.kind === "if") {
        walk(s.yes);
        if (meeting) run++;
        walk(s.no);
      }
      if (meeting) run++;
    }
  };
  walk(body);
  return out;
}

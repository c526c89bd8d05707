import { type Kernel, lanes, type Memory, type Stmt, type Type } from "../lang/index.ts";
import { bitsOf, type Dialect, decimal, expressions } from "./expression.ts";
import {
  alike,
  comment,
  floatFunctions,
  Lines,
  loopHead,
  pointerTo,
  printBody,
  type reducers,
  rows,
  type StatementPrinters,
} from "./statement.ts";

const scalars = { f32: "float", f16: "half", i32: "int", u32: "unsigned", bool: "bool" } as const;
const vectors = { f32: "float", i32: "int", u32: "uint" } as const;
const type = (t: Type): string => {
  const { scalar, count } = lanes(t);
  if (scalar === "f16") throw new Error("in CUDA halves are multiplied by tensor cores only");
  return count === 1 || scalar === "bool" ? scalars[scalar] : `${vectors[scalar]}${count}`;
};

const floats: Readonly<Record<string, string>> = {
  rsqrt: "rsqrtf",
  min: "fminf",
  max: "fmaxf",
  abs: "fabsf",
};

const dialect: Dialect = {
  type,
  literal: (scalar, value) => {
    if (scalar === "f32") {
      const v = Number(value);
      return Number.isFinite(Math.fround(v)) ? `${decimal(v)}f` : `__uint_as_float(${bitsOf(v)}u)`;
    }
    return scalar === "u32" ? `${value}u` : `${value}`;
  },
  name: (name) => name,
  builtins: {
    thread: "threadIdx.x",
    "group.x": "blockIdx.x",
    "group.y": "blockIdx.y",
    "group.z": "blockIdx.z",
    "groups.x": "gridDim.x",
  },
  call: (op, t, args) => {
    const one = floatFunctions[op] ?? (t === "f32" ? floats[op] : undefined) ?? op;
    return `${lanes(t).count > 1 ? op : one}(${args.join(", ")})`;
  },
  select: (cond, yes, no) => `(${cond} ? ${yes} : ${no})`,
  convert: (to, a) => (lanes(to).count > 1 ? `to_${type(to)}(${a})` : `(${type(to)})(${a})`),
  bits: (to, a) => `bits_as<${type(to)}>(${a})`,
  load: (m, index) =>
    m.space === "weight" && m.type === "u32x4" ? `stream(${m.name} + ${index})` : `${m.name}[${index}]`,
  lane: (a, i) => `${a}.${"xyzw"[i]}`,
  vector: (t, parts) => {
    const all = parts.length === lanes(t).count ? parts : Array(lanes(t).count).fill(parts[0]);
    return `make_${type(t)}(${all.join(", ")})`;
  },
  unpack: {
    i8x4: (a) => `unpack_i8(${a})`,
    "i4x4.low": (a) => `unpack_i4(${a})`,
    "i4x4.high": (a) => `unpack_i4((${a}) >> 16)`,
    f16x2: (a) => `unpack_f16(${a})`,
    bf16x2: (a) => `unpack_bf16(${a})`,
  },
  pack: { f16x2: (a) => `pack_f16(${a})`, bf16x2: (a) => `pack_bf16(${a})` },
  dot4i8: (a, b) => `__dp4a((int)(${a}), (int)(${b}), 0)`,
};

/** What the kernels call; once, before the first of them. */
export const cudaPrelude = `#include <cuda_fp16.h>

template <typename To, typename From> static __device__ __forceinline__ To bits_as(From a) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To b;
  memcpy(&b, &a, sizeof b);
  return b;
}
#define LANEWISE(op) \\
  static __device__ __forceinline__ float4 operator op(float4 a, float4 b) { \\
    return make_float4(a.x op b.x, a.y op b.y, a.z op b.z, a.w op b.w); } \\
  static __device__ __forceinline__ float4 operator op(float4 a, float b) { return a op make_float4(b, b, b, b); } \\
  static __device__ __forceinline__ float2 operator op(float2 a, float2 b) { return make_float2(a.x op b.x, a.y op b.y); } \\
  static __device__ __forceinline__ float2 operator op(float2 a, float b) { return a op make_float2(b, b); }
LANEWISE(+) LANEWISE(-) LANEWISE(*) LANEWISE(/)
#undef LANEWISE
/** Shared memory of which a launch says how much there is. */
#ifdef __CUDACC__
#define ASKED_MEMORY(name) extern __shared__ uint4 name[]
#else
#define ASKED_MEMORY(name) uint4 *const name = (uint4 *)processor::asked
#endif
/** Kernels of one stream may overlap: what earlier ones wrote is there from here on, and the next one may begin. */
static __device__ __forceinline__ void await_inputs() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}
/** Weights are read once: they should not push activations out of the caches. */
static __device__ __forceinline__ uint4 stream(const uint4 *p) { return __ldcs(p); }
static __device__ __forceinline__ float4 unpack_i8(unsigned codes) {
  /* A byte under the exponent of 2^23 is 2^23 and that byte: no conversion is needed, which GPUs do slowly. */
  const unsigned bytes = codes ^ 0x80808080u;
  return make_float4(__uint_as_float(__byte_perm(bytes, 0x4b000000u, 0x7440)) - 8388736.0f,
                     __uint_as_float(__byte_perm(bytes, 0x4b000000u, 0x7441)) - 8388736.0f,
                     __uint_as_float(__byte_perm(bytes, 0x4b000000u, 0x7442)) - 8388736.0f,
                     __uint_as_float(__byte_perm(bytes, 0x4b000000u, 0x7443)) - 8388736.0f);
}
static __device__ __forceinline__ float4 unpack_i4(unsigned codes) {
  const unsigned nibbles = codes ^ 0x8888u;
  return make_float4(__uint_as_float((nibbles & 15u) | 0x4b000000u) - 8388616.0f,
                     __uint_as_float((nibbles >> 4 & 15u) | 0x4b000000u) - 8388616.0f,
                     __uint_as_float((nibbles >> 8 & 15u) | 0x4b000000u) - 8388616.0f,
                     __uint_as_float((nibbles >> 12 & 15u) | 0x4b000000u) - 8388616.0f);
}
static __device__ __forceinline__ float2 unpack_f16(unsigned halves) { return __half22float2(bits_as<__half2>(halves)); }
static __device__ __forceinline__ float2 unpack_bf16(unsigned halves) {
  return make_float2(__uint_as_float(halves << 16), __uint_as_float(halves & 0xffff0000u));
}
static __device__ __forceinline__ unsigned pack_f16(float2 a) { return bits_as<unsigned>(__floats2half2_rn(a.x, a.y)); }
static __device__ __forceinline__ unsigned pack_bf16(float2 a) {
#ifdef __CUDACC__
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(a.y), "f"(a.x));
  return both;
#else
  const unsigned low = __float_as_uint(a.x), high = __float_as_uint(a.y);
  return (low + 0x7fffu + (low >> 16 & 1u)) >> 16 | ((high + 0x7fffu + (high >> 16 & 1u)) & 0xffff0000u);
#endif
}

/** Tensor cores: sum += A·B for A of 16 × 16 and B of 16 × 8 bf16, over the threads of a warp. */
static __device__ __forceinline__ void mma_bf16(float4 &sum, unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                                unsigned b0, unsigned b1) {
#ifdef __CUDACC__
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum.x), "+f"(sum.y), "+f"(sum.z), "+f"(sum.w)
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
  mma_on_processor(sum, a0, a1, a2, a3, b0, b1);
#endif
}

/** Four matrices of 8 × 8 numbers of 16 bits, of which each thread of a warp names a row. */
static __device__ __forceinline__ void load_matrices(unsigned &a, unsigned &b, unsigned &c, unsigned &d, const uint4 *row) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"((unsigned)__cvta_generic_to_shared(row)));
#else
  load_matrices_on_processor(a, b, c, d, row);
#endif
}
/** Begins to copy 16 bytes to the memory of the group, or as many zeros; what is beside them comes as near as the L2 cache. */
static __device__ __forceinline__ void copy_ahead(void *to, const void *from, bool some) {
#ifdef __CUDACC__
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
               :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(some ? 16 : 0));
#else
  copy_on_processor(to, from, some);
#endif
}
static __device__ __forceinline__ void end_batch() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;");
#else
  end_batch_on_processor();
#endif
}
/** All batches of copies of this thread but the newest have arrived. */
template <int left> static __device__ __forceinline__ void await_batches() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" :: "n"(left) : "memory");
#else
  await_batches_on_processor(left);
#endif
}

struct Sum { template <typename T> static __device__ __forceinline__ T of(T a, T b) { return a + b; } };
struct Max { template <typename T> static __device__ __forceinline__ T of(T a, T b) { return a < b ? b : a; } };
struct Min { template <typename T> static __device__ __forceinline__ T of(T a, T b) { return b < a ? b : a; } };
/** Each of n values, combined over \`lanes\` neighbouring threads; all of them get the results. */
template <typename Op, int lanes, int threads, typename T, int n>
static __device__ __forceinline__ void reduce(T (&values)[n]) {
  constexpr int warp = lanes < 32 ? lanes : 32;
#pragma unroll
  for (int step = warp / 2; step > 0; step /= 2)
#pragma unroll
    for (int i = 0; i < n; i++) values[i] = Op::of(values[i], __shfl_xor_sync(0xffffffffu, values[i], step));
  if constexpr (lanes > 32) {
    __shared__ T parts[n][threads / 32];
    const int first = threadIdx.x / lanes * (lanes / 32);
    if ((threadIdx.x & 31) == 0)
      for (int i = 0; i < n; i++) parts[i][threadIdx.x / 32] = values[i];
    __syncthreads();
    for (int i = 0; i < n; i++) {
      values[i] = parts[i][first];
      for (int w = 1; w < lanes / 32; w++) values[i] = Op::of(values[i], parts[i][first + w]);
    }
    __syncthreads();
  }
}
`;

const operations = { "+": "Sum", max: "Max", min: "Min" } as const satisfies Record<
  keyof typeof reducers,
  string
>;

/** Bytes of a kernel's shared memory that its launch must ask for: all of it, where a kernel cannot simply have so much. */
export function askedBytes({ shared }: Kernel): number {
  const bytes = shared.reduce((sum, m) => sum + bytesOf(m), 0);
  return bytes > 48 * 1024 ? bytes : 0;
}
/** In steps of 16 bytes. */
const bytesOf = ({ type, length = 0 }: Memory): number => Math.ceil((lanes(type).count * length) / 4) * 16;

/** Shared memory as parts of what the launch asked for. */
function fromAsked(shared: readonly Memory[]): string[] {
  let at = 0;
  return [
    "ASKED_MEMORY(asked);",
    ...shared.map((m) => {
      const line = `${type(m.type)} *const ${m.name} = (${type(m.type)} *)(asked + ${at});`;
      at += bytesOf(m) / 16;
      return line;
    }),
  ];
}

/** One __global__ function: buffers in order, then uniforms. */
export function cuda(k: Kernel): string {
  const expression = expressions(dialect);
  const out = new Lines();
  const body = (stmts: readonly Stmt[]) => printBody(stmts, printers);
  const waits = { found: false };
  const printers: StatementPrinters = {
    let: (s) => out.add(`const ${type(s.value.type)} ${s.name} = ${expression(s.value)};`),
    var: (s) => out.add(`${type(s.value.type)} ${s.name} = ${expression(s.value)};`),
    set: (s) => out.add(`${s.name} = ${expression(s.value)};`),
    for: (s) => out.block(loopHead(s, "unsigned", expression), () => body(s.body)),
    ...alike(out, expression, body),
    barrier: () => out.add("__syncthreads();"),
    reduce: (s) => {
      const first = s.results[0];
      if (!first) return;
      const all = `${s.results.map((r) => r.name).join("_")}_all`;
      out.add(
        `${type(first.value.type)} ${all}[] = {${s.results.map((r) => expression(r.value)).join(", ")}};`,
        `reduce<${operations[s.op]}, ${s.lanes}, ${k.threads}>(${all});`,
        ...s.results.map((r, i) => `const ${type(r.value.type)} ${r.name} = ${all}[${i}];`),
      );
    },
    count: (s) =>
      out.add(
        `const unsigned ${s.name} = atomicAdd(${s.memory.name} + ${expression(s.index)}, ${expression(s.by)});`,
      ),
    mma: (s) => out.add(`mma_bf16(${[s.acc, ...[...s.a, ...s.b].map(expression)].join(", ")});`),
    matrices: (s) => {
      const names = s.names.join(", ");
      out.add(`unsigned ${names};`, `load_matrices(${names}, ${s.memory.name} + ${expression(s.index)});`);
    },
    copy: (s) => {
      const [to, from] = [
        `${s.memory.name} + ${expression(s.index)}`,
        `${s.from.name} + ${expression(s.at)}`,
      ];
      out.add(`copy_ahead(${to}, ${from}, ${expression(s.some)});`);
    },
    batch: () => out.add("end_batch();"),
    arrive: (s) => out.add(`await_batches<${s.left}>();`),
    fence: () => out.add("__threadfence();"),
    await: () => {
      waits.found = true;
      out.add("await_inputs();");
    },
  };
  const parameters = [
    ...k.buffers.map((m) => `${pointerTo(m, type(m.type), "__restrict__")}${m.name}`),
    ...k.uniforms.map((u) => `${scalars[u.type]} ${u.name}`),
  ];
  const inner = new Lines();
  body(k.body);
  inner.add(...comment(k.doc));
  for (const m of k.tables)
    inner.add(`static __constant__ float ${k.name}_${m.name}[] = {`, ...rows(m.values ?? []), "};");
  inner.add(`__global__ void __launch_bounds__(${k.threads}${k.atOnce ? `, ${k.atOnce}` : ""})`);
  inner.block(`${k.name}(${parameters.join(", ")})`, () => {
    for (const m of k.tables) inner.add(`const float *${m.name} = ${k.name}_${m.name};`);
    if (askedBytes(k) > 0) inner.add(...fromAsked(k.shared));
    else for (const m of k.shared) inner.add(`__shared__ ${type(m.type)} ${m.name}[${m.length}];`);
    if (!waits.found) inner.add("await_inputs();");
    inner.add(...out.toString().trimEnd().split("\n"));
  });
  return inner.toString();
}

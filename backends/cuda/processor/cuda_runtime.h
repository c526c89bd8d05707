/*
 * CUDA on the processor, as far as programs that gemmac writes need it: for proving them where there is no GPU. Threads of
 * a group are fibers that take turns where they meet; groups run one after another, copies and launches at once.
 * It tells nothing of speed, of what a GPU's memory model allows, or of launches that overlap.
 */
#pragma once
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cmath>
#include <functional>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

template <typename T, int n> struct alignas(sizeof(T) * n) vector_of;
template <typename T> struct alignas(2 * sizeof(T)) vector_of<T, 2> { T x, y; };
template <typename T> struct alignas(4 * sizeof(T)) vector_of<T, 4> { T x, y, z, w; };
using float2 = vector_of<float, 2>;
using float4 = vector_of<float, 4>;
using int2 = vector_of<int, 2>;
using int4 = vector_of<int, 4>;
using uint2 = vector_of<unsigned, 2>;
using uint4 = vector_of<unsigned, 4>;
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

/* Fibers: each thread of the group that runs now. They are kept for the next group. */
namespace processor {
#if defined(__x86_64__) && defined(__GNUC__)
/* What is saved of a fiber is little: a switch takes some nanoseconds. */
typedef void *place[5];
#define PROCESSOR_SAVE(at) __builtin_setjmp(at)
/* Not in a function that saves. */
__attribute__((noinline, noreturn)) inline void go(place &at) { __builtin_longjmp(at, 1); }
#else
typedef jmp_buf place;
#define PROCESSOR_SAVE(at) _setjmp(at)
[[noreturn]] inline void go(place &at) { _longjmp(at, 1); }
#endif
struct copy_begun {
  void *to;
  const void *from;
};
struct fiber {
  place at;
  ucontext_t first;
  unsigned id;
  bool started, done;
  /* Copies that were begun and did not arrive yet, and where batches of them end. */
  std::vector<copy_begun> copies;
  std::vector<size_t> batches;
};
enum { STACK = 1 << 18 };
inline std::vector<fiber *> fibers;
inline place scheduler;
inline ucontext_t origin;
inline fiber *now;
inline const std::function<void()> *body;
inline unsigned live;
/* Of all threads, then of each warp: how many have arrived, and how often all had. */
struct gate {
  unsigned arrived, turn;
};
inline gate everyone, warps[64];
inline unsigned warp_live[64];
inline unsigned char exchange[64][2][32][32];
alignas(16) inline unsigned char asked[227 << 10];

/* The other threads go on, until it is this one's turn again. */
__attribute__((noinline)) inline void pause() {
  fiber *own = now;
  if (PROCESSOR_SAVE(own->at) == 0) go(scheduler);
}
inline void work() {
  for (;;) {
    (*body)();
    now->done = true;
    live--;
    warp_live[now->id / 32]--;
    pause();
  }
}
/* A thread goes on until it waits for others. */
__attribute__((noinline)) inline void resume(fiber *f) {
  now = f;
  threadIdx = dim3(f->id, 0, 0);
  if (PROCESSOR_SAVE(scheduler)) return;
  if (f->started) go(f->at);
  f->started = true;
  setcontext(&f->first);
}
inline void meet(gate &g, const unsigned &expected) {
  const unsigned turn = g.turn;
  g.arrived++;
  for (;;) {
    if (g.turn != turn) return;
    if (g.arrived >= expected) {
      g.arrived = 0;
      g.turn++;
      return;
    }
    pause();
  }
}
/* Whether threads take their turns from the last to the first: what depends on order shows. */
inline bool backwards() {
  static const bool set = getenv("GEMMA_BACKWARDS") != nullptr;
  return set;
}
inline void run_group(unsigned threads, const std::function<void()> &what) {
  while (fibers.size() < threads) {
    fiber *f = new fiber();
    void *stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED || getcontext(&f->first)) abort();
    f->first.uc_stack.ss_sp = stack;
    f->first.uc_stack.ss_size = STACK;
    f->first.uc_link = &origin;
    makecontext(&f->first, work, 0);
    f->id = (unsigned)fibers.size();
    fibers.push_back(f);
  }
  body = &what;
  live = threads;
  everyone = {0, 0};
  for (unsigned w = 0; w * 32 < threads; w++) {
    warps[w] = {0, 0};
    warp_live[w] = threads - w * 32 < 32 ? threads - w * 32 : 32;
  }
  for (unsigned i = 0; i < threads; i++) fibers[i]->done = false;
  while (live > 0)
    for (unsigned n = 0; n < threads; n++) {
      fiber *f = fibers[backwards() ? threads - 1 - n : n];
      if (!f->done) resume(f);
    }
}
}  // namespace processor

static inline void __syncthreads() { processor::meet(processor::everyone, processor::live); }
static inline void __syncwarp(unsigned = ~0u) {
  const unsigned w = threadIdx.x / 32;
  processor::meet(processor::warps[w], processor::warp_live[w]);
}
template <typename T> static inline T __shfl_xor_sync(unsigned, T value, int other) {
  static_assert(sizeof(T) <= 16, "fits");
  const unsigned w = threadIdx.x / 32, lane = threadIdx.x & 31, from = lane ^ (unsigned)other;
  /* Two sets of places, in turns: no thread can be two exchanges ahead of another. */
  unsigned char(*places)[32] = processor::exchange[w][processor::warps[w].turn & 1];
  memcpy(places[lane], &value, sizeof value);
  __syncwarp();
  T got = value;
  if (w * 32 + from < blockDim.x) memcpy(&got, places[from], sizeof got);
  return got;
}
template <typename T, typename U> static inline T atomicAdd(T *at, U by) {
  const T before = *at;
  *at = before + (T)by;
  return before;
}
static inline void __threadfence() {}
static inline float __uint_as_float(unsigned a) {
  float b;
  memcpy(&b, &a, 4);
  return b;
}
static inline unsigned __float_as_uint(float a) {
  unsigned b;
  memcpy(&b, &a, 4);
  return b;
}
/* Byte i of the result is the byte of b:a that nibble i of `which` names. */
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which) {
  const unsigned long long both = (unsigned long long)b << 32 | a;
  unsigned out = 0;
  for (int i = 0; i < 4; i++) out |= (unsigned)(both >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
  return out;
}
/* A copy arrives when it must, and no sooner: who reads too early finds what was there before. */
static inline void copy_on_processor(void *to, const void *from, bool some) {
  processor::now->copies.push_back({to, some ? from : nullptr});
}
static inline void end_batch_on_processor() { processor::now->batches.push_back(processor::now->copies.size()); }
static inline void await_batches_on_processor(size_t left) {
  processor::fiber &own = *processor::now;
  if (own.batches.size() <= left) return;
  const size_t gone = own.batches.size() - left, end = own.batches[gone - 1];
  for (size_t i = 0; i < end; i++)
    if (own.copies[i].from) memcpy(own.copies[i].to, own.copies[i].from, 16);
    else memset(own.copies[i].to, 0, 16);
  own.copies.erase(own.copies.begin(), own.copies.begin() + (ptrdiff_t)end);
  own.batches.erase(own.batches.begin(), own.batches.begin() + (ptrdiff_t)gone);
  for (size_t &batch : own.batches) batch -= end;
}
/* mma.m16n8k16 of bf16, as PTX lays it over a warp. */
static inline void mma_on_processor(float4 &sum, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                    unsigned b1) {
  const unsigned w = threadIdx.x / 32, lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
  const unsigned own[6] = {a0, a1, a2, a3, b0, b1};
  unsigned char(*places)[32] = processor::exchange[w][processor::warps[w].turn & 1];
  memcpy(places[lane], own, sizeof own);
  __syncwarp();
  float *sums[4] = {&sum.x, &sum.y, &sum.z, &sum.w};
  for (unsigned i = 0; i < 4; i++) {
    /* Tokens that are not there are columns of zeros, most of a short text's tile. */
    uint64_t some = 0, pair;
    for (unsigned k = 0; k < 4; k++) {
      memcpy(&pair, places[(2 * t + i % 2) * 4 + k] + 16, 8);
      some |= pair;
    }
    if (!some) continue;
    float add = 0;
    for (unsigned k = 0; k < 16; k++) {
      unsigned a, b;
      memcpy(&a, places[g * 4 + k % 8 / 2] + 4 * (i / 2 + k / 8 * 2), 4);
      memcpy(&b, places[(2 * t + i % 2) * 4 + k % 8 / 2] + 4 * (4 + k / 8), 4);
      const unsigned up = k % 2 ? 0 : 16;
      add += __uint_as_float(a << up & 0xffff0000u) * __uint_as_float(b << up & 0xffff0000u);
    }
    *sums[i] += add;
  }
}
static inline void load_matrices_on_processor(unsigned &a, unsigned &b, unsigned &c, unsigned &d, const uint4 *row) {
  const unsigned w = threadIdx.x / 32, lane = threadIdx.x & 31;
  unsigned char(*places)[32] = processor::exchange[w][processor::warps[w].turn & 1];
  memcpy(places[lane], &row, sizeof row);
  __syncwarp();
  unsigned *const out[4] = {&a, &b, &c, &d};
  for (unsigned i = 0; i < 4; i++) {
    const unsigned char *from;
    memcpy(&from, places[8 * i + lane / 4], sizeof from);
    memcpy(out[i], from + 4 * (lane % 4), 4);
  }
}
static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
static inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += (int)(signed char)(a >> i) * (int)(signed char)(b >> i);
  return c;
}
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline T min(T a, T b) { return b < a ? b : a; }
template <typename T> static inline T max(T a, T b) { return a < b ? b : a; }

/* The runtime. A device's memory is the process's own. */
typedef int cudaError_t;
enum { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorUnknown = 999 };
typedef void *cudaStream_t;
typedef std::vector<std::function<void()>> *cudaGraph_t, *cudaGraphExec_t;
typedef int *cudaEvent_t;
enum { cudaStreamNonBlocking = 1, cudaStreamCaptureModeThreadLocal = 1, cudaEventDisableTiming = 2 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
};
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
static inline cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int bytes) {
  return bytes <= (int)sizeof processor::asked ? cudaSuccess : cudaErrorUnknown;
}
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute *attrs;
  unsigned numAttrs;
};
inline std::vector<std::function<void()>> *cuda_recording;
/* Now, or when the graph runs that is being recorded. */
static inline cudaError_t cuda_do(std::function<void()> what) {
  if (cuda_recording) cuda_recording->push_back(std::move(what));
  else what();
  return cudaSuccess;
}
static inline const char *cudaGetErrorString(cudaError_t e) { return e == cudaSuccess ? "no error" : "out of memory"; }
static inline cudaError_t cudaGetDeviceCount(int *count) { return *count = 1, cudaSuccess; }
static inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
static inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
  *p = {"no GPU: CUDA on the processor", 9, 0, 1};
  return cudaSuccess;
}
static inline cudaError_t cudaMemGetInfo(size_t *left, size_t *all) {
  *left = *all = (size_t)1 << 46;
  return cudaSuccess;
}
/* What was not written must not matter: it is NaN at first. */
static inline cudaError_t cuda_allocate(void **at, size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  *at = malloc(bytes);
  if (*at) memset(*at, 0xff, bytes);
#else
  *at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (*at == MAP_FAILED) *at = nullptr;
  else if (bytes < (1u << 28)) memset(*at, 0xff, bytes);
#endif
  return *at ? cudaSuccess : cudaErrorMemoryAllocation;
}
static inline cudaError_t cudaMalloc(void **at, size_t bytes) { return cuda_allocate(at, bytes); }
static inline cudaError_t cudaMallocHost(void **at, size_t bytes) {
  return (*at = malloc(bytes)) ? cudaSuccess : cudaErrorMemoryAllocation;
}
#ifdef __SANITIZE_ADDRESS__
static inline cudaError_t cudaFree(void *at) { return free(at), cudaSuccess; }
#else
static inline cudaError_t cudaFree(void *) { return cudaSuccess; }
#endif
static inline cudaError_t cudaFreeHost(void *at) { return free(at), cudaSuccess; }
static inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return cuda_do([=] { memcpy(to, from, bytes); });
}
static inline cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t) {
  return cuda_do([=] {
    /* Fresh memory that is large reads as zeros already. */
    if (value || bytes < (1u << 28)) memset(at, value, bytes);
  });
}
static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) { return *s = nullptr, cudaSuccess; }
static inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
static inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
static inline cudaError_t cudaStreamBeginCapture(cudaStream_t, int) {
  cuda_recording = new std::vector<std::function<void()>>();
  return cudaSuccess;
}
static inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *g) {
  *g = cuda_recording;
  cuda_recording = nullptr;
  return cudaSuccess;
}
static inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long) {
  *e = new std::vector<std::function<void()>>(*g);
  return cudaSuccess;
}
static inline cudaError_t cudaGraphDestroy(cudaGraph_t g) { return delete g, cudaSuccess; }
static inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) { return delete e, cudaSuccess; }
static inline cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t) {
  for (auto &what : *e) what();
  return cudaSuccess;
}
static inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) { return *e = nullptr, cudaSuccess; }
static inline cudaError_t cudaEventCreate(cudaEvent_t *e) { return *e = nullptr, cudaSuccess; }
static inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
static inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
static inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
static inline cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) { return *ms = 1, cudaSuccess; }

template <typename... Parameters, typename... Arguments>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                                             Arguments... arguments) {
  const dim3 grid = config->gridDim, block = config->blockDim;
  const std::tuple<Parameters...> given(arguments...);
  return cuda_do([=] {
    gridDim = grid;
    blockDim = block;
    const std::function<void()> thread = [&] { std::apply(kernel, given); };
    for (unsigned z = 0; z < grid.z; z++)
      for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) {
          blockIdx = dim3(x, y, z);
          processor::run_group(block.x, thread);
        }
  });
}

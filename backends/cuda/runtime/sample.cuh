/*
 * The next token, picked on the device. Draws are exact in whole numbers: every probability becomes a count out of 2^40
 * for the likeliest, so that the same scores and seed always give the same token, whatever the order of the threads.
 */
#pragma once
#include "device.cuh"

/* What the steps of one text share; lies in device memory. */
struct chooser {
  int fed;           /* tokens before this step */
  int id;            /* the token that was picked: what the next step is fed */
  float temperature; /* 0: always the likeliest */
  int top_k;         /* 0: no limit */
  float top_p;       /* 0 or 1: no limit */
  unsigned random;
  float highest; /* the best score */
};

/* A score and whose it is. */
struct scored {
  float score;
  int id;
};
static __device__ __forceinline__ scored better(scored a, scored b) {
  return b.score > a.score || (b.score == a.score && b.id < a.id) ? b : a;
}

/* What a draw adds to its state. */
#define RANDOM_STEP 0x6d2b79f5u

enum { PICK_GROUPS = 64, PICK_THREADS = 256, DRAW_THREADS = 512 };

/* The best of `mine` over all threads of the group. */
static __device__ __forceinline__ scored best_of_group(scored mine) {
  __shared__ scored all[PICK_THREADS];
  all[threadIdx.x] = mine;
  __syncthreads();
  for (unsigned step = PICK_THREADS / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) all[threadIdx.x] = better(all[threadIdx.x], all[threadIdx.x + step]);
    __syncthreads();
  }
  return all[0];
}

/* The likeliest token. Each group looks at a share; the last one to arrive joins what they found. */
static __global__ void __launch_bounds__(PICK_THREADS)
pick_likeliest(const float *scores, int count, scored *parts, unsigned *arrived, chooser *c) {
  __shared__ unsigned before;
  await_inputs();
  scored mine = {scores[0], 0};
  for (int i = blockIdx.x * PICK_THREADS + threadIdx.x; i < count; i += PICK_GROUPS * PICK_THREADS)
    mine = better(mine, scored{scores[i], i});
  mine = best_of_group(mine);
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = mine;
    __threadfence();
    before = atomicAdd(arrived, 1u);
    __threadfence();
  }
  __syncthreads();
  if (before != PICK_GROUPS - 1) return;
  mine = best_of_group(parts[threadIdx.x % PICK_GROUPS]);
  if (threadIdx.x == 0) {
    c->id = mine.id;
    c->highest = mine.score;
    *arrived = 0;
  }
}

/* Whole numbers in the order of floats. */
static __device__ __forceinline__ unsigned key_of(float x) {
  const unsigned bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Tokens from the likeliest down: all whose key is larger than `key`, and `ties` of those that have it. */
struct prefix {
  unsigned key;
  unsigned long long ties, measure;
};

struct draw_room {
  unsigned long long bins[256], target, before, each;
  unsigned digit;
};

/* How much a token counts: one when tokens are counted, else its share of the likeliest one's probability. */
static __device__ __forceinline__ unsigned long long measure_of(float score, const chooser *c, bool counted) {
  return counted ? 1ull : (unsigned long long)(expf((score - c->highest) / c->temperature) * 1099511627776.0f);
}

/* What the tokens of `within` measure together. */
static __device__ unsigned long long measure_all(const float *scores, int count, const chooser *c, prefix within,
                                                 draw_room *room) {
  if (threadIdx.x == 0) room->target = 0;
  __syncthreads();
  unsigned long long mine = 0;
  for (int i = threadIdx.x; i < count; i += DRAW_THREADS) {
    const unsigned key = key_of(scores[i]);
    if (key > within.key) mine += measure_of(scores[i], c, false);
    else if (key == within.key && within.ties) room->each = measure_of(scores[i], c, false);
  }
  atomicAdd(&room->target, mine);
  __syncthreads();
  const unsigned long long all = room->target + (within.ties ? within.ties * room->each : 0);
  __syncthreads();
  return all;
}

/*
 * The shortest prefix of `within` that measures at least `target`: by the eight highest bits of the keys first, then by
 * the next ones. Every thread gets it.
 */
static __device__ prefix shortest(const float *scores, int count, const chooser *c, bool counted, prefix within,
                                  unsigned long long target, draw_room *room) {
  unsigned key = 0, mask = 0;
  unsigned long long before = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += DRAW_THREADS) room->bins[i] = 0;
    if (threadIdx.x == 0) room->each = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += DRAW_THREADS) {
      const unsigned own = key_of(scores[i]);
      if ((own & mask) != key || own < within.key) continue;
      const unsigned long long measure = measure_of(scores[i], c, counted);
      if (own == within.key) room->each = measure;
      else atomicAdd(&room->bins[own >> shift & 255], measure);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      if (within.ties && (within.key & mask) == key) room->bins[within.key >> shift & 255] += within.ties * room->each;
      unsigned digit = 255;
      while (digit > 0 && before + room->bins[digit] < target) before += room->bins[digit--];
      room->digit = digit;
      room->before = before;
    }
    __syncthreads();
    key |= room->digit << shift;
    mask |= 255u << shift;
    before = room->before;
    __syncthreads();
  }
  /* All tokens with this key measure the same. */
  for (int i = threadIdx.x; i < count; i += DRAW_THREADS)
    if (key_of(scores[i]) == key) room->each = measure_of(scores[i], c, counted);
  __syncthreads();
  const unsigned long long each = room->each ? room->each : 1;
  const unsigned long long ties = target > before ? (target - before + each - 1) / each : 1;
  __syncthreads();
  return prefix{key, ties, before + ties * each};
}

/* Draws a token, where there is a temperature: T. Ettinger's mulberry32 says which. One group. */
static __global__ void __launch_bounds__(DRAW_THREADS) draw_token(const float *scores, int count, chooser *c) {
  __shared__ draw_room room;
  __shared__ int counts[DRAW_THREADS];
  await_inputs();
  if (!(c->temperature > 0)) return;
  prefix kept = {0, 0, 0};
  if (c->top_k > 0 && c->top_k < count)
    kept = shortest(scores, count, c, true, kept, (unsigned long long)c->top_k, &room);
  kept.measure = measure_all(scores, count, c, kept, &room);
  if (c->top_p > 0 && c->top_p < 1) {
    const unsigned long long wanted = (unsigned long long)ceil((double)c->top_p * (double)kept.measure);
    kept = shortest(scores, count, c, false, kept, wanted ? wanted : 1, &room);
  }
  const unsigned s = c->random + RANDOM_STEP;
  unsigned x = (s ^ s >> 15) * (s | 1);
  x ^= x + (x ^ x >> 7) * (x | 61);
  const double share = (double)(x ^ x >> 14) / 4294967296.0;
  const prefix drawn =
      shortest(scores, count, c, false, kept, (unsigned long long)(share * (double)kept.measure) + 1, &room);
  /* Of equals the one with the smaller id comes first. */
  const int each = (count + DRAW_THREADS - 1) / DRAW_THREADS, first = (int)threadIdx.x * each;
  const int end = first + each < count ? first + each : count;
  int own = 0;
  for (int i = first; i < end; i++) own += key_of(scores[i]) == drawn.key;
  counts[threadIdx.x] = own;
  __syncthreads();
  long long left = (long long)drawn.ties;
  for (unsigned t = 0; t < threadIdx.x; t++) left -= counts[t];
  if (left < 1 || left > own) return;
  for (int i = first; i < end; i++)
    if (key_of(scores[i]) == drawn.key && --left == 0) c->id = i;
}

/* The token that was picked becomes the next one that is fed. */
static __global__ void begin_step(int *step, int start, int tokens, int positions, chooser *c) {
  await_inputs();
  step[start] = c->fed;
  step[tokens] = c->id;
  step[positions] = c->fed;
  c->fed++;
  if (c->temperature > 0) c->random += RANDOM_STEP;
}

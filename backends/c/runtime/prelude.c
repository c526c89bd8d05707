#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "gemma.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* One of the threads that go through a step together. */
struct thread {
  struct team *team;
  int id, count;
};

static inline float bf16_to_f32(uint16_t bits) {
  uint32_t wide = (uint32_t)bits << 16;
  float x;
  memcpy(&x, &wide, sizeof x);
  return x;
}

static inline float f16_to_f32(uint16_t bits) {
  const uint32_t sign = (uint32_t)(bits & 0x8000) << 16, rest = bits & 0x7fff;
  uint32_t wide;
  float x;
  if (rest >= 0x7c00) wide = 0x7f800000 | (rest & 0x3ff) << 13;
  else if (rest >= 0x400) wide = (rest << 13) + 0x38000000;
  else {
    x = (float)rest * 0x1p-24f;
    memcpy(&wide, &x, sizeof wide);
  }
  wide |= sign;
  memcpy(&x, &wide, sizeof x);
  return x;
}

/* The nearest bf16 and f16, ties to even, as floats. */
static inline float round_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if (x != x) return x;
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
  memcpy(&x, &bits, sizeof x);
  return x;
}
static inline float round_f16(float x) {
  if (!(fabsf(x) < INFINITY) || x == 0) return x;
  int exponent;
  frexpf(x, &exponent);
  const int last = (exponent < -13 ? -13 : exponent) - 11;
  const float y = ldexpf(nearbyintf(ldexpf(x, -last)), last);
  return fabsf(y) >= 65520 ? copysignf(INFINITY, x) : y;
}
static inline float round_f32(float x) { return x; }

/* What whole numbers of narrower types keep of a number. */
static inline int32_t wrap_i32(double x) { return (int32_t)(uint32_t)(int64_t)x; }

/* The remainder that is never negative, for b > 0. */
static inline int32_t floor_mod(int32_t a, int32_t b) { return a % b + (a % b < 0 ? b : 0); }

static inline int nibble(const uint8_t *codes, long i) {
  return (int)((codes[i >> 1] >> (i & 1 ? 4 : 0) & 15) ^ 8) - 8;
}

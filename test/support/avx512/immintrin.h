/*
 * The AVX-512 that gemma.c is written in, as plain C and as Intel's Intrinsics Guide defines it: for running that path on
 * processors without it. It tells nothing of speed.
 */
#pragma once
#include <stdint.h>
#include <string.h>

typedef struct { float x[16]; } __m512;
typedef struct { int32_t x[16]; } __m512i;
typedef struct { int32_t x[8]; } __m256i;
#define __builtin_cpu_supports(name) 1

#define EACH(n) for (int i = 0; i < (n); i++)
#define MAKE(name, type, parameters, n, each) \
  static inline type name parameters { type r; EACH(n) each; return r; }
MAKE(_mm512_setzero_ps, __m512, (void), 16, r.x[i] = 0)
MAKE(_mm512_set1_ps, __m512, (float a), 16, r.x[i] = a)
MAKE(_mm512_mul_ps, __m512, (__m512 a, __m512 b), 16, r.x[i] = a.x[i] * b.x[i])
MAKE(_mm512_fmadd_ps, __m512, (__m512 a, __m512 b, __m512 c), 16, r.x[i] = __builtin_fmaf(a.x[i], b.x[i], c.x[i]))
MAKE(_mm512_cvtepi32_ps, __m512, (__m512i a), 16, r.x[i] = (float)a.x[i])
MAKE(_mm512_mask_blend_ps, __m512, (uint16_t k, __m512 a, __m512 b), 16, r.x[i] = k >> i & 1 ? b.x[i] : a.x[i])
MAKE(_mm512_setzero_si512, __m512i, (void), 16, r.x[i] = 0)
MAKE(_mm512_set1_epi32, __m512i, (int32_t a), 16, r.x[i] = a)
MAKE(_mm512_slli_epi32, __m512i, (__m512i a, unsigned n), 16, r.x[i] = (int32_t)((uint32_t)a.x[i] << n))

static inline __m512 _mm512_loadu_ps(const void *p) { __m512 r; memcpy(&r, p, sizeof r); return r; }
static inline void _mm512_storeu_ps(void *p, __m512 a) { memcpy(p, &a, sizeof a); }
static inline __m512i _mm512_loadu_si512(const void *p) { __m512i r; memcpy(&r, p, sizeof r); return r; }
static inline __m256i _mm256_loadu_si256(const void *p) { __m256i r; memcpy(&r, p, sizeof r); return r; }
static inline __m512 _mm512_castsi512_ps(__m512i a) { __m512 r; memcpy(&r, &a, sizeof r); return r; }
/* In halves, as gcc and clang write it out. */
static inline float _mm512_reduce_add_ps(__m512 a) {
  for (int n = 8; n > 0; n /= 2) EACH(n) a.x[i] += a.x[i + n];
  return a.x[0];
}

/* The same bits as numbers of another size. */
#define PARTS(type, n, of, from) type from[n]; memcpy(from, &of, sizeof from)
static inline __m512i _mm512_cvtepu16_epi32(__m256i a) {
  __m512i r;
  PARTS(uint16_t, 16, a, own);
  EACH(16) r.x[i] = own[i];
  return r;
}
static inline __m512 _mm512_cvtph_ps(__m256i a) {
  __m512 r;
  PARTS(uint16_t, 16, a, own);
  EACH(16) r.x[i] = f16_to_f32(own[i]); /* gemma.c's */
  return r;
}
static inline __m512i _mm512_cvtepi8_epi16(__m256i a) {
  __m512i r;
  int16_t wide[32];
  PARTS(int8_t, 32, a, own);
  EACH(32) wide[i] = own[i];
  memcpy(&r, wide, sizeof r);
  return r;
}
#define SHIFT(name, each)                               \
  static inline __m512i name(__m512i a, unsigned n) {   \
    PARTS(int16_t, 32, a, own);                         \
    EACH(32) own[i] = (int16_t)(each);                  \
    memcpy(&a, own, sizeof a);                          \
    return a;                                           \
  }
SHIFT(_mm512_slli_epi16, (uint16_t)own[i] << n)
SHIFT(_mm512_srai_epi16, own[i] >> n)
/* Products of neighbours, added up; nothing saturates. */
static inline __m512i _mm512_dpwssd_epi32(__m512i sum, __m512i a, __m512i b) {
  PARTS(int16_t, 32, a, left);
  PARTS(int16_t, 32, b, right);
  EACH(16) sum.x[i] = (int32_t)((uint32_t)sum.x[i] + (uint32_t)(left[2 * i] * right[2 * i]) + (uint32_t)(left[2 * i + 1] * right[2 * i + 1]));
  return sum;
}

/*
 * A small vocabulary of vectors, so that each loop below is written once. vf: floats, vi: as many 32-bit integers,
 * vh: twice as many 16-bit integers. The instruction set is the one that the compiler was told to use. vi_dot adds up
 * products in twos; PAIR_AT says where in a vh those of lane `lane` lie. vf_spread gives each of 1, 2 or 4 numbers as many lanes.
 * TILE_ROWS by 2 sums fit the registers, and ROWS by TOKENS.
 */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && !defined(GEMMA_PLAIN)
#include <immintrin.h>
#define INSTRUCTION_SET "AVX-512 VNNI"
typedef __m512 vf;
typedef __m512i vi, vh;
enum { LANES = 16, TILE_ROWS = 12, TOKENS = 4 };
static inline vf vf_zero(void) { return _mm512_setzero_ps(); }
static inline vf vf_all(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_of(vi a) { return _mm512_cvtepi32_ps(a); }
static inline float vf_sum(vf a) { return _mm512_reduce_add_ps(a); }
static inline vf vf_load_bf16(const uint16_t *p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}
static inline vf vf_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
static inline vi vi_zero(void) { return _mm512_setzero_si512(); }
static inline vi vi_product(vh a, vh b) { return _mm512_dpwssd_epi32(_mm512_setzero_si512(), a, b); }
static inline vi vi_dot(vi sum, vh a, vh b) { return _mm512_dpwssd_epi32(sum, a, b); }
static inline vh vh_load(const int16_t *p) { return _mm512_loadu_si512(p); }
#define PAIR_AT(lane, odd) ((lane) * 2 + (odd))
static inline vh vh_pair(const int16_t *p) {
  int32_t both;
  memcpy(&both, p, sizeof both);
  return _mm512_set1_epi32(both);
}
static inline vh vh_load_i8(const int8_t *p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)p)); }
static inline vh vh_low_i4(const uint8_t *p) {
  return _mm512_srai_epi16(_mm512_slli_epi16(_mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)p)), 12), 12);
}
static inline vh vh_high_i4(const uint8_t *p) {
  return _mm512_srai_epi16(_mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)p)), 4);
}
static inline vf vf_spread(const float *s, long count) {
  const vf low = vf_all(s[0]);
  if (count == 1) return low;
  if (count == 2) return _mm512_mask_blend_ps(0xff00, low, vf_all(s[1]));
  return _mm512_mask_blend_ps(0xff00, _mm512_mask_blend_ps(0xf0, low, vf_all(s[1])),
                              _mm512_mask_blend_ps(0xf000, vf_all(s[2]), vf_all(s[3])));
}
static inline int runs_here(void) { return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw"); }

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(GEMMA_PLAIN)
#include <immintrin.h>
#define INSTRUCTION_SET "AVX2"
#define NIBBLES_BY_BYTES
typedef __m256 vf;
typedef __m256i vi, vh;
enum { LANES = 8, TILE_ROWS = 6, TOKENS = 2 };
static inline vf vf_zero(void) { return _mm256_setzero_ps(); }
static inline vf vf_all(float x) { return _mm256_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_of(vi a) { return _mm256_cvtepi32_ps(a); }
static inline float vf_sum(vf a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline vf vf_load_bf16(const uint16_t *p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}
static inline vf vf_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
static inline vi vi_zero(void) { return _mm256_setzero_si256(); }
static inline vi vi_product(vh a, vh b) { return _mm256_madd_epi16(a, b); }
/* Adds at once: gcc would compute all products of a tile first, and keep the sums in memory for want of registers. */
static inline vi vi_dot(vi sum, vh a, vh b) {
  __asm__ volatile("vpaddd %1, %0, %0" : "+x"(sum) : "x"(_mm256_madd_epi16(a, b)));
  return sum;
}
static inline vh vh_load(const int16_t *p) { return _mm256_loadu_si256((const void *)p); }
#define PAIR_AT(lane, odd) ((lane) * 2 + (odd))
static inline vh vh_pair(const int16_t *p) {
  int32_t both;
  memcpy(&both, p, sizeof both);
  return _mm256_set1_epi32(both);
}
static inline vh vh_load_i8(const int8_t *p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)p)); }
/*
 * vn: sums of products by 4-bit codes, in bytes: a code plus 8, which is never negative, by the upper and by the lower byte
 * of a number. Sums of 16 bits hold four steps. A step is the upper bytes of the even columns, their lower ones, and then
 * those of the odd columns.
 */
enum { STEP_I4 = 64, SAFE_STEPS_I4 = 4, BIAS_I4 = 8, MOST_I4 = 127 * 256 + 127 };
typedef struct { __m256i upper, lower; } vn;
static inline void arrange_i4(int16_t *step) {
  int8_t to[4][STEP_I4 / 2];
  for (int i = 0; i < STEP_I4 / 2; i++) {
    to[0][i] = (int8_t)((step[2 * i] + 128) >> 8);
    to[1][i] = (int8_t)step[2 * i];
    to[2][i] = (int8_t)((step[2 * i + 1] + 128) >> 8);
    to[3][i] = (int8_t)step[2 * i + 1];
  }
  memcpy(step, to, sizeof to);
}
static inline vn vn_product(const uint8_t *codes, const int16_t *step) {
  const __m256i *const x = (const void *)step, nibble = _mm256_set1_epi8(15);
  const __m256i both = _mm256_xor_si256(_mm256_loadu_si256((const void *)codes), _mm256_set1_epi8(-120));
  const __m256i even = _mm256_and_si256(both, nibble), odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
#define BOTH(a, b) \
  _mm256_add_epi16(_mm256_maddubs_epi16(even, _mm256_loadu_si256(a)), _mm256_maddubs_epi16(odd, _mm256_loadu_si256(b)))
  return (vn){BOTH(x, x + 2), BOTH(x + 1, x + 3)};
}
static inline vn vn_dot(vn sum, const uint8_t *codes, const int16_t *step) {
  const vn own = vn_product(codes, step);
  return (vn){_mm256_add_epi16(sum.upper, own.upper), _mm256_add_epi16(sum.lower, own.lower)};
}
static inline vi vn_sum(vn a) {
  const __m256i upper = _mm256_madd_epi16(a.upper, _mm256_set1_epi16(256));
  return _mm256_add_epi32(upper, _mm256_madd_epi16(a.lower, _mm256_set1_epi16(1)));
}
static inline vf vf_spread(const float *s, long count) {
  if (count == 1) return vf_all(s[0]);
  if (count == 2) return _mm256_blend_ps(vf_all(s[0]), vf_all(s[1]), 0xf0);
  const __m128 all = _mm_loadu_ps(s);
  return _mm256_set_m128(_mm_unpackhi_ps(all, all), _mm_unpacklo_ps(all, all));
}
static inline int runs_here(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(GEMMA_PLAIN)
#include <arm_neon.h>
#define INSTRUCTION_SET "NEON"
typedef float32x4_t vf;
typedef int32x4_t vi;
typedef int16x8_t vh;
enum { LANES = 4, TILE_ROWS = 12, TOKENS = 4 };
static inline vf vf_zero(void) { return vdupq_n_f32(0); }
static inline vf vf_all(float x) { return vdupq_n_f32(x); }
static inline vf vf_load(const float *p) { return vld1q_f32(p); }
static inline void vf_store(float *p, vf a) { vst1q_f32(p, a); }
static inline vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline vf vf_of(vi a) { return vcvtq_f32_s32(a); }
static inline float vf_sum(vf a) { return vaddvq_f32(a); }
static inline vf vf_load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
static inline vf vf_load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
static inline vi vi_zero(void) { return vdupq_n_s32(0); }
static inline vi vi_product(vh a, vh b) { return vmlal_high_s16(vmull_s16(vget_low_s16(a), vget_low_s16(b)), a, b); }
static inline vi vi_dot(vi sum, vh a, vh b) {
  return vmlal_high_s16(vmlal_s16(sum, vget_low_s16(a), vget_low_s16(b)), a, b);
}
static inline vh vh_load(const int16_t *p) { return vld1q_s16(p); }
#define PAIR_AT(lane, odd) ((odd) * LANES + (lane))
static inline vh vh_pair(const int16_t *p) { return vcombine_s16(vdup_n_s16(p[0]), vdup_n_s16(p[1])); }
static inline vh vh_load_i8(const int8_t *p) { return vmovl_s8(vld1_s8(p)); }
static inline vh vh_low_i4(const uint8_t *p) {
  return vshrq_n_s16(vshlq_n_s16(vmovl_s8(vld1_s8((const int8_t *)p)), 12), 12);
}
static inline vh vh_high_i4(const uint8_t *p) { return vshrq_n_s16(vmovl_s8(vld1_s8((const int8_t *)p)), 4); }
static inline vf vf_spread(const float *s, long count) {
  if (count == 1) return vf_all(s[0]);
  return count == 2 ? vcombine_f32(vdup_n_f32(s[0]), vdup_n_f32(s[1])) : vld1q_f32(s);
}
static inline int runs_here(void) { return 1; }

#else
#define INSTRUCTION_SET "plain C"
typedef float vf;
typedef int32_t vi;
typedef struct { int16_t a, b; } vh;
enum { LANES = 1, TILE_ROWS = 6, TOKENS = 2 };
static inline vf vf_zero(void) { return 0; }
static inline vf vf_all(float x) { return x; }
static inline vf vf_load(const float *p) { return *p; }
static inline void vf_store(float *p, vf a) { *p = a; }
static inline vf vf_mul(vf a, vf b) { return a * b; }
static inline vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
static inline vf vf_of(vi a) { return (float)a; }
static inline float vf_sum(vf a) { return a; }
static inline vf vf_load_bf16(const uint16_t *p) { return bf16_to_f32(*p); }
static inline vf vf_load_f16(const uint16_t *p) { return f16_to_f32(*p); }
static inline vi vi_zero(void) { return 0; }
static inline vi vi_product(vh a, vh b) { return a.a * b.a + a.b * b.b; }
static inline vi vi_dot(vi sum, vh a, vh b) { return sum + a.a * b.a + a.b * b.b; }
static inline vh vh_load(const int16_t *p) { return (vh){p[0], p[1]}; }
#define PAIR_AT(lane, odd) ((lane) * 2 + (odd))
static inline vh vh_pair(const int16_t *p) { return (vh){p[0], p[1]}; }
static inline vh vh_load_i8(const int8_t *p) { return (vh){p[0], p[1]}; }
static inline vh vh_low_i4(const uint8_t *p) { return (vh){((p[0] & 15) ^ 8) - 8, ((p[1] & 15) ^ 8) - 8}; }
static inline vh vh_high_i4(const uint8_t *p) { return (vh){((p[0] >> 4) ^ 8) - 8, ((p[1] >> 4) ^ 8) - 8}; }
static inline vf vf_spread(const float *s, long count) { return (void)count, *s; }
static inline int runs_here(void) { return 1; }
#endif

#ifndef NIBBLES_BY_BYTES
/* vn: sums of products by 4-bit codes, as 16-bit whole numbers. A step is the even columns, and then the odd ones, as codes lie in bytes. */
enum { STEP_I4 = 4 * LANES, SAFE_STEPS_I4 = 128, BIAS_I4 = 0, MOST_I4 = 32767 };
typedef vi vn;
static inline void arrange_i4(int16_t *step) {
  int16_t to[2][STEP_I4 / 2];
  for (int i = 0; i < STEP_I4 / 2; i++) to[0][i] = step[2 * i], to[1][i] = step[2 * i + 1];
  memcpy(step, to, sizeof to);
}
static inline vn vn_product(const uint8_t *codes, const int16_t *step) {
  return vi_dot(vi_product(vh_low_i4(codes), vh_load(step)), vh_high_i4(codes), vh_load(step + STEP_I4 / 2));
}
static inline vn vn_dot(vn sum, const uint8_t *codes, const int16_t *step) {
  return vi_dot(vi_dot(sum, vh_low_i4(codes), vh_load(step)), vh_high_i4(codes), vh_load(step + STEP_I4 / 2));
}
static inline vi vn_sum(vn a) { return a; }
#endif

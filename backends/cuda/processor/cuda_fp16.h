/* Halves on the processor; see cuda_runtime.h. */
#pragma once
#include "cuda_runtime.h"

struct __half2 {
  unsigned bits;
};
static inline float half_to_float(unsigned half) {
  const unsigned magnitude = half & 0x7fff;
  const float x = magnitude >= 0x7c00 ? __uint_as_float(0x7f800000u | (half & 0x3ff) << 13)
                                      : __uint_as_float(magnitude << 13) * 0x1p112f;
  return half & 0x8000 ? -x : x;
}
static inline unsigned float_to_half(float a) {
  const unsigned sign = __float_as_uint(a) >> 16 & 0x8000;
  const float x = fabsf(a);
  if (x != x) return sign | 0x7e00;
  if (x >= 65520.0f) return sign | 0x7c00;
  if (x < 0x1p-14f) return sign | (__float_as_uint(x + 0.5f) - __float_as_uint(0.5f));
  const unsigned bits = __float_as_uint(x);
  return sign | ((bits - (112u << 23) + 0xfff + (bits >> 13 & 1)) >> 13);
}
static inline float2 __half22float2(__half2 a) { return {half_to_float(a.bits & 0xffff), half_to_float(a.bits >> 16)}; }
static inline __half2 __floats2half2_rn(float a, float b) { return {float_to_half(a) | float_to_half(b) << 16}; }

/*
 * Products by whole-number weights, w[n,k] = (codes[n,k] - zeros[n,b]) · scales[n,b] for block b of k. Activations meet
 * them as 16-bit whole numbers, one scale a token. Sums of SAFE_STEPS products of both fit into 32 bits.
 */
enum { SAFE_STEPS = 256, STEP_I8 = 2 * LANES, STEP_I4 = 4 * LANES };

/* x[t,k] is about scale[t] · q[t,k]; sums holds those of q over each block. */
struct whole {
  int16_t *q;
  float *scale;
  float *sums;
};

/* Vectors of codes lie within blocks, or hold two blocks whole. Anything else is computed one by one. */
static inline int in_steps(long K, long block, long step) {
  return K % step == 0 && (block % step == 0 || block * 2 == step);
}

/*
 * Rounds activations. For 4-bit codes the even columns of each step come before the odd ones, as halves of bytes do.
 */
static void to_whole(const struct thread *t, long T, long K, long block, int bits, const float *x, struct whole out) {
  const int halves = bits == 4 && in_steps(K, block, STEP_I4);
  for (long row = share(t, T); row < share_end(t, T); row++) {
    const float *from = x + row * K;
    int16_t *to = out.q + row * K;
    float most = 0;
    for (long i = 0; i < K; i++) most = fabsf(from[i]) > most ? fabsf(from[i]) : most;
    const float scale = most / 32767, inverse = most > 0 && scale > 0 ? 32767 / most : 0;
    out.scale[row] = scale;
    if (!halves)
      for (long i = 0; i < K; i++) to[i] = (int16_t)(int32_t)nearbyintf(from[i] * inverse);
    else
      for (long at = 0; at < K; at += STEP_I4)
        for (long i = 0; i < STEP_I4 / 2; i++) {
          to[at + i] = (int16_t)(int32_t)nearbyintf(from[at + 2 * i] * inverse);
          to[at + STEP_I4 / 2 + i] = (int16_t)(int32_t)nearbyintf(from[at + 2 * i + 1] * inverse);
        }
    if (!out.sums) continue;
    for (long b = 0; b < K / block; b++) {
      float sum = 0;
      for (long i = b * block; i < (b + 1) * block; i++) sum += nearbyintf(from[i] * inverse);
      out.sums[row * (K / block) + b] = sum;
    }
  }
}

static inline int code_at(int bits, const void *codes, long i) {
  return bits == 4 ? nibble(codes, i) : ((const int8_t *)codes)[i];
}

/* A tile of products, for codes of so many bits; see OVER_TILES. */
ALWAYS_INLINE void tile_codes(int bits, struct whole x, const uint8_t *codes, const float *scales,
                              const uint8_t *zeros, float *y, long K, long N, long block, TILE_ARGUMENTS) {
  const long step = bits == 4 ? STEP_I4 : STEP_I8, blocks = K / block;
  vf sum[ROWS][TOKENS];
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < tokens; c++) sum[r][c] = vf_zero();
  const int16_t *q = x.q + token * K;
  for (long k = from; k < to;) {
    const long b = k / block;
    long end = block < step ? k + step : (b + 1) * block;
    if (end > k + SAFE_STEPS * step) end = k + SAFE_STEPS * step;
    if (end > to) end = to;
    vi dot[ROWS][TOKENS];
    for (int r = 0; r < rows; r++)
      for (int c = 0; c < tokens; c++) dot[r][c] = vi_zero();
    for (long i = k; i < end; i += step) {
      vh a[TOKENS];
      for (int c = 0; c < tokens; c++) a[c] = vh_load(q + c * K + i);
      if (bits == 4) {
        vh odd[TOKENS];
        for (int c = 0; c < tokens; c++) odd[c] = vh_load(q + c * K + i + STEP_I4 / 2);
        for (int r = 0; r < rows; r++) {
          const uint8_t *at = codes + ((row + r * apart) * K + i) / 2;
          const vh low = vh_low_i4(at), high = vh_high_i4(at);
          for (int c = 0; c < tokens; c++) dot[r][c] = vi_dot(vi_dot(dot[r][c], low, a[c]), high, odd[c]);
        }
      } else
        for (int r = 0; r < rows; r++) {
          const vh at = vh_load_i8((const int8_t *)codes + (row + r * apart) * K + i);
          for (int c = 0; c < tokens; c++) dot[r][c] = vi_dot(dot[r][c], at, a[c]);
        }
    }
    for (int r = 0; r < rows; r++) {
      const float *s = scales + (row + r * apart) * blocks + b;
      const vf scale = block < step ? vf_halves(s[0], s[1]) : vf_all(s[0]);
      for (int c = 0; c < tokens; c++) sum[r][c] = vf_fma(vf_of(dot[r][c]), scale, sum[r][c]);
    }
    k = end;
  }
  for (int c = 0; c < tokens; c++)
    for (int r = 0; r < rows; r++) {
      const long w = (row + r * apart) * blocks;
      float *out = y + (token + c) * N + row + r * apart, total = vf_sum(sum[r][c]);
      if (zeros)
        for (long b = from / block; b < to / block; b++)
          total -= (float)code_at(bits, zeros, w + b) * scales[w + b] * x.sums[(token + c) * blocks + b];
      *out = (from ? *out : 0) + total * x.scale[token + c];
    }
}

/* The same for shapes that vectors do not fit. */
static void linear_codes_one_by_one(const struct thread *t, int bits, long T, long K, long N, long block, struct whole x,
                                    const uint8_t *codes, const float *scales, const uint8_t *zeros, float *y) {
  for (long n = share(t, N); n < share_end(t, N); n++)
    for (long row = 0; row < T; row++) {
      float total = 0;
      for (long b = 0; b < K / block; b++) {
        const long w = n * (K / block) + b;
        int64_t dot = 0;
        for (long i = b * block; i < (b + 1) * block; i++) dot += code_at(bits, codes, n * K + i) * x.q[row * K + i];
        total += (float)dot * scales[w];
        if (zeros) total -= (float)code_at(bits, zeros, w) * scales[w] * x.sums[row * (K / block) + b];
      }
      y[row * N + n] = total * x.scale[row];
    }
}

#define DEFINE_LINEAR_CODES(name, bits, step)                                                                     \
  __attribute__((unused)) static void linear_##name(const struct thread *t, long T, long K, long N, long block,   \
                                                    struct whole x, const void *codes, const float *scales,       \
                                                    const void *zeros, float *y) {                                \
    if (!in_steps(K, block, step)) {                                                                              \
      linear_codes_one_by_one(t, bits, T, K, N, block, x, codes, scales, zeros, y);                               \
      return;                                                                                                     \
    }                                                                                                             \
    const long columns = block <= COLUMNS ? COLUMNS / block * block : block;                                      \
    OVER_TILES(t, T, K, N, columns, TILE_OF_##name);                                                              \
  }
#define TILE_OF_i8(...) tile_codes(8, x, codes, scales, zeros, y, K, N, block, __VA_ARGS__)
#define TILE_OF_i4(...) tile_codes(4, x, codes, scales, zeros, y, K, N, block, __VA_ARGS__)
DEFINE_LINEAR_CODES(i8, 8, STEP_I8)
DEFINE_LINEAR_CODES(i4, 4, STEP_I4)

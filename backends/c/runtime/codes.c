/*
 * Products by whole-number weights, w[n,k] = (codes[n,k] - zeros[n,b]) · scales[n,b] for block b of k. Scales are floats,
 * or f16 where `half` says so. Activations meet codes as 16-bit whole numbers, one scale a token. Sums of SAFE_STEPS
 * products of both fit into 32 bits.
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
/* Panels hold pairs of columns. */
static inline int in_panels(long block) { return block % 2 == 0; }

/*
 * Rounds activations. Those of one token lie in a row; for 4-bit codes the even columns of each step come before the odd
 * ones, as halves of bytes do. Those of many lie in panels of LANES tokens, which hold a pair of columns of each token
 * and then the next pair; what a last panel has beyond T is never used.
 */
static void to_whole(const struct thread *t, long T, long K, long block, int bits, const float *x, struct whole out) {
  const int halves = bits == 4 && in_steps(K, block, STEP_I4), panels = T > 1 && in_panels(block);
  for (long row = share(t, T); row < share_end(t, T); row++) {
    const float *from = x + row * K;
    int16_t *to = panels ? out.q + row / LANES * LANES * K : out.q + row * K;
    float most = 0;
    for (long i = 0; i < K; i++) most = fabsf(from[i]) > most ? fabsf(from[i]) : most;
    const float scale = most / 32767, inverse = most > 0 && scale > 0 ? 32767 / most : 0;
    out.scale[row] = scale;
    if (panels)
      for (long i = 0; i < K; i++) to[i / 2 * 2 * LANES + PAIR_AT(row % LANES, i & 1)] = (int16_t)(int32_t)nearbyintf(from[i] * inverse);
    else if (!halves)
      for (long i = 0; i < K; i++) to[i] = (int16_t)(int32_t)nearbyintf(from[i] * inverse);
    else
      for (long at = 0; at < K; at += STEP_I4)
        for (long i = 0; i < STEP_I4 / 2; i++) {
          to[at + i] = (int16_t)(int32_t)nearbyintf(from[at + 2 * i] * inverse);
          to[at + STEP_I4 / 2 + i] = (int16_t)(int32_t)nearbyintf(from[at + 2 * i + 1] * inverse);
        }
    if (!out.sums || panels) continue;
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

/* `count` scales from number `at` on, as floats. */
ALWAYS_INLINE void scales_of(int half, const void *scales, long at, long count, float *to) {
  const uint16_t *from = (const uint16_t *)scales + at;
  long i = 0;
  if (!half) memcpy(to, (const float *)scales + at, (size_t)count * sizeof *to);
  else
    for (; i + LANES <= count; i += LANES) vf_store(to + i, vf_load_f16(from + i));
  for (; half && i < count; i++) to[i] = f16_to_f32(from[i]);
}

/* Blocks of a row whose scales are widened at once. */
enum { GROUP = 16 };

/* One token's products with so many rows, `apart` from each other, for codes of so many bits. */
ALWAYS_INLINE void tile_codes(int bits, int half, struct whole x, const uint8_t *codes, const void *scales,
                              const uint8_t *zeros, float *y, long K, long block, long row, long apart, int rows) {
  const long step = bits == 4 ? STEP_I4 : STEP_I8, blocks = K / block, per = block < step ? 2 : 1;
  vf sum[ROWS];
  float around[ROWS] = {0};
  for (int r = 0; r < rows; r++) sum[r] = vf_zero();
  for (long first = 0, count; first < blocks; first += count) {
    count = blocks - first < GROUP ? blocks - first : GROUP;
    float scale[ROWS][GROUP];
    for (int r = 0; r < rows; r++) {
      const long w = (row + r * apart) * blocks + first;
      scales_of(half, scales, w, count, scale[r]);
      for (long b = 0; zeros && b < count; b++)
        around[r] += (float)code_at(bits, zeros, w + b) * scale[r][b] * x.sums[first + b];
    }
    for (long b = 0; b < count; b += per)
      for (long k = (first + b) * block, last = k + per * block, end; k < last; k = end) {
        end = last < k + SAFE_STEPS * step ? last : k + SAFE_STEPS * step;
        vi dot[ROWS];
        for (int r = 0; r < rows; r++) dot[r] = vi_zero();
        for (long i = k; i < end; i += step) {
          const vh a = vh_load(x.q + i);
          if (bits == 4) {
            const vh odd = vh_load(x.q + i + STEP_I4 / 2);
            for (int r = 0; r < rows; r++) {
              const uint8_t *at = codes + ((row + r * apart) * K + i) / 2;
              dot[r] = vi_dot(vi_dot(dot[r], vh_low_i4(at), a), vh_high_i4(at), odd);
            }
          } else
            for (int r = 0; r < rows; r++)
              dot[r] = vi_dot(dot[r], vh_load_i8((const int8_t *)codes + (row + r * apart) * K + i), a);
        }
        for (int r = 0; r < rows; r++) {
          const float *s = scale[r] + b;
          sum[r] = vf_fma(vf_of(dot[r]), per == 2 ? vf_halves(s[0], s[1]) : vf_all(s[0]), sum[r]);
        }
      }
  }
  for (int r = 0; r < rows; r++) y[row + r * apart] = (vf_sum(sum[r]) - around[r]) * x.scale[0];
}

ALWAYS_INLINE void linear_token(const struct thread *t, int bits, int half, long K, long N, long block, struct whole x,
                                const uint8_t *codes, const void *scales, const uint8_t *zeros, float *y) {
  const long first = share(t, N), apart = (share_end(t, N) - first) / ROWS;
  for (long row = first; row < first + apart; row++)
    tile_codes(bits, half, x, codes, scales, zeros, y, K, block, row, apart, ROWS);
  for (long row = first + apart * ROWS; row < share_end(t, N); row++)
    tile_codes(bits, half, x, codes, scales, zeros, y, K, block, row, 0, 1);
}

/* Rows and columns of codes that are widened at once, and tokens that meet them: all of it stays in near caches. */
enum { WIDE_ROWS = 12, WIDE_COLUMNS = 512, WIDE_BLOCKS = WIDE_COLUMNS / 2, MEETING = 256, PANELS = 2 };

/* Codes less their zeros, as 16-bit whole numbers: `count` of them from the first of block `b`, or from within it. */
ALWAYS_INLINE void widen(int bits, const uint8_t *codes, const uint8_t *zeros, long at, long count, long block, int16_t *to) {
  for (long i = 0; i < count; i += block) {
    const long some = block < count - i ? block : count - i;
    const int zero = zeros ? code_at(bits, zeros, (at + i) / block) : 0;
    if (bits == 4) {
      const uint8_t *from = codes + (at + i) / 2;
      for (long k = 0; k < some / 2; k++) {
        to[i + 2 * k] = (int16_t)(((from[k] & 15) ^ 8) - 8 - zero);
        to[i + 2 * k + 1] = (int16_t)(((from[k] >> 4) ^ 8) - 8 - zero);
      }
    } else
      for (long k = 0; k < some; k++) to[i + k] = (int16_t)((int8_t)codes[at + i + k] - zero);
  }
}

/* Adds the products of TILE_ROWS widened rows and so many panels to `sums`, which begin anew at the first columns. */
ALWAYS_INLINE void tile_panels(int panels, const int16_t *wide, const int16_t *q, long apart, long columns, long block,
                               const float *scales, int anew, float *sums) {
  vf sum[TILE_ROWS][PANELS];
  for (int r = 0; r < TILE_ROWS; r++)
    for (int p = 0; p < panels; p++) sum[r][p] = anew ? vf_zero() : vf_load(sums + r * MEETING + p * LANES);
  for (long k = 0, b = 0; k < columns; k += block, b++) {
    const long end = block < columns - k ? k + block : columns;
    vi dot[TILE_ROWS][PANELS];
    for (int r = 0; r < TILE_ROWS; r++)
      for (int p = 0; p < panels; p++) dot[r][p] = vi_zero();
    for (long i = k; i < end; i += 2) {
      vh a[PANELS];
      for (int p = 0; p < panels; p++) a[p] = vh_load(q + p * apart + i * LANES);
      for (int r = 0; r < TILE_ROWS; r++) {
        const vh w = vh_pair(wide + r * WIDE_COLUMNS + i);
        for (int p = 0; p < panels; p++) dot[r][p] = vi_dot(dot[r][p], w, a[p]);
      }
    }
    for (int r = 0; r < TILE_ROWS; r++) {
      const vf scale = vf_all(scales[r * WIDE_BLOCKS + b]);
      for (int p = 0; p < panels; p++) sum[r][p] = vf_fma(vf_of(dot[r][p]), scale, sum[r][p]);
    }
  }
  for (int r = 0; r < TILE_ROWS; r++)
    for (int p = 0; p < panels; p++) vf_store(sums + r * MEETING + p * LANES, sum[r][p]);
}

/* Products of many tokens. Codes are widened once for all tokens; sums of 32 bits hold a widened stretch of columns. */
ALWAYS_INLINE void linear_panels(const struct thread *t, int bits, int half, long T, long K, long N, long block,
                                 struct whole x, const uint8_t *codes, const void *scales, const uint8_t *zeros, float *y) {
  int16_t wide[WIDE_ROWS * WIDE_COLUMNS];
  float scale[WIDE_ROWS * WIDE_BLOCKS], sums[WIDE_ROWS * MEETING];
  const long blocks = K / block, columns = zeros && bits == 8 ? WIDE_COLUMNS / 2 : WIDE_COLUMNS;
  for (long row = share(t, N); row < share_end(t, N); row += WIDE_ROWS)
    for (long token = 0; token < T; token += MEETING) {
      const long tokens = T - token < MEETING ? T - token : MEETING;
      const long rows = share_end(t, N) - row < WIDE_ROWS ? share_end(t, N) - row : WIDE_ROWS;
      for (long from = 0, to; from < K; from = to) {
        to = block <= columns ? from + columns / block * block : (from / block + 1) * block;
        if (to > from + columns) to = from + columns;
        if (to > K) to = K;
        for (long r = 0; r < WIDE_ROWS; r++) {
          if (r >= rows && r % TILE_ROWS == 0) break;
          /* A last group of rows is filled up with its last one. */
          const long own = row + (r < rows ? r : rows - 1);
          widen(bits, codes, zeros, own * K + from, to - from, block, wide + r * WIDE_COLUMNS);
          scales_of(half, scales, own * blocks + from / block, (to - 1) / block - from / block + 1, scale + r * WIDE_BLOCKS);
        }
        for (long c = 0; c < tokens; c += PANELS * LANES)
          for (long r = 0; r < rows; r += TILE_ROWS) {
            const int16_t *q = x.q + (token + c) * K + from * LANES;
            const int16_t *w = wide + r * WIDE_COLUMNS;
            const float *s = scale + r * WIDE_BLOCKS;
            float *sum = sums + r * MEETING + c;
            if (tokens - c > LANES) tile_panels(PANELS, w, q, K * LANES, to - from, block, s, from == 0, sum);
            else tile_panels(1, w, q, K * LANES, to - from, block, s, from == 0, sum);
          }
      }
      for (long c = 0; c < tokens; c++)
        for (long r = 0; r < rows; r++) y[(token + c) * N + row + r] = sums[r * MEETING + c] * x.scale[token + c];
    }
}

/* The same for shapes that vectors do not fit. */
static void linear_codes_one_by_one(const struct thread *t, int bits, int half, long T, long K, long N, long block,
                                    struct whole x, const uint8_t *codes, const void *scales, const uint8_t *zeros, float *y) {
  for (long n = share(t, N); n < share_end(t, N); n++)
    for (long row = 0; row < T; row++) {
      float total = 0;
      for (long b = 0; b < K / block; b++) {
        const long w = n * (K / block) + b;
        float scale;
        scales_of(half, scales, w, 1, &scale);
        int64_t dot = 0;
        for (long i = b * block; i < (b + 1) * block; i++) dot += code_at(bits, codes, n * K + i) * x.q[row * K + i];
        total += (float)dot * scale;
        if (zeros) total -= (float)code_at(bits, zeros, w) * scale * x.sums[row * (K / block) + b];
      }
      y[row * N + n] = total * x.scale[row];
    }
}

#define DEFINE_LINEAR_CODES(name, bits, step, half)                                                               \
  __attribute__((unused)) static void linear_##name(const struct thread *t, long T, long K, long N, long block,   \
                                                    struct whole x, const void *codes, const void *scales,        \
                                                    const void *zeros, float *y) {                                \
    if (T > 1 && in_panels(block)) linear_panels(t, bits, half, T, K, N, block, x, codes, scales, zeros, y);       \
    else if (T > 1 || !in_steps(K, block, step))                                                                  \
      linear_codes_one_by_one(t, bits, half, T, K, N, block, x, codes, scales, zeros, y);                         \
    else linear_token(t, bits, half, K, N, block, x, codes, scales, zeros, y);                                    \
  }
DEFINE_LINEAR_CODES(i8, 8, STEP_I8, 0)
DEFINE_LINEAR_CODES(i4, 4, STEP_I4, 0)
DEFINE_LINEAR_CODES(i8_f16, 8, STEP_I8, 1)
DEFINE_LINEAR_CODES(i4_f16, 4, STEP_I4, 1)

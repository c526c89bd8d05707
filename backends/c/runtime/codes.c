/*
 * Products by whole-number weights, w[n,k] = (codes[n,k] - zeros[n,b]) · scales[n,b] for block b of k. Scales are floats,
 * or f16 where `half` says so. Activations meet codes as 16-bit whole numbers, one scale a token. Sums of SAFE_STEPS
 * products of both fit into 32 bits.
 */
enum { SAFE_STEPS = 256, STEP_I8 = 2 * LANES };

/* x[t,k] is about scale[t] · q[t,k]; sums holds those of q over each block. */
struct whole {
  int16_t *q;
  float *scale;
  float *sums;
};

/* Vectors of codes lie within blocks, or hold two or four blocks whole. Anything else is computed one by one. */
static inline int in_steps(long K, long block, long step) {
  return K % step == 0 && (block % step == 0 || (LANES >= 4 && (block * 2 == step || block * 4 == step)));
}
/* Panels hold pairs of columns. */
static inline int in_panels(long block) { return block % 2 == 0; }

/*
 * Rounds activations. Those of one token lie in a row, for 4-bit codes as arrange_i4 puts each step. Those of many lie in
 * panels of LANES tokens, which hold a pair of columns of each token and then the next pair; what a last panel has beyond T
 * is never used.
 */
static void to_whole(const struct thread *t, long T, long K, long block, int bits, const float *x, struct whole out) {
  const int steps = bits == 4 && T == 1 && in_steps(K, block, STEP_I4), panels = T > 1 && in_panels(block);
  const float range = steps ? MOST_I4 : 32767;
  for (long row = share(t, T); row < share_end(t, T); row++) {
    const float *from = x + row * K;
    int16_t *to = panels ? out.q + row / LANES * LANES * K : out.q + row * K;
    /* Several at once, so that they become vectors. */
    float most[16] = {0};
    for (long i = 0; i + 16 <= K; i += 16)
      for (int k = 0; k < 16; k++) most[k] = fabsf(from[i + k]) > most[k] ? fabsf(from[i + k]) : most[k];
    for (long i = K / 16 * 16; i < K; i++) most[0] = fabsf(from[i]) > most[0] ? fabsf(from[i]) : most[0];
    for (int k = 1; k < 16; k++) most[0] = most[k] > most[0] ? most[k] : most[0];
    const float scale = most[0] / range, inverse = most[0] > 0 && scale > 0 ? range / most[0] : 0;
    out.scale[row] = scale;
    if (panels) {
      for (long i = 0; i < K; i++)
        to[i / 2 * 2 * LANES + PAIR_AT(row % LANES, i & 1)] = (int16_t)(int32_t)nearbyintf(from[i] * inverse);
      continue;
    }
    for (long i = 0; i < K; i++) to[i] = (int16_t)(int32_t)nearbyintf(from[i] * inverse);
    for (long b = 0; out.sums && b < K / block; b++) {
      int64_t sum = 0;
      for (long i = b * block; i < (b + 1) * block; i++) sum += to[i];
      out.sums[row * (K / block) + b] = (float)sum;
    }
    for (long i = 0; steps && i < K; i += STEP_I4) arrange_i4(to + i);
  }
}

static inline int code_at(int bits, const void *codes, long i) {
  return bits == 4 ? nibble(codes, i) : ((const int8_t *)codes)[i];
}

static inline float scale_at(int half, const void *scales, long i) {
  return half ? f16_to_f32(((const uint16_t *)scales)[i]) : ((const float *)scales)[i];
}

/* `count` scales from number `at` on, as floats. */
ALWAYS_INLINE void scales_of(int half, const void *scales, long at, long count, float *to) {
  long i = 0;
  for (; half && i + LANES <= count; i += LANES) vf_store(to + i, vf_load_f16((const uint16_t *)scales + at + i));
  for (; i < count; i++) to[i] = scale_at(half, scales, at + i);
}

/* Blocks of a row whose scales are at hand at once, and the largest block whose codes are summed up a row after the other. */
enum { GROUP = 16, SMALL_BLOCK = 128 };

/* One row's codes [k, end) by a token's numbers; no more of them than sums hold. */
ALWAYS_INLINE vi dot_codes(int bits, const int16_t *q, const uint8_t *row, long k, long end) {
  const long step = bits == 4 ? STEP_I4 : STEP_I8;
  if (bits == 4) {
    vn sum = vn_product(row + (k >> 1), q + k);
    for (long i = k + step; i < end; i += step) sum = vn_dot(sum, row + (i >> 1), q + i);
    return vn_sum(sum);
  }
  vi sum = vi_product(vh_load_i8((const int8_t *)row + k), vh_load(q + k));
  for (long i = k + step; i < end; i += step) sum = vi_dot(sum, vh_load_i8((const int8_t *)row + i), vh_load(q + i));
  return sum;
}

/* Adds up one token's products with so many rows over `count` blocks from `first` on, and what the zeros add to them. */
ALWAYS_INLINE void group_codes(int bits, int half, struct whole x, const uint8_t *codes, const void *scales,
                               const uint8_t *zeros, long K, long block, long row, long apart, int rows, long first,
                               long count, vf *sum, float *around) {
  const long step = bits == 4 ? STEP_I4 : STEP_I8, per = block < step ? step / block : 1;
  const long safe = (bits == 4 ? SAFE_STEPS_I4 : SAFE_STEPS) * step;
  float wide[ROWS][GROUP];
  const float *scale[ROWS];
  const uint8_t *from[ROWS];
  for (int r = 0; r < rows; r++) {
    const long at = (row + r * apart) * (K / block) + first;
    scale[r] = half ? wide[r] : (const float *)scales + at;
    from[r] = codes + (row + r * apart) * K / (8 / bits);
    if (half) scales_of(half, scales, at, count, wide[r]);
    for (long b = 0; zeros && b < count; b++)
      around[r] += (float)code_at(bits, zeros, at + b) * scale[r][b] * x.sums[first + b];
  }
  if (bits == 4 && BIAS_I4) {
    /* What the bias of the codes added to the products. */
    long b = 0;
    for (; b + LANES <= count; b += LANES) {
      const vf bias = vf_mul(vf_load(x.sums + first + b), vf_all(-BIAS_I4));
      for (int r = 0; r < rows; r++) sum[r] = vf_fma(vf_load(scale[r] + b), bias, sum[r]);
    }
    for (; b < count; b++) {
      const vf bias = vf_all(x.sums[first + b] * -BIAS_I4 / LANES);
      for (int r = 0; r < rows; r++) sum[r] = vf_fma(vf_all(scale[r][b]), bias, sum[r]);
    }
  }
  for (long b = 0; b < count; b += per) {
    const long k = (first + b) * block;
    /* Gcc keeps what a row needs in registers; of long blocks it keeps the sums of all rows. */
    if (block <= SMALL_BLOCK)
      for (int r = 0; r < rows; r++)
        sum[r] = vf_fma(vf_of(dot_codes(bits, x.q, from[r], k, k + per * block)), vf_spread(scale[r] + b, per), sum[r]);
    else
      for (long i = k, end; i < k + block; i = end) {
        end = k + block < i + safe ? k + block : i + safe;
        vi dot[ROWS];
        if (bits == 4)
          for (int r = 0; r < rows; r++) dot[r] = dot_codes(4, x.q, from[r], i, end);
        else {
          for (int r = 0; r < rows; r++) dot[r] = vi_zero();
          for (; i < end; i += step)
            for (int r = 0; r < rows; r++) dot[r] = vi_dot(dot[r], vh_load_i8((const int8_t *)from[r] + i), vh_load(x.q + i));
        }
        for (int r = 0; r < rows; r++) sum[r] = vf_fma(vf_of(dot[r]), vf_all(scale[r][b]), sum[r]);
      }
  }
}

/* One token's products with so many rows, `apart` from each other, for codes of so many bits. */
ALWAYS_INLINE void tile_codes(int bits, int half, struct whole x, const uint8_t *codes, const void *scales,
                              const uint8_t *zeros, float *y, long K, long block, long row, long apart, int rows) {
  const long blocks = K / block;
  vf sum[ROWS];
  float around[ROWS] = {0};
  for (int r = 0; r < rows; r++) sum[r] = vf_zero();
  long b = 0;
  for (; b + GROUP <= blocks; b += GROUP)
    group_codes(bits, half, x, codes, scales, zeros, K, block, row, apart, rows, b, GROUP, sum, around);
  if (b < blocks)
    group_codes(bits, half, x, codes, scales, zeros, K, block, row, apart, rows, b, blocks - b, sum, around);
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
        const float scale = scale_at(half, scales, w);
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
    else if (block == 32) linear_token(t, bits, half, K, N, 32, x, codes, scales, zeros, y);                      \
    else if (block == 64) linear_token(t, bits, half, K, N, 64, x, codes, scales, zeros, y);                      \
    else if (block == 128) linear_token(t, bits, half, K, N, 128, x, codes, scales, zeros, y);                    \
    else linear_token(t, bits, half, K, N, block, x, codes, scales, zeros, y);                                    \
  }
DEFINE_LINEAR_CODES(i8, 8, STEP_I8, 0)
DEFINE_LINEAR_CODES(i4, 4, STEP_I4, 0)
DEFINE_LINEAR_CODES(i8_f16, 8, STEP_I8, 1)
DEFINE_LINEAR_CODES(i4_f16, 4, STEP_I4, 1)

/*
 * Products y = x·wᵀ. Each thread owns a range of w's rows and walks four of them at a time, a quarter of the range
 * apart: four long streams, which the processor fetches ahead.
 */
enum { ROWS = 4 };

/* Columns that are worked on at once when there are many tokens, so that a tile of them stays in a near cache. */
enum { COLUMNS = 2048 };

/* This thread's share of n: from, and up to. */
static inline long share(const struct thread *t, long n) { return n * t->id / t->count; }
static inline long share_end(const struct thread *t, long n) { return n * (t->id + 1) / t->count; }

/*
 * Calls TILE(row, apart, rows, token, tokens, from, to): so many rows, `apart` from each other, by so many tokens, over
 * columns [from, to). Columns come in order, and while one group of rows is at hand, all tokens go by.
 */
#define OVER_TILES(t, T, K, N, columns, TILE)                                                    \
  do {                                                                                           \
    const long first_ = share(t, N), apart_ = (share_end(t, N) - first_) / ROWS;                 \
    const long group_ = (T) < TOKENS ? 1 : 4, width_ = (T) < TOKENS ? (K) : (columns);           \
    for (long g_ = 0; g_ < apart_; g_ += group_)                                                 \
      for (long from_ = 0; from_ < (K); from_ += width_) {                                       \
        const long to_ = from_ + width_ < (K) ? from_ + width_ : (K);                            \
        const long end_ = g_ + group_ < apart_ ? g_ + group_ : apart_;                           \
        long token_ = 0;                                                                         \
        for (; token_ + TOKENS <= (T); token_ += TOKENS)                                         \
          for (long r_ = g_; r_ < end_; r_++)                                                    \
            TILE(first_ + r_, apart_, ROWS, token_, TOKENS, from_, to_);                         \
        for (; token_ < (T); token_++)                                                           \
          for (long r_ = g_; r_ < end_; r_++) TILE(first_ + r_, apart_, ROWS, token_, 1, from_, to_); \
      }                                                                                          \
    for (long r_ = first_ + apart_ * ROWS; r_ < share_end(t, N); r_++)                           \
      for (long token_ = 0; token_ < (T); token_++) TILE(r_, 0, 1, token_, 1, 0, K);             \
  } while (0)

#define TILE_ARGUMENTS long row, long apart, int rows, long token, int tokens, long from, long to
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Weights that are floats: y[T,N] = x[T,K] · w[N,K]ᵀ. */
#define DEFINE_LINEAR(name, type, load, widen)                                                     \
  ALWAYS_INLINE void tile_##name(const float *x, const type *w, float *y, long K, long N, TILE_ARGUMENTS) { \
    vf sum[ROWS][TOKENS];                                                                          \
    for (int r = 0; r < rows; r++)                                                                 \
      for (int c = 0; c < tokens; c++) sum[r][c] = vf_zero();                                      \
    const long whole = from + (to - from) / LANES * LANES;                                         \
    for (long i = from; i < whole; i += LANES) {                                                   \
      vf a[TOKENS];                                                                                \
      for (int c = 0; c < tokens; c++) a[c] = vf_load(x + (token + c) * K + i);                    \
      for (int r = 0; r < rows; r++) {                                                             \
        const vf b = load(w + (row + r * apart) * K + i);                                          \
        for (int c = 0; c < tokens; c++) sum[r][c] = vf_fma(a[c], b, sum[r][c]);                   \
      }                                                                                            \
    }                                                                                              \
    for (int c = 0; c < tokens; c++)                                                               \
      for (int r = 0; r < rows; r++) {                                                             \
        float *out = y + (token + c) * N + row + r * apart, rest = vf_sum(sum[r][c]);              \
        for (long i = whole; i < to; i++) rest += x[(token + c) * K + i] * widen(w[(row + r * apart) * K + i]); \
        *out = (from ? *out : 0) + rest;                                                           \
      }                                                                                            \
  }                                                                                                \
  __attribute__((unused)) static void linear_##name(const struct thread *t, long T, long K, long N, \
                                                    const float *x, const type *w, float *y) {     \
    OVER_TILES(t, T, K, N, COLUMNS / 2, TILE_OF_##name);                                           \
  }
#define TILE_OF_f32(...) tile_f32(x, w, y, K, N, __VA_ARGS__)
#define TILE_OF_bf16(...) tile_bf16(x, w, y, K, N, __VA_ARGS__)
#define TILE_OF_f16(...) tile_f16(x, w, y, K, N, __VA_ARGS__)
DEFINE_LINEAR(f32, float, vf_load, round_f32)
DEFINE_LINEAR(bf16, uint16_t, vf_load_bf16, bf16_to_f32)
DEFINE_LINEAR(f16, uint16_t, vf_load_f16, f16_to_f32)

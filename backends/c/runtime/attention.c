/* Keys or values of the tokens so far: head h of the token at position p lies at x + (h · slots + p mod slots) · D. */
struct cache {
  float *x;
  long slots;
};

/* Writes the keys or values of T tokens, the first of them at position P. */
static void remember(const struct thread *t, long T, long P, long G, long D, struct heads fresh, struct cache cache) {
  for (long at = share(t, T * G); at < share_end(t, T * G); at++) {
    const long r = at / G, g = at % G;
    memcpy(cache.x + (g * cache.slots + (P + r) % cache.slots) * D, fresh.x + g * fresh.head + r * fresh.row,
           (size_t)D * sizeof(float));
  }
}

/* Keys that are looked at together, and queries that share them. */
enum { KEYS = 32, QUERIES = 4 };

/*
 * softmax(q·kᵀ·scale)·v for T tokens, the first at position P, where each sees itself and the tokens before it, at
 * most `window` of them when that is not 0. Scores are bounded by ±cap when that is not 0. The softmax is computed
 * as keys go by (Milakov & Gimelshein 2018), so nothing of size T × T is ever stored.
 */
static void attend(const struct thread *t, long T, long P, long H, long G, long D, float scale, float cap, long window,
                   struct heads q, struct cache keys, struct cache values, struct heads out) {
  const long shared = H / G, rows = T * shared;
  const long wanted = (rows * G + t->count - 1) / t->count, tile = wanted < QUERIES ? wanted : QUERIES;
  const long tiles = (rows + tile - 1) / tile;
  for (long item = share(t, tiles * G); item < share_end(t, tiles * G); item++) {
    const long g = item / tiles, first = item % tiles * tile;
    const int n = (int)(first + tile < rows ? tile : rows - first);
    float sums[QUERIES][MOST_HEAD_DIM], total[QUERIES], most[QUERIES];
    const float *query[QUERIES];
    long position[QUERIES] = {0};
    for (int i = 0; i < n; i++) {
      const long r = (first + i) / shared, h = g * shared + (first + i) % shared;
      query[i] = q.x + h * q.head + r * q.row;
      position[i] = P + r;
      total[i] = 0;
      most[i] = -INFINITY;
      memset(sums[i], 0, (size_t)D * sizeof(float));
    }
    const long from = window && position[0] >= window ? position[0] - window + 1 : 0, to = position[n - 1] + 1;
    for (long key = from; key < to; key += KEYS) {
      const int count = (int)(key + KEYS < to ? KEYS : to - key);
      float scores[QUERIES][KEYS];
      for (int j = 0; j < count; j++) {
        const float *k = keys.x + (g * keys.slots + (key + j) % keys.slots) * D;
        for (int i = 0; i < n; i++) {
          float score = dot(query[i], k, D) * scale;
          if (cap != 0) score = cap * tanh_of(score / cap);
          const int seen = key + j <= position[i] && (!window || position[i] - (key + j) < window);
          scores[i][j] = seen ? score : -INFINITY;
        }
      }
      for (int i = 0; i < n; i++) {
        float high = most[i];
        for (int j = 0; j < count; j++) high = scores[i][j] > high ? scores[i][j] : high;
        if (high == -INFINITY) {
          for (int j = 0; j < count; j++) scores[i][j] = 0;
          continue;
        }
        const float shrink = most[i] == -INFINITY ? 0 : exp_of(most[i] - high);
        most[i] = high;
        total[i] *= shrink;
        if (shrink != 1) for (long d = 0; d < D; d++) sums[i][d] *= shrink;
        for (int j = 0; j < count; j++) {
          scores[i][j] = scores[i][j] == -INFINITY ? 0 : exp_of(scores[i][j] - high);
          total[i] += scores[i][j];
        }
      }
      for (int j = 0; j < count; j++) {
        const float *v = values.x + (g * values.slots + (key + j) % values.slots) * D;
        for (int i = 0; i < n; i++) {
          const float weight = scores[i][j];
          if (weight != 0) for (long d = 0; d < D; d++) sums[i][d] += weight * v[d];
        }
      }
    }
    for (int i = 0; i < n; i++) {
      const long r = (first + i) / shared, h = g * shared + (first + i) % shared;
      float *to_row = out.x + h * out.head + r * out.row;
      for (long d = 0; d < D; d++) to_row[d] = sums[i][d] / total[i];
    }
  }
}

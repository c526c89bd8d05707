struct candidate {
  float score;
  int32_t id;
};

/* Larger scores first; of equals the smaller id. */
static int compare_candidates(const void *left, const void *right) {
  const struct candidate *a = left, *b = right;
  if (a->score != b->score) return a->score > b->score ? -1 : 1;
  return a->id < b->id ? -1 : a->id > b->id;
}

/* Restores a heap whose root is its last candidate, after the root at `at` changed. */
static void sink(struct candidate *heap, size_t count, size_t at) {
  for (size_t child; (child = 2 * at + 1) < count; at = child) {
    if (child + 1 < count && compare_candidates(&heap[child + 1], &heap[child]) > 0) child++;
    if (compare_candidates(&heap[at], &heap[child]) >= 0) return;
    const struct candidate c = heap[at];
    heap[at] = heap[child];
    heap[child] = c;
  }
}

/* The k best candidates, best first. */
static void take_best(const float *scores, struct candidate *best, size_t k) {
  for (size_t i = 0; i < k; i++) best[i] = (struct candidate){scores[i], (int32_t)i};
  for (size_t i = k / 2; i-- > 0;) sink(best, k, i);
  for (size_t i = k; i < VOCAB; i++) {
    const struct candidate c = {scores[i], (int32_t)i};
    if (compare_candidates(&c, &best[0]) > 0) continue;
    best[0] = c;
    sink(best, k, 0);
  }
  qsort(best, k, sizeof *best, compare_candidates);
}

/* Uniform in [0, 1): T. Ettinger's mulberry32. */
static double next_random(gemma *g) {
  uint32_t s = g->random += 0x6d2b79f5u, x = (s ^ s >> 15) * (s | 1);
  x ^= x + (x ^ x >> 7) * (x | 61);
  return (double)(x ^ x >> 14) / 4294967296.0;
}

int32_t gemma_sample(gemma *g, gemma_sampling how) {
  const float *scores = g->logits;
  if (!scores) return -1;
  if (!(how.temperature > 0)) {
    int32_t best = 0;
    for (int32_t i = 1; i < VOCAB; i++)
      if (scores[i] > scores[best]) best = i;
    return best;
  }
  const size_t count = how.top_k > 0 && how.top_k < VOCAB ? (size_t)how.top_k : VOCAB;
  struct candidate *order = g->order;
  take_best(scores, order, count);
  double total = 0, kept = 0;
  for (size_t i = 0; i < count; i++) total += exp(((double)order[i].score - order[0].score) / how.temperature);
  const double wanted = (how.top_p > 0 && how.top_p < 1 ? how.top_p : 1) * total;
  size_t n = 0;
  while (n < count && kept < wanted) kept += exp(((double)order[n++].score - order[0].score) / how.temperature);
  double draw = next_random(g) * kept;
  for (size_t i = 0; i < n; i++) {
    draw -= exp(((double)order[i].score - order[0].score) / how.temperature);
    if (draw < 0) return order[i].id;
  }
  return order[0].id;
}

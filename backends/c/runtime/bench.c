@cpu
/* Prefill of 128 and 512 tokens and 16 single steps after 128; the best of some rounds. */
static void bench(gemma *g) {
  enum { ROUNDS = 3, STEPS = 16 };
  const int context = gemma_capacity(g), lengths[] = {128, 512};
  double best = 1e9;
  for (int l = 0; l < 2; l++) {
    const int n = lengths[l] < context - STEPS ? lengths[l] : context - STEPS;
    int32_t ids[512];
    if (n < 1) die("the capacity is too small for --bench");
    for (int i = 0; i < n; i++) ids[i] = (int32_t)((1000 + (long)i * 7919) % gemma_vocab());
    double prefill = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
      gemma_reset(g);
      double start = seconds();
      if (gemma_prefill(g, ids, (size_t)n)) die(gemma_error(g));
      prefill = seconds() - start < prefill ? seconds() - start : prefill;
      for (int i = 0; l == 0 && i < STEPS; i++) {
        start = seconds();
        if (gemma_decode(g, gemma_sample(g, (gemma_sampling){0}))) die(gemma_error(g));
        best = seconds() - start < best ? seconds() - start : best;
      }
    }
    printf("prefill %d: %.1f tokens/s\n", n, n / prefill);
  }
  printf("decode: %.2f tokens/s, %.2f GB/s of weights (%s)\n", 1 / best, gemma_bytes_per_token() / best / 1e9,
         gemma_instruction_set());
}
@gpu
#ifndef GEMMA_BENCH_STEPS
#define GEMMA_BENCH_PROMPT 1024
#define GEMMA_BENCH_STEPS 64
#endif
/* Prefill of a prompt, then single steps after it, each picked on the device; the best of some rounds. */
static void bench(gemma *g) {
  enum { ROUNDS = 3, MOST = GEMMA_BENCH_PROMPT, STEPS = GEMMA_BENCH_STEPS };
  const int room = gemma_capacity(g) - STEPS - 1, n = MOST < room ? MOST : room;
  static int32_t ids[MOST];
  if (n < 1) die("the capacity is too small for --bench");
  for (int i = 0; i < n; i++) ids[i] = (int32_t)((1000 + (long)i * 7919) % gemma_vocab());
  const gemma_sampling greedy = {0};
  double prefill = 1e9, decode = 1e9;
  for (int round = 0; round <= ROUNDS; round++) {
    gemma_reset(g);
    double start = seconds();
    if (gemma_prefill(g, ids, (size_t)n) || gemma_sample(g, greedy) < 0) die(gemma_error(g));
    const double read = seconds() - start;
    start = seconds();
    for (int i = 0; i < STEPS; i++)
      if (gemma_decode(g, gemma_sample(g, greedy)) || gemma_sample(g, greedy) < 0) die(gemma_error(g));
    const double wrote = (seconds() - start) / STEPS;
    /* The first round warms up. */
    if (round && read < prefill) prefill = read;
    if (round && wrote < decode) decode = wrote;
  }
  printf("%s\nprefill %d: %.0f tokens/s\n", gemma_device(g), n, n / prefill);
  printf("decode after %d: %.1f tokens/s, %.1f GB/s of weights\n", n, 1 / decode, gemma_bytes_per_token() / decode / 1e9);
}

static void say(const char *line) { printf("%s\n", line); }
@end

/* What a layer leaves in the residual stream of the last token, in three numbers. */
struct layer_sum {
  char name[64];
  float largest, root, mixed;
};

static void sum_up(struct layer_sum *sum, const float *values, size_t count) {
  double squares = 0, mixed = 0;
  sum->largest = 0;
  for (size_t i = 0; i < count; i++) {
    const float x = values[i], size = x < 0 ? -x : x;
    squares += (double)x * x;
    /* Signs that look random, so that values that trade places show. */
    mixed += (uint32_t)i * 2654435761u >> 31 ? -x : x;
    if (size > sum->largest || size != size) sum->largest = size;
  }
  sum->root = (float)sqrt(squares / (double)count);
  sum->mixed = (float)(mixed / sqrt((double)count));
}

#ifdef GEMMA_TRACE
struct layer_check {
  const struct layer_sum *want;
  uint32_t count, seen;
  float allowed;
  const char *wrong;
};
static void check_layer(void *user, const char *name, const float *values, long rows, long columns) {
  struct layer_check *check = (struct layer_check *)user;
  for (uint32_t i = 0; i < check->count; i++) {
    const struct layer_sum *want = &check->want[i];
    if (strncmp(want->name, name, sizeof want->name)) continue;
    struct layer_sum got;
    sum_up(&got, values + (rows - 1) * columns, (size_t)columns);
    const float room = check->allowed * (want->largest > 1 ? want->largest : 1);
    const int right = fabsf(got.root - want->root) <= room && fabsf(got.mixed - want->mixed) <= 4 * room;
    if (!right && !check->wrong) check->wrong = want->name;
    check->seen++;
  }
}
#endif

/*
 * Replays what selftest.bin holds: ids, the scores that the reference interpreter gave after the last of them, and sums
 * over what each layer left, which a program built with GEMMA_TRACE compares too.
 */
static int selftest(gemma *g) {
  FILE *file = fopen(beside("selftest.bin"), "rb");
  if (!file) die("there is no selftest.bin: the model was compiled without verification");
  char magic[8];
  uint32_t count = 0, columns = 0, layers = 0;
  float allowed = 0;
  if (fread(magic, 1, 8, file) != 8 || memcmp(magic, "gemmacs2", 8) || fread(&count, 4, 1, file) != 1 ||
      fread(&columns, 4, 1, file) != 1 || fread(&layers, 4, 1, file) != 1 || fread(&allowed, 4, 1, file) != 1 ||
      count == 0 || count > 4096 || layers > 4096 || columns != (uint32_t)gemma_vocab())
    die("selftest.bin is damaged or belongs to another model");
  int32_t *ids = (int32_t *)malloc(count * sizeof *ids);
  float *want = (float *)malloc(columns * sizeof *want);
  struct layer_sum *sums = (struct layer_sum *)malloc((layers + 1) * sizeof *sums);
  if (!ids || !want || !sums) die("out of memory");
  if (fread(ids, 4, count, file) != count || fread(want, 4, columns, file) != columns ||
      fread(sums, sizeof *sums, layers, file) != layers)
    die("selftest.bin is cut short");
  fclose(file);
#ifdef GEMMA_TRACE
  struct layer_check check = {sums, layers, 0, allowed, NULL};
  gemma_trace(g, check_layer, &check);
#endif
  if (gemma_prefill(g, ids, count)) die(gemma_error(g));
  double worst = 0, largest = 1;
  int same = 1;
  const float *got = gemma_logits(g);
  size_t top = 0, own = 0;
  for (size_t i = 0; i < columns; i++) {
    const double off = got[i] > want[i] ? (double)got[i] - want[i] : (double)want[i] - got[i];
    const double size = want[i] < 0 ? -want[i] : want[i];
    worst = off > worst || off != off ? off : worst;
    largest = size > largest ? size : largest;
    if (want[i] > want[top]) top = i;
    if (got[i] > got[own]) own = i;
  }
  same = top == own;
  int ok = worst <= allowed * largest;
#ifdef GEMMA_TRACE
  gemma_trace(g, NULL, NULL);
  if (check.wrong || check.seen != layers) ok = 0;
  if (check.wrong) printf("FAILED: %s is the first layer to differ\n", check.wrong);
  else printf("%s: sums of %u of %u layers\n", check.seen == layers ? "ok" : "FAILED", check.seen, layers);
#else
  (void)sum_up;
#endif
  printf("%s: %u tokens, largest difference %.1e of %.1e allowed, %s top token (%s)\n", ok ? "ok" : "FAILED", count,
@cpu
         worst / largest, (double)allowed, same ? "the same" : "another", gemma_instruction_set());
@gpu
         worst / largest, (double)allowed, same ? "the same" : "another", gemma_device(g));
@end
  free(ids);
  free(want);
  free(sums);
  return ok ? 0 : 4;
}

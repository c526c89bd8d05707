/* The cut that `file` names for this device; the first when it names none. */
static int tuned_cut(const char *file, const char *device) {
  FILE *in = fopen(file, "r");
  char line[512];
  int found = 0;
  const size_t length = strlen(device);
  while (in && fgets(line, sizeof line, in)) {
    if (strncmp(line, device, length) || strncmp(line + length, ": ", 2)) continue;
    line[strcspn(line, "\r\n")] = 0;
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++)
      if (!strcmp(line + length + 2, cuts[i].name)) found = (int)i;
  }
  if (in) fclose(in);
  return found;
}

/* Writes the choice for this device into `file`, beside those for others. */
static int remember_cut(gemma *g, const char *file) {
  char kept[65536] = "", line[512];
  size_t count = 0;
  FILE *in = fopen(file, "r");
  const size_t length = strlen(g->device);
  while (in && fgets(line, sizeof line, in)) {
    const size_t bytes = strlen(line);
    if (!strncmp(line, g->device, length) && line[length] == ':') continue;
    if (count + bytes < sizeof kept) memcpy(kept + count, line, bytes + 1), count += bytes;
  }
  if (in) fclose(in);
  FILE *out = fopen(file, "w");
  if (!out || fprintf(out, "%s%s: %s\n", kept, g->device, cuts[g->cut].name) < 0 || fclose(out))
    return fail(g, "%s: %s", file, strerror(errno));
  return 0;
}

#ifndef GEMMA_TUNE_STEPS
#define GEMMA_TUNE_STEPS 64
#endif

int gemma_tune(gemma *g, const char *file, void (*report)(const char *line)) {
  enum { FILL = 512, STEPS = GEMMA_TUNE_STEPS, ROUNDS = 3 };
  const long room = g->capacity - STEPS * ROUNDS - 2, fill = room < FILL ? room : FILL;
  if (fill < 2) return fail(g, "the capacity of %ld tokens is too small to tune with", g->capacity);
  int32_t *ids = (int32_t *)malloc((size_t)fill * sizeof *ids);
  float *want = (float *)malloc(VOCAB * sizeof *want);
  cudaEvent_t begin = NULL, end = NULL;
  check(g, cudaEventCreate(&begin));
  check(g, cudaEventCreate(&end));
  float best = 0;
  int chosen = 0;
  for (long i = 0; ids && i < fill; i++) ids[i] = (int32_t)((1000 + i * 7919) % VOCAB);
  for (size_t n = 0; ids && want && n < sizeof cuts / sizeof *cuts && g->status == cudaSuccess; n++) {
    g->cut = (int)n;
    gemma_reset(g);
    const float *got = record(g) || gemma_prefill(g, ids, (size_t)fill) || gemma_decode(g, ids[0]) ? NULL : gemma_logits(g);
    if (!got) break;
    if (n == 0) memcpy(want, got, VOCAB * sizeof *want);
    float off = 0, largest = 1;
    for (int i = 0; i < VOCAB; i++) {
      const float size = fabsf(want[i]);
      off = fabsf(got[i] - want[i]) <= off ? off : fabsf(got[i] - want[i]);
      largest = size > largest ? size : largest;
    }
    float least = 0;
    for (int round = 0; round < ROUNDS; round++) {
      float milliseconds = 0;
      check(g, cudaEventRecord(begin, g->stream));
      for (int i = 0; i < STEPS; i++) check(g, cudaGraphLaunch(g->graph, g->stream));
      check(g, cudaEventRecord(end, g->stream));
      if (finish(g) || check(g, cudaEventElapsedTime(&milliseconds, begin, end))) break;
      if (round == 0 || milliseconds < least) least = milliseconds;
    }
    if (g->status != cudaSuccess) break;
    const int right = off <= 1e-3f * largest;
    char line[256];
    snprintf(line, sizeof line, "groups of %s threads: %.3f ms a token%s", cuts[n].name, least / STEPS,
             right ? "" : ", but the scores differ: not taken");
    if (report) report(line);
    if (right && (n == 0 || least < best)) best = least, chosen = (int)n;
  }
  free(ids);
  free(want);
  if (begin) cudaEventDestroy(begin);
  if (end) cudaEventDestroy(end);
  g->cut = chosen;
  g->have_pick = 0;
  gemma_reset(g);
  if (!ids || !want) return fail(g, "out of memory");
  if (check(g, g->status) || record(g)) return -1;
  return remember_cut(g, file);
}

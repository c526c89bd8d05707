/* Memory that reads as zeros and takes none until it is written to. */
static void *reserve(size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

/* A window needs only so many slots, and room for the tokens of one step. */
static long slots_of(const gemma *g, int cache) {
  const long window = caches[cache].window, ring = window + CHUNK;
  return window && ring < g->capacity ? ring : g->capacity;
}

static size_t cache_floats(const gemma *g, int cache) {
  return (size_t)caches[cache].heads * (size_t)slots_of(g, cache) * (size_t)caches[cache].head_dim;
}

gemma *gemma_create(const char *weights, const gemma_options *options) {
  const gemma_options given = options ? *options : (gemma_options){0};
  gemma *g = calloc(1, sizeof *g);
  if (!g) {
    snprintf(create_error, sizeof create_error, "out of memory");
    return NULL;
  }
  const long processors = sysconf(_SC_NPROCESSORS_ONLN);
  const int threads = given.threads > 0 ? given.threads : processors < 1 ? 1 : processors > 64 ? 64 : (int)processors;
  g->capacity = given.capacity > 0 ? given.capacity : CONTEXT;
  g->random = 1;
  if (!runs_here()) fail(g, "this program was built for %s, which this processor lacks; build it here", INSTRUCTION_SET);
  else if (threads > 1024) fail(g, "%d threads are too many; give at most 1024", threads);
  else if (g->capacity > CONTEXT)
    fail(g, "a capacity of %ld tokens is beyond the %d that the model was made for", g->capacity, CONTEXT);
  else if (map_weights(weights, !given.skip_check, &g->file, g->error, sizeof g->error)) {}
  else {
    size_t total = 0;
    for (int i = 0; i < CACHES; i++) total += cache_floats(g, i);
    g->cache_bytes = total * sizeof(float) + 64;
    g->position_count = (size_t)g->capacity + CHUNK;
    g->cache_memory = reserve(g->cache_bytes);
    g->arena = reserve(ARENA_BYTES);
    g->counting = malloc(g->position_count * sizeof *g->counting);
    g->order = malloc(VOCAB * sizeof *g->order);
    if (!g->cache_memory || !g->arena || !g->counting || !g->order || team_open(&g->team, threads, given.pin, step, g))
      fail(g, "out of memory or threads");
    else {
      for (size_t i = 0; i < g->position_count; i++) g->counting[i] = (int32_t)i;
      float *at = g->cache_memory;
      for (int i = 0; i < CACHES; at += cache_floats(g, i++)) g->cache[i] = (struct cache){at, slots_of(g, i)};
      return g;
    }
  }
  memcpy(create_error, g->error, sizeof create_error);
  gemma_free(g);
  return NULL;
}

void gemma_free(gemma *g) {
  if (!g) return;
  if (g->team.threads) team_close(&g->team);
  if (g->file) munmap((void *)(uintptr_t)g->file, FILE_BYTES);
  if (g->arena) munmap(g->arena, ARENA_BYTES);
  if (g->cache_memory) munmap(g->cache_memory, g->cache_bytes);
  free(g->counting);
  free(g->order);
  free(g);
}

void gemma_reset(gemma *g) {
  g->P = 0;
  g->logits = NULL;
}

/* Feeds T tokens at once; the last R of them are scored. */
static void run(gemma *g, const int32_t *ids, long T, long R) {
  memcpy(g->tokens, ids, (size_t)T * sizeof *ids);
  g->T = T;
  g->R = R;
  team_run(&g->team);
  g->P += T;
  g->logits = scores(g) + (R - 1) * VOCAB;
}

int gemma_prefill(gemma *g, const int32_t *ids, size_t count) {
  if (check_ids(g, ids, count)) return -1;
  for (size_t at = 0; at < count; at += CHUNK) run(g, ids + at, count - at < CHUNK ? (long)(count - at) : CHUNK, 1);
  return 0;
}

int gemma_decode(gemma *g, int32_t id) { return gemma_prefill(g, &id, 1); }

int gemma_score(gemma *g, const int32_t *ids, size_t count, float *out) {
  if (check_ids(g, ids, count)) return -1;
  for (size_t at = 0; at < count; at += SCORED) {
    const long T = count - at < SCORED ? (long)(count - at) : SCORED;
    run(g, ids + at, T, T);
    memcpy(out + at * VOCAB, scores(g), (size_t)T * VOCAB * sizeof *out);
  }
  return 0;
}

const float *gemma_logits(const gemma *g) { return g->logits; }
const char *gemma_instruction_set(void) { return INSTRUCTION_SET; }

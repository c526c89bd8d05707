struct gemma {
  struct team team;
  const uint8_t *file;
  uint8_t *arena;
  void *cache_memory;
  size_t cache_bytes, position_count;
  long capacity;
  struct cache cache[CACHES ? CACHES : 1];
  /* Tokens of this step, those of them that are scored, and tokens fed before. */
  long T, R, P;
  int32_t tokens[CHUNK];
  /* 0, 1, 2, … */
  int32_t *counting;
  struct candidate *order;
  const float *logits;
  uint32_t random;
  char error[512];
#ifdef GEMMA_TRACE
  gemma_see *see;
  void *user;
#endif
};

#define WEIGHT(type, offset) ((const type *)(const void *)(g->file + (offset)))
#define ARENA(type, offset) ((type *)(void *)(g->arena + (offset)))

/* Shows a value to whoever traces. */
#ifdef GEMMA_TRACE
static void show(gemma *g, const struct thread *t, const char *name, int layer, const float *values, long rows,
                 long columns) {
  meet(t);
  if (t->id == 0 && g->see) {
    char text[160];
    snprintf(text, sizeof text, name, layer);
    g->see(g->user, text, values, rows, columns);
  }
  meet(t);
}
#define TRACE(name, layer, values, rows, columns) show(g, t, name, (int)(layer), values, rows, columns)
#else
#define TRACE(name, layer, values, rows, columns) (void)0
#endif

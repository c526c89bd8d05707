@cpu
static _Thread_local char create_error[512];
@gpu
static thread_local char create_error[512];
@end

const char *gemma_error(const gemma *g) { return g ? g->error : create_error; }

__attribute__((format(printf, 2, 3))) static int fail(gemma *g, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(g->error, sizeof g->error, format, arguments);
  va_end(arguments);
  return -1;
}

int gemma_vocab(void) { return VOCAB; }
int gemma_context(void) { return CONTEXT; }
int gemma_capacity(const gemma *g) { return (int)g->capacity; }
double gemma_bytes_per_token(void) { return BYTES_PER_TOKEN; }
@cpu
int gemma_fed(const gemma *g) { return (int)g->P; }
@gpu
int gemma_fed(const gemma *g) { return (int)g->fed; }
@end
void gemma_seed(gemma *g, uint32_t seed) { g->random = seed; }
#ifdef GEMMA_TRACE
void gemma_trace(gemma *g, gemma_see *see, void *user) {
  g->see = see;
  g->user = user;
}
#endif

static int check_ids(gemma *g, const int32_t *ids, size_t count) {
  if (count == 0) return fail(g, "no tokens are given; feed at least one");
  for (size_t i = 0; i < count; i++)
    if (ids[i] < 0 || ids[i] >= VOCAB)
      return fail(g, "token id %d is outside the vocabulary of %d", (int)ids[i], VOCAB);
  if (count > (size_t)(g->capacity - gemma_fed(g)))
    return fail(g, "%zu more tokens after %d do not fit into a capacity of %ld", count, gemma_fed(g), g->capacity);
  return 0;
}

struct gemma {
  const uint8_t *file;
  /* Device memory: weights as the file holds them after its header, activations, what outlives a step. */
  uint8_t *weights, *arena, *state;
  struct chooser *chooser;
  struct scored *parts;
  unsigned *arrived;
  /* Host memory that copies to and from the device go through. */
  int32_t *step;
  struct chooser *settings;
  int32_t *picked;
  float *scores;
  cudaStream_t stream;
  cudaGraphExec_t graph;
  cudaError_t status;
  /* Whether a kernel may start while the one before it ends. */
  int overlap;
  int cut;
  long capacity, fed;
  /* Tokens of this prefill. */
  unsigned T;
  /* Where the newest scores lie in the arena; whether `scores` holds them. */
  size_t scored_at;
  int have_scores;
  /* How tokens are picked, what the next draw and the newest one on the device start from, and whether `picked` is here. */
  gemma_sampling how;
  uint32_t random, device_random;
  int have_pick;
  char device[256], error[512];
#ifdef GEMMA_TRACE
  gemma_see *see;
  void *user;
#endif
#ifdef GEMMAC_CUBLASLT
  cublaslt library;
#endif
};

/* Threads of a group, and bytes of shared memory beyond those that a kernel has anyway. */
struct group {
  unsigned threads;
  size_t bytes;
  group(unsigned threads, size_t bytes = 0) : threads(threads), bytes(bytes) {}
};

static constexpr unsigned groups(unsigned of, unsigned per) { return (of + per - 1) / per; }

#ifdef GEMMAC_CUBLASLT
/* Leaves a product to cuBLASLt, if `kernel` is one that it stands for. */
template <typename... Arguments> static bool multiplied(gemma *, const void *, Arguments...) { return false; }
static bool multiplied(gemma *g, const void *kernel, uint8_t *x, uint8_t *weight, uint8_t *residual, uint8_t *y, unsigned T);
static bool multiplied(gemma *g, const void *kernel, uint8_t *x, uint8_t *weight, uint8_t *y, unsigned T) {
  return multiplied(g, kernel, x, weight, NULL, y, T);
}
#endif

/* Launches a kernel after those before it; its first weights are loaded while they still run, where the GPU can. */
template <typename... Parameters, typename... Arguments>
static void launch(gemma *g, void (*kernel)(Parameters...), dim3 grid, group own, Arguments... arguments) {
  if (g->status != cudaSuccess) return;
#ifdef GEMMAC_CUBLASLT
  if (multiplied(g, (const void *)kernel, arguments...)) return;
#endif
  if (own.bytes) g->status = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)own.bytes);
  if (g->status != cudaSuccess) return;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(own.threads);
  config.dynamicSmemBytes = own.bytes;
  config.stream = g->stream;
  config.attrs = &early;
  config.numAttrs = g->overlap ? 1 : 0;
  g->status = cudaLaunchKernelEx(&config, kernel, (Parameters)arguments...);
}

/* Shows a value to whoever traces. */
#ifdef GEMMA_TRACE
static void show(gemma *g, const char *name, int layer, const uint8_t *values, long rows, long columns) {
  if (!g->see || g->status != cudaSuccess) return;
  char text[160];
  snprintf(text, sizeof text, name, layer);
  float *copy = (float *)malloc((size_t)(rows * columns) * sizeof *copy);
  if (!copy) return;
  g->status = cudaMemcpyAsync(copy, values, (size_t)(rows * columns) * sizeof *copy, cudaMemcpyDeviceToHost, g->stream);
  if (g->status == cudaSuccess) g->status = cudaStreamSynchronize(g->stream);
  if (g->status == cudaSuccess) g->see(g->user, text, copy, rows, columns);
  free(copy);
}
#define TRACE(g, name, layer, values, rows, columns) show(g, name, layer, values, rows, columns)
#else
#define TRACE(g, name, layer, values, rows, columns) (void)(layer)
#endif

#ifdef GEMMAC_CUBLASLT
static bool multiplied(gemma *g, const void *kernel, uint8_t *x, uint8_t *weight, uint8_t *residual, uint8_t *y, unsigned T) {
  cublaslt *c = &g->library;
  const product *p = products, *const end = products + sizeof products / sizeof *products;
  while (p < end && p->kernel != kernel) p++;
  if (p == end) return false;
  uint8_t *sums = p->gated ? c->sums : y;
  const uint8_t *before = residual;
  for (int part = 0; part < p->parts && !c->status; part++, before = sums) {
    const uint8_t *own = x + (size_t)T * p->x_pitch * 2 * part;
    c->status = multiply(c, g->stream, p, weight, own, before ? before : sums, before ? 1 : 0, sums, T);
  }
  if (c->status) g->status = cudaErrorUnknown;
  if (p->gated) launch(g, gate_gelu, dim3(groups(p->rows / 2, 256), T), 256, sums, y, p->rows / 2);
  return true;
}

/* The bytes of device memory that the largest product needs that is to be gated. */
static size_t product_bytes(void) {
  size_t most = 0;
  for (const product &p : products)
    if (p.gated && (size_t)CHUNK * p.rows * 4 > most) most = (size_t)CHUNK * p.rows * 4;
  return most;
}
#endif

/* What CUDA says of the calls since the last time, in words. */
static int check(gemma *g, cudaError_t status) {
  if (g->status == cudaSuccess) g->status = status;
#ifdef GEMMAC_CUBLASLT
  if (g->library.status) return fail(g, "cuBLASLt failed: %s", cublasLtGetStatusString(g->library.status));
#endif
  return g->status == cudaSuccess ? 0 : fail(g, "the GPU failed: %s", cudaGetErrorString(g->status));
}
static int finish(gemma *g) { return check(g, cudaStreamSynchronize(g->stream)); }

/* Picks the next token by the newest scores, and brings it here. */
static void pick(gemma *g) {
  const uint8_t *scores = g->arena + g->scored_at;
  launch(g, pick_likeliest, dim3(PICK_GROUPS), PICK_THREADS, scores, VOCAB, g->parts, g->arrived, g->chooser);
  launch(g, draw_token, dim3(1), DRAW_THREADS, scores, VOCAB, g->chooser);
  if (g->status == cudaSuccess)
    g->status = cudaMemcpyAsync(g->picked, &g->chooser->id, sizeof *g->picked, cudaMemcpyDeviceToHost, g->stream);
}

/* One token after those before: all that the GPU does for it. */
static void whole_step(gemma *g) {
  launch(g, begin_step, dim3(1), 1, g->state + STEP_AT, STEP_START, STEP_TOKENS, STEP_POSITIONS, g->chooser);
  cuts[g->cut].launch(g);
  g->scored_at = cuts[g->cut].scores;
  pick(g);
}

/* Records the step once; the graph is then launched for each token. */
static int record(gemma *g) {
  if (g->graph) cudaGraphExecDestroy(g->graph);
  g->graph = NULL;
  cudaGraph_t graph = NULL;
  if (check(g, cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal))) return -1;
  whole_step(g);
  const cudaError_t ended = cudaStreamEndCapture(g->stream, &graph);
  if (check(g, ended)) return -1;
  check(g, cudaGraphInstantiate(&g->graph, graph, 0));
  cudaGraphDestroy(graph);
  return g->status == cudaSuccess ? 0 : -1;
}

/* Copies the weights to the device by way of pinned memory, which the GPU reads by itself. */
static int upload(gemma *g) {
  enum { PIECE = 32 << 20 };
  const uint8_t *from = g->file + HEADER_BYTES;
  const size_t bytes = FILE_BYTES - HEADER_BYTES;
  uint8_t *staging[2] = {NULL, NULL};
  cudaEvent_t copied[2] = {NULL, NULL};
  for (int i = 0; i < 2; i++) {
    check(g, cudaMallocHost((void **)&staging[i], PIECE));
    check(g, cudaEventCreateWithFlags(&copied[i], cudaEventDisableTiming));
  }
  int turn = 0;
  for (size_t at = 0; at < bytes && g->status == cudaSuccess; at += PIECE, turn ^= 1) {
    const size_t count = bytes - at < PIECE ? bytes - at : PIECE;
    if (check(g, cudaEventSynchronize(copied[turn]))) break;
    memcpy(staging[turn], from + at, count);
    check(g, cudaMemcpyAsync(g->weights + at, staging[turn], count, cudaMemcpyHostToDevice, g->stream));
    check(g, cudaEventRecord(copied[turn], g->stream));
  }
  finish(g);
  for (int i = 0; i < 2; i++) {
    if (staging[i]) cudaFreeHost(staging[i]);
    if (copied[i]) cudaEventDestroy(copied[i]);
  }
  return g->status == cudaSuccess ? 0 : -1;
}

/* Finds the GPU and sees to it that it will do. */
static int open_device(gemma *g, int device) {
  int count = 0, major = 0, minor = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found != cudaSuccess) return fail(g, "there is no NVIDIA GPU to be had: %s", cudaGetErrorString(found));
  if (device < 0 || device >= count) return fail(g, "there is no GPU %d; there are %d, counted from 0", device, count);
  cudaDeviceProp about;
  if (check(g, cudaSetDevice(device)) || check(g, cudaGetDeviceProperties(&about, device))) return -1;
  snprintf(g->device, sizeof g->device, "%s", about.name);
  major = about.major, minor = about.minor;
  if (major < 8)
    return fail(g, "%s has compute capability %d.%d; this program needs 8.0 or later", g->device, major, minor);
  g->overlap = major >= 9;
  size_t left = 0, all = 0;
  if (check(g, cudaMemGetInfo(&left, &all))) return -1;
  double needed = (double)(FILE_BYTES - HEADER_BYTES) + (double)ARENA_BYTES + (double)STATE_BYTES;
#ifdef GEMMAC_CUBLASLT
  needed += (double)product_bytes() + CUBLASLT_WORKSPACE;
#endif
  if (needed > (double)left)
    return fail(g, "the model needs %.2f GB of GPU memory, and %s has %.2f GB left", needed / 1e9, g->device, (double)left / 1e9);
  return 0;
}

static int allocate(gemma *g) {
#ifdef GEMMA_MAPPED_WEIGHTS
  /* For what shares its memory with the processor: the weights stay where they are mapped. */
  g->weights = (uint8_t *)(uintptr_t)g->file + HEADER_BYTES;
#else
  check(g, cudaMalloc((void **)&g->weights, FILE_BYTES - HEADER_BYTES));
#endif
  check(g, cudaMalloc((void **)&g->arena, ARENA_BYTES ? ARENA_BYTES : 256));
  check(g, cudaMalloc((void **)&g->state, STATE_BYTES));
  check(g, cudaMalloc((void **)&g->chooser, sizeof *g->chooser));
  check(g, cudaMalloc((void **)&g->parts, PICK_GROUPS * sizeof *g->parts));
  check(g, cudaMalloc((void **)&g->arrived, sizeof *g->arrived));
  check(g, cudaMallocHost((void **)&g->step, STEP_WORDS * sizeof *g->step));
  check(g, cudaMallocHost((void **)&g->settings, sizeof *g->settings));
  check(g, cudaMallocHost((void **)&g->picked, sizeof *g->picked));
  check(g, cudaMallocHost((void **)&g->scores, VOCAB * sizeof *g->scores));
#ifdef GEMMAC_CUBLASLT
  if (product_bytes()) check(g, cudaMalloc((void **)&g->library.sums, product_bytes()));
  check(g, cudaMalloc((void **)&g->library.workspace, CUBLASLT_WORKSPACE));
  g->library.status = cublasLtCreate(&g->library.handle);
#endif
  if (check(g, g->status)) return -1;
  /* Caches must hold no NaN, and counters start at zero. */
  check(g, cudaMemsetAsync(g->state, 0, STATE_BYTES, g->stream));
  check(g, cudaMemsetAsync(g->arrived, 0, sizeof *g->arrived, g->stream));
#ifndef GEMMA_MAPPED_WEIGHTS
  if (upload(g)) return -1;
#endif
  return finish(g);
}

static int tuned_cut(const char *file, const char *device);

gemma *gemma_create(const char *weights, const gemma_options *options) {
  gemma_options given = {};
  if (options) given = *options;
  gemma *g = (gemma *)calloc(1, sizeof *g);
  if (!g) {
    snprintf(create_error, sizeof create_error, "out of memory");
    return NULL;
  }
  g->capacity = given.capacity > 0 ? given.capacity : CONTEXT;
  g->random = 1;
  if (g->capacity > CONTEXT)
    fail(g, "a capacity of %ld tokens is beyond the %d that this program was compiled for", g->capacity, CONTEXT);
  else if (!map_weights(weights, !given.skip_check, &g->file, g->error, sizeof g->error) &&
           !open_device(g, given.device) && !check(g, cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking)) &&
           !allocate(g)) {
    char path[4096];
    const char *slash = strrchr(weights, '/');
    snprintf(path, sizeof path, "%.*stuning.txt", slash ? (int)(slash - weights + 1) : 0, weights);
    g->cut = tuned_cut(path, g->device);
#ifndef GEMMA_MAPPED_WEIGHTS
    munmap((void *)(uintptr_t)g->file, FILE_BYTES);
    g->file = NULL;
#endif
    return g;
  }
  memcpy(create_error, g->error, sizeof create_error);
  gemma_free(g);
  return NULL;
}

void gemma_free(gemma *g) {
  if (!g) return;
  if (g->graph) cudaGraphExecDestroy(g->graph);
#ifndef GEMMA_MAPPED_WEIGHTS
  cudaFree(g->weights);
#endif
  cudaFree(g->arena);
  cudaFree(g->state);
  cudaFree(g->chooser);
  cudaFree(g->parts);
  cudaFree(g->arrived);
#ifdef GEMMAC_CUBLASLT
  cudaFree(g->library.sums);
  cudaFree(g->library.workspace);
  if (g->library.handle) cublasLtDestroy(g->library.handle);
#endif
  cudaFreeHost(g->step);
  cudaFreeHost(g->settings);
  cudaFreeHost(g->picked);
  cudaFreeHost(g->scores);
  if (g->stream) cudaStreamDestroy(g->stream);
  if (g->file) munmap((void *)(uintptr_t)g->file, FILE_BYTES);
  free(g);
}

void gemma_reset(gemma *g) {
  g->fed = 0;
  g->have_pick = 0;
}

/* Tells the device how many tokens went before, which comes next, and what the draw starts from. */
static int set_chooser(gemma *g, int32_t id, uint32_t random) {
  if (finish(g)) return -1;
  *g->settings = chooser{(int)g->fed, id, g->how.temperature, g->how.top_k, g->how.top_p, random, 0};
  g->device_random = random;
  return check(g, cudaMemcpyAsync(g->chooser, g->settings, sizeof *g->settings, cudaMemcpyHostToDevice, g->stream));
}

/* Feeds T tokens at once; only the last is scored. */
static int run_prefill(gemma *g, const int32_t *ids, long T) {
  if (finish(g)) return -1;
  g->step[STEP_START] = (int32_t)g->fed;
  for (long i = 0; i < T; i++) {
    g->step[STEP_TOKENS + i] = ids[i];
    g->step[STEP_POSITIONS + i] = (int32_t)(g->fed + i);
  }
  check(g, cudaMemcpyAsync(g->state + STEP_AT, g->step, STEP_WORDS * sizeof *g->step, cudaMemcpyHostToDevice, g->stream));
  g->T = (unsigned)T;
  prefill(g);
  g->scored_at = PREFILL_SCORES;
  g->fed += T;
  g->have_scores = 0;
  return check(g, cudaSuccess);
}

/* Feeds one token by the recorded step. */
static int run_decode(gemma *g, int32_t id) {
#ifndef GEMMA_TRACE
  if (!g->graph && record(g)) return -1;
#endif
  /* The step moves the device's own random state on. */
  const uint32_t move = g->how.temperature > 0 ? RANDOM_STEP : 0;
  const int there = g->have_pick && id == *g->picked && (!move || g->device_random + move == g->random);
  if (!there && set_chooser(g, id, g->random - move)) return -1;
#ifdef GEMMA_TRACE
  whole_step(g);
#else
  check(g, cudaGraphLaunch(g->graph, g->stream));
  g->scored_at = cuts[g->cut].scores;
#endif
  g->device_random += move;
  g->fed++;
  g->have_scores = g->have_pick = 0;
  return check(g, cudaSuccess);
}

int gemma_prefill(gemma *g, const int32_t *ids, size_t count) {
  if (check(g, cudaSuccess) || check_ids(g, ids, count)) return -1;
  if (count == 1) return run_decode(g, ids[0]);
  for (size_t at = 0; at < count; at += CHUNK)
    if (run_prefill(g, ids + at, count - at < CHUNK ? (long)(count - at) : CHUNK)) return -1;
  if (set_chooser(g, 0, g->random)) return -1;
  g->have_pick = 0;
  pick(g);
  return check(g, cudaSuccess);
}

int gemma_decode(gemma *g, int32_t id) { return gemma_prefill(g, &id, 1); }

const float *gemma_logits(const gemma *given) {
  gemma *g = (gemma *)(uintptr_t)given;
  if (g->fed == 0) return NULL;
  if (g->have_scores) return g->scores;
  check(g, cudaMemcpyAsync(g->scores, g->arena + g->scored_at, VOCAB * sizeof *g->scores, cudaMemcpyDeviceToHost, g->stream));
  if (finish(g)) return NULL;
  g->have_scores = 1;
  return g->scores;
}

int gemma_score(gemma *g, const int32_t *ids, size_t count, float *out) {
  if (check(g, cudaSuccess) || check_ids(g, ids, count)) return -1;
  for (size_t i = 0; i < count; i++) {
    const float *scores = gemma_decode(g, ids[i]) ? NULL : gemma_logits(g);
    if (!scores) return -1;
    memcpy(out + i * VOCAB, scores, VOCAB * sizeof *out);
  }
  return 0;
}

int32_t gemma_sample(gemma *g, gemma_sampling how) {
  if (g->fed == 0) {
    fail(g, "nothing was fed yet");
    return -1;
  }
  const int drawn = how.temperature > 0;
  const int same = g->how.temperature == how.temperature && g->how.top_k == how.top_k && g->how.top_p == how.top_p;
  /* A token was picked with the scores; anew where it was to be picked otherwise, or was drawn before. */
  if (!same || (drawn && g->device_random != g->random)) {
    g->how = how;
    if (set_chooser(g, 0, g->random)) return -1;
    pick(g);
  }
  if (finish(g)) return -1;
  g->have_pick = 1;
  if (drawn) g->random += RANDOM_STEP;
  return *g->picked;
}

const char *gemma_device(const gemma *g) { return g->device; }

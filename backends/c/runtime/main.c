/* Runs a Gemma model from the command line: see usage() below. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "gemma.h"
#include "tokenizer.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char usage_text[] =
    "Usage: gemma [options] (--prompt TEXT | --ids LIST | --bench | --selftest | --serve)\n"
    "  --prompt TEXT       continue this text\n"
    "  --ids LIST          feed these token ids, with commas between, and print the ids that follow\n"
    "  --logits FILE       with --ids: write the scores after each token to this safetensors file\n"
    "  --bench             measure prefill and decode\n"
@gpu
    "  --tune              time the cuts of the kernels on this GPU and remember the fastest in tuning.txt\n"
@end
    "  --selftest          replay selftest.bin and compare\n"
    "  --serve             answer a program on stdin and stdout; gemmac does so\n"
    "  -n, --max-tokens N  stop after so many tokens (default 128)\n"
    "  --temperature X     0 always takes the likeliest token (default 0)\n"
    "  --top-k N, --top-p X, --seed N\n"
    "  --weights FILE      (default model.safetensors beside the program)\n"
    "  --tokenizer FILE    (default tokenizer.bin beside the program)\n"
@cpu
    "  --threads N         (default: all processors)\n"
    "  --pin               keep each thread but the first on a processor of its own\n"
@gpu
    "  --device N          which GPU (default 0)\n"
@end
    "  --capacity N        tokens a text may have (default: the model's context)\n"
    "  --skip-check        do not compare the weights with their checksums first\n";

static const char *program_path = "";
static void die(const char *what) {
  fprintf(stderr, "gemma: %s\n", what);
  exit(3);
}
static void misuse(const char *what, const char *with) {
  fprintf(stderr, "gemma: %s%s\n%s", what, with, usage_text);
  exit(2);
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* A file in the folder of the program. */
static const char *beside(const char *name) {
  static char path[2][4096];
  static int turn;
  char *at = path[turn ^= 1];
  const char *slash = strrchr(program_path, '/');
  snprintf(at, sizeof path[0], "%.*s%s", slash ? (int)(slash - program_path + 1) : 0, program_path, name);
  return at;
}

static double number_of(const char *option, const char *text, double least, double most) {
  char *end;
  errno = 0;
  const double value = text ? strtod(text, &end) : 0;
  if (!text || end == text || *end || errno || !(value >= least && value <= most))
    misuse("not a number in range: ", option);
  return value;
}

static int32_t *ids_of(const char *list, size_t *count) {
  const char *text = list;
  int32_t *ids = (int32_t *)malloc((strlen(text) + 1) * sizeof *ids);
  if (!ids) die("out of memory");
  for (*count = 0; *text; text += *text == ',') {
    char *end;
    errno = 0;
    const long id = strtol(text, &end, 10);
    if (end == text || (*end && *end != ',') || errno || id < INT32_MIN || id > INT32_MAX)
      misuse("not a list of token ids: ", list);
    ids[(*count)++] = (int32_t)id;
    text = end;
  }
  if (*count == 0) misuse("no token ids are given", "");
  return ids;
}

/* Scores as `gemmac logits` writes them: logits f32[count][vocab]. */
static void write_scores(gemma *g, const char *path, const int32_t *ids, size_t count) {
  const size_t vocab = (size_t)gemma_vocab(), floats = count * vocab;
  float *scores = (float *)malloc(floats * sizeof *scores);
  if (!scores) die("out of memory");
  if (gemma_score(g, ids, count, scores)) die(gemma_error(g));
  char header[256];
  memset(header, ' ', sizeof header);
  const int length = snprintf(header + 8, sizeof header - 8,
                              "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%zu,%zu],\"data_offsets\":[0,%zu]}}", count,
                              vocab, floats * sizeof *scores);
  header[8 + length] = ' ';
  const uint64_t size = sizeof header - 8;
  memcpy(header, &size, 8);
  FILE *out = fopen(path, "wb");
  if (!out || fwrite(header, 1, sizeof header, out) != sizeof header ||
      fwrite(scores, sizeof *scores, floats, out) != floats || fclose(out)) {
    fprintf(stderr, "gemma: %s: %s\n", path, strerror(errno));
    exit(5);
  }
  free(scores);
}

@part bench.c

@part selftest.c

static void put(const void *bytes, size_t count) {
  if (count && fwrite(bytes, 1, count, stdout) != count) exit(5);
}
static void frame(uint32_t tag, uint32_t a, uint32_t b, const void *bytes, size_t count) {
  const uint32_t head[] = {tag, a, b};
  put(head, sizeof head);
  put(bytes, count);
}
enum { TRACED = 1, SCORES = 2, FAILED = 3 };
#ifdef GEMMA_TRACE
static void send_trace(void *user, const char *name, const float *values, long rows, long columns) {
  (void)user;
  const uint32_t length = (uint32_t)strlen(name);
  frame(TRACED, (uint32_t)rows, (uint32_t)columns, &length, 4);
  put(name, length);
  put(values, (size_t)(rows * columns) * sizeof *values);
}
#endif

/*
 * Reads requests of 32-bit words: a count of ids, 1 to score all of them or 0 for the last one only, the ids. A count of
 * 0 forgets the text. Answers in frames of a tag, two sizes and what they say; scores or an error end an answer.
 */
static void serve(gemma *g) {
#ifdef GEMMA_TRACE
  gemma_trace(g, send_trace, NULL);
#endif
  const size_t vocab = (size_t)gemma_vocab();
  for (uint32_t head[2]; fread(head, 4, 2, stdin) == 2; fflush(stdout)) {
    const size_t count = head[0];
    if (count == 0) {
      gemma_reset(g);
      continue;
    }
    int32_t *ids = (int32_t *)malloc(count * sizeof *ids);
    float *scores = head[1] ? (float *)malloc(count * vocab * sizeof *scores) : NULL;
    if (!ids || (head[1] && !scores)) die("out of memory");
    if (fread(ids, 4, count, stdin) != count) exit(3);
    if (head[1] ? gemma_score(g, ids, count, scores) : gemma_prefill(g, ids, count))
      frame(FAILED, (uint32_t)strlen(gemma_error(g)), 0, gemma_error(g), strlen(gemma_error(g)));
    else
      frame(SCORES, head[1] ? (uint32_t)count : 1, (uint32_t)vocab, head[1] ? scores : gemma_logits(g),
            (head[1] ? count : 1) * vocab * sizeof *scores);
    free(ids);
    free(scores);
  }
}

static int is_stop(const struct tokenizer *k, int32_t id) {
  for (uint32_t i = 0; k && i < k->stop_count; i++)
    if (k->stops[i] == id) return 1;
  return 0;
}

/* Generates and prints, as text where there is a tokenizer, else as ids. */
static void generate(gemma *g, const struct tokenizer *k, const int32_t *ids, size_t count, long most,
                     gemma_sampling how) {
  if (gemma_prefill(g, ids, count)) die(gemma_error(g));
  struct text_stream stream = {0};
  const double start = seconds();
  long n = 0;
  while (n < most) {
    const int32_t id = gemma_sample(g, how);
    if (is_stop(k, id)) break;
    n++;
    if (k) text_push(k, &stream, id, stdout);
    else printf(n == 1 ? "%d" : ",%d", (int)id);
    fflush(stdout);
    if (n == most || gemma_fed(g) == gemma_capacity(g)) break;
    if (gemma_decode(g, id)) die(gemma_error(g));
  }
  if (k) text_end(k, &stream, stdout);
  printf("\n");
  const double rate = n > 1 ? (double)(n - 1) / (seconds() - start) : 0;
  fprintf(stderr, "%ld tokens, %.1f tokens/s\n", n, rate);
}

int main(int argc, char **argv) {
  const char *prompt = NULL, *list = NULL, *scores = NULL, *weights = NULL, *vocabulary = NULL;
@cpu
  enum { NONE, BENCH, SELFTEST, SERVE } mode = NONE;
@gpu
  enum { NONE, BENCH, TUNE, SELFTEST, SERVE } mode = NONE;
@end
  long most = 128;
  gemma_options options = {0};
  gemma_sampling how = {0};
  uint32_t seed = (uint32_t)time(NULL);
  program_path = argv[0];
  for (int i = 1; i < argc; i++) {
    const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    int takes = 1;
    if (!strcmp(option, "--bench")) mode = BENCH, takes = 0;
@gpu
    else if (!strcmp(option, "--tune")) mode = TUNE, takes = 0;
@end
    else if (!strcmp(option, "--selftest")) mode = SELFTEST, takes = 0;
    else if (!strcmp(option, "--serve")) mode = SERVE, takes = 0;
    else if (!strcmp(option, "--skip-check")) options.skip_check = 1, takes = 0;
    else if (!strcmp(option, "--prompt")) prompt = value;
    else if (!strcmp(option, "--ids")) list = value;
    else if (!strcmp(option, "--logits")) scores = value;
    else if (!strcmp(option, "--weights")) weights = value;
    else if (!strcmp(option, "--tokenizer")) vocabulary = value;
    else if (!strcmp(option, "-n") || !strcmp(option, "--max-tokens")) most = (long)number_of(option, value, 1, 1e9);
    else if (!strcmp(option, "--temperature")) how.temperature = (float)number_of(option, value, 0, 1e6);
    else if (!strcmp(option, "--top-k")) how.top_k = (int)number_of(option, value, 1, 1e9);
    else if (!strcmp(option, "--top-p")) how.top_p = (float)number_of(option, value, 0, 1);
    else if (!strcmp(option, "--seed")) seed = (uint32_t)number_of(option, value, 0, 4294967295.0);
@cpu
    else if (!strcmp(option, "--pin")) options.pin = 1, takes = 0;
    else if (!strcmp(option, "--threads")) options.threads = (int)number_of(option, value, 1, 1024);
@gpu
    else if (!strcmp(option, "--device")) options.device = (int)number_of(option, value, 0, 1024);
@end
    else if (!strcmp(option, "--capacity")) options.capacity = (int)number_of(option, value, 1, INT_MAX);
    else misuse("unknown option ", option);
    if (takes && !value) misuse("a value is missing after ", option);
    i += takes;
  }
  if (mode == NONE && !prompt && !list) misuse("nothing to do", "");
  gemma *g = gemma_create(weights ? weights : beside("model.safetensors"), &options);
  if (!g) die(gemma_error(NULL));
  gemma_seed(g, seed);
  int status = 0;
  if (mode == BENCH) bench(g);
@gpu
  else if (mode == TUNE) {
    if (gemma_tune(g, beside("tuning.txt"), say)) die(gemma_error(g));
  }
@end
  else if (mode == SELFTEST) status = selftest(g);
  else if (mode == SERVE) serve(g);
  else if (list) {
    size_t count;
    int32_t *ids = ids_of(list, &count);
    if (scores) write_scores(g, scores, ids, count);
    else generate(g, NULL, ids, count, most, how);
    free(ids);
  } else {
    struct tokenizer k;
    char why[512];
    if (tokenizer_open(&k, vocabulary ? vocabulary : beside("tokenizer.bin"), why, sizeof why)) die(why);
    size_t count;
    int32_t *ids = tokenizer_encode(&k, prompt, strlen(prompt), 1, &count);
    if (!ids) die("out of memory");
    if (count == 0) die("the prompt is empty, and this model has no token to begin with");
    generate(g, &k, ids, count, most, how);
    free(ids);
    tokenizer_close(&k);
  }
  gemma_free(g);
  return status;
}

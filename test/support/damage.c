/*
 * Opens damaged copies of tokenizer.bin and of model.safetensors, `argv[3]` of each, changed by a generator that starts
 * from the case's number. Every one must be refused with a line, or work within its memory.
 */
#include "gemma.c"
#include "tokenizer.h"

static uint32_t state;
static uint32_t pick(uint32_t n) {
  state = state * 1664525u + 1013904223u;
  return n ? (state >> 8) % n : 0;
}

static uint8_t *read_all(const char *path, size_t *size) {
  FILE *in = fopen(path, "rb");
  if (!in || fseek(in, 0, SEEK_END)) exit(1);
  *size = (size_t)ftell(in);
  rewind(in);
  uint8_t *bytes = malloc(*size + 64);
  if (!bytes || fread(bytes, 1, *size, in) != *size) exit(1);
  fclose(in);
  return bytes;
}
static void write_all(const char *path, const uint8_t *bytes, size_t size) {
  FILE *out = fopen(path, "wb");
  if (!out || fwrite(bytes, 1, size, out) != size || fclose(out)) exit(1);
}

/* Some bytes become others, mostly near the start, or the file gets longer or shorter. */
static size_t damage(uint8_t *bytes, size_t size) {
  const uint32_t changes = 1 + pick(4);
  for (uint32_t i = 0; i < changes; i++) {
    const size_t at = pick(2) ? pick(64) % size : pick((uint32_t)size);
    const uint32_t kind = pick(4);
    bytes[at] = kind == 0 ? 0xff : kind == 1 ? 0 : (uint8_t)pick(256);
    if (kind == 3) memset(bytes + at, 0xff, at + 4 < size ? 4 : size - at);
  }
  const uint32_t ending = pick(8);
  return ending == 0 ? pick((uint32_t)size) : ending == 1 ? size + pick(64) : size;
}

/* Whether all that is read is the same: the header and the tensors, but not what fills the gaps between them. */
static int alike(const uint8_t *a, const uint8_t *b) {
  if (memcmp(a, b, HEADER_BYTES)) return 0;
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
    if (memcmp(a + tensors[i].offset, b + tensors[i].offset, tensors[i].bytes)) return 0;
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  size_t tokens, weights, refused = 0, used = 0;
  uint8_t *tokenizer = read_all(argv[1], &tokens), *model = read_all(argv[2], &weights);
  uint8_t *copy = malloc((tokens > weights ? tokens : weights) + 64);
  const int cases = atoi(argv[3]);
  for (int n = 0; n < cases; n++) {
    state = (uint32_t)n * 2654435761u + 1;
    memcpy(copy, tokenizer, tokens);
    memset(copy + tokens, 0, 64);
    write_all(argv[4], copy, damage(copy, tokens));
    struct tokenizer k;
    char why[512] = "";
    if (tokenizer_open(&k, argv[4], why, sizeof why)) {
      refused++;
      if (!*why || strchr(why, '\n')) return printf("case %d: no reason\n", n), 1;
    } else {
      used++;
      size_t count;
      int32_t *ids = tokenizer_encode(&k, "And 3 <bos> \xf0\x9f\x99\x8f\xff said\n", 21, 1, &count);
      struct text_stream stream = {0};
      FILE *out = fopen("/dev/null", "w");
      for (size_t i = 0; ids && i < count; i++) text_push(&k, &stream, ids[i], out);
      for (int i = 0; i < 300; i++) text_push(&k, &stream, (int32_t)pick(k.token_count + 5), out);
      text_end(&k, &stream, out);
      fclose(out);
      free(ids);
      tokenizer_close(&k);
    }
    if (n % 10) continue;
    memcpy(copy, model, weights);
    memset(copy + weights, 0, 64);
    const size_t size = damage(copy, weights);
    write_all(argv[4], copy, size);
    gemma *g = gemma_create(argv[4], &(gemma_options){.threads = 1});
    const int same = size == weights && alike(copy, model);
    if (!g != !same) return printf("case %d: weights were %s\n", n, g ? "taken" : "refused"), 1;
    if (!g && (!*gemma_error(NULL) || strchr(gemma_error(NULL), '\n'))) return printf("case %d: no reason\n", n), 1;
    gemma_free(g);
  }
  printf("%zu refused, %zu used\n", refused, used);
  free(tokenizer);
  free(model);
  free(copy);
  return 0;
}

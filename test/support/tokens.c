/*
 * Reads lines of a command and its argument, and answers each on a line: `e HEX` and `s HEX` encode a text, with what
 * begins every text for s; `d IDS` and `k IDS` decode, special tokens left out for k. Texts are bytes in hex.
 */
#include "tokenizer.h"

static size_t unhex(const char *from, uint8_t *to) {
  size_t n = 0;
  for (; from[0] > ' ' && from[1] > ' '; from += 2) to[n++] = (uint8_t)(hex_digit((uint8_t)from[0]) * 16 + hex_digit((uint8_t)from[1]));
  return n;
}

int main(int argc, char **argv) {
  struct tokenizer k;
  char why[512];
  if (argc != 2 || tokenizer_open(&k, argv[1], why, sizeof why)) return fprintf(stderr, "%s\n", why), 3;
  static char line[1 << 22];
  static uint8_t text[1 << 21];
  while (fgets(line, sizeof line, stdin)) {
    if (line[0] == 'e' || line[0] == 's') {
      const size_t size = unhex(line + 2, text);
      size_t count;
      int32_t *ids = tokenizer_encode(&k, (const char *)text, size, line[0] == 's', &count);
      for (size_t i = 0; i < count; i++) printf(i ? ",%d" : "%d", (int)ids[i]);
      free(ids);
    } else {
      struct text_stream stream = {0};
      char *bytes;
      size_t size;
      FILE *out = open_memstream(&bytes, &size);
      for (char *at = line + 2; *at > ' ';) {
        text_push_kind(&k, &stream, (int32_t)strtol(at, &at, 10), line[0] == 'k', out);
        if (*at == ',') at++;
      }
      text_end(&k, &stream, out);
      fclose(out);
      for (size_t i = 0; i < size; i++) printf("%02x", (uint8_t)bytes[i]);
      free(bytes);
    }
    putchar('\n');
  }
  tokenizer_close(&k);
  return 0;
}

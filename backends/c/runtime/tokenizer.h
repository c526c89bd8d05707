/*
 * Text to token ids and back, from tokenizer.bin: byte-pair merges over characters, with bytes for characters that the
 * vocabulary lacks (Gemma), or over bytes. All of the file is checked when it is opened.
 */
#ifndef GEMMA_TOKENIZER_H
#define GEMMA_TOKENIZER_H
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_PLAIN = 0, TOKEN_SPECIAL = 1, TOKEN_BYTE = 2, TOKEN_ADDED = 4, TOKEN_MISSING = 8 };
enum { TOKENS_OF_BYTES = 1, TOKENS_SPLIT_WORDS = 2, TOKENS_MARK_SPACES = 4 };

struct merge {
  uint32_t left, right, merged;
};

struct tokenizer {
  uint8_t *file;
  size_t size;
  uint32_t flags, token_count, merge_count, prefix_count, stop_count;
  const int32_t *prefix, *stops;
  const uint32_t *starts;
  const uint8_t *kinds, *text;
  const struct merge *merges;
  /* Open addressing: a token's id, or a merge's rank, plus one. */
  uint32_t *by_text, *by_pair, text_mask, pair_mask;
  int32_t bytes[256];
  /* Lengths of added tokens, longest first, and which bytes they start with. */
  uint32_t *lengths, length_count;
  uint8_t added_start[256];
};

static inline uint32_t hash_bytes(const uint8_t *text, size_t count) {
  uint32_t h = 2166136261u;
  for (size_t i = 0; i < count; i++) h = (h ^ text[i]) * 16777619u;
  return h ^ h >> 15;
}
static inline uint32_t hash_pair(uint32_t left, uint32_t right) {
  const uint32_t h = left * 0x9e3779b1u ^ right * 0x85ebca6bu;
  return h ^ h >> 15;
}

static inline int32_t find_token(const struct tokenizer *k, const uint8_t *text, size_t count) {
  for (uint32_t i = hash_bytes(text, count);; i++) {
    const uint32_t slot = k->by_text[i & k->text_mask];
    if (!slot) return -1;
    const uint32_t from = k->starts[slot - 1];
    if (k->starts[slot] - from == count && !memcmp(k->text + from, text, count)) return (int32_t)(slot - 1);
  }
}

/* The rank of a merge, or UINT32_MAX. */
static inline uint32_t find_merge(const struct tokenizer *k, int32_t left, int32_t right) {
  if (left < 0 || right < 0) return UINT32_MAX;
  for (uint32_t i = hash_pair((uint32_t)left, (uint32_t)right);; i++) {
    const uint32_t slot = k->by_pair[i & k->pair_mask];
    if (!slot) return UINT32_MAX;
    const struct merge *m = &k->merges[slot - 1];
    if (m->left == (uint32_t)left && m->right == (uint32_t)right) return slot - 1;
  }
}

static void tokenizer_close(struct tokenizer *k) {
  free(k->file);
  free(k->by_text);
  free(k->by_pair);
  free(k->lengths);
  memset(k, 0, sizeof *k);
}

/* Takes `count` items of `size` bytes from what is left of the file; NULL when there are fewer. */
static inline const void *take(const struct tokenizer *k, size_t *at, uint64_t count, size_t size) {
  if (count > (k->size - *at) / size) return NULL;
  const void *from = k->file + *at;
  *at += (size_t)count * size;
  return from;
}

static inline int hex_digit(uint8_t c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Checks the parts of a file that was read; NULL, or what is wrong. */
static const char *tokenizer_check(struct tokenizer *k) {
  size_t at = 0;
  const uint8_t *magic = (const uint8_t *)take(k, &at, 8, 1);
  const uint32_t *head = (const uint32_t *)take(k, &at, 6, 4);
  if (!magic || !head || memcmp(magic, "gemmactk", 8)) return "is no tokenizer of gemmac";
  k->flags = head[0];
  k->token_count = head[1];
  k->merge_count = head[2];
  k->prefix_count = head[3];
  k->stop_count = head[4];
  const uint32_t text_bytes = head[5];
  if (k->token_count == 0 || k->token_count > 1u << 24 || k->merge_count > 1u << 24) return "has impossible sizes";
  k->prefix = (const int32_t *)take(k, &at, k->prefix_count, 4);
  k->stops = (const int32_t *)take(k, &at, k->stop_count, 4);
  k->starts = (const uint32_t *)take(k, &at, (uint64_t)k->token_count + 1, 4);
  k->merges = (const struct merge *)take(k, &at, k->merge_count, sizeof *k->merges);
  k->kinds = (const uint8_t *)take(k, &at, k->token_count, 1);
  k->text = (const uint8_t *)take(k, &at, text_bytes, 1);
  if (!k->prefix || !k->stops || !k->starts || !k->merges || !k->kinds || !k->text || at != k->size)
    return "is cut short or too long";
  if (k->starts[0] != 0 || k->starts[k->token_count] != text_bytes) return "has tokens outside its text";
  for (uint32_t i = 0; i < k->token_count; i++)
    if (k->starts[i] > k->starts[i + 1]) return "has tokens outside its text";
  for (uint32_t i = 0; i < k->merge_count; i++)
    if (k->merges[i].left >= k->token_count || k->merges[i].right >= k->token_count ||
        k->merges[i].merged >= k->token_count)
      return "has merges of tokens that there are not";
  for (uint32_t i = 0; i < k->prefix_count; i++)
    if (k->prefix[i] < 0 || (uint32_t)k->prefix[i] >= k->token_count) return "begins texts with a token that is not there";
  return NULL;
}

/* Fills the tables for look-ups; 0, or -1 when memory is short. */
static int tokenizer_index(struct tokenizer *k) {
  k->text_mask = k->pair_mask = 15;
  while (k->text_mask < k->token_count * 2) k->text_mask = k->text_mask * 2 + 1;
  while (k->pair_mask < k->merge_count * 2) k->pair_mask = k->pair_mask * 2 + 1;
  k->by_text = (uint32_t *)calloc((size_t)k->text_mask + 1, sizeof *k->by_text);
  k->by_pair = (uint32_t *)calloc((size_t)k->pair_mask + 1, sizeof *k->by_pair);
  k->lengths = (uint32_t *)calloc(k->token_count, sizeof *k->lengths);
  if (!k->by_text || !k->by_pair || !k->lengths) return -1;
  for (int i = 0; i < 256; i++) k->bytes[i] = -1;
  for (uint32_t id = 0; id < k->token_count; id++) {
    const uint8_t *text = k->text + k->starts[id];
    const uint32_t count = k->starts[id + 1] - k->starts[id];
    if (count == 0 || k->kinds[id] & TOKEN_MISSING) continue;
    if (find_token(k, text, count) < 0) {
      uint32_t slot = hash_bytes(text, count);
      while (k->by_text[slot & k->text_mask]) slot++;
      k->by_text[slot & k->text_mask] = id + 1;
    }
    if (k->flags & TOKENS_OF_BYTES && count == 1) k->bytes[*text] = (int32_t)id;
    if (k->kinds[id] & TOKEN_BYTE && count == 6 && hex_digit(text[3]) >= 0 && hex_digit(text[4]) >= 0)
      k->bytes[hex_digit(text[3]) * 16 + hex_digit(text[4])] = (int32_t)id;
    if (k->kinds[id] & TOKEN_ADDED) {
      k->added_start[*text] = 1;
      uint32_t n = 0;
      while (n < k->length_count && k->lengths[n] > count) n++;
      if (n < k->length_count && k->lengths[n] == count) continue;
      memmove(k->lengths + n + 1, k->lengths + n, (k->length_count - n) * sizeof *k->lengths);
      k->lengths[n] = count;
      k->length_count++;
    }
  }
  for (uint32_t rank = 0; rank < k->merge_count; rank++) {
    const struct merge m = k->merges[rank];
    if (find_merge(k, (int32_t)m.left, (int32_t)m.right) != UINT32_MAX) continue;
    uint32_t slot = hash_pair(m.left, m.right);
    while (k->by_pair[slot & k->pair_mask]) slot++;
    k->by_pair[slot & k->pair_mask] = rank + 1;
  }
  return 0;
}

/* Gives 0, or -1 with the reason in `why`. */
static int tokenizer_open(struct tokenizer *k, const char *path, char *why, size_t room) {
  memset(k, 0, sizeof *k);
  FILE *in = fopen(path, "rb");
  long size = -1;
  if (in && !fseek(in, 0, SEEK_END)) size = ftell(in);
  if (size < 0 || size > 1L << 30 || fseek(in, 0, SEEK_SET)) {
    snprintf(why, room, "%s: %s", path, in ? "is no file that can be read" : strerror(errno));
    if (in) fclose(in);
    return -1;
  }
  k->size = (size_t)size;
  k->file = (uint8_t *)malloc(k->size + 1);
  const int whole = k->file && fread(k->file, 1, k->size, in) == k->size;
  fclose(in);
  const char *wrong = !whole ? "cannot be read" : tokenizer_check(k);
  if (!wrong && tokenizer_index(k)) wrong = "needs more memory than there is";
  if (!wrong) return 0;
  snprintf(why, room, "%s: %s; compile the model again", path, wrong);
  tokenizer_close(k);
  return -1;
}

/* A heap of merges to do: lowest rank first, then leftmost. */
struct candidate_merge {
  uint32_t rank, at;
};
static inline int sooner(struct candidate_merge a, struct candidate_merge b) {
  return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}
static inline void heap_push(struct candidate_merge *heap, size_t *count, struct candidate_merge c) {
  size_t at = (*count)++;
  for (; at > 0 && sooner(c, heap[(at - 1) / 2]); at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
  heap[at] = c;
}
static inline struct candidate_merge heap_pop(struct candidate_merge *heap, size_t *count) {
  const struct candidate_merge top = heap[0], last = heap[--*count];
  size_t at = 0;
  for (size_t child; (child = 2 * at + 1) < *count; at = child) {
    if (child + 1 < *count && sooner(heap[child + 1], heap[child])) child++;
    if (!sooner(heap[child], last)) break;
    heap[at] = heap[child];
  }
  heap[at] = last;
  return top;
}

/* Merges ids in place and gives how many are left. Room: three numbers and three candidates for each. */
static size_t merge_ids(const struct tokenizer *k, int32_t *ids, size_t count, uint32_t *next, uint32_t *previous,
                        struct candidate_merge *heap) {
  size_t waiting = 0;
  for (size_t i = 0; i < count; i++) {
    next[i] = (uint32_t)i + 1;
    previous[i] = (uint32_t)i - 1;
    const uint32_t rank = i + 1 < count ? find_merge(k, ids[i], ids[i + 1]) : UINT32_MAX;
    if (rank != UINT32_MAX) heap_push(heap, &waiting, (struct candidate_merge){rank, (uint32_t)i});
  }
  while (waiting) {
    const struct candidate_merge c = heap_pop(heap, &waiting);
    const uint32_t gone = next[c.at];
    /* Stale: one of the two was merged away since. */
    if (ids[c.at] == -2 || gone >= count || find_merge(k, ids[c.at], ids[gone]) != c.rank) continue;
    ids[c.at] = (int32_t)k->merges[c.rank].merged;
    ids[gone] = -2;
    next[c.at] = next[gone];
    if (next[gone] < count) previous[next[gone]] = c.at;
    const uint32_t before = previous[c.at], after = next[c.at];
    if (before < count) {
      const uint32_t rank = find_merge(k, ids[before], ids[c.at]);
      if (rank != UINT32_MAX) heap_push(heap, &waiting, (struct candidate_merge){rank, before});
    }
    if (after < count) {
      const uint32_t rank = find_merge(k, ids[c.at], ids[after]);
      if (rank != UINT32_MAX) heap_push(heap, &waiting, (struct candidate_merge){rank, c.at});
    }
  }
  size_t kept = 0;
  for (size_t i = 0; i < count; i = next[i]) ids[kept++] = ids[i];
  return kept;
}

/* Bytes of the character at the start of `text`; 1 for what is no UTF-8. */
static size_t character(const uint8_t *text, size_t count, uint32_t *code) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  const uint8_t c = text[0];
  const size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
  *code = n == 1 ? c : n ? c & (0xffu >> (n + 1)) : 0xfffd;
  if (n == 0 || n > count) return *code = n == 1 ? c : 0xfffd, 1;
  for (size_t i = 1; i < n; i++) {
    if ((text[i] & 0xc0) != 0x80) return *code = 0xfffd, 1;
    *code = *code << 6 | (text[i] & 0x3f);
  }
  if (*code < least[n] || *code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000)) return *code = 0xfffd, 1;
  return n;
}

static inline int is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 32 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000 || c == 0xfeff;
}
static inline int is_letter(uint32_t c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

/* Length of the first piece: " ?[A-Za-z']+|\n| ?[^A-Za-z\s]+|\s". */
static size_t first_word(const uint8_t *text, size_t count) {
  uint32_t c;
  size_t at = text[0] == ' ' && count > 1 ? 1 : 0, n = character(text + at, count - at, &c);
  if (is_letter(c) || c == '\'') {
    while (at < count && (is_letter(text[at]) || text[at] == '\'')) at++;
    return at;
  }
  if (is_space(c)) return character(text, count, &c);
  for (; at < count; at += n) {
    n = character(text + at, count - at, &c);
    if (is_letter(c) || is_space(c)) break;
  }
  return at;
}

/* Where an added token starts in `text`, or its end; gives the token, or -1. */
static size_t find_added(const struct tokenizer *k, const uint8_t *text, size_t count, int32_t *id) {
  for (size_t at = 0; at < count; at++) {
    if (!k->added_start[text[at]]) continue;
    for (uint32_t n = 0; n < k->length_count; n++) {
      if (k->lengths[n] > count - at) continue;
      *id = find_token(k, text + at, k->lengths[n]);
      if (*id >= 0 && k->kinds[*id] & TOKEN_ADDED) return at;
    }
  }
  *id = -1;
  return count;
}

/* The ids of a text, to be freed; with `special`, those that begin every text come first. NULL: out of memory. */
static int32_t *tokenizer_encode(const struct tokenizer *k, const char *given, size_t count, int special, size_t *made) {
  static const uint8_t mark[] = {0xe2, 0x96, 0x81};
  const size_t most = count * (k->flags & TOKENS_MARK_SPACES ? 3 : 1) + 1;
  const uint8_t *text = (const uint8_t *)given;
  int32_t *ids = (int32_t *)malloc((k->prefix_count + most) * sizeof *ids);
  uint32_t *links = (uint32_t *)malloc(2 * most * sizeof *links);
  struct candidate_merge *heap = (struct candidate_merge *)malloc(3 * most * sizeof *heap);
  *made = 0;
  if (ids && links && heap) {
    for (uint32_t i = 0; special && i < k->prefix_count; i++) ids[(*made)++] = k->prefix[i];
    for (size_t at = 0; at < count;) {
      int32_t added;
      size_t plain = find_added(k, text + at, count - at, &added);
      const size_t end = at + plain;
      while (at < end) {
        const size_t stop = k->flags & TOKENS_SPLIT_WORDS ? at + first_word(text + at, end - at) : end;
        int32_t *piece = ids + *made;
        size_t n = 0;
        while (at < stop) {
          uint32_t code;
          const size_t width = k->flags & TOKENS_OF_BYTES ? 1 : character(text + at, stop - at, &code);
          const int space = k->flags & TOKENS_MARK_SPACES && text[at] == ' ';
          const int32_t id = k->flags & TOKENS_OF_BYTES ? k->bytes[text[at]]
                             : space                    ? find_token(k, mark, sizeof mark)
                                                        : find_token(k, text + at, width);
          if (id >= 0) piece[n++] = id;
          else
            for (size_t b = 0; b < width; b++)
              if (k->bytes[text[at + b]] >= 0) piece[n++] = k->bytes[text[at + b]];
          at += width;
        }
        *made += merge_ids(k, piece, n, links, links + most, heap);
      }
      if (added >= 0) {
        ids[(*made)++] = added;
        at += k->starts[added + 1] - k->starts[added];
      }
    }
  } else {
    free(ids);
    ids = NULL;
  }
  free(links);
  free(heap);
  return ids;
}

/* Bytes that are no text yet: the start of a character, or a run of byte tokens. */
struct text_stream {
  uint8_t held[4096];
  size_t count;
};

static const char replacement[] = "\xef\xbf\xbd";

/* Writes what is held: a run of bytes that is no UTF-8 becomes one replacement character a byte. */
static void text_end(const struct tokenizer *k, struct text_stream *s, FILE *out) {
  int valid = 1;
  uint32_t code;
  for (size_t at = 0; at < s->count;) {
    const size_t n = character(s->held + at, s->count - at, &code);
    if (n == 1 && s->held[at] >= 0x80) valid = 0;
    at += n;
  }
  if (valid) fwrite(s->held, 1, s->count, out);
  else if (k->flags & TOKENS_OF_BYTES) fputs(replacement, out);
  else
    for (size_t i = 0; i < s->count; i++) fputs(replacement, out);
  s->count = 0;
}

/* How many bytes of a character that may still become whole stand at the start of `text`; 0 when it cannot. */
static size_t unfinished(const uint8_t *text, size_t count) {
  const uint8_t c = text[0];
  const size_t n = c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
  size_t at = 1;
  for (; at < count && at < n; at++) {
    const uint8_t low = at > 1 ? 0x80 : c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    const uint8_t high = at > 1 ? 0xbf : c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (text[at] < low || text[at] > high) break;
  }
  return n == 0 ? 1 : at;
}

/* Writes the text that this id settles. Ids that the vocabulary lacks, and special ones, give nothing. */
static void text_push_kind(const struct tokenizer *k, struct text_stream *s, int32_t id, int skip_special, FILE *out) {
  if (id < 0 || (uint32_t)id >= k->token_count || k->kinds[id] & TOKEN_MISSING) return;
  if (skip_special && k->kinds[id] & TOKEN_SPECIAL) return;
  const uint8_t *text = k->text + k->starts[id];
  const size_t count = k->starts[id + 1] - k->starts[id];
  if (k->flags & TOKENS_OF_BYTES) {
    for (size_t i = 0; i < count; i++) {
      s->held[s->count++] = text[i];
      uint32_t code;
      for (;;) {
        if (s->count == 0) break;
        const size_t n = character(s->held, s->count, &code), reach = unfinished(s->held, s->count);
        if (code != 0xfffd || n > 1) {
          fwrite(s->held, 1, n, out);
          memmove(s->held, s->held + n, s->count -= n);
        } else if (s->held[0] >= 0xc2 && s->held[0] < 0xf5 && reach == s->count && s->count < 4) break;
        else {
          fputs(replacement, out);
          memmove(s->held, s->held + reach, s->count -= reach);
        }
      }
    }
    return;
  }
  if (k->kinds[id] & TOKEN_BYTE && count == 6) {
    if (s->count == sizeof s->held) text_end(k, s, out);
    s->held[s->count++] = (uint8_t)(hex_digit(text[3]) * 16 + hex_digit(text[4]));
    return;
  }
  text_end(k, s, out);
  for (size_t i = 0; i < count; i++) {
    const int mark = k->flags & TOKENS_MARK_SPACES && count - i >= 3 && !memcmp(text + i, "\xe2\x96\x81", 3);
    fputc(mark ? ' ' : text[i], out);
    i += mark ? 2 : 0;
  }
}
static inline void text_push(const struct tokenizer *k, struct text_stream *s, int32_t id, FILE *out) {
  text_push_kind(k, s, id, 1, out);
}
#endif

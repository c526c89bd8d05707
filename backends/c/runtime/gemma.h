@cpu
/* A Gemma model, ready to run on the CPU. One model takes one text at a time; use one from one thread at a time. */
@gpu
/* A Gemma model, ready to run on a GPU. One model takes one text at a time; use one from one thread at a time. */
@end
#ifndef GEMMA_H
#define GEMMA_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct gemma gemma;

typedef struct gemma_options {
@cpu
  int threads;    /* 0: as many as there are processors, at most 64 */
  int pin;        /* not 0: keep each thread but the caller's on a processor of its own, where the system can */
@gpu
  int device;     /* which GPU; 0: the first */
@end
  int capacity;   /* tokens that a text may have; 0: all that the model was made for */
  int skip_check; /* not 0: do not read all weights once to compare their checksums */
} gemma_options;

typedef struct gemma_sampling {
  float temperature; /* 0: always the likeliest token */
  int top_k;         /* 0: no limit */
  float top_p;       /* 0 or 1: no limit */
} gemma_sampling;

@cpu
/* Maps the weights and starts the threads; options may be NULL. NULL on failure: see gemma_error(NULL). */
@gpu
/* Copies the weights to the GPU; options may be NULL. NULL on failure: see gemma_error(NULL). */
@end
gemma *gemma_create(const char *weights, const gemma_options *options);
void gemma_free(gemma *g);
/* Why the last call failed, on one line. With NULL: why the last gemma_create of this thread did. */
const char *gemma_error(const gemma *g);

/* Feeds tokens after those fed before. Functions that give an int give 0, or -1 on failure. */
int gemma_prefill(gemma *g, const int32_t *ids, size_t count);
int gemma_decode(gemma *g, int32_t id);
/* Feeds tokens and writes the scores after each: scores[count][vocab]. */
int gemma_score(gemma *g, const int32_t *ids, size_t count, float *scores);
/* The scores for the next token, gemma_vocab() of them; NULL before anything was fed. Valid until the next call. */
const float *gemma_logits(const gemma *g);
/* Draws the next token from those scores. The same seed gives the same text. -1 before anything was fed. */
int32_t gemma_sample(gemma *g, gemma_sampling how);
void gemma_seed(gemma *g, uint32_t seed);
/* Forgets everything fed. */
void gemma_reset(gemma *g);

int gemma_vocab(void);
int gemma_context(void);
int gemma_fed(const gemma *g);
int gemma_capacity(const gemma *g);
/* Bytes of weights that one step of one token reads. */
double gemma_bytes_per_token(void);
@cpu
/* What the code was built for, such as "AVX2". */
const char *gemma_instruction_set(void);
@gpu
/* What it runs on, such as "NVIDIA H100", and the cut of the kernels that decode. */
const char *gemma_device(const gemma *g);
/*
 * Times each cut of the decoding kernels inside the graph of a step, after checking that it gives the scores of the first,
 * and keeps the fastest. `file` remembers it by the name of the GPU, for later gemma_create; lines go to `report`.
 */
int gemma_tune(gemma *g, const char *file, void (*report)(const char *line));
@end

#ifdef GEMMA_TRACE
/* Calls `see` with every named value as it is computed: rows × columns floats of the tokens just fed. */
typedef void gemma_see(void *user, const char *name, const float *values, long rows, long columns);
void gemma_trace(gemma *g, gemma_see *see, void *user);
#endif

#ifdef __cplusplus
}
#endif
#endif

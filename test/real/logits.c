// llama.cpp as a filter, for real.mjs: reads texts from stdin, writes raw logits to stdout.
//   logits run MODEL.gguf THREADS   stdin: i32 count, count × i32 token ids, … ; stdout: for each text count × vocab f32
//   logits f32 IN.gguf OUT.gguf     llama.cpp's own quantizer makes every tensor f32
// A text is one fresh sequence. The cache is f32 and attention plain, so that only the file's own formats round.
#include <llama.h>
#include <stdlib.h>

#define ROWS 64  // tokens a step: their scores are held at once

static void fail(const char *what) {
  fprintf(stderr, "logits: %s\n", what);
  exit(1);
}

static void quiet(enum ggml_log_level level, const char *text, void *data) {
  (void)data;
  if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static int to_f32(const char *in, const char *out) {
  struct llama_model_quantize_params params = llama_model_quantize_default_params();
  params.ftype = LLAMA_FTYPE_ALL_F32;
  params.allow_requantize = true;
  return llama_model_quantize(in, out, &params) ? 1 : 0;
}

static int run(const char *path, int threads) {
  struct llama_context_params params = llama_context_default_params();
  if (params.n_ctx != 512 || params.type_k != GGML_TYPE_F16 || params.n_samplers != 0)
    fail("these headers are not the library's");
  params.n_ctx = 4096;
  params.n_batch = params.n_ubatch = ROWS;
  params.n_threads = params.n_threads_batch = threads;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  struct llama_model *model = llama_model_load_from_file(path, llama_model_default_params());
  if (!model) fail("cannot load the model");
  struct llama_context *context = llama_init_from_model(model, params);
  if (!context) fail("cannot make a context");
  const size_t vocab = (size_t)llama_vocab_n_tokens(llama_model_get_vocab(model));
  fprintf(stderr, "vocab %zu\n", vocab);

  struct llama_batch batch = llama_batch_init(ROWS, 0, 1);
  int32_t count;
  while (fread(&count, sizeof count, 1, stdin) == 1) {
    if (count < 1 || count > 4096) fail("a text has 1 to 4096 tokens");
    llama_memory_clear(llama_get_memory(context), true);
    for (int32_t at = 0; at < count; at += batch.n_tokens) {
      batch.n_tokens = count - at < ROWS ? count - at : ROWS;
      if (fread(batch.token, sizeof(int32_t), (size_t)batch.n_tokens, stdin) != (size_t)batch.n_tokens) fail("cut off");
      for (int32_t i = 0; i < batch.n_tokens; i++) {
        batch.pos[i] = at + i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
      }
      if (llama_decode(context, batch)) fail("decode failed");
      const size_t size = vocab * (size_t)batch.n_tokens;
      if (fwrite(llama_get_logits(context), sizeof(float), size, stdout) != size) return 0;
      fflush(stdout);
    }
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 4) fail("usage: logits run MODEL THREADS | logits f32 IN OUT");
  llama_log_set(quiet, NULL);
  ggml_backend_load_all_from_path(LIBRARIES);
  llama_backend_init();
  return argv[1][0] == 'r' ? run(argv[2], atoi(argv[3])) : to_f32(argv[2], argv[3]);
}

/* What programs that gemmac writes ask of cuBLASLt, on the processor; see cuda_runtime.h. */
#pragma once
#include "cuda_runtime.h"

enum cublasStatus_t { CUBLAS_STATUS_SUCCESS = 0, CUBLAS_STATUS_NOT_SUPPORTED = 15 };
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68 };
enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_16BF = 14 };
enum cublasLtMatmulDescAttributes_t { CUBLASLT_MATMUL_DESC_TRANSA = 3 };
enum cublasLtMatmulPreferenceAttributes_t { CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1 };
typedef int *cublasLtHandle_t;
struct cublasLtMatmulDescOpaque_t {
  bool transposed;
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  size_t rows, columns, pitch;
};
struct cublasLtMatmulPreferenceOpaque_t {};
struct cublasLtMatmulAlgo_t {};
struct cublasLtMatmulHeuristicResult_t {
  cublasLtMatmulAlgo_t algo;
};

static inline const char *cublasLtGetStatusString(cublasStatus_t) { return "it is not supported"; }
static inline cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) { return *h = nullptr, CUBLAS_STATUS_SUCCESS; }
static inline cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
static inline cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDescOpaque_t *how, cublasComputeType_t, cudaDataType_t) {
  return how->transposed = false, CUBLAS_STATUS_SUCCESS;
}
static inline cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDescOpaque_t *how, cublasLtMatmulDescAttributes_t,
                                                            const void *value, size_t) {
  return how->transposed = *(const cublasOperation_t *)value == CUBLAS_OP_T, CUBLAS_STATUS_SUCCESS;
}
static inline cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayoutOpaque_t *of, cudaDataType_t type, uint64_t rows,
                                                      uint64_t columns, int64_t pitch) {
  return *of = {type, rows, columns, (size_t)pitch}, CUBLAS_STATUS_SUCCESS;
}
static inline cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreferenceOpaque_t *) {
  return CUBLAS_STATUS_SUCCESS;
}
static inline cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreferenceOpaque_t *,
                                                                  cublasLtMatmulPreferenceAttributes_t, const void *, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
static inline cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t, const cublasLtMatmulDescOpaque_t *, const cublasLtMatrixLayoutOpaque_t *,
    const cublasLtMatrixLayoutOpaque_t *, const cublasLtMatrixLayoutOpaque_t *, const cublasLtMatrixLayoutOpaque_t *,
    const cublasLtMatmulPreferenceOpaque_t *, int, cublasLtMatmulHeuristicResult_t *, int *found) {
  return *found = 1, CUBLAS_STATUS_SUCCESS;
}
/* Columns lie one after the other; all other cases than A transposed, bf16 by bf16 to f32, are refused. */
static inline cublasStatus_t cublasLtMatmul(cublasLtHandle_t, const cublasLtMatmulDescOpaque_t *how, const float *alpha,
                                            const void *a, const cublasLtMatrixLayoutOpaque_t *of_a, const void *b,
                                            const cublasLtMatrixLayoutOpaque_t *of_b, const float *beta, const void *c,
                                            const cublasLtMatrixLayoutOpaque_t *of_c, void *d,
                                            const cublasLtMatrixLayoutOpaque_t *of_d, const cublasLtMatmulAlgo_t *, void *,
                                            size_t, cudaStream_t) {
  const cublasLtMatrixLayoutOpaque_t A = *of_a, B = *of_b, C = *of_c, D = *of_d;
  const float each = *alpha, kept = *beta;
  const bool fits = A.rows == B.rows && D.rows == A.columns && D.columns == B.columns && C.rows == D.rows && C.columns == D.columns;
  if (!how->transposed || !fits || A.type != CUDA_R_16BF || B.type != CUDA_R_16BF || C.type != CUDA_R_32F || D.type != CUDA_R_32F)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  cuda_do([=] {
    const auto wide = [](const void *at, size_t i) { return __uint_as_float((unsigned)((const uint16_t *)at)[i] << 16); };
    for (size_t j = 0; j < D.columns; j++)
      for (size_t i = 0; i < D.rows; i++) {
        float sum = 0;
        for (size_t k = 0; k < A.rows; k++) sum += wide(a, i * A.pitch + k) * wide(b, j * B.pitch + k);
        ((float *)d)[j * D.pitch + i] = each * sum + (kept == 0 ? 0 : kept * ((const float *)c)[j * C.pitch + i]);
      }
  });
  return CUBLAS_STATUS_SUCCESS;
}

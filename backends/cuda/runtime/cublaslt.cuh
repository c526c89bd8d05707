/*
 * Products of many tokens by matrices of bf16 through cuBLASLt, where this is built with -DGEMMAC_CUBLASLT. It takes the
 * same operands as the kernels that it stands for: the matrix in bf16, x as the sum of one or two bf16, sums in f32.
 */
#pragma once
#include <cublasLt.h>

#include "device.cuh"

/* y = [residual +] x·Wᵀ, or gelu(x·Aᵀ) · (x·Bᵀ) with A above B in one matrix. Sizes are in numbers. */
struct product {
  const void *kernel; /* that it stands for */
  int rows, columns, pitch; /* of the matrix; from one of its rows to the next */
  int x_pitch, parts;       /* from one row of x to the next; how many bf16 each of its numbers is the sum of */
  bool gated;
};

struct cublaslt {
  cublasLtHandle_t handle;
  cublasStatus_t status;
  /* Device memory: products before they are gated, what cuBLASLt works with. */
  uint8_t *sums, *workspace;
};
enum { CUBLASLT_WORKSPACE = 32 << 20 };

/* y = gelu(gate) · up for each token, where `sums` holds `rows` of gate and then `rows` of up. */
static __global__ void gate_gelu(const float *sums, float *y, unsigned rows) {
  const unsigned row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const float *own = sums + 2 * (size_t)rows * blockIdx.y + row;
  const float x = own[0];
  const float gelu = x * 0.5f * (tanhf((x + x * x * x * 0.044715f) * 0.7978845608028654f) + 1.0f);
  y[(size_t)rows * blockIdx.y + row] = gelu * own[rows];
}

/* y = x·Wᵀ + scale · before, for x [tokens, columns] in bf16, y and before [tokens, rows]: row by row, so Yᵀ = W·Xᵀ. */
static cublasStatus_t multiply(cublaslt *c, cudaStream_t stream, const product *p, const uint8_t *weight, const uint8_t *x,
                               const uint8_t *before, float scale, uint8_t *y, unsigned tokens) {
  const float one = 1;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  const size_t room = CUBLASLT_WORKSPACE;
  cublasLtMatmulDescOpaque_t how;
  cublasLtMatrixLayoutOpaque_t w, xs, ys;
  cublasLtMatmulPreferenceOpaque_t preference;
  cublasLtMatmulHeuristicResult_t best;
  int found = 0;
  cublasStatus_t status = cublasLtMatmulDescInit(&how, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  if (!status) status = cublasLtMatmulDescSetAttribute(&how, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
  if (!status) status = cublasLtMatrixLayoutInit(&w, CUDA_R_16BF, p->columns, p->rows, p->pitch);
  if (!status) status = cublasLtMatrixLayoutInit(&xs, CUDA_R_16BF, p->columns, tokens, p->x_pitch);
  if (!status) status = cublasLtMatrixLayoutInit(&ys, CUDA_R_32F, p->rows, tokens, p->rows);
  if (!status) status = cublasLtMatmulPreferenceInit(&preference);
  if (!status)
    status = cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room);
  if (!status) status = cublasLtMatmulAlgoGetHeuristic(c->handle, &how, &w, &xs, &ys, &ys, &preference, 1, &best, &found);
  if (!status && !found) status = CUBLAS_STATUS_NOT_SUPPORTED;
  if (status) return status;
  return cublasLtMatmul(c->handle, &how, &one, weight, &w, x, &xs, &scale, before, &ys, y, &ys, &best.algo, c->workspace,
                        room, stream);
}

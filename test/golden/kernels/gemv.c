// y = residual + W·x, x divided by its root mean square and scaled; 64 columns of i8b32
static void gemv_i8b32_64_to_37_norm0_000001_add(Group group, uint32_t groups_x, const f32x4 *restrict x, const f32x4 *restrict norm, const u32x4 *restrict weight, const float *restrict scales, const float *restrict residual, float *restrict y) {
  (void)group, (void)groups_x;
  f32x4 sum0[64];
  f32x4 sum1[64];
  f32x4 sum2[64];
  f32x4 sum3[64];
  f32x4 squares[64];
  float product0[64];
  float product1[64];
  float product2[64];
  float product3[64];
  float square[64];
  uint32_t first_row[64];
  for (uint32_t thread = 0; thread < 64u; thread++) {
    first_row[thread] = (group.x * 16u + thread / 4u) * 4u;
    const uint32_t row0 = min_u32(first_row[thread], 36u);
    const uint32_t row1 = min_u32(first_row[thread] + 1u, 36u);
    const uint32_t row2 = min_u32(first_row[thread] + 2u, 36u);
    const uint32_t row3 = min_u32(first_row[thread] + 3u, 36u);
    const uint32_t lane = thread % 4u;
    sum0[thread] = (f32x4){0.0f, 0.0f, 0.0f, 0.0f};
    sum1[thread] = (f32x4){0.0f, 0.0f, 0.0f, 0.0f};
    sum2[thread] = (f32x4){0.0f, 0.0f, 0.0f, 0.0f};
    sum3[thread] = (f32x4){0.0f, 0.0f, 0.0f, 0.0f};
    squares[thread] = (f32x4){0.0f, 0.0f, 0.0f, 0.0f};
    u32x4 codes0 = weight[row0 * 4u + lane];
    u32x4 codes1 = weight[row1 * 4u + lane];
    u32x4 codes2 = weight[row2 * 4u + lane];
    u32x4 codes3 = weight[row3 * 4u + lane];
    for (uint32_t piece = lane; piece < 4u; piece += 4u) {
      const f32x4 x0 = x[piece * 4u];
      squares[thread] = squares[thread] + x0 * x0;
      const f32x4 scaled0 = x0 * norm[piece * 4u];
      const f32x4 x1 = x[piece * 4u + 1u];
      squares[thread] = squares[thread] + x1 * x1;
      const f32x4 scaled1 = x1 * norm[piece * 4u + 1u];
      const f32x4 x2 = x[piece * 4u + 2u];
      squares[thread] = squares[thread] + x2 * x2;
      const f32x4 scaled2 = x2 * norm[piece * 4u + 2u];
      const f32x4 x3 = x[piece * 4u + 3u];
      squares[thread] = squares[thread] + x3 * x3;
      const f32x4 scaled3 = x3 * norm[piece * 4u + 3u];
      sum0[thread] = sum0[thread] + (unpack_i8(codes0[0]) * scaled0 + unpack_i8(codes0[1]) * scaled1 + unpack_i8(codes0[2]) * scaled2 + unpack_i8(codes0[3]) * scaled3) * scales[row0 * 2u + piece / 2u];
      sum1[thread] = sum1[thread] + (unpack_i8(codes1[0]) * scaled0 + unpack_i8(codes1[1]) * scaled1 + unpack_i8(codes1[2]) * scaled2 + unpack_i8(codes1[3]) * scaled3) * scales[row1 * 2u + piece / 2u];
      sum2[thread] = sum2[thread] + (unpack_i8(codes2[0]) * scaled0 + unpack_i8(codes2[1]) * scaled1 + unpack_i8(codes2[2]) * scaled2 + unpack_i8(codes2[3]) * scaled3) * scales[row2 * 2u + piece / 2u];
      sum3[thread] = sum3[thread] + (unpack_i8(codes3[0]) * scaled0 + unpack_i8(codes3[1]) * scaled1 + unpack_i8(codes3[2]) * scaled2 + unpack_i8(codes3[3]) * scaled3) * scales[row3 * 2u + piece / 2u];
      codes0 = weight[row0 * 4u + min_u32(piece + 4u, 3u)];
      codes1 = weight[row1 * 4u + min_u32(piece + 4u, 3u)];
      codes2 = weight[row2 * 4u + min_u32(piece + 4u, 3u)];
      codes3 = weight[row3 * 4u + min_u32(piece + 4u, 3u)];
    }
  }
  for (uint32_t thread = 0; thread < 64u; thread++) {
    product0[thread] = sum0[thread][0] + sum0[thread][1] + (sum0[thread][2] + sum0[thread][3]);
    product1[thread] = sum1[thread][0] + sum1[thread][1] + (sum1[thread][2] + sum1[thread][3]);
    product2[thread] = sum2[thread][0] + sum2[thread][1] + (sum2[thread][2] + sum2[thread][3]);
    product3[thread] = sum3[thread][0] + sum3[thread][1] + (sum3[thread][2] + sum3[thread][3]);
    square[thread] = squares[thread][0] + squares[thread][1] + (squares[thread][2] + squares[thread][3]);
  }
  sum_f32(product0, 64u, 4u);
  sum_f32(product1, 64u, 4u);
  sum_f32(product2, 64u, 4u);
  sum_f32(product3, 64u, 4u);
  sum_f32(square, 64u, 4u);
  for (uint32_t thread = 0; thread < 64u; thread++) {
    const float inverse_root = rsqrt_f32(square[thread] / 64.0f + 0.000001f);
    const float value0 = product0[thread] * inverse_root;
    const float value1 = product1[thread] * inverse_root;
    const float value2 = product2[thread] * inverse_root;
    const float value3 = product3[thread] * inverse_root;
    if (thread % 4u == 0u) {
      if (first_row[thread] < 37u) {
        y[first_row[thread]] = residual[first_row[thread]] + value0;
      }
      if (first_row[thread] + 1u < 37u) {
        y[first_row[thread] + 1u] = residual[first_row[thread] + 1u] + value1;
      }
      if (first_row[thread] + 2u < 37u) {
        y[first_row[thread] + 2u] = residual[first_row[thread] + 2u] + value2;
      }
      if (first_row[thread] + 3u < 37u) {
        y[first_row[thread] + 3u] = residual[first_row[thread] + 3u] + value3;
      }
    }
  }
}

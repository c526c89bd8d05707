// y = residual + W·x, x divided by its root mean square and scaled; 64 columns of i8b32
__global__ void __launch_bounds__(64)
gemv_i8b32_64_to_37_norm0_000001_add(const float4 *__restrict__ x, const float4 *__restrict__ norm, const uint4 *__restrict__ weight, const float *__restrict__ scales, const float *__restrict__ residual, float *__restrict__ y) {
  const unsigned first_row = (blockIdx.x * 16u + threadIdx.x / 4u) * 4u;
  const unsigned row0 = min(first_row, 36u);
  const unsigned row1 = min(first_row + 1u, 36u);
  const unsigned row2 = min(first_row + 2u, 36u);
  const unsigned row3 = min(first_row + 3u, 36u);
  const unsigned lane = threadIdx.x % 4u;
  float4 sum0 = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float4 sum1 = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float4 sum2 = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float4 sum3 = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float4 squares = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  uint4 codes0 = stream(weight + row0 * 4u + lane);
  uint4 codes1 = stream(weight + row1 * 4u + lane);
  uint4 codes2 = stream(weight + row2 * 4u + lane);
  uint4 codes3 = stream(weight + row3 * 4u + lane);
  await_inputs();
  for (unsigned piece = lane; piece < 4u; piece += 4u) {
    const float4 x0 = x[piece * 4u];
    squares = squares + x0 * x0;
    const float4 scaled0 = x0 * norm[piece * 4u];
    const float4 x1 = x[piece * 4u + 1u];
    squares = squares + x1 * x1;
    const float4 scaled1 = x1 * norm[piece * 4u + 1u];
    const float4 x2 = x[piece * 4u + 2u];
    squares = squares + x2 * x2;
    const float4 scaled2 = x2 * norm[piece * 4u + 2u];
    const float4 x3 = x[piece * 4u + 3u];
    squares = squares + x3 * x3;
    const float4 scaled3 = x3 * norm[piece * 4u + 3u];
    sum0 = sum0 + (unpack_i8(codes0.x) * scaled0 + unpack_i8(codes0.y) * scaled1 + unpack_i8(codes0.z) * scaled2 + unpack_i8(codes0.w) * scaled3) * scales[row0 * 2u + piece / 2u];
    sum1 = sum1 + (unpack_i8(codes1.x) * scaled0 + unpack_i8(codes1.y) * scaled1 + unpack_i8(codes1.z) * scaled2 + unpack_i8(codes1.w) * scaled3) * scales[row1 * 2u + piece / 2u];
    sum2 = sum2 + (unpack_i8(codes2.x) * scaled0 + unpack_i8(codes2.y) * scaled1 + unpack_i8(codes2.z) * scaled2 + unpack_i8(codes2.w) * scaled3) * scales[row2 * 2u + piece / 2u];
    sum3 = sum3 + (unpack_i8(codes3.x) * scaled0 + unpack_i8(codes3.y) * scaled1 + unpack_i8(codes3.z) * scaled2 + unpack_i8(codes3.w) * scaled3) * scales[row3 * 2u + piece / 2u];
    codes0 = stream(weight + row0 * 4u + min(piece + 4u, 3u));
    codes1 = stream(weight + row1 * 4u + min(piece + 4u, 3u));
    codes2 = stream(weight + row2 * 4u + min(piece + 4u, 3u));
    codes3 = stream(weight + row3 * 4u + min(piece + 4u, 3u));
  }
  float product0_product1_product2_product3_square_all[] = {sum0.x + sum0.y + (sum0.z + sum0.w), sum1.x + sum1.y + (sum1.z + sum1.w), sum2.x + sum2.y + (sum2.z + sum2.w), sum3.x + sum3.y + (sum3.z + sum3.w), squares.x + squares.y + (squares.z + squares.w)};
  reduce<Sum, 4, 64>(product0_product1_product2_product3_square_all);
  const float product0 = product0_product1_product2_product3_square_all[0];
  const float product1 = product0_product1_product2_product3_square_all[1];
  const float product2 = product0_product1_product2_product3_square_all[2];
  const float product3 = product0_product1_product2_product3_square_all[3];
  const float square = product0_product1_product2_product3_square_all[4];
  const float inverse_root = rsqrtf(square / 64.0f + 0.000001f);
  const float value0 = product0 * inverse_root;
  const float value1 = product1 * inverse_root;
  const float value2 = product2 * inverse_root;
  const float value3 = product3 * inverse_root;
  if (threadIdx.x % 4u == 0u) {
    if (first_row < 37u) {
      y[first_row] = residual[first_row] + value0;
    }
    if (first_row + 1u < 37u) {
      y[first_row + 1u] = residual[first_row + 1u] + value1;
    }
    if (first_row + 2u < 37u) {
      y[first_row + 2u] = residual[first_row + 2u] + value2;
    }
    if (first_row + 3u < 37u) {
      y[first_row + 3u] = residual[first_row + 3u] + value3;
    }
  }
}

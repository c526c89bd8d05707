// y = residual + W·x, x divided by its root mean square and scaled; 64 columns of i8b32

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> norm: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> weight: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

fn unpack_i8(codes: u32) -> vec4<f32> {
  return vec4<f32>(vec4<i32>(vec4<u32>(codes) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
}

var<workgroup> sum_of_4x4_scratch: array<vec4<f32>, 64>;
fn sum_of_4x4(thread: u32, value: vec4<f32>) -> vec4<f32> {
  sum_of_4x4_scratch[thread] = value;
  workgroupBarrier();
  for (var step = 2u; step > 0u; step >>= 1u) {
    if ((thread & 3u) < step) { sum_of_4x4_scratch[thread] = sum_of_4x4_scratch[thread] + sum_of_4x4_scratch[thread + step]; }
    workgroupBarrier();
  }
  let all = sum_of_4x4_scratch[thread - (thread & 3u)];
  workgroupBarrier();
  return all;
}

var<workgroup> sum_of_4_scratch: array<f32, 64>;
fn sum_of_4(thread: u32, value: f32) -> f32 {
  sum_of_4_scratch[thread] = value;
  workgroupBarrier();
  for (var step = 2u; step > 0u; step >>= 1u) {
    if ((thread & 3u) < step) { sum_of_4_scratch[thread] = sum_of_4_scratch[thread] + sum_of_4_scratch[thread + step]; }
    workgroupBarrier();
  }
  let all = sum_of_4_scratch[thread - (thread & 3u)];
  workgroupBarrier();
  return all;
}


@compute @workgroup_size(64)
fn gemv_i8b32_64_to_37_norm0_000001_add(
  @builtin(local_invocation_index) thread: u32,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>
) {
  let first_row = (group.x * 16u + thread / 4u) * 4u;
  let row0 = min(first_row, 36u);
  let row1 = min(first_row + 1u, 36u);
  let row2 = min(first_row + 2u, 36u);
  let row3 = min(first_row + 3u, 36u);
  let lane = thread % 4u;
  var sum0: vec4<f32> = vec4<f32>(0.0);
  var sum1: vec4<f32> = vec4<f32>(0.0);
  var sum2: vec4<f32> = vec4<f32>(0.0);
  var sum3: vec4<f32> = vec4<f32>(0.0);
  var squares: vec4<f32> = vec4<f32>(0.0);
  var codes0: vec4<u32> = weight[row0 * 4u + lane];
  var codes1: vec4<u32> = weight[row1 * 4u + lane];
  var codes2: vec4<u32> = weight[row2 * 4u + lane];
  var codes3: vec4<u32> = weight[row3 * 4u + lane];
  for (var piece = lane; piece < 4u; piece += 4u) {
    let x0 = x[piece * 4u];
    squares = squares + x0 * x0;
    let scaled0 = x0 * norm[piece * 4u];
    let x1 = x[piece * 4u + 1u];
    squares = squares + x1 * x1;
    let scaled1 = x1 * norm[piece * 4u + 1u];
    let x2 = x[piece * 4u + 2u];
    squares = squares + x2 * x2;
    let scaled2 = x2 * norm[piece * 4u + 2u];
    let x3 = x[piece * 4u + 3u];
    squares = squares + x3 * x3;
    let scaled3 = x3 * norm[piece * 4u + 3u];
    sum0 = sum0 + (unpack_i8(codes0.x) * scaled0 + unpack_i8(codes0.y) * scaled1 + unpack_i8(codes0.z) * scaled2 + unpack_i8(codes0.w) * scaled3) * scales[row0 * 2u + piece / 2u];
    sum1 = sum1 + (unpack_i8(codes1.x) * scaled0 + unpack_i8(codes1.y) * scaled1 + unpack_i8(codes1.z) * scaled2 + unpack_i8(codes1.w) * scaled3) * scales[row1 * 2u + piece / 2u];
    sum2 = sum2 + (unpack_i8(codes2.x) * scaled0 + unpack_i8(codes2.y) * scaled1 + unpack_i8(codes2.z) * scaled2 + unpack_i8(codes2.w) * scaled3) * scales[row2 * 2u + piece / 2u];
    sum3 = sum3 + (unpack_i8(codes3.x) * scaled0 + unpack_i8(codes3.y) * scaled1 + unpack_i8(codes3.z) * scaled2 + unpack_i8(codes3.w) * scaled3) * scales[row3 * 2u + piece / 2u];
    codes0 = weight[row0 * 4u + min(piece + 4u, 3u)];
    codes1 = weight[row1 * 4u + min(piece + 4u, 3u)];
    codes2 = weight[row2 * 4u + min(piece + 4u, 3u)];
    codes3 = weight[row3 * 4u + min(piece + 4u, 3u)];
  }
  let product0_product1_product2_product3 = sum_of_4x4(thread, vec4<f32>(sum0.x + sum0.y + (sum0.z + sum0.w), sum1.x + sum1.y + (sum1.z + sum1.w), sum2.x + sum2.y + (sum2.z + sum2.w), sum3.x + sum3.y + (sum3.z + sum3.w)));
  let product0 = product0_product1_product2_product3.x;
  let product1 = product0_product1_product2_product3.y;
  let product2 = product0_product1_product2_product3.z;
  let product3 = product0_product1_product2_product3.w;
  let square = sum_of_4(thread, squares.x + squares.y + (squares.z + squares.w));
  let inverse_root = inverseSqrt(square / 64.0 + 0.000001);
  let value0 = product0 * inverse_root;
  let value1 = product1 * inverse_root;
  let value2 = product2 * inverse_root;
  let value3 = product3 * inverse_root;
  if (thread % 4u == 0u) {
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

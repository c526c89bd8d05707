module @decode attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 1 : i32} {
  func.func public @main(
      %model.embed_tokens.weight: tensor<64x16xbf16>,
      %model.layers.n.input_layernorm.weight.cast.add: tensor<3x16xf32>,
      %model.layers.n.mlp.down_proj.weight: tensor<3x16x32xbf16>,
      %model.layers.n.mlp.gate_proj.weight: tensor<3x32x16xbf16>,
      %model.layers.n.mlp.up_proj.weight: tensor<3x32x16xbf16>,
      %model.layers.n.post_attention_layernorm.weight.cast.add: tensor<3x16xf32>,
      %model.layers.n.self_attn.k_proj.weight: tensor<3x8x16xbf16>,
      %model.layers.n.self_attn.o_proj.weight: tensor<3x16x32xbf16>,
      %model.layers.n.self_attn.q_proj.weight: tensor<3x32x16xbf16>,
      %model.layers.n.self_attn.v_proj.weight: tensor<3x8x16xbf16>,
      %model.norm.weight.cast.add: tensor<16xf32>,
      %past_key_values.n.key: tensor<3x1x1x32x8xf32> {tf.aliasing_output = 1 : i32},
      %past_key_values.n.value: tensor<3x1x1x32x8xf32> {tf.aliasing_output = 2 : i32},
      %tokens: tensor<1x1xi32>,
      %start: tensor<i32>
  ) -> (tensor<1x1x64xf32> {jax.result_info = "logits"}, tensor<3x1x1x32x8xf32> {jax.result_info = "present.n.key"}, tensor<3x1x1x32x8xf32> {jax.result_info = "present.n.value"}) {
    %0 = stablehlo.broadcast_in_dim %start, dims = [] : (tensor<i32>) -> tensor<1x1xi32>
    %1 = stablehlo.iota dim = 1 : tensor<1x1xi32>
    %2 = stablehlo.add %0, %1 : tensor<1x1xi32>
    %3 = stablehlo.iota dim = 1 : tensor<1x32xi32>
    %4 = "stablehlo.gather"(%model.embed_tokens.weight, %tokens) <{dimension_numbers = #stablehlo.gather<offset_dims = [2], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 2>, indices_are_sorted = false, slice_sizes = array<i64: 1, 16>}> : (tensor<64x16xbf16>, tensor<1x1xi32>) -> tensor<1x1x16xbf16>
    %5 = stablehlo.convert %4 : (tensor<1x1x16xbf16>) -> tensor<1x1x16xf32>
    %6 = stablehlo.constant dense<4.0> : tensor<1x1x16xf32>
    %model.embed_tokens = stablehlo.multiply %5, %6 : tensor<1x1x16xf32>
    %7 = stablehlo.constant dense<0> : tensor<i32>
    %8 = stablehlo.constant dense<1> : tensor<i32>
    %9 = stablehlo.constant dense<3> : tensor<i32>
    %layers:4 = stablehlo.while(%layer = %7, %before = %model.embed_tokens, %past_key_values.n.key_1 = %past_key_values.n.key, %past_key_values.n.value_1 = %past_key_values.n.value) : tensor<i32>, tensor<1x1x16xf32>, tensor<3x1x1x32x8xf32>, tensor<3x1x1x32x8xf32>
    cond {
      %more = stablehlo.compare LT, %layer, %9, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %more : tensor<i1>
    } do {
      %10 = stablehlo.dynamic_slice %model.layers.n.input_layernorm.weight.cast.add, %layer, %7, sizes = [1, 16] : (tensor<3x16xf32>, tensor<i32>, tensor<i32>) -> tensor<1x16xf32>
      %11 = stablehlo.reshape %10 : (tensor<1x16xf32>) -> tensor<16xf32>
      %12 = stablehlo.dynamic_slice %model.layers.n.self_attn.q_proj.weight, %layer, %7, %7, sizes = [1, 32, 16] : (tensor<3x32x16xbf16>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x32x16xbf16>
      %13 = stablehlo.reshape %12 : (tensor<1x32x16xbf16>) -> tensor<32x16xbf16>
      %14 = stablehlo.dynamic_slice %model.layers.n.self_attn.k_proj.weight, %layer, %7, %7, sizes = [1, 8, 16] : (tensor<3x8x16xbf16>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x8x16xbf16>
      %15 = stablehlo.reshape %14 : (tensor<1x8x16xbf16>) -> tensor<8x16xbf16>
      %16 = stablehlo.dynamic_slice %model.layers.n.self_attn.v_proj.weight, %layer, %7, %7, sizes = [1, 8, 16] : (tensor<3x8x16xbf16>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x8x16xbf16>
      %17 = stablehlo.reshape %16 : (tensor<1x8x16xbf16>) -> tensor<8x16xbf16>
      %18 = stablehlo.dynamic_slice %model.layers.n.self_attn.o_proj.weight, %layer, %7, %7, sizes = [1, 16, 32] : (tensor<3x16x32xbf16>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x16x32xbf16>
      %19 = stablehlo.reshape %18 : (tensor<1x16x32xbf16>) -> tensor<16x32xbf16>
      %20 = stablehlo.dynamic_slice %model.layers.n.post_attention_layernorm.weight.cast.add, %layer, %7, sizes = [1, 16] : (tensor<3x16xf32>, tensor<i32>, tensor<i32>) -> tensor<1x16xf32>
      %21 = stablehlo.reshape %20 : (tensor<1x16xf32>) -> tensor<16xf32>
      %22 = stablehlo.dynamic_slice %model.layers.n.mlp.gate_proj.weight, %layer, %7, %7, sizes = [1, 32, 16] : (tensor<3x32x16xbf16>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x32x16xbf16>
      %23 = stablehlo.reshape %22 : (tensor<1x32x16xbf16>) -> tensor<32x16xbf16>
      %24 = stablehlo.dynamic_slice %model.layers.n.mlp.up_proj.weight, %layer, %7, %7, sizes = [1, 32, 16] : (tensor<3x32x16xbf16>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x32x16xbf16>
      %25 = stablehlo.reshape %24 : (tensor<1x32x16xbf16>) -> tensor<32x16xbf16>
      %26 = stablehlo.dynamic_slice %model.layers.n.mlp.down_proj.weight, %layer, %7, %7, sizes = [1, 16, 32] : (tensor<3x16x32xbf16>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x16x32xbf16>
      %27 = stablehlo.reshape %26 : (tensor<1x16x32xbf16>) -> tensor<16x32xbf16>
      %model.layers.n.input_layernorm = stablehlo.composite "gemmac.rms_norm" %before, %11 {composite_attributes = {eps = 0.000001 : f64}, decomposition = @gemmac.rms_norm} : (tensor<1x1x16xf32>, tensor<16xf32>) -> tensor<1x1x16xf32>
      %28 = stablehlo.convert %13 : (tensor<32x16xbf16>) -> tensor<32x16xf32>
      %model.layers.n.self_attn.q_proj = stablehlo.dot_general %model.layers.n.input_layernorm, %28, contracting_dims = [2] x [1], precision = [HIGHEST, HIGHEST] : (tensor<1x1x16xf32>, tensor<32x16xf32>) -> tensor<1x1x32xf32>
      %29 = stablehlo.reshape %model.layers.n.self_attn.q_proj : (tensor<1x1x32xf32>) -> tensor<1x1x4x8xf32>
      %30 = stablehlo.transpose %29, dims = [0, 2, 1, 3] : (tensor<1x1x4x8xf32>) -> tensor<1x4x1x8xf32>
      %model.layers.n.self_attn.q_rope = stablehlo.composite "gemmac.rope" %30, %2 {composite_attributes = {theta = 10000.0 : f64, factor = 1.0 : f64}, decomposition = @gemmac.rope} : (tensor<1x4x1x8xf32>, tensor<1x1xi32>) -> tensor<1x4x1x8xf32>
      %31 = stablehlo.convert %15 : (tensor<8x16xbf16>) -> tensor<8x16xf32>
      %model.layers.n.self_attn.k_proj = stablehlo.dot_general %model.layers.n.input_layernorm, %31, contracting_dims = [2] x [1], precision = [HIGHEST, HIGHEST] : (tensor<1x1x16xf32>, tensor<8x16xf32>) -> tensor<1x1x8xf32>
      %32 = stablehlo.reshape %model.layers.n.self_attn.k_proj : (tensor<1x1x8xf32>) -> tensor<1x1x1x8xf32>
      %33 = stablehlo.transpose %32, dims = [0, 2, 1, 3] : (tensor<1x1x1x8xf32>) -> tensor<1x1x1x8xf32>
      %model.layers.n.self_attn.k_rope = stablehlo.composite "gemmac.rope" %33, %2 {composite_attributes = {theta = 10000.0 : f64, factor = 1.0 : f64}, decomposition = @gemmac.rope_1} : (tensor<1x1x1x8xf32>, tensor<1x1xi32>) -> tensor<1x1x1x8xf32>
      %34 = stablehlo.reshape %model.layers.n.self_attn.k_rope : (tensor<1x1x1x8xf32>) -> tensor<1x1x1x1x8xf32>
      %35 = stablehlo.dynamic_update_slice %past_key_values.n.key_1, %34, %layer, %7, %7, %start, %7 : (tensor<3x1x1x32x8xf32>, tensor<1x1x1x1x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<3x1x1x32x8xf32>
      %36 = stablehlo.dynamic_slice %35, %layer, %7, %7, %7, %7, sizes = [1, 1, 1, 32, 8] : (tensor<3x1x1x32x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x1x1x32x8xf32>
      %37 = stablehlo.reshape %36 : (tensor<1x1x1x32x8xf32>) -> tensor<1x1x32x8xf32>
      %38 = stablehlo.convert %17 : (tensor<8x16xbf16>) -> tensor<8x16xf32>
      %model.layers.n.self_attn.v_proj = stablehlo.dot_general %model.layers.n.input_layernorm, %38, contracting_dims = [2] x [1], precision = [HIGHEST, HIGHEST] : (tensor<1x1x16xf32>, tensor<8x16xf32>) -> tensor<1x1x8xf32>
      %39 = stablehlo.reshape %model.layers.n.self_attn.v_proj : (tensor<1x1x8xf32>) -> tensor<1x1x1x8xf32>
      %40 = stablehlo.transpose %39, dims = [0, 2, 1, 3] : (tensor<1x1x1x8xf32>) -> tensor<1x1x1x8xf32>
      %41 = stablehlo.reshape %40 : (tensor<1x1x1x8xf32>) -> tensor<1x1x1x1x8xf32>
      %42 = stablehlo.dynamic_update_slice %past_key_values.n.value_1, %41, %layer, %7, %7, %start, %7 : (tensor<3x1x1x32x8xf32>, tensor<1x1x1x1x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<3x1x1x32x8xf32>
      %43 = stablehlo.dynamic_slice %42, %layer, %7, %7, %7, %7, sizes = [1, 1, 1, 32, 8] : (tensor<3x1x1x32x8xf32>, tensor<i32>, tensor<i32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x1x1x32x8xf32>
      %44 = stablehlo.reshape %43 : (tensor<1x1x1x32x8xf32>) -> tensor<1x1x32x8xf32>
      %45 = stablehlo.composite "gemmac.attention" %model.layers.n.self_attn.q_rope, %37, %44, %2, %3 {composite_attributes = {scale = 0.35355339059327373 : f64, causal = true, window = 0 : i64, softcap = 0.0 : f64}, decomposition = @gemmac.attention} : (tensor<1x4x1x8xf32>, tensor<1x1x32x8xf32>, tensor<1x1x32x8xf32>, tensor<1x1xi32>, tensor<1x32xi32>) -> tensor<1x4x1x8xf32>
      %46 = stablehlo.transpose %45, dims = [0, 2, 1, 3] : (tensor<1x4x1x8xf32>) -> tensor<1x1x4x8xf32>
      %model.layers.n.self_attn.attention = stablehlo.reshape %46 : (tensor<1x1x4x8xf32>) -> tensor<1x1x32xf32>
      %47 = stablehlo.convert %19 : (tensor<16x32xbf16>) -> tensor<16x32xf32>
      %model.layers.n.self_attn.o_proj = stablehlo.dot_general %model.layers.n.self_attn.attention, %47, contracting_dims = [2] x [1], precision = [HIGHEST, HIGHEST] : (tensor<1x1x32xf32>, tensor<16x32xf32>) -> tensor<1x1x16xf32>
      %model.layers.n.self_attn = stablehlo.add %before, %model.layers.n.self_attn.o_proj : tensor<1x1x16xf32>
      %model.layers.n.post_attention_layernorm = stablehlo.composite "gemmac.rms_norm" %model.layers.n.self_attn, %21 {composite_attributes = {eps = 0.000001 : f64}, decomposition = @gemmac.rms_norm} : (tensor<1x1x16xf32>, tensor<16xf32>) -> tensor<1x1x16xf32>
      %48 = stablehlo.convert %23 : (tensor<32x16xbf16>) -> tensor<32x16xf32>
      %model.layers.n.mlp.gate_proj = stablehlo.dot_general %model.layers.n.post_attention_layernorm, %48, contracting_dims = [2] x [1], precision = [HIGHEST, HIGHEST] : (tensor<1x1x16xf32>, tensor<32x16xf32>) -> tensor<1x1x32xf32>
      %49 = stablehlo.convert %25 : (tensor<32x16xbf16>) -> tensor<32x16xf32>
      %model.layers.n.mlp.up_proj = stablehlo.dot_general %model.layers.n.post_attention_layernorm, %49, contracting_dims = [2] x [1], precision = [HIGHEST, HIGHEST] : (tensor<1x1x16xf32>, tensor<32x16xf32>) -> tensor<1x1x32xf32>
      %model.layers.n.mlp.geglu = stablehlo.composite "gemmac.geglu" %model.layers.n.mlp.gate_proj, %model.layers.n.mlp.up_proj {decomposition = @gemmac.geglu} : (tensor<1x1x32xf32>, tensor<1x1x32xf32>) -> tensor<1x1x32xf32>
      %50 = stablehlo.convert %27 : (tensor<16x32xbf16>) -> tensor<16x32xf32>
      %model.layers.n.mlp.down_proj = stablehlo.dot_general %model.layers.n.mlp.geglu, %50, contracting_dims = [2] x [1], precision = [HIGHEST, HIGHEST] : (tensor<1x1x32xf32>, tensor<16x32xf32>) -> tensor<1x1x16xf32>
      %model.layers.n = stablehlo.add %model.layers.n.self_attn, %model.layers.n.mlp.down_proj : tensor<1x1x16xf32>
      %51 = stablehlo.add %layer, %8 : tensor<i32>
      stablehlo.return %51, %model.layers.n, %35, %42 : tensor<i32>, tensor<1x1x16xf32>, tensor<3x1x1x32x8xf32>, tensor<3x1x1x32x8xf32>
    }
    %model.norm = stablehlo.composite "gemmac.rms_norm" %layers#1, %model.norm.weight.cast.add {composite_attributes = {eps = 0.000001 : f64}, decomposition = @gemmac.rms_norm} : (tensor<1x1x16xf32>, tensor<16xf32>) -> tensor<1x1x16xf32>
    %52 = stablehlo.convert %model.embed_tokens.weight : (tensor<64x16xbf16>) -> tensor<64x16xf32>
    %lm_head = stablehlo.dot_general %model.norm, %52, contracting_dims = [2] x [1], precision = [HIGHEST, HIGHEST] : (tensor<1x1x16xf32>, tensor<64x16xf32>) -> tensor<1x1x64xf32>
    return %lm_head, %layers#2, %layers#3 : tensor<1x1x64xf32>, tensor<3x1x1x32x8xf32>, tensor<3x1x1x32x8xf32>
  }
  func.func private @gemmac.rms_norm(%x: tensor<1x1x16xf32>, %scale: tensor<16xf32>) -> tensor<1x1x16xf32> {
    %0 = stablehlo.multiply %x, %x : tensor<1x1x16xf32>
    %1 = stablehlo.constant dense<0.0> : tensor<f32>
    %2 = stablehlo.reduce(%0 init: %1) applies stablehlo.add across dimensions = [2] : (tensor<1x1x16xf32>, tensor<f32>) -> tensor<1x1xf32>
    %3 = stablehlo.constant dense<16.0> : tensor<1x1xf32>
    %4 = stablehlo.divide %2, %3 : tensor<1x1xf32>
    %5 = stablehlo.reshape %4 : (tensor<1x1xf32>) -> tensor<1x1x1xf32>
    %6 = stablehlo.constant dense<9.999999974752427e-7> : tensor<1x1x1xf32>
    %7 = stablehlo.add %5, %6 : tensor<1x1x1xf32>
    %8 = stablehlo.rsqrt %7 : tensor<1x1x1xf32>
    %9 = stablehlo.broadcast_in_dim %8, dims = [0, 1, 2] : (tensor<1x1x1xf32>) -> tensor<1x1x16xf32>
    %10 = stablehlo.multiply %x, %9 : tensor<1x1x16xf32>
    %11 = stablehlo.broadcast_in_dim %scale, dims = [2] : (tensor<16xf32>) -> tensor<1x1x16xf32>
    %12 = stablehlo.multiply %10, %11 : tensor<1x1x16xf32>
    return %12 : tensor<1x1x16xf32>
  }
  func.func private @gemmac.rope(%x: tensor<1x4x1x8xf32>, %positions: tensor<1x1xi32>) -> tensor<1x4x1x8xf32> {
    %0 = stablehlo.slice %x [0:1, 0:4, 0:1, 0:4] : (tensor<1x4x1x8xf32>) -> tensor<1x4x1x4xf32>
    %1 = stablehlo.reshape %positions : (tensor<1x1xi32>) -> tensor<1x1x1x1xi32>
    %2 = stablehlo.convert %1 : (tensor<1x1x1x1xi32>) -> tensor<1x1x1x1xf32>
    %3 = stablehlo.iota dim = 0 : tensor<4xf32>
    %4 = stablehlo.constant dense<4.0> : tensor<4xf32>
    %5 = stablehlo.divide %3, %4 : tensor<4xf32>
    %6 = stablehlo.constant dense<10000.0> : tensor<4xf32>
    %7 = stablehlo.power %6, %5 : tensor<4xf32>
    %8 = stablehlo.constant dense<1.0> : tensor<4xf32>
    %9 = stablehlo.divide %8, %7 : tensor<4xf32>
    %10 = stablehlo.broadcast_in_dim %2, dims = [0, 1, 2, 3] : (tensor<1x1x1x1xf32>) -> tensor<1x1x1x4xf32>
    %11 = stablehlo.broadcast_in_dim %9, dims = [3] : (tensor<4xf32>) -> tensor<1x1x1x4xf32>
    %12 = stablehlo.multiply %10, %11 : tensor<1x1x1x4xf32>
    %13 = stablehlo.cosine %12 : tensor<1x1x1x4xf32>
    %14 = stablehlo.broadcast_in_dim %13, dims = [0, 1, 2, 3] : (tensor<1x1x1x4xf32>) -> tensor<1x4x1x4xf32>
    %15 = stablehlo.multiply %0, %14 : tensor<1x4x1x4xf32>
    %16 = stablehlo.slice %x [0:1, 0:4, 0:1, 4:8] : (tensor<1x4x1x8xf32>) -> tensor<1x4x1x4xf32>
    %17 = stablehlo.sine %12 : tensor<1x1x1x4xf32>
    %18 = stablehlo.broadcast_in_dim %17, dims = [0, 1, 2, 3] : (tensor<1x1x1x4xf32>) -> tensor<1x4x1x4xf32>
    %19 = stablehlo.multiply %16, %18 : tensor<1x4x1x4xf32>
    %20 = stablehlo.subtract %15, %19 : tensor<1x4x1x4xf32>
    %21 = stablehlo.broadcast_in_dim %13, dims = [0, 1, 2, 3] : (tensor<1x1x1x4xf32>) -> tensor<1x4x1x4xf32>
    %22 = stablehlo.multiply %16, %21 : tensor<1x4x1x4xf32>
    %23 = stablehlo.broadcast_in_dim %17, dims = [0, 1, 2, 3] : (tensor<1x1x1x4xf32>) -> tensor<1x4x1x4xf32>
    %24 = stablehlo.multiply %0, %23 : tensor<1x4x1x4xf32>
    %25 = stablehlo.add %22, %24 : tensor<1x4x1x4xf32>
    %26 = stablehlo.concatenate %20, %25, dim = 3 : (tensor<1x4x1x4xf32>, tensor<1x4x1x4xf32>) -> tensor<1x4x1x8xf32>
    return %26 : tensor<1x4x1x8xf32>
  }
  func.func private @gemmac.rope_1(%x: tensor<1x1x1x8xf32>, %positions: tensor<1x1xi32>) -> tensor<1x1x1x8xf32> {
    %0 = stablehlo.slice %x [0:1, 0:1, 0:1, 0:4] : (tensor<1x1x1x8xf32>) -> tensor<1x1x1x4xf32>
    %1 = stablehlo.reshape %positions : (tensor<1x1xi32>) -> tensor<1x1x1x1xi32>
    %2 = stablehlo.convert %1 : (tensor<1x1x1x1xi32>) -> tensor<1x1x1x1xf32>
    %3 = stablehlo.iota dim = 0 : tensor<4xf32>
    %4 = stablehlo.constant dense<4.0> : tensor<4xf32>
    %5 = stablehlo.divide %3, %4 : tensor<4xf32>
    %6 = stablehlo.constant dense<10000.0> : tensor<4xf32>
    %7 = stablehlo.power %6, %5 : tensor<4xf32>
    %8 = stablehlo.constant dense<1.0> : tensor<4xf32>
    %9 = stablehlo.divide %8, %7 : tensor<4xf32>
    %10 = stablehlo.broadcast_in_dim %2, dims = [0, 1, 2, 3] : (tensor<1x1x1x1xf32>) -> tensor<1x1x1x4xf32>
    %11 = stablehlo.broadcast_in_dim %9, dims = [3] : (tensor<4xf32>) -> tensor<1x1x1x4xf32>
    %12 = stablehlo.multiply %10, %11 : tensor<1x1x1x4xf32>
    %13 = stablehlo.cosine %12 : tensor<1x1x1x4xf32>
    %14 = stablehlo.multiply %0, %13 : tensor<1x1x1x4xf32>
    %15 = stablehlo.slice %x [0:1, 0:1, 0:1, 4:8] : (tensor<1x1x1x8xf32>) -> tensor<1x1x1x4xf32>
    %16 = stablehlo.sine %12 : tensor<1x1x1x4xf32>
    %17 = stablehlo.multiply %15, %16 : tensor<1x1x1x4xf32>
    %18 = stablehlo.subtract %14, %17 : tensor<1x1x1x4xf32>
    %19 = stablehlo.multiply %15, %13 : tensor<1x1x1x4xf32>
    %20 = stablehlo.multiply %0, %16 : tensor<1x1x1x4xf32>
    %21 = stablehlo.add %19, %20 : tensor<1x1x1x4xf32>
    %22 = stablehlo.concatenate %18, %21, dim = 3 : (tensor<1x1x1x4xf32>, tensor<1x1x1x4xf32>) -> tensor<1x1x1x8xf32>
    return %22 : tensor<1x1x1x8xf32>
  }
  func.func private @gemmac.softmax(%x: tensor<1x1x4x1x32xf32>) -> tensor<1x1x4x1x32xf32> {
    %0 = stablehlo.constant dense<0xFF800000> : tensor<f32>
    %1 = stablehlo.reduce(%x init: %0) applies stablehlo.maximum across dimensions = [4] : (tensor<1x1x4x1x32xf32>, tensor<f32>) -> tensor<1x1x4x1xf32>
    %2 = stablehlo.reshape %1 : (tensor<1x1x4x1xf32>) -> tensor<1x1x4x1x1xf32>
    %3 = stablehlo.broadcast_in_dim %2, dims = [0, 1, 2, 3, 4] : (tensor<1x1x4x1x1xf32>) -> tensor<1x1x4x1x32xf32>
    %4 = stablehlo.subtract %x, %3 : tensor<1x1x4x1x32xf32>
    %5 = stablehlo.exponential %4 : tensor<1x1x4x1x32xf32>
    %6 = stablehlo.constant dense<0.0> : tensor<f32>
    %7 = stablehlo.reduce(%5 init: %6) applies stablehlo.add across dimensions = [4] : (tensor<1x1x4x1x32xf32>, tensor<f32>) -> tensor<1x1x4x1xf32>
    %8 = stablehlo.reshape %7 : (tensor<1x1x4x1xf32>) -> tensor<1x1x4x1x1xf32>
    %9 = stablehlo.broadcast_in_dim %8, dims = [0, 1, 2, 3, 4] : (tensor<1x1x4x1x1xf32>) -> tensor<1x1x4x1x32xf32>
    %10 = stablehlo.divide %5, %9 : tensor<1x1x4x1x32xf32>
    return %10 : tensor<1x1x4x1x32xf32>
  }
  func.func private @gemmac.attention(%q: tensor<1x4x1x8xf32>, %k: tensor<1x1x32x8xf32>, %v: tensor<1x1x32x8xf32>, %qpos: tensor<1x1xi32>, %kpos: tensor<1x32xi32>) -> tensor<1x4x1x8xf32> {
    %0 = stablehlo.reshape %kpos : (tensor<1x32xi32>) -> tensor<1x1x1x1x32xi32>
    %1 = stablehlo.reshape %qpos : (tensor<1x1xi32>) -> tensor<1x1x1x1x1xi32>
    %2 = stablehlo.broadcast_in_dim %1, dims = [0, 1, 2, 3, 4] : (tensor<1x1x1x1x1xi32>) -> tensor<1x1x1x1x32xi32>
    %3 = stablehlo.compare LE, %0, %2, SIGNED : (tensor<1x1x1x1x32xi32>, tensor<1x1x1x1x32xi32>) -> tensor<1x1x1x1x32xi1>
    %4 = stablehlo.reshape %q : (tensor<1x4x1x8xf32>) -> tensor<1x1x4x1x8xf32>
    %5 = stablehlo.reshape %k : (tensor<1x1x32x8xf32>) -> tensor<1x1x1x32x8xf32>
    %6 = stablehlo.transpose %5, dims = [0, 1, 2, 4, 3] : (tensor<1x1x1x32x8xf32>) -> tensor<1x1x1x8x32xf32>
    %7 = stablehlo.reshape %6 : (tensor<1x1x1x8x32xf32>) -> tensor<8x32xf32>
    %8 = stablehlo.dot_general %4, %7, contracting_dims = [4] x [0], precision = [HIGHEST, HIGHEST] : (tensor<1x1x4x1x8xf32>, tensor<8x32xf32>) -> tensor<1x1x4x1x32xf32>
    %9 = stablehlo.constant dense<0.3535533845424652> : tensor<1x1x4x1x32xf32>
    %10 = stablehlo.multiply %8, %9 : tensor<1x1x4x1x32xf32>
    %11 = stablehlo.broadcast_in_dim %3, dims = [0, 1, 2, 3, 4] : (tensor<1x1x1x1x32xi1>) -> tensor<1x1x4x1x32xi1>
    %12 = stablehlo.constant dense<-1.0000000150474662e+30> : tensor<1x1x4x1x32xf32>
    %13 = stablehlo.select %11, %10, %12 : tensor<1x1x4x1x32xi1>, tensor<1x1x4x1x32xf32>
    %14 = stablehlo.composite "gemmac.softmax" %13 {decomposition = @gemmac.softmax} : (tensor<1x1x4x1x32xf32>) -> tensor<1x1x4x1x32xf32>
    %15 = stablehlo.reshape %v : (tensor<1x1x32x8xf32>) -> tensor<1x1x1x32x8xf32>
    %16 = stablehlo.reshape %15 : (tensor<1x1x1x32x8xf32>) -> tensor<32x8xf32>
    %17 = stablehlo.dot_general %14, %16, contracting_dims = [4] x [0], precision = [HIGHEST, HIGHEST] : (tensor<1x1x4x1x32xf32>, tensor<32x8xf32>) -> tensor<1x1x4x1x8xf32>
    %18 = stablehlo.reshape %17 : (tensor<1x1x4x1x8xf32>) -> tensor<1x4x1x8xf32>
    return %18 : tensor<1x4x1x8xf32>
  }
  func.func private @gemmac.gelu(%x: tensor<1x1x32xf32>) -> tensor<1x1x32xf32> {
    %0 = stablehlo.constant dense<0.5> : tensor<1x1x32xf32>
    %1 = stablehlo.multiply %x, %0 : tensor<1x1x32xf32>
    %2 = stablehlo.multiply %x, %x : tensor<1x1x32xf32>
    %3 = stablehlo.multiply %2, %x : tensor<1x1x32xf32>
    %4 = stablehlo.constant dense<0.044714998453855515> : tensor<1x1x32xf32>
    %5 = stablehlo.multiply %3, %4 : tensor<1x1x32xf32>
    %6 = stablehlo.add %x, %5 : tensor<1x1x32xf32>
    %7 = stablehlo.constant dense<0.7978845834732056> : tensor<1x1x32xf32>
    %8 = stablehlo.multiply %6, %7 : tensor<1x1x32xf32>
    %9 = stablehlo.tanh %8 : tensor<1x1x32xf32>
    %10 = stablehlo.constant dense<1.0> : tensor<1x1x32xf32>
    %11 = stablehlo.add %9, %10 : tensor<1x1x32xf32>
    %12 = stablehlo.multiply %1, %11 : tensor<1x1x32xf32>
    return %12 : tensor<1x1x32xf32>
  }
  func.func private @gemmac.geglu(%gate: tensor<1x1x32xf32>, %up: tensor<1x1x32xf32>) -> tensor<1x1x32xf32> {
    %0 = stablehlo.composite "gemmac.gelu" %gate {decomposition = @gemmac.gelu} : (tensor<1x1x32xf32>) -> tensor<1x1x32xf32>
    %1 = stablehlo.multiply %0, %up : tensor<1x1x32xf32>
    return %1 : tensor<1x1x32xf32>
  }
}

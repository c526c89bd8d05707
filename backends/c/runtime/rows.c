/* e^x to about one part in ten million, without a call, so that loops of it become vectors. */
static inline float exp_of(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = ((int32_t)n + 127) * (1 << 23);
  float power;
  memcpy(&power, &bits, sizeof power);
  return p * power;
}
static inline float tanh_of(float x) { return 1.0f - 2.0f / (exp_of(2.0f * x) + 1.0f); }

/* The tanh form of GELU: ½x(1 + tanh u) is x / (1 + e^(-2u)). */
static inline float gelu_of(float x) {
  const float u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
  return x / (1.0f + exp_of(-2.0f * u));
}

static inline float dot(const float *a, const float *b, long n) {
  vf sum = vf_zero();
  const long whole = n - n % LANES;
  for (long i = 0; i < whole; i += LANES) sum = vf_fma(vf_load(a + i), vf_load(b + i), sum);
  float total = vf_sum(sum);
  for (long i = whole; i < n; i++) total += a[i] * b[i];
  return total;
}

/* Each of `rows` rows of n over its root mean square, times scale. */
__attribute__((unused)) static void rms_norm(const struct thread *t, long rows, long n, float eps, const float *x,
                                             const float *scale, float *out) {
  for (long r = share(t, rows); r < share_end(t, rows); r++) {
    const float *from = x + r * n;
    float *to = out + r * n;
    const float inverse = 1.0f / sqrtf(dot(from, from, n) / (float)n + eps);
    for (long i = 0; i < n; i++) to[i] = from[i] * inverse * scale[i];
  }
}

enum table_type { TABLE_F32, TABLE_BF16, TABLE_F16, TABLE_I8, TABLE_I4 };
static inline float number_at(enum table_type type, const void *table, long i) {
  switch (type) {
    case TABLE_BF16: return bf16_to_f32(((const uint16_t *)table)[i]);
    case TABLE_F16: return f16_to_f32(((const uint16_t *)table)[i]);
    case TABLE_I8: return (float)((const int8_t *)table)[i];
    case TABLE_I4: return (float)nibble(table, i);
    default: return ((const float *)table)[i];
  }
}

/* Rows of a table, by index. Where there are blocks, codes stand for (code - zero) · scale. */
__attribute__((unused)) static void take_rows(const struct thread *t, long rows, long n, const int32_t *index,
                                              enum table_type type, const void *table, long block,
                                              enum table_type scale_type, const void *scales, const void *zeros, float *out) {
  for (long r = share(t, rows); r < share_end(t, rows); r++) {
    const long from = (long)index[r] * n;
    float *to = out + r * n;
    for (long i = 0; i < n; i++) {
      to[i] = number_at(type, table, from + i);
      if (!block) continue;
      const long b = (from + i) / block;
      to[i] = (to[i] - (zeros ? number_at(type, zeros, b) : 0)) * number_at(scale_type, scales, b);
    }
  }
}

/* cos and sin of position · theta^(-2i/D) / factor, for each position and i < half; rounded as floats all along. */
__attribute__((unused)) static void rope_angles(const struct thread *t, long rows, long half, float theta, float factor,
                                                const int32_t *positions, float *cosine, float *sine) {
  for (long i = share(t, half); i < share_end(t, half); i++) {
    const float exponent = (float)i / (float)half;
    const float frequency = 1.0f / (float)pow((double)theta, (double)exponent) / factor;
    for (long r = 0; r < rows; r++) {
      const float angle = (float)positions[r] * frequency;
      cosine[r * half + i] = (float)cos((double)angle);
      sine[r * half + i] = (float)sin((double)angle);
    }
  }
}

/* Numbers of heads × rows vectors, `head` and `row` apart. */
struct heads {
  float *x;
  long head, row;
};

/* Turns the two halves of each head by the angles of its row. */
__attribute__((unused)) static void rope(const struct thread *t, long heads, long rows, long half, struct heads from,
                                         const float *cosine, const float *sine, struct heads to) {
  for (long at = share(t, rows * heads); at < share_end(t, rows * heads); at++) {
    const long r = at / heads, h = at % heads;
    const float *a = from.x + h * from.head + r * from.row, *b = a + half;
    const float *c = cosine + r * half, *s = sine + r * half;
    float *x = to.x + h * to.head + r * to.row, *y = x + half;
    for (long i = 0; i < half; i++) {
      const float first = a[i] * c[i] - b[i] * s[i], second = b[i] * c[i] + a[i] * s[i];
      x[i] = first;
      y[i] = second;
    }
  }
}

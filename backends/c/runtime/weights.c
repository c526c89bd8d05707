/* A tensor of model.safetensors: where its bytes lie, and what they add up to. */
struct tensor {
  const char *name;
  uint64_t offset, bytes;
  uint32_t sum;
};

/* Sixteen lanes of multiply and shift over little-endian words, then one over the lanes. */
static uint32_t checksum(const uint8_t *bytes, uint64_t count) {
  uint32_t lane[16];
  for (uint32_t i = 0; i < 16; i++) lane[i] = i + 1;
  uint64_t at = 0;
  for (; at + 64 <= count; at += 64)
    for (int i = 0; i < 16; i++) {
      uint32_t word;
      memcpy(&word, bytes + at + 4 * i, 4);
      word = (lane[i] ^ word) * 0x9e3779b1u;
      lane[i] = word ^ word >> 15;
    }
  uint32_t sum = (uint32_t)count;
  for (int i = 0; i < 16; i++) sum = ((sum ^ lane[i]) * 0x9e3779b1u) ^ sum >> 15;
  for (; at < count; at++) sum = (sum ^ bytes[at]) * 0x9e3779b1u, sum ^= sum >> 15;
  return sum;
}

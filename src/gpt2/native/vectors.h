// As many numbers at a time as a register of this processor holds, in GCC's and Clang's own vectors. Wider ones would
// work too, but what does not fit into registers goes through memory.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int LANES = 8, REGISTERS = 16;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif
constexpr int UNIT = 16;  // sizes on the Python side are multiples of it, whatever the processor
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef float Four __attribute__((vector_size(16)));
typedef float Eight __attribute__((vector_size(32)));
typedef float Sixteen __attribute__((vector_size(64)));

template <class V> inline V read(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline Floats load(const float* p) { return read<Floats>(p); }

inline Floats load(const uint16_t* p) {  // bf16: the upper half of an fp32
  return (Floats)(__builtin_convertvector(read<Halves>(p), Words) << 16);
}

inline void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }

// bf16 in the upper half, to the nearest, ties to even; what is in the lower half is to be forgotten.
inline Words rounded_to_half(Floats v) {
  Words w = (Words)v;
  return w + 0x7fff + ((w >> 16) & 1);
}

inline void store(uint16_t* to, Floats v) {
  Halves h = __builtin_convertvector(rounded_to_half(v) >> 16, Halves);
  std::memcpy(to, &h, sizeof h);
}

inline float load_one(const float* p) { return *p; }
inline float load_one(const uint16_t* p) {
  uint32_t w = (uint32_t)*p << 16;
  return read<float>(&w);
}
inline void store_one(float* to, float x) { *to = x; }
inline void store_one(uint16_t* to, float x) {
  uint32_t w = read<uint32_t>(&x);
  *to = (uint16_t)((w + 0x7fff + ((w >> 16) & 1)) >> 16);
}

// PICK(a, b, i, j, ...): these of the numbers of a and b together.
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // GCC before 12
template <int... I, class V> inline auto picked(V a, V b) {
  typedef float Picked __attribute__((vector_size(4 * sizeof...(I))));
  float both[2 * sizeof(V) / 4];
  std::memcpy(both, &a, sizeof a), std::memcpy(both + sizeof(V) / 4, &b, sizeof b);
  return Picked{both[I]...};
}
#define PICK(a, b, ...) picked<__VA_ARGS__>(a, b)
#endif

// Halves are added, then halves of those, down to four numbers.
inline Four folded(Four v) { return v; }
inline Four folded(Eight v) { return PICK(v, v, 0, 1, 2, 3) + PICK(v, v, 4, 5, 6, 7); }
inline Four folded(Sixteen v) {
  return folded(PICK(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + PICK(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
}

inline float total(Floats v) {
  Four four = folded(v);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// The totals of four vectors, each the same number that `total` gives, for half the work.
inline Four totals(const Floats v[4]) {
  Four a = folded(v[0]), b = folded(v[1]), c = folded(v[2]), d = folded(v[3]);
  Four ab = PICK(a, b, 0, 4, 1, 5) + PICK(a, b, 2, 6, 3, 7), cd = PICK(c, d, 0, 4, 1, 5) + PICK(c, d, 2, 6, 3, 7);
  return PICK(ab, cd, 0, 1, 4, 5) + PICK(ab, cd, 2, 3, 6, 7);
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline float largest(Floats v) {
  float m = v[0];
  for (int i = 1; i < LANES; i++) m = v[i] > m ? v[i] : m;
  return m;
}

// e^x = 2^n e^r with |r| <= ln(2) / 2, e^r by its series; relative error below 2e-7. Below -87 it is 0.
inline Floats exponential(Floats x) {
  Ints vanishes = x < -87.0f;
  x = x < -87.0f ? Floats{} - 87.0f : x;
  x = x > 88.0f ? Floats{} + 88.0f : x;
  Floats magic = Floats{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  Floats n = (x * 1.44269504f + magic) - magic;
  Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = Floats{} + 1.0f / 5040;
  const float series[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (float c : series) p = p * r + c;
  return (Floats)(((Ints)p + (__builtin_convertvector(n, Ints) << 23)) & ~vanishes);
}

}  // namespace

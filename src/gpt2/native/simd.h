// As many numbers at a time as one register of this processor holds, in GCC's and Clang's own vectors.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int WIDTH = 16;
constexpr int TILE_ROWS = 12, TILE_VECTORS = 2;
#elif defined(__AVX__)
constexpr int WIDTH = 8;
constexpr int TILE_ROWS = 6, TILE_VECTORS = 2;  // 12 sums, 2 columns and 1 factor: 15 of 16 registers
#else
constexpr int WIDTH = 4;
constexpr int TILE_ROWS = 6, TILE_VECTORS = 4;  // of the 32 registers of ARM; elsewhere some sums live in memory
#endif
constexpr int TILE_COLUMNS = WIDTH * TILE_VECTORS;

typedef float Wide __attribute__((vector_size(4 * WIDTH)));
typedef int32_t WideInts __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t WideWords __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t WideHalves __attribute__((vector_size(2 * WIDTH)));

inline Wide get(const float* p) {
  Wide v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline Wide get(const uint16_t* p) {  // bf16: the upper half of an fp32
  WideHalves h;
  std::memcpy(&h, p, sizeof h);
  return (Wide)(__builtin_convertvector(h, WideWords) << 16);
}
inline float number(float x) { return x; }
inline float number(uint16_t x) {
  uint32_t w = (uint32_t)x << 16;
  float f;
  std::memcpy(&f, &w, sizeof f);
  return f;
}
inline void assign(float& to, float x) { to = x; }
inline void assign(uint16_t& to, float x) {
  uint32_t w;
  std::memcpy(&w, &x, sizeof w);
  to = (uint16_t)((w + 0x7fff + ((w >> 16) & 1)) >> 16);
}
inline void put(float* p, Wide v) { std::memcpy(p, &v, sizeof v); }
inline void put(uint16_t* p, Wide v) {  // rounded to the nearest, ties to even
  WideWords w = (WideWords)v;
  WideHalves h = __builtin_convertvector((w + 0x7fff + ((w >> 16) & 1)) >> 16, WideHalves);
  std::memcpy(p, &h, sizeof h);
}

inline float sum(Wide v) {
  float s = 0.0f;
  for (int i = 0; i < WIDTH; i++) s += v[i];
  return s;
}
inline Wide larger(Wide a, Wide b) { return a > b ? a : b; }
inline float largest(Wide v) {
  float m = v[0];
  for (int i = 1; i < WIDTH; i++) m = v[i] > m ? v[i] : m;
  return m;
}

// e^x = 2^n e^r with |r| <= ln(2) / 2, e^r by its series; relative error below 2e-7. 0 below -87.
inline Wide exponential(Wide x) {
  WideInts tiny = x < -87.0f;
  x = x < -87.0f ? Wide{} - 87.0f : x;
  x = x > 88.0f ? Wide{} + 88.0f : x;
  Wide magic = Wide{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  Wide n = (x * 1.44269504f + magic) - magic;
  Wide r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Wide p = Wide{} + 1.0f / 5040;
  const float series[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (float c : series) p = p * r + c;
  Wide e = (Wide)((WideInts)p + (__builtin_convertvector(n, WideInts) << 23));
  return (Wide)((WideInts)e & ~tiny);
}

}  // namespace

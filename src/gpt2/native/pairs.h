// What a product of matrices takes at a time: one fp32 number, or, where the processor multiplies them at once
// (AVX512-BF16), two bf16 numbers that follow each other in what is summed over. Sums are in fp32 either way.
#pragma once

#include "vectors.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

struct Pair {
  uint32_t both;  // the first in the lower half
};

template <class Unit> constexpr int PER_UNIT = 1;
template <> constexpr int PER_UNIT<Pair> = 2;

#ifdef __AVX512BF16__
typedef Pair HalfUnit;  // what bf16 is multiplied in

inline Floats multiply_add(Floats sum, Pair a, const Pair* b) {
  return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a.both), (__m512bh)read<Words>(b));
}
#else
typedef float HalfUnit;
#endif

inline Floats multiply_add(Floats sum, float a, const float* b) { return sum + a * load(b); }

// Of numbers that follow each other; and of two rows, number by number. Units of one number are not packed.
inline void pack_along(Floats v, Pair* to) { store((uint16_t*)to, v); }
inline void pack_down(Floats first, Floats second, Pair* to) {
  Words low = rounded_to_half(first) >> 16, high = rounded_to_half(second) & 0xffff0000u, both = low | high;
  std::memcpy(to, &both, sizeof both);
}
inline void pack_along(Floats, float*) {}
inline void pack_down(Floats, Floats, float*) {}

int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Rows (count, dim), `stride` numbers apart, as (count, width) of units along a row; zero up to whole blocks of rows.
template <class T>
void read_along(const T* from, int64_t stride, int64_t count, int64_t dim, int64_t width, int64_t block, float* to) {
  for (int64_t t = 0; t < count; t++)
    for (int64_t i = 0; i < dim; i++) to[t * width + i] = load_one(from + t * stride + i);
  std::memset(to + count * width, 0, (up(count, block) - count) * width * sizeof(float));
}
inline void read_along(const uint16_t* from, int64_t stride, int64_t count, int64_t dim, int64_t width, int64_t block,
                       Pair* to) {
  auto halves = (uint16_t*)to;
  for (int64_t t = 0; t < count; t++) std::memcpy(halves + t * width, from + t * stride, dim * sizeof(uint16_t));
  std::memset(halves + count * width, 0, (up(count, block) - count) * width * sizeof(uint16_t));
}

// The same with units down the columns.
template <class T>
void read_down(const T* from, int64_t stride, int64_t count, int64_t dim, int64_t width, int64_t block, float* to) {
  read_along(from, stride, count, dim, width, block, to);
}
inline void read_down(const uint16_t* from, int64_t stride, int64_t count, int64_t dim, int64_t width, int64_t block,
                      Pair* to) {
  std::memset(to + count / 2 * width, 0, (up(count, block) / 2 - count / 2) * width * sizeof(Pair));
  for (int64_t t = 0; t < count; t += 2)
    for (int64_t i = 0; i < dim; i++) {
      uint32_t second = t + 1 < count ? from[(t + 1) * stride + i] : 0;
      to[t / 2 * width + i].both = from[t * stride + i] | second << 16;
    }
}

// (dim, width): the units of a row under each other, one column for each row.
template <class T>
void read_transposed(const T* from, int64_t stride, int64_t count, int64_t dim, int64_t width, float* to) {
  for (int64_t t = 0; t < count; t++)
    for (int64_t i = 0; i < dim; i++) to[i * width + t] = load_one(from + t * stride + i);
}
inline void read_transposed(const uint16_t* from, int64_t stride, int64_t count, int64_t dim, int64_t width, Pair* to) {
  for (int64_t t = 0; t < count; t++)
    for (int64_t i = 0; i < dim; i += 2) {
      uint32_t second = i + 1 < dim ? from[t * stride + i + 1] : 0;
      to[i / 2 * width + t].both = from[t * stride + i] | second << 16;
    }
}

}  // namespace

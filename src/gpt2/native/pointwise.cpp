// Parts of a training step on a CPU that are limited by memory: each reads and writes its numbers once.
//
// The formulas are those of reference.py; type 0 is fp32, 1 is bf16, and all is computed in fp32.

#include "vectors.h"

#include <cmath>

namespace {

// f(place, whole registers there or not) over blocks of numbers, in parallel.
constexpr int64_t STRETCH = 1 << 14;

template <class T, class F> void blocks_of(int64_t count, int64_t threads, F each) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t start = 0; start < count; start += STRETCH) {
    int64_t end = start + STRETCH < count ? start + STRETCH : count;
    for (int64_t i = start; i < end; i += LANES) each(i, end - i < LANES ? end - i : LANES);
  }
}

template <class T> Floats load_some(const T* p, int64_t count, float filler = 0.0f) {
  if (count == LANES) return load(p);
  Floats v = Floats{} + filler;
  for (int64_t i = 0; i < count; i++) v[i] = load_one(p + i);
  return v;
}

template <class T> void store_some(T* p, Floats v, int64_t count) {
  if (count == LANES) return store(p, v);
  T all[LANES];
  store(all, v);
  std::memcpy(p, all, count * sizeof(T));
}

// y = x s and, unless null, its slope, with s = Phi(x) by GPT-2's formula: 0.5 (1 + tanh u) = 1 / (1 + e^(-2u)).
template <class T> void gelu(const T* x, T* y, T* slope, int64_t count, int64_t threads) {
  constexpr float SCALE = 1.59576912f, CUBIC = 0.044715f;  // 2 sqrt(2 / pi)
  blocks_of<T>(count, threads, [=](int64_t i, int64_t some) {
    Floats v = load_some(x + i, some), inner = SCALE + SCALE * CUBIC * v * v;  // 2 u / x
    Floats share = 1.0f / (1.0f + exponential(-inner * v)), product = v * share;
    store_some(y + i, product, some);
    // d(x s)/dx = s + x s (1 - s) d(2 u)/dx, and d(2 u)/dx = 3 (2 u / x) - 2 SCALE
    if (slope) store_some(slope + i, share + product * (1.0f - share) * (3.0f * inner - 2.0f * SCALE), some);
  });
}

// Of each row of logits: its loss, and if wanted the slope of the loss, softmax - onehot, in place of the logits.
template <class T>
void cross_entropy(T* logits, const int64_t* targets, float* losses, bool slopes, int64_t rows, int64_t width,
                   int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    T* x = logits + row * width;
    bool counts = targets[row] >= 0;
    auto each = [&](auto visit) {
      for (int64_t i = 0; i < width; i += LANES) visit(x + i, width - i < LANES ? width - i : LANES);
    };
    Floats peaks = Floats{} - INFINITY, sums{};
    each([&](T* p, int64_t some) { peaks = larger(peaks, load_some(p, some, -INFINITY)); });
    float peak = largest(peaks), chosen = counts ? load_one(x + targets[row]) : 0.0f;
    // Once for the sum and once more for the shares: what bf16 would round in between is not lost.
    each([&](T* p, int64_t some) { sums += exponential(load_some(p, some, -INFINITY) - peak); });
    float log_total = peak + std::log(total(sums)), factor = counts ? 1.0f / total(sums) : 0.0f;
    losses[row] = counts ? log_total - chosen : 0.0f;
    if (!slopes) continue;
    each([&](T* p, int64_t some) { store_some(p, exponential(load_some(p, some) - peak) * factor, some); });
    if (counts) store_one(x + targets[row], std::exp(chosen - log_total) - 1.0f);
  }
}

}  // namespace

extern "C" {

void gpt2_gelu(const void* x, void* y, void* slope, int64_t count, int64_t type, int64_t threads) {
  type == 0 ? gelu((const float*)x, (float*)y, (float*)slope, count, threads)
            : gelu((const uint16_t*)x, (uint16_t*)y, (uint16_t*)slope, count, threads);
}

void gpt2_cross_entropy(void* logits, const int64_t* targets, float* losses, int64_t slopes, int64_t rows,
                        int64_t width, int64_t type, int64_t threads) {
  type == 0 ? cross_entropy((float*)logits, targets, losses, slopes, rows, width, threads)
            : cross_entropy((uint16_t*)logits, targets, losses, slopes, rows, width, threads);
}
}

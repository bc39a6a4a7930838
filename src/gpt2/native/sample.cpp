// One draw from logits: what generation/sampling.py does, without a tensor per step.
//
// Instead of sorting, the smallest weight that stays is found by halving the interval of weights; those that have
// become certain to stay or to go are left out of what is read. Weights are e^(logit - peak), in [0, 1], whose
// bits as an integer have the same order, so thirty halvings find the border exactly.

#include "step.h"
#include "vectors.h"

#include <cmath>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t BLOCK = 1024;  // numbers that are added up in fp32

// Number and sum of the weights whose bits are at least `border`.
void at_least(const float* e, int64_t size, int32_t border, int64_t& count, double& sum) {
  count = 0, sum = 0;
  for (int64_t block = 0; block < size; block += BLOCK) {
    int64_t end = block + BLOCK < size ? block + BLOCK : size;
    Floats sums{};
    Ints counts{};
    for (int64_t i = block; i < end; i += LANES) {
      Ints stays = read<Ints>(e + i) >= border;  // -1 or 0
      counts -= stays;
      sums += (Floats)(read<Ints>(e + i) & stays);
    }
    sum += total(sums);
    for (int i = 0; i < LANES; i++) count += counts[i];
  }
}

// Numbers of the logits from `i` on; beyond their end -infinity, which has no weight.
Floats some(const float* logits, int64_t size, int64_t i) {
  if (i + LANES <= size) return load(logits + i);
  float rest[LANES];
  for (int64_t j = 0; j < LANES; j++) rest[j] = i + j < size ? logits[i + j] : -INFINITY;
  return load(rest);
}

float largest_of(const float* logits, int64_t size) {
  constexpr int CHAINS = 4;  // a maximum waits for the one before it: four at once
  Floats peaks[CHAINS];
  for (Floats& p : peaks) p = Floats{} - INFINITY;
  for (int64_t i = 0; i < size; i += CHAINS * LANES)
    for (int c = 0; c < CHAINS; c++) peaks[c] = larger(some(logits, size, i + c * LANES), peaks[c]);
  return largest(larger(larger(peaks[0], peaks[1]), larger(peaks[2], peaks[3])));
}

int64_t first_of(const float* logits, int64_t size, float value) {
  for (int64_t i = 0; i < size; i++)
    if (logits[i] == value) return i;
  return 0;  // nothing but NaN
}

// Weights of all logits; their sum.
double weigh(const float* logits, int64_t size, float temperature, float peak, float* weights) {
  double sum = 0;
  for (int64_t block = 0; block < size; block += BLOCK) {
    Floats sums{};
    for (int64_t i = block; i < block + BLOCK && i < size; i += LANES) {
      Floats x = some(logits, size, i) / temperature - peak;
      Floats e = (Floats)((Ints)exponential(x) & (Ints)(x > -87.0f));
      store(weights + i, e);
      sums += e;
    }
    sum += total(sums);
  }
  return sum;
}

// Copies the weights whose bits are in [low, high) to `to`, which may be `from`, and fills up to whole vectors.
int64_t compact(const float* from, int64_t size, int32_t low, int32_t high, float* to) {
  int64_t count = 0;
#ifdef __AVX512F__
  for (int64_t i = 0; i < size; i += LANES) {
    __m512i bits = (__m512i)read<Ints>(from + i);
    __mmask16 stays = _mm512_cmpge_epi32_mask(bits, _mm512_set1_epi32(low));
    stays = _mm512_mask_cmplt_epi32_mask(stays, bits, _mm512_set1_epi32(high));
    store(to + count, (Floats)_mm512_maskz_compress_epi32(stays, bits));
    count += __builtin_popcount(stays);
  }
#else
  for (int64_t i = 0; i < size; i++) {
    float weight = from[i];
    int32_t bits = read<int32_t>(&weight);
    to[count] = weight;
    count += (bits >= low) & (bits < high);
  }
#endif
  for (; count % LANES; count++) to[count] = 0;
  return count;
}

// Makes zero what is outside the likeliest `most` or outside the smallest set that reaches `mass`. Among equal
// weights at the border the first ids stay. `few` has room for size + 16.
void keep_likeliest(float* e, int64_t size, int64_t most, double mass, float* few) {
  Floats least = Floats{} + 1.0f, none{};
  for (int64_t i = 0; i < size; i += LANES) {
    Floats v = load(e + i), known = v > none ? v : least;
    least = known < least ? known : least;
  }
  float smallest = -largest(-least);
  int32_t low = read<int32_t>(&smallest), high = 0x3f800001;  // at `low` enough stays, at `high` too little
  const float* left = e;
  int64_t size_left = size, count;
  int64_t at_low = size, at_high = 0, taken = 0;  // of those left: at `low` or above, at `high` or above; left out
  double sum, sum_at_high = 0, sum_taken = 0;
  while (high - low > 1) {
    int32_t middle = low + (high - low) / 2;
    at_least(left, size_left, middle, count, sum);
    if (taken + count < most && sum_taken + sum < mass)
      high = middle, at_high = count, sum_at_high = sum;
    else
      low = middle, at_low = count;
    if (at_low - at_high < size_left / 2 - LANES) {  // of the others it is known whether they stay
      size_left = compact(left, size_left, low, high, few);
      left = few;
      taken += at_high, sum_taken += sum_at_high;
      at_low -= at_high, at_high = 0, sum_at_high = 0;
    }
  }
  int64_t wanting = 1;  // of the weights at the border: one alone stays
  if (at_low - at_high > 1) {
    sum = sum_taken + sum_at_high;
    float border = read<float>(&low);
    for (wanting = 0; taken + at_high + wanting < most && sum < mass; wanting++) sum += border;
  }
  for (int64_t i = 0; i < size; i += LANES) {
    Ints bits = read<Ints>(e + i);
    store(e + i, (Floats)(bits & (bits >= low)));
  }
  if (at_low - at_high <= wanting) return;
  for (int64_t i = 0; i < size; i++)
    if (read<int32_t>(e + i) == low && wanting-- <= 0) e[i] = 0;
}

}  // namespace

// logits (size); room (twice the size, and 48); the rest as in `Choice`.
extern "C" int64_t gpt2_sample(
    const float* logits, float* room, int64_t size, float temperature, int64_t top_k, double top_p, float min_p,
    double uniform) {
  float top = largest_of(logits, size);
  if (temperature == 0) return first_of(logits, size, top);
  int64_t whole = (size + LANES - 1) / LANES * LANES, count;
  float* few = room + whole;
  double sum = weigh(logits, size, temperature, top / temperature, room);
  if (top_k > 0 && top_k < size) {
    keep_likeliest(room, whole, top_k, 1e300, few);
    at_least(room, whole, 0, count, sum);
  }
  if (top_p < 1) keep_likeliest(room, whole, whole, top_p * sum, few);
  if (min_p > 0)
    for (int64_t i = 0; i < whole; i++) room[i] = room[i] < min_p ? 0 : room[i];
  if (top_p < 1 || min_p > 0) at_least(room, whole, 0, count, sum);
  double target = uniform * sum, before = 0;
  for (int64_t block = 0; block < whole; block += LANES) {
    double here = total(load(room + block));
    if (before + here <= target && block + LANES < whole) {
      before += here;
      continue;
    }
    for (int64_t i = block; i < block + LANES && i < size; i++) {
      before += room[i];
      if (before > target) return i;
    }
  }
  for (int64_t i = size; i-- > 0;)  // rounding left a little over: the last that may be drawn
    if (room[i] > 0) return i;
  return first_of(logits, size, top);
}

// One draw for each row of logits (count, stride), each with its own options.
extern "C" void gpt2_sample_rows(
    const float* logits, int64_t stride, float* room, int64_t size, int64_t count, const Choice* how, int64_t* ids) {
  for (int64_t row = 0; row < count; row++) {
    const Choice& h = how[row];
    ids[row] = gpt2_sample(logits + row * stride, room, size, h.temperature, h.top_k, h.top_p, h.min_p, h.uniform);
  }
}

// One decoding step of GPT-2 on a CPU: tokens in, logits out. Each token is a row, in any slot of the cache at any column,
// so that one step may hold the next token of many sequences and stretches of others' prompts.
//
// The formulas are those of reference.py. What differs is the way through memory: a step reads every
// weight once, and that is what it costs, so matrices lie in panels of 32 columns that are read from
// end to end, in fp32, bf16 or int8, and everything else stays in the caches. Sums are in fp32.

#include "step.h"
#include "vectors.h"

#include <cmath>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

constexpr int HALF = PANEL / 2;
constexpr int ROWS = REGISTERS / 4;  // sequences that share one reading of a panel: their sums take half the registers
constexpr int SPARE = 16;  // between rows of room, lest eight of them meet in one set of the cache

// x Phi(x) by GPT-2's formula: 0.5 (1 + tanh u) = 1 / (1 + e^(-2u)).
Floats gelu(Floats x) {
  Floats u = 0.79788456f * (x + 0.044715f * x * x * x);
  return x / (1.0f + exponential(-2.0f * u));
}

}  // namespace

namespace {

void layer_norm(const float* x, Norm norm, float* y, int64_t d) {
  Floats sum{}, square{};
  for (int64_t i = 0; i < d; i += LANES) sum += load(x + i);
  float mean = total(sum) / d;
  for (int64_t i = 0; i < d; i += LANES) {
    Floats centred = load(x + i) - mean;
    square += centred * centred;
  }
  float scale = 1.0f / std::sqrt(total(square) / d + 1e-5f);
  for (int64_t i = 0; i < d; i += LANES)
    store(y + i, (load(x + i) - mean) * scale * load(norm.weight + i) + load(norm.bias + i));
}

// Two rows of a panel, w[row][half]: LANES columns from `at`, and from `at` + 16. Narrow weights lie interleaved, so that
// shifts of whole words part them.
void two_rows(const float* p, int at, Floats w[2][2]) {
  for (int i = 0; i < 4; i++) w[i / 2][i % 2] = load(p + i * HALF + at);
}
void two_rows(const uint16_t* p, int at, Floats w[2][2]) {
  for (int row = 0; row < 2; row++) {
    Words pair = read<Words>(p + row * PANEL + 2 * at);
    w[row][0] = (Floats)(pair << 16), w[row][1] = (Floats)(pair & 0xffff0000u);
  }
}
void two_rows(const int8_t* p, int at, Floats w[2][2]) {
  Ints four = read<Ints>(p + 4 * at);
  w[0][0] = __builtin_convertvector(four << 24 >> 24, Floats), w[0][1] = __builtin_convertvector(four << 16 >> 24, Floats);
  w[1][0] = __builtin_convertvector(four << 8 >> 24, Floats), w[1][1] = __builtin_convertvector(four >> 24, Floats);
}

// One panel times R rows of x. For few rows the terms are dealt to several sums: additions need not wait for each other.
template <int R, class W>
void multiply(const float* x, const W* panel, int64_t inner, float out[ROWS][PANEL]) {
  constexpr int CHAINS = R < 4 ? 4 / R : 1;
  for (int at = 0; at < HALF; at += LANES) {
    Floats sum[CHAINS][R][2] = {};
    for (int64_t i = 0; i < inner; i += 4)
#pragma GCC unroll 2
      for (int pair = 0; pair < 4; pair += 2) {
        Floats w[2][2];
        two_rows(panel + (i + pair) * PANEL, at, w);
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; odd++)
#pragma GCC unroll 8
          for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++)
              sum[(pair + odd) % CHAINS][r][half] += x[r * (inner + SPARE) + i + pair + odd] * w[odd][half];
      }
    for (int r = 0; r < R; r++)
      for (int half = 0; half < 2; half++) {
        Floats y = sum[0][r][half];
        for (int chain = 1; chain < CHAINS; chain++) y += sum[chain][r][half];
        store(out[r] + half * HALF + at, y);
      }
  }
}

// finish(row, first column, 16 values) takes each piece of x W + b.
template <class W, class Finish>
void product(const Matrix& m, const float* x, int64_t batch, int part, int parts, Finish finish) {
  int64_t panels = (m.columns + PANEL - 1) / PANEL;
  for (int64_t p = panels * part / parts; p < panels * (part + 1) / parts; p++) {
    const W* panel = (const W*)m.panels + p * m.rows * PANEL;
    for (int64_t row = 0, rows; row < batch; row += rows) {
      float out[ROWS][PANEL];
      const float* from = x + row * (m.rows + SPARE);
      int64_t left = batch - row;
      rows = left >= ROWS ? ROWS : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      if (rows == ROWS) multiply<ROWS>(from, panel, m.rows, out);
      if (rows == 4 && ROWS > 4) multiply<4>(from, panel, m.rows, out);
      if (rows == 2) multiply<2>(from, panel, m.rows, out);
      if (rows == 1) multiply<1>(from, panel, m.rows, out);
      for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < PANEL; c += LANES) {
          Floats y = load(out[r] + c);
          if (m.scale) y *= load(m.scale + p * PANEL + c);
          if (m.bias) y += load(m.bias + p * PANEL + c);
          finish(row + r, p * PANEL + c, y);
        }
    }
  }
}

// z = sum over s of weights[s] values[s], for V vectors of numbers; even and odd terms apart.
template <int V, class C>
void weigh(const float* weights, const C* values, int64_t count, int64_t stride, float* z) {
  Floats sum[2][V] = {};
  for (int64_t s = 0; s + 1 < count; s += 2)
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; odd++)
#pragma GCC unroll 4
      for (int v = 0; v < V; v++) sum[odd][v] += weights[s + odd] * load(values + (s + odd) * stride + v * LANES);
  for (int v = 0; v < V; v++) {
    if (count % 2) sum[0][v] += weights[count - 1] * load(values + (count - 1) * stride + v * LANES);
    store(z + v * LANES, sum[0][v] + sum[1][v]);
  }
}

// softmax(q k^T / sqrt(d)) v of one head of one row. All keys and values of this step are in the cache already.
template <class C>
void attend(const Model& m, const Layer& layer, const Rows& rows, int64_t row, int64_t head, float* scores) {
  int64_t d = m.d_model / m.heads, first = rows.first[row], count = rows.columns[row] + 1 - first;
  int64_t start = rows.slots[row] * m.slot_stride + first * m.column_stride + head * m.head_stride, stride = m.column_stride;
  const float* q = m.queries + row * m.d_model + head * d;
  const C *keys = (const C*)layer.keys + start, *values = (const C*)layer.values + start;
  Floats scale = Floats{} + 1.0f / std::sqrt((float)d), peaks = Floats{} - INFINITY, sums{};
  constexpr int64_t LINE = 64 / sizeof(C);
  for (int64_t s = 0; s < count; s += 4) {
    for (int64_t at = s * stride; at < (s + 4) * stride; at += stride)  // what is wanted next, far away for a cache
      for (int64_t i = at; i < at + d; i += LINE) {
        __builtin_prefetch(values + i);
        __builtin_prefetch(keys + m.head_stride + i, 0, 2);
      }
    Floats sum[4] = {};
    for (int64_t i = 0; i < d; i += LANES)
#pragma GCC unroll 4
      for (int64_t j = 0; j < 4; j++)  // beyond the last key the last one again: what lies there may be no number
        sum[j] += load(q + i) * load(keys + (s + j < count ? s + j : count - 1) * stride + i);
    Four four = totals(sum);
    std::memcpy(scores + s, &four, sizeof four);
  }
  int64_t whole = (count + LANES - 1) / LANES * LANES;
  for (int64_t s = count; s < whole; s++) scores[s] = -INFINITY;
  for (int64_t s = 0; s < whole; s += LANES) {
    Floats x = load(scores + s) * scale;
    store(scores + s, x);
    peaks = x > peaks ? x : peaks;
  }
  float peak = peaks[0];
  for (int i = 1; i < LANES; i++) peak = peaks[i] > peak ? peaks[i] : peak;
  for (int64_t s = 0; s < whole; s += LANES) {
    Floats e = exponential(load(scores + s) - peak);
    store(scores + s, e);
    sums += e;
  }
  float* z = m.z + row * (m.d_model + SPARE) + head * d;
  for (int64_t i = 0; i < d;) {
    bool wide = i + 4 * LANES <= d;
    (wide ? weigh<4, C> : weigh<UNIT / LANES, C>)(scores, values + i, count, stride, z + i);
    i += wide ? 4 * LANES : UNIT;
  }
  for (int64_t i = 0; i < d; i += LANES) store(z + i, load(z + i) / total(sums));
}

template <class W, class C>
void work(const Model& m, const Rows& rows, int part, int parts) {
  int64_t d = m.d_model, count = rows.count;
  uint32_t head_dim = d / m.heads;
  float* norms = m.norms + part * count * (d + SPARE);  // each thread its own: cheaper than waiting for one
  float* scores = m.scores + part * (m.context + LANES);
  auto normalize = [&](Norm norm, int64_t count) {
    for (int64_t row = 0; row < count; row++) layer_norm(m.x + row * d, norm, norms + row * (d + SPARE), d);
  };
  auto add_to_x = [&](int64_t row, int64_t column, Floats y) {
    store(m.x + row * d + column, load(m.x + row * d + column) + y);
  };
  for (int64_t row = part; row < count; row += parts) {
    const float *token = m.tokens + rows.ids[row] * d, *position = m.positions + (rows.columns[row] - rows.first[row]) * d;
    for (int64_t i = 0; i < d; i += LANES) store(m.x + row * d + i, load(token + i) + load(position + i));
  }
#pragma omp barrier
  for (int64_t l = 0; l < m.layers; l++) {
    const Layer& layer = m.layer[l];
    normalize(layer.norm1, count);
    product<W>(layer.qkv, norms, count, part, parts, [&](int64_t row, int64_t column, Floats y) {
      if (column < d) return store(m.queries + row * d + column, y);
      bool key = column < 2 * d;
      uint32_t at = column - (key ? d : 2 * d), head = at / head_dim;
      int64_t place = rows.slots[row] * m.slot_stride + rows.columns[row] * m.column_stride + head * m.head_stride;
      store((C*)(key ? layer.keys : layer.values) + place + (at - head * head_dim), y);
    });
#pragma omp barrier
    for (int64_t i = count * m.heads * part / parts; i < count * m.heads * (part + 1) / parts; i++)
      attend<C>(m, layer, rows, i / m.heads, i % m.heads, scores);
#pragma omp barrier
    product<W>(layer.attention_out, m.z, count, part, parts, add_to_x);
#pragma omp barrier
    normalize(layer.norm2, count);
    product<W>(layer.up, norms, count, part, parts,
               [&](int64_t row, int64_t column, Floats y) { store(m.hidden + row * (4 * d + SPARE) + column, gelu(y)); });
#pragma omp barrier
    product<W>(layer.down, m.hidden, count, part, parts, add_to_x);
#pragma omp barrier
  }
  normalize(m.norm, rows.answers);
  int64_t width = logits_width(m);
  product<W>(m.head, norms, rows.answers, part, parts,
             [&](int64_t row, int64_t column, Floats y) { store(m.logits + row * width + column, y); });
}

template <class W> void choose_cache(const Model& m, const Rows& rows, int part, int parts) {
  m.cache_type == 0 ? work<W, float>(m, rows, part, parts) : work<W, uint16_t>(m, rows, part, parts);
}

}  // namespace

extern "C" void gpt2_step(const Model* m, const Rows* rows) {
#pragma omp parallel num_threads(m->threads)
  {
    int part = 0, parts = 1;
#ifdef _OPENMP
    part = omp_get_thread_num(), parts = omp_get_num_threads();
#endif
    if (m->weight_type == 0) choose_cache<float>(*m, *rows, part, parts);
    if (m->weight_type == 1) choose_cache<uint16_t>(*m, *rows, part, parts);
    if (m->weight_type == 2) choose_cache<int8_t>(*m, *rows, part, parts);
  }
}

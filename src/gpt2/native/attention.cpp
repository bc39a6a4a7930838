// Causal attention for training on a CPU, forward and backward, one document and head at a time.
//
// The formulas are those of reference.py. A block of queries meets all its keys while their products are in the
// core's own cache; only the logarithm of each row's sum is kept for the backward pass, which makes the pattern again
// (Dao et al., 2022, section 3.2). Documents and heads are independent of one another, so the result does not depend on
// the number of threads. All sums are in fp32.

#include "vectors.h"

#include <algorithm>
#include <cmath>
#include <vector>

extern "C" {
struct Attention {
  const void *q, *k, *v;    // (tokens, heads, dim), token t at t * stride
  const int64_t* starts;    // where each document begins, and the end of the last
  int64_t documents, heads, dim, stride;
  int64_t type, threads;    // 0 fp32, 1 bf16
  void* z;                  // (tokens, heads, dim), without gaps, as all that follow
  float* log_sums;          // (tokens, heads)
  const void* z_gradient;   // null in the forward pass
  void *q_gradient, *k_gradient, *v_gradient;
};
}

namespace {

// One tile of a product: as many sums as registers hold beside a row of columns and a factor.
constexpr int TILE_VECTORS = 2, TILE_ROWS = REGISTERS == 32 ? 12 : 6, TILE_COLUMNS = LANES * TILE_VECTORS;
constexpr int BLOCK = 8 * TILE_ROWS;  // queries handled together: whole tiles of rows and of columns
static_assert(BLOCK % TILE_ROWS == 0 && BLOCK % TILE_COLUMNS == 0);

int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// out(row, column, numbers) takes each piece of a b, where a has `rows` (rounded up to tiles) and b as many columns.
// Element (r, i) of a is a[r * down + i * right], row i of b begins at b[i * width].
template <class Out>
inline void product(const float* a, int64_t down, int64_t right, const float* b, int64_t width, int64_t rows,
                    int64_t inner, int64_t columns, Out out) {
  for (int64_t column = 0; column < columns; column += TILE_COLUMNS)
    for (int64_t row = 0; row < rows; row += TILE_ROWS) {
      Floats sums[TILE_ROWS][TILE_VECTORS] = {};
      const float *left = a + row * down, *above = b + column;
      for (int64_t i = 0; i < inner; i++, left += right, above += width)
#pragma GCC unroll 16
        for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
          for (int c = 0; c < TILE_VECTORS; c++) sums[r][c] += left[r * down] * load(above + c * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
        for (int c = 0; c < TILE_VECTORS; c++) out(row + r, column + c * LANES, sums[r][c]);
    }
}

// Room of one thread. Rows and columns beyond a document's and a head's own are zero, or hidden by the mask.
struct Room {
  int64_t time, wide, dim;  // (time, dim) matrices of padded size, (dim, wide) transposed ones
  std::vector<float> memory;
  float *q, *k, *v, *dz, *k_transposed, *v_transposed, *scores, *slopes, *dq, *dk, *dv, *offsets;

  Room(int64_t longest, int64_t head_dim, bool backward)
      : time(up(longest, BLOCK)), wide(time + LANES), dim(up(head_dim, TILE_COLUMNS)) {
    int64_t matrix = time * dim, transposed = dim * wide, block = BLOCK * wide;
    memory.resize((backward ? 7 : 3) * matrix + (backward ? 2 : 1) * (transposed + block) + time);
    float* next = memory.data();
    auto take = [&](int64_t size) { return next += size, next - size; };
    q = take(matrix), v = take(matrix), dq = take(matrix);  // dq is the forward pass's z
    k_transposed = take(transposed), scores = take(block), offsets = take(time);
    if (!backward) return;
    k = take(matrix), dz = take(matrix), dk = take(matrix), dv = take(matrix);
    v_transposed = take(transposed), slopes = take(block);
  }
};

template <class T>
void read_rows(const T* from, int64_t stride, int64_t count, int64_t dim, int64_t width, float* to) {
  for (int64_t t = 0; t < count; t++)
    for (int64_t i = 0; i < dim; i++) to[t * width + i] = load_one(from + t * stride + i);
  std::memset(to + count * width, 0, (up(count, BLOCK) - count) * width * sizeof(float));
}

template <class T>
void read_transposed(const T* from, int64_t stride, int64_t count, int64_t dim, int64_t width, float* to) {
  for (int64_t t = 0; t < count; t++)
    for (int64_t i = 0; i < dim; i++) to[i * width + t] = load_one(from + t * stride + i);
}

template <class T>
void write_rows(const float* from, int64_t width, int64_t count, int64_t dim, int64_t stride, float factor, T* to) {
  for (int64_t t = 0; t < count; t++)
    for (int64_t i = 0; i < dim; i++) store_one(to + t * stride + i, factor * from[t * width + i]);
}

// Scores of the queries [from, from + BLOCK) with every key up to the last of them; the future is hidden.
void score(Room& room, int64_t from, int64_t keys, float scale) {
  product(room.q + from * room.dim, room.dim, 1, room.k_transposed, room.wide, BLOCK, room.dim, keys,
          [&](int64_t r, int64_t s, Floats v) { store(room.scores + r * room.wide + s, v * scale); });
  for (int64_t r = 0; r < BLOCK; r++)
    for (int64_t s = from + r + 1; s < keys; s++) room.scores[r * room.wide + s] = -INFINITY;
}

template <class T> void forward(const Attention& a, Room& room, int64_t start, int64_t count, int64_t head) {
  int64_t place = start * a.stride + head * a.dim, tokens = a.heads * a.dim;
  read_rows((const T*)a.q + place, a.stride, count, a.dim, room.dim, room.q);
  read_rows((const T*)a.v + place, a.stride, count, a.dim, room.dim, room.v);
  read_transposed((const T*)a.k + place, a.stride, count, a.dim, room.wide, room.k_transposed);
  float factors[BLOCK], scale = 1.0f / std::sqrt((float)a.dim);
  for (int64_t from = 0; from < count; from += BLOCK) {
    int64_t keys = from + BLOCK;
    score(room, from, keys, scale);
    for (int64_t r = 0; r < BLOCK; r++) {
      float* row = room.scores + r * room.wide;
      Floats peaks = load(row), sums{};
      for (int64_t s = LANES; s < keys; s += LANES) peaks = larger(peaks, load(row + s));
      float peak = largest(peaks);
      for (int64_t s = 0; s < keys; s += LANES) {
        Floats e = exponential(load(row + s) - peak);
        store(row + s, e);
        sums += e;
      }
      float all = total(sums);
      factors[r] = 1.0f / all;
      if (from + r < count) a.log_sums[(start + from + r) * a.heads + head] = peak + std::log(all);
    }
    product(room.scores, room.wide, 1, room.v, room.dim, BLOCK, keys, room.dim,
            [&](int64_t r, int64_t i, Floats v) { store(room.dq + (from + r) * room.dim + i, v * factors[r]); });
  }
  write_rows(room.dq, room.dim, count, a.dim, tokens, 1.0f, (T*)a.z + start * tokens + head * a.dim);
}

template <class T> void backward(const Attention& a, Room& room, int64_t start, int64_t count, int64_t head) {
  int64_t place = start * a.stride + head * a.dim, tokens = a.heads * a.dim, own = start * tokens + head * a.dim;
  read_rows((const T*)a.q + place, a.stride, count, a.dim, room.dim, room.q);
  read_rows((const T*)a.k + place, a.stride, count, a.dim, room.dim, room.k);
  read_rows((const T*)a.z_gradient + own, tokens, count, a.dim, room.dim, room.dz);
  read_transposed((const T*)a.k + place, a.stride, count, a.dim, room.wide, room.k_transposed);
  read_transposed((const T*)a.v + place, a.stride, count, a.dim, room.wide, room.v_transposed);
  std::memset(room.dk, 0, room.time * room.dim * sizeof(float));
  std::memset(room.dv, 0, room.time * room.dim * sizeof(float));
  for (int64_t t = 0; t < count; t++) {  // sum over keys of pattern times its slope = z . dz
    room.offsets[t] = 0.0f;
    for (int64_t i = 0; i < a.dim; i++)
      room.offsets[t] += load_one((const T*)a.z + own + t * tokens + i) * room.dz[t * room.dim + i];
  }
  float scale = 1.0f / std::sqrt((float)a.dim);
  for (int64_t from = 0; from < count; from += BLOCK) {
    int64_t keys = from + BLOCK, rows = from + BLOCK;
    score(room, from, keys, scale);
    for (int64_t r = 0; r < BLOCK; r++) {
      float* row = room.scores + r * room.wide;
      float log_sum = from + r < count ? a.log_sums[(start + from + r) * a.heads + head] : 0.0f;
      for (int64_t s = 0; s < keys; s += LANES) store(row + s, exponential(load(row + s) - log_sum));
    }
    product(room.dz + from * room.dim, room.dim, 1, room.v_transposed, room.wide, BLOCK, room.dim, keys,
            [&](int64_t r, int64_t s, Floats v) {
              float offset = from + r < count ? room.offsets[from + r] : 0.0f;
              store(room.slopes + r * room.wide + s, load(room.scores + r * room.wide + s) * (v - offset));
            });
    auto add = [&](float* to) {
      return [&room, to](int64_t s, int64_t i, Floats v) {
        float* place = to + s * room.dim + i;
        store(place, load(place) + v);
      };
    };
    product(room.scores, 1, room.wide, room.dz + from * room.dim, room.dim, rows, BLOCK, room.dim, add(room.dv));
    product(room.slopes, 1, room.wide, room.q + from * room.dim, room.dim, rows, BLOCK, room.dim, add(room.dk));
    product(room.slopes, room.wide, 1, room.k, room.dim, BLOCK, keys, room.dim,
            [&](int64_t r, int64_t i, Floats v) { store(room.dq + (from + r) * room.dim + i, v); });
  }
  write_rows(room.dq, room.dim, count, a.dim, tokens, scale, (T*)a.q_gradient + own);
  write_rows(room.dk, room.dim, count, a.dim, tokens, scale, (T*)a.k_gradient + own);
  write_rows(room.dv, room.dim, count, a.dim, tokens, 1.0f, (T*)a.v_gradient + own);
}

template <class T> void attend(const Attention& a) {
  int64_t longest = 0;
  for (int64_t i = 0; i < a.documents; i++) longest = std::max(longest, a.starts[i + 1] - a.starts[i]);
#pragma omp parallel num_threads(a.threads)
  {
    Room room(longest, a.dim, a.z_gradient);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < a.documents * a.heads; task++) {
      int64_t document = task / a.heads, start = a.starts[document], count = a.starts[document + 1] - start;
      (a.z_gradient ? backward<T> : forward<T>)(a, room, start, count, task % a.heads);
    }
  }
}

}  // namespace

extern "C" void gpt2_attention(const Attention* a) { a->type == 0 ? attend<float>(*a) : attend<uint16_t>(*a); }

// Causal attention for training on a CPU, forward and backward, one document and head at a time.
//
// The formulas are those of reference.py. A block of queries meets all its keys while their products are in the
// core's own cache; only the logarithm of each row's sum is kept for the backward pass, which makes the pattern again
// (Dao et al., 2022, section 3.2). Documents and heads are independent of one another, so the result does not depend on
// the number of threads. All sums are in fp32.

#include "pairs.h"
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

// Each piece of a b, for one tile: element (r, i) of a is a[r * down + i * right], row i of b begins at b[i * width].
template <class Unit, class Out>
inline void tile(const Unit* a, int64_t down, int64_t right, const Unit* b, int64_t width, int64_t inner, Out out) {
  Floats sums[TILE_ROWS][TILE_VECTORS] = {};
  for (int64_t i = 0; i < inner; i++, a += right, b += width)
#pragma GCC unroll 16
    for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
      for (int c = 0; c < TILE_VECTORS; c++) sums[r][c] = multiply_add(sums[r][c], a[r * down], b + c * LANES);
#pragma GCC unroll 16
  for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
    for (int c = 0; c < TILE_VECTORS; c++) out(r, c * LANES, sums[r][c]);
}

// Room of one thread. Rows and columns beyond a document's and a head's own are zero, or hidden by the mask. A product
// takes its numbers in units (pairs.h) along what it sums over, so some matrices are there in two orders; where a unit
// is one number both are the same.
template <class Unit> struct Room {
  static constexpr int PER = PER_UNIT<Unit>;
  int64_t time, wide, dim;  // (time, dim) matrices of padded size, (dim, wide) transposed ones
  std::vector<float> memory;
  float *scores, *slopes, *dq, *dk, *dv, *offsets;
  Unit *q, *dz, *pattern, *slope_units;                         // units along a row
  Unit *k_transposed, *v_transposed;                            // units of features, side by side for all keys
  Unit *q_down, *k_down, *v_down, *dz_down, *pattern_down, *slope_down;  // units of rows, side by side for all columns

  Room(int64_t longest, int64_t head_dim, bool backward)
      : time(up(longest, BLOCK)), wide(time + LANES), dim(up(head_dim, TILE_COLUMNS)) {
    int64_t matrix = time * dim, transposed = dim * wide, block = BLOCK * wide;
    int64_t matrices = backward ? 5 + 2 * PER : 3, blocks = backward ? 3 * PER - 1 : PER;
    memory.resize(matrices * matrix + (backward ? 2 : 1) * transposed + blocks * block + time);
    float* next = memory.data();
    auto take = [&](int64_t size) { return next += size, next - size; };
    auto units = [&](int64_t size) { return (Unit*)take(size); };
    auto also = [&](void* same, int64_t size) { return PER == 1 ? (Unit*)same : units(size); };
    q = units(matrix), v_down = units(matrix), dq = take(matrix);  // dq is the forward pass's z
    k_transposed = units(transposed), scores = take(block), offsets = take(time);
    if (!backward) {
      pattern = also(scores, block);
      return;
    }
    q_down = also(q, matrix), k_down = units(matrix), dz = units(matrix), dz_down = also(dz, matrix);
    dk = take(matrix), dv = take(matrix), v_transposed = units(transposed), slopes = take(block);
    pattern_down = also(scores, block), slope_units = also(slopes, block), slope_down = also(slopes, block);
  }
};

template <class T>
void write_rows(const float* from, int64_t width, int64_t count, int64_t dim, int64_t stride, float factor, T* to) {
  for (int64_t t = 0; t < count; t++)
    for (int64_t i = 0; i < dim; i++) store_one(to + t * stride + i, factor * from[t * width + i]);
}

// The queries [from, from + rows) of a document. Tiles of its staircase that lie wholly in the future are never made.
template <class Unit> struct Block {
  static constexpr int PER = PER_UNIT<Unit>;
  Room<Unit>& room;
  int64_t from, rows;

  Block(Room<Unit>& room, int64_t from, int64_t count)
      : room(room), from(from), rows(std::min<int64_t>(BLOCK, up(count - from, TILE_ROWS))) {}
  // How many keys the tile of this query meets: all that its last query sees.
  int64_t keys(int64_t row) const { return from + row / TILE_ROWS * TILE_ROWS + TILE_ROWS; }

  // x y^T for each query and key: x (time, dim), y transposed; out(query, key, numbers).
  template <class Out> void by_keys(const Unit* x, const Unit* transposed, Out out) const {
    int64_t width = room.dim / PER;
    for (int64_t key = 0; key < from + rows; key += TILE_COLUMNS)
      for (int64_t row = std::max<int64_t>(0, key - from) / TILE_ROWS * TILE_ROWS; row < rows; row += TILE_ROWS)
        tile(x + (from + row) * width, width, 1, transposed + key, room.wide, width,
             [&](int64_t r, int64_t c, Floats v) { out(row + r, key + c, v); });
  }

  // For each query the sum of y (keys, dim) over its keys, weighted by p (rows, keys).
  template <class Out> void over_keys(const Unit* p, const Unit* y, Out out) const {
    int64_t width = room.wide / PER;
    for (int64_t column = 0; column < room.dim; column += TILE_COLUMNS)
      for (int64_t row = 0; row < rows; row += TILE_ROWS)
        tile(p + row * width, width, 1, y + column, room.dim, keys(row) / PER,
             [&](int64_t r, int64_t c, Floats v) { out(row + r, column + c, v); });
  }

  // To each key's row of `to`, the sum of x (time, dim) over the queries that see it, weighted by p (rows, keys).
  void add_over_queries(const Unit* p, const Unit* x, float* to) const {
    for (int64_t column = 0; column < room.dim; column += TILE_COLUMNS)
      for (int64_t key = 0; key < from + rows; key += TILE_ROWS) {
        int64_t first = std::max<int64_t>(0, key - from);
        float* place = to + key * room.dim + column;
        tile(p + first / PER * room.wide + key, 1, room.wide, x + (from + first) / PER * room.dim + column, room.dim,
             (rows - first) / PER,
             [&](int64_t r, int64_t c, Floats v) {
               float* sum = place + r * room.dim + c;
               store(sum, load(sum) + v);
             });
      }
  }

  // Calls with each query's row of scores and its padded length; the future in it is hidden.
  template <class Each> void scored(float scale, Each each) const {
    by_keys(room.q, room.k_transposed,
            [&](int64_t r, int64_t s, Floats v) { store(room.scores + r * room.wide + s, v * scale); });
    for (int64_t r = 0; r < rows; r++) {
      float* row = room.scores + r * room.wide;
      int64_t length = up(keys(r), LANES);
      for (int64_t s = from + r + 1; s < length; s++) row[s] = -INFINITY;
      each(r, row, length);
    }
  }

  // Numbers (rows, keys) in units along the rows, or down the columns.
  void along(const float* numbers, Unit* to) const {
    for (int64_t r = 0; r < rows && PER > 1; r++)
      for (int64_t s = 0; s < up(keys(r), LANES); s += LANES)
        pack_along(load(numbers + r * room.wide + s), to + (r * room.wide + s) / PER);
  }
  void down(const float* numbers, Unit* to) const {
    for (int64_t r = 0; r < rows && PER > 1; r += PER)
      for (int64_t s = 0; s < up(keys(r), LANES); s += LANES)
        pack_down(load(numbers + r * room.wide + s), load(numbers + (r + 1) * room.wide + s),
                  to + r / PER * room.wide + s);
  }
};

template <class T, class Unit>
void forward(const Attention& a, Room<Unit>& room, int64_t start, int64_t count, int64_t head) {
  int64_t place = start * a.stride + head * a.dim, tokens = a.heads * a.dim;
  auto q = (const T*)a.q + place, k = (const T*)a.k + place, v = (const T*)a.v + place;
  read_along(q, a.stride, count, a.dim, room.dim, BLOCK, room.q);
  read_down(v, a.stride, count, a.dim, room.dim, BLOCK, room.v_down);
  read_transposed(k, a.stride, count, a.dim, room.wide, room.k_transposed);
  float factors[BLOCK], scale = 1.0f / std::sqrt((float)a.dim);
  for (int64_t from = 0; from < count; from += BLOCK) {
    Block<Unit> block(room, from, count);
    block.scored(scale, [&](int64_t r, float* row, int64_t length) {
      Floats peaks = load(row), sums{};
      for (int64_t s = LANES; s < length; s += LANES) peaks = larger(peaks, load(row + s));
      float peak = largest(peaks);
      for (int64_t s = 0; s < length; s += LANES) {
        Floats e = exponential(load(row + s) - peak);
        store(row + s, e);
        sums += e;
      }
      float all = total(sums);
      factors[r] = 1.0f / all;
      if (from + r < count) a.log_sums[(start + from + r) * a.heads + head] = peak + std::log(all);
    });
    block.along(room.scores, room.pattern);
    block.over_keys(room.pattern, room.v_down, [&](int64_t r, int64_t i, Floats v) {
      store(room.dq + (from + r) * room.dim + i, v * factors[r]);
    });
  }
  write_rows(room.dq, room.dim, count, a.dim, tokens, 1.0f, (T*)a.z + start * tokens + head * a.dim);
}

template <class T, class Unit>
void backward(const Attention& a, Room<Unit>& room, int64_t start, int64_t count, int64_t head) {
  int64_t place = start * a.stride + head * a.dim, tokens = a.heads * a.dim, own = start * tokens + head * a.dim;
  auto q = (const T*)a.q + place, k = (const T*)a.k + place, v = (const T*)a.v + place;
  auto dz = (const T*)a.z_gradient + own;
  read_along(q, a.stride, count, a.dim, room.dim, BLOCK, room.q);
  read_along(dz, tokens, count, a.dim, room.dim, BLOCK, room.dz);
  read_down(k, a.stride, count, a.dim, room.dim, BLOCK, room.k_down);
  if (room.PER > 1) {
    read_down(q, a.stride, count, a.dim, room.dim, BLOCK, room.q_down);
    read_down(dz, tokens, count, a.dim, room.dim, BLOCK, room.dz_down);
  }
  read_transposed(k, a.stride, count, a.dim, room.wide, room.k_transposed);
  read_transposed(v, a.stride, count, a.dim, room.wide, room.v_transposed);
  std::memset(room.dk, 0, room.time * room.dim * sizeof(float));
  std::memset(room.dv, 0, room.time * room.dim * sizeof(float));
  for (int64_t t = 0; t < count; t++) {  // sum over keys of pattern times its slope = z . dz
    auto z = (const T*)a.z + own + t * tokens, slope = dz + t * tokens;
    int64_t whole = a.dim / LANES * LANES;
    Floats sums{};
    for (int64_t i = 0; i < whole; i += LANES) sums += load(z + i) * load(slope + i);
    room.offsets[t] = total(sums);
    for (int64_t i = whole; i < a.dim; i++) room.offsets[t] += load_one(z + i) * load_one(slope + i);
  }
  float scale = 1.0f / std::sqrt((float)a.dim);
  for (int64_t from = 0; from < count; from += BLOCK) {
    Block<Unit> block(room, from, count);
    block.scored(scale, [&](int64_t r, float* row, int64_t length) {
      float log_sum = from + r < count ? a.log_sums[(start + from + r) * a.heads + head] : 0.0f;
      for (int64_t s = 0; s < length; s += LANES) store(row + s, exponential(load(row + s) - log_sum));
    });
    block.by_keys(room.dz, room.v_transposed, [&](int64_t r, int64_t s, Floats v) {
      float offset = from + r < count ? room.offsets[from + r] : 0.0f;
      store(room.slopes + r * room.wide + s, load(room.scores + r * room.wide + s) * (v - offset));
    });
    block.down(room.scores, room.pattern_down);
    block.down(room.slopes, room.slope_down);
    block.along(room.slopes, room.slope_units);
    block.add_over_queries(room.pattern_down, room.dz_down, room.dv);
    block.add_over_queries(room.slope_down, room.q_down, room.dk);
    block.over_keys(room.slope_units, room.k_down,
                    [&](int64_t r, int64_t i, Floats v) { store(room.dq + (from + r) * room.dim + i, v); });
  }
  write_rows(room.dq, room.dim, count, a.dim, tokens, scale, (T*)a.q_gradient + own);
  write_rows(room.dk, room.dim, count, a.dim, tokens, scale, (T*)a.k_gradient + own);
  write_rows(room.dv, room.dim, count, a.dim, tokens, 1.0f, (T*)a.v_gradient + own);
}

template <class T, class Unit> void attend(const Attention& a) {
  int64_t longest = 0;
  for (int64_t i = 0; i < a.documents; i++) longest = std::max(longest, a.starts[i + 1] - a.starts[i]);
#pragma omp parallel num_threads(a.threads)
  {
    Room<Unit> room(longest, a.dim, a.z_gradient);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < a.documents * a.heads; task++) {
      int64_t document = task / a.heads, start = a.starts[document], count = a.starts[document + 1] - start;
      (a.z_gradient ? backward<T, Unit> : forward<T, Unit>)(a, room, start, count, task % a.heads);
    }
  }
}

}  // namespace

extern "C" void gpt2_attention(const Attention* a) {
  a->type == 0 ? attend<float, float>(*a) : attend<uint16_t, HalfUnit>(*a);
}

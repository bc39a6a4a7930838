// What the Python side tells of a model and of a step: the structures of model/ops/step.py and serving/burst.py.
#pragma once

#include <cstdint>

constexpr int PANEL = 32;  // columns of a matrix that lie together

extern "C" {

struct Matrix {
  const void* panels;  // (columns / 32, rows, 32), zeros beyond the last column
  const float* scale;  // int8: one factor per column; else null
  const float* bias;   // or null
  int64_t rows, columns;
};
struct Norm {
  const float *weight, *bias;
};
struct Layer {
  Norm norm1, norm2;
  Matrix qkv, attention_out, up, down;
  void *keys, *values;  // (slots, context, heads, head_dim), as far apart as `Model` says
};
struct Model {
  int64_t layers, heads, d_model, vocab, context, threads;
  int64_t weight_type, cache_type;                 // 0 fp32, 1 bf16, 2 int8
  int64_t slot_stride, column_stride, head_stride;  // of keys and values
  const Layer* layer;
  const float *tokens, *positions;  // embeddings
  Norm norm;
  Matrix head;
  float *x, *queries, *z, *hidden, *norms, *scores;  // room: see the Python side
  float* logits;  // (rows, columns of the head rounded up to panels)
};
struct Rows {
  int64_t count, answers;          // rows, and how many of them, the first, want logits
  const int64_t *ids, *slots;      // of each row: its token, and whose cache it continues
  const int64_t *columns, *first;  // where in the cache it is stored, and the first column that it sees: its position 0
};

// How a token is drawn; top_k 0, top_p 1 and min_p 0 leave a filter out.
struct Choice {
  double temperature, top_p, min_p, uniform;
  int64_t top_k;
};

// Numbers between two rows of logits: whole panels.
inline int64_t logits_width(const Model& m) { return (m.vocab + PANEL - 1) / PANEL * PANEL; }

void gpt2_step(const Model* m, const Rows* rows);
int64_t gpt2_sample(const float* logits, float* room, int64_t size, float temperature, int64_t top_k, double top_p,
                    float min_p, double uniform);
}

// Several tokens of each of many sequences in one call: steps of step.cpp, and draws of sample.cpp between them.
//
// A step over all sequences would read all their keys and values, which no cache holds: it would wait for memory. So a
// thread takes a few sequences at a time and continues them for several tokens, all of it near, before it takes the next
// few. Threads share nothing but the weights, and wait for each other only at the end.

#include "step.h"
#include "vectors.h"

#ifdef _OPENMP
#include <omp.h>
#endif

extern "C" {

// Where the sequence of a slot stands.
struct Place {
  int64_t newest, column, left, ending;  // its last token, where that is stored, tokens to come, the token that ends it
};
struct Burst {
  const Model* const* models;  // of each thread: the same, but for room
  float* room;                 // of each thread: twice the vocabulary and 48
  int64_t threads, spare;      // spare: a slot that is nobody's
  // All that follows is by slot.
  Place* places;
  const Choice* how;
  const double* draws;    // (slots, block) numbers in [0, 1)
  int64_t block, *used;   // of them
  int64_t* tokens;        // (slots, most) the new ones
  int64_t most, *made;    // most of one call; how many there are
  const int64_t* leaving; // not 0: nobody reads it any more; may be set meanwhile
  int64_t* broken;        // set if the logits of its last token are no numbers
};

// Sequences that a thread takes together: so many share one reading of the weights, and their keys and values stay near.
extern const int64_t gpt2_few = 8;
}

namespace {

constexpr int64_t FEW = gpt2_few;
constexpr int64_t LEAST = 4;  // rows that step.cpp adds up alike, however many there are

bool finite(const float* x, int64_t width) {
  Floats sum[2] = {};  // of zeros, or not a number
  for (int64_t i = 0; i < width; i += 2 * LANES)
    for (int j = 0; j < 2; j++) sum[j] += load(x + i + j * LANES) - load(x + i + j * LANES);
  return total(sum[0] + sum[1]) == 0;
}

// Takes in the next token of a slot; says whether it goes on.
bool take(const Burst& b, const Model& m, const float* logits, int64_t slot, int64_t steps, float* room) {
  Place& place = b.places[slot];
  const Choice& how = b.how[slot];
  int64_t made = b.made[slot];
  b.broken[slot] = !finite(logits, logits_width(m));
  place.newest = gpt2_sample(logits, room, m.vocab, how.temperature, how.top_k, how.top_p, how.min_p,
                             b.draws[slot * b.block + b.used[slot]++]);
  place.column++, place.left--;
  b.tokens[slot * b.most + made] = place.newest;
  __atomic_store_n(&b.made[slot], made + 1, __ATOMIC_RELEASE);
  return !b.broken[slot] && place.left && place.newest != place.ending && made + 1 < steps && b.used[slot] < b.block;
}

void write(const Burst& b, const int64_t* slots, int64_t count, int64_t steps, int thread) {
  const Model& m = *b.models[thread];
  float* room = b.room + thread * (2 * m.vocab + 48);
  int64_t ids[FEW], places[FEW], columns[FEW], first[FEW] = {}, live = count;
  for (int64_t i = 0; i < count; i++) places[i] = slots[i];
  while (live) {
    int64_t stay = 0;
    for (int64_t i = 0; i < live; i++)
      if (!__atomic_load_n(&b.leaving[places[i]], __ATOMIC_ACQUIRE)) places[stay++] = places[i];
    live = stay;
    int64_t rows = (live + LEAST - 1) / LEAST * LEAST;
    for (int64_t i = 0; i < rows; i++) {
      if (i >= live) places[i] = b.spare;
      ids[i] = i < live ? b.places[places[i]].newest : 0;
      columns[i] = i < live ? b.places[places[i]].column : thread;
    }
    if (!live) return;
    Rows step{rows, rows, ids, places, columns, first};
    gpt2_step(&m, &step);
    stay = 0;
    for (int64_t i = 0; i < live; i++)
      if (take(b, m, m.logits + i * logits_width(m), places[i], steps, room)) places[stay++] = places[i];
    live = stay;
  }
}

}  // namespace

// At most `steps` tokens more for each of these slots.
extern "C" void gpt2_burst(const Burst* b, const int64_t* slots, int64_t count, int64_t steps) {
  int64_t groups = (count + FEW - 1) / FEW, threads = b->threads < groups ? b->threads : groups;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < groups; i++) {
    int thread = 0;
#ifdef _OPENMP
    thread = omp_get_thread_num();
#endif
    int64_t from = i * count / groups;
    write(*b, slots + from, (i + 1) * count / groups - from, steps, thread);
  }
}

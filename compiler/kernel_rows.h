// What the CUDA families of ops on rows share: steps whose grid is {blocks of a token, tokens, 1}
// and which read and write each operand once.
#ifndef KERNEL_ROWS_H
#define KERNEL_ROWS_H

#include "../runtime/step.h"
#include "compile.h"

enum { ROW_THREADS = 256 }; // of a block, where each thread has one item

static inline bool value_is_f32(const Problem *p, int value) {
    return p->plan->graph->values[value].type == VALUE_F32;
}

// The largest power of two up to 8 that divides both; 0 is divided by all.
static inline int64_t vector_of(int64_t width, int64_t other) {
    int64_t vector = 8;
    while (width % vector != 0 || other % vector != 0)
        vector /= 2;
    return vector;
}

// kernel_rows.c
bool rows_accepts(const Problem *p, char reason[REASON_BYTES]); // as many tokens as a grid takes
Cost rows_cost(const Problem *p, const Params *params);
// What rows_step and the families' lower() are called with.
typedef struct Lowering {
    const Problem *p;
    const Params *params;
    const Cost *cost;
    Plan *plan;
    PhasePlan *phase;
} Lowering;
// Of ceil(items / ROW_THREADS) blocks per token.
Step *rows_step(const Lowering *l, const char *source, const char *entry, int64_t items);
void rows_value(const Lowering *l, Step *s, int value);
// A norm, also one in front of a linear that has it as a step of its own.
typedef struct NormShape {
    int input;         // value
    int weight, order; // packed; order -1: none
    int64_t width;     // elements that are normed together
    int64_t out_width; // elements of such a row in the output
    bool out_f32;
    float eps;
} NormShape;
void norm_params(Params *out, const Problem *p, const NormShape *n);
void norm_step(const Lowering *l, const NormShape *n, int buffer); // l->params: of norm_params

#endif

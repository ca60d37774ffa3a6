// The linears of a mixture of experts. A row is one of the TOP_K choices of a token, number token *
// TOP_K + j. Rows are sorted by expert, so that the weights of an expert are read once for all its
// rows; each expert's rows are one product (product.h).
//
//   experts_sort     which rows go to which expert, in the order of rows
//   experts_prepare  their inputs, one segment of prepared tokens for each expert
//   experts_up       out[row] = act(gate_e x) * up_e x; 0 for an expert that another stack has
//   experts_down     partial[row] = W_e x
//   experts_sum      out[token] = sum over j of weight_j * partial[token * TOP_K + j], in that order
//
// Sums do not depend on what other tokens are in the batch. Non-goals: sorting with all threads (a
// few thousand rows at most).
#include "prepare.h"
#include "product.h"
#include "rows.h"

extern const int64_t HOLE_N;            // outputs of an expert
extern const int64_t HOLE_IN;           // elements of a row of the input value
extern const int64_t HOLE_EXPERTS;      // of this stack
extern const int64_t HOLE_ROUTED;       // experts that routes may name
extern const int64_t HOLE_TOP_K;        // experts of a token
extern const int64_t HOLE_EXPERT_BYTES; // from one expert's weights to the next one's
extern const int64_t HOLE_HAS_SLOTS;    // 1: slots[e] is the place of expert e in the stack, or -1
extern const int64_t HOLE_HAS_ORDER;    // 1: input k of place e is x[order[e][k]], -1: 0
extern const int64_t HOLE_UP;           // 1: experts_up
extern const int64_t HOLE_ACT;          // ORDER ACTIVATIONS

// ORDER EXPERT_PLACES (compiler/kernel_cpu_experts.c: its bytes)
typedef struct Places {
    int32_t *first;  // [EXPERTS + 1]: of each place, in `rows`; behind the last, rows of no expert
    int32_t *stored; // [EXPERTS + 1]: the same counted in prepared tokens
    int32_t *rows;   // [tokens * TOP_K]
} Places;

void experts_sort(const StepRun *run, int32_t thread, const float *routes, const int32_t *slots,
                  int32_t *places);
void experts_prepare(const StepRun *run, int32_t thread, const float *in, const int32_t *order,
                     int32_t *places, uint8_t *x, BlockScale *scales);
void experts_up(const StepRun *run, int32_t thread, const uint8_t *weights, int32_t *places,
                const uint8_t *x, const BlockScale *scales, float *out);
void experts_down(const StepRun *run, int32_t thread, const uint8_t *weights, int32_t *places,
                  const uint8_t *x, const BlockScale *scales, float *partial);
void experts_sum(const StepRun *run, int32_t thread, const float *routes, const int32_t *slots,
                 const float *partial, float *out);

INLINE Places places_at(int32_t *memory) {
    return (Places){memory, memory + HOLE_EXPERTS + 1, memory + 2 * (HOLE_EXPERTS + 1)};
}

// The place of choice j of a token in this stack, -1: none.
INLINE int64_t place_of(const float *routes, const int32_t *slots, int64_t token, int64_t j) {
    const float number = routes[token * 2 * HOLE_TOP_K + j];
    const int64_t expert = number >= 0 && number < (float)HOLE_ROUTED ? (int64_t)number : 0;
    return HOLE_HAS_SLOTS ? slots[expert] : expert;
}

void experts_sort(const StepRun *run, int32_t thread, const float *routes, const int32_t *slots,
                  int32_t *places) {
    const Places p = places_at(places);
    if (thread != 0)
        return;
    int32_t *next = p.stored; // how many rows, then where the next one goes
    memset(next, 0, (size_t)(HOLE_EXPERTS + 1) * sizeof *next);
    for (int64_t token = 0; token < run->tokens; token++)
        for (int64_t j = 0; j < HOLE_TOP_K; j++) {
            const int64_t place = place_of(routes, slots, token, j);
            next[place < 0 ? HOLE_EXPERTS : place]++;
        }
    int32_t at = 0;
    for (int64_t place = 0; place <= HOLE_EXPERTS; place++) {
        const int32_t count = next[place];
        p.first[place] = next[place] = at;
        at += count;
    }
    for (int64_t token = 0; token < run->tokens; token++)
        for (int64_t j = 0; j < HOLE_TOP_K; j++) {
            const int64_t place = place_of(routes, slots, token, j);
            p.rows[next[place < 0 ? HOLE_EXPERTS : place]++] = (int32_t)(token * HOLE_TOP_K + j);
        }
    int64_t stored = 0;
    for (int64_t place = 0; place < HOLE_EXPERTS; place++) {
        p.stored[place] = (int32_t)stored;
        stored += tokens_stored(p.first[place + 1] - p.first[place]);
    }
    p.stored[HOLE_EXPERTS] = (int32_t)stored;
}

// ---- inputs -------------------------------------------------------------------------------------

INLINE void record_read(float x[RECORD_INPUTS], const float *in, const int32_t *order, int64_t k0) {
    const int64_t left = HOLE_K - k0, count = left < record_k() ? left : record_k();
    for (int64_t k = 0; k < count; k++) {
        const int64_t from = HOLE_HAS_ORDER ? order[k0 + k] : k0 + k;
        x[k] = HOLE_HAS_ORDER && from < 0 ? 0 : in[from];
    }
    for (int64_t k = count; k < record_k(); k++)
        x[k] = 0;
}

// EXPERTS_UP reads the token's row, EXPERTS_DOWN what up made of it for this choice.
INLINE const float *row_input(const float *in, int64_t row) {
    return HOLE_UP ? in + row / HOLE_TOP_K * HOLE_IN
                   : in + row / HOLE_TOP_K * HOLE_IN + row % HOLE_TOP_K * HOLE_K;
}

void experts_prepare(const StepRun *run, int32_t thread, const float *in, const int32_t *order,
                     int32_t *places, uint8_t *x, BlockScale *scales) {
    const Places p = places_at(places);
    const int64_t items = p.stored[HOLE_EXPERTS] * records();
    const int64_t end = items * (thread + 1) / run->threads;
    float values[RECORD_INPUTS] __attribute__((aligned(64)));
    int64_t place = 0;
    for (int64_t item = items * thread / run->threads; item < end; item++) {
        const int64_t at = item / records(), record = item % records();
        while (at >= p.stored[place + 1])
            place++;
        const int64_t token = at - p.stored[place], first = p.stored[place];
        const Prepared to = {x + first * k_padded() * (HOLE_BITS == 16 ? 4 : 2),
                             scales + first * groups(), p.stored[place + 1] - first};
        if (p.first[place] + token < p.first[place + 1])
            record_read(values, row_input(in, p.rows[p.first[place] + token]),
                        order + place * HOLE_K, record * record_k());
        else
            memset(values, 0, sizeof values); // fills up the last block
        record_store(&to, token, record, values);
    }
}

// ---- products -----------------------------------------------------------------------------------

struct Finish {
    const int32_t *rows; // of the expert
    float *out;          // [rows of all tokens, N / 2 or N]
};

INLINE void finish(const Finish *f, int64_t tile, int64_t token, const vf y[PIECES]) {
    f8 low, high;
    vf_split(y, &low, &high);
    if (HOLE_UP) {
        const int64_t width = HOLE_N / 2, at = tile * 8;
        f8_store_some(f->out + f->rows[token] * width + at, activate(low, HOLE_ACT) * high,
                      width - at);
    } else {
        const int64_t at = tile * ROWS;
        f8_store_some(f->out + f->rows[token] * HOLE_N + at, low, HOLE_N - at);
        f8_store_some(f->out + f->rows[token] * HOLE_N + at + 8, high, HOLE_N - at - 8);
    }
}

INLINE void experts_product(const StepRun *run, int32_t thread, const uint8_t *weights,
                            const Places *p, const uint8_t *x, const BlockScale *scales,
                            float *out) {
    const int64_t tiles = (HOLE_N + ROWS - 1) / ROWS;
    for (int64_t place = 0; place < HOLE_EXPERTS; place++) {
        const int64_t first = p->stored[place];
        const Product product_of = {
            weights + place * HOLE_EXPERT_BYTES, x + first * k_padded() * (HOLE_BITS == 16 ? 4 : 2),
            scales + first * groups(), p->first[place + 1] - p->first[place]};
        const Finish f = {p->rows + p->first[place], out};
        if (product_of.tokens > 0)
            product(run, &product_of, &f, tiles * thread / run->threads,
                    tiles * (thread + 1) / run->threads);
    }
}

void experts_up(const StepRun *run, int32_t thread, const uint8_t *weights, int32_t *places,
                const uint8_t *x, const BlockScale *scales, float *out) {
    const Places p = places_at(places);
    const int64_t width = HOLE_N / 2, last = run->tokens * HOLE_TOP_K;
    experts_product(run, thread, weights, &p, x, scales, out);
    for (int64_t at = p.first[HOLE_EXPERTS] + thread; at < last; at += run->threads)
        memset(out + p.rows[at] * width, 0, (size_t)width * sizeof *out);
}

void experts_down(const StepRun *run, int32_t thread, const uint8_t *weights, int32_t *places,
                  const uint8_t *x, const BlockScale *scales, float *partial) {
    const Places p = places_at(places);
    experts_product(run, thread, weights, &p, x, scales, partial);
}

void experts_sum(const StepRun *run, int32_t thread, const float *routes, const int32_t *slots,
                 const float *partial, float *out) {
    enum { PIECE = 16 };
    const int64_t per_token = (HOLE_N + PIECE - 1) / PIECE, items = run->tokens * per_token;
    const int64_t end = items * (thread + 1) / run->threads;
    for (int64_t item = items * thread / run->threads; item < end; item++) {
        const int64_t token = item / per_token, first = item % per_token * PIECE;
        for (int64_t at = first; at < first + PIECE; at += 8) {
            f8 sum = {0};
            for (int64_t j = 0; j < HOLE_TOP_K; j++) {
                const float weight = routes[token * 2 * HOLE_TOP_K + HOLE_TOP_K + j];
                const int64_t row = token * HOLE_TOP_K + j;
                if (place_of(routes, slots, token, j) >= 0)
                    sum += weight * f8_load_some(partial + row * HOLE_N + at, HOLE_N - at);
            }
            f8_store_some(out + token * HOLE_N + at, sum, HOLE_N - at);
        }
    }
}

// Prepares the inputs of a linear (prepare.h), with the norm before it folded in:
//
//   x[k] = in[k]                                                       prologue NONE
//   x[k] = in[order[k]] * rsqrt(mean(in^2) + eps) * norm_weight[k]     prologue NORM
//
// Without an order order[k] = k; where it is -1, x[k] = 0. Work is split by (token, record); each
// thread that has a part of a token sums its squares.
#include "prepare.h"
#include "rows.h"

extern const int64_t HOLE_IN;        // elements of a row of the input
extern const int64_t HOLE_NORM;      // 1: prologue NORM
extern const int64_t HOLE_HAS_ORDER; // 1: there is an order
extern const int64_t HOLE_EPS;       // bits of the float

void quantize(const StepRun *run, int32_t thread, const float *in, const float *norm_weight,
              const int32_t *order, uint8_t *out, BlockScale *scales);

// One record's inputs, normed, zero behind K.
INLINE void record_read(float x[RECORD_INPUTS], const float *in, const float *norm_weight,
                        const int32_t *order, float factor, int64_t k0) {
    const int64_t left = HOLE_K - k0, count = left < record_k() ? left : record_k();
    for (int64_t k = 0; k < count; k++) {
        const int64_t from = HOLE_HAS_ORDER ? order[k0 + k] : k0 + k;
        const float value = HOLE_HAS_ORDER && from < 0 ? 0 : in[from];
        x[k] = HOLE_NORM ? value * factor * norm_weight[k0 + k] : value;
    }
    for (int64_t k = count; k < record_k(); k++)
        x[k] = 0;
}

void quantize(const StepRun *run, int32_t thread, const float *in, const float *norm_weight,
              const int32_t *order, uint8_t *out, BlockScale *scales) {
    const Prepared to = {out, scales, tokens_stored(run->tokens)};
    const int64_t items = to.stored * records(), end = items * (thread + 1) / run->threads;
    int64_t known = -1;
    float factor = 0;
    float x[RECORD_INPUTS] __attribute__((aligned(64)));
    for (int64_t item = items * thread / run->threads; item < end; item++) {
        const int64_t token = item / records(), record = item % records();
        const float *row = in + token * HOLE_IN;
        if (token >= run->tokens) {
            memset(x, 0, sizeof x); // fills up the last block
        } else {
            if (HOLE_NORM && token != known)
                factor = 1.0f / __builtin_sqrtf(mean_square(row, HOLE_IN) + float_bits(HOLE_EPS));
            known = token;
            record_read(x, row, norm_weight, order, factor, record * record_k());
        }
        record_store(&to, token, record, x);
    }
}

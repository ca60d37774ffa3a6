// Draws the next token from logits: the CPU form of kernels/sample.cu, whose first comment is the
// specification of both.
#ifndef SAMPLER_H
#define SAMPLER_H

#include "payload.h"

// A token that may be drawn.
typedef struct Candidate {
    uint64_t weight; // 2^40 for the most likely token
    float x;         // log2 of weight / 2^40, before rounding
    int32_t id;
} Candidate;

// logits: [vocab], changed. seen: bitset [ceil(vocab / 32)]. scratch: [vocab].
int32_t sample_token(float *logits, int64_t vocab, const SampleParams *params, const uint32_t *seen,
                     Candidate *scratch);
// First word of Philox4x32-10 with counter {step, 0, 0, 0}.
uint32_t sample_random(uint32_t seed_low, uint32_t seed_high, uint32_t step);

#endif

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

// One row of logits, and all that decides what is drawn from it.
typedef struct SampleRow {
    const float *logits; // [vocab]
    int64_t vocab;
    const SampleParams *params;
    const uint32_t *seen;   // bitset [ceil(vocab / 32)]
    const uint32_t *mask;   // the same; read if params->masked
    const uint32_t *biased; // the same; the ids of `bias`; read if params->bias_count
    const LogitBias *bias;  // [params->bias_count]
    const uint16_t *counts; // [vocab]; read if there is a presence or frequency penalty
    float *scores;          // scratch [vocab]
    Candidate *candidates;  // scratch [vocab]
    SampleResult *result;   // written if params->logprobs
} SampleRow;

int32_t sample_token(const SampleRow *row);
bool sample_counts(const SampleParams *params); // whether it needs counts
// First word of Philox4x32-10 with counter {step, 0, 0, 0}.
uint32_t sample_random(uint32_t seed_low, uint32_t seed_high, uint32_t step);

#endif

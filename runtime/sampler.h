// Draws the next token from logits: the CPU form of kernels/sample.cu.
#ifndef SAMPLER_H
#define SAMPLER_H

#include "payload.h"

// In this order, as transformers does it:
//   repetition penalty on seen tokens (positive logits divided, negative multiplied);
//   temperature 0: the largest logit, the lowest id among equals; else logits / temperature;
//   top-k: keep logits >= the k-th largest; top-p: keep the fewest largest whose probabilities reach
//   top_p (equal logits stay together); min-p: keep probability >= min_p * largest;
//   one uniform number of Philox4x32-10 (key: seed; counter: step) picks by inverse CDF in the order
//   of ids.
// logits: [vocab], changed. seen: bitset [ceil(vocab / 32)]. scratch: float [vocab].
int32_t sample_token(float *logits, int64_t vocab, const SampleParams *params, const uint32_t *seen,
                     float *scratch);
// Uniform in [0, 1), from the seed and the counter alone.
double sample_uniform(uint32_t seed_low, uint32_t seed_high, uint32_t step);

#endif

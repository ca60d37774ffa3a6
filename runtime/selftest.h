// The numbers of a self-test (selftest_run.c).
#ifndef SELFTEST_H
#define SELFTEST_H

#include "engine.h"
#include "payload_selftest.h"

// |found - expected| / |expected - its mean|, L2 norms: a common shift of all logits changes no
// probability, but is an error all the same.
typedef struct SelftestResult {
    double prefill, decode; // the worst
    int functions;          // step functions that ran and whose logits were compared
    int wrong_draws;        // drawn greedily, but another token was more likely
} SelftestResult;

// Room in the KV cache that selftest_run wants, for any target of the file.
int64_t selftest_tokens(const Executable *e);
// Runs every step function of the engine's target that its context has room for. expected:
// [SELFTEST_CHECKS][vocab_size].
bool selftest_run(const SelftestHeader *h, const float *expected, Engine *en, SelftestResult *out,
                  Error *err);

#endif

// Sampling without sorting the vocabulary: a histogram over the distance to the largest logit finds
// the bin in which the threshold lies, and only that bin is sorted.
// Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
#include "sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BINS = 4096 };

static const float BIN_WIDTH = 1.0f / 128; // of logits; what is 32 below the largest is noise

double sample_uniform(uint32_t seed_low, uint32_t seed_high, uint32_t step) {
    uint32_t c[4] = {step, 0, 0, 0}, k[2] = {seed_low, seed_high};
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xd2511f53 * c[0], b = (uint64_t)0xcd9e8d57 * c[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k[0], (uint32_t)b,
                            (uint32_t)(a >> 32) ^ c[3] ^ k[1], (uint32_t)a};
        memcpy(c, next, sizeof c);
        k[0] += 0x9e3779b9;
        k[1] += 0xbb67ae85;
    }
    return (double)(c[0] >> 8) * 0x1p-24;
}

static void penalize(float *logits, int64_t vocab, float penalty, const uint32_t *seen) {
    for (int64_t id = 0; id < vocab; id++)
        if (seen[id / 32] >> (id % 32) & 1)
            logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
}

static int64_t argmax(const float *logits, int64_t vocab) {
    int64_t best = 0;
    for (int64_t id = 1; id < vocab; id++)
        if (logits[id] > logits[best])
            best = id;
    return best;
}

static int bin_of(float distance) {
    float bin = distance / BIN_WIDTH;
    return bin < BINS - 1 ? (int)bin : BINS - 1;
}

static int descending(const void *a, const void *b) {
    float x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x < y) - (x > y);
}

// Smallest logit to keep so that the kept weigh `wanted`: each weighs 1 (by_count) or exp(l - top).
// Only logits >= floor count.
static float threshold(const float *logits, int64_t vocab, float top, float floor, double wanted,
                       bool by_count, float *scratch) {
    double mass[BINS] = {0};
    for (int64_t id = 0; id < vocab; id++)
        if (logits[id] >= floor)
            mass[bin_of(top - logits[id])] += by_count ? 1 : exp((double)(logits[id] - top));
    int bin = 0;
    double above = 0;
    while (bin < BINS - 1 && above + mass[bin] < wanted)
        above += mass[bin++];
    int64_t count = 0;
    for (int64_t id = 0; id < vocab; id++)
        if (logits[id] >= floor && bin_of(top - logits[id]) == bin)
            scratch[count++] = logits[id];
    qsort(scratch, (size_t)count, sizeof *scratch, descending);
    for (int64_t at = 0; at < count; at++) {
        above += by_count ? 1 : exp((double)(scratch[at] - top));
        if (above >= wanted)
            return scratch[at];
    }
    return floor;
}

// The smallest logit that may be drawn.
static float floor_of(const float *logits, int64_t vocab, float top, const SampleParams *p,
                      float *scratch) {
    float floor = -INFINITY;
    if (p->top_k > 0 && p->top_k < vocab)
        floor = threshold(logits, vocab, top, floor, p->top_k, true, scratch);
    if (p->top_p < 1) {
        double total = 0;
        for (int64_t id = 0; id < vocab; id++)
            if (logits[id] >= floor)
                total += exp((double)(logits[id] - top));
        floor = threshold(logits, vocab, top, floor, (double)p->top_p * total, false, scratch);
    }
    if (p->min_p > 0)
        floor = fmaxf(floor, top + logf(p->min_p));
    return floor;
}

int32_t sample_token(float *logits, int64_t vocab, const SampleParams *p, const uint32_t *seen,
                     float *scratch) {
    if (p->repetition_penalty > 0 && p->repetition_penalty != 1)
        penalize(logits, vocab, p->repetition_penalty, seen);
    int64_t best = argmax(logits, vocab);
    if (!(p->temperature > 0))
        return (int32_t)best;
    for (int64_t id = 0; id < vocab; id++)
        logits[id] /= p->temperature;
    float top = logits[best];
    float floor = floor_of(logits, vocab, top, p, scratch);
    double total = 0;
    for (int64_t id = 0; id < vocab; id++)
        if (logits[id] >= floor)
            total += exp((double)(logits[id] - top));
    double left = sample_uniform(p->seed_low, p->seed_high, (uint32_t)p->step) * total;
    int64_t last = best;
    for (int64_t id = 0; id < vocab; id++) {
        if (!(logits[id] >= floor))
            continue;
        left -= exp((double)(logits[id] - top));
        last = id;
        if (left < 0)
            return (int32_t)id;
    }
    return (int32_t)last; // rounding left a rest
}

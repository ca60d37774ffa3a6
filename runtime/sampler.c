// Sampling without sorting the vocabulary: a histogram over the distance to the largest logit finds
// the bin in which a threshold lies, and only that bin is sorted. Weights are integers, so sums are
// exact and the result does not depend on the order of adding.
// Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
#include "sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BINS = 2560 };

static const float BINS_PER_UNIT = 64; // of log2: 40 units in all

__extension__ typedef unsigned __int128 Uint128;

uint32_t sample_random(uint32_t seed_low, uint32_t seed_high, uint32_t step) {
    uint32_t c[4] = {step, 0, 0, 0}, k[2] = {seed_low, seed_high};
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xd2511f53 * c[0], b = (uint64_t)0xcd9e8d57 * c[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k[0], (uint32_t)b,
                            (uint32_t)(a >> 32) ^ c[3] ^ k[1], (uint32_t)a};
        memcpy(c, next, sizeof c);
        k[0] += 0x9e3779b9;
        k[1] += 0xbb67ae85;
    }
    return c[0];
}

static void penalize(float *logits, int64_t vocab, float penalty, const uint32_t *seen) {
    for (int64_t word = 0; word < ceil_div(vocab, 32); word++)
        for (uint32_t bits = seen[word]; bits; bits &= bits - 1) {
            float *logit = &logits[word * 32 + __builtin_ctz(bits)];
            *logit = *logit > 0 ? *logit / penalty : *logit * penalty;
        }
}

// Makes all logits finite; returns the largest. NaN counts as the smallest.
static float clean(float *logits, int64_t vocab) {
    float max = -FLT_MAX;
    for (int64_t id = 0; id < vocab; id++) {
        float s = logits[id] >= -FLT_MAX ? logits[id] : -FLT_MAX;
        s = s < FLT_MAX ? s : FLT_MAX;
        logits[id] = s;
        max = s > max ? s : max;
    }
    return max;
}

static uint64_t weight_of(float x) {
    return x > -40 ? (uint64_t)(exp2f(x) * 0x1p40f) : 0;
}

// The tokens with a weight, in the order of their ids. Returns how many.
static int64_t candidates_make(Candidate *out, const float *logits, int64_t vocab, float max,
                               float scale) {
    int64_t count = 0;
    for (int64_t id = 0; id < vocab; id++) {
        float x = (logits[id] - max) * scale;
        uint64_t weight = weight_of(x);
        out[count] = (Candidate){.weight = weight, .x = x, .id = (int32_t)id};
        count += weight > 0;
    }
    return count;
}

static int bin_of(float x) {
    int bin = (int)(-x * BINS_PER_UNIT);
    return bin < BINS - 1 ? bin : BINS - 1;
}

static int descending(const void *a, const void *b) {
    float x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x < y) - (x > y);
}

// The lowest x whose candidates stay: those with a larger x measure less than `limit` together. A
// candidate measures 1 (by_count) or its weight. Only x >= least count. buffer: float [count].
static float threshold(const Candidate *candidates, int64_t count, float least, uint64_t limit,
                       bool by_count, float *buffer) {
    uint64_t mass[BINS] = {0};
    for (int64_t at = 0; at < count; at++)
        if (candidates[at].x >= least)
            mass[bin_of(candidates[at].x)] += by_count ? 1 : candidates[at].weight;
    uint64_t above = 0;
    int bin = 0;
    while (bin < BINS - 1 && above + mass[bin] < limit)
        above += mass[bin++];
    int64_t in_bin = 0;
    for (int64_t at = 0; at < count; at++)
        if (candidates[at].x >= least && bin_of(candidates[at].x) == bin)
            buffer[in_bin++] = candidates[at].x;
    qsort(buffer, (size_t)in_bin, sizeof *buffer, descending);
    float kept = least;
    for (int64_t at = 0; at < in_bin; at++) {
        if ((at == 0 || buffer[at] < buffer[at - 1]) && above >= limit)
            return kept;
        kept = buffer[at];
        // Equal x have equal weights, so that adding them one by one is adding them before the
        // next.
        above += by_count ? 1 : weight_of(buffer[at]);
    }
    return in_bin ? kept : least;
}

static uint64_t total_weight(const Candidate *candidates, int64_t count, float least,
                             uint64_t min_weight) {
    uint64_t total = 0;
    for (int64_t at = 0; at < count; at++)
        total += candidates[at].x >= least && candidates[at].weight >= min_weight
                     ? candidates[at].weight
                     : 0;
    return total;
}

// The lowest x that top-k and top-p keep.
static float least_kept(const Candidate *candidates, int64_t count, const SampleParams *p,
                        float *buffer) {
    float least = -INFINITY;
    if (p->top_k > 0 && p->top_k < count)
        least = threshold(candidates, count, least, (uint64_t)p->top_k, true, buffer);
    if (p->top_p < 1) {
        uint64_t share = (uint64_t)(fmaxf(p->top_p, 0) * 0x1p32f);
        Uint128 part = (Uint128)total_weight(candidates, count, least, 1) * share >> 32;
        least = threshold(candidates, count, least, part > 1 ? (uint64_t)part : 1, false, buffer);
    }
    return least;
}

static int32_t draw(const Candidate *candidates, int64_t count, float least,
                    const SampleParams *p) {
    uint64_t min_weight = (uint64_t)(fminf(fmaxf(p->min_p, 0), 1) * 0x1p40f);
    uint64_t total = total_weight(candidates, count, least, min_weight);
    uint32_t random = sample_random(p->seed_low, p->seed_high, (uint32_t)p->step);
    uint64_t left = (uint64_t)((Uint128)total * random >> 32);
    int64_t at = 0;
    for (; at < count - 1; at++) {
        bool kept = candidates[at].x >= least && candidates[at].weight >= min_weight;
        if (kept && candidates[at].weight > left)
            break;
        left -= kept ? candidates[at].weight : 0;
    }
    return candidates[at].id;
}

int32_t sample_token(float *logits, int64_t vocab, const SampleParams *p, const uint32_t *seen,
                     Candidate *scratch) {
    if (p->repetition_penalty > 0 && p->repetition_penalty != 1)
        penalize(logits, vocab, p->repetition_penalty, seen);
    float max = clean(logits, vocab);
    if (!(p->temperature > 0)) {
        int64_t best = 0;
        while (logits[best] < max)
            best++;
        return (int32_t)best;
    }
    float scale = fminf(1.44269504f / p->temperature, 1e30f); // 0 * infinity is no number
    int64_t count = candidates_make(scratch, logits, vocab, max, scale);
    float least = least_kept(scratch, count, p, logits); // the logits are not needed any more
    return draw(scratch, count, least, p);
}

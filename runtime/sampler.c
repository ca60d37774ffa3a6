// Sampling without sorting the vocabulary: a histogram over the distance to the largest logit finds
// the bin in which a threshold lies, and only that bin is sorted. Weights are integers, so sums are
// exact and the result does not depend on the order of adding.
// Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
#include "sampler.h"

#include <assert.h>
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

// ---- scores -------------------------------------------------------------------------------------

static bool bit(const uint32_t *bits, int64_t id) {
    return bits[id / 32] >> (id % 32) & 1;
}

static float cleaned(float logit) { // NaN counts as the smallest
    float s = logit >= -FLT_MAX ? logit : -FLT_MAX;
    return s < FLT_MAX ? s : FLT_MAX;
}

static void penalize_seen(float *scores, int64_t vocab, float penalty, const uint32_t *seen) {
    for (int64_t word = 0; word < ceil_div(vocab, 32); word++)
        for (uint32_t bits = seen[word]; bits; bits &= bits - 1) {
            float *s = &scores[word * 32 + __builtin_ctz(bits)];
            *s = *s > 0 ? *s / penalty : *s * penalty;
        }
}

bool sample_counts(const SampleParams *p) {
    return p->presence_penalty != 0 || p->frequency_penalty != 0;
}

static void penalize_counted(float *scores, const SampleRow *row) {
    const SampleParams *p = row->params;
    for (int64_t id = 0; id < row->vocab; id++)
        if (row->counts[id])
            scores[id] -= p->presence_penalty + p->frequency_penalty * (float)row->counts[id];
}

static int64_t token_count(const SampleRow *row) {
    int64_t count = row->params->token_count;
    return count > 0 && count < row->vocab ? count : row->vocab;
}

// -infinity: never drawn; all others are finite. Returns the largest.
static float scores_make(const SampleRow *row) {
    const SampleParams *p = row->params;
    float *scores = row->scores, max = -INFINITY;
    memcpy(scores, row->logits, (size_t)row->vocab * sizeof *scores);
    if (p->repetition_penalty > 0 && p->repetition_penalty != 1)
        penalize_seen(scores, row->vocab, p->repetition_penalty, row->seen);
    if (sample_counts(p))
        penalize_counted(scores, row);
    for (int32_t at = 0; at < p->bias_count; at++)
        scores[row->bias[at].id] += row->bias[at].bias;
    for (int64_t id = token_count(row); id < row->vocab; id++)
        scores[id] = -INFINITY;
    for (int64_t id = 0; id < token_count(row); id++) {
        bool allowed = !p->masked || bit(row->mask, id);
        scores[id] = allowed ? cleaned(scores[id]) : -INFINITY;
        max = scores[id] > max ? scores[id] : max;
    }
    return max;
}

// ---- logprobs -----------------------------------------------------------------------------------

// Inserts an id into the list of the most likely, which is full when it has `most`.
static void top_insert(SampleResult *out, int32_t most, int32_t id, float logit) {
    int32_t at = out->top_count < most ? out->top_count++ : most - 1;
    for (; at > 0 && out->top_logprobs[at - 1] < logit; at--) {
        out->top_ids[at] = out->top_ids[at - 1];
        out->top_logprobs[at] = out->top_logprobs[at - 1];
    }
    out->top_ids[at] = id;
    out->top_logprobs[at] = logit;
}

static void logprobs_make(const SampleRow *row, int32_t token, SampleResult *out) {
    int32_t asked = row->params->logprobs - 1;
    int32_t most = asked < SAMPLE_MAX_TOP ? asked : SAMPLE_MAX_TOP;
    float max = -FLT_MAX;
    double total = 0;
    *out = (SampleResult){.top_count = 0};
    for (int64_t id = 0; id < row->vocab; id++)
        max = cleaned(row->logits[id]) > max ? cleaned(row->logits[id]) : max;
    for (int64_t id = 0; id < row->vocab; id++)
        total += (double)expf(cleaned(row->logits[id]) - max);
    for (int64_t id = 0; id < token_count(row) && most > 0; id++) {
        float logit = cleaned(row->logits[id]);
        if (out->top_count < most || logit > out->top_logprobs[most - 1])
            top_insert(out, most, (int32_t)id, logit);
    }
    double below = (double)max + log(total);
    for (int32_t at = 0; at < out->top_count; at++)
        out->top_logprobs[at] = (float)((double)out->top_logprobs[at] - below);
    out->logprob = (float)((double)cleaned(row->logits[token]) - below);
}

// ---- the draw -----------------------------------------------------------------------------------

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

static int32_t token_draw(const SampleRow *row) {
    const SampleParams *p = row->params;
    float max = scores_make(row);
    assert(max > -INFINITY); // a mask leaves a token
    if (!(p->temperature > 0)) {
        int64_t best = 0;
        while (row->scores[best] < max)
            best++;
        return (int32_t)best;
    }
    float scale = fminf(1.44269504f / p->temperature, 1e30f); // 0 * infinity is no number
    int64_t count = candidates_make(row->candidates, row->scores, row->vocab, max, scale);
    float least = least_kept(row->candidates, count, p, row->scores); // not needed any more
    return draw(row->candidates, count, least, p);
}

int32_t sample_token(const SampleRow *row) {
    int32_t token = token_draw(row);
    if (row->params->logprobs > 0)
        logprobs_make(row, token, row->result);
    return token;
}

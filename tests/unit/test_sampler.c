// The sampler against vectors of make_sampler_vectors.py, and against the specification in the
// first comment of kernels/sample.cu written with plain loops.
#include "../../runtime/sampler.h" // before cmocka, which has a macro fail

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VOCAB = 5000, WORDS = (MAX_VOCAB + 31) / 32, VECTOR_STEPS = 24 };

typedef struct Case {
    int64_t vocab;
    SampleParams p;
    int spread;
    int ties; // 1: only 64 different logits
} Case;

// The generator of make_sampler_vectors.py.
static void inputs_make(const Case *c, float *logits, uint32_t *seen) {
    uint32_t state = c->p.seed_low, levels = c->ties ? 64 : 1 << 20;
    memset(seen, 0, WORDS * sizeof *seen);
    for (int64_t id = 0; id < c->vocab; id++) {
        state = state * 1664525 + 1013904223;
        double part = (double)((state >> 8) % levels) / levels;
        logits[id] = (float)(part * c->spread - c->spread / 2.0);
    }
    for (int64_t id = 0; id < c->vocab; id++) {
        state = state * 1664525 + 1013904223;
        if ((state >> 8) % 3 == 0)
            seen[id / 32] |= 1u << (id % 32);
    }
}

// ---- vectors ------------------------------------------------------------------------------------

static bool case_read(FILE *file, Case *c, int32_t tokens[VECTOR_STEPS]) {
    unsigned long long seed;
    long long vocab;
    if (fscanf(file, "%lld %f %d %f %f %f %llu %d %d :", &vocab, &c->p.temperature, &c->p.top_k,
               &c->p.top_p, &c->p.min_p, &c->p.repetition_penalty, &seed, &c->spread,
               &c->ties) != 9)
        return false;
    c->vocab = vocab;
    c->p.seed_low = (uint32_t)seed;
    c->p.seed_high = (uint32_t)(seed >> 32);
    for (int step = 0; step < VECTOR_STEPS; step++)
        assert_int_equal(fscanf(file, "%d", &tokens[step]), 1);
    return true;
}

static void test_vectors(void **state) {
    (void)state;
    static float original[MAX_VOCAB], logits[MAX_VOCAB];
    static Candidate scratch[MAX_VOCAB];
    uint32_t seen[WORDS];
    int32_t expected[VECTOR_STEPS];
    Case c = {0};
    int cases = 0, checked = 0;
    FILE *file = fopen("tests/vectors/sampler/draws.txt", "r");
    assert_non_null(file);
    for (; case_read(file, &c, expected); cases++) {
        inputs_make(&c, original, seen);
        for (int step = 0; step < VECTOR_STEPS; step++) {
            memcpy(logits, original, sizeof logits);
            c.p.step = step;
            int32_t found = sample_token(logits, c.vocab, &c.p, seen, scratch);
            if (expected[step] >= 0 && found != expected[step])
                fail_msg("case %d, step %d: token %d, expected %d (vocab %lld, temperature %g, "
                         "top_k %d, top_p %g, min_p %g, penalty %g, ties %d)",
                         cases, step, found, expected[step], (long long)c.vocab,
                         (double)c.p.temperature, c.p.top_k, (double)c.p.top_p, (double)c.p.min_p,
                         (double)c.p.repetition_penalty, c.ties);
            checked += expected[step] >= 0;
        }
    }
    fclose(file);
    assert_int_equal(cases, 210);
    assert_true(checked > 5000);
}

// ---- the specification, token by token ----------------------------------------------------------

__extension__ typedef unsigned __int128 Wide;

typedef struct Spec {
    float s[MAX_VOCAB];
    uint64_t w[MAX_VOCAB];
    bool kept[MAX_VOCAB], next[MAX_VOCAB];
} Spec;

static void spec_scores(Spec *spec, const float *logits, int64_t vocab, const SampleParams *p,
                        const uint32_t *seen) {
    float max = -FLT_MAX;
    for (int64_t id = 0; id < vocab; id++) {
        float s = logits[id];
        if (p->repetition_penalty > 0 && p->repetition_penalty != 1 &&
            (seen[id / 32] >> (id % 32) & 1))
            s = s > 0 ? s / p->repetition_penalty : s * p->repetition_penalty;
        s = isnan(s) || s < -FLT_MAX ? -FLT_MAX : s > FLT_MAX ? FLT_MAX : s;
        spec->s[id] = s;
        max = fmaxf(max, s);
    }
    for (int64_t id = 0; id < vocab; id++) {
        float x = (spec->s[id] - max) * (1.44269504f / p->temperature);
        spec->w[id] = x <= -40 ? 0 : (uint64_t)(exp2f(x) * 0x1p40f);
        spec->kept[id] = true;
    }
}

// Of the kept tokens with a larger score: how many (by_count), or the sum of their weights.
static uint64_t spec_above(const Spec *spec, int64_t vocab, int64_t id, bool by_count) {
    uint64_t above = 0;
    for (int64_t other = 0; other < vocab; other++)
        if (spec->kept[other] && spec->s[other] > spec->s[id])
            above += by_count ? 1 : spec->w[other];
    return above;
}

static void spec_limit(Spec *spec, int64_t vocab, bool by_count, uint64_t limit) {
    for (int64_t id = 0; id < vocab; id++)
        spec->next[id] = spec->kept[id] && spec_above(spec, vocab, id, by_count) < limit;
    memcpy(spec->kept, spec->next, (size_t)vocab * sizeof *spec->kept);
}

static uint64_t spec_total(const Spec *spec, int64_t vocab) {
    uint64_t total = 0;
    for (int64_t id = 0; id < vocab; id++)
        total += spec->kept[id] ? spec->w[id] : 0;
    return total;
}

static int32_t spec_draw(Spec *spec, const float *logits, int64_t vocab, const SampleParams *p,
                         const uint32_t *seen) {
    spec_scores(spec, logits, vocab, p, seen);
    if (p->top_k > 0 && p->top_k < vocab)
        spec_limit(spec, vocab, true, (uint64_t)p->top_k);
    if (p->top_p < 1) {
        uint64_t q = (uint64_t)(fmaxf(p->top_p, 0) * 0x1p32f);
        Wide part = (Wide)spec_total(spec, vocab) * q >> 32;
        spec_limit(spec, vocab, false, part > 1 ? (uint64_t)part : 1);
    }
    uint64_t least = (uint64_t)(fminf(fmaxf(p->min_p, 0), 1) * 0x1p40f);
    for (int64_t id = 0; id < vocab; id++)
        spec->kept[id] = spec->kept[id] && spec->w[id] >= (least > 1 ? least : 1);
    uint32_t u = sample_random(p->seed_low, p->seed_high, (uint32_t)p->step);
    uint64_t r = (uint64_t)((Wide)spec_total(spec, vocab) * u >> 32), sum = 0;
    for (int64_t id = 0; id < vocab; id++) {
        sum += spec->kept[id] ? spec->w[id] : 0;
        if (sum > r)
            return (int32_t)id;
    }
    return -1;
}

static void test_specification(void **state) {
    (void)state;
    static float original[MAX_VOCAB], logits[MAX_VOCAB];
    static Candidate scratch[MAX_VOCAB];
    static Spec spec;
    const float temperatures[] = {0.1f, 0.8f, 1, 3}, top_ps[] = {1, 0.999f, 0.9f, 0.3f, 0, -1};
    const float min_ps[] = {0, 0.02f, 1, 2}, penalties[] = {1, 1.1f, 0.5f};
    const int32_t top_ks[] = {0, 1, 2, 50, 100000};
    uint32_t seen[WORDS], random = 1;
    for (int trial = 0; trial < 1500; trial++) {
        random = random * 1664525 + 1013904223;
        uint32_t pick = random >> 6;
        Case c = {.vocab = 1 + pick % 300,
                  .spread = pick % 5 ? 20 : 90,
                  .ties = pick % 2,
                  .p = {.temperature = temperatures[pick % 4],
                        .top_k = top_ks[pick / 4 % 5],
                        .top_p = top_ps[pick / 20 % 6],
                        .min_p = min_ps[pick / 120 % 4],
                        .repetition_penalty = penalties[pick / 480 % 3],
                        .seed_low = random,
                        .step = trial}};
        inputs_make(&c, original, seen);
        if (trial % 9 == 0) { // what a broken model gives
            original[pick % (uint32_t)c.vocab] = (float[]){NAN, INFINITY, -INFINITY}[trial / 9 % 3];
        }
        memcpy(logits, original, sizeof logits);
        int32_t expected = spec_draw(&spec, original, c.vocab, &c.p, seen);
        int32_t found = sample_token(logits, c.vocab, &c.p, seen, scratch);
        if (found != expected)
            fail_msg("trial %d: token %d, expected %d", trial, found, expected);
    }
}

// ---- single facts -------------------------------------------------------------------------------

// Known answers of Random123 (kat_vectors) have other counters but this one.
static void test_random_numbers(void **state) {
    (void)state;
    assert_int_equal(sample_random(0, 0, 0), 0x6627e8d5);
    assert_int_not_equal(sample_random(0, 1, 0), sample_random(1, 0, 0));
}

static void test_greedy(void **state) {
    (void)state;
    const SampleParams p = {.top_p = 0.1f, .repetition_penalty = 2, .top_k = 1};
    const struct {
        float logits[4];
        uint32_t seen;
        int32_t token;
    } rows[] = {
        {{1, 3, 3, 2}, 0, 1},        // the lowest id among equals
        {{1, 3, 3, 2}, 2, 2},        // the penalty halves the first
        {{-4, -1, -1.5f, -9}, 2, 2}, // and doubles what is negative
        {{NAN, NAN, NAN, NAN}, 0, 0},
        {{NAN, -INFINITY, -3e38f, NAN}, 0, 2},
        {{0, INFINITY, INFINITY, 0}, 0, 1},
        {{-0.0f, 0, 0, 0}, 0, 0},
    };
    Candidate scratch[4];
    for (size_t at = 0; at < sizeof rows / sizeof *rows; at++) {
        float logits[4];
        memcpy(logits, rows[at].logits, sizeof logits);
        assert_int_equal(sample_token(logits, 4, &p, &rows[at].seen, scratch), rows[at].token);
    }
}

// Chi-squared over 16 tokens: 60000 draws follow the softmax. 37.7 is the 99.9 % point of 15
// degrees.
static void test_distribution(void **state) {
    (void)state;
    enum { TOKENS = 16, DRAWS = 60000 };
    float original[TOKENS], logits[TOKENS];
    Candidate scratch[TOKENS];
    int counts[TOKENS] = {0};
    double total = 0, chi = 0;
    const uint32_t seen = 0;
    for (int id = 0; id < TOKENS; id++) {
        original[id] = (float)(id * 7 % TOKENS) / 4.0f;
        total += exp((double)original[id]);
    }
    for (int step = 0; step < DRAWS; step++) {
        const SampleParams p = {
            .temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed_low = 99, .step = step};
        memcpy(logits, original, sizeof logits);
        counts[sample_token(logits, TOKENS, &p, &seen, scratch)]++;
    }
    for (int id = 0; id < TOKENS; id++) {
        double expected = (double)DRAWS * exp((double)original[id]) / total;
        chi += (counts[id] - expected) * (counts[id] - expected) / expected;
    }
    assert_true(chi < 37.7);
}

// Temperatures that overflow the scale still give a token.
static void test_tiny_temperature(void **state) {
    (void)state;
    float logits[3] = {1, 2, 1.5f};
    Candidate scratch[3];
    const uint32_t seen = 0;
    const SampleParams p = {.temperature = 1e-42f, .top_p = 0.5f, .repetition_penalty = 1};
    assert_int_equal(sample_token(logits, 3, &p, &seen, scratch), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),        cmocka_unit_test(test_specification),
        cmocka_unit_test(test_random_numbers), cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_distribution),   cmocka_unit_test(test_tiny_temperature),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

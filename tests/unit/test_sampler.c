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

// Everything that a row needs.
typedef struct Inputs {
    float logits[MAX_VOCAB], scores[MAX_VOCAB];
    uint32_t seen[WORDS], mask[WORDS];
    uint16_t counts[MAX_VOCAB];
    LogitBias bias[SAMPLE_MAX_BIAS];
    Candidate candidates[MAX_VOCAB];
    SampleResult result;
} Inputs;

static uint32_t number_next(uint32_t *state) {
    *state = *state * 1664525 + 1013904223;
    return *state >> 8;
}

static void bit_set(uint32_t *bits, int64_t id, bool set) {
    if (set)
        bits[id / 32] |= 1u << (id % 32);
}

// The generator of make_sampler_vectors.py.
static void inputs_make(const Case *c, Inputs *in) {
    uint32_t state = c->p.seed_low, levels = c->ties ? 64 : 1 << 20;
    memset(in->seen, 0, sizeof in->seen);
    memset(in->mask, 0, sizeof in->mask);
    for (int64_t id = 0; id < c->vocab; id++) {
        double part = (double)(number_next(&state) % levels) / levels;
        in->logits[id] = (float)(part * c->spread - c->spread / 2.0);
    }
    for (int64_t id = 0; id < c->vocab; id++)
        bit_set(in->seen, id, number_next(&state) % 3 == 0);
    for (int64_t id = 0; id < c->vocab; id++) {
        uint32_t count = number_next(&state) % 8;
        in->counts[id] = (uint16_t)(count > 4 ? count - 4 : 0);
    }
    for (int64_t id = 0; id < c->vocab; id++)
        bit_set(in->mask, id, number_next(&state) % 4 != 0 || id == 0);
    for (int64_t id = 0; id < c->vocab; id++) {
        float bias = (float)(number_next(&state) % 64) / 4 - 8;
        int64_t step = c->p.bias_count ? c->vocab / c->p.bias_count : c->vocab;
        if (id % step == 0 && id / step < c->p.bias_count)
            in->bias[id / step] = (LogitBias){(int32_t)id, bias};
    }
}

static SampleRow row_of(Inputs *in, const Case *c) {
    return (SampleRow){.logits = in->logits,
                       .vocab = c->vocab,
                       .params = &c->p,
                       .seen = in->seen,
                       .mask = in->mask,
                       .bias = in->bias,
                       .counts = in->counts,
                       .scores = in->scores,
                       .candidates = in->candidates,
                       .result = &in->result};
}

// ---- vectors ------------------------------------------------------------------------------------

static bool case_read(FILE *file, Case *c, int32_t tokens[VECTOR_STEPS]) {
    unsigned long long seed;
    long long vocab;
    SampleParams *p = &c->p;
    if (fscanf(file, "%lld %f %d %f %f %f %f %f %d %d %d %llu %d %d :", &vocab, &p->temperature,
               &p->top_k, &p->top_p, &p->min_p, &p->repetition_penalty, &p->presence_penalty,
               &p->frequency_penalty, &p->bias_count, &p->masked, &p->token_count, &seed,
               &c->spread, &c->ties) != 14)
        return false;
    c->vocab = vocab;
    p->seed_low = (uint32_t)seed;
    p->seed_high = (uint32_t)(seed >> 32);
    for (int step = 0; step < VECTOR_STEPS; step++)
        assert_int_equal(fscanf(file, "%d", &tokens[step]), 1);
    return true;
}

static void test_vectors(void **state) {
    (void)state;
    static Inputs in;
    int32_t expected[VECTOR_STEPS];
    Case c = {0};
    const SampleRow row = row_of(&in, &c);
    int cases = 0, checked = 0;
    FILE *file = fopen("tests/vectors/sampler/draws.txt", "r");
    assert_non_null(file);
    for (; case_read(file, &c, expected); cases++) {
        SampleRow now = row;
        now.vocab = c.vocab;
        inputs_make(&c, &in);
        for (int step = 0; step < VECTOR_STEPS; step++) {
            c.p.step = step;
            int32_t found = sample_token(&now);
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
    assert_int_equal(cases, 373);
    assert_true(checked > 8000);
}

static void test_logprobs(void **state) {
    (void)state;
    static Inputs in;
    Case c = {.p = {.temperature = 1, .top_p = 1, .repetition_penalty = 2, .logprobs = 21}};
    unsigned long long seed;
    long long vocab;
    int cases = 0, id;
    double logprob;
    FILE *file = fopen("tests/vectors/sampler/logprobs.txt", "r");
    assert_non_null(file);
    for (; fscanf(file, "%lld %d %llu %d %d :", &vocab, &c.p.token_count, &seed, &c.spread,
                  &c.ties) == 5;
         cases++) {
        c.vocab = vocab;
        c.p.seed_low = (uint32_t)seed;
        inputs_make(&c, &in);
        SampleRow row = row_of(&in, &c);
        int32_t token = sample_token(&row), rank = 0;
        for (; fscanf(file, "%d %lf", &id, &logprob) == 2 && rank < 20; rank++) {
            assert_int_equal(in.result.top_ids[rank], id);
            assert_true(fabs((double)in.result.top_logprobs[rank] - logprob) <
                        2e-6 * (1 - logprob));
            if (id == token)
                assert_true(in.result.logprob == in.result.top_logprobs[rank]);
            if (rank + 1 == in.result.top_count) {
                rank++;
                break;
            }
        }
        assert_int_equal(in.result.top_count, rank);
        assert_true(rank == 20 || rank == (c.p.token_count ? c.p.token_count : c.vocab));
    }
    fclose(file);
    assert_int_equal(cases, 30);
}

// ---- the specification, token by token ----------------------------------------------------------

__extension__ typedef unsigned __int128 Wide;

typedef struct Spec {
    float s[MAX_VOCAB];
    uint64_t w[MAX_VOCAB];
    bool kept[MAX_VOCAB], next[MAX_VOCAB];
} Spec;

static bool spec_excluded(const SampleRow *row, int64_t id) {
    const SampleParams *p = row->params;
    return (p->token_count && id >= p->token_count) ||
           (p->masked && !(row->mask[id / 32] >> (id % 32) & 1));
}

static float spec_score(const SampleRow *row, int64_t id) {
    const SampleParams *p = row->params;
    float s = row->logits[id];
    if (p->repetition_penalty > 0 && p->repetition_penalty != 1 &&
        (row->seen[id / 32] >> (id % 32) & 1))
        s = s > 0 ? s / p->repetition_penalty : s * p->repetition_penalty;
    if (row->counts[id])
        s -= p->presence_penalty + p->frequency_penalty * (float)row->counts[id];
    for (int32_t at = 0; at < p->bias_count; at++)
        s += row->bias[at].id == id ? row->bias[at].bias : 0;
    return isnan(s) || s < -FLT_MAX ? -FLT_MAX : s > FLT_MAX ? FLT_MAX : s;
}

static void spec_scores(Spec *spec, const SampleRow *row) {
    float max = -INFINITY;
    for (int64_t id = 0; id < row->vocab; id++) {
        spec->s[id] = spec_excluded(row, id) ? -INFINITY : spec_score(row, id);
        max = fmaxf(max, spec->s[id]);
    }
    for (int64_t id = 0; id < row->vocab; id++) {
        float x = (spec->s[id] - max) * (1.44269504f / row->params->temperature);
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

static int32_t spec_draw(Spec *spec, const SampleRow *row) {
    const SampleParams *p = row->params;
    int64_t vocab = row->vocab;
    spec_scores(spec, row);
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
    static Inputs in;
    static Spec spec;
    const float temperatures[] = {0.1f, 0.8f, 1, 3}, top_ps[] = {1, 0.999f, 0.9f, 0.3f, 0, -1};
    const float min_ps[] = {0, 0.02f, 1, 2}, penalties[] = {1, 1.1f, 0.5f};
    const int32_t top_ks[] = {0, 1, 2, 50, 100000};
    uint32_t random = 1;
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
                        .presence_penalty = pick / 1440 % 2 ? 1.5f : 0,
                        .frequency_penalty = pick / 2880 % 2 ? -0.75f : 0,
                        .bias_count = pick / 5760 % 3 ? 0 : (int32_t)(1 + pick % 300) / 2,
                        .masked = pick / 17280 % 3 == 0,
                        .token_count = (int32_t)(pick / 51840 % 3 ? 0 : 1 + pick % 300 / 2),
                        .seed_low = random,
                        .step = trial}};
        inputs_make(&c, &in);
        if (trial % 9 == 0) { // what a broken model gives
            in.logits[pick % (uint32_t)c.vocab] =
                (float[]){NAN, INFINITY, -INFINITY}[trial / 9 % 3];
        }
        const SampleRow row = row_of(&in, &c);
        int32_t expected = spec_draw(&spec, &row), found = sample_token(&row);
        if (found != expected)
            fail_msg("trial %d: token %d, expected %d", trial, found, expected);
    }
}

// Draws from logits with nothing else.
static int32_t draw_plain(const float *logits, int64_t vocab, const SampleParams *p,
                          const uint32_t *seen) {
    static Inputs in;
    const SampleRow row = {.logits = logits,
                           .vocab = vocab,
                           .params = p,
                           .seen = seen,
                           .scores = in.scores,
                           .candidates = in.candidates};
    return sample_token(&row);
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
    for (size_t at = 0; at < sizeof rows / sizeof *rows; at++)
        assert_int_equal(draw_plain(rows[at].logits, 4, &p, &rows[at].seen), rows[at].token);
}

// Chi-squared over 16 tokens: 60000 draws follow the softmax. 37.7 is the 99.9 % point of 15
// degrees.
static void test_distribution(void **state) {
    (void)state;
    enum { TOKENS = 16, DRAWS = 60000 };
    float logits[TOKENS];
    int counts[TOKENS] = {0};
    double total = 0, chi = 0;
    const uint32_t seen = 0;
    for (int id = 0; id < TOKENS; id++) {
        logits[id] = (float)(id * 7 % TOKENS) / 4.0f;
        total += exp((double)logits[id]);
    }
    for (int step = 0; step < DRAWS; step++) {
        const SampleParams p = {
            .temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed_low = 99, .step = step};
        counts[draw_plain(logits, TOKENS, &p, &seen)]++;
    }
    for (int id = 0; id < TOKENS; id++) {
        double expected = (double)DRAWS * exp((double)logits[id]) / total;
        chi += (counts[id] - expected) * (counts[id] - expected) / expected;
    }
    assert_true(chi < 37.7);
}

// Temperatures that overflow the scale still give a token.
static void test_tiny_temperature(void **state) {
    (void)state;
    const float logits[3] = {1, 2, 1.5f};
    const uint32_t seen = 0;
    const SampleParams p = {.temperature = 1e-42f, .top_p = 0.5f, .repetition_penalty = 1};
    assert_int_equal(draw_plain(logits, 3, &p, &seen), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),          cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_specification),    cmocka_unit_test(test_random_numbers),
        cmocka_unit_test(test_greedy),           cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_tiny_temperature),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

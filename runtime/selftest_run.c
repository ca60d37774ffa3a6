// Compares a device's logits with the oracle's, for each step function that the device has.
//
// A target has several step functions of a phase, for different numbers of rows, with kernels of their
// own. The expected logits are of two positions of one short sequence, which serve them all: the
// logits of a token do not depend on those after it, so that a prompt may be filled up to any length,
// nor on the rest of the batch, so that it may hold the same sequence many times.
#include "selftest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RANGES_MAX = 16 };

typedef struct Run {
    const SelftestHeader *h;
    const float *expected;
    Engine *en;
    SelftestResult *out;
    float *logits; // [rows of the largest decode step, vocab_size]
    int64_t vocab;
    int64_t first, end; // positions whose logits are wanted
} Run;

// Rows that a step function is picked for.
typedef struct Range {
    int32_t least, most;
} Range;

static int ranges_find(Range out[RANGES_MAX], const char *target, StepPhase phase, int64_t limit) {
    int count = 0;
    int32_t least = 1;
    for (int32_t at = 0; at < model_step_count; at++) {
        const StepEntry *s = &model_steps[at];
        if (strcmp(s->target, target) != 0 || s->phase != (int32_t)phase || s->max_tokens < least)
            continue;
        if (least <= limit && count < RANGES_MAX)
            out[count++] = (Range){least, s->max_tokens};
        least = s->max_tokens + 1;
    }
    return count;
}

static int64_t ranges_last(const char *target, StepPhase phase, int64_t limit) {
    Range ranges[RANGES_MAX];
    int count = ranges_find(ranges, target, phase, limit);
    return count ? ranges[count - 1].least : 1;
}

int64_t selftest_tokens(const Executable *e) {
    const ModelInfo *m = &e->info;
    int64_t most = SELFTEST_MAX_TOKENS;
    for (int at = 0; at < e->target_count; at++) {
        const char *target = e->targets[at].name;
        const int64_t wanted[] = {
            ranges_last(target, PHASE_PREFILL, m->max_seq_len),
            ranges_last(target, PHASE_HEAD, m->max_seq_len) + SELFTEST_MAX_TOKENS,
            ranges_last(target, PHASE_DECODE, m->max_batch_size) * m->page_tokens};
        for (size_t of = 0; of < sizeof wanted / sizeof *wanted; of++)
            most = wanted[of] > most ? wanted[of] : most;
    }
    return most;
}

// ---- comparing ----------------------------------------------------------------------------------

static double distance(const float *found, const float *expected, int64_t count) {
    double mean = 0, error = 0, size = 0;
    for (int64_t id = 0; id < count; id++)
        mean += (double)expected[id] / (double)count;
    for (int64_t id = 0; id < count; id++) {
        double d = (double)found[id] - (double)expected[id], e = (double)expected[id] - mean;
        error += d * d;
        size += e * e;
    }
    return isfinite(error) ? sqrt(error / (size > 0 ? size : 1)) : HUGE_VAL;
}

static void worst_keep(double *worst, double error) {
    *worst = error > *worst ? error : *worst;
}

// The token that was drawn greedily from these logits.
static void draw_check(Run *r, const float *logits, int32_t token) {
    for (int64_t id = 0; id < r->vocab; id++)
        if (token < 0 || token >= r->vocab || logits[id] > logits[token]) {
            r->out->wrong_draws++;
            return;
        }
}

static bool logits_compare(void *user, int64_t position, const float *logits, Error *err) {
    Run *r = user;
    const int64_t positions[SELFTEST_CHECKS] = {r->h->first - 1, r->h->token_count - 1};
    (void)err;
    for (int check = 0; check < SELFTEST_CHECKS; check++)
        if (position == positions[check] && position < r->end)
            worst_keep(&r->out->prefill,
                       distance(logits, r->expected + check * r->vocab, r->vocab));
    if (position == r->end - 1)
        memcpy(r->logits, logits, (size_t)r->vocab * sizeof *logits);
    return true;
}

// ---- running ------------------------------------------------------------------------------------

static const SampleParams greedy = {.top_p = 1, .repetition_penalty = 1};

// A prompt of `count` tokens that begins with those of the test.
static bool prompt_run(Run *r, int32_t slot, int64_t count, Error *err) {
    LogitsVisit visit = {.visit = logits_compare, .user = r, .first = r->first, .end = r->end};
    int32_t *ids = malloc((size_t)count * sizeof *ids);
    if (!ids)
        return fail(err, ERR_RESOURCE, 1313, "no memory for a prompt of %lld tokens",
                    (long long)count);
    for (int64_t at = 0; at < count; at++)
        ids[at] = r->h->ids[at % r->h->token_count];
    bool done = engine_start(r->en, slot, &greedy, err) &&
                engine_prefill(r->en, slot, ids, count, r->first < r->end ? &visit : NULL, err);
    free(ids);
    return done;
}

static bool prefill_test(Run *r, Range range, Error *err) {
    int64_t count = range.least > r->h->token_count ? range.least : r->h->token_count;
    count = count < range.most ? count : range.most;
    r->first = r->h->first - 1;
    r->end = count < r->h->token_count ? count : r->h->token_count;
    r->out->functions++;
    return prompt_run(r, 0, count, err);
}

// As many rows as the range wants, that of the first check among them.
static bool head_test(Run *r, Range range, Error *err) {
    int64_t least = r->h->token_count;
    r->first = r->h->first > range.least ? r->h->first - range.least : 0;
    r->end = r->first + range.least;
    r->out->functions++;
    return prompt_run(r, 0, r->end > least ? r->end : least, err);
}

// The last token of the test in so many sequences at once.
static bool decode_test(Run *r, Range range, Error *err) {
    const int32_t last = r->h->token_count - 1;
    Device *device = engine_device(r->en);
    int32_t slots[4096], tokens[4096], token;
    if (last < 1 || range.least > (int32_t)(sizeof slots / sizeof *slots))
        return true;
    for (int32_t slot = 0; slot < range.least; slot++) {
        slots[slot] = slot;
        r->first = slot ? 0 : last - 1;
        r->end = slot ? 0 : last;
        TRY(prompt_run(r, slot, last, err));
        if (slot == 0) {
            TRY(engine_sample(r->en, slot, &token, err));
            draw_check(r, r->logits, token);
        }
        engine_force(r->en, slot, r->h->ids[last]);
    }
    TRY(engine_decode(r->en, slots, range.least, tokens, err));
    TRY(device->type->logits(device, range.least, r->logits, err));
    for (int32_t row = 0; row < range.least; row++) {
        const float *logits = r->logits + row * r->vocab;
        worst_keep(&r->out->decode, distance(logits, r->expected + r->vocab, r->vocab));
        draw_check(r, logits, tokens[row]);
    }
    for (int32_t slot = 0; slot < range.least; slot++)
        engine_end(r->en, slot);
    r->out->functions++;
    return true;
}

typedef bool Test(Run *r, Range range, Error *err);

static bool phase_run(Run *r, StepPhase phase, int64_t limit, Test *test, Error *err) {
    Range ranges[RANGES_MAX];
    int count = ranges_find(ranges, engine_device(r->en)->target->name, phase, limit);
    for (int at = 0; at < count; at++)
        TRY(test(r, ranges[at], err));
    return true;
}

bool selftest_run(const SelftestHeader *h, const float *expected, Engine *en, SelftestResult *out,
                  Error *err) {
    const ModelInfo *m = engine_model(en);
    const char *target = engine_device(en)->target->name;
    int64_t context = engine_context(en);
    size_t rows = (size_t)ranges_last(target, PHASE_DECODE, m->max_batch_size);
    Run r = {.h = h, .expected = expected, .en = en, .out = out, .vocab = h->vocab_size};
    *out = (SelftestResult){0};
    r.logits = calloc(rows * (size_t)r.vocab, sizeof *r.logits);
    if (!r.logits)
        return fail(err, ERR_RESOURCE, 1273, "no memory for the logits");
    bool done = phase_run(&r, PHASE_PREFILL, context, prefill_test, err) &&
                phase_run(&r, PHASE_HEAD, context - h->first, head_test, err);
    engine_end(en, 0);
    done = done && phase_run(&r, PHASE_DECODE, m->max_batch_size, decode_test, err);
    free(r.logits);
    return done;
}

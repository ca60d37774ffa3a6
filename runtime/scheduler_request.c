// One request: its parameters are checked, then copied together with what they point to.
#include "scheduler_state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- checks -------------------------------------------------------------------------------------

typedef struct Range {
    const char *name;
    double low, high;
    double value;
} Range;

static bool ranges_check(const GenerateParams *p, Error *err) {
    const Range ranges[] = {
        {"temperature", 0, 100, (double)p->temperature},
        {"top_p", 0, 1, (double)p->top_p},
        {"min_p", 0, 1, (double)p->min_p},
        {"repetition_penalty", 1e-3, 100, (double)p->repetition_penalty},
        {"presence_penalty", -100, 100, (double)p->presence_penalty},
        {"frequency_penalty", -100, 100, (double)p->frequency_penalty},
        {"top_k", 0, INT32_MAX, p->top_k},
        {"logprobs", -1, SCHEDULER_MAX_LOGPROBS, p->logprobs},
        {"max_tokens", 0, 1e15, (double)p->max_tokens},
        {"min_tokens", 0, 1e15, (double)p->min_tokens},
        {"the number of stop tokens", 0, 1024, p->stop_id_count},
        {"the number of stop strings", 0, 1024, p->stop_count},
        {"the number of biases", 0, SCHEDULER_MAX_BIAS, p->bias_count},
        {"speculate", 0, SCHEDULER_MAX_DRAFT, p->speculate},
    };
    for (size_t at = 0; at < sizeof ranges / sizeof *ranges; at++) {
        const Range *r = &ranges[at];
        if (!(r->value >= r->low && r->value <= r->high)) // NaN too
            return fail(err, ERR_USAGE, 1104, "%s is %g, expected %g to %g", r->name, r->value,
                        r->low, r->high);
    }
    return true;
}

static bool id_check(int32_t id, const char *what, int64_t vocab_size, Error *err) {
    return (id >= 0 && id < vocab_size) ||
           fail(err, ERR_USAGE, 1105, "%s: token id %d is outside of the vocabulary of %lld", what,
                id, (long long)vocab_size);
}

static bool lists_check(const GenerateParams *p, int64_t vocab_size, Error *err) {
    for (int32_t at = 0; at < p->stop_id_count; at++)
        TRY(id_check(p->stop_ids[at], "stop tokens", vocab_size, err));
    for (int32_t at = 0; at < p->stop_count; at++)
        if (!p->stops[at][0] || ((unsigned char)p->stops[at][0] & 0xc0) == 0x80)
            return fail(err, ERR_USAGE, 1106,
                        "a stop string is %s; it must be UTF-8 text that is not empty",
                        p->stops[at][0] ? "a part of a character" : "empty");
    for (int32_t at = 0; at < p->bias_count; at++) {
        TRY(id_check(p->bias[at].id, "logit_bias", vocab_size, err));
        if (!isfinite(p->bias[at].bias))
            return fail(err, ERR_USAGE, 1107, "logit_bias of token %d is no number",
                        p->bias[at].id);
    }
    return true;
}

static bool prompt_check(const Scheduler *s, const int32_t *ids, int64_t count, Error *err) {
    const ModelInfo *m = engine_model(s->engine);
    int64_t context = engine_context(s->engine);
    if (count < 1)
        return fail(err, ERR_USAGE, 1109, "the prompt has no tokens");
    for (int64_t at = 0; at < count; at++)
        TRY(id_check(ids[at], "the prompt", m->vocab_size, err));
    return count < context ||
           fail(err, ERR_RESOURCE, 1101,
                "the prompt has %lld tokens; the context of %lld must hold an answer too",
                (long long)count, (long long)context);
}

// ---- copies -------------------------------------------------------------------------------------

static void *copy_of(const void *from, size_t count, size_t elem_bytes) {
    void *to = malloc(count * elem_bytes + 1); // counts are bounded by ranges_check
    if (to && from && count)
        memcpy(to, from, count * elem_bytes);
    return to;
}

// One block: the pointers, then the strings.
static const char *const *stops_copy(const GenerateParams *p) {
    size_t bytes = (size_t)p->stop_count * sizeof(char *) + 1;
    for (int32_t at = 0; at < p->stop_count; at++)
        bytes += strlen(p->stops[at]) + 1;
    char **stops = malloc(bytes);
    if (!stops)
        return NULL;
    char *to = (char *)(stops + p->stop_count);
    for (int32_t at = 0; at < p->stop_count; at++) {
        size_t size = strlen(p->stops[at]) + 1;
        stops[at] = memcpy(to, p->stops[at], size);
        to += size;
    }
    return (const char *const *)stops;
}

static bool request_copy(Request *r, const Scheduler *s, const int32_t *ids,
                         const GenerateParams *p, Error *err) {
    r->params = *p;
    r->params.stop_ids = copy_of(p->stop_ids, (size_t)p->stop_id_count, sizeof *p->stop_ids);
    r->params.bias = copy_of(p->bias, (size_t)p->bias_count, sizeof *p->bias);
    r->params.stops = stops_copy(p);
    r->ids = malloc((size_t)r->limit * sizeof *r->ids);
    if (!r->params.stop_ids || !r->params.bias || !r->params.stops || !r->ids)
        return fail(err, ERR_RESOURCE, 1110, "no memory for a request");
    memcpy(r->ids, ids, (size_t)r->prompt_count * sizeof *ids);
    if (p->grammar) {
        r->mask = copy_of(NULL, (size_t)ceil_div(engine_model(s->engine)->vocab_size, 32), 4);
        if (!r->mask)
            return fail(err, ERR_RESOURCE, 1117, "no memory for the mask of a request");
        TRY(grammar_state_open(&r->grammar, p->grammar, err));
    }
    return answer_text_open(&r->text, s->tokenizer, r->params.stops, r->params.stop_count,
                            r->params.include_stop, err);
}

bool request_make(Request **out, const Scheduler *s, const int32_t *ids, int64_t count,
                  const GenerateParams *p, Error *err) {
    TRY(ranges_check(p, err) && lists_check(p, engine_model(s->engine)->vocab_size, err));
    TRY(prompt_check(s, ids, count, err));
    Request *r = calloc(1, sizeof *r);
    if (!r)
        return fail(err, ERR_RESOURCE, 1115, "no memory for a request");
    int64_t room = engine_context(s->engine) - count;
    r->slot = -1;
    r->speculate = (Speculate){.most = p->speculate, .length = p->speculate};
    r->prompt_count = r->count = r->told = r->texted = r->spoken = count;
    r->limit = count + (p->max_tokens && p->max_tokens < room ? p->max_tokens : room);
    if (!request_copy(r, s, ids, p, err)) {
        request_free(r);
        return false;
    }
    *out = r;
    return true;
}

void request_free(Request *r) {
    answer_text_close(&r->text);
    if (r->grammar)
        grammar_state_close(r->grammar);
    free((void *)(uintptr_t)r->params.stop_ids);
    free((void *)(uintptr_t)r->params.bias);
    free((void *)(uintptr_t)r->params.stops);
    free(r->mask);
    free(r->ids);
    free(r);
}

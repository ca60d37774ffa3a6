// What runs in one step. Requests come into slots in the order of their numbers, as long as slots
// and pages last; prompts are prefilled in chunks, oldest first, with what the decode rows leave of
// the token budget; every sequence that is prefilled decodes one token.
//
// Out of pages, the youngest request gives its pages back and waits at the head of the queue. Its
// prompt and answer are prefilled again later and the next token is drawn with the random number
// that it would have had, so that its text goes on as if nothing had happened. The oldest request is
// never taken away, so that it ends; then the next one is the oldest: no request starves.
#include "scheduler_state.h"

#include <assert.h>
#include <string.h>

enum {
    LEAST_PREFILL = 64, // tokens of prompts that a step takes, however many sequences decode
    // With more of them a step is full without drafts, most of which are wrong.
    SPECULATE_SEQUENCES = 4,
};

// ---- requests into slots ------------------------------------------------------------------------

static SampleParams sample_params_of(const Scheduler *s, const Request *r) {
    const GenerateParams *p = &r->params;
    return (SampleParams){.temperature = p->temperature,
                          .top_p = p->top_p,
                          .min_p = p->min_p,
                          .repetition_penalty = p->repetition_penalty,
                          .presence_penalty = p->presence_penalty,
                          .frequency_penalty = p->frequency_penalty,
                          .top_k = p->top_k,
                          .seed_low = (uint32_t)p->seed,
                          .seed_high = (uint32_t)(p->seed >> 32),
                          .step = (int32_t)(r->count - r->prompt_count),
                          .token_count = s->token_count,
                          .logprobs = p->logprobs + 1};
}

// Everything that is known of a request into its slot.
static bool slot_fill(Scheduler *s, Request *r, Error *err) {
    const GenerateParams *p = &r->params;
    SampleParams params = sample_params_of(s, r);
    TRY(engine_start(s->engine, r->slot, &params, err));
    if (p->bias_count)
        TRY(engine_bias(s->engine, r->slot, p->bias, p->bias_count, err));
    TRY(engine_counts(s->engine, r->slot, r->ids + r->prompt_count, r->count - r->prompt_count,
                      err));
    if (s->prefix_cache)
        TRY(engine_reuse(s->engine, r->slot, r->ids, r->count, err));
    if (r->count == r->prompt_count)
        r->cached = engine_length(s->engine, r->slot);
    r->masked = false;
    return answer_mask(s, r, err) && engine_reserve(s->engine, r->slot, r->count, err);
}

static int32_t slot_free(const Scheduler *s) {
    int32_t slots = (int32_t)engine_model(s->engine)->max_batch_size;
    for (int32_t slot = 0; slot < slots; slot++)
        if (!s->slot_used[slot])
            return slot;
    return -1;
}

// Everything that is known must fit, but for pages that others hold, and a page more for each that
// runs, so that a request is not taken away again at once.
static bool request_fits(const Scheduler *s, const Request *r) {
    const KvCache *kv = engine_cache(s->engine);
    int64_t pages = ceil_div(r->count + 1, engine_model(s->engine)->page_tokens);
    if (s->prefix_cache)
        pages -= kvcache_shared_pages(kv, r->ids, r->count);
    return s->running_count == 0 || pages + s->running_count <= kvcache_free_pages(kv);
}

static void request_start(Scheduler *s, Request *r, int32_t slot) {
    pthread_mutex_lock(&s->lock);
    s->queue = r->next;
    s->waiting--;
    s->running[s->running_count++] = r; // in the order of numbers, as the queue is
    pthread_mutex_unlock(&s->lock);
    s->slot_used[slot] = true;
    r->slot = slot;
    r->prefilled = false;
    if (!slot_fill(s, r, &r->error))
        answer_end(s, r, FINISH_ERROR);
    else if (r->ended)
        answer_end(s, r, FINISH_STOP);
}

static Request *queue_head(Scheduler *s) {
    pthread_mutex_lock(&s->lock);
    Request *r = s->queue;
    pthread_mutex_unlock(&s->lock);
    return r;
}

void step_admit(Scheduler *s) {
    int32_t slot;
    Request *r;
    while ((r = queue_head(s)) && (slot = slot_free(s)) >= 0 && request_fits(s, r))
        request_start(s, r, slot);
}

void step_remove(Scheduler *s, Request *r) {
    int32_t at = 0;
    while (s->running[at] != r)
        at++;
    s->running_count--;
    memmove(&s->running[at], &s->running[at + 1],
            (size_t)(s->running_count - at) * sizeof *s->running);
    engine_end(s->engine, r->slot);
    s->slot_used[r->slot] = false;
    r->slot = -1;
}

// The youngest request goes back to the head of the queue, which only younger ones stand in.
static void preempt(Scheduler *s) {
    Request *r = s->running[s->running_count - 1];
    pthread_mutex_lock(&s->lock);
    step_remove(s, r);
    r->next = s->queue;
    s->queue = r;
    s->waiting++;
    s->now.preemptions++;
    pthread_mutex_unlock(&s->lock);
}

// Pages for the rows of this step, for the oldest first.
static bool decode_reserve(Scheduler *s, Error *err) {
    for (int32_t at = 0; at < s->running_count; at++) {
        Request *r = s->running[at];
        while (r->slot >= 0 && r->prefilled && !engine_reserve(s->engine, r->slot, r->count, err)) {
            if (err->code != ERR_RESOURCE)
                return false;
            assert(s->running_count > 1); // one sequence always has room for its context
            preempt(s);
        }
    }
    *err = (Error){0};
    return true;
}

bool step_takes(const Request *r) {
    return atomic_load(&r->mask_stage) == MASK_NONE;
}

// ---- prompts ------------------------------------------------------------------------------------

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// Chunks of what the cache lacks, in one run; behind the last one of a prompt a token is drawn.
static bool prefill(Scheduler *s, int64_t budget, Error *err) {
    int32_t count = 0;
    for (int32_t at = 0; at < s->running_count && budget > 0; at++) {
        Request *r = s->running[at];
        if (r->prefilled || !step_takes(r))
            continue;
        int64_t done = engine_length(s->engine, r->slot), chunk = least(r->count - done, budget);
        r->prefilled = done + chunk == r->count;
        r->draws = r->prefilled;
        s->chunks[count++] = (PromptChunk){
            .ids = r->ids + done, .count = (int32_t)chunk, .slot = r->slot, .draw = r->prefilled};
        budget -= chunk;
    }
    return !count || engine_prompts_begin(s->engine, s->chunks, count, err);
}

// ---- decode -------------------------------------------------------------------------------------

// A draft of what follows, if there is one: how many tokens.
static int32_t draft(Scheduler *s, Request *r, int64_t room) {
    SampleParams params = sample_params_of(s, r);
    int32_t drafts[SPECULATE_MAX];
    Error full;
    room = least(room, r->limit - r->count - 1);
    if (r->masked || !engine_drafts(&params))
        return 0;
    int32_t count = speculate_draft(&r->speculate, r->ids, r->count, room, drafts);
    return count && engine_draft(s->engine, r->slot, drafts, count, &full) ? count : 0;
}

// One step of all, in which each of few sequences may have its share of the rows for drafts.
static bool decode(Scheduler *s, int32_t sequences, Error *err) {
    int32_t count = 0, rows = engine_draft_rows(s->engine, sequences);
    for (int32_t at = 0; at < s->running_count; at++) {
        Request *r = s->running[at];
        if (!r->prefilled || !step_takes(r))
            continue;
        if (sequences <= SPECULATE_SEQUENCES) {
            r->drafted = draft(s, r, rows / (sequences - count));
            rows -= r->drafted;
        }
        r->draws = true;
        s->slots[count++] = r->slot;
    }
    return count == 0 || engine_decode_begin(s->engine, s->slots, count, err);
}

bool step_begin(Scheduler *s, Error *err) {
    TRY(decode_reserve(s, err));
    int32_t sequences = 0;
    for (int32_t at = 0; at < s->running_count; at++) {
        s->running[at]->draws = false;
        s->running[at]->drafted = 0;
        sequences += s->running[at]->prefilled;
    }
    int64_t budget = s->token_budget - sequences;
    budget = budget > LEAST_PREFILL ? budget : least(LEAST_PREFILL, s->token_budget);
    return decode(s, sequences, err) && prefill(s, budget, err);
}

bool step_end(Scheduler *s, Error *err) {
    return engine_finish(s->engine, err);
}

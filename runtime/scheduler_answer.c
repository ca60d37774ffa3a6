// What a step gave to a request: the token that was drawn becomes text, ends the answer or not, and
// is told to whoever asked.
#include "scheduler_state.h"

#include <string.h>

// The ids that end an answer, one after the other; false: there are no more.
static bool stop_id(const Scheduler *s, const Request *r, int32_t at, int32_t *id) {
    const ModelInfo *m = engine_model(s->engine);
    int32_t of_model = r->params.ignore_eos ? 0 : m->stop_count;
    if (at < of_model)
        *id = m->stop_ids[at];
    else if (at - of_model < r->params.stop_id_count)
        *id = r->params.stop_ids[at - of_model];
    return at - of_model < r->params.stop_id_count;
}

static bool is_stop(const Scheduler *s, const Request *r, int32_t id) {
    int32_t stop;
    for (int32_t at = 0; stop_id(s, r, at, &stop); at++)
        if (stop == id)
            return true;
    return false;
}

static bool mask_empty(const uint32_t *mask, int64_t words) {
    uint32_t any = 0;
    for (int64_t word = 0; word < words; word++)
        any |= mask[word];
    return any == 0;
}

// Without the tokens that end an answer, where others are left.
static void stops_clear(const Scheduler *s, const Request *r, uint32_t *mask, int64_t words) {
    int32_t stop;
    for (int32_t at = 0; stop_id(s, r, at, &stop); at++)
        mask[stop / 32] &= ~(1u << stop % 32);
    if (r->grammar && mask_empty(mask, words))
        grammar_mask(r->grammar, mask);
}

static bool is_young(const Request *r) {
    return r->count - r->prompt_count < r->params.min_tokens;
}

// The slot's mask is there, but for stop tokens.
static bool mask_set(Scheduler *s, Request *r, Error *err) {
    int64_t words = ceil_div(engine_model(s->engine)->vocab_size, 32);
    uint32_t *mask = engine_mask(s->engine, r->slot);
    if (is_young(r))
        stops_clear(s, r, mask, words);
    r->ended = mask_empty(mask, words);
    return r->ended || engine_mask_set(s->engine, r->slot, r->masked, err);
}

bool answer_mask(Scheduler *s, Request *r, Error *err) {
    int64_t words = ceil_div(engine_model(s->engine)->vocab_size, 32);
    uint32_t *mask = engine_mask(s->engine, r->slot);
    bool was = r->masked;
    r->masked = is_young(r) || r->grammar;
    if ((was == r->masked && !r->grammar) || atomic_load(&r->mask_stage) != MASK_NONE)
        return true;
    if (r->grammar && !grammar_mask_try(r->grammar, mask)) {
        mask_ask(s, r, -1);
        return true;
    }
    if (!r->grammar)
        memset(mask, 0xff, (size_t)words * sizeof *mask);
    return mask_set(s, r, err);
}

// Logprobs of the token that was drawn last, if they were asked for.
static void logprobs_take(Scheduler *s, const Request *r) {
    const SampleResult *result = engine_result(s->engine, r->slot);
    s->logprob = (TokenLogprob){r->ids[r->count - 1], result->logprob};
    s->top_count = result->top_count;
    for (int32_t rank = 0; rank < result->top_count; rank++)
        s->top[rank] = (TokenLogprob){result->top_ids[rank], result->top_logprobs[rank]};
}

static void tell(const Scheduler *s, Request *r, FinishReason finish) {
    Bytes text = answer_text_take(&r->text);
    bool logprobs = r->params.logprobs >= 0 && r->count > r->told;
    GenerateEvent event = {.text = (const char *)text.data,
                           .text_size = text.size,
                           .ids = r->ids + r->told,
                           .id_count = (int32_t)(r->count - r->told),
                           .logprobs = logprobs ? &s->logprob : NULL,
                           .top = logprobs ? s->top : NULL,
                           .top_count = logprobs ? s->top_count : 0,
                           .finish = finish,
                           .stop = r->text.stop,
                           .error = finish == FINISH_ERROR ? &r->error : NULL,
                           .prompt_tokens = r->prompt_count,
                           .cached_tokens = r->cached,
                           .output_tokens = r->count - r->prompt_count,
                           .drafted = r->speculate.drafted,
                           .accepted = r->speculate.accepted};
    r->told = r->count;
    r->callback(r->user, r->number, &event);
}

// Does the token end the answer? A stop string is looked for later.
static FinishReason token_take(Scheduler *s, Request *r, int32_t id) {
    bool taken = true;
    r->ids[r->count++] = id;
    if (is_stop(s, r, id))
        return FINISH_STOP;
    if (r->grammar && r->params.logprobs >= 0) { // its event is told now
        taken = grammar_advance(r->grammar, id);
    } else if (r->grammar && !grammar_advance_try(r->grammar, id, &taken)) {
        mask_ask(s, r, id);
        return FINISH_NONE;
    }
    if (!taken)
        return FINISH_STOP;
    r->spoken = r->count;
    return r->count == r->limit ? FINISH_LENGTH : FINISH_NONE;
}

void answer_know(Scheduler *s, Request *r) {
    if (s->prefix_cache)
        engine_know(s->engine, r->slot, r->ids, r->count);
}

// Tokens to text; what was drawn behind a stop string is no part of the answer.
static bool text_take(Scheduler *s, Request *r, FinishReason *finish) {
    while (r->texted < r->spoken && !r->text.stop) {
        bool stops = r->texted + 1 - r->prompt_count >= r->params.min_tokens;
        TRY(answer_text_add(&r->text, r->ids[r->texted++], stops, &r->error));
    }
    if (!r->text.stop)
        return true;
    s->now.output_tokens -= r->count - r->texted;
    r->count = r->spoken = r->texted;
    *finish = FINISH_STOP;
    return true;
}

void answer_tell(Scheduler *s, Request *r) {
    FinishReason finish = r->finish;
    if (!text_take(s, r, &finish))
        finish = FINISH_ERROR;
    if (finish != FINISH_NONE)
        answer_end(s, r, finish);
    else
        tell(s, r, FINISH_NONE);
}

void answer_take(Scheduler *s, Request *r) {
    FinishReason finish = FINISH_NONE;
    int32_t drawn[SPECULATE_MAX + 1], count = engine_drawn(s->engine, r->slot, drawn);
    if (r->drafted)
        speculate_learn(&r->speculate, r->drafted, count - 1);
    s->now.drafted += r->drafted;
    s->now.accepted += count - 1;
    if (r->count == r->prompt_count) {
        s->now.prompt_tokens += r->prompt_count;
        s->now.cached_tokens += r->cached;
    }
    for (int32_t at = 0; at < count && finish == FINISH_NONE; at++) {
        s->now.output_tokens++;
        finish = token_take(s, r, drawn[at]);
    }
    if (r->params.logprobs >= 0)
        logprobs_take(s, r);
    if (finish == FINISH_NONE && !answer_mask(s, r, &r->error))
        finish = FINISH_ERROR;
    if (finish == FINISH_NONE && r->ended)
        finish = FINISH_STOP;
    if (finish != FINISH_ERROR)
        answer_know(s, r);
    r->finish = finish;
    if (r->spoken < r->count && finish == FINISH_NONE)
        return; // answer_masked will know whether it ends
    // Those of the event that is told now are the logprobs that are known.
    if (finish != FINISH_NONE || r->params.logprobs >= 0 || !engine_device(s->engine)->type->queues)
        answer_tell(s, r);
}

void answer_masked(Scheduler *s, Request *r) {
    mask_wait(s, r); // takes it from the count
    atomic_store(&r->mask_stage, MASK_NONE);
    r->finish = r->mask_ended ? FINISH_STOP : FINISH_NONE;
    if (!r->mask_ended) {
        int64_t words = ceil_div(engine_model(s->engine)->vocab_size, 32);
        r->spoken = r->count;
        r->finish = r->count == r->limit ? FINISH_LENGTH : FINISH_NONE;
        memcpy(engine_mask(s->engine, r->slot), r->mask, (size_t)words * sizeof *r->mask);
        if (!mask_set(s, r, &r->error))
            r->finish = FINISH_ERROR;
        else if (r->ended && r->finish == FINISH_NONE)
            r->finish = FINISH_STOP;
    }
    if (r->count > r->told || r->finish != FINISH_NONE)
        answer_tell(s, r);
}

void answer_end(Scheduler *s, Request *r, FinishReason finish) {
    if (atomic_load(&r->mask_stage) != MASK_NONE)
        mask_wait(s, r);
    if (r->slot >= 0) {
        pthread_mutex_lock(&s->lock);
        step_remove(s, r);
        pthread_mutex_unlock(&s->lock);
    }
    if (finish != FINISH_ERROR &&
        !(text_take(s, r, &finish) && answer_text_end(&r->text, &r->error)))
        finish = FINISH_ERROR;
    if (finish == FINISH_LENGTH && r->text.stop) // only the end of the text made it whole
        finish = FINISH_STOP;
    tell(s, r, finish);
    request_free(r);
    s->now.finished[finish]++;
    pthread_mutex_lock(&s->lock);
    s->stats = s->now;
    s->active--;
    pthread_cond_broadcast(&s->done);
    pthread_mutex_unlock(&s->lock);
}

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

bool answer_mask(Scheduler *s, Request *r, Error *err) {
    bool masked = r->count - r->prompt_count < r->params.min_tokens;
    if (masked && !r->masked) {
        int64_t words = ceil_div(engine_model(s->engine)->vocab_size, 32);
        uint32_t *mask = engine_mask(s->engine, r->slot);
        int32_t stop;
        memset(mask, 0xff, (size_t)words * sizeof *mask);
        for (int32_t at = 0; stop_id(s, r, at, &stop); at++)
            mask[stop / 32] &= ~(1u << stop % 32);
    }
    bool changed = masked != r->masked;
    r->masked = masked;
    return !changed || engine_mask_set(s->engine, r->slot, masked, err);
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
                           .output_tokens = r->count - r->prompt_count};
    r->told = r->count;
    r->callback(r->user, r->number, &event);
}

// Does the token end the answer?
static bool token_take(const Scheduler *s, Request *r, int32_t id, FinishReason *finish) {
    r->ids[r->count++] = id;
    *finish = FINISH_NONE;
    if (is_stop(s, r, id)) {
        *finish = FINISH_STOP;
        return true;
    }
    bool stops = r->count - r->prompt_count >= r->params.min_tokens;
    TRY(answer_text_add(&r->text, id, stops, &r->error));
    if (r->text.stop)
        *finish = FINISH_STOP;
    else if (r->count == r->limit)
        *finish = FINISH_LENGTH;
    return true;
}

void answer_take(Scheduler *s, Request *r) {
    FinishReason finish;
    if (r->count == r->prompt_count) {
        s->now.prompt_tokens += r->prompt_count;
        s->now.cached_tokens += r->cached;
    }
    s->now.output_tokens++;
    if (!token_take(s, r, engine_token(s->engine, r->slot), &finish) ||
        !answer_mask(s, r, &r->error))
        finish = FINISH_ERROR;
    if (r->params.logprobs >= 0)
        logprobs_take(s, r);
    if (finish != FINISH_NONE)
        answer_end(s, r, finish);
    else
        tell(s, r, FINISH_NONE);
}

void answer_end(Scheduler *s, Request *r, FinishReason finish) {
    if (r->slot >= 0) {
        pthread_mutex_lock(&s->lock);
        step_remove(s, r);
        pthread_mutex_unlock(&s->lock);
    }
    if (finish != FINISH_ERROR && !answer_text_end(&r->text, &r->error))
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

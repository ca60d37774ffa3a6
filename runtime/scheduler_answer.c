// What a step gave to a request: the token that was drawn becomes text, ends the answer or not, and
// is told to whoever asked.
#include "scheduler_state.h"

static bool is_stop(const Scheduler *s, const Request *r, int32_t id) {
    const ModelInfo *m = engine_model(s->engine);
    for (int32_t at = 0; at < m->stop_count && !r->params.ignore_eos; at++)
        if (m->stop_ids[at] == id)
            return true;
    for (int32_t at = 0; at < r->params.stop_id_count; at++)
        if (r->params.stop_ids[at] == id)
            return true;
    return false;
}

static void tell(Request *r, FinishReason finish) {
    Bytes text = answer_text_take(&r->text);
    GenerateEvent event = {.text = (const char *)text.data,
                           .text_size = text.size,
                           .ids = r->ids + r->told,
                           .id_count = (int32_t)(r->count - r->told),
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
    TRY(answer_text_add(&r->text, id, true, &r->error));
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
    if (!token_take(s, r, engine_token(s->engine, r->slot), &finish))
        finish = FINISH_ERROR;
    if (finish != FINISH_NONE)
        answer_end(s, r, finish);
    else
        tell(r, FINISH_NONE);
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
    tell(r, finish);
    request_free(r);
    s->now.finished[finish]++;
    pthread_mutex_lock(&s->lock);
    s->stats = s->now;
    s->active--;
    pthread_cond_broadcast(&s->done);
    pthread_mutex_unlock(&s->lock);
}

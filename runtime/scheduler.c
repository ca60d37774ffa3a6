// The queue between the threads that ask and the thread that runs the steps.
#include "scheduler_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DEFAULT_QUEUE = 1024 };

// ---- the thread ---------------------------------------------------------------------------------

// One whose mask is being made ends a moment later.
static bool ends_now(const Request *r, bool all) {
    return all || (atomic_load(&r->cancelled) && atomic_load(&r->mask_stage) != MASK_ASKED);
}

// Requests that were cancelled, or all of them.
static void cancelled_end(Scheduler *s, bool all) {
    Request *ended = NULL;
    pthread_mutex_lock(&s->lock);
    for (Request **at = &s->queue; *at;) {
        Request *r = *at;
        if (ends_now(r, all)) {
            *at = r->next;
            s->waiting--;
            r->next = ended;
            ended = r;
        } else {
            at = &r->next;
        }
    }
    pthread_mutex_unlock(&s->lock);
    while (ended) {
        Request *next = ended->next;
        answer_end(s, ended, FINISH_CANCELLED);
        ended = next;
    }
    for (int32_t at = s->running_count; at-- > 0;)
        if (ends_now(s->running[at], all))
            answer_end(s, s->running[at], FINISH_CANCELLED);
}

// Waits for work; false: the scheduler closes.
static bool work_wait(Scheduler *s) {
    pthread_mutex_lock(&s->lock);
    while (!s->closing && !s->queue && !s->running_count)
        pthread_cond_wait(&s->work, &s->lock);
    bool closing = s->closing;
    pthread_mutex_unlock(&s->lock);
    return !closing;
}

// The device failed: what ran in the step is lost, what waits is tried.
static void step_fail(Scheduler *s, const Error *err) {
    while (s->running_count) {
        s->running[0]->error = *err;
        answer_end(s, s->running[0], FINISH_ERROR);
    }
}

static void numbers_publish(Scheduler *s) {
    KvCache *kv = engine_cache(s->engine);
    s->now.kv_pages = kvcache_pages(kv);
    s->now.kv_pages_used = s->now.kv_pages - kvcache_free_pages(kv);
    s->now.kv_pages_cached = kvcache_kept_pages(kv);
    pthread_mutex_lock(&s->lock);
    s->stats = s->now;
    pthread_mutex_unlock(&s->lock);
}

typedef void AnswerDo(Scheduler *s, Request *r);

static void running_each(Scheduler *s, AnswerDo *action) {
    for (int32_t at = 0; at < s->running_count;) {
        int32_t before = s->running_count;
        action(s, s->running[at]);
        at += s->running_count == before; // an answer that ended has left the list
    }
}

static void drawn_take(Scheduler *s, Request *r) {
    if (r->draws)
        answer_take(s, r);
    else
        answer_know(s, r);
}

// What a step drew is in the next one before it is text, while the device works.
static void late_tell(Scheduler *s, Request *r) {
    if (r->count > r->told && step_takes(r))
        answer_tell(s, r);
}

static void masked_take(Scheduler *s, Request *r) {
    if (atomic_load(&r->mask_stage) == MASK_DONE)
        answer_masked(s, r);
}

static bool step_has_work(const Scheduler *s) {
    for (int32_t at = 0; at < s->running_count; at++)
        if (step_takes(s->running[at]))
            return true;
    return false;
}

static void step(Scheduler *s) {
    Error err = {0};
    step_admit(s);
    running_each(s, masked_take);
    double stepped_s = s->stepped_s;
    s->stepped_s = 0;
    if (!step_has_work(s)) {
        if (s->running_count)
            masks_wait(s);
        return;
    }
    s->now.steps++;
    double begin_s = clock_seconds();
    bool done = step_begin(s, &err);
    if (engine_device(s->engine)->type->queues) // else it has run
        begin_s = clock_seconds();
    if (stepped_s > 0)
        s->now.idle_seconds += begin_s - stepped_s;
    if (done)
        running_each(s, late_tell);
    if (!done || !step_end(s, &err)) {
        step_fail(s, &err);
        return;
    }
    s->stepped_s = clock_seconds();
    running_each(s, drawn_take);
}

static void *thread_run(void *argument) {
    Scheduler *s = argument;
    Error err = {0};
    bool attached = engine_attach(s->engine, &err);
    pthread_mutex_lock(&s->lock);
    s->error = err;
    s->ready = true;
    pthread_cond_broadcast(&s->done);
    pthread_mutex_unlock(&s->lock);
    while (attached && work_wait(s)) {
        cancelled_end(s, false);
        step(s);
        numbers_publish(s);
    }
    cancelled_end(s, true);
    return NULL;
}

// ---- open and close -----------------------------------------------------------------------------

static bool thread_start(Scheduler *s, Error *err) {
    if (pthread_create(&s->thread, NULL, thread_run, s) != 0)
        return fail(err, ERR_RESOURCE, 1111, "no thread for the scheduler: %s", strerror(errno));
    pthread_mutex_lock(&s->lock);
    while (!s->ready)
        pthread_cond_wait(&s->done, &s->lock);
    *err = s->error;
    pthread_mutex_unlock(&s->lock);
    if (err->code == ERR_NONE)
        return true;
    pthread_join(s->thread, NULL);
    return false;
}

static void scheduler_free(Scheduler *s) {
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->done);
    pthread_mutex_destroy(&s->lock);
    free(s->running);
    free(s->slots);
    free(s->chunks);
    free(s->slot_used);
    free(s);
}

static void conditions_open(Scheduler *s) {
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC); // scheduler_drain waits by it
    pthread_cond_init(&s->work, &clock);
    pthread_cond_init(&s->done, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutex_init(&s->lock, NULL);
}

bool scheduler_open(Scheduler **out, Engine *en, const Tokenizer *t, const SchedulerOptions *o,
                    Error *err) {
    const ModelInfo *m = engine_model(en);
    size_t slots = (size_t)m->max_batch_size;
    Scheduler *s = calloc(1, sizeof *s);
    if (!s)
        return fail(err, ERR_RESOURCE, 1112, "no memory for the scheduler");
    s->engine = en;
    s->tokenizer = t;
    s->token_count = tokenizer_token_count(t);
    s->max_queue = o->max_queue > 0 ? o->max_queue : DEFAULT_QUEUE;
    bool less = o->token_budget > 0 && o->token_budget < m->max_num_tokens;
    s->token_budget = less ? o->token_budget : m->max_num_tokens;
    s->prefix_cache = !o->no_prefix_cache;
    conditions_open(s);
    s->running = calloc(slots, sizeof *s->running);
    s->slots = calloc(slots, sizeof *s->slots);
    s->chunks = calloc(slots, sizeof *s->chunks);
    s->slot_used = calloc(slots, sizeof *s->slot_used);
    bool done = (s->running && s->slots && s->chunks && s->slot_used) ||
                fail(err, ERR_RESOURCE, 1116, "no memory for the slots of the scheduler");
    if (!done || !masks_start(s, err) || !thread_start(s, err)) {
        if (done)
            masks_end(s);
        scheduler_free(s);
        return false;
    }
    numbers_publish(s); // the thread waits for work, which nobody can give yet
    *out = s;
    return true;
}

void scheduler_close(Scheduler *s) {
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    masks_end(s);
    scheduler_free(s);
}

// ---- other threads ------------------------------------------------------------------------------

static bool enqueue(Scheduler *s, Request *r, Error *err) {
    if (s->draining || s->closing)
        return fail(err, ERR_RESOURCE, 1113, "the server is shutting down");
    if (s->waiting >= s->max_queue)
        return fail(err, ERR_RESOURCE, 1102, "the queue is full: %lld requests wait; try later",
                    (long long)s->waiting);
    r->number = ++s->last_number;
    Request **at = &s->queue;
    while (*at)
        at = &(*at)->next;
    *at = r;
    s->waiting++;
    s->active++;
    pthread_cond_signal(&s->work);
    return true;
}

bool scheduler_submit(Scheduler *s, const int32_t *ids, int64_t count, const GenerateParams *p,
                      GenerateCallback *callback, void *user, uint64_t *request, Error *err) {
    Request *r;
    TRY(request_make(&r, s, ids, count, p, err));
    r->callback = callback;
    r->user = user;
    pthread_mutex_lock(&s->lock);
    bool done = enqueue(s, r, err);
    if (done)
        *request = r->number; // under the lock: events of it come after this
    pthread_mutex_unlock(&s->lock);
    if (!done)
        request_free(r);
    return done;
}

void scheduler_cancel(Scheduler *s, uint64_t request) {
    pthread_mutex_lock(&s->lock);
    for (Request *r = s->queue; r; r = r->next)
        if (r->number == request)
            atomic_store(&r->cancelled, true);
    for (int32_t at = 0; at < s->running_count; at++)
        if (s->running[at]->number == request)
            atomic_store(&s->running[at]->cancelled, true);
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

bool scheduler_drain(Scheduler *s, double seconds) {
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    double at = (double)end.tv_sec + (double)end.tv_nsec * 1e-9 + seconds;
    end.tv_sec = (time_t)at;
    end.tv_nsec = (long)((at - (double)end.tv_sec) * 1e9);
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    while (s->active && pthread_cond_timedwait(&s->done, &s->lock, &end) == 0)
        ;
    bool done = s->active == 0;
    pthread_mutex_unlock(&s->lock);
    return done;
}

void scheduler_stats(Scheduler *s, SchedulerStats *out) {
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    out->running = s->running_count;
    out->waiting = s->waiting;
    pthread_mutex_unlock(&s->lock);
}

GenerateParams generate_defaults(const ModelInfo *m) {
    return (GenerateParams){.temperature = m->default_sample ? m->default_temperature : 0,
                            .top_k = m->default_sample ? m->default_top_k : 0,
                            .top_p = m->default_top_p,
                            .min_p = m->default_min_p,
                            .repetition_penalty = m->default_repetition_penalty,
                            .logprobs = -1};
}

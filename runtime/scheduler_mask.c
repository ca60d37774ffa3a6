// Masks that take time. With a vocabulary of 128k the first mask of a state takes milliseconds, in
// which a step would wait for one request; so they are made in a thread, one after the other, and
// the requests that need them sit out until they are there. Masks that are kept are copied at once.
#include "scheduler_state.h"

#include <errno.h>
#include <string.h>

static void mask_make(Request *r) {
    r->mask_ended = r->mask_token >= 0 && !grammar_advance(r->grammar, r->mask_token);
    if (!r->mask_ended)
        grammar_mask(r->grammar, r->mask);
}

static void *masks_run(void *argument) {
    Scheduler *s = argument;
    pthread_mutex_lock(&s->lock);
    while (!s->masks_stop) {
        Request *r = s->mask_first;
        if (!r) {
            pthread_cond_wait(&s->mask_work, &s->lock);
            continue;
        }
        s->mask_first = r->mask_next;
        pthread_mutex_unlock(&s->lock);
        mask_make(r);
        pthread_mutex_lock(&s->lock);
        atomic_store(&r->mask_stage, MASK_DONE);
        s->masks_done++;
        pthread_cond_broadcast(&s->work);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

bool masks_start(Scheduler *s, Error *err) {
    pthread_cond_init(&s->mask_work, NULL);
    s->masks_run = pthread_create(&s->mask_thread, NULL, masks_run, s) == 0;
    return s->masks_run ||
           fail(err, ERR_RESOURCE, 1114, "no thread for masks: %s", strerror(errno));
}

void masks_end(Scheduler *s) {
    pthread_mutex_lock(&s->lock);
    s->masks_stop = true;
    pthread_cond_signal(&s->mask_work);
    pthread_mutex_unlock(&s->lock);
    if (s->masks_run)
        pthread_join(s->mask_thread, NULL);
    pthread_cond_destroy(&s->mask_work);
}

void mask_ask(Scheduler *s, Request *r, int32_t token) {
    r->mask_token = token;
    r->mask_next = NULL;
    atomic_store(&r->mask_stage, MASK_ASKED);
    pthread_mutex_lock(&s->lock);
    Request **at = &s->mask_first;
    while (*at)
        at = &(*at)->mask_next;
    *at = r;
    pthread_cond_signal(&s->mask_work);
    pthread_mutex_unlock(&s->lock);
}

void mask_wait(Scheduler *s, const Request *r) {
    pthread_mutex_lock(&s->lock);
    while (atomic_load(&r->mask_stage) == MASK_ASKED)
        pthread_cond_wait(&s->work, &s->lock);
    s->masks_done -= atomic_load(&r->mask_stage) == MASK_DONE;
    pthread_mutex_unlock(&s->lock);
}

void masks_wait(Scheduler *s) {
    pthread_mutex_lock(&s->lock);
    if (!s->masks_done && !s->closing)
        pthread_cond_wait(&s->work, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

// What the tests of the scheduler share: a scheduler over the fake model, and answers that collect
// what events bring.
#ifndef SCHEDULER_LAB_H
#define SCHEDULER_LAB_H

#include "tests/tokenizer_lab.h"

#include "../../runtime/scheduler.h"
#include "fake_model.h"

#include <pthread.h>

enum { ANSWERS_MAX = 64, ANSWER_IDS = FAKE_MAX_SEQ, ANSWER_TEXT = 4096 };

typedef struct Lab Lab;

typedef struct LabAnswer {
    Lab *lab;
    int32_t ids[ANSWER_IDS], count;
    char text[ANSWER_TEXT];
    size_t size;
    int events;
    FinishReason finish;
    char stop[32]; // "": none
    Error error;
    GenerateEvent last; // numbers only
    TokenLogprob logprobs[ANSWER_IDS], top[ANSWER_IDS][SCHEDULER_MAX_LOGPROBS];
    uint64_t number;
} LabAnswer;

struct Lab {
    FakeFile file;
    Engine *engine;
    Tokenizer *tokenizer; // the sample's; the fake model uses its first tokens
    Scheduler *scheduler;
    Arena arena;
    pthread_mutex_t lock;
    pthread_cond_t ended;
};

static inline void lab_event(void *user, uint64_t request, const GenerateEvent *e) {
    LabAnswer *a = user;
    pthread_mutex_lock(&a->lab->lock);
    assert_int_equal(a->finish, FINISH_NONE); // the last event is the last
    assert_true(a->count + e->id_count <= ANSWER_IDS && a->size + e->text_size < ANSWER_TEXT);
    assert_true(request != 0);
    for (int32_t at = 0; at < e->id_count; at++) {
        if (e->logprobs)
            a->logprobs[a->count] = e->logprobs[at];
        for (int32_t rank = 0; rank < e->top_count; rank++)
            a->top[a->count][rank] = e->top[at * e->top_count + rank];
        a->ids[a->count++] = e->ids[at];
    }
    memcpy(a->text + a->size, e->text, e->text_size);
    a->size += e->text_size;
    a->events++;
    snprintf(a->stop, sizeof a->stop, "%s", e->stop ? e->stop : "");
    a->last = *e;
    assert_int_equal(e->output_tokens, a->count);
    assert_int_equal(e->error != NULL, e->finish == FINISH_ERROR);
    if (e->error)
        a->error = *e->error;
    a->finish = e->finish;
    if (e->finish != FINISH_NONE)
        pthread_cond_broadcast(&a->lab->ended);
    pthread_mutex_unlock(&a->lab->lock);
}

// device_cpu, and whether it says that it queues what it is given.
static DeviceType lab_type;
static bool lab_queues;

static inline void lab_open_scheduler(Lab *lab, const DeviceType *type, const DeviceOptions *d,
                                      const SchedulerOptions *o) {
    Error err = {0};
    *lab = (Lab){.engine = NULL};
    fake_open(&lab->file);
    lab->tokenizer = lab_open("samples/storyteller", 8192, &lab->arena);
    pthread_mutex_init(&lab->lock, NULL);
    pthread_cond_init(&lab->ended, NULL);
    if (!engine_open(&lab->engine, &lab->file.e, type, d, &err))
        failed("%s", err.message);
    lab_type = *type;
    lab_type.queues = lab_queues;
    engine_device(lab->engine)->type = &lab_type;
    if (!scheduler_open(&lab->scheduler, lab->engine, lab->tokenizer, o, &err))
        failed("%s", err.message);
}

static inline void lab_close(Lab *lab) {
    scheduler_close(lab->scheduler);
    engine_close(lab->engine);
    tokenizer_close(lab->tokenizer);
    fake_close(&lab->file);
    arena_free(&lab->arena);
    pthread_cond_destroy(&lab->ended);
    pthread_mutex_destroy(&lab->lock);
}

static inline void lab_submit(Lab *lab, LabAnswer *a, const int32_t *ids, int64_t count,
                              const GenerateParams *p) {
    Error err = {0};
    *a = (LabAnswer){.lab = lab};
    if (!scheduler_submit(lab->scheduler, ids, count, p, lab_event, a, &a->number, &err))
        failed("%s", err.message);
}

static inline void lab_wait(Lab *lab, LabAnswer *a) {
    pthread_mutex_lock(&lab->lock);
    while (a->finish == FINISH_NONE)
        pthread_cond_wait(&lab->ended, &lab->lock);
    pthread_mutex_unlock(&lab->lock);
}

static inline GenerateParams lab_params(int64_t max_tokens) {
    return (GenerateParams){
        .top_p = 1, .repetition_penalty = 1, .logprobs = -1, .max_tokens = max_tokens};
}

#endif

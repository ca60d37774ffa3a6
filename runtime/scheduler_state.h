// What the parts of the scheduler share. scheduler.c: other threads' side and the thread itself;
// scheduler_request.c: one request; scheduler_step.c: what runs in a step; scheduler_answer.c: what
// a step gave; scheduler_mask.c: masks that take time, in a thread of their own.
#ifndef SCHEDULER_STATE_H
#define SCHEDULER_STATE_H

#include "answer_text.h"
#include "scheduler.h"
#include "speculate.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct Request Request;

typedef enum MaskStage { MASK_NONE, MASK_ASKED, MASK_DONE } MaskStage;

struct Request {
    Request *next; // in the queue, or among those to be freed
    uint64_t number;
    GenerateParams params; // what it points to belongs to this
    GenerateCallback *callback;
    void *user;
    int32_t *ids; // [limit]: prompt, then answer
    int64_t prompt_count, count;
    int64_t limit;   // of count
    int64_t told;    // of ids, by events
    int64_t texted;  // of ids, made text
    int64_t spoken;  // of ids that have text: a stop token has none
    int64_t cached;  // tokens of the prompt that the prefix cache had, when it ran first
    int32_t slot;    // -1: waiting
    bool prefilled;  // everything but the last id is in the KV cache
    bool draws;      // in this step
    int32_t drafted; // drafts that are tried in it
    Speculate speculate;
    bool masked;         // not all tokens may be drawn
    bool ended;          // the grammar's text is whole: no token may be drawn
    FinishReason finish; // what the tokens say; the text may have a stop string
    // Of a grammar's mask that takes time: until it is there, the request takes part in no step.
    _Atomic MaskStage mask_stage;
    uint32_t *mask;     // [ceil(vocab_size / 32)]; owner: this; NULL without a grammar
    int32_t mask_token; // what the grammar is to be advanced by before; -1: nothing
    bool mask_ended;    // it ended the text
    Request *mask_next;
    GrammarState *grammar; // NULL: any text
    Error error;           // FINISH_ERROR
    AnswerText text;
    atomic_bool cancelled;
};

struct Scheduler {
    Engine *engine;
    const Tokenizer *tokenizer;
    int32_t token_count; // of the tokenizer
    int64_t max_queue, token_budget;
    bool prefix_cache;
    pthread_t thread;

    pthread_mutex_t lock; // of what follows
    pthread_cond_t work;  // for the thread: something came
    pthread_cond_t done;  // the thread is ready; a request ended
    Request *queue;       // by number, oldest first
    Request **running;    // [max_batch_size], by number; read by the thread without the lock
    int32_t running_count;
    int64_t waiting, active; // in the queue; accepted and not ended
    bool ready, draining, closing;
    pthread_t mask_thread;
    pthread_cond_t mask_work;   // for that thread
    Request *mask_first;        // asked for, in the order of asking
    int64_t masks_done;         // and not taken
    bool masks_run, masks_stop; // the thread is there; it shall end
    uint64_t last_number;
    SchedulerStats stats; // a copy of `now`
    Error error;          // of the thread's start

    // Of the thread alone
    SchedulerStats now;
    double stepped_s;    // when the last step ended; 0: nothing ran since
    int32_t *slots;      // [max_batch_size]: of a decode step
    PromptChunk *chunks; // [max_batch_size]: of a step's prompts
    bool *slot_used;     // [max_batch_size]
    TokenLogprob logprob, top[SCHEDULER_MAX_LOGPROBS]; // of the event that is told now
    int32_t top_count;
};

// scheduler_request.c
bool request_make(Request **out, const Scheduler *s, const int32_t *ids, int64_t count,
                  const GenerateParams *p, Error *err);
void request_free(Request *r);

// scheduler_step.c
bool step_takes(const Request *r); // false: it waits for its mask
void step_admit(Scheduler *s);     // from the queue into slots
// One step of the device: false, it failed.
bool step_begin(Scheduler *s, Error *err);
bool step_end(Scheduler *s, Error *err);
void step_remove(Scheduler *s, Request *r); // frees its slot and pages; under the lock

// scheduler_mask.c
bool masks_start(Scheduler *s, Error *err);
void masks_end(Scheduler *s);
// The mask of a grammar after `token` (-1: as it is) is made by the thread.
void mask_ask(Scheduler *s, Request *r, int32_t token);
void mask_wait(Scheduler *s, const Request *r); // until it is made, if it was asked for
// Until a mask is made or something else came.
void masks_wait(Scheduler *s);

// scheduler_answer.c
void answer_masked(Scheduler *s, Request *r); // the mask that was asked for is there
// Which tokens the next draw may give.
bool answer_mask(Scheduler *s, Request *r, Error *err);
void answer_take(Scheduler *s, Request *r); // the tokens that the step drew
void answer_tell(Scheduler *s, Request *r); // their text, to whoever asked
void answer_know(Scheduler *s, Request *r); // its full pages may be shared
// Its last event. Frees the request.
void answer_end(Scheduler *s, Request *r, FinishReason finish);

#endif

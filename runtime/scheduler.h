// Continuous batching over one engine. Requests come from any thread; one thread of the scheduler
// runs the steps (chunks of prompts and one token of every running sequence, under a token budget)
// and tells each request what it produced. What a request gives depends on its prompt, parameters
// and seed, not on what else runs: exactly so on a CPU. On a GPU other batches may add in another
// order, which decides between tokens that are nearly equal, unless the file was compiled with
// --batch-invariant; what that leaves open is in docs/scheduling.md.
#ifndef SCHEDULER_H
#define SCHEDULER_H

#include "engine.h"
#include "grammar.h"
#include "speculate.h"
#include "tokenizer.h"

typedef struct Scheduler Scheduler;

// Everything here is copied by scheduler_submit but `grammar`, which outlives the request.
typedef struct GenerateParams {
    float temperature;        // 0: greedy
    float top_p;              // 1: off
    float min_p;              // 0: off
    float repetition_penalty; // 1: off; over prompt and answer
    float presence_penalty;   // 0: off; over the answer, as OpenAI's
    float frequency_penalty;  // 0: off; over the answer
    int32_t top_k;            // 0: off
    int32_t logprobs;         // -1: none; n: the drawn token's and those of the n most likely
    uint64_t seed;
    int64_t max_tokens; // 0: until it stops or the context is full
    int64_t min_tokens; // stop tokens and stop strings are not taken before
    bool ignore_eos;
    bool include_stop;        // keep the stop string in the text
    const int32_t *stop_ids;  // besides those of the model
    const char *const *stops; // strings; text that may be the beginning of one is held back
    const LogitBias *bias;    // added to logits after the penalties
    int32_t stop_id_count, stop_count, bias_count;
    int32_t speculate;      // drafts of at most so many tokens from n-grams of the text; 0: off
    const Grammar *grammar; // NULL: any text
} GenerateParams;

enum {
    SCHEDULER_MAX_LOGPROBS = SAMPLE_MAX_TOP,
    SCHEDULER_MAX_BIAS = SAMPLE_MAX_BIAS,
    SCHEDULER_MAX_DRAFT = SPECULATE_MAX,
};

typedef struct TokenLogprob {
    int32_t id;
    float logprob; // natural logarithm; of the model's distribution before temperature and filters
} TokenLogprob;

typedef enum FinishReason { // ORDER FINISH
    FINISH_NONE,
    FINISH_STOP,      // a stop token, a stop string, or the grammar's end
    FINISH_LENGTH,    // max_tokens or the context
    FINISH_CANCELLED, // scheduler_cancel
    FINISH_ERROR,     // event.error
} FinishReason;

// What one step gave to one request. Valid during the call.
typedef struct GenerateEvent {
    const char
        *text; // whole UTF-8 characters that no stop string can take back any more; may be ""
    size_t text_size;
    const int32_t
        *ids; // the tokens drawn since the last event (also those whose text is held back)
    int32_t id_count;
    const TokenLogprob *logprobs; // [id_count] of the drawn tokens; NULL: not asked for
    const TokenLogprob *top;      // [id_count, top_count], most likely first
    int32_t top_count;
    FinishReason finish; // FINISH_NONE: more follows; else this is the last event
    const char *stop;    // the stop string that ended it, or NULL
    const Error *error;  // FINISH_ERROR
    int64_t prompt_tokens, cached_tokens,
        output_tokens;         // so far; cached: taken from the prefix cache
    int64_t drafted, accepted; // speculation, so far
} GenerateEvent;

// Called by the scheduler's thread; must not block and must not call the scheduler.
typedef void GenerateCallback(void *user, uint64_t request, const GenerateEvent *event);

typedef struct SchedulerOptions {
    int32_t max_queue;    // requests that wait; more are refused. 0: 1024
    int64_t token_budget; // tokens of one step; 0: max_num_tokens of the model
    bool no_prefix_cache;
} SchedulerOptions;

typedef struct SchedulerStats {
    int64_t running, waiting, kv_pages, kv_pages_used, kv_pages_cached;
    int64_t prompt_tokens, cached_tokens, output_tokens, steps, preemptions, drafted, accepted;
    int64_t finished[FINISH_ERROR + 1];
    double idle_seconds; // of the device, from the end of a step to the next one that was ready
} SchedulerStats;

// Owns nothing of engine and tokenizer, which outlive it. Starts the thread.
bool scheduler_open(Scheduler **out, Engine *en, const Tokenizer *t, const SchedulerOptions *o,
                    Error *err);
// Cancels what runs, waits for the thread. Every request has had its last event then.
void scheduler_close(Scheduler *s);
// *request: a number that is never 0 and never used twice. ERR_USAGE: an id outside the vocabulary,
// a parameter outside its range (the message names it); ERR_RESOURCE, id 1101: the prompt does not
// fit into the context; id 1102: the queue is full.
bool scheduler_submit(Scheduler *s, const int32_t *ids, int64_t count, const GenerateParams *p,
                      GenerateCallback *callback, void *user, uint64_t *request, Error *err);
// Frees its pages before the next step (or once the mask that is being made for it is there); its
// last event still comes. Unknown numbers are ignored.
void scheduler_cancel(Scheduler *s, uint64_t request);
// No new request is taken; returns when all are done or `seconds` have passed (then false).
bool scheduler_drain(Scheduler *s, double seconds);
void scheduler_stats(Scheduler *s, SchedulerStats *out);
GenerateParams generate_defaults(const ModelInfo *m); // generation_config.json's

#endif

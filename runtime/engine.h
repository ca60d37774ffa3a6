// Sequences in slots over one device: prefill, sample, decode. Everything is allocated when it is
// opened; nothing per token. What a sequence gives does not depend on the others.
#ifndef ENGINE_H
#define ENGINE_H

#include "device.h"
#include "kvcache.h"
#include "speculate.h"

typedef struct Engine Engine;

// type NULL: cuda if this file has GPU targets and a GPU is usable, else cpu; a fall from one to
// the other is said on stderr.
bool engine_open(Engine **out, const Executable *e, const DeviceType *type, const DeviceOptions *o,
                 Error *err);
// Which device and target engine_open would take without a type, and why, in text[size].
bool engine_choice(const Executable *e, char *text, size_t size, Error *err);
void engine_close(Engine *en);
Device *engine_device(Engine *en);
int64_t engine_context(const Engine *en); // tokens of one sequence at most
const ModelInfo *engine_model(const Engine *en);
KvCache *engine_cache(Engine *en); // its pages, to be looked at
// Steps run in this thread from now on.
bool engine_attach(Engine *en, Error *err);

// Empties a slot and sets how it samples: without biases and mask, params->step tokens drawn before.
bool engine_start(Engine *en, int32_t slot, const SampleParams *params, Error *err);
// After engine_start: at most SAMPLE_MAX_BIAS biases; the answer's tokens so far, for presence and
// frequency penalties. Ids are inside of the vocabulary.
bool engine_bias(Engine *en, int32_t slot, const LogitBias *bias, int32_t count, Error *err);
bool engine_counts(Engine *en, int32_t slot, const int32_t *ids, int64_t count, Error *err);
// The slot's mask, to be written: uint32 [ceil(vocab_size / 32)], 1: may be drawn. It counts from
// engine_mask_set(true) on, as it was then.
uint32_t *engine_mask(Engine *en, int32_t slot);
bool engine_mask_set(Engine *en, int32_t slot, bool masked, Error *err);
void engine_end(Engine *en, int32_t slot);
int64_t engine_length(const Engine *en, int32_t slot); // tokens in the cache
// Takes the pages for so many tokens in a slot. ERR_RESOURCE: nothing was taken.
bool engine_reserve(Engine *en, int32_t slot, int64_t tokens, Error *err);

// Pages of equal beginnings. engine_reuse, after engine_start: what the cache still has of `ids`, all
// but one at most, becomes the beginning of the sequence. engine_know: the sequence begins with
// ids[0, count), so that others find it.
bool engine_reuse(Engine *en, int32_t slot, const int32_t *ids, int64_t count, Error *err);
void engine_know(Engine *en, int32_t slot, const int32_t *ids, int64_t count);

// Who wants to see logits while a prompt is prefilled.
typedef struct LogitsVisit {
    // Called with the logits of one position, float [vocab_size], in order.
    bool (*visit)(void *user, int64_t position, const float *logits, Error *err);
    void *user;
    int64_t first; // position of the first token that is wanted
    int64_t end;   // of the last one, + 1; 0: to the end of the prompt
} LogitsVisit;

// Appends a prompt, in chunks. visit may be NULL. ERR_USAGE: an id is outside of the vocabulary;
// ERR_RESOURCE: it does not fit, and nothing was done.
bool engine_prefill(Engine *en, int32_t slot, const int32_t *ids, int64_t count,
                    const LogitsVisit *visit, Error *err);
// The next decode step of a slot feeds this token instead of the one that was drawn last.
void engine_force(Engine *en, int32_t slot, int32_t token);
// Draws the token that follows the prompt which was prefilled last.
bool engine_sample(Engine *en, int32_t slot, int32_t *token, Error *err);
// One step: feeds each slot's last drawn token, draws the next. tokens: [count].
bool engine_decode(Engine *en, const int32_t *slots, int32_t count, int32_t *tokens, Error *err);

// The same without waiting for the device: any number of these for different slots, then one
// engine_finish, after which engine_token tells what was drawn last in a slot.
bool engine_sample_begin(Engine *en, int32_t slot, Error *err);
// Appends chunks of prompts to sequences, each another one, in one run: max_num_tokens tokens at
// most. ERR_RESOURCE: one does not fit, and nothing was done.
typedef struct PromptChunk {
    const int32_t *ids;
    int32_t count, slot;
    bool draw; // the token that follows it, too
} PromptChunk;
bool engine_prompts_begin(Engine *en, const PromptChunk *chunks, int32_t count, Error *err);
bool engine_decode_begin(Engine *en, const int32_t *slots, int32_t count, Error *err);
bool engine_finish(Engine *en, Error *err);
int32_t engine_token(const Engine *en, int32_t slot);
const SampleResult *engine_result(const Engine *en, int32_t slot); // if params->logprobs

// Speculation: the next decode step of the slot feeds `count` drafts of what follows behind its last
// drawn token, and draws a token after each. Drafts are tokens that the sequence has already, as those
// of n-grams are (repetition_penalty goes by them). ERR_RESOURCE: no pages, and it feeds none.
bool engine_draft(Engine *en, int32_t slot, const int32_t *drafts, int32_t count, Error *err);
// What the last step drew in the slot, as long as the drafts are what was drawn: one token, or more,
// those that as many steps would have drawn. Returns how many.
int32_t engine_drawn(const Engine *en, int32_t slot, int32_t tokens[SPECULATE_MAX + 1]);
// Drafts that the sequences of a step may have together, so that each row has the bits that it has
// alone: on a GPU more rows may be the work of kernels that add in another order.
int32_t engine_draft_rows(const Engine *en, int32_t sequences);
// False with logprobs and with penalties that count tokens.
bool engine_drafts(const SampleParams *params);

#endif

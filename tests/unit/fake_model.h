// A model whose logits say which tokens the KV cache holds: a row's logits are a hash of all tokens
// that its sequence has, read back through the page table. So any mistake of the engine in pages,
// positions, slots, chunks or rows changes the result. Its step functions are plain C in the place
// of generated code, and its payload is built in memory.
#ifndef FAKE_MODEL_H
#define FAKE_MODEL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../runtime/executable.h"
#include "../../runtime/sampler.h"
#include "../../runtime/step.h"

enum {
    FAKE_VOCAB = 70, // more than two words of `seen`
    FAKE_PAGE_TOKENS = 4,
    FAKE_MAX_SEQ = 64,
    FAKE_BATCH = 6,
    FAKE_CHUNK = 5,
    FAKE_CHUNK_MOST = 96,
    FAKE_HEAD_ROWS = 6,
    FAKE_PAGE_BYTES = FAKE_PAGE_TOKENS * 4,
    FAKE_LOGITS_OFFSET = 4 * FAKE_CHUNK_MOST,
    // Pages of checks: 0, 3 and the last one, which is short, must be right at the start; of 1 and 2
    // the steps ask for the one that a token needs.
    FAKE_PAGES = 5,
    FAKE_WEIGHTS = (FAKE_PAGES - 1) * PAYLOAD_PAGE_BYTES + 12345,
};

static inline uint32_t fake_hash(uint32_t hash, uint32_t token) {
    hash = (hash ^ token) * 2654435761u;
    return hash ^ hash >> 15;
}

// The logit of token `id` after a sequence with that hash, in [0, 8).
static inline float fake_logit(uint32_t hash, int32_t id) {
    return (float)(fake_hash(hash, (uint32_t)id + 1000) & 0xffff) / 8192.0f;
}

static int64_t fake_chunk = FAKE_CHUNK; // tokens of a step, up to FAKE_CHUNK_MOST

static ModelInfo fake_info(void) {
    ModelInfo m = {.name = "fake",
                   .architecture = "FakeForCausalLM",
                   .vocab_size = FAKE_VOCAB,
                   .hidden_size = 1,
                   .num_hidden_layers = 1,
                   .weights_bytes = FAKE_WEIGHTS,
                   .streamed_bytes = FAKE_WEIGHTS,
                   .max_seq_len = FAKE_MAX_SEQ,
                   .max_batch_size = FAKE_BATCH,
                   .max_num_tokens = fake_chunk,
                   .max_head_rows = FAKE_HEAD_ROWS,
                   .page_tokens = FAKE_PAGE_TOKENS,
                   .kv_page_bytes = FAKE_PAGE_BYTES,
                   .kv_layer_stride = FAKE_PAGE_BYTES,
                   .arena_bytes = FAKE_LOGITS_OFFSET + FAKE_HEAD_ROWS * FAKE_VOCAB * 4,
                   .logits_offset = FAKE_LOGITS_OFFSET,
                   .bos_id = 0,
                   .default_top_p = 1,
                   .default_repetition_penalty = 1};
    return m;
}

// ---- steps --------------------------------------------------------------------------------------

static const int32_t *fake_ints(const StepRun *run, int64_t offset) {
    return (const int32_t *)(const void *)(run->base[REGION_BATCH] + offset);
}

static int32_t *fake_kv(const StepRun *run, const BatchLayout *b, int32_t slot, int32_t position) {
    int32_t page = 0; // of rows that stand for no sequence
    if (slot >= 0)
        page = fake_ints(run, b->page_table)[slot * b->pages_per_seq + position / FAKE_PAGE_TOKENS];
    return (int32_t *)(void *)(run->base[REGION_KV] + page * FAKE_PAGE_BYTES) +
           position % FAKE_PAGE_TOKENS;
}

static uint32_t *fake_hidden(const StepRun *run) {
    return (uint32_t *)(void *)run->base[REGION_ARENA];
}

// Asks for the page that a token needs.
static inline int64_t fake_token_page(int32_t token) {
    return 1 + token % 2;
}

static void fake_ready(const StepRun *run, int32_t token) {
    if (run->ready)
        run->ready(run, run->base[REGION_WEIGHTS] + fake_token_page(token) * PAYLOAD_PAGE_BYTES, 1,
                   PAYLOAD_PAGE_BYTES);
}

// Rows are dealt to the threads; all must have written their token before one reads.
static void fake_hidden_step(const StepRun *run, int32_t thread) {
    ModelInfo m = fake_info();
    BatchLayout b = batch_layout(&m);
    for (int32_t row = thread; row < run->tokens; row += run->threads) {
        fake_ready(run, fake_ints(run, b.token_ids)[row]);
        *fake_kv(run, &b, fake_ints(run, b.slots)[row], fake_ints(run, b.positions)[row]) =
            fake_ints(run, b.token_ids)[row];
    }
    cpu_barrier(run, thread);
    for (int32_t row = thread; row < run->tokens; row += run->threads) {
        uint32_t hash = 1;
        for (int32_t at = 0; at <= fake_ints(run, b.positions)[row]; at++)
            hash = fake_hash(hash, (uint32_t)*fake_kv(run, &b, fake_ints(run, b.slots)[row], at));
        fake_hidden(run)[row] = hash;
    }
    cpu_barrier(run, thread);
}

static void fake_logits_step(const StepRun *run, int32_t thread, const int32_t *rows) {
    float *logits = (float *)(void *)(run->base[REGION_ARENA] + FAKE_LOGITS_OFFSET);
    for (int32_t at = thread; at < run->tokens; at += run->threads)
        for (int32_t id = 0; id < FAKE_VOCAB; id++)
            logits[at * FAKE_VOCAB + id] = fake_logit(fake_hidden(run)[rows ? rows[at] : at], id);
    cpu_barrier(run, thread);
}

static void fake_head_step(const StepRun *run, int32_t thread) {
    ModelInfo m = fake_info();
    BatchLayout b = batch_layout(&m);
    fake_logits_step(run, thread, fake_ints(run, b.head_rows));
}

static void fake_decode_step(const StepRun *run, int32_t thread) {
    fake_hidden_step(run, thread);
    fake_logits_step(run, thread, NULL);
}

#define FAKE_STEPS(target)                                                    \
    {target, PHASE_PREFILL, FAKE_CHUNK_MOST, (void (*)(void))fake_hidden_step}, \
        {target, PHASE_HEAD, FAKE_HEAD_ROWS, (void (*)(void))fake_head_step},   \
        {target, PHASE_DECODE, 1, (void (*)(void))fake_decode_step}, {          \
        target, PHASE_DECODE, FAKE_BATCH, (void (*)(void))fake_decode_step      \
    }

const StepEntry model_steps[] = {FAKE_STEPS("cpu:x86-64-v3"), FAKE_STEPS("cpu:x86-64-v4-vnni")};
const int32_t model_step_count = sizeof model_steps / sizeof *model_steps;
const ReadyWeights model_ready[] = {
    {"cpu:x86-64-v4-vnni", 0, FAKE_WEIGHTS}, // another target's
    {"cpu:x86-64-v3", PAYLOAD_PAGE_BYTES - 100, PAYLOAD_PAGE_BYTES + 4},
    {"cpu:x86-64-v3", 2 * PAYLOAD_PAGE_BYTES - 96, PAYLOAD_PAGE_BYTES + 96 + 12000},
    {"cpu:x86-64-v3", 3 * PAYLOAD_PAGE_BYTES + 12256, PAYLOAD_PAGE_BYTES - 12256 + 12345},
};
const int32_t model_ready_count = sizeof model_ready / sizeof *model_ready;

// ---- payload ------------------------------------------------------------------------------------

typedef struct FakeFile {
    unsigned char *weights; // [FAKE_WEIGHTS], then the checks
    uint64_t checks[FAKE_PAGES];
    TargetInfo targets[1];
    Executable e;
} FakeFile;

// An Executable as executable_open leaves it, without a file.
static void fake_open(FakeFile *f) {
    *f = (FakeFile){
        .targets = {{.name = "cpu:x86-64-v3", .device = DEVICE_CPU, .same_rows = FAKE_CHUNK}}};
    size_t checks_at = (size_t)round_up(FAKE_WEIGHTS, 64);
    unsigned char *data = calloc(1, checks_at + sizeof f->checks);
    for (size_t at = 0; at < FAKE_WEIGHTS; at++)
        data[at] = (unsigned char)(at * 7);
    for (int64_t page = 0; page < FAKE_PAGES; page++) {
        int64_t at = page * PAYLOAD_PAGE_BYTES, left = FAKE_WEIGHTS - at;
        f->checks[page] = payload_hash64(
            data + at, (size_t)(left < PAYLOAD_PAGE_BYTES ? left : PAYLOAD_PAGE_BYTES));
    }
    memcpy(data + checks_at, f->checks, sizeof f->checks);
    f->weights = data;
    f->e = (Executable){.path = "fake",
                        .fd = -1,
                        .whole = {data, checks_at + sizeof f->checks},
                        .info = fake_info(),
                        .targets = f->targets,
                        .target_count = 1};
    f->e.batch = batch_layout(&f->e.info);
    f->e.segments[SEGMENT_WEIGHTS].size = FAKE_WEIGHTS;
    f->e.segments[SEGMENT_CHECKS] =
        (Segment){.offset = checks_at, .size = sizeof f->checks, .kind = SEGMENT_CHECKS};
}

static void fake_close(FakeFile *f) {
    free(f->weights);
}

// ---- the reference ------------------------------------------------------------------------------

// What the engine must do, in plain C: the tokens that follow `prompt`. bias:
// [p.bias_count], by id.
static inline void fake_expected(const int32_t *prompt, int64_t count, SampleParams p,
                                 const LogitBias *bias, int32_t *out, int64_t tokens) {
    uint32_t hash = 1, seen[3] = {0};
    uint16_t counts[FAKE_VOCAB] = {0};
    float logits[FAKE_VOCAB], scores[FAKE_VOCAB];
    Candidate candidates[FAKE_VOCAB];
    const SampleRow row = {.logits = logits,
                           .vocab = FAKE_VOCAB,
                           .params = &p,
                           .seen = seen,
                           .bias = bias,
                           .counts = counts,
                           .scores = scores,
                           .candidates = candidates};
    for (int64_t at = 0; at < count; at++) {
        hash = fake_hash(hash, (uint32_t)prompt[at]);
        seen[prompt[at] / 32] |= 1u << prompt[at] % 32;
    }
    for (int64_t at = 0; at < tokens; at++) {
        for (int32_t id = 0; id < FAKE_VOCAB; id++)
            logits[id] = fake_logit(hash, id);
        out[at] = sample_token(&row);
        p.step++;
        hash = fake_hash(hash, (uint32_t)out[at]);
        seen[out[at] / 32] |= 1u << out[at] % 32;
        counts[out[at]]++;
    }
}

static inline void fake_prompt(int32_t *prompt, int64_t count, uint32_t seed) {
    for (int64_t at = 0; at < count; at++)
        prompt[at] = (int32_t)(fake_hash(seed, (uint32_t)at) % FAKE_VOCAB);
}

#endif

// Sampling on a GPU or emulated, checked against a sort of the whole row.
#ifndef SAMPLE_LAB_H
#define SAMPLE_LAB_H

#include "tests/random_weight.h"
#include "tests/step_lab.h"

#include <float.h>
#include <math.h>

enum {
    SAMPLE_FIRST_DRAFT = 23, // from here on rows of one slot
    SAMPLE_ROWS = 28,
    SAMPLE_TOKENS = 64,
};

typedef struct SampleRun {
    int64_t vocab;
    Graph graph;
    Plan plan;
    PhasePlan phase;
    int first_kernel;
    int64_t arena_bytes;
    uint64_t base[REGION_COUNT];
    float *logits; // [SAMPLE_ROWS, vocab]
    unsigned char *batch;
} SampleRun;

// Shapes of logits, by row.
typedef enum SampleShape {
    SHAPE_MODEL,
    SHAPE_FLAT,
    SHAPE_PEAKED,
    SHAPE_TIES,
    SHAPE_WILD,
    SHAPE_COUNT
} SampleShape;

// clang-format off
static const SampleParams sample_settings[SAMPLE_FIRST_DRAFT + 1] = {
    {.temperature = 0, .top_p = 1, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
    {.temperature = 0.8f, .top_p = 0.95f, .top_k = 40, .repetition_penalty = 1.1f},
    {.temperature = 1, .top_p = 0.9f, .repetition_penalty = 1},
    {.temperature = 1.5f, .top_p = 1, .top_k = 5000, .repetition_penalty = 1},
    {.temperature = 0.7f, .top_p = 1, .min_p = 0.05f, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 0.5f, .min_p = 0.1f, .top_k = 20, .repetition_penalty = 1.3f},
    {.temperature = 0, .top_p = 0.3f, .top_k = 3, .repetition_penalty = 2},
    {.temperature = 0.01f, .top_p = 0.99f, .top_k = 50, .repetition_penalty = 1},
    {.temperature = 3, .top_p = 0.999f, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 0, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 1, .top_k = 1, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 1, .min_p = 1, .repetition_penalty = 0.5f},
    {.temperature = 2, .top_p = 0.7f, .top_k = 1000000, .repetition_penalty = 1},
    {.temperature = 100, .top_p = 0.95f, .top_k = 100, .repetition_penalty = 1},
    {.temperature = 1, .top_p = 0.9f, .top_k = 7, .repetition_penalty = 1.2f},
    {.temperature = 0, .top_p = 1, .repetition_penalty = 1, .presence_penalty = 3, .frequency_penalty = 2,
     .logprobs = 1},
    {.temperature = 1, .top_p = 1, .repetition_penalty = 1.1f, .frequency_penalty = -0.5f, .logprobs = 21},
    {.temperature = 1, .top_p = 0.9f, .repetition_penalty = 1, .bias_count = 300, .logprobs = 6},
    {.temperature = 0, .top_p = 1, .repetition_penalty = 1.5f, .bias_count = 1, .masked = 1},
    {.temperature = 1, .top_p = 1, .top_k = 50, .repetition_penalty = 1, .masked = 1},
    {.temperature = 2, .top_p = 1, .min_p = 0.01f, .repetition_penalty = 1, .token_count = 200, .logprobs = 11},
    {.temperature = 1, .top_p = 0.8f, .repetition_penalty = 1.2f, .presence_penalty = -1, .bias_count = 40,
     .masked = 1, .token_count = 131, .logprobs = 3},
    {.temperature = 2, .top_p = 0.99f, .repetition_penalty = 1.3f, .first_row = SAMPLE_FIRST_DRAFT + 1},
};
// clang-format on

static inline void sample_add(SampleRun *run, int64_t vocab, StepLab *lab) {
    Arena *a = &lab->arena;
    *run = (SampleRun){.vocab = vocab, .graph = graph_new(a)};
    run->graph.logits = graph_value(&run->graph, "logits", VALUE_F32, vocab);
    graph_op(&run->graph, OP_EMBED, -1)->output = run->graph.logits;
    run->plan = (Plan){.target = lab->target, .graph = &run->graph, .arena = a};
    run->plan.info = (ModelInfo){.vocab_size = vocab,
                                 .max_seq_len = 64,
                                 .max_batch_size = SAMPLE_ROWS,
                                 .max_num_tokens = SAMPLE_TOKENS,
                                 .max_head_rows = SAMPLE_ROWS,
                                 .page_tokens = 16};
    run->plan.batch = batch_layout(&run->plan.info);
    lab_values(&run->phase, &run->graph, SAMPLE_ROWS, a);
    kernel_sample_lower(&run->plan, &run->phase);
    run->first_kernel = lab_phase_add(lab, &run->phase, &run->arena_bytes);
}

static inline void sample_logits(SampleRun *run, uint64_t seed) {
    Random r = {.state = seed};
    for (int row = 0; row < SAMPLE_ROWS; row++) {
        SampleShape shape = (SampleShape)((row + (int)seed) % SHAPE_COUNT);
        for (int64_t id = 0; id < run->vocab; id++) {
            float x = random_normal(&r) * 2.5f, *l = &run->logits[row * run->vocab + id];
            bool top = random_u32(&r) % 500 == 0;
            *l = shape == SHAPE_FLAT     ? x * 0.01f
                 : shape == SHAPE_PEAKED ? x + (id == 77 ? 40 : 0)
                 : shape == SHAPE_TIES   ? rintf(x)
                                         : x + (top ? 12 + x : 0);
        }
        if (shape == SHAPE_WILD) {
            float wild[] = {NAN, -INFINITY, -NAN, FLT_MAX, -0.0f};
            for (int at = 0; at < 5; at++)
                run->logits[row * run->vocab + 9 + at * 31] = wild[at];
        }
    }
}

static inline int sample_slot(int row) {
    if (row > SAMPLE_FIRST_DRAFT)
        row = SAMPLE_FIRST_DRAFT;
    return row == 5 ? -1 : (row * 11 + 3) % SAMPLE_ROWS;
}

// What one slot may be asked to use besides `seen`: mask, biases, counts.
static inline void sample_lists(SampleRun *run, int slot, Random *r) {
    const BatchLayout *b = &run->plan.batch;
    uint32_t *mask = (uint32_t *)(void *)(run->batch + b->mask) + slot * b->seen_words;
    uint32_t *biased = (uint32_t *)(void *)(run->batch + b->biased) + slot * b->seen_words;
    LogitBias *bias = (LogitBias *)(void *)(run->batch + b->bias) + slot * SAMPLE_MAX_BIAS;
    uint16_t *counts = (uint16_t *)(void *)(run->batch + b->counts) + slot * run->vocab;
    const SampleParams *p = (SampleParams *)(void *)(run->batch + b->sample) + slot;
    int64_t step = run->vocab / SAMPLE_MAX_BIAS > 0 ? run->vocab / SAMPLE_MAX_BIAS : 1;
    for (int64_t word = 0; word < b->seen_words; word++) {
        mask[word] = random_u32(r) & random_u32(r);
        biased[word] = 0;
    }
    mask[0] |= 2;
    for (int64_t at = 0; at < SAMPLE_MAX_BIAS; at++) {
        int64_t id = at * step;
        bias[at] = (LogitBias){(int32_t)id, random_normal(r) * 5};
        if (at < p->bias_count && id < run->vocab)
            biased[id / 32] |= 1u << id % 32;
    }
    for (int64_t id = 0; id < run->vocab; id++)
        counts[id] = (uint16_t)(random_u32(r) % 5 ? 0 : random_u32(r) % 4);
    counts[0] = UINT16_MAX;
}

static inline void sample_batch(SampleRun *run, uint64_t seed) {
    const BatchLayout *b = &run->plan.batch;
    Random r = {.state = seed + 99};
    for (int64_t at = 0; at < b->bytes; at++)
        run->batch[at] = 0xee;
    int32_t *head_rows = (int32_t *)(void *)(run->batch + b->head_rows);
    int32_t *slots = (int32_t *)(void *)(run->batch + b->head_slots);
    int32_t *positions = (int32_t *)(void *)(run->batch + b->positions);
    SampleParams *sample = (SampleParams *)(void *)(run->batch + b->sample);
    uint32_t *seen = (uint32_t *)(void *)(run->batch + b->seen);
    for (int at = 0; at < SAMPLE_TOKENS; at++)
        positions[at] = 100 + at;
    for (int row = 0; row < SAMPLE_ROWS; row++) {
        head_rows[row] = row ? row : SAMPLE_TOKENS - 1; // row 0 stands for the end of a prefill
        slots[row] = sample_slot(row);
        if (slots[row] < 0 || row > SAMPLE_FIRST_DRAFT)
            continue;
        sample[slots[row]] = sample_settings[row];
        sample[slots[row]].seed_low = random_u32(&r);
        sample[slots[row]].seed_high = random_u32(&r);
        sample[slots[row]].step = (int32_t)(random_u32(&r) % 1000);
    }
    for (int64_t at = 0; at < SAMPLE_ROWS * b->seen_words; at++)
        seen[at] = random_u32(&r) & random_u32(&r) & random_u32(&r);
    for (int slot = 0; slot < SAMPLE_ROWS; slot++)
        sample_lists(run, slot, &r);
}

typedef struct Scored {
    float s;
    uint64_t weight;
    int64_t id;
    bool kept;
} Scored;

static inline int scored_order(const void *left, const void *right) {
    const Scored *a = left, *b = right;
    if (a->s != b->s)
        return a->s > b->s ? -1 : 1;
    return a->id < b->id ? -1 : 1;
}

static inline uint32_t sample_philox(const SampleParams *p, int row) {
    uint32_t drafts = p->first_row ? (uint32_t)(row + 1 - p->first_row) : 0;
    uint32_t c[4] = {(uint32_t)p->step + drafts, 0, 0, 0}, key[2] = {p->seed_low, p->seed_high};
    for (int round = 0; round < 10; round++) {
        uint64_t low = 0xd2511f53ULL * c[0], high = 0xcd9e8d57ULL * c[2];
        uint32_t next[4] = {(uint32_t)(high >> 32) ^ c[1] ^ key[0], (uint32_t)high,
                            (uint32_t)(low >> 32) ^ c[3] ^ key[1], (uint32_t)low};
        memcpy(c, next, sizeof c);
        key[0] += 0x9e3779b9;
        key[1] += 0xbb67ae85;
    }
    return c[0];
}

// One row as the kernel finds it.
typedef struct SampleSlot {
    const float *logits;
    const SampleParams *p;
    uint32_t *seen;
    const uint32_t *mask;
    const LogitBias *bias;
    uint16_t *counts;
    int64_t vocab;
    int row;
} SampleSlot;

static inline SampleSlot sample_slot_of(const SampleRun *run, unsigned char *batch, int row) {
    const BatchLayout *b = &run->plan.batch;
    int slot = sample_slot(row);
    return (SampleSlot){.logits = run->logits + row * run->vocab,
                        .p = (SampleParams *)(void *)(batch + b->sample) + slot,
                        .seen = (uint32_t *)(void *)(batch + b->seen) + slot * b->seen_words,
                        .mask = (uint32_t *)(void *)(batch + b->mask) + slot * b->seen_words,
                        .bias = (LogitBias *)(void *)(batch + b->bias) + slot * SAMPLE_MAX_BIAS,
                        .counts = (uint16_t *)(void *)(batch + b->counts) + slot * run->vocab,
                        .vocab = run->vocab,
                        .row = row};
}

static inline float sample_clean(float s) {
    s = s >= -FLT_MAX ? s : -FLT_MAX;
    return fminf(s, FLT_MAX) + 0.0f;
}

static inline float sample_score(const SampleSlot *slot, int64_t id) {
    const SampleParams *p = slot->p;
    float s = slot->logits[id], inverse = 1.0f / p->repetition_penalty;
    bool again = p->repetition_penalty > 0 && (slot->seen[id / 32] >> (id % 32) & 1);
    if ((p->token_count && id >= p->token_count) ||
        (p->masked && !(slot->mask[id / 32] >> (id % 32) & 1)))
        return -INFINITY;
    if (again && p->repetition_penalty != 1.0f)
        s *= s > 0 ? inverse : p->repetition_penalty;
    if ((p->presence_penalty != 0 || p->frequency_penalty != 0) && slot->counts[id])
        s -= p->presence_penalty + p->frequency_penalty * (float)slot->counts[id];
    for (int32_t at = 0; at < p->bias_count; at++)
        if (slot->bias[at].id == id)
            s += slot->bias[at].bias;
    return sample_clean(s);
}

// Part (1) of kernels/sample.cu, by sorting.
static inline int64_t sample_reference(const SampleSlot *slot, Scored *scored) {
    const SampleParams *p = slot->p;
    const int64_t vocab = slot->vocab;
    for (int64_t id = 0; id < vocab; id++)
        scored[id] = (Scored){.s = sample_score(slot, id), .id = id, .kept = true};
    qsort(scored, (size_t)vocab, sizeof *scored, scored_order);
    if (!(p->temperature > 0))
        return scored[0].id;
    float scale = 1.44269504f / p->temperature, max = scored[0].s;
    for (int64_t at = 0; at < vocab; at++) {
        float x = (scored[at].s - max) * scale;
        scored[at].weight = x <= -40.0f ? 0 : (uint64_t)(exp2f(x) * 0x1p40f);
    }
    if (p->top_k > 0 && p->top_k < vocab)
        for (int64_t at = p->top_k; at < vocab; at++)
            scored[at].kept = scored[at].s == scored[p->top_k - 1].s;
    __extension__ typedef unsigned __int128 Wide;
    uint64_t total = 0;
    for (int64_t at = 0; at < vocab; at++)
        total += scored[at].kept ? scored[at].weight : 0;
    if (p->top_p < 1) {
        uint64_t share = (uint64_t)(fmaxf(p->top_p, 0) * 0x1p32f);
        uint64_t limit = (uint64_t)((Wide)total * share >> 32), above = 0, before = 0;
        limit = limit > 1 ? limit : 1;
        for (int64_t at = 0; at < vocab && scored[at].kept; at++) {
            if (at == 0 || scored[at].s != scored[at - 1].s)
                before = above; // tokens of equal logit stay or go together
            scored[at].kept = before < limit;
            above += scored[at].weight;
            if (!scored[at].kept)
                for (; at < vocab; at++)
                    scored[at].kept = false;
        }
    }
    uint64_t least = (uint64_t)(fminf(fmaxf(p->min_p, 0), 1) * 0x1p40f), kept = 0;
    least = least > 1 ? least : 1;
    uint64_t *by_id = calloc((size_t)vocab, sizeof *by_id);
    for (int64_t at = 0; at < vocab; at++)
        if (scored[at].kept && scored[at].weight >= least) {
            by_id[scored[at].id] = scored[at].weight;
            kept += scored[at].weight;
        }
    uint64_t r = (uint64_t)((Wide)kept * sample_philox(p, slot->row) >> 32);
    int64_t id = 0;
    for (; id < vocab - 1 && by_id[id] <= r; id++)
        r -= by_id[id];
    free(by_id);
    return id;
}

// The logprobs of a row: exact ids, values within rounding of fp32 sums.
static inline bool sample_logprobs(const SampleSlot *slot, int32_t token, const SampleResult *found,
                                   Scored *scored) {
    int64_t tokens = slot->p->token_count ? slot->p->token_count : slot->vocab;
    int32_t asked = slot->p->logprobs - 1;
    double total = 0, max = -(double)INFINITY;
    for (int64_t id = 0; id < slot->vocab; id++) {
        scored[id] = (Scored){.s = sample_clean(slot->logits[id]), .id = id};
        max = fmax(max, (double)scored[id].s);
    }
    for (int64_t id = 0; id < slot->vocab; id++)
        total += exp((double)scored[id].s - max);
    double below = max + log(total), worst = 0;
    double own = (double)scored[token].s - below;
    worst = fabs((double)found->logprob - own) / (1 + fabs(own));
    qsort(scored, (size_t)tokens, sizeof *scored, scored_order);
    bool same = found->top_count == (asked < tokens ? asked : (int32_t)tokens);
    for (int32_t rank = 0; rank < asked && same; rank++) {
        double expected = (double)scored[rank].s - below;
        same = found->top_ids[rank] == scored[rank].id;
        worst =
            fmax(worst, fabs((double)found->top_logprobs[rank] - expected) / (1 + fabs(expected)));
    }
    if (!same || !(worst < 1e-5))
        printf("       logprobs: %d of them, off by %.2g\n", found->top_count, worst);
    return same && worst < 1e-5;
}

// One launch of all rows against the reference. Counts in *wrong rows whose token differs (on a
// GPU, rounding of 2^x may move a border), and is false if anything but a token is wrong.
static inline bool sample_once(SampleRun *run, StepLab *lab, uint64_t seed, int *wrong) {
    const BatchLayout *b = &run->plan.batch;
    Arena scratch = {0};
    bool good = true;
    sample_logits(run, seed);
    sample_batch(run, seed);
    Scored *scored = ARENA_NEW(&scratch, Scored, run->vocab);
    unsigned char *found = arena_alloc(&scratch, (size_t)b->bytes);
    unsigned char *expected = arena_alloc(&scratch, (size_t)b->bytes);
    const PhasePlan *phase = &run->phase;
    const Buffer *logits = &phase->buffers[phase->value_buffer[run->graph.logits]];
    lab_fill(lab, run->base[REGION_ARENA], 0xff, (size_t)run->arena_bytes);
    lab_upload(lab, run->base[REGION_ARENA] + (uint64_t)logits->offset, run->logits,
               (size_t)(SAMPLE_ROWS * run->vocab * 4));
    lab_upload(lab, run->base[REGION_BATCH], run->batch, (size_t)b->bytes);
    lab_phase_run(lab, phase, run->first_kernel, run->base, SAMPLE_ROWS);
    lab_download(lab, found, run->base[REGION_BATCH], (size_t)b->bytes);
    memcpy(expected, run->batch, (size_t)b->bytes);
    for (int row = 0; row < SAMPLE_ROWS; row++) {
        int slot = sample_slot(row);
        if (slot < 0)
            continue;
        SampleSlot of = sample_slot_of(run, expected, row);
        SampleResult *results = (SampleResult *)(void *)(expected + b->results);
        int64_t token = sample_reference(&of, scored);
        bool draft = row >= SAMPLE_FIRST_DRAFT;
        int32_t drawn =
            ((int32_t *)(void *)(found + (draft ? b->drawn : b->sampled)))[draft ? row : slot];
        if (drawn != token) {
            *wrong += 1;
            printf("       row %d: token %d, reference %lld\n", row, drawn, (long long)token);
        }
        if (drawn < 0 || drawn >= run->vocab)
            return false;
        if (draft) {
            ((int32_t *)(void *)(expected + b->drawn))[row] = drawn;
            continue; // nothing else of it is kept
        }
        if (of.p->logprobs) {
            results[slot] = ((SampleResult *)(void *)(found + b->results))[slot];
            good = sample_logprobs(&of, drawn, &results[slot], scored) && good;
        }
        ((int32_t *)(void *)(expected + b->sampled))[slot] = drawn;
        ((int32_t *)(void *)(expected + b->token_ids))[row] = drawn;
        ((int32_t *)(void *)(expected + b->positions))[row] = 101 + (row ? row : SAMPLE_TOKENS - 1);
        ((SampleParams *)(void *)(expected + b->sample))[slot].step++;
        of.seen[drawn / 32] |= 1u << drawn % 32;
        if (of.p->presence_penalty != 0 || of.p->frequency_penalty != 0)
            of.counts[drawn] = (uint16_t)(of.counts[drawn] + (of.counts[drawn] < UINT16_MAX));
    }
    bool same = memcmp(found, expected, (size_t)b->bytes) == 0 && good;
    arena_free(&scratch);
    return same;
}

static inline bool sample_check(SampleRun *run, StepLab *lab, int rounds, int allowed) {
    Arena *a = &lab->arena;
    run->logits = ARENA_NEW(a, float, SAMPLE_ROWS * run->vocab);
    run->batch = arena_alloc(a, (size_t)run->plan.batch.bytes);
    run->base[REGION_ARENA] = lab_alloc(lab, (size_t)run->arena_bytes);
    run->base[REGION_BATCH] = lab_alloc(lab, (size_t)run->plan.batch.bytes);
    int wrong = 0;
    bool good = true;
    for (int round = 0; round < rounds && good; round++) {
        lab->backwards = round % 2;
        good = sample_once(run, lab, (uint64_t)round + 1, &wrong);
    }
    lab->backwards = false;
    lab_release(lab, run->base[REGION_ARENA]);
    lab_release(lab, run->base[REGION_BATCH]);
    bool passed = good && wrong <= allowed;
    printf("%-6s sample, vocab %-7lld %d of %d draws differ from the reference%s\n",
           passed ? "ok" : "NOT OK", (long long)run->vocab, wrong, rounds * (SAMPLE_ROWS - 1),
           good ? "" : "; batch block wrong");
    return passed;
}

#endif

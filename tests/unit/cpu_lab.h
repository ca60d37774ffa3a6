// A laboratory for CPU kernels: a plan with one phase for each case, built by the kernel families,
// compiled at every level and loaded; inputs that every run repeats; guards; comparison with an
// expected value and a bound.
#ifndef CPU_LAB_H
#define CPU_LAB_H

#include "host_module.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum {
    MAX_TOKENS = 300, // over two blocks of the kernels
    GUARD = 0xa5,
    LEVELS = 2,
    MAX_CASES = 32,
    PAGE = 16,
    PAGES_PER_SEQ = 24,
    SLOTS = 8,
};

static const int token_counts[] = {1, 2, 3, 7, 8, 16, 17, 64, 100, 129, 300};

// ---- random numbers that every run repeats ------------------------------------------------------

static inline uint32_t mix(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t x = a * 0x9e3779b1u ^ b * 0x85ebca77u ^ c * 0xc2b2ae3du;
    x ^= x >> 15;
    x *= 0x2c1b3c6du;
    x ^= x >> 12;
    x *= 0x297a2d39u;
    return x ^ x >> 15;
}

// About normal, in [-3.5, 3.5].
static inline float normal(uint32_t a, uint32_t b, uint32_t c) {
    float sum = 0;
    for (uint32_t i = 0; i < 4; i++)
        sum += (float)(mix(a, b, c * 4 + i) >> 8) / 16777216.0f - 0.5f;
    return sum * 1.75f;
}

// ---- one model that holds them all --------------------------------------------------------------

typedef struct Lab {
    Arena arena;
    Graph graph;
    ModelDType kv_dtype;
    Plan plans[LEVELS];
    int case_count;
    int ops[MAX_CASES]; // by case
    unsigned char *weights;
    int64_t weights_bytes;
    unsigned char *veiled; // weights, but ones where a step has not asked for them
    int steps_run;         // every other one sees the veiled weights
    unsigned char *memory; // the arena of the steps
    unsigned char *kv, *kv_before;
    int64_t kv_bytes;
    unsigned char *batch;
    HostModule module;
} Lab;

static inline float half_at(const void *p) {
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return half_to_float(half);
}

// The record that holds (row, k), and how it is divided, from the drawing in docs/kernels.md.
typedef struct Place {
    int64_t record;        // bytes from the tensor's start
    int64_t k, group;      // in the record
    int64_t scales, zeros; // bytes of one group's
    int64_t groups, tile_k;
} Place;

static inline Place place_of_weight(const PackedTensor *t, int64_t row, int64_t k) {
    Place p = {.tile_k = 256 / t->bits};
    const int64_t record_k = t->bits == 16 ? 64 : t->group > p.tile_k ? t->group : p.tile_k;
    p.groups = t->bits == 16 ? 0 : record_k / t->group;
    p.scales = t->scale_f32 ? 64 : 32;
    p.zeros = t->zeros ? 32 : 0;
    const int64_t bytes = p.groups * (p.scales + p.zeros) + record_k / p.tile_k * 512;
    p.record = (row / 16 * (t->k_padded / record_k) + k / record_k) * bytes;
    p.k = k % record_k;
    p.group = t->bits == 16 ? 0 : p.k / t->group;
    return p;
}

// Byte offset of the word and bit offset in it.
static inline int64_t code_place(const PackedTensor *t, int64_t row, int64_t k, int *bit) {
    const Place p = place_of_weight(t, row, k);
    int64_t at = p.record + p.groups * (p.scales + p.zeros) + p.k / p.tile_k * 512;
    const int64_t r = row % 8, h = row % 16 / 8, step = p.k % p.tile_k / 16, q = k % 16;
    const int64_t c = q % 8 / 2, high = q / 8, odd = q % 2;
    at += (4 * r + c) * 16;
    if (t->bits == 4) {
        *bit = (int)(16 * odd + 8 * high + 4 * h);
        return at + 4 * step;
    }
    if (t->bits == 8) {
        *bit = (int)(16 * odd + 8 * high);
        return at + 4 * (2 * step + h);
    }
    *bit = (int)(16 * odd);
    return at + 4 * (2 * high + h);
}

static inline int64_t scale_place(const PackedTensor *t, int64_t row, int64_t k) {
    const Place p = place_of_weight(t, row, k);
    return p.record + p.group * p.scales + p.scales / 16 * (row % 8 * 2 + row % 16 / 8);
}

static inline int64_t zero_place(const PackedTensor *t, int64_t row, int64_t k) {
    const Place p = place_of_weight(t, row, k);
    return p.record + p.groups * p.scales + p.group * 32 + 2 * (row % 8 * 2 + row % 16 / 8);
}

static inline double scale_of(const PackedTensor *t, const unsigned char *at) {
    float scale;
    memcpy(&scale, at, sizeof scale);
    return (double)(t->scale_f32 ? scale : half_at(at));
}

// The weight of a linear, or of an expert of several.
static inline double weight_of_expert(const Lab *lab, const PackedTensor *t, int64_t expert,
                                      int64_t row, int64_t k) {
    int bit;
    const unsigned char *from = lab->weights + t->offset + expert * t->expert_bytes;
    uint32_t word;
    memcpy(&word, from + code_place(t, row, k, &bit), sizeof word);
    if (t->bits == 16) {
        const uint16_t half = (uint16_t)(word >> bit);
        return (double)(t->bf16 ? bfloat_to_float(half) : half_at(&half));
    }
    const double code = (double)(word >> bit & ((1u << t->bits) - 1));
    const double zero =
        t->zeros ? (double)half_at(from + zero_place(t, row, k)) : (double)(1 << (t->bits - 1));
    return (code - zero) * scale_of(t, from + scale_place(t, row, k));
}

static inline double weight_at(const Lab *lab, const PackedTensor *t, int64_t row, int64_t k) {
    return weight_of_expert(lab, t, 0, row, k);
}

// A weight code, a zero point and a scale, with all extremes: scales that include 0, denormals and
// large ones.
static inline uint32_t random_code(const PackedTensor *t, uint32_t seed, int64_t row, int64_t k) {
    const uint32_t mask = (1u << t->bits) - 1, value = mix(seed, (uint32_t)row, (uint32_t)k);
    return (value >> 8 & 15) == 0 ? (value >> 16 & 1) * mask : value & mask;
}

static inline float random_scale(const PackedTensor *t, uint32_t seed, int64_t row, int64_t k) {
    const uint32_t kind = mix(seed + 1, (uint32_t)row, (uint32_t)(k / t->group)) % 16;
    const float large = t->order == ROWS_ROPE ? 1.0f : 100.0f; // keys are fp16
    const float scale = 0.01f + 0.001f * (float)kind + (t->scale_f32 ? 1e-6f : 0);
    return kind == 0 ? 0.0f : kind == 1 ? 3e-6f : kind == 2 ? large : scale;
}

static inline void scale_put(const PackedTensor *t, unsigned char *to, float scale) {
    const uint16_t half = half_from_float(scale);
    memcpy(to, t->scale_f32 ? (const void *)&scale : &half, t->scale_f32 ? 4 : 2);
}

// Weights of the padding are zero.
static inline void weight_put(const PackedTensor *t, unsigned char *to, uint32_t seed, int64_t row,
                              int64_t k) {
    const bool real = row < t->out_features && k < t->in_features;
    const uint32_t zero =
        t->zeros ? mix(seed + 2, (uint32_t)row, (uint32_t)(k / t->group)) % ((1u << t->bits) + 1)
                 : 1u << (t->bits - 1);
    int bit;
    const int64_t at = code_place(t, row, k, &bit);
    uint32_t word, value;
    if (t->bits == 16) {
        const float x = normal(seed, (uint32_t)row, (uint32_t)k) * 0.05f;
        value = t->bf16 ? bfloat_from_float(x) : half_from_float(x);
        value = real ? value : 0;
    } else {
        value = real ? random_code(t, seed, row, k) : zero & ((1u << t->bits) - 1);
        // a zero point of 2^bits is no code: the padding's scale is 0 then
        scale_put(t, to + scale_place(t, row, k),
                  row < t->out_features ? random_scale(t, seed, row, k) : 0.0f);
    }
    if (t->zeros) {
        const uint16_t half = half_from_float((float)zero);
        memcpy(to + zero_place(t, row, k), &half, sizeof half);
    }
    memcpy(&word, to + at, sizeof word);
    word |= value << bit;
    memcpy(to + at, &word, sizeof word);
}

static inline void packed_fill(Lab *lab, const PackedTensor *t, uint32_t seed) {
    for (int expert = 0; expert < t->experts; expert++)
        for (int64_t row = 0; row < t->rows; row++)
            for (int64_t k = 0; k < t->k_padded; k++)
                weight_put(t, lab->weights + t->offset + expert * t->expert_bytes,
                           seed + 1000 * (uint32_t)expert, row, k);
}

static inline int vector_add(Lab *lab, const char *name, int64_t count, float around,
                             float spread) {
    float *values = ARENA_NEW(&lab->arena, float, count);
    for (int64_t at = 0; at < count; at++)
        values[at] = around + spread * normal(77, (uint32_t)lab->graph.packed_count, (uint32_t)at);
    return graph_vector(&lab->graph, name, values, count);
}

static inline int packed_add(Lab *lab, const char *name, int bits, int group, int64_t n,
                             int64_t k) {
    Graph *g = &lab->graph;
    const int packed = graph_vector(g, name, NULL, 0);
    const int64_t tile_k = 256 / bits;
    const int64_t record_k = bits == 16 ? 64 : group > tile_k ? group : tile_k;
    g->packed[packed] = (PackedTensor){.kind = PACKED_LINEAR,
                                       .name = name,
                                       .experts = 1,
                                       .bits = bits,
                                       .group = group,
                                       .in_features = k,
                                       .out_features = n};
    g->packed[packed].rows = (int64_t)round_up((uint64_t)n, 16);
    g->packed[packed].k_padded = (int64_t)round_up((uint64_t)k, (uint64_t)record_k);
    return packed;
}

// A value that no step of ours makes.
static inline int input_add(Lab *lab, const char *name, int64_t width) {
    Op *op = graph_op(&lab->graph, OP_EMBED, -1);
    const int at = (int)(op - lab->graph.ops);
    const int value = graph_value(&lab->graph, name, VALUE_F32, width);
    lab->graph.ops[at].output = value;
    lab->graph.values[value].producer = at;
    return value;
}

static inline const Kernel *family_of(OpKind kind) {
    for (int at = 0; at < kernel_table_count; at++)
        if (kernel_table[at]->device == DEVICE_CPU && kernel_table[at]->op == kind)
            return kernel_table[at];
    return NULL;
}

static inline const Target *level_target(int level) {
    static const char *const names[LEVELS] = {"x86-64-v3", "x86-64-v4-vnni"};
    for (int at = 0; at < target_count; at++)
        if (target_table[at].cpu_level && strcmp(target_table[at].cpu_level, names[level]) == 0)
            return &target_table[at];
    return NULL;
}

// The largest KV layer that any case needs.
enum { KV_LAYER_STRIDE = 2 * 4 * PAGE * 128 * 2, KV_PAGES = SLOTS * PAGES_PER_SEQ + 1 };

// Case number = phase number.
static inline void plan_build(Lab *lab, int level) {
    Plan *p = &lab->plans[level];
    *p = (Plan){.target = level_target(level), .graph = &lab->graph, .arena = &lab->arena};
    assert_non_null(p->target);
    p->info = (ModelInfo){.vocab_size = 1000,
                          .max_seq_len = PAGE * PAGES_PER_SEQ,
                          .max_batch_size = SLOTS,
                          .max_num_tokens = MAX_TOKENS,
                          .max_head_rows = MAX_TOKENS,
                          .page_tokens = PAGE,
                          .kv_layer_stride = KV_LAYER_STRIDE,
                          .kv_page_bytes = KV_LAYER_STRIDE,
                          .kv_dtype = (int32_t)lab->kv_dtype};
    p->batch = batch_layout(&p->info);
    assert_int_equal(p->batch.pages_per_seq, PAGES_PER_SEQ);
    p->phases = ARENA_NEW(&lab->arena, PhasePlan, lab->case_count);
    for (int index = 0; index < lab->case_count; index++) {
        PhasePlan *phase = plan_phase(p, index, MAX_TOKENS);
        const Op *op = &lab->graph.ops[lab->ops[index]];
        const Problem problem = {p, op, index, MAX_TOKENS};
        const Kernel *family = family_of(op->kind);
        Params params[KERNEL_MAX_CANDIDATES];
        char reason[REASON_BYTES];
        assert_true(family->accepts(&problem, reason));
        assert_int_equal(family->candidates(&problem, params), 1);
        const Cost cost = family->cost(&problem, params);
        family->lower(&problem, params, &cost, p, phase);
        for (int at = 0; at < phase->buffer_count; at++) // none shares memory, for the guards
            phase->buffers[at].first_step = 0, phase->buffers[at].last_step = phase->step_count;
    }
    plan_finish(p);
}

static inline void weights_build(Lab *lab) {
    Error err = {0};
    assert_true(weights_layout(&lab->graph, &lab->weights_bytes, &err));
    lab->weights = calloc(1, (size_t)lab->weights_bytes);
    for (int at = 0; at < lab->graph.packed_count; at++) {
        const PackedTensor *t = &lab->graph.packed[at];
        if (t->kind == PACKED_LINEAR)
            packed_fill(lab, t, (uint32_t)at);
        else
            memcpy(lab->weights + t->offset,
                   t->kind == PACKED_INDEX ? (const void *)t->indices : t->values,
                   (size_t)t->bytes);
    }
}

// The op of the next case; its number is also its phase.
static inline Op *case_add(Lab *lab, OpKind kind) {
    assert_true(lab->case_count < MAX_CASES);
    Op *op = graph_op(&lab->graph, kind, 0);
    lab->ops[lab->case_count++] = (int)(op - lab->graph.ops);
    return op;
}

static inline Lab *lab_new(void) {
    Lab *lab = calloc(1, sizeof *lab);
    lab->graph = graph_new(&lab->arena);
    return lab;
}

// Compiles all cases.
static inline void lab_start(Lab *lab) {
    weights_build(lab);
    for (int level = 0; level < LEVELS; level++)
        plan_build(lab, level);
    const Plan *plans[LEVELS] = {&lab->plans[0], &lab->plans[1]};
    Error err = {0};
    Bytes object;
    if (!host_object_make(&object, plans, LEVELS, "x86_64-linux-gnu", NULL, &lab->arena, &err))
        fail_msg("%s", err.message);
    assert_true(host_module_open(&lab->module, object));
    lab->veiled = malloc((size_t)lab->weights_bytes);
    memcpy(lab->veiled, lab->weights, (size_t)lab->weights_bytes);
    lab->memory = malloc((size_t)lab->plans[0].info.arena_bytes);
    lab->kv_bytes = (int64_t)KV_PAGES * KV_LAYER_STRIDE;
    lab->kv = malloc((size_t)lab->kv_bytes);
    lab->kv_before = malloc((size_t)lab->kv_bytes);
    lab->batch = calloc(1, (size_t)lab->plans[0].batch.bytes);
}

static inline int lab_close(void **state) {
    Lab *lab = *state;
    host_module_close(&lab->module);
    free(lab->weights);
    free(lab->veiled);
    free(lab->memory);
    free(lab->kv);
    free(lab->kv_before);
    free(lab->batch);
    arena_free(&lab->arena);
    free(lab);
    return 0;
}

// ---- running ------------------------------------------------------------------------------------

static inline float *value_memory(const Lab *lab, int level, int index, int value) {
    const PhasePlan *phase = &lab->plans[level].phases[index];
    return (float *)(void *)(lab->memory + phase->buffers[phase->value_buffer[value]].offset);
}

static inline int32_t *batch_ints(const Lab *lab, int64_t offset) {
    return (int32_t *)(void *)(lab->batch + offset);
}

static inline float input_at(int64_t token, int64_t k) {
    if (token % 11 == 5)
        return 0; // a row of zeros
    const float spike = mix(9, (uint32_t)token, (uint32_t)k) % 97 == 0 ? 20.0f : 1.0f;
    return normal(3, (uint32_t)token, (uint32_t)k) * spike;
}

// Fills the inputs with `tokens` rows, which are the tokens first, first + 1, ... of the case's
// endless input, and everything else with the guard.
static inline void inputs_fill(Lab *lab, int level, int index, int32_t tokens, int64_t first) {
    const Op *op = &lab->graph.ops[lab->ops[index]];
    memset(lab->memory, GUARD, (size_t)lab->plans[level].info.arena_bytes);
    for (int i = 0; i < 2; i++) {
        if (op->inputs[i] < 0)
            continue;
        const int64_t width = lab->graph.values[op->inputs[i]].width;
        float *to = value_memory(lab, level, index, op->inputs[i]);
        for (int64_t token = 0; token < tokens; token++)
            for (int64_t k = 0; k < width; k++)
                to[token * width + k] = input_at(first + token + 1000 * i, k);
    }
}

// Nobody asked for the weights yet that this case's kernels ask for (StepRun.ready).
static inline void veil_drop(Lab *lab, int level, int index) {
    const PhasePlan *phase = &lab->plans[level].phases[index];
    for (int step = 0; step < phase->step_count; step++)
        for (int at = 0; at < phase->steps[step].operand_count; at++) {
            const Operand *o = &phase->steps[step].operands[at];
            for (int i = 0; o->ready && i < lab->graph.packed_count; i++)
                if (lab->graph.packed[i].offset == o->offset)
                    memset(lab->veiled + o->offset, 0xff, (size_t)lab->graph.packed[i].bytes);
        }
}

// StepRun.ready in small pieces, which end anywhere.
static inline int64_t veil_lift(const StepRun *run, const unsigned char *from, int64_t least,
                                int64_t most) {
    const Lab *lab = run->checks;
    const int64_t at = from - lab->veiled, bytes = 2 * least + 64 < most ? 2 * least + 64 : most;
    memcpy(lab->veiled + at, lab->weights + at, (size_t)bytes);
    return bytes;
}

static inline bool case_veiled(const Lab *lab) { // the step that ran last
    return lab->steps_run % 2 == 0;
}

static inline void case_step(Lab *lab, int level, int index, int32_t tokens, int32_t threads) {
    StepRun run = {.base = {lab->weights, lab->memory, lab->kv, lab->batch},
                   .tokens = tokens,
                   .threads = threads};
    lab->steps_run++;
    if (case_veiled(lab)) {
        veil_drop(lab, level, index);
        run.base[REGION_WEIGHTS] = lab->veiled;
        run.ready = veil_lift;
        run.checks = lab;
    }
    char target[32];
    snprintf(target, sizeof target, "cpu:%s", lab->plans[level].target->cpu_level);
    const StepEntry *entry = host_module_find(&lab->module, target, index);
    assert_non_null(entry);
    host_run(entry, &run);
}

static inline void case_run(Lab *lab, int level, int index, int32_t tokens, int32_t threads,
                            int64_t first) {
    inputs_fill(lab, level, index, tokens, first);
    case_step(lab, level, index, tokens, threads);
}

// Rows behind the last must be as they were.
static inline void guard_check(const Lab *lab, int level, int index, int value, int32_t tokens) {
    const PhasePlan *phase = &lab->plans[level].phases[index];
    const Buffer *b = &phase->buffers[phase->value_buffer[value]];
    const int64_t used = tokens * lab->graph.values[value].width * 4;
    for (int64_t at = used; at < b->bytes; at++)
        if (lab->memory[b->offset + at] != GUARD)
            fail_msg("%s: byte %lld behind the last row was written", b->name,
                     (long long)(at - used));
}

static inline int32_t position_of(int64_t token) {
    return (int32_t)(token * 7 % (PAGE * PAGES_PER_SEQ));
}

static inline void batch_fill(Lab *lab, int32_t tokens, int64_t first) {
    const BatchLayout *b = &lab->plans[0].batch;
    for (int64_t at = 0; at < SLOTS * PAGES_PER_SEQ; at++) // every page once, shuffled
        batch_ints(lab, b->page_table)[at] = (int32_t)(1 + at * 11 % (SLOTS * PAGES_PER_SEQ));
    for (int32_t at = 0; at < tokens; at++) {
        batch_ints(lab, b->slots)[at] =
            (first + at) % 29 == 28 ? -1 : (int32_t)((first + at) % SLOTS);
        batch_ints(lab, b->positions)[at] = position_of(first + at);
    }
}

static inline int64_t kv_place(const Lab *lab, int which, int32_t slot, int32_t position,
                               int64_t head, int64_t head_dim) {
    const int32_t page =
        slot < 0 ? 0
                 : batch_ints(
                       lab, lab->plans[0].batch.page_table)[slot * PAGES_PER_SEQ + position / PAGE];
    return (int64_t)page * KV_LAYER_STRIDE + which * KV_LAYER_STRIDE / 2 +
           (head * PAGE + position % PAGE) * head_dim * 2;
}

// ---- comparing ----------------------------------------------------------------------------------

// A number and how far off the kernel may be.
typedef struct Bounded {
    double value, bound;
} Bounded;

typedef struct Worst {
    double ratio; // |found - expected| / bound
    double error_square, value_square;
} Worst;

static inline void compare(Worst *worst, const char *name, int64_t token, int64_t at, double found,
                           Bounded expected) {
    const double error = fabs(found - expected.value);
    worst->ratio = fmax(worst->ratio, error / expected.bound);
    worst->error_square += error * error;
    worst->value_square += expected.value * expected.value;
    if (!(error <= expected.bound))
        fail_msg("%s: token %lld, element %lld: %.9g, expected %.9g within %.3g", name,
                 (long long)token, (long long)at, found, expected.value, expected.bound);
}

// act(x) in doubles.
static inline double activation(Activation act, double x) {
    if (act == ACT_GELU)
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    const double u = 2 * sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x);
    return x / (1 + exp(act == ACT_SILU ? -x : -u));
}

// ---- batches ------------------------------------------------------------------------------------

// What a case gave for MAX_TOKENS tokens, and how to run `tokens` of them from `first` on.
typedef struct Batches {
    Lab *lab;
    int level, index;
    const char *name;
    const float *all;
    void (*run)(Lab *lab, int level, int index, int32_t tokens, int32_t threads, int64_t first);
} Batches;

// Other batch sizes, places and thread counts give every token the same bits.
static inline void batches_check(const Batches *b) {
    const int value = b->lab->graph.ops[b->lab->ops[b->index]].output;
    const int64_t width = b->lab->graph.values[value].width;
    for (size_t at = 0; at < sizeof token_counts / sizeof *token_counts; at++) {
        const int32_t tokens = token_counts[at], threads = 1 + (int32_t)(at % 3);
        const int64_t first = (int64_t)at * 13 % (MAX_TOKENS - tokens + 1);
        b->run(b->lab, b->level, b->index, tokens, threads, first);
        const float *out = value_memory(b->lab, b->level, b->index, value);
        for (int32_t token = 0; token < tokens; token++)
            if (memcmp(out + token * width, b->all + (first + token) * width,
                       (size_t)width * sizeof(float)) != 0)
                fail_msg("%s: token %d of %d differs from the same token in a batch of %d", b->name,
                         token, tokens, MAX_TOKENS);
        guard_check(b->lab, b->level, b->index, value, tokens);
    }
}

// ---- levels -------------------------------------------------------------------------------------

// Checks all cases at a level, or skips where this machine does not run it.
static inline void level_check(Lab *lab, int level, void (*check)(Lab *lab, int level, int index)) {
    if (!level_runs(lab->plans[level].target)) {
        print_message("skipped: this machine does not run %s\n",
                      lab->plans[level].target->cpu_level);
        skip();
    }
    for (int index = 0; index < lab->case_count; index++)
        check(lab, level, index);
}

#endif

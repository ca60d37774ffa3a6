// Every CPU kernel, at every level that this machine runs, through the whole path: kernel family ->
// plan -> LLVM -> linked code, against plain double loops. Shapes are ragged; the worst element is
// bounded by what the number formats allow; the same token must give the same bits in every batch
// and with any number of threads; bytes that a step has no business with must not change.
#include "host_module.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum {
    MAX_TOKENS = 300, // over two blocks of the kernels
    GUARD = 0xa5,
    LEVELS = 2,
    PAGE = 16,
    PAGES_PER_SEQ = 24,
    SLOTS = 8,
};

static const int token_counts[] = {1, 2, 3, 7, 8, 16, 17, 64, 100, 129, 300};

// ---- random numbers that every run repeats ------------------------------------------------------

static uint32_t mix(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t x = a * 0x9e3779b1u ^ b * 0x85ebca77u ^ c * 0xc2b2ae3du;
    x ^= x >> 15;
    x *= 0x2c1b3c6du;
    x ^= x >> 12;
    x *= 0x297a2d39u;
    return x ^ x >> 15;
}

// About normal, in [-3.5, 3.5].
static float normal(uint32_t a, uint32_t b, uint32_t c) {
    float sum = 0;
    for (uint32_t i = 0; i < 4; i++)
        sum += (float)(mix(a, b, c * 4 + i) >> 8) / 16777216.0f - 0.5f;
    return sum * 1.75f;
}

// ---- the cases ----------------------------------------------------------------------------------

typedef struct LinearCase {
    const char *name;
    int bits, group;
    int64_t k, n;
    LinearEpilogue epilogue;
    Activation act;
    bool bias, norm;
    int64_t heads, kv_heads, head_dim;
} LinearCase;

static const LinearCase linear_cases[] = {
    {.name = "4 bits, groups of 128", .bits = 4, .group = 128, .k = 384, .n = 88},
    {.name = "4 bits, groups of 64, ragged k, norm",
     .bits = 4,
     .group = 64,
     .k = 200,
     .n = 49,
     .norm = true},
    {.name = "4 bits, groups of 32, bias", .bits = 4, .group = 32, .k = 296, .n = 40, .bias = true},
    {.name = "8 bits, groups of 128, norm",
     .bits = 8,
     .group = 128,
     .k = 264,
     .n = 33,
     .norm = true},
    {.name = "8 bits, groups of 64, bias", .bits = 8, .group = 64, .k = 192, .n = 16, .bias = true},
    {.name = "8 bits, groups of 32", .bits = 8, .group = 32, .k = 104, .n = 70},
    {.name = "16 bits, norm", .bits = 16, .k = 200, .n = 83, .norm = true},
    {.name = "16 bits", .bits = 16, .k = 64, .n = 32, .bias = true},
    {.name = "residual", .bits = 4, .group = 128, .k = 256, .n = 72, .epilogue = EPILOGUE_ADD},
    {.name = "residual, 8 bits",
     .bits = 8,
     .group = 32,
     .k = 160,
     .n = 23,
     .epilogue = EPILOGUE_ADD,
     .bias = true},
    {.name = "silu gate",
     .bits = 4,
     .group = 128,
     .k = 256,
     .n = 2 * 88,
     .epilogue = EPILOGUE_ACT_MUL,
     .norm = true},
    {.name = "gelu gate, bias",
     .bits = 4,
     .group = 64,
     .k = 128,
     .n = 2 * 40,
     .epilogue = EPILOGUE_ACT_MUL,
     .act = ACT_GELU_TANH,
     .bias = true},
    {.name = "rope, head 64",
     .bits = 4,
     .group = 128,
     .k = 384,
     .n = (4 + 2 * 2) * 64,
     .epilogue = EPILOGUE_ROPE_KV,
     .norm = true,
     .heads = 4,
     .kv_heads = 2,
     .head_dim = 64},
    {.name = "rope, head 128, bias",
     .bits = 8,
     .group = 64,
     .k = 128,
     .n = (3 + 2 * 1) * 128,
     .epilogue = EPILOGUE_ROPE_KV,
     .bias = true,
     .heads = 3,
     .kv_heads = 1,
     .head_dim = 128},
    {.name = "rope, 16 bits",
     .bits = 16,
     .k = 128,
     .n = (2 + 2 * 2) * 32,
     .epilogue = EPILOGUE_ROPE_KV,
     .heads = 2,
     .kv_heads = 2,
     .head_dim = 32},
};

typedef struct AttentionCase {
    const char *name;
    int64_t heads, kv_heads, head_dim;
} AttentionCase;

static const AttentionCase attention_cases[] = {
    {"attention 6 of 2, head 64", 6, 2, 64},
    {"attention 4 of 4, head 32", 4, 4, 32},
    {"attention 7 of 1, head 128", 7, 1, 128},
    {"attention 40 of 1, head 96", 40, 1, 96},
};

typedef struct RowsCase {
    const char *name;
    OpKind kind;
    int64_t width, rows;
} RowsCase;

static const RowsCase rows_cases[] = {
    {"embed", OP_EMBED, 384, 100}, {"embed, ragged", OP_EMBED, 200, 37},
    {"norm", OP_NORM, 384, 0},     {"norm, ragged", OP_NORM, 203, 0},
    {"gather", OP_GATHER, 70, 0},
};

enum {
    LINEAR_COUNT = sizeof linear_cases / sizeof *linear_cases,
    ATTENTION_COUNT = sizeof attention_cases / sizeof *attention_cases,
    ROWS_COUNT = sizeof rows_cases / sizeof *rows_cases,
    CASES = LINEAR_COUNT + ATTENTION_COUNT + ROWS_COUNT,
};

// ---- one model that holds them all --------------------------------------------------------------

typedef struct Lab {
    Arena arena;
    Graph graph;
    Plan plans[LEVELS];
    int ops[CASES];
    unsigned char *weights;
    int64_t weights_bytes;
    unsigned char *memory; // the arena of the steps
    unsigned char *kv, *kv_before;
    int64_t kv_bytes;
    unsigned char *batch;
    HostModule module;
} Lab;

static float half_at(const void *p) {
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return half_to_float(half);
}

// Where the layout puts (row, k), from the drawing in docs/kernels.md: byte offset of the word and
// bit offset in it.
static int64_t code_place(const PackedTensor *t, int64_t row, int64_t k, int *bit) {
    const int64_t record_k = t->bits == 16 ? 64 : t->bits == 4 && t->group == 32 ? 64 : t->group;
    const int64_t groups = t->bits == 16 ? 0 : record_k / t->group;
    const int64_t tile_k = 256 / t->bits, record_bytes = groups * 32 + record_k / tile_k * 512;
    int64_t at = (row / 16 * (t->k_padded / record_k) + k / record_k) * record_bytes;
    at += groups * 32 + k % record_k / tile_k * 512;
    const int64_t r = row % 8, h = row % 16 / 8, step = k % tile_k / 16, q = k % 16;
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

static int64_t scale_place(const PackedTensor *t, int64_t row, int64_t k) {
    const int64_t record_k = t->bits == 4 && t->group == 32 ? 64 : t->group;
    const int64_t groups = record_k / t->group, tile_k = 256 / t->bits;
    const int64_t record_bytes = groups * 32 + record_k / tile_k * 512;
    return (row / 16 * (t->k_padded / record_k) + k / record_k) * record_bytes +
           k % record_k / t->group * 32 + 2 * (row % 8 * 2 + row % 16 / 8);
}

static double weight_at(const Lab *lab, const PackedTensor *t, int64_t row, int64_t k) {
    int bit;
    const unsigned char *from = lab->weights + t->offset;
    uint32_t word;
    memcpy(&word, from + code_place(t, row, k, &bit), sizeof word);
    if (t->bits == 16) {
        const uint16_t half = (uint16_t)(word >> bit);
        return (double)half_at(&half);
    }
    const int code = (int)(word >> bit & ((1u << t->bits) - 1));
    return (code - (1 << (t->bits - 1))) * (double)half_at(from + scale_place(t, row, k));
}

// Random codes with all extremes, scales that include 0, denormals and large ones; zero weights in
// the padding.
static void packed_fill(Lab *lab, const PackedTensor *t, uint32_t seed) {
    unsigned char *to = lab->weights + t->offset;
    for (int64_t row = 0; row < t->rows; row++) {
        for (int64_t k = 0; k < t->k_padded; k++) {
            const bool real = row < t->out_features && k < t->in_features;
            int bit;
            const int64_t at = code_place(t, row, k, &bit);
            uint32_t word, value = mix(seed, (uint32_t)row, (uint32_t)k);
            if (t->bits == 16) {
                value = half_from_float(normal(seed, (uint32_t)row, (uint32_t)k) * 0.05f);
                value = real ? value : 0;
            } else {
                const uint32_t mask = (1u << t->bits) - 1;
                value = real ? (value >> 8 & 15) == 0 ? (value >> 16 & 1) * mask : value & mask
                             : 1u << (t->bits - 1);
            }
            memcpy(&word, to + at, sizeof word);
            word |= value << bit;
            memcpy(to + at, &word, sizeof word);
            if (t->bits == 16)
                continue;
            const uint32_t kind = mix(seed + 1, (uint32_t)row, (uint32_t)(k / t->group)) % 16;
            const float large = t->order == ROWS_ROPE ? 1.0f : 100.0f; // keys are fp16
            float scale = 0.01f + 0.001f * (float)kind;
            scale = kind == 0 ? 0.0f : kind == 1 ? 3e-6f : kind == 2 ? large : scale;
            const uint16_t half = half_from_float(row < t->out_features ? scale : 0.0f);
            memcpy(to + scale_place(t, row, k), &half, sizeof half);
        }
    }
}

static int vector_add(Lab *lab, const char *name, int64_t count, float around, float spread) {
    float *values = ARENA_NEW(&lab->arena, float, count);
    for (int64_t at = 0; at < count; at++)
        values[at] = around + spread * normal(77, (uint32_t)lab->graph.packed_count, (uint32_t)at);
    return graph_vector(&lab->graph, name, values, count);
}

static int packed_add(Lab *lab, const char *name, int bits, int group, int64_t n, int64_t k) {
    Graph *g = &lab->graph;
    const int packed = graph_vector(g, name, NULL, 0);
    const int64_t record_k = bits == 16 ? 64 : bits == 4 && group == 32 ? 64 : group;
    g->packed[packed] = (PackedTensor){.kind = PACKED_LINEAR,
                                       .name = name,
                                       .bits = bits,
                                       .group = group,
                                       .in_features = k,
                                       .out_features = n};
    g->packed[packed].rows = (int64_t)round_up((uint64_t)n, 16);
    g->packed[packed].k_padded = (int64_t)round_up((uint64_t)k, (uint64_t)record_k);
    return packed;
}

// A value that no step of ours makes.
static int input_add(Lab *lab, const char *name, int64_t width) {
    Op *op = graph_op(&lab->graph, OP_EMBED, -1);
    const int at = (int)(op - lab->graph.ops);
    const int value = graph_value(&lab->graph, name, VALUE_F32, width);
    lab->graph.ops[at].output = value;
    lab->graph.values[value].producer = at;
    return value;
}

static void linear_add(Lab *lab, int index) {
    const LinearCase *c = &linear_cases[index];
    const int64_t width = c->epilogue == EPILOGUE_ACT_MUL   ? c->n / 2
                          : c->epilogue == EPILOGUE_ROPE_KV ? c->heads * c->head_dim
                                                            : c->n;
    const int x = input_add(lab, "x", c->k);
    const int residual = c->epilogue == EPILOGUE_ADD ? input_add(lab, "residual", c->n) : -1;
    const int weight = packed_add(lab, c->name, c->bits, c->group, c->n, c->k);
    const int64_t rows = lab->graph.packed[weight].rows;
    const int bias = c->bias ? vector_add(lab, "bias", rows, 0, 1) : -1;
    const int norm = c->norm ? vector_add(lab, "norm", c->k, 1, 0.2f) : -1;
    int inv_freq = -1;
    if (c->epilogue == EPILOGUE_ROPE_KV) {
        lab->graph.packed[weight].order = ROWS_ROPE;
        float *values = ARENA_NEW(&lab->arena, float, c->head_dim / 2);
        for (int64_t at = 0; at < c->head_dim / 2; at++)
            values[at] = (float)pow(10000.0, -2.0 * (double)at / (double)c->head_dim);
        inv_freq = graph_vector(&lab->graph, "inv_freq", values, c->head_dim / 2);
    }
    const int out = graph_value(&lab->graph, "out", VALUE_F32, width);
    Op *op = graph_op(&lab->graph, OP_LINEAR, 0);
    lab->ops[index] = (int)(op - lab->graph.ops);
    op->inputs[0] = x;
    op->inputs[1] = residual;
    op->output = out;
    op->linear.weight = weight;
    op->linear.bias = bias;
    op->linear.prologue = c->norm ? PROLOGUE_NORM : PROLOGUE_NONE;
    op->linear.norm_weight = norm;
    op->linear.eps = 1e-5f;
    op->linear.epilogue = c->epilogue;
    op->linear.act = c->act;
    op->linear.heads = c->heads;
    op->linear.kv_heads = c->kv_heads;
    op->linear.head_dim = c->head_dim;
    op->linear.inv_freq = inv_freq;
    op->linear.rope_factor = 1.25f;
}

static void attention_add(Lab *lab, int index) {
    const AttentionCase *c = &attention_cases[index];
    const int q = input_add(lab, "q", c->heads * c->head_dim);
    const int out = graph_value(&lab->graph, "out", VALUE_F32, c->heads * c->head_dim);
    Op *op = graph_op(&lab->graph, OP_ATTENTION, 0);
    lab->ops[LINEAR_COUNT + index] = (int)(op - lab->graph.ops);
    op->inputs[0] = q;
    op->output = out;
    op->attention.heads = c->heads;
    op->attention.kv_heads = c->kv_heads;
    op->attention.head_dim = c->head_dim;
    op->attention.scale = 0.3f;
}

static void rows_add(Lab *lab, int index) {
    const RowsCase *c = &rows_cases[index];
    const int in = c->kind == OP_EMBED ? -1 : input_add(lab, "in", c->width);
    int packed = -1;
    if (c->kind == OP_EMBED)
        packed = packed_add(lab, c->name, 16, 0, c->rows, c->width);
    else if (c->kind == OP_NORM)
        packed = vector_add(lab, "norm", c->width, 1, 0.3f);
    const int out = graph_value(&lab->graph, "out", VALUE_F32, c->width);
    Op *op = graph_op(&lab->graph, c->kind, -1);
    lab->ops[LINEAR_COUNT + ATTENTION_COUNT + index] = (int)(op - lab->graph.ops);
    op->inputs[0] = in;
    op->output = out;
    if (c->kind == OP_EMBED)
        op->embed.table = packed;
    if (c->kind == OP_NORM) {
        op->norm.weight = packed;
        op->norm.eps = 1e-6f;
    }
}

static const Kernel *family_of(OpKind kind) {
    for (int at = 0; at < kernel_table_count; at++)
        if (kernel_table[at]->device == DEVICE_CPU && kernel_table[at]->op == kind)
            return kernel_table[at];
    return NULL;
}

static const Target *level_target(int level) {
    static const char *const names[LEVELS] = {"x86-64-v3", "x86-64-v4-vnni"};
    for (int at = 0; at < target_count; at++)
        if (target_table[at].cpu_level && strcmp(target_table[at].cpu_level, names[level]) == 0)
            return &target_table[at];
    return NULL;
}

// The largest KV layer that any case needs.
enum { KV_LAYER_STRIDE = 2 * 4 * PAGE * 128 * 2, KV_PAGES = SLOTS * PAGES_PER_SEQ + 1 };

// Case number = phase number.
static void plan_build(Lab *lab, int level) {
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
                          .kv_page_bytes = KV_LAYER_STRIDE};
    p->batch = batch_layout(&p->info);
    assert_int_equal(p->batch.pages_per_seq, PAGES_PER_SEQ);
    p->phases = ARENA_NEW(&lab->arena, PhasePlan, CASES);
    for (int index = 0; index < CASES; index++) {
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

static void weights_build(Lab *lab) {
    Error err = {0};
    assert_true(weights_layout(&lab->graph, &lab->weights_bytes, &err));
    lab->weights = calloc(1, (size_t)lab->weights_bytes);
    for (int at = 0; at < lab->graph.packed_count; at++) {
        const PackedTensor *t = &lab->graph.packed[at];
        if (t->kind == PACKED_LINEAR)
            packed_fill(lab, t, (uint32_t)at);
        else
            memcpy(lab->weights + t->offset, t->values, (size_t)t->bytes);
    }
}

static int lab_open(void **state) {
    Lab *lab = calloc(1, sizeof *lab);
    lab->graph = graph_new(&lab->arena);
    for (int at = 0; at < LINEAR_COUNT; at++)
        linear_add(lab, at);
    for (int at = 0; at < ATTENTION_COUNT; at++)
        attention_add(lab, at);
    for (int at = 0; at < ROWS_COUNT; at++)
        rows_add(lab, at);
    weights_build(lab);
    for (int level = 0; level < LEVELS; level++)
        plan_build(lab, level);
    const Plan *plans[LEVELS] = {&lab->plans[0], &lab->plans[1]};
    Error err = {0};
    Bytes object;
    if (!host_object_make(&object, plans, LEVELS, "x86_64-linux-gnu", NULL, &lab->arena, &err))
        fail_msg("%s", err.message);
    assert_true(host_module_open(&lab->module, object));
    lab->memory = malloc((size_t)lab->plans[0].info.arena_bytes);
    lab->kv_bytes = (int64_t)KV_PAGES * KV_LAYER_STRIDE;
    lab->kv = malloc((size_t)lab->kv_bytes);
    lab->kv_before = malloc((size_t)lab->kv_bytes);
    lab->batch = calloc(1, (size_t)lab->plans[0].batch.bytes);
    *state = lab;
    return 0;
}

static int lab_close(void **state) {
    Lab *lab = *state;
    host_module_close(&lab->module);
    free(lab->weights);
    free(lab->memory);
    free(lab->kv);
    free(lab->kv_before);
    free(lab->batch);
    arena_free(&lab->arena);
    free(lab);
    return 0;
}

// ---- running ------------------------------------------------------------------------------------

static float *value_memory(const Lab *lab, int level, int index, int value) {
    const PhasePlan *phase = &lab->plans[level].phases[index];
    return (float *)(void *)(lab->memory + phase->buffers[phase->value_buffer[value]].offset);
}

static int32_t *batch_ints(const Lab *lab, int64_t offset) {
    return (int32_t *)(void *)(lab->batch + offset);
}

static float input_at(int64_t token, int64_t k) {
    if (token % 11 == 5)
        return 0; // a row of zeros
    const float spike = mix(9, (uint32_t)token, (uint32_t)k) % 97 == 0 ? 20.0f : 1.0f;
    return normal(3, (uint32_t)token, (uint32_t)k) * spike;
}

// Runs `tokens` rows, which are the tokens first, first + 1, ... of the case's endless input.
static void case_run(Lab *lab, int level, int index, int32_t tokens, int32_t threads,
                     int64_t first) {
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
    StepRun run = {.base = {lab->weights, lab->memory, lab->kv, lab->batch},
                   .tokens = tokens,
                   .threads = threads};
    char target[32];
    snprintf(target, sizeof target, "cpu:%s", lab->plans[level].target->cpu_level);
    const StepEntry *entry = host_module_find(&lab->module, target, index);
    assert_non_null(entry);
    host_run(entry, &run);
}

// Rows behind the last must be as they were.
static void guard_check(const Lab *lab, int level, int index, int value, int32_t tokens) {
    const PhasePlan *phase = &lab->plans[level].phases[index];
    const Buffer *b = &phase->buffers[phase->value_buffer[value]];
    const int64_t used = tokens * lab->graph.values[value].width * 4;
    for (int64_t at = used; at < b->bytes; at++)
        if (lab->memory[b->offset + at] != GUARD)
            fail_msg("%s: byte %lld behind the last row was written", b->name,
                     (long long)(at - used));
}

static int32_t position_of(int64_t token) {
    return (int32_t)(token * 7 % (PAGE * PAGES_PER_SEQ));
}

static void batch_fill(Lab *lab, int32_t tokens, int64_t first) {
    const BatchLayout *b = &lab->plans[0].batch;
    for (int64_t at = 0; at < SLOTS * PAGES_PER_SEQ; at++) // every page once, shuffled
        batch_ints(lab, b->page_table)[at] = (int32_t)(1 + at * 11 % (SLOTS * PAGES_PER_SEQ));
    for (int32_t at = 0; at < tokens; at++) {
        batch_ints(lab, b->slots)[at] =
            (first + at) % 29 == 28 ? -1 : (int32_t)((first + at) % SLOTS);
        batch_ints(lab, b->positions)[at] = position_of(first + at);
    }
}

static int64_t kv_place(const Lab *lab, int which, int32_t slot, int32_t position, int64_t head,
                        int64_t head_dim) {
    const int32_t page =
        slot < 0 ? 0
                 : batch_ints(
                       lab, lab->plans[0].batch.page_table)[slot * PAGES_PER_SEQ + position / PAGE];
    return (int64_t)page * KV_LAYER_STRIDE + which * KV_LAYER_STRIDE / 2 +
           (head * PAGE + position % PAGE) * head_dim * 2;
}

// ---- linear -------------------------------------------------------------------------------------

// A number and how far off the kernel may be.
typedef struct Bounded {
    double value, bound;
} Bounded;

// Inputs of one token as the kernel sees them.
static void input_row(const Lab *lab, const Op *op, int64_t token, double *x, double *slack) {
    const PackedTensor *t = &lab->graph.packed[op->linear.weight];
    double square = 0;
    for (int64_t k = 0; k < t->in_features; k++) {
        x[k] = (double)input_at(token, k);
        square += x[k] * x[k];
    }
    if (op->linear.prologue == PROLOGUE_NORM) {
        const float *norm = lab->graph.packed[op->linear.norm_weight].values;
        const double factor = 1 / sqrt(square / (double)t->in_features + (double)op->linear.eps);
        for (int64_t k = 0; k < t->in_features; k++)
            x[k] *= factor * (double)norm[k];
    }
    const int64_t group = t->bits == 16 ? 64 : t->group;
    for (int64_t k = 0; k < t->in_features; k += group) {
        double largest = 0;
        for (int64_t i = k; i < k + group && i < t->in_features; i++)
            largest = fmax(largest, fabs(x[i]));
        for (int64_t i = k; i < k + group && i < t->in_features; i++) // half a code, and fp32
            slack[i] = (t->bits == 16 ? 0 : largest / 65534 * 1.01) + 1e-6 * fabs(x[i]);
    }
}

static Bounded row_dot(const Lab *lab, const Op *op, int64_t row, const double *x,
                       const double *slack) {
    const PackedTensor *t = &lab->graph.packed[op->linear.weight];
    Bounded y = {0, 1e-30};
    double size = 0;
    for (int64_t k = 0; k < t->in_features; k++) {
        const double w = weight_at(lab, t, row, k);
        y.value += w * x[k];
        y.bound += fabs(w) * slack[k];
        size += fabs(w * x[k]);
    }
    if (op->linear.bias >= 0)
        y.value += (double)lab->graph.packed[op->linear.bias].values[row];
    y.bound += 1e-6 * size + 1e-7 * fabs(y.value);
    return y;
}

typedef struct Worst {
    double ratio; // |found - expected| / bound
    double error_square, value_square;
} Worst;

static void compare(Worst *worst, const char *name, int64_t token, int64_t at, double found,
                    Bounded expected) {
    const double error = fabs(found - expected.value);
    worst->ratio = fmax(worst->ratio, error / expected.bound);
    worst->error_square += error * error;
    worst->value_square += expected.value * expected.value;
    if (!(error <= expected.bound))
        fail_msg("%s: token %lld, element %lld: %.9g, expected %.9g within %.3g", name,
                 (long long)token, (long long)at, found, expected.value, expected.bound);
}

static void act_check(Worst *worst, const LinearCase *c, int64_t token, const Bounded *y,
                      const float *out) {
    for (int64_t f = 0; f < c->n / 2; f++) {
        const Bounded gate = y[f / 8 * 16 + f % 8], up = y[f / 8 * 16 + f % 8 + 8];
        const double g = gate.value;
        const double u = c->act == ACT_SILU
                             ? g
                             : 2 * sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g);
        const double act = g / (1 + exp(-u)), value = act * up.value;
        const double bound = 1.2 * gate.bound * fabs(up.value) + fabs(act) * up.bound +
                             1.2 * gate.bound * up.bound + 2e-6 * fabs(value) +
                             1e-6 * fabs(up.value) + 1e-30;
        compare(worst, c->name, token, f, (double)out[f], (Bounded){value, bound});
    }
}

static void rope_check(const Lab *lab, Worst *worst, const LinearCase *c, int64_t token,
                       int32_t slot, int32_t position, const Bounded *y, const float *out) {
    const int64_t half = c->head_dim / 2;
    for (int64_t head = 0; head < c->heads + 2 * c->kv_heads; head++) {
        for (int64_t f = 0; f < c->head_dim; f++) {
            Bounded e;
            if (head < c->heads + c->kv_heads) {
                const int64_t pair = f % half, low = head * c->head_dim + pair / 8 * 16 + pair % 8;
                const float freq = (float)pow(10000.0, -2.0 * (double)pair / (double)c->head_dim);
                const double angle = (double)((float)position * freq);
                const Bounded a = y[low], b = y[low + 8];
                e.value = f < half ? a.value * cos(angle) - b.value * sin(angle)
                                   : b.value * cos(angle) + a.value * sin(angle);
                e.value *= 1.25;
                e.bound = 1.25 * (a.bound + b.bound + 3e-7 * (fabs(a.value) + fabs(b.value)));
            } else {
                e = y[head * c->head_dim + f];
            }
            double found;
            if (head < c->heads) {
                found = (double)out[head * c->head_dim + f];
            } else {
                const int which = head >= c->heads + c->kv_heads;
                const int64_t kv_head = head - c->heads - which * c->kv_heads;
                found = (double)half_at(
                    lab->kv + kv_place(lab, which, slot, position, kv_head, c->head_dim) + 2 * f);
                e.bound += fabs(e.value) / 2048 + 6e-8;
            }
            compare(worst, c->name, token, head * c->head_dim + f, found, e);
        }
    }
}

static void linear_check_token(const Lab *lab, Worst *worst, const LinearCase *c, const Op *op,
                               int64_t token, const float *out) {
    const PackedTensor *t = &lab->graph.packed[op->linear.weight];
    double *x = calloc((size_t)t->in_features, sizeof *x);
    double *slack = calloc((size_t)t->in_features, sizeof *slack);
    Bounded *y = calloc((size_t)t->rows, sizeof *y);
    input_row(lab, op, token, x, slack);
    for (int64_t row = 0; row < t->out_features; row++)
        y[row] = row_dot(lab, op, row, x, slack);
    if (c->epilogue == EPILOGUE_ACT_MUL) {
        act_check(worst, c, token, y, out);
    } else if (c->epilogue == EPILOGUE_ROPE_KV) {
        rope_check(lab, worst, c, token, (int32_t)(token % 29 == 28 ? -1 : token % SLOTS),
                   position_of(token), y, out);
    } else {
        for (int64_t row = 0; row < c->n; row++) {
            if (c->epilogue == EPILOGUE_ADD) {
                y[row].value += (double)input_at(token + 1000, row);
                y[row].bound += 2e-7 * (fabs(y[row].value) + 20);
            }
            compare(worst, c->name, token, row, (double)out[row], y[row]);
        }
    }
    free(x);
    free(slack);
    free(y);
}

// All tokens once against the oracle; then other batch sizes, places and thread counts by bits.
static void linear_case_check(Lab *lab, int level, int index) {
    const LinearCase *c = &linear_cases[index];
    const Op *op = &lab->graph.ops[lab->ops[index]];
    const int64_t width = lab->graph.values[op->output].width;
    const size_t row_bytes = (size_t)width * sizeof(float);
    float *all = malloc(MAX_TOKENS * row_bytes);
    Worst worst = {0};
    batch_fill(lab, MAX_TOKENS, 0);
    case_run(lab, level, index, MAX_TOKENS, 2, 0);
    memcpy(all, value_memory(lab, level, index, op->output), MAX_TOKENS * row_bytes);
    for (int64_t token = 0; token < MAX_TOKENS; token += token < 20 ? 1 : 37)
        // of the tokens that share a place in the cache, the last one wrote
        if (c->epilogue != EPILOGUE_ROPE_KV || token % 29 != 28)
            linear_check_token(lab, &worst, c, op, token, all + token * width);
    if (c->epilogue == EPILOGUE_STORE || c->epilogue == EPILOGUE_ADD)
        assert_true(sqrt(worst.error_square / worst.value_square) < 1e-4);
    for (size_t at = 0; at < sizeof token_counts / sizeof *token_counts; at++) {
        const int32_t tokens = token_counts[at], threads = 1 + (int32_t)(at % 3);
        const int64_t first = (int64_t)at * 13 % (MAX_TOKENS - tokens + 1);
        batch_fill(lab, tokens, first);
        case_run(lab, level, index, tokens, threads, first);
        const float *out = value_memory(lab, level, index, op->output);
        for (int32_t token = 0; token < tokens; token++)
            if (memcmp(out + token * width, all + (first + token) * width, row_bytes) != 0)
                fail_msg("%s: token %d of %d differs from the same token in a batch of %d", c->name,
                         token, tokens, MAX_TOKENS);
        guard_check(lab, level, index, op->output, tokens);
    }
    print_message("  %-40s worst %.2f of the bound, relative L2 %.1e\n", c->name, worst.ratio,
                  sqrt(worst.error_square / worst.value_square));
    free(all);
}

// ---- attention ----------------------------------------------------------------------------------

// Fills the caches of all slots with numbers, and with NaN where a position is not to be read.
static void kv_fill(Lab *lab, const AttentionCase *c, const int32_t *lengths) {
    memset(lab->kv, 0xff, (size_t)lab->kv_bytes);
    for (int32_t slot = 0; slot < SLOTS; slot++)
        for (int32_t position = 0; position < lengths[slot]; position++)
            for (int64_t head = 0; head < c->kv_heads; head++)
                for (int which = 0; which < 2; which++)
                    for (int64_t e = 0; e < c->head_dim; e++) {
                        const uint16_t half =
                            half_from_float(normal((uint32_t)(slot * 2 + which), (uint32_t)position,
                                                   (uint32_t)(head * c->head_dim + e)));
                        memcpy(lab->kv + kv_place(lab, which, slot, position, head, c->head_dim) +
                                   2 * e,
                               &half, sizeof half);
                    }
}

static void attention_check_row(const Lab *lab, Worst *worst, const AttentionCase *c, int64_t token,
                                int32_t slot, int32_t position, const float *out) {
    double weight[PAGE * PAGES_PER_SEQ];
    for (int64_t head = 0; head < c->heads; head++) {
        const int64_t kv_head = head / (c->heads / c->kv_heads);
        double largest = -1e300, total = 0;
        for (int32_t p = 0; p <= position; p++) {
            const unsigned char *key = lab->kv + kv_place(lab, 0, slot, p, kv_head, c->head_dim);
            weight[p] = 0;
            for (int64_t e = 0; e < c->head_dim; e++)
                weight[p] += (double)input_at(token, head * c->head_dim + e) *
                             (double)half_at(key + 2 * e) * 0.3;
            largest = fmax(largest, weight[p]);
        }
        for (int32_t p = 0; p <= position; p++)
            total += weight[p] = exp(weight[p] - largest);
        for (int64_t e = 0; e < c->head_dim; e++) {
            Bounded y = {0, 1e-30};
            for (int32_t p = 0; p <= position; p++) {
                const double v = (double)half_at(
                    lab->kv + kv_place(lab, 1, slot, p, kv_head, c->head_dim) + 2 * e);
                y.value += weight[p] / total * v;
                y.bound += 1e-4 * weight[p] / total * fabs(v);
            }
            y.bound += 1e-6;
            compare(worst, c->name, token, head * c->head_dim + e,
                    (double)out[head * c->head_dim + e], y);
        }
    }
}

// A batch: rows of one sequence after each other (prefill), or one row of each (decode).
typedef struct AttentionBatch {
    int32_t tokens;
    int32_t start; // position of the first row
    bool decode;
} AttentionBatch;

static void attention_batch_run(Lab *lab, int level, int index, const AttentionBatch *b,
                                Worst *worst) {
    const AttentionCase *c = &attention_cases[index - LINEAR_COUNT];
    const Op *op = &lab->graph.ops[lab->ops[index]];
    const BatchLayout *layout = &lab->plans[0].batch;
    const int64_t width = c->heads * c->head_dim;
    int32_t lengths[SLOTS] = {0};
    batch_fill(lab, b->tokens, 0);
    for (int32_t at = 0; at < b->tokens; at++) {
        const int32_t slot = b->decode ? at % SLOTS : 3;
        const int32_t position = b->decode ? b->start + at * 5 : b->start + at;
        batch_ints(lab, layout->slots)[at] = b->decode && at == 6 ? -1 : slot;
        batch_ints(lab, layout->positions)[at] = position;
        lengths[slot] = position + 1 > lengths[slot] ? position + 1 : lengths[slot];
    }
    kv_fill(lab, c, lengths);
    memcpy(lab->kv_before, lab->kv, (size_t)lab->kv_bytes);
    case_run(lab, level, index, b->tokens, 1 + b->tokens % 3, 0);
    assert_memory_equal(lab->kv, lab->kv_before, (size_t)lab->kv_bytes);
    guard_check(lab, level, index, op->output, b->tokens);
    float *all = malloc((size_t)(b->tokens * width) * sizeof *all);
    memcpy(all, value_memory(lab, level, index, op->output),
           (size_t)(b->tokens * width) * sizeof *all);
    for (int32_t at = 0; at < b->tokens; at += at < 8 ? 1 : 13) {
        const int32_t slot = batch_ints(lab, layout->slots)[at];
        const int32_t position = batch_ints(lab, layout->positions)[at];
        if (slot < 0) {
            for (int64_t e = 0; e < width; e++)
                assert_true(all[at * width + e] == 0);
            continue;
        }
        attention_check_row(lab, worst, c, at, slot, position, all + at * width);
        // the same row alone
        const int32_t kept[2] = {batch_ints(lab, layout->slots)[0],
                                 batch_ints(lab, layout->positions)[0]};
        batch_ints(lab, layout->slots)[0] = slot;
        batch_ints(lab, layout->positions)[0] = position;
        case_run(lab, level, index, 1, 2, at);
        assert_memory_equal(value_memory(lab, level, index, op->output), all + at * width,
                            (size_t)width * sizeof(float));
        batch_ints(lab, layout->slots)[0] = kept[0];
        batch_ints(lab, layout->positions)[0] = kept[1];
    }
    free(all);
}

static void attention_case_check(Lab *lab, int level, int index) {
    static const AttentionBatch batches[] = {
        {1, 0, false},   {3, 0, false},    {17, 0, false}, {64, 30, false}, {100, 0, false},
        {129, 3, false}, {300, 80, false}, {1, 31, true},  {2, 32, true},   {8, 300, true},
    };
    Worst worst = {0};
    for (size_t at = 0; at < sizeof batches / sizeof *batches; at++)
        attention_batch_run(lab, level, index, &batches[at], &worst);
    print_message("  %-40s worst %.2f of the bound\n", attention_cases[index - LINEAR_COUNT].name,
                  worst.ratio);
}

// ---- rows ---------------------------------------------------------------------------------------

static double rows_expected(const Lab *lab, const RowsCase *c, const Op *op, int64_t token,
                            int64_t at) {
    const BatchLayout *b = &lab->plans[0].batch;
    if (c->kind == OP_EMBED) {
        int32_t id = batch_ints(lab, b->token_ids)[token];
        return weight_at(lab, &lab->graph.packed[op->embed.table], id < 0 ? 0 : id, at);
    }
    if (c->kind == OP_GATHER)
        return (double)input_at(batch_ints(lab, b->head_rows)[token], at);
    double square = 0;
    for (int64_t k = 0; k < c->width; k++)
        square += (double)input_at(token, k) * (double)input_at(token, k);
    return (double)input_at(token, at) / sqrt(square / (double)c->width + (double)op->norm.eps) *
           (double)lab->graph.packed[op->norm.weight].values[at];
}

static void rows_case_check(Lab *lab, int level, int index) {
    const RowsCase *c = &rows_cases[index - LINEAR_COUNT - ATTENTION_COUNT];
    const Op *op = &lab->graph.ops[lab->ops[index]];
    const BatchLayout *b = &lab->plans[0].batch;
    Worst worst = {0};
    for (size_t count = 0; count < sizeof token_counts / sizeof *token_counts; count++) {
        const int32_t tokens = token_counts[count];
        for (int32_t at = 0; at < tokens; at++) {
            batch_ints(lab, b->token_ids)[at] =
                at % 17 == 16 ? -1 : at * 7 % (int32_t)(c->rows + 1);
            if (c->kind == OP_EMBED && batch_ints(lab, b->token_ids)[at] == c->rows)
                batch_ints(lab, b->token_ids)[at] = (int32_t)c->rows - 1;
            batch_ints(lab, b->head_rows)[at] = (tokens - 1 - at) * 3 % tokens;
        }
        case_run(lab, level, index, tokens, 1 + (int32_t)(count % 3), 0);
        const float *out = value_memory(lab, level, index, op->output);
        for (int64_t token = 0; token < tokens; token++)
            for (int64_t at = 0; at < c->width; at++) {
                const double expected = rows_expected(lab, c, op, token, at);
                compare(
                    &worst, c->name, token, at, (double)out[token * c->width + at],
                    (Bounded){expected, (c->kind == OP_NORM ? 1e-6 * fabs(expected) : 0) + 1e-30});
            }
        guard_check(lab, level, index, op->output, tokens);
    }
    print_message("  %-40s worst %.2f of the bound\n", c->name, worst.ratio);
}

// ---- the tests ----------------------------------------------------------------------------------

static void level_check(void **state, int level) {
    Lab *lab = *state;
    if (!level_runs(lab->plans[level].target)) {
        print_message("skipped: this machine does not run %s\n",
                      lab->plans[level].target->cpu_level);
        skip();
    }
    for (int index = 0; index < CASES; index++) {
        if (index < LINEAR_COUNT)
            linear_case_check(lab, level, index);
        else if (index < LINEAR_COUNT + ATTENTION_COUNT)
            attention_case_check(lab, level, index);
        else
            rows_case_check(lab, level, index);
    }
}

static void test_v3(void **state) {
    level_check(state, 0);
}

static void test_v4_vnni(void **state) {
    level_check(state, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v3),
        cmocka_unit_test(test_v4_vnni),
    };
    return cmocka_run_group_tests(tests, lab_open, lab_close);
}

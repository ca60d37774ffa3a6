// One layer on the GPU for gpu_kernels_bench: weights in rotating copies, inputs of many tokens, and
// a sample of what must come out: some pairs of rows of some tokens, in doubles. The sample is
// random, and holds the first and last rows and tokens; every row of those tokens is checked to be
// written at all.
#ifndef BENCH_LAB_H
#define BENCH_LAB_H

#include "compiler/measure.h"
#include "tests/linear_check.h"

#include <stdlib.h>

enum {
    BENCH_TOKENS = LAB_TOKENS,
    SAMPLE_TOKENS_MAX = 32,
    SAMPLE_PAIRS = 48,
    KV_TOKENS = LAB_SLOTS * 125, // tokens that have a place of their own in the KV cache
    BLOCK_VALUES = 16777213,     // inputs repeat after so many: a prime, so that rows differ
    ROTATED_BYTES = 320 << 20,   // of weights: more than the second-level cache holds, five times
};

// A candidate of one layer and number of tokens.
typedef struct Candidate {
    Run run;
    int layer, count; // index of bench_layers; index of bench_counts
    char variant[120];
    int kernels[4];      // of its steps, among the distinct ones
    double us;           // 0: not timed
    double predicted_us; // by the compiler; run.cost.us: by the kernel's model alone
    bool dense;          // 16-bit weights, in the place of cuBLAS
} Candidate;

// Inputs that all layers share.
typedef struct Inputs {
    float *x;                                 // [BLOCK_VALUES]
    uint16_t *half;                           // the same as fp16
    uint64_t block_x, block_half, block_bf16; // on the device
} Inputs;

typedef struct Sample {
    Data d;                            // row m of it is token tokens[m]
    int64_t tokens[SAMPLE_TOKENS_MAX]; // ascending
    int64_t pairs[SAMPLE_PAIRS];
    int count;
} Sample;

typedef struct LayerLab {
    Arena arena;
    Lab lab; // with data
    Sample sample;
    unsigned char *kv; // room for what the KV cache holds
    uint64_t pool;     // copies of the weights, copy_bytes apart
    int64_t copy_bytes;
    int copies;
} LayerLab;

// What a kernel gave, against the sample.
typedef struct Verdict {
    double worst;           // of its bound
    double error, rounding; // sums of absolute errors: ours, and of rounding the exact result
    bool unwritten;
    char where[160];
} Verdict;

// ---- inputs -------------------------------------------------------------------------------------

static inline bool inputs_make(Inputs *in, Meter *m, uint64_t seed, Arena *a, Error *err) {
    Random r = {.state = seed};
    uint16_t *bf16 = ARENA_NEW(a, uint16_t, BLOCK_VALUES);
    in->x = ARENA_NEW(a, float, BLOCK_VALUES);
    in->half = ARENA_NEW(a, uint16_t, BLOCK_VALUES);
    for (int64_t at = 0; at < BLOCK_VALUES; at++) {
        float x = random_uniform(&r, -1, 1) + random_uniform(&r, -1, 1) + random_uniform(&r, -1, 1);
        in->x[at] = x;
        in->half[at] = half_from_float(x);
        bf16[at] = bfloat_from_float(x);
    }
    TRY(meter_alloc(m, &in->block_x, (int64_t)BLOCK_VALUES * 4, err));
    TRY(meter_alloc(m, &in->block_half, (int64_t)BLOCK_VALUES * 2, err));
    TRY(meter_alloc(m, &in->block_bf16, (int64_t)BLOCK_VALUES * 2, err));
    TRY(meter_upload(m, in->block_x, in->x, (int64_t)BLOCK_VALUES * 4, err));
    TRY(meter_upload(m, in->block_half, in->half, (int64_t)BLOCK_VALUES * 2, err));
    return meter_upload(m, in->block_bf16, bf16, (int64_t)BLOCK_VALUES * 2, err);
}

// `count` values of the block, again and again, of `elem` bytes.
static inline bool inputs_fill(const Inputs *in, Meter *m, uint64_t to, int64_t count, int elem,
                               bool bf16, Error *err) {
    uint64_t from = elem == 4 ? in->block_x : bf16 ? in->block_bf16 : in->block_half;
    for (int64_t at = 0; at < count; at += BLOCK_VALUES) {
        int64_t part = count - at < BLOCK_VALUES ? count - at : BLOCK_VALUES;
        TRY(meter_copy(m, to + (uint64_t)(at * elem), from, part * elem, err));
    }
    return true;
}

// ---- the sample ---------------------------------------------------------------------------------

static inline int compare_tokens(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

// The last token of every count, some at the edges of tiles, some anywhere.
static inline void sample_choose(Sample *s, const Lab *lab, Random *r) {
    static const int64_t fixed[] = {0,  1,  2,   3,   6,   7,   8,   9,   15,   16,   31,
                                    33, 63, 100, 127, 130, 255, 511, 777, 1023, 2047, 4095};
    const PackedTensor *t = &lab->graph.packed[lab->op->linear.weight];
    int64_t limit = lab->c->epilogue == EPILOGUE_ROPE_KV ? KV_TOKENS : BENCH_TOKENS;
    for (size_t at = 0; at < sizeof fixed / sizeof *fixed; at++)
        if (fixed[at] < limit)
            s->tokens[s->count++] = fixed[at];
    while (s->count < SAMPLE_TOKENS_MAX)
        s->tokens[s->count++] = (int64_t)(random_u32(r) % limit);
    qsort(s->tokens, (size_t)s->count, sizeof *s->tokens, compare_tokens);
    for (int at = 0; at < SAMPLE_PAIRS; at++)
        s->pairs[at] = random_u32(r) % (t->rows / 2);
    s->pairs[0] = 0;
    s->pairs[1] = t->rows / 2 - 1;
}

static inline void sample_places(Sample *s) {
    data_places(&s->d);
    for (int m = 0; m < s->count; m++) {
        s->d.slots[m] = s->tokens[m] < KV_TOKENS ? (int32_t)(s->tokens[m] % LAB_SLOTS) : -1;
        s->d.positions[m] = s->tokens[m] < KV_TOKENS ? (int32_t)(s->tokens[m] / LAB_SLOTS) : 0;
    }
}

// One packed row of all sampled tokens.
static inline void sample_row(Sample *s, const Lab *lab, int64_t at, const float *in, float *raw,
                              float *row) {
    const PackedTensor *t = &lab->graph.packed[lab->op->linear.weight];
    data_row(t, at, raw, row);
    for (int m = 0; m < s->count; m++) {
        double sum = 0;
        for (int64_t i = 0; i < t->in_features; i++)
            sum += (double)row[i] * (double)in[m * t->in_features + i];
        sum = (sum + (lab->bias ? (double)lab->bias[at] : 0)) * (double)lab->op->linear.scale;
        s->d.y[m * t->rows + at] = sum;
        s->d.largest = fmax(s->d.largest, fabs(sum));
    }
}

static inline void sample_make(Sample *s, const Lab *lab, const Inputs *inputs, Random *r,
                               Arena *a) {
    const PackedTensor *t = &lab->graph.packed[lab->op->linear.weight];
    int64_t k = t->in_features, width = lab->graph.values[lab->x].width;
    *s = (Sample){.count = 0};
    sample_choose(s, lab, r);
    sample_places(s);
    s->d.tokens = s->count;
    s->d.y = ARENA_NEW(a, double, s->count * t->rows);
    s->d.residual = ARENA_NEW(a, float, s->count * t->out_features);
    float *in = ARENA_NEW(a, float, s->count *k), *x = ARENA_NEW(a, float, width);
    uint16_t *bits = ARENA_NEW(a, uint16_t, width);
    for (int m = 0; m < s->count; m++) {
        for (int64_t i = 0; i < width; i++) {
            x[i] = inputs->x[(s->tokens[m] * width + i) % BLOCK_VALUES];
            bits[i] = act_bits(lab->c, x[i]);
        }
        data_input(lab, x, bits, in + m * k);
        for (int64_t i = 0; i < t->out_features; i++)
            s->d.residual[m * t->out_features + i] =
                inputs->x[(s->tokens[m] * t->out_features + i) % BLOCK_VALUES];
    }
    float *row = ARENA_NEW(a, float, k), *raw = ARENA_NEW(a, float, t->parts[0]->in_features);
    for (int at = 0; at < SAMPLE_PAIRS; at++) {
        int64_t low = s->pairs[at] / 8 * TILE_ROWS + s->pairs[at] % 8;
        sample_row(s, lab, low, in, raw, row);
        sample_row(s, lab, low + 8, in, raw, row);
    }
    s->d.largest *= 1.25; // bounds are relative to the largest of all sums, which a sample may miss
}

// ---- the layer ----------------------------------------------------------------------------------

static inline bool layer_upload(LayerLab *l, Meter *m, uint64_t pool, int64_t pool_bytes,
                                Error *err) {
    const Graph *g = &l->lab.graph;
    unsigned char *packed = arena_alloc(&l->arena, (size_t)l->lab.weights_bytes);
    for (int at = 0; at < g->packed_count; at++)
        tensor_pack(&g->packed[at], packed + g->packed[at].offset);
    l->pool = pool;
    l->copy_bytes = (int64_t)round_up((uint64_t)l->lab.weights_bytes, 256);
    l->copies = (int)ceil_div(ROTATED_BYTES, l->copy_bytes);
    l->copies = l->copies < 2 ? 2 : l->copies;
    if (l->copies * l->copy_bytes > pool_bytes)
        return fail(err, ERR_INTERNAL, 0, "%s: the pool is too small", l->lab.c->name);
    TRY(meter_upload(m, pool, packed, l->lab.weights_bytes, err));
    for (int copy = 1; copy < l->copies; copy++)
        TRY(meter_copy(m, pool + (uint64_t)(copy * l->copy_bytes), pool, l->copy_bytes, err));
    return meter_wait(m, err);
}

// Slots, positions and pages of BENCH_TOKENS tokens.
static inline bool layer_places(const LayerLab *l, Meter *m, uint64_t batch_base, Error *err) {
    const BatchLayout *batch = &l->lab.plan.batch;
    static int32_t slots[BENCH_TOKENS], positions[BENCH_TOKENS];
    for (int at = 0; at < BENCH_TOKENS; at++) {
        slots[at] = at < KV_TOKENS ? at % LAB_SLOTS : -1;
        positions[at] = at < KV_TOKENS ? at / LAB_SLOTS : 0;
    }
    const int32_t *table = l->sample.d.table;
    TRY(meter_upload(m, batch_base + (uint64_t)batch->slots, slots, sizeof slots, err));
    TRY(meter_upload(m, batch_base + (uint64_t)batch->positions, positions, sizeof positions, err));
    return meter_upload(m, batch_base + (uint64_t)batch->page_table, table,
                        sizeof l->sample.d.table, err);
}

// ---- one check ----------------------------------------------------------------------------------

static inline uint64_t value_address(const Run *run, int value, const uint64_t *base) {
    return base[REGION_ARENA] + (uint64_t)run->phase.buffers[run->phase.value_buffer[value]].offset;
}

// Poisons everything, then writes the inputs.
static inline bool candidate_prepare(const Run *run, const Inputs *in, Meter *m,
                                     const uint64_t *base, int64_t tokens, Error *err) {
    const Lab *lab = run->lab;
    const Graph *g = &lab->graph;
    int64_t kv_bytes = LAB_PAGES * lab->plan.info.kv_page_bytes;
    TRY(meter_fill(m, base[REGION_ARENA], 0xff, run->arena_bytes, err));
    for (int at = 0; at < run->phase.buffer_count; at++) {
        const Buffer *b = &run->phase.buffers[at];
        if (b->persistent) // counts
            TRY(meter_fill(m, base[REGION_ARENA] + (uint64_t)b->offset, 0, b->bytes, err));
    }
    if (kv_bytes)
        TRY(meter_fill(m, base[REGION_KV], 0xff, kv_bytes, err));
    TRY(inputs_fill(in, m, value_address(run, lab->x, base), tokens * g->values[lab->x].width,
                    lab->c->prologue == PROLOGUE_NORM ? 4 : 2, lab->c->bf16, err));
    if (lab->residual >= 0)
        TRY(inputs_fill(in, m, value_address(run, lab->residual, base),
                        tokens * g->values[lab->residual].width, 4, false, err));
    return true;
}

// Is there an element that nobody wrote? Poison is a number that no kernel gives: not a number.
static inline bool row_unwritten(const unsigned char *row, int64_t bytes, int64_t elem) {
    bool found = false;
    for (int64_t at = 0; at < bytes; at += elem) {
        uint32_t word = 0xffffffff;
        memcpy(&word, row + at, (size_t)elem == 2 ? 2 : 4);
        found |= word == 0xffffffff;
    }
    return found;
}

// Rounding the exact result, and ours, of plain fp16 outputs.
static inline void verdict_rounding(Verdict *v, const Run *run, const Sample *s,
                                    const unsigned char *out, int m, int64_t pair) {
    const PackedTensor *t = &run->lab->graph.packed[run->lab->op->linear.weight];
    for (int half = 0; half < 2; half++) {
        int64_t row = pair / 8 * TILE_ROWS + pair % 8 + 8 * half;
        if (row >= t->out_features)
            continue;
        double exact = s->d.y[m * t->rows + row];
        double found = act_at(run->lab->c, out, m * t->out_features + row);
        double rounded = (double)act_value(run->lab->c, act_bits(run->lab->c, (float)exact));
        v->error += fabs(found - exact);
        v->rounding += fabs(rounded - exact);
    }
}

// Downloads what the sampled tokens under `tokens` gave, one row behind the other.
static inline bool sample_download(const LayerLab *l, const Run *run, Meter *m,
                                   const uint64_t *base, int64_t tokens, unsigned char *rows,
                                   int *count, Error *err) {
    const Value *value = &run->lab->graph.values[run->lab->op->output];
    int64_t bytes = value->width * plan_value_elem(&run->lab->plan, run->lab->op->output);
    uint64_t out = value_address(run, run->lab->op->output, base);
    *count = 0;
    while (*count < l->sample.count && l->sample.tokens[*count] < tokens) {
        TRY(meter_download(m, rows + *count * bytes,
                           out + (uint64_t)(l->sample.tokens[*count] * bytes), bytes, err));
        ++*count;
    }
    return true;
}

// The guard behind the last output must be as it was.
static inline bool guard_check(Verdict *v, const Run *run, Meter *m, const uint64_t *base,
                               int64_t tokens, Error *err) {
    const Value *value = &run->lab->graph.values[run->lab->op->output];
    const Buffer *b = &run->phase.buffers[run->phase.value_buffer[run->lab->op->output]];
    int64_t used = tokens * value->width * plan_value_elem(&run->lab->plan, run->lab->op->output);
    unsigned char guard[LAB_GUARD];
    TRY(meter_download(m, guard, base[REGION_ARENA] + (uint64_t)(b->offset + used), LAB_GUARD,
                       err));
    for (int at = 0; at < LAB_GUARD; at++)
        if (guard[at] != 0xff && !v->where[0])
            snprintf(v->where, sizeof v->where, "byte %d behind the last output is written", at);
    return true;
}

// rows: the sampled tokens' outputs.
static inline bool candidate_compare(Verdict *v, LayerLab *l, const Candidate *c, Meter *m,
                                     const uint64_t *base, const unsigned char *rows, int count,
                                     Error *err) {
    Run run = c->run;
    run.lab = &l->lab; // numbers, not only shapes
    const Value *value = &l->lab.graph.values[l->lab.op->output];
    int64_t elem = plan_value_elem(&l->lab.plan, l->lab.op->output), bytes = value->width * elem;
    Result r = {.worst = 0};
    if (l->lab.c->epilogue == EPILOGUE_ROPE_KV) {
        int64_t kv_bytes = LAB_PAGES * l->lab.plan.info.kv_page_bytes;
        if (!l->kv)
            l->kv = arena_alloc(&l->arena, (size_t)kv_bytes);
        r.kv = l->kv;
        TRY(meter_download(m, r.kv, base[REGION_KV], kv_bytes, err));
    }
    bool plain = l->lab.c->epilogue == EPILOGUE_STORE && elem == 2;
    for (int at = 0; at < count; at++) {
        if (row_unwritten(rows + at * bytes, bytes, elem)) {
            v->unwritten = true;
            snprintf(v->where, sizeof v->where, "token %lld: outputs are not written",
                     (long long)l->sample.tokens[at]);
        }
        for (int pair = 0; pair < SAMPLE_PAIRS; pair++) {
            int64_t which = l->sample.pairs[pair];
            compare_pair(&run, &l->sample.d, &r, rows, at, which / 8, (int)(which % 8));
            if (plain)
                verdict_rounding(v, &run, &l->sample, rows, at, which);
        }
    }
    v->worst = r.worst;
    if (r.worst > 1 && !v->unwritten)
        snprintf(v->where, sizeof v->where, "sampled %.140s", r.where);
    return true;
}

#endif

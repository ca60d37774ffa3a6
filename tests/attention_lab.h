// One attention op on a GPU or emulated, checked against plain loops in doubles.
#ifndef ATTENTION_LAB_H
#define ATTENTION_LAB_H

#include "tests/kv_lab.h"
#include "tests/random_weight.h"
#include "tests/step_lab.h"

#include <math.h>

enum {
    ATTENTION_ROWS_MAX = 64,
    ATTENTION_LAYERS = 2,
    ATTENTION_LAYER = 1,
    ATTENTION_SLOTS = 64,
    ATTENTION_RUNS_MAX = 8,
};

typedef struct AttentionCase {
    const char *name;
    int heads, kv_heads, head_dim, page;
    // decode: lengths of the rows' sequences, with the new token; -1: an empty row, 0: end
    int lengths[ATTENTION_ROWS_MAX];
    // prefill: tokens that follow `start` others of one sequence; 0: this is a decode case
    int tokens, start;
    // prefill: as many tokens and start of further sequences, whose rows come behind
    struct {
        int tokens, start;
    } more[ATTENTION_RUNS_MAX];
    int window;    // 0: none
    float softcap; // 0: none
    bool places, bf16;
    bool drafts; // the rows of `tokens` and `more` are rows of decode
} AttentionCase;

typedef struct AttentionRun {
    const AttentionCase *c;
    Graph graph;
    Plan plan;
    const Op *op;
    int q, out; // values
    int rows;
    PhasePlan phase;
    int first_kernel;
    int64_t arena_bytes, kv_bytes, weights_bytes;
    uint64_t base[REGION_COUNT];
    const int32_t *places;     // [heads * head_dim]; NULL: none
    char reason[REASON_BYTES]; // of a refusal
    // host copies
    uint16_t *q_act, *kv;
    unsigned char *batch;
} AttentionRun;

static inline int32_t *attention_batch(const AttentionRun *run, int64_t offset) {
    return (int32_t *)(void *)(run->batch + offset);
}

// The tokens of one sequence side by side: rows [first, first + count).
typedef struct AttentionTokens {
    int slot, start, first, count; // slot -1: an empty row
} AttentionTokens;

static inline int attention_sequences(const AttentionCase *c) {
    int count = 0;
    if (c->tokens)
        for (count = 1; count <= ATTENTION_RUNS_MAX && c->more[count - 1].tokens;)
            count++;
    else
        while (count < ATTENTION_ROWS_MAX && c->lengths[count])
            count++;
    return count;
}

static inline AttentionTokens attention_sequence(const AttentionCase *c, int at) {
    if (!c->tokens)
        return (AttentionTokens){.slot = c->lengths[at] < 0 ? -1 : (at * 3 + 2) % ATTENTION_SLOTS,
                                 .start = c->lengths[at] - 1,
                                 .first = at,
                                 .count = 1};
    AttentionTokens t = {.slot = 3 + 5 * at, .start = c->start, .count = c->tokens};
    for (int before = 0; before < at; before++) {
        t.first += t.count;
        t.start = c->more[before].start;
        t.count = c->more[before].tokens;
    }
    return t;
}

static inline AttentionTokens attention_tokens(const AttentionCase *c, int row) {
    AttentionTokens t = attention_sequence(c, 0);
    for (int at = 1; row >= t.first + t.count; at++)
        t = attention_sequence(c, at);
    return t;
}

static inline int attention_length(const AttentionCase *c, int row) { // keys that a row sees
    AttentionTokens t = attention_tokens(c, row);
    return t.start + row - t.first + 1;
}

// ---- set-up -------------------------------------------------------------------------------------

static inline void attention_model(AttentionRun *run, const Target *target, Arena *a) {
    const AttentionCase *c = run->c;
    int longest = 0;
    for (int row = 0; row < run->rows; row++)
        longest = attention_length(c, row) > longest ? attention_length(c, row) : longest;
    ModelInfo *info = &run->plan.info;
    *info = (ModelInfo){.vocab_size = 64,
                        .max_seq_len = longest + 3 * c->page,
                        .max_batch_size = ATTENTION_SLOTS,
                        .max_head_rows = 8,
                        .max_num_tokens = run->rows,
                        .page_tokens = c->page};
    info->kv_layer_stride = 2LL * c->kv_heads * c->page * c->head_dim * 2;
    info->kv_page_bytes = ATTENTION_LAYERS * info->kv_layer_stride;
    run->plan.target = target;
    run->plan.graph = &run->graph;
    run->plan.batch = batch_layout(info);
    run->plan.arena = a;
}

// Every element of a row somewhere else.
static inline int attention_places(AttentionRun *run, Arena *a) {
    const AttentionCase *c = run->c;
    int64_t width = (int64_t)c->heads * c->head_dim;
    Random r = {.state = 9};
    int32_t *places = ARENA_NEW(a, int32_t, width);
    for (int64_t at = 0; at < width; at++) {
        int64_t other = random_u32(&r) % (at + 1);
        places[at] = places[other];
        places[other] = (int32_t)at;
    }
    run->places = places;
    return graph_index(&run->graph, "places", places, width);
}

static inline void attention_graph(AttentionRun *run, Arena *a) {
    const AttentionCase *c = run->c;
    run->graph = graph_new(a);
    run->graph.dtype = c->bf16 ? DTYPE_BF16 : DTYPE_FP16;
    run->q = graph_value(&run->graph, "q", VALUE_ACT, (int64_t)c->heads * c->head_dim);
    graph_op(&run->graph, OP_EMBED, -1)->output = run->q;
    run->out = graph_value(&run->graph, "out", VALUE_ACT, (int64_t)c->heads * c->head_dim);
    Op *op = graph_op(&run->graph, OP_ATTENTION, ATTENTION_LAYER);
    op->inputs[0] = run->q;
    op->output = run->out;
    op->attention.heads = c->heads;
    op->attention.kv_heads = c->kv_heads;
    op->attention.head_dim = c->head_dim;
    op->attention.scale = 1.0f / sqrtf((float)c->head_dim);
    op->attention.window = c->window;
    op->attention.softcap = c->softcap;
    op->attention.places = c->places ? attention_places(run, a) : -1;
    run->op = op;
}

// Which kernel runs a case. All zeros: the one that every chip has, by its own choice.
typedef struct AttentionChoice {
    const Kernel *kernel;
    int candidate;
    int splits; // > 0: of the decode kernel
} AttentionChoice;

// False: the family refuses the case, or has no such candidate.
static inline bool attention_add(AttentionRun *run, const AttentionCase *c, AttentionChoice choice,
                                 StepLab *lab) {
    Arena *a = &lab->arena;
    const AttentionTokens last = attention_sequence(c, attention_sequences(c) - 1);
    *run = (AttentionRun){.c = c, .rows = last.first + last.count};
    attention_graph(run, a);
    attention_model(run, lab->target, a);
    Error err;
    bool laid_out = weights_layout(&run->graph, &run->weights_bytes, &err);
    assert(laid_out);
    (void)laid_out;
    lab_values(&run->phase, &run->graph, run->plan.info.max_num_tokens, a);
    const bool decodes = !c->tokens || c->drafts;
    const Kernel *kernel = choice.kernel ? choice.kernel
                           : decodes     ? &kernel_attention_decode
                                         : &kernel_attention_prefill;
    Problem problem = {.plan = &run->plan,
                       .op = run->op,
                       .max_tokens = run->phase.max_tokens,
                       .phase = decodes ? PHASE_DECODE : PHASE_PREFILL};
    Params candidates[KERNEL_MAX_CANDIDATES], *params = &candidates[choice.candidate];
    if (!kernel->accepts(&problem, run->reason))
        return false;
    int count = kernel->candidates(&problem, candidates);
    if (choice.candidate >= count)
        return false;
    if (lab->folder && kernel == &kernel_attention_decode && params_get(params, "LOAD_BULK"))
        params = &candidates[1 - choice.candidate]; // bulk copies are not emulated
    if (choice.splits)
        params_set(params, "SPLITS", choice.splits);
    Cost cost = kernel->cost(&problem, params);
    kernel->lower(&problem, params, &cost, &run->plan, &run->phase);
    run->first_kernel = lab_phase_add(lab, &run->phase, &run->arena_bytes);
    return true;
}

// ---- data ---------------------------------------------------------------------------------------

// Index, in halves, of the row of key (which = 0) or value (1) `position` of `head`.
static inline int64_t attention_at(const AttentionRun *run, int slot, int position, int head,
                                   int which) {
    const AttentionCase *c = run->c;
    const ModelInfo *info = &run->plan.info;
    const BatchLayout *b = &run->plan.batch;
    int64_t page =
        attention_batch(run, b->page_table)[slot * b->pages_per_seq + position / c->page];
    int64_t bytes = page * info->kv_page_bytes + ATTENTION_LAYER * info->kv_layer_stride +
                    which * info->kv_layer_stride / 2;
    return bytes / 2 + ((int64_t)head * c->page + position % c->page) * c->head_dim;
}

// Pages of all sequences, in an order that jumps.
static inline void attention_pages(AttentionRun *run) {
    const AttentionCase *c = run->c;
    const BatchLayout *b = &run->plan.batch;
    int pages = 1, next = 1, sequences = attention_sequences(c);
    for (int at = 0; at < sequences; at++) {
        AttentionTokens t = attention_sequence(c, at);
        pages += t.slot >= 0 ? (t.start + t.count + c->page - 1) / c->page : 0;
    }
    run->kv_bytes = pages * run->plan.info.kv_page_bytes;
    for (int at = 0; at < sequences; at++) {
        AttentionTokens t = attention_sequence(c, at);
        int32_t *table = attention_batch(run, b->page_table) + t.slot * b->pages_per_seq;
        for (int page = 0; t.slot >= 0 && page * c->page < t.start + t.count; page++)
            table[page] = pages - next++; // backwards: no run of pages is contiguous
    }
}

static inline void attention_fill(AttentionRun *run, Random *r) {
    const AttentionCase *c = run->c;
    for (int64_t at = 0; at < (int64_t)run->rows * c->heads * c->head_dim; at++) {
        bool loud = at / c->head_dim % 3 == 2; // peaked weights
        run->q_act[at] = lab_act(random_normal(r) * (loud ? 6.0f : 1.0f), c->bf16);
    }
    for (int at = 0; at < attention_sequences(c); at++) {
        AttentionTokens t = attention_sequence(c, at);
        for (int position = 0; t.slot >= 0 && position < t.start + t.count; position++)
            for (int head = 0; head < c->kv_heads; head++)
                for (int which = 0; which < 2; which++) {
                    int64_t to = attention_at(run, t.slot, position, head, which);
                    int64_t flip = kv_lab_flip(c->head_dim, position);
                    for (int element = 0; element < c->head_dim; element++)
                        run->kv[to + (element ^ flip)] = lab_act(random_normal(r), c->bf16);
                }
    }
}

static inline void attention_data(AttentionRun *run, StepLab *lab) {
    Arena *a = &lab->arena;
    Random r = {.state = 77};
    const BatchLayout *b = &run->plan.batch;
    run->batch = arena_alloc(a, (size_t)b->bytes);
    for (int row = 0; row < run->rows; row++) {
        attention_batch(run, b->positions)[row] = attention_length(run->c, row) - 1;
        attention_batch(run, b->slots)[row] = attention_tokens(run->c, row).slot;
    }
    attention_pages(run);
    run->kv = arena_alloc(a, (size_t)run->kv_bytes);
    memset(run->kv, 0xff, (size_t)run->kv_bytes);
    run->q_act = ARENA_NEW(a, uint16_t, (int64_t)run->rows * run->c->heads * run->c->head_dim);
    attention_fill(run, &r);
    run->base[REGION_WEIGHTS] = lab_weights(lab, &run->graph, run->weights_bytes);
    run->base[REGION_ARENA] = lab_alloc(lab, (size_t)run->arena_bytes);
    run->base[REGION_KV] = lab_alloc(lab, (size_t)run->kv_bytes);
    run->base[REGION_BATCH] = lab_alloc(lab, (size_t)b->bytes);
    lab_upload(lab, run->base[REGION_KV], run->kv, (size_t)run->kv_bytes);
    lab_upload(lab, run->base[REGION_BATCH], run->batch, (size_t)b->bytes);
}

static inline void attention_release(AttentionRun *run, StepLab *lab) {
    for (int region = 0; region < REGION_COUNT; region++)
        lab_release(lab, run->base[region]);
}

// ---- checks -------------------------------------------------------------------------------------

// What a kernel counts in memory must be zeros again.
static inline void attention_counts_check(AttentionRun *run, StepLab *lab, const Buffer *buffer) {
    if (!buffer->persistent)
        return;
    unsigned char *found = arena_alloc(&lab->arena, (size_t)buffer->bytes);
    lab_download(lab, found, run->base[REGION_ARENA] + (uint64_t)buffer->offset,
                 (size_t)buffer->bytes);
    for (int64_t at = 0; at < buffer->bytes; at++)
        if (found[at]) {
            printf("%s: left counts that are not 0\n", run->c->name);
            exit(1);
        }
}

// Runs rows [first, first + count) as rows 0 .. and fetches their outputs with the guard behind.
static inline uint16_t *attention_run(AttentionRun *run, StepLab *lab, int first, int count) {
    const AttentionCase *c = run->c;
    const BatchLayout *b = &run->plan.batch;
    int64_t width = (int64_t)c->heads * c->head_dim;
    const PhasePlan *phase = &run->phase;
    uint64_t arena = run->base[REGION_ARENA];
    uint64_t q = arena + (uint64_t)phase->buffers[phase->value_buffer[run->q]].offset;
    const Buffer *out = &phase->buffers[phase->value_buffer[run->out]];
    lab_fill(lab, arena, 0xff, (size_t)run->arena_bytes);
    for (int at = 0; at < phase->buffer_count; at++)
        if (phase->buffers[at].persistent) // counts
            lab_fill(lab, arena + (uint64_t)phase->buffers[at].offset, 0,
                     (size_t)phase->buffers[at].bytes);
    lab_upload(lab, q, run->q_act + first * width, (size_t)(count * width * 2));
    for (int field = 0; field < 2; field++) {
        int64_t offset = field ? b->slots : b->positions;
        lab_upload(lab, run->base[REGION_BATCH] + (uint64_t)offset,
                   attention_batch(run, offset) + first, (size_t)count * 4);
    }
    lab_phase_run(lab, phase, run->first_kernel, run->base, count);
    for (int at = 0; at < phase->buffer_count; at++)
        attention_counts_check(run, lab, &phase->buffers[at]);
    size_t bytes = (size_t)(out->bytes + LAB_GUARD_BYTES);
    uint16_t *result = arena_alloc(&lab->arena, bytes);
    lab_download(lab, result, arena + (uint64_t)out->offset, bytes);
    for (size_t at = (size_t)(count * width); at < bytes / 2; at++)
        if (result[at] != 0xffff) {
            printf("%s: wrote behind its output\n", c->name);
            exit(1);
        }
    return result;
}

static inline double attention_value(const AttentionRun *run, uint16_t act) {
    return (double)lab_act_value(act, run->c->bf16);
}

// out[element] and the same with absolute values, for the bound.
static inline void attention_reference(const AttentionRun *run, int row, int head, double *out,
                                       double *size) {
    const AttentionCase *c = run->c;
    int length = attention_length(c, row), slot = attention_tokens(c, row).slot;
    int first = c->window && c->window < length ? length - c->window : 0;
    int kv_head = head / (c->heads / c->kv_heads);
    const uint16_t *q = run->q_act + ((int64_t)row * c->heads + head) * c->head_dim;
    double *weight = malloc((size_t)length * sizeof *weight), most = -HUGE_VAL, sum = 0;
    double cap = (double)c->softcap;
    for (int key = first; key < length; key++) {
        const uint16_t *k = run->kv + attention_at(run, slot, key, kv_head, 0);
        int64_t flip = kv_lab_flip(c->head_dim, key);
        double score = 0;
        for (int e = 0; e < c->head_dim; e++)
            score += attention_value(run, q[e]) * attention_value(run, k[e ^ flip]);
        score *= (double)run->op->attention.scale;
        weight[key] = cap > 0 ? cap * tanh(score / cap) : score;
        most = fmax(most, weight[key]);
    }
    for (int e = 0; e < c->head_dim; e++)
        out[e] = size[e] = 0;
    for (int key = first; key < length; key++) {
        const uint16_t *v = run->kv + attention_at(run, slot, key, kv_head, 1);
        int64_t flip = kv_lab_flip(c->head_dim, key);
        double w = exp(weight[key] - most);
        sum += w;
        for (int e = 0; e < c->head_dim; e++) {
            out[e] += w * attention_value(run, v[e ^ flip]);
            size[e] += w * fabs(attention_value(run, v[e ^ flip]));
        }
    }
    for (int e = 0; e < c->head_dim; e++) {
        out[e] /= sum;
        size[e] /= sum;
    }
    free(weight);
}

// Large cases are checked at the ends of sequences and at some tokens between.
static inline bool attention_checked(const AttentionRun *run, int row) {
    AttentionTokens t = attention_tokens(run->c, row);
    int at = row - t.first;
    return run->rows <= 64 || at < 4 || at >= t.count - 4 || row % 29 == 0;
}

// Weights are rounded to fp16 (2^-11; bf16: 2^-8) before they meet the values, and the result is.
static inline bool attention_compare(const AttentionRun *run, const uint16_t *found) {
    const AttentionCase *c = run->c;
    double out[256], size[256], worst = 0, unit = c->bf16 ? 8 : 1;
    char where[160] = "";
    for (int row = 0; row < run->rows; row++)
        for (int head = 0; head < c->heads && attention_checked(run, row); head++) {
            bool empty = attention_tokens(c, row).slot < 0;
            if (!empty)
                attention_reference(run, row, head, out, size);
            for (int e = 0; e < c->head_dim; e++) {
                double expected = empty ? 0 : out[e];
                double bound = unit * (7e-4 * size[e] + 6e-4 * fabs(out[e]) + 1e-6);
                int64_t width = (int64_t)c->heads * c->head_dim, at = head * c->head_dim + e;
                if (run->places)
                    at = run->places[at];
                double got = attention_value(run, found[row * width + at]);
                bound = empty ? 1e-30 : bound;
                double share = fabs(got - expected) / bound;
                if (!(share <= worst)) {
                    worst = isnan(share) ? HUGE_VAL : share;
                    snprintf(where, sizeof where, "row %d head %d element %d: %.6g, expected %.6g",
                             row, head, e, got, expected);
                }
            }
        }
    printf("%-6s %-22s %-18s worst %.2f of its bound (%s)\n", worst <= 1 ? "ok" : "NOT OK", c->name,
           run->phase.steps[0].entry, worst, where);
    return worst <= 1;
}

// A sequence, and a row of drafts, must give the same bits alone as among others, and every run the
// same as the one before.
static inline bool attention_same_bits(AttentionRun *run, StepLab *lab, const uint16_t *found) {
    int64_t width = (int64_t)run->c->heads * run->c->head_dim;
    int alone_count = run->c->drafts ? run->rows : attention_sequences(run->c);
    lab->backwards = true;
    const uint16_t *again = attention_run(run, lab, 0, run->rows);
    lab->backwards = false;
    bool same = memcmp(found, again, (size_t)(run->rows * width * 2)) == 0;
    for (int at = 0; at < alone_count && same && alone_count > 1; at++) {
        AttentionTokens t = run->c->drafts ? (AttentionTokens){.first = at, .count = 1}
                                           : attention_sequence(run->c, at);
        const uint16_t *alone = attention_run(run, lab, t.first, t.count);
        same = memcmp(found + t.first * width, alone, (size_t)(t.count * width * 2)) == 0;
    }
    if (!same)
        printf("NOT OK %s: other bits in another run or batch\n", run->c->name);
    return same;
}

static inline bool attention_check(AttentionRun *run, StepLab *lab) {
    attention_data(run, lab);
    const uint16_t *found = attention_run(run, lab, 0, run->rows);
    bool good = attention_compare(run, found) && attention_same_bits(run, lab, found);
    attention_release(run, lab);
    return good;
}

#endif

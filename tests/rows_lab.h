// One op on rows, on a GPU or emulated, checked against plain loops in doubles: all kinds but
// linears, experts and attention. Everything around the output must stay as it was.
#ifndef ROWS_LAB_H
#define ROWS_LAB_H

#include "tests/kv_lab.h"
#include "tests/random_weight.h"
#include "tests/step_lab.h"

#include <math.h>

enum {
    ROWS_TOKENS = 7,     // of a check
    ROWS_BAD_LOGITS = 4, // from this token on, route's
    ROWS_LIMIT = 40,     // that the buffers of a check have room for
    ROWS_PAGE = 16,      // tokens of a KV page
    ROWS_LAYERS = 2,     // of the KV cache
    ROWS_LAYER = 1,      // that is written
};

typedef struct RowsCase {
    const char *name;
    OpKind kind;
    int64_t width;  // of the input; of a row or head (norm, rope, kv_append)
    int64_t rows;   // of the table; of a token, heads (norm, rope, kv_append); chosen experts
    int64_t out;    // norm and permute: width of an ordered output; rope: pairs
    float scale;    // embed, add; rope: factor
    bool in_f32;    // norm; add: its second input
    bool out_f32;   // norm
    bool apart;     // add: the output is not in the place of the first input
    bool normalize; // route
    bool bf16;
    Activation act;
    int64_t room; // tokens that the buffers hold, 0: ROWS_LIMIT
} RowsCase;

typedef struct RowsRun {
    const RowsCase *c;
    Graph graph;
    Plan plan;
    Op *op;
    PhasePlan phase;
    int first_kernel;
    int64_t arena_bytes, weights_bytes, kv_bytes;
    uint64_t base[REGION_COUNT];
    float *inputs[2]; // [ROWS_LIMIT, width], rounded to the input's type
    // host images of what is there before a run
    unsigned char *arena, *kv, *batch;
} RowsRun;

static const int32_t rows_positions[ROWS_TOKENS] = {0, 131071, 15, 77777, 16, 4097, 63};
static const int32_t rows_slots[ROWS_TOKENS] = {2, 0, 3, -1, 1, 5, 4};

static inline int64_t rows_room(const RowsCase *c) {
    return c->room ? c->room : ROWS_LIMIT;
}

static inline int rows_inputs(const RowsCase *c) {
    if (c->kind == OP_EMBED)
        return 0;
    return c->kind == OP_ACT_MUL || c->kind == OP_ADD || c->kind == OP_KV_APPEND ? 2 : 1;
}

static inline int64_t rows_in_width(const RowsCase *c) {
    bool several = c->kind == OP_NORM || c->kind == OP_ROPE || c->kind == OP_KV_APPEND;
    return several ? c->width * c->rows : c->width;
}

static inline int64_t rows_out_width(const RowsCase *c) {
    if (c->kind == OP_ROUTE)
        return 2 * c->rows;
    return c->out && c->kind != OP_ROPE ? c->out : rows_in_width(c);
}

static inline ValueType rows_in_type(const RowsCase *c, int input) {
    bool f32 = c->kind == OP_GATHER || c->kind == OP_ROUTE || (c->kind == OP_ADD && input == 0) ||
               ((c->kind == OP_ADD || c->kind == OP_NORM) && c->in_f32);
    return f32 ? VALUE_F32 : VALUE_ACT;
}

static inline ValueType rows_out_type(const RowsCase *c) {
    bool f32 = c->kind == OP_GATHER || c->kind == OP_ROUTE || c->kind == OP_ADD ||
               c->kind == OP_EMBED || (c->kind == OP_NORM && c->out_f32);
    return f32 ? VALUE_F32 : VALUE_ACT;
}

// ---- set-up -------------------------------------------------------------------------------------

static inline int rows_vector(RowsRun *run, Random *r, int64_t count) {
    float *values = ARENA_NEW(run->graph.arena, float, count);
    for (int64_t at = 0; at < count; at++)
        values[at] = random_uniform(r, 0.5f, 1.5f);
    return graph_vector(&run->graph, "w", values, count);
}

// Some inputs repeated, some missing, some outputs zero.
static inline int rows_order(RowsRun *run, int64_t out, int64_t in) {
    int32_t *order = ARENA_NEW(run->graph.arena, int32_t, out);
    for (int64_t k = 0; k < out; k++)
        order[k] = k % 13 == 7 ? -1 : (int32_t)(k * 29 % in);
    return graph_index(&run->graph, "order", order, out);
}

static inline int rows_frequencies(RowsRun *run, int64_t pairs) {
    float *values = ARENA_NEW(run->graph.arena, float, pairs);
    for (int64_t at = 0; at < pairs; at++)
        values[at] = powf(10000.0f, -(float)at / (float)pairs);
    return graph_vector(&run->graph, "inv_freq", values, pairs);
}

static inline void rows_attributes(RowsRun *run, Random *r) {
    const RowsCase *c = run->c;
    Op *op = run->op;
    if (c->kind == OP_EMBED) {
        const Weight *table =
            random_weight(run->graph.arena, r, 16, c->width, c->width, c->rows, 0.01f, 0.02f);
        op->embed.table = graph_linear_weight(&run->graph, "table", &table, 1);
        op->embed.scale = c->scale;
    } else if (c->kind == OP_NORM) {
        op->norm.width = c->width;
        op->norm.weight = rows_vector(run, r, c->out ? c->out : c->width);
        op->norm.order = c->out ? rows_order(run, c->out, c->width) : -1;
        op->norm.eps = 1e-5f;
    } else if (c->kind == OP_ROPE) {
        op->rope.heads = c->rows;
        op->rope.head_dim = c->width;
        op->rope.inv_freq = rows_frequencies(run, c->out);
        op->rope.factor = c->scale;
    } else if (c->kind == OP_KV_APPEND) {
        op->kv_append.kv_heads = c->rows;
        op->kv_append.head_dim = c->width;
    } else if (c->kind == OP_ACT_MUL) {
        op->act_mul.act = c->act;
    } else if (c->kind == OP_ADD) {
        op->add.scale = c->scale;
    } else if (c->kind == OP_PERMUTE) {
        op->permute.order = rows_order(run, c->out, c->width);
    } else if (c->kind == OP_ROUTE) {
        op->route.experts = c->width;
        op->route.top_k = c->rows;
        op->route.normalize = c->normalize;
    }
}

static inline void rows_model(RowsRun *run, const Target *target) {
    const RowsCase *c = run->c;
    ModelInfo *info = &run->plan.info;
    *info = (ModelInfo){.vocab_size = 64,
                        .max_seq_len = 131072,
                        .max_batch_size = 8,
                        .max_num_tokens = rows_room(c),
                        .max_head_rows = 8,
                        .page_tokens = ROWS_PAGE};
    if (c->kind == OP_KV_APPEND) {
        info->kv_layer_stride = 2 * c->rows * ROWS_PAGE * c->width * 2;
        info->kv_page_bytes = ROWS_LAYERS * info->kv_layer_stride;
        run->kv_bytes = (ROWS_TOKENS + 1) * info->kv_page_bytes; // a page for each token
    }
    run->plan.target = target;
    run->plan.graph = &run->graph;
    run->plan.arena = run->graph.arena;
    run->plan.batch = batch_layout(info);
}

static inline void rows_graph(RowsRun *run, Arena *a) {
    const RowsCase *c = run->c;
    Random r = {.state = 5};
    Graph *g = &run->graph;
    int inputs[3] = {-1, -1, -1};
    *g = graph_new(a);
    g->dtype = c->bf16 ? DTYPE_BF16 : DTYPE_FP16;
    for (int at = 0; at < rows_inputs(c); at++) {
        inputs[at] = graph_value(g, at ? "b" : "a", rows_in_type(c, at), rows_in_width(c));
        graph_op(g, OP_EMBED, -1)->output = inputs[at];
    }
    int out =
        c->kind == OP_KV_APPEND ? -1 : graph_value(g, "out", rows_out_type(c), rows_out_width(c));
    if (c->apart)
        g->hidden = inputs[0]; // that is read once more
    run->op = graph_op(g, c->kind, ROWS_LAYER);
    memcpy(run->op->inputs, inputs, sizeof inputs);
    run->op->output = out;
    rows_attributes(run, &r);
}

static inline const Kernel *rows_kernel(OpKind kind) {
    for (int at = 0; at < kernel_table_count; at++)
        if (kernel_table[at]->device == DEVICE_CUDA && kernel_table[at]->op == kind)
            return kernel_table[at];
    return NULL;
}

static inline void rows_add(RowsRun *run, const RowsCase *c, StepLab *lab) {
    Arena *a = &lab->arena;
    *run = (RowsRun){.c = c};
    rows_graph(run, a);
    rows_model(run, lab->target);
    Error err;
    bool laid_out = weights_layout(&run->graph, &run->weights_bytes, &err);
    const Kernel *kernel = rows_kernel(c->kind);
    assert(laid_out && kernel);
    (void)laid_out;
    lab_values(&run->phase, &run->graph, rows_room(c), a);
    Problem problem = {
        .plan = &run->plan, .op = run->op, .phase = PHASE_DECODE, .max_tokens = rows_room(c)};
    char reason[REASON_BYTES];
    if (!kernel->accepts(&problem, reason)) {
        printf("%s is refused: %s\n", c->name, reason);
        exit(1);
    }
    Params params[KERNEL_MAX_CANDIDATES];
    kernel->candidates(&problem, params);
    Cost cost = kernel->cost(&problem, &params[0]);
    kernel->lower(&problem, &params[0], &cost, &run->plan, &run->phase);
    run->first_kernel = lab_phase_add(lab, &run->phase, &run->arena_bytes);
}

// ---- data ---------------------------------------------------------------------------------------

// Rows of other sizes, zeros; gates over the whole range; logits that are equal or no numbers.
static inline float rows_value_at(const RowsCase *c, int input, int64_t row, int64_t k, Random *r) {
    float x = random_normal(r);
    if (c->kind == OP_ROUTE && row >= ROWS_BAD_LOGITS)
        return row == 4 ? NAN : row == 6 ? -INFINITY : k % 3 ? NAN : k % 2 ? -INFINITY : x;
    if (c->kind == OP_ROUTE)
        return row == 2 ? rintf(x) : row == 3 ? 0 : 3 * x;
    if (c->kind == OP_ACT_MUL && input == 0 && row >= 4) {
        static const float extremes[] = {-1e4f, 1e4f, -88, 88, -0.0f, 0, -1e-4f, 20};
        return row == 4 ? (float)(k % 241 - 120) / 4 : k < 8 ? extremes[k] : x * 4;
    }
    return row == 2   ? x * (rows_in_type(c, input) == VALUE_F32 ? 1000.0f : 20.0f)
           : row == 3 ? 0
           : row == 5 ? x * 1e-3f
                      : x;
}

static inline void rows_fill_inputs(RowsRun *run, Arena *a) {
    const RowsCase *c = run->c;
    Random r = {.state = 6};
    int64_t width = rows_in_width(c), rows = c->kind == OP_GATHER ? ROWS_LIMIT : ROWS_TOKENS;
    run->arena = arena_alloc(a, (size_t)run->arena_bytes);
    memset(run->arena, 0xff, (size_t)run->arena_bytes);
    for (int input = 0; input < rows_inputs(c); input++) {
        int buffer = run->phase.value_buffer[run->op->inputs[input]];
        unsigned char *to = run->arena + run->phase.buffers[buffer].offset;
        run->inputs[input] = ARENA_NEW(a, float, rows *width);
        for (int64_t at = 0; at < rows * width; at++) {
            float x = rows_value_at(c, input, at / width, at % width, &r);
            if (rows_in_type(c, input) == VALUE_F32) {
                memcpy(to + at * 4, &x, 4);
            } else {
                uint16_t act = lab_act(x, c->bf16);
                memcpy(to + at * 2, &act, 2);
                x = lab_act_value(act, c->bf16);
            }
            run->inputs[input][at] = x;
        }
    }
}

static inline int32_t rows_index(const RowsRun *run, int token) {
    int32_t limit = (int32_t)(run->c->kind == OP_EMBED ? run->c->rows : ROWS_LIMIT);
    const int32_t index[ROWS_TOKENS] = {3, 0, -1, limit, limit - 1, INT32_MAX, INT32_MIN};
    return index[token];
}

static inline void rows_fill_batch(RowsRun *run, Arena *a) {
    const BatchLayout *b = &run->plan.batch;
    run->batch = arena_alloc(a, (size_t)b->bytes);
    memset(run->batch, 0xff, (size_t)b->bytes);
    for (int token = 0; token < ROWS_TOKENS; token++) {
        int32_t index = rows_index(run, token);
        int64_t at = token * 4;
        memcpy(run->batch + b->token_ids + at, &index, 4);
        memcpy(run->batch + b->head_rows + at, &index, 4);
        memcpy(run->batch + b->positions + at, &rows_positions[token], 4);
        memcpy(run->batch + b->slots + at, &rows_slots[token], 4);
        if (rows_slots[token] < 0)
            continue;
        int32_t page = token + 1;
        int64_t entry = rows_slots[token] * b->pages_per_seq + rows_positions[token] / ROWS_PAGE;
        memcpy(run->batch + b->page_table + entry * 4, &page, 4);
    }
}

// ---- what is expected of a token ----------------------------------------------------------------

typedef struct Expected {
    double value;
    double size; // of what is added up: arithmetic in fp32 may err by some 2^-20 of it
} Expected;

static inline double rows_in(const RowsRun *run, int input, int64_t token, int64_t k) {
    return (double)run->inputs[input][token * rows_in_width(run->c) + k];
}

static inline const int32_t *rows_indices(const RowsRun *run, int packed) {
    return packed < 0 ? NULL : run->graph.packed[packed].indices;
}

static inline void embed_expect(const RowsRun *run, int token, Expected *y) {
    const RowsCase *c = run->c;
    const Weight *table = run->graph.packed[run->op->embed.table].parts[0];
    int32_t id = rows_index(run, token);
    float *row = malloc((size_t)c->width * sizeof *row);
    assert(row);
    if (id >= 0 && id < c->rows)
        weight_row(table, id, row);
    else
        memset(row, 0, (size_t)c->width * sizeof *row);
    for (int64_t k = 0; k < c->width; k++)
        y[k].value = (double)lab_act_value(lab_act(row[k], c->bf16), c->bf16) * (double)c->scale;
    free(row);
}

static inline void norm_expect(const RowsRun *run, int token, Expected *y) {
    const RowsCase *c = run->c;
    const int32_t *order = rows_indices(run, run->op->norm.order);
    const float *w = run->graph.packed[run->op->norm.weight].values;
    int64_t outs = c->out ? c->out : c->width;
    for (int64_t row = 0; row < c->rows; row++) {
        double square = 0;
        for (int64_t k = 0; k < c->width; k++)
            square += pow(rows_in(run, 0, token, row * c->width + k), 2);
        double factor = 1 / sqrt(square / (double)c->width + (double)run->op->norm.eps);
        for (int64_t k = 0; k < outs; k++) {
            int64_t from = order ? order[k] : k;
            double x = from < 0 ? 0 : rows_in(run, 0, token, row * c->width + from);
            y[row * outs + k].value = x * factor * (double)w[k];
        }
    }
}

// The angle is rounded to fp32, as in transformers.
static inline void rope_expect(const RowsRun *run, int token, Expected *y) {
    const RowsCase *c = run->c;
    const float *frequencies = run->graph.packed[run->op->rope.inv_freq].values;
    for (int64_t at = 0; at < c->rows * c->width; at++) {
        int64_t pair = at % c->width, head = at - pair;
        if (pair >= 2 * c->out) {
            y[at].value = rows_in(run, 0, token, at);
            continue;
        }
        float angle = (float)rows_positions[token] * frequencies[pair % c->out];
        double cosine = cos((double)angle) * (double)c->scale;
        double sine = sin((double)angle) * (double)c->scale;
        double low = rows_in(run, 0, token, head + pair % c->out);
        double high = rows_in(run, 0, token, head + pair % c->out + c->out);
        y[at].value = pair < c->out ? low * cosine - high * sine : high * cosine + low * sine;
        y[at].size = 3 * (double)c->scale * (fabs(low) + fabs(high));
    }
}

static inline double rows_activation(Activation act, double x) {
    if (act == ACT_SILU)
        return x / (1 + exp(-x));
    if (act == ACT_GELU)
        return 0.5 * x * erfc(-x / sqrt(2));
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

static inline void pairs_expect(const RowsRun *run, int token, Expected *y) {
    const RowsCase *c = run->c;
    for (int64_t k = 0; k < c->width; k++) {
        double a = rows_in(run, 0, token, k), b = rows_in(run, 1, token, k);
        if (c->kind == OP_ACT_MUL)
            y[k] = (Expected){rows_activation(c->act, a) * b, fabs(a * b)};
        else
            y[k] = (Expected){a + (double)c->scale * b, fabs(a) + fabs((double)c->scale * b)};
    }
}

static inline void permute_expect(const RowsRun *run, int token, Expected *y) {
    const int32_t *order = rows_indices(run, run->op->permute.order);
    for (int64_t k = 0; k < run->c->out; k++)
        y[k].value = order[k] < 0 ? 0 : rows_in(run, 0, token, order[k]);
}

// The largest first, among equal ones the lower number. Logits that are none: any order will do,
// and the first numbers are what the kernel gives.
static inline void route_expect(const RowsRun *run, int token, Expected *y) {
    const RowsCase *c = run->c;
    double all = 0, chosen = 0;
    for (int64_t e = 0; e < c->width; e++)
        all += exp(rows_in(run, 0, token, e));
    for (int64_t j = 0; j < c->rows; j++) {
        int64_t best = -1;
        for (int64_t e = 0; e < c->width; e++) {
            bool taken = false;
            for (int64_t before = 0; before < j; before++)
                taken = taken || (int64_t)y[before].value == e;
            if (!taken && (best < 0 || rows_in(run, 0, token, e) > rows_in(run, 0, token, best)))
                best = e;
        }
        y[j].value = (double)best;
        y[c->rows + j].value = exp(rows_in(run, 0, token, best));
        chosen += y[c->rows + j].value;
    }
    for (int64_t j = c->rows; j < 2 * c->rows; j++) {
        y[j].value /= c->normalize ? chosen : all;
        y[j].size = 4 * y[j].value; // 2^x of the hardware
    }
}

static inline void gather_expect(const RowsRun *run, int token, Expected *y) {
    int32_t row = rows_index(run, token);
    for (int64_t k = 0; k < run->c->width; k++)
        y[k].value = row < 0 || row >= ROWS_LIMIT ? 0 : rows_in(run, 0, row, k);
}

static inline void rows_expect(const RowsRun *run, int token, Expected *y) {
    static void (*const expect[OP_COUNT])(const RowsRun *, int, Expected *) = {
        [OP_EMBED] = embed_expect,   [OP_NORM] = norm_expect,     [OP_ROPE] = rope_expect,
        [OP_ACT_MUL] = pairs_expect, [OP_ADD] = pairs_expect,     [OP_PERMUTE] = permute_expect,
        [OP_ROUTE] = route_expect,   [OP_GATHER] = gather_expect,
    };
    for (int64_t k = 0; k < rows_out_width(run->c); k++)
        y[k] = (Expected){0, 0};
    expect[run->c->kind](run, token, y);
}

// ---- checks -------------------------------------------------------------------------------------

// Bytes of the arena behind a run of `tokens` tokens.
static inline unsigned char *rows_run(RowsRun *run, StepLab *lab, int tokens, Arena *a) {
    lab_upload(lab, run->base[REGION_ARENA], run->arena, (size_t)run->arena_bytes);
    lab_phase_run(lab, &run->phase, run->first_kernel, run->base, tokens);
    unsigned char *found = arena_alloc(a, (size_t)run->arena_bytes);
    lab_download(lab, found, run->base[REGION_ARENA], (size_t)run->arena_bytes);
    return found;
}

static inline int64_t rows_out_bytes(const RowsRun *run, int tokens) {
    if (run->op->output < 0)
        return 0;
    return tokens * rows_out_width(run->c) * plan_value_elem(&run->plan, run->op->output);
}

static inline int64_t rows_out_offset(const RowsRun *run) {
    if (run->op->output < 0)
        return 0;
    return run->phase.buffers[run->phase.value_buffer[run->op->output]].offset;
}

// Is all but the output of `tokens` tokens as it was?
static inline bool rows_rest_is_untouched(const RowsRun *run, const unsigned char *found,
                                          int tokens) {
    int64_t at = rows_out_offset(run), end = at + rows_out_bytes(run, tokens);
    return memcmp(found, run->arena, (size_t)at) == 0 &&
           memcmp(found + end, run->arena + end, (size_t)(run->arena_bytes - end)) == 0;
}

// What is found, in units of what may be.
static inline double rows_share(const RowsRun *run, const unsigned char *out, int64_t at,
                                Expected y) {
    bool f32 = rows_out_type(run->c) == VALUE_F32, bf16 = run->c->bf16;
    bool exact = run->c->kind == OP_GATHER || run->c->kind == OP_PERMUTE;
    float got;
    memcpy(&got, out + at * 4 * f32, f32 ? 4 : 0);
    if (!f32) {
        uint16_t act;
        memcpy(&act, out + at * 2, 2);
        got = lab_act_value(act, bf16);
    }
    // half a unit in the last place, and of the smallest numbers of fp16
    double rounding = f32 ? 0x1p-23 : bf16 ? 0x1.02p-8 : 0x1.02p-11;
    double bound = rounding * fabs(y.value) + (f32 || bf16 ? 1e-30 : 0x1p-25);
    bound = exact ? 1e-30 : bound + 0x1p-20 * (y.size > 0 ? y.size : fabs(y.value));
    double share = fabs((double)got - y.value) / bound;
    return isnan(share) ? HUGE_VAL : share;
}

// Without a number among the logits there must still be different experts.
static inline bool rows_routes_are_valid(const RowsRun *run, const unsigned char *out, int token) {
    const RowsCase *c = run->c;
    float routes[1024];
    memcpy(routes, out + token * 2 * c->rows * 4, (size_t)c->rows * 4);
    for (int64_t j = 0; j < c->rows; j++) {
        if (!(routes[j] >= 0 && routes[j] < (float)c->width && routes[j] == rintf(routes[j])))
            return false;
        for (int64_t before = 0; before < j; before++)
            if (routes[before] == routes[j])
                return false;
    }
    return true;
}

static inline bool rows_compare(const RowsRun *run, const unsigned char *found, Arena *a) {
    const RowsCase *c = run->c;
    int64_t width = rows_out_width(c);
    const unsigned char *out = found + rows_out_offset(run);
    Expected *y = ARENA_NEW(a, Expected, width);
    double worst = 0;
    char where[120] = "";
    for (int token = 0; token < ROWS_TOKENS && run->op->output >= 0; token++) {
        if (c->kind == OP_ROUTE && token >= ROWS_BAD_LOGITS) {
            worst = rows_routes_are_valid(run, out, token) ? worst : HUGE_VAL;
            continue;
        }
        rows_expect(run, token, y);
        for (int64_t k = 0; k < width; k++) {
            double share = rows_share(run, out, token * width + k, y[k]);
            if (share > worst) {
                worst = share;
                snprintf(where, sizeof where, "token %d element %lld, expected %.7g", token,
                         (long long)k, y[k].value);
            }
        }
    }
    bool untouched = rows_rest_is_untouched(run, found, ROWS_TOKENS);
    bool good = worst <= 1 && untouched;
    printf("%-6s %-26s worst %.2f of its bound (%s)%s\n", good ? "ok" : "NOT OK", c->name, worst,
           where, untouched ? "" : "; wrote beside its output");
    return good;
}

// The whole cache, but for what rows without a sequence leave in page 0.
static inline bool rows_cache_is_right(const RowsRun *run, StepLab *lab, Arena *a) {
    const RowsCase *c = run->c;
    const ModelInfo *info = &run->plan.info;
    unsigned char *expected = arena_alloc(a, (size_t)run->kv_bytes + 1);
    unsigned char *found = arena_alloc(a, (size_t)run->kv_bytes + 1);
    memset(expected, 0xff, (size_t)run->kv_bytes);
    lab_download(lab, found, run->base[REGION_KV], (size_t)run->kv_bytes);
    for (int64_t at = 0; at < ROWS_TOKENS * 2 * c->rows * c->width; at++) {
        int64_t token = at / (2 * c->rows * c->width), which = at / (c->rows * c->width) % 2;
        int64_t head = at / c->width % c->rows, element = at % c->width;
        uint16_t act =
            lab_act((float)rows_in(run, (int)which, token, head * c->width + element), c->bf16);
        int64_t row = head * ROWS_PAGE + rows_positions[token] % ROWS_PAGE;
        int64_t place = row * c->width + (element ^ kv_lab_flip(c->width, rows_positions[token]));
        if (rows_slots[token] >= 0)
            memcpy(expected + (token + 1) * info->kv_page_bytes +
                       ROWS_LAYER * info->kv_layer_stride + which * info->kv_layer_stride / 2 +
                       place * 2,
                   &act, 2);
    }
    memcpy(expected + ROWS_LAYER * info->kv_layer_stride,
           found + ROWS_LAYER * info->kv_layer_stride, (size_t)info->kv_layer_stride);
    return memcmp(expected, found, (size_t)run->kv_bytes) == 0;
}

// The same bits in another order of threads, and for a token alone.
static inline bool rows_same_bits(RowsRun *run, StepLab *lab, const unsigned char *found,
                                  Arena *a) {
    lab->backwards = true;
    const unsigned char *again = rows_run(run, lab, ROWS_TOKENS, a);
    lab->backwards = false;
    const unsigned char *alone = rows_run(run, lab, 1, a);
    int64_t at = rows_out_offset(run);
    return memcmp(found, again, (size_t)run->arena_bytes) == 0 &&
           rows_rest_is_untouched(run, alone, 1) &&
           memcmp(found + at, alone + at, (size_t)rows_out_bytes(run, 1)) == 0;
}

static inline bool rows_check(RowsRun *run, StepLab *lab) {
    const BatchLayout *b = &run->plan.batch;
    Arena scratch = {0};
    rows_fill_inputs(run, &scratch);
    rows_fill_batch(run, &scratch);
    run->base[REGION_WEIGHTS] = lab_weights(lab, &run->graph, run->weights_bytes);
    run->base[REGION_ARENA] = lab_alloc(lab, (size_t)run->arena_bytes);
    run->base[REGION_KV] = lab_alloc(lab, (size_t)run->kv_bytes + 256);
    run->base[REGION_BATCH] = lab_alloc(lab, (size_t)b->bytes);
    lab_fill(lab, run->base[REGION_KV], 0xff, (size_t)run->kv_bytes + 256);
    lab_upload(lab, run->base[REGION_BATCH], run->batch, (size_t)b->bytes);
    const unsigned char *found = rows_run(run, lab, ROWS_TOKENS, &scratch);
    bool good = rows_compare(run, found, &scratch);
    if (run->c->kind == OP_KV_APPEND && !rows_cache_is_right(run, lab, &scratch)) {
        printf("NOT OK %s: the cache is wrong\n", run->c->name);
        good = false;
    }
    if (!rows_same_bits(run, lab, found, &scratch)) {
        printf("NOT OK %s: other bits in another run or batch\n", run->c->name);
        good = false;
    }
    for (int region = 0; region < REGION_COUNT; region++)
        lab_release(lab, run->base[region]);
    arena_free(&scratch);
    return good;
}

#endif

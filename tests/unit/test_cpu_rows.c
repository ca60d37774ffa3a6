// The CPU kernels on rows and heads: embed, norm, permute, act_mul, add, gather, route, rope,
// kv_append. Same path and same demands as in test_cpu_linear.c; any number of threads gives the
// same bits. Attention: test_cpu_attention.c; plain C: test_cpu_rows_generic.c.
#include "cpu_lab.h"

typedef struct RowsCase {
    const char *name;
    OpKind kind;
    int64_t width;        // of the input; of a head
    int64_t rows;         // of the table; rows of a token that are normed; heads; chosen experts
    int64_t out;          // norm and permute: width of an ordered output; rope: pairs
    float scale;          // embed, add; rope: factor
    bool bf16, normalize; // embed; route
    Activation act;
} RowsCase;

// clang-format off
static const RowsCase rows_cases[] = {
    {.name = "embed", .kind = OP_EMBED, .width = 384, .rows = 100, .scale = 1},
    {.name = "embed, ragged", .kind = OP_EMBED, .width = 200, .rows = 37, .scale = 1},
    {.name = "embed, scaled, bf16", .kind = OP_EMBED, .width = 203, .rows = 37, .scale = 14.25f,
     .bf16 = true},
    {.name = "norm", .kind = OP_NORM, .width = 384, .rows = 1},
    {.name = "norm, ragged", .kind = OP_NORM, .width = 203, .rows = 1},
    {.name = "norm of 4 heads of 64", .kind = OP_NORM, .width = 64, .rows = 4},
    {.name = "norm of 3 heads of 40", .kind = OP_NORM, .width = 40, .rows = 3},
    {.name = "norm, ordered", .kind = OP_NORM, .width = 70, .rows = 1, .out = 93},
    {.name = "permute", .kind = OP_PERMUTE, .width = 96, .out = 130},
    {.name = "permute, narrower", .kind = OP_PERMUTE, .width = 96, .out = 33},
    {.name = "act_mul, silu", .kind = OP_ACT_MUL, .width = 203, .act = ACT_SILU},
    {.name = "act_mul, gelu by tanh", .kind = OP_ACT_MUL, .width = 64, .act = ACT_GELU_TANH},
    {.name = "act_mul, gelu", .kind = OP_ACT_MUL, .width = 101, .act = ACT_GELU},
    {.name = "add", .kind = OP_ADD, .width = 203, .scale = 1},
    {.name = "add, scaled", .kind = OP_ADD, .width = 67, .scale = 0.22f},
    {.name = "gather", .kind = OP_GATHER, .width = 70},
    {.name = "route to 2 of 8", .kind = OP_ROUTE, .width = 8, .rows = 2, .normalize = true},
    {.name = "route to 4 of 60", .kind = OP_ROUTE, .width = 60, .rows = 4},
    {.name = "route to 8 of 129", .kind = OP_ROUTE, .width = 129, .rows = 8, .normalize = true},
    {.name = "rope, 3 heads of 64", .kind = OP_ROPE, .width = 64, .rows = 3, .out = 32, .scale = 1},
    {.name = "rope, 20 of 80", .kind = OP_ROPE, .width = 80, .rows = 2, .out = 10, .scale = 1.19f},
    {.name = "rope, 5 heads of 96", .kind = OP_ROPE, .width = 96, .rows = 5, .out = 48, .scale = 1},
    {.name = "kv_append, 4 heads of 64", .kind = OP_KV_APPEND, .width = 64, .rows = 4},
    {.name = "kv_append, 3 heads of 80", .kind = OP_KV_APPEND, .width = 80, .rows = 3},
    {.name = "kv_append, 1 head of 256", .kind = OP_KV_APPEND, .width = 256, .rows = 1},
};
// clang-format on

enum { ROWS_COUNT = sizeof rows_cases / sizeof *rows_cases, ROW_MAX = 512 };

static const int32_t rows_tokens[] = {1, 2, 5, 33, 64, 129, 300};

static int64_t in_width(const RowsCase *c) {
    const bool several = c->kind == OP_NORM || c->kind == OP_ROPE || c->kind == OP_KV_APPEND;
    return several ? c->width * c->rows : c->width;
}

static int64_t out_width(const RowsCase *c) {
    if (c->kind == OP_ROUTE)
        return 2 * c->rows;
    return c->out > 0 && c->kind != OP_ROPE ? c->out : in_width(c);
}

// Some repeated, some missing.
static int order_add(Lab *lab, int64_t out, int64_t in) {
    int32_t *order = ARENA_NEW(&lab->arena, int32_t, out);
    for (int64_t k = 0; k < out; k++)
        order[k] = k % 13 == 7 ? -1 : (int32_t)(k * 29 % in);
    return graph_index(&lab->graph, "order", order, out);
}

static void params_add(Lab *lab, const RowsCase *c, Op *op) {
    if (c->kind == OP_EMBED) {
        op->embed.table = packed_add(lab, c->name, 16, 0, c->rows, c->width);
        lab->graph.packed[op->embed.table].bf16 = c->bf16;
        op->embed.scale = c->scale;
    } else if (c->kind == OP_NORM) {
        op->norm.width = c->width;
        op->norm.eps = 1e-6f;
        op->norm.weight = vector_add(lab, "norm", c->out > 0 ? c->out : c->width, 1, 0.3f);
        if (c->out > 0)
            op->norm.order = order_add(lab, c->out, c->width);
    } else if (c->kind == OP_PERMUTE) {
        op->permute.order = order_add(lab, c->out, c->width);
    } else if (c->kind == OP_ACT_MUL) {
        op->act_mul.act = c->act;
    } else if (c->kind == OP_ADD) {
        op->add.scale = c->scale;
    } else if (c->kind == OP_ROUTE) {
        op->route.experts = c->width;
        op->route.top_k = c->rows;
        op->route.normalize = c->normalize;
    } else if (c->kind == OP_ROPE) {
        op->rope.heads = c->rows;
        op->rope.head_dim = c->width;
        op->rope.inv_freq = vector_add(lab, "frequencies", c->out, 0.2f, 0.3f);
        op->rope.factor = c->scale;
    } else if (c->kind == OP_KV_APPEND) {
        op->kv_append.kv_heads = c->rows;
        op->kv_append.head_dim = c->width;
    }
}

static void rows_add(Lab *lab, int index) {
    const RowsCase *c = &rows_cases[index];
    int inputs[2] = {-1, -1}, out = -1;
    const bool two = c->kind == OP_ACT_MUL || c->kind == OP_ADD || c->kind == OP_KV_APPEND;
    for (int at = 0; at < (c->kind == OP_EMBED ? 0 : two ? 2 : 1); at++)
        inputs[at] = input_add(lab, "in", in_width(c));
    if (c->kind != OP_KV_APPEND)
        out = graph_value(&lab->graph, "out", VALUE_F32, out_width(c));
    Op *op = case_add(lab, c->kind);
    op->inputs[0] = inputs[0];
    op->inputs[1] = inputs[1];
    op->output = out;
    params_add(lab, c, op);
}

// ---- what is expected of one row ----------------------------------------------------------------

typedef struct Row {
    const Lab *lab;
    const RowsCase *c;
    const Op *op;
    int64_t token;
} Row;

static double in_at(const Row *r, int input, int64_t k) {
    return (double)input_at(r->token + 1000 * input, k);
}

static void embed_expect(const Row *r, Bounded *y) {
    const PackedTensor *t = &r->lab->graph.packed[r->op->embed.table];
    const int32_t id = batch_ints(r->lab, r->lab->plans[0].batch.token_ids)[r->token];
    for (int64_t k = 0; k < r->c->width; k++) {
        const double value = weight_at(r->lab, t, id < 0 ? 0 : id, k) * (double)r->c->scale;
        y[k] = (Bounded){value, r->c->scale == 1 ? 1e-30 : 1e-7 * fabs(value) + 1e-30};
    }
}

static const int32_t *order_of(const Row *r, int packed) {
    return packed < 0 ? NULL : r->lab->graph.packed[packed].indices;
}

static void norm_expect(const Row *r, Bounded *y) {
    const RowsCase *c = r->c;
    const int32_t *order = order_of(r, r->op->norm.order);
    const float *weight = r->lab->graph.packed[r->op->norm.weight].values;
    const int64_t outs = c->out > 0 ? c->out : c->width;
    for (int64_t row = 0; row < c->rows; row++) {
        double square = 0;
        for (int64_t k = 0; k < c->width; k++)
            square += in_at(r, 0, row * c->width + k) * in_at(r, 0, row * c->width + k);
        const double root = sqrt(square / (double)c->width + (double)r->op->norm.eps);
        for (int64_t i = 0; i < outs; i++) {
            const int64_t k = order ? order[i] : row * c->width + i;
            const double value = k < 0 ? 0 : in_at(r, 0, k) / root * (double)weight[i];
            y[row * outs + i] = (Bounded){value, 1e-6 * fabs(value) + 1e-30};
        }
    }
}

static void permute_expect(const Row *r, Bounded *y) {
    const int32_t *order = order_of(r, r->op->permute.order);
    for (int64_t k = 0; k < r->c->out; k++)
        y[k] = (Bounded){order[k] < 0 ? 0 : in_at(r, 0, order[k]), 1e-30};
}

static void act_mul_expect(const Row *r, Bounded *y) {
    for (int64_t k = 0; k < r->c->width; k++) {
        const double x = in_at(r, 0, k), up = in_at(r, 1, k);
        const double u = sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x);
        const double value = r->c->act == ACT_SILU   ? x / (1 + exp(-x))
                             : r->c->act == ACT_GELU ? 0.5 * x * erfc(-x / sqrt(2))
                                                     : 0.5 * x * (1 + tanh(u));
        // e^-2u makes the rounding of u a relative error
        const double relative = 6e-7 + (r->c->act == ACT_GELU_TANH ? 1.5e-7 * fabs(2 * u) : 0);
        y[k] = (Bounded){value * up, relative * fabs(value * up) + 1e-10 * fabs(up) + 1e-30};
    }
}

static void add_expect(const Row *r, Bounded *y) {
    for (int64_t k = 0; k < r->c->width; k++) {
        const double a = in_at(r, 0, k), b = in_at(r, 1, k) * (double)r->c->scale;
        y[k] = (Bounded){a + b, 1.3e-7 * (fabs(a) + fabs(b)) + 1e-30};
    }
}

static void gather_expect(const Row *r, Bounded *y) {
    const int32_t from = batch_ints(r->lab, r->lab->plans[0].batch.head_rows)[r->token];
    for (int64_t k = 0; k < r->c->width; k++)
        y[k] = (Bounded){(double)input_at(from, k), 1e-30};
}

static void route_expect(const Row *r, Bounded *y) {
    const int64_t experts = r->c->width, top_k = r->c->rows;
    bool taken[ROW_MAX] = {false};
    double total = 0, chosen = 0;
    for (int64_t e = 0; e < experts; e++)
        total += exp(in_at(r, 0, e));
    for (int64_t j = 0; j < top_k; j++) {
        int64_t best = -1;
        for (int64_t e = 0; e < experts; e++)
            if (!taken[e] && (best < 0 || in_at(r, 0, e) > in_at(r, 0, best)))
                best = e;
        taken[best] = true;
        y[j] = (Bounded){(double)best, 1e-30};
        y[top_k + j].value = exp(in_at(r, 0, best)) / total;
        chosen += y[top_k + j].value;
    }
    for (int64_t j = top_k; j < 2 * top_k; j++) {
        y[j].value /= r->c->normalize ? chosen : 1;
        y[j].bound = 3e-6 * y[j].value + 1e-30; // differences of logits are rounded
    }
}

static void rope_expect(const Row *r, Bounded *y) {
    const float *inv_freq = r->lab->graph.packed[r->op->rope.inv_freq].values;
    const int32_t position = batch_ints(r->lab, r->lab->plans[0].batch.positions)[r->token];
    const int64_t pairs = r->c->out;
    for (int64_t at = 0; at < in_width(r->c); at++)
        y[at] = (Bounded){in_at(r, 0, at), 1e-30};
    for (int64_t head = 0; head < r->c->rows; head++)
        for (int64_t i = 0; i < pairs; i++) {
            const double angle = (double)((float)position * inv_freq[i]);
            const double c = cos(angle) * (double)r->c->scale, s = sin(angle) * (double)r->c->scale;
            Bounded *low = y + head * r->c->width + i, *high = low + pairs;
            const double a = low->value, b = high->value;
            const double bound = 3e-7 * (fabs(a) + fabs(b)) + 1e-30;
            *low = (Bounded){a * c - b * s, bound};
            *high = (Bounded){b * c + a * s, bound};
        }
}

static void (*const expect[OP_COUNT])(const Row *r, Bounded *y) = {
    [OP_EMBED] = embed_expect,   [OP_NORM] = norm_expect,       [OP_ROPE] = rope_expect,
    [OP_GATHER] = gather_expect, [OP_PERMUTE] = permute_expect, [OP_ACT_MUL] = act_mul_expect,
    [OP_ADD] = add_expect,       [OP_ROUTE] = route_expect,
};

// ---- running ------------------------------------------------------------------------------------

static void batch_rows(Lab *lab, const RowsCase *c, int32_t tokens) {
    const BatchLayout *b = &lab->plans[0].batch;
    batch_fill(lab, tokens, 0);
    for (int32_t at = 0; at < tokens; at++) {
        batch_ints(lab, b->head_rows)[at] = (tokens - 1 - at) * 3 % tokens;
        if (c->kind == OP_EMBED)
            batch_ints(lab, b->token_ids)[at] = at % 17 == 16 ? -1 : at * 7 % (int32_t)c->rows;
        if (c->kind == OP_ROPE)
            batch_ints(lab, b->positions)[at] = at * 4099 % 1000000;
    }
}

// Writes what kv_append is to write into a copy of the cache as it was, and compares; page 0, where
// rows without a sequence write, may hold anything.
static void cache_check(Lab *lab, const RowsCase *c, int32_t tokens) {
    const BatchLayout *b = &lab->plans[0].batch;
    const bool bf16 = lab->kv_dtype == DTYPE_BF16;
    for (int32_t token = 0; token < tokens; token++) {
        const int32_t slot = batch_ints(lab, b->slots)[token];
        const int32_t position = batch_ints(lab, b->positions)[token];
        for (int64_t at = 0; slot >= 0 && at < 2 * c->rows * c->width; at++) {
            const int which = at >= c->rows * c->width;
            const int64_t k = at % (c->rows * c->width);
            const float x = input_at(token + 1000 * which, k);
            const uint16_t bits = bf16 ? bfloat_from_float(x) : half_from_float(x);
            memcpy(lab->kv_before + 2 * (k % c->width) +
                       kv_place(lab, which, slot, position, k / c->width, c->width),
                   &bits, sizeof bits);
        }
    }
    assert_memory_equal(lab->kv + KV_LAYER_STRIDE, lab->kv_before + KV_LAYER_STRIDE,
                        (size_t)lab->kv_bytes - KV_LAYER_STRIDE);
}

static void rows_check(const Lab *lab, int level, int index, int32_t tokens, Worst *worst) {
    const RowsCase *c = &rows_cases[index];
    const Op *op = &lab->graph.ops[lab->ops[index]];
    const float *out = value_memory(lab, level, index, op->output);
    Bounded y[ROW_MAX];
    for (int32_t token = 0; token < tokens; token++) {
        expect[c->kind](&(Row){lab, c, op, token}, y);
        for (int64_t at = 0; at < out_width(c); at++)
            compare(worst, c->name, token, at, (double)out[token * out_width(c) + at], y[at]);
    }
    guard_check(lab, level, index, op->output, tokens);
}

static void rows_case_check(Lab *lab, int level, int index) {
    const RowsCase *c = &rows_cases[index];
    const Op *op = &lab->graph.ops[lab->ops[index]];
    const size_t row_bytes = (size_t)out_width(c) * sizeof(float);
    float *first = malloc(MAX_TOKENS * row_bytes);
    Worst worst = {0};
    for (size_t count = 0; count < sizeof rows_tokens / sizeof *rows_tokens; count++)
        for (int32_t threads = 1; threads <= 4; threads++) {
            const int32_t tokens = rows_tokens[count];
            batch_rows(lab, c, tokens);
            memset(lab->kv, GUARD, (size_t)lab->kv_bytes);
            memset(lab->kv_before, GUARD, (size_t)lab->kv_bytes);
            case_run(lab, level, index, tokens, threads, 0);
            if (c->kind == OP_KV_APPEND) {
                cache_check(lab, c, tokens);
                continue;
            }
            const float *out = value_memory(lab, level, index, op->output);
            if (threads == 1)
                memcpy(first, out, (size_t)tokens * row_bytes);
            else
                assert_memory_equal(out, first, (size_t)tokens * row_bytes);
            rows_check(lab, level, index, tokens, &worst);
        }
    free(first);
    print_message("  %-40s worst %.2f of the bound\n", c->name, worst.ratio);
}

// ---- the tests ----------------------------------------------------------------------------------

static int lab_open_with(void **state, ModelDType kv_dtype) {
    Lab *lab = lab_new();
    lab->kv_dtype = kv_dtype;
    for (int at = 0; at < ROWS_COUNT; at++)
        rows_add(lab, at);
    lab_start(lab);
    *state = lab;
    return 0;
}

static int lab_open(void **state) {
    return lab_open_with(state, DTYPE_FP16);
}

static int lab_open_bf16(void **state) {
    return lab_open_with(state, DTYPE_BF16);
}

static void append_check(Lab *lab, int level, int index) {
    if (rows_cases[index].kind == OP_KV_APPEND)
        rows_case_check(lab, level, index);
}

static void test_v3(void **state) {
    level_check(*state, 0, rows_case_check);
}

static void test_v4_vnni(void **state) {
    level_check(*state, 1, rows_case_check);
}

static void test_v3_bf16_cache(void **state) {
    level_check(*state, 0, append_check);
}

static void test_v4_vnni_bf16_cache(void **state) {
    level_check(*state, 1, append_check);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v3),
        cmocka_unit_test(test_v4_vnni),
    };
    const struct CMUnitTest bf16_tests[] = {
        cmocka_unit_test(test_v3_bf16_cache),
        cmocka_unit_test(test_v4_vnni_bf16_cache),
    };
    return cmocka_run_group_tests(tests, lab_open, lab_close) +
           cmocka_run_group_tests(bf16_tests, lab_open_bf16, lab_close);
}

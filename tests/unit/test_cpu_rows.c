// The CPU kernels besides the linear one: attention, embedding, norm, gather. Same path and same
// demands as in test_cpu_linear.c.
#include "cpu_lab.h"

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
    ATTENTION_COUNT = sizeof attention_cases / sizeof *attention_cases,
    ROWS_COUNT = sizeof rows_cases / sizeof *rows_cases,
};

static void attention_add(Lab *lab, int index) {
    const AttentionCase *c = &attention_cases[index];
    const int q = input_add(lab, "q", c->heads * c->head_dim);
    const int out = graph_value(&lab->graph, "out", VALUE_F32, c->heads * c->head_dim);
    Op *op = case_add(lab, OP_ATTENTION);
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
    Op *op = case_add(lab, c->kind);
    op->inputs[0] = in;
    op->output = out;
    if (c->kind == OP_EMBED)
        op->embed.table = packed;
    if (c->kind == OP_NORM) {
        op->norm.weight = packed;
        op->norm.eps = 1e-6f;
    }
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
    const AttentionCase *c = &attention_cases[index];
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
    print_message("  %-40s worst %.2f of the bound\n", attention_cases[index].name, worst.ratio);
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
    const RowsCase *c = &rows_cases[index - ATTENTION_COUNT];
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

static int lab_open(void **state) {
    Lab *lab = lab_new();
    for (int at = 0; at < ATTENTION_COUNT; at++)
        attention_add(lab, at);
    for (int at = 0; at < ROWS_COUNT; at++)
        rows_add(lab, at);
    lab_start(lab);
    *state = lab;
    return 0;
}

static void case_check(Lab *lab, int level, int index) {
    if (index < ATTENTION_COUNT)
        attention_case_check(lab, level, index);
    else
        rows_case_check(lab, level, index);
}

static void test_v3(void **state) {
    level_check(*state, 0, case_check);
}

static void test_v4_vnni(void **state) {
    level_check(*state, 1, case_check);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v3),
        cmocka_unit_test(test_v4_vnni),
    };
    return cmocka_run_group_tests(tests, lab_open, lab_close);
}

// The CPU attention kernel on both levels, with caches of fp16 and bf16: shapes of heads, windows,
// softcap, places; rows of one sequence and of many; cut rows in decode. Same path and same demands
// as in test_cpu_linear.c. Plain C: test_cpu_rows_generic.c.
#include "cpu_lab.h"

typedef struct AttentionCase {
    const char *name;
    int64_t heads, kv_heads, head_dim, window;
    float softcap;
    bool places;
} AttentionCase;

// Phase number = case number, so case PHASE_DECODE is planned as in decode, where rows are cut.
// clang-format off
static const AttentionCase attention_cases[] = {
    // name                              heads kv dim window cap places
    {"6 of 2, head 64",                      6, 2, 64,   0,  0, false},
    {"4 of 4, head 32, places",              4, 4, 32,   0,  0, true},
    {"6 of 2, head 80, window 300, places",  6, 2, 80,  300, 0, true},
    {"7 of 1, head 128",                     7, 1, 128,  0,  0, false},
    {"40 of 1, head 96",                    40, 1, 96,   0,  0, false},
    {"4 of 2, head 112, window 20, cap 5",   4, 2, 112, 20,  5, false},
    {"3 of 1, head 256",                     3, 1, 256,  0,  0, false},
    {"2 of 2, head 40, cap 30, places",      2, 2, 40,   0, 30, true},
    {"5 of 1, head 8, window 33",            5, 1, 8,   33,  0, false},
    {"8 of 4, head 72, window 1",            8, 4, 72,   1,  0, false},
};
// clang-format on

enum { ATTENTION_COUNT = sizeof attention_cases / sizeof *attention_cases };

// Neighbours change places with a bf16 cache, so that two cases are planned as in decode.
static const AttentionCase *case_of(const Lab *lab, int index) {
    return &attention_cases[lab->kv_dtype == DTYPE_BF16 ? index ^ 1 : index];
}

static int64_t width_of(const AttentionCase *c) {
    return c->heads * c->head_dim;
}

static int32_t place_of(const AttentionCase *c, int64_t at) {
    const int64_t width = width_of(c); // 7 is prime to every width with places here
    return (int32_t)(c->places ? (at * 7 + 3) % width : at);
}

static void attention_add(Lab *lab, int index) {
    const AttentionCase *c = case_of(lab, index);
    const int q = input_add(lab, "q", width_of(c));
    const int out = graph_value(&lab->graph, "out", VALUE_F32, width_of(c));
    Op *op = case_add(lab, OP_ATTENTION);
    op->inputs[0] = q;
    op->output = out;
    op->attention.heads = c->heads;
    op->attention.kv_heads = c->kv_heads;
    op->attention.head_dim = c->head_dim;
    op->attention.scale = 0.3f;
    op->attention.softcap = c->softcap;
    op->attention.window = c->window;
    if (!c->places)
        return;
    int32_t *places = ARENA_NEW(&lab->arena, int32_t, width_of(c));
    for (int64_t at = 0; at < width_of(c); at++)
        places[at] = place_of(c, at);
    op->attention.places = graph_index(&lab->graph, "places", places, width_of(c));
}

// ---- the cache ----------------------------------------------------------------------------------

static float element(const Lab *lab, const unsigned char *at) {
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    return lab->kv_dtype == DTYPE_BF16 ? bfloat_to_float(bits) : half_to_float(bits);
}

// Fills the caches of all slots with numbers, and with NaN where a position is not to be read.
static void kv_fill(Lab *lab, const AttentionCase *c, const int32_t *lengths) {
    memset(lab->kv, 0xff, (size_t)lab->kv_bytes);
    for (int32_t slot = 0; slot < SLOTS; slot++)
        for (int32_t position = 0; position < lengths[slot]; position++)
            for (int64_t at = 0; at < 2 * c->kv_heads * c->head_dim; at++) {
                const int which = at >= c->kv_heads * c->head_dim;
                const int64_t e = at % (c->kv_heads * c->head_dim);
                const float x =
                    normal((uint32_t)(slot * 2 + which), (uint32_t)position, (uint32_t)e);
                const uint16_t bits =
                    lab->kv_dtype == DTYPE_BF16 ? bfloat_from_float(x) : half_from_float(x);
                memcpy(lab->kv + 2 * (e % c->head_dim) +
                           kv_place(lab, which, slot, position, e / c->head_dim, c->head_dim),
                       &bits, sizeof bits);
            }
}

// ---- what is expected ---------------------------------------------------------------------------

// Softmax weights of a head's keys [first, position].
static void weights_expect(const Lab *lab, const AttentionCase *c, int64_t token, int64_t head,
                           int32_t slot, int32_t first, int32_t position, double *weight) {
    const int64_t kv_head = head / (c->heads / c->kv_heads);
    double largest = -1e300, total = 0, q[256];
    for (int64_t e = 0; e < c->head_dim; e++)
        q[e] = (double)input_at(token, head * c->head_dim + e);
    for (int32_t p = first; p <= position; p++) {
        const unsigned char *key = lab->kv + kv_place(lab, 0, slot, p, kv_head, c->head_dim);
        weight[p] = 0;
        for (int64_t e = 0; e < c->head_dim; e++)
            weight[p] += q[e] * (double)element(lab, key + 2 * e) * 0.3;
        if (c->softcap > 0)
            weight[p] = (double)c->softcap * tanh(weight[p] / (double)c->softcap);
        largest = fmax(largest, weight[p]);
    }
    for (int32_t p = first; p <= position; p++)
        total += weight[p] = exp(weight[p] - largest);
    for (int32_t p = first; p <= position; p++)
        weight[p] /= total;
}

static void row_check(const Lab *lab, Worst *worst, const AttentionCase *c, int64_t token,
                      int32_t slot, int32_t position, const float *out) {
    double weight[PAGE * PAGES_PER_SEQ];
    const int32_t window = (int32_t)c->window;
    const int32_t first = window && position >= window ? position - window + 1 : 0;
    for (int64_t head = 0; head < c->heads; head++) {
        weights_expect(lab, c, token, head, slot, first, position, weight);
        for (int64_t e = 0; e < c->head_dim; e++) {
            const int64_t to = place_of(c, head * c->head_dim + e);
            Bounded y = {0, 1e-6};
            for (int32_t p = first; p <= position; p++) {
                const int64_t kv_head = head / (c->heads / c->kv_heads);
                const int64_t from = kv_place(lab, 1, slot, p, kv_head, c->head_dim) + 2 * e;
                const double v = (double)element(lab, lab->kv + from);
                y.value += weight[p] * v;
                y.bound += 5e-5 * weight[p] * fabs(v);
            }
            compare(worst, c->name, token, to, (double)out[to], y);
        }
    }
}

// ---- running ------------------------------------------------------------------------------------

// Rows of one sequence after each other (prefill), or one row of each (decode).
typedef struct AttentionBatch {
    int32_t tokens;
    int32_t start; // position of the first row
    bool decode;
} AttentionBatch;

static void batch_rows(Lab *lab, const AttentionCase *c, const AttentionBatch *b) {
    const BatchLayout *layout = &lab->plans[0].batch;
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
}

// The same row alone has the same bits.
static void row_alone(Lab *lab, int level, int index, int32_t at, const float *expected) {
    const Op *op = &lab->graph.ops[lab->ops[index]];
    int32_t *slots = batch_ints(lab, lab->plans[0].batch.slots);
    int32_t *positions = batch_ints(lab, lab->plans[0].batch.positions);
    const int32_t kept[2] = {slots[0], positions[0]};
    slots[0] = slots[at];
    positions[0] = positions[at];
    case_run(lab, level, index, 1, 2, at);
    assert_memory_equal(value_memory(lab, level, index, op->output), expected,
                        (size_t)width_of(case_of(lab, index)) * sizeof(float));
    slots[0] = kept[0];
    positions[0] = kept[1];
}

static void batch_run(Lab *lab, int level, int index, const AttentionBatch *b, Worst *worst) {
    const AttentionCase *c = case_of(lab, index);
    const Op *op = &lab->graph.ops[lab->ops[index]];
    const size_t bytes = (size_t)(b->tokens * width_of(c)) * sizeof(float);
    float *all = malloc(bytes);
    batch_rows(lab, c, b);
    for (int32_t threads = 1; threads <= 4; threads++) {
        case_run(lab, level, index, b->tokens, threads, 0);
        const float *out = value_memory(lab, level, index, op->output);
        if (threads == 1)
            memcpy(all, out, bytes);
        assert_memory_equal(out, all, bytes);
        guard_check(lab, level, index, op->output, b->tokens);
    }
    assert_memory_equal(lab->kv, lab->kv_before, (size_t)lab->kv_bytes);
    for (int32_t at = 0; at < b->tokens; at += at < 4 ? 1 : 41) {
        const float *out = all + at * width_of(c);
        const int32_t slot = batch_ints(lab, lab->plans[0].batch.slots)[at];
        for (int64_t e = 0; slot < 0 && e < width_of(c); e++)
            assert_true(out[e] == 0);
        if (slot < 0)
            continue;
        row_check(lab, worst, c, at, slot, batch_ints(lab, lab->plans[0].batch.positions)[at], out);
        row_alone(lab, level, index, at, out);
    }
    free(all);
}

static void attention_case_check(Lab *lab, int level, int index) {
    static const AttentionBatch batches[] = {
        {1, 0, false},    {3, 0, false}, {17, 0, false}, {64, 30, false}, {129, 3, false},
        {300, 80, false}, {1, 31, true}, {2, 32, true},  {8, 340, true},
    };
    Worst worst = {0};
    for (size_t at = 0; at < sizeof batches / sizeof *batches; at++)
        batch_run(lab, level, index, &batches[at], &worst);
    print_message("  %-40s worst %.2f of the bound\n", case_of(lab, index)->name, worst.ratio);
}

// ---- the tests ----------------------------------------------------------------------------------

static int lab_open_with(void **state, ModelDType kv_dtype) {
    Lab *lab = lab_new();
    lab->kv_dtype = kv_dtype;
    for (int at = 0; at < ATTENTION_COUNT; at++)
        attention_add(lab, at);
    lab_start(lab);
    const PhasePlan *phase = &lab->plans[0].phases[PHASE_DECODE];
    assert_int_equal(phase->step_count, 2); // a step that merges
    *state = lab;
    return 0;
}

static int lab_open(void **state) {
    return lab_open_with(state, DTYPE_FP16);
}

static int lab_open_bf16(void **state) {
    return lab_open_with(state, DTYPE_BF16);
}

static void test_v3(void **state) {
    level_check(*state, 0, attention_case_check);
}

static void test_v4_vnni(void **state) {
    level_check(*state, 1, attention_case_check);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_v3),
        cmocka_unit_test(test_v4_vnni),
    };
    return cmocka_run_group_tests(tests, lab_open, lab_close) +
           cmocka_run_group_tests(tests, lab_open_bf16, lab_close);
}

// Fusion: every graph computes the same before and after, whatever of it can be fused; what must
// stay apart stays apart; no weight is lost or stored twice.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#undef fail // ours is a function

#include <math.h>
#include <stdlib.h>

#include "tests/unit/tiny_graph.h"

enum { TOKENS = 9, MAX_SEQ = 16 };

static void spec_same(TinySpec *s) {
    (void)s;
}

static void spec_plain_weights(TinySpec *s) {
    for (int at = 0; at < TINY_LINEARS; at++)
        s->bits[at] = 16;
    s->bias = false;
}

static void spec_q_bits(TinySpec *s) {
    s->bits[TINY_Q] = 8;
}

static void spec_v_group(TinySpec *s) {
    s->group[TINY_V] = 64;
}

static void spec_up_bits(TinySpec *s) {
    s->bits[TINY_UP] = 4;
}

static void spec_gate_group(TinySpec *s) {
    s->group[TINY_GATE] = 32;
}

// One group over all and groups of 256 are stored like groups of 128.
static void spec_equal_stored(TinySpec *s) {
    s->group[TINY_K] = 256;
    s->group[TINY_V] = -1;
}

static void spec_odd_heads(TinySpec *s) {
    s->head_dim = s->rotary = 24;
}

static void spec_partial_rotary(TinySpec *s) {
    s->rotary = 16;
}

static void spec_odd_intermediate(TinySpec *s) {
    s->intermediate = 36;
}

static void spec_parallel_late(TinySpec *s) {
    s->mlp = MLP_PARALLEL_LATE;
}

static void spec_parallel_early(TinySpec *s) {
    s->mlp = MLP_PARALLEL_EARLY;
}

static void spec_act_order(TinySpec *s) {
    for (int at = 0; at < TINY_DOWN; at++)
        s->act_order[at] = true;
    s->group[TINY_K] = s->group[TINY_Q] = s->group[TINY_V] = 64;
    s->bits[TINY_DOWN] = 4;
    s->group[TINY_DOWN] = 16;
    s->act_order[TINY_DOWN] = true;
}

static void spec_order_of_v(TinySpec *s) {
    s->act_order[TINY_V] = true;
}

static void spec_order_of_down(TinySpec *s) {
    s->bits[TINY_DOWN] = 4;
    s->group[TINY_DOWN] = 32;
    s->act_order[TINY_DOWN] = true;
}

// How many of 2 layers keep what is separate in the unfused graph.
typedef struct Expect {
    const char *name;
    void (*change)(TinySpec *);
    int ropes, act_muls, adds, norms, linears;
} Expect;

// clang-format off
static const Expect expects[] = {
    //                                        rope  act_mul  add  norm  linear (with the head)
    {"everything fuses",  spec_same,             0,  0,       0,   0,    4 * 2 + 1},
    {"no quantization",   spec_plain_weights,    0,  0,       0,   0,    4 * 2 + 1},
    {"bits of q",         spec_q_bits,           4,  0,       0,   2,    6 * 2 + 1},
    {"group of v",        spec_v_group,          0,  0,       0,   0,    4 * 2 + 1},
    {"bits of up",        spec_up_bits,          0,  2,       0,   2,    5 * 2 + 1},
    {"group of gate",     spec_gate_group,       0,  0,       0,   0,    4 * 2 + 1},
    {"equal when stored", spec_equal_stored,     0,  0,       0,   0,    4 * 2 + 1},
    {"heads of 24",       spec_odd_heads,        4,  0,       0,   2,    6 * 2 + 1},
    {"half of a head",    spec_partial_rotary,   4,  0,       0,   2,    6 * 2 + 1},
    {"odd intermediate",  spec_odd_intermediate, 0,  2,       0,   2,    5 * 2 + 1},
    // the residual is read after the first addition, which so cannot happen in place
    {"parallel, late",    spec_parallel_late,    0,  0,       2,   0,    4 * 2 + 1},
    {"act-order",         spec_act_order,        0,  0,       0,   0,    4 * 2 + 1},
    {"order of v",        spec_order_of_v,       4,  0,       0,   2,    6 * 2 + 1},
    {"order of down",     spec_order_of_down,    0,  0,       0,   0,    4 * 2 + 1},
    // it can here, but then the norm must stay where it is
    {"parallel, early",   spec_parallel_early,   0,  0,       0,   2,    4 * 2 + 1},
};
// clang-format on

static int ops_count(const Graph *g, OpKind kind) {
    int count = 0;
    for (int at = 0; at < g->op_count; at++)
        count += g->ops[at].kind == kind;
    return count;
}

// Stored weights of all linears, padding excluded; each tensor once.
static int64_t weights_count(const Graph *g) {
    int64_t count = 0;
    for (int at = 0; at < g->packed_count; at++)
        if (g->packed[at].kind == PACKED_LINEAR)
            count += g->packed[at].out_features * g->packed[at].in_features;
    return count;
}

static double *logits_of(const Graph *g, const TinySpec *spec) {
    static const int32_t ids[TOKENS] = {3, 1, 49, 7, 7, 0, 22, 31, 48};
    Config config = tiny_config(spec);
    Error err = {0};
    Arena arena = {0};
    double *logits = calloc((size_t)(TOKENS * spec->vocab), sizeof *logits);
    Interp *in = interp_new(g, &config, MAX_SEQ, &arena);
    // in two parts, so that positions do not start at 0 in the second
    assert_true(interp_run(in, ids, 4, logits, &err));
    assert_true(interp_run(in, ids + 4, TOKENS - 4, logits + 4 * spec->vocab, &err));
    arena_free(&arena);
    return logits;
}

static void logits_compare(const Graph *one, const Graph *other, const TinySpec *spec) {
    double *a = logits_of(one, spec), *b = logits_of(other, spec), worst = 0, size = 0;
    for (int64_t at = 0; at < TOKENS * spec->vocab; at++) {
        worst = fmax(worst, fabs(a[at] - b[at]));
        size = fmax(size, fabs(a[at]));
    }
    if (!(size > 0.1 && worst < 1e-12 * size))
        print_message("worst difference %g of %g\n", worst, size);
    assert_true(size > 0.1);
    assert_true(worst < 1e-12 * size);
    free(a);
    free(b);
}

static void test_same_function(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof expects / sizeof *expects; at++) {
        const Expect *e = &expects[at];
        Arena arena = {0};
        Error err = {0};
        TinySpec spec = tiny_plain;
        Graph fused;
        e->change(&spec);
        Graph unfused = tiny_graph(&spec, &arena);
        bool done = graph_fuse(&fused, &unfused, &arena, &err);
        print_message("%s %s\n", e->name, err.message);
        assert_true(done);
        assert_int_equal(ops_count(&fused, OP_ROPE), e->ropes);
        assert_int_equal(ops_count(&fused, OP_ACT_MUL), e->act_muls);
        assert_int_equal(ops_count(&fused, OP_ADD), e->adds);
        assert_int_equal(ops_count(&fused, OP_NORM), e->norms);
        assert_int_equal(ops_count(&fused, OP_LINEAR), e->linears);
        assert_int_equal(ops_count(&fused, OP_KV_APPEND), e->ropes / 2);
        assert_int_equal(ops_count(&fused, OP_PERMUTE), e->change == spec_odd_intermediate ? 2 : 0);
        assert_int_equal(weights_count(&fused), weights_count(&unfused));
        logits_compare(&unfused, &fused, &spec);
        arena_free(&arena);
    }
}

// Every value knows who makes it, the input graph is as it was, and a second fusion finds nothing.
static void test_result(void **state) {
    (void)state;
    Arena arena = {0};
    Error err = {0};
    Graph unfused = tiny_graph(&tiny_plain, &arena), fused, again;
    int ops = unfused.op_count, packed = unfused.packed_count;
    assert_true(graph_fuse(&fused, &unfused, &arena, &err));
    assert_int_equal(unfused.op_count, ops);
    assert_int_equal(unfused.packed_count, packed);
    assert_true(graph_verify(&unfused, &err));
    assert_int_equal(ops_count(&unfused, OP_ROPE), 4);
    for (int at = 0; at < fused.op_count; at++)
        if (fused.ops[at].output >= 0)
            assert_int_equal(fused.values[fused.ops[at].output].producer, at);
    assert_int_equal(fused.ops[fused.head_first].kind, OP_GATHER);
    assert_true(graph_fuse(&again, &fused, &arena, &err));
    assert_int_equal(again.op_count, fused.op_count);
    assert_int_equal(again.packed_count, fused.packed_count);
    logits_compare(&fused, &again, &tiny_plain);
    arena_free(&arena);
}

// The bias of q, k, v stands in packed row order, with zeros for the part that has none.
static void test_bias_order(void **state) {
    (void)state;
    Arena arena = {0};
    Error err = {0};
    Graph unfused = tiny_graph(&tiny_plain, &arena), fused;
    assert_true(graph_fuse(&fused, &unfused, &arena, &err));
    const Op *op = &fused.ops[1];
    assert_int_equal(op->linear.epilogue, EPILOGUE_ROPE_KV);
    const PackedTensor *t = &fused.packed[op->linear.weight];
    const PackedTensor *bias = &fused.packed[op->linear.bias];
    assert_int_equal(bias->count, t->rows);
    const float *q = NULL, *v = NULL;
    for (int at = 0; at < unfused.op_count && !v; at++) {
        const Op *part = &unfused.ops[at];
        if (part->kind != OP_LINEAR || part->linear.bias < 0)
            continue;
        if (!q)
            q = unfused.packed[part->linear.bias].values;
        else
            v = unfused.packed[part->linear.bias].values;
    }
    int64_t head_dim = tiny_plain.head_dim, q_rows = tiny_plain.heads * head_dim;
    int64_t kv_rows = tiny_plain.kv_heads * head_dim;
    for (int64_t row = 0; row < t->rows; row++) {
        float expected = 0;
        int64_t in_head = row % head_dim, lane = in_head % 16;
        if (row < q_rows)
            expected = q[row - in_head + in_head / 16 * 8 + lane % 8 + lane / 8 * (head_dim / 2)];
        else if (row >= q_rows + kv_rows)
            expected = v[row - q_rows - kv_rows];
        assert_true(bias->values[row] == expected);
    }
    arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_function),
        cmocka_unit_test(test_result),
        cmocka_unit_test(test_bias_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

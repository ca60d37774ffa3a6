// The verifier: every rule is broken once, in an otherwise correct graph, and must be named by its
// own id. Then the builder's layouts, and the printer.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#undef fail // ours is a function

#include <stdlib.h>
#include <string.h>

#include "tests/unit/tiny_graph.h"

// The nth op of a kind, from 0.
static Op *nth(const Graph *g, OpKind kind, int n) {
    for (int at = 0; at < g->op_count; at++)
        if (g->ops[at].kind == kind && n-- == 0)
            return &g->ops[at];
    assert_true(false);
    return NULL;
}

static Op *nth_epilogue(const Graph *g, LinearEpilogue epilogue) {
    for (int at = 0; at < g->op_count; at++)
        if (g->ops[at].kind == OP_LINEAR && g->ops[at].linear.epilogue == epilogue)
            return &g->ops[at];
    assert_true(false);
    return NULL;
}

static PackedTensor *weight_of(const Graph *g, const Op *op) {
    return &g->packed[op->linear.weight];
}

// ---- ways to break a graph ----------------------------------------------------------------------

// clang-format off
static void kind_unknown(Graph *g)    { g->ops[3].kind = OP_COUNT; }
static void input_extra(Graph *g)     { nth(g, OP_NORM, 0)->inputs[1] = 0; }
static void input_missing(Graph *g)   { nth(g, OP_ADD, 0)->inputs[1] = -1; }
static void input_outside(Graph *g)   { nth(g, OP_ADD, 0)->inputs[0] = g->value_count; }
static void input_later(Graph *g)     { nth(g, OP_NORM, 0)->inputs[0] = nth(g, OP_ADD, 0)->output; }
static void input_type(Graph *g)      { nth(g, OP_ADD, 0)->inputs[0] = nth(g, OP_NORM, 0)->output; }
static void output_extra(Graph *g)    { nth(g, OP_KV_APPEND, 0)->output = 0; }
static void output_missing(Graph *g)  { nth(g, OP_NORM, 0)->output = -1; }
static void output_twice(Graph *g)    { nth(g, OP_ADD, 1)->output = nth(g, OP_ADD, 0)->output; }
static void output_empty(Graph *g)    { g->values[nth(g, OP_NORM, 0)->output].width = 0; }
static void output_type(Graph *g)     { g->values[nth(g, OP_ROPE, 0)->output].type = VALUE_F32; }
static void weight_vector(Graph *g)   { nth(g, OP_LINEAR, 0)->linear.weight = nth(g, OP_NORM, 0)->norm.weight; }
static void weight_outside(Graph *g)  { nth(g, OP_LINEAR, 0)->linear.weight = -1; }
static void norm_matrix(Graph *g)     { nth(g, OP_NORM, 0)->norm.weight = nth(g, OP_LINEAR, 0)->linear.weight; }
static void norm_short(Graph *g)      { g->packed[nth(g, OP_NORM, 0)->norm.weight].count--; }
static void bias_short(Graph *g)      { g->packed[nth(g, OP_LINEAR, 0)->linear.bias].count--; }
static void width_wrong(Graph *g)     { g->values[nth(g, OP_NORM, 1)->output].width--; }
static void gather_width(Graph *g)    { g->values[nth(g, OP_GATHER, 0)->output].width--; }
static void table_bits(Graph *g)      { g->packed[nth(g, OP_EMBED, 0)->embed.table].bits = 8; }
static void norm_rows(Graph *g)       { nth(g, OP_NORM, 0)->norm.width = 100; }
static void norm_order(Graph *g)      { nth(g, OP_NORM, 0)->norm.order = nth(g, OP_NORM, 0)->norm.weight; }
static void permute_nothing(Graph *g) { nth(g, OP_ROPE, 0)->kind = OP_PERMUTE; nth(g, OP_PERMUTE, 0)->permute.order = -1; }
static void experts_linear(Graph *g)  { weight_of(g, nth(g, OP_LINEAR, 0))->experts = 2; }
static void eps_zero(Graph *g)        { nth(g, OP_NORM, 0)->norm.eps = 0; }
static void heads_none(Graph *g)      { nth(g, OP_ROPE, 0)->rope.heads = 0; }
static void frequencies_many(Graph *g) { g->packed[nth(g, OP_ROPE, 0)->rope.inv_freq].count = 17; }
static void append_nowhere(Graph *g)  { nth(g, OP_KV_APPEND, 0)->layer = -1; }
static void heads_uneven(Graph *g)    { nth(g, OP_ATTENTION, 0)->attention.kv_heads = 3; }
static void cache_missing(Graph *g)   { nth(g, OP_ATTENTION, 0)->layer = 1; }
static void order_plain(Graph *g)     { weight_of(g, nth(g, OP_LINEAR, 0))->order = ROWS_GATE_UP; }
static void parts_none(Graph *g)      { weight_of(g, nth(g, OP_LINEAR, 0))->part_count = 0; }
static void parts_many(Graph *g)      { weight_of(g, nth(g, OP_LINEAR, 0))->part_count = LINEAR_MAX_PARTS + 1; }
static void parts_differ(Graph *g)    { weight_of(g, nth(g, OP_LINEAR, 0))->bits = 16; }
static void rows_ragged(Graph *g)     { weight_of(g, nth(g, OP_LINEAR, 4))->k_padded--; }
static void hidden_missing(Graph *g)  { g->hidden = -1; }
static void hidden_type(Graph *g)     { g->hidden = nth(g, OP_NORM, 0)->output; }
static void logits_missing(Graph *g)  { g->logits = g->value_count; }
static void head_elsewhere(Graph *g)  { g->head_first--; }
static void head_reads_layers(Graph *g) { nth(g, OP_NORM, 4)->inputs[0] = g->hidden; }
// of the fused graph
static void residual_used(Graph *g)   { nth_epilogue(g, EPILOGUE_ACT_MUL)->inputs[0] = nth(g, OP_EMBED, 0)->output; }
static void residual_result(Graph *g) { g->hidden = nth(g, OP_EMBED, 0)->output; }
static void rope_order(Graph *g)      { weight_of(g, nth_epilogue(g, EPILOGUE_ROPE_KV))->order = ROWS_PLAIN; }
static void rope_rows(Graph *g)       { nth_epilogue(g, EPILOGUE_ROPE_KV)->linear.kv_heads = 1; }
static void gate_up_order(Graph *g)   { weight_of(g, nth_epilogue(g, EPILOGUE_ACT_MUL))->order = ROWS_PLAIN; }
// clang-format on

static void residual_own(Graph *g) {
    Op *op = nth_epilogue(g, EPILOGUE_ADD);
    op->linear.prologue = PROLOGUE_NORM;
    op->linear.norm_weight = nth_epilogue(g, EPILOGUE_ROPE_KV)->linear.norm_weight;
    op->inputs[0] = op->inputs[1];
    weight_of(g, op)->in_features = g->values[op->inputs[0]].width;
}

static const int32_t short_index[3] = {0, 1, 2};

static void index_short(Graph *g) {
    nth(g, OP_ATTENTION, 0)->attention.places = graph_index(g, "places", short_index, 3);
}

static void index_outside(Graph *g) {
    int64_t width = g->values[nth(g, OP_ATTENTION, 0)->output].width;
    int32_t *indices = ARENA_NEW(g->arena, int32_t, width);
    indices[5] = (int32_t)width;
    nth(g, OP_ATTENTION, 0)->attention.places = graph_index(g, "places", indices, width);
}

static void packed_unused(Graph *g) {
    graph_vector(g, "spare", NULL, 4);
}

static void no_layout(Graph *g) {
    PackedTensor *t = weight_of(g, nth(g, OP_LINEAR, 0));
    Weight *w = ARENA_NEW(g->arena, Weight, 1);
    *w = *t->parts[0];
    t->bits = 3;
    t->parts[0] = w;
}

typedef struct Rule {
    int id;
    bool fused;
    void (*breaks)(Graph *g);
} Rule;

static const Rule rules[] = {
    {401, false, kind_unknown},     {402, false, input_extra},    {403, false, input_missing},
    {403, false, input_outside},    {404, false, input_later},    {405, false, input_type},
    {406, false, output_extra},     {407, false, output_missing}, {408, false, output_twice},
    {409, false, output_empty},     {410, false, output_type},    {411, false, weight_vector},
    {411, false, weight_outside},   {412, false, norm_matrix},    {413, false, norm_short},
    {413, false, bias_short},       {438, false, norm_order},       {441, false, norm_rows},      {443, false, permute_nothing},
    {448, false, experts_linear},   {414, false, width_wrong},    {414, false, gather_width},
    {415, false, table_bits},       {416, false, eps_zero},       {417, false, heads_none},
    {418, false, frequencies_many}, {419, false, append_nowhere}, {420, false, heads_uneven},
    {421, false, cache_missing},    {422, true, residual_own},    {423, true, residual_used},
    {424, true, rope_order},        {425, true, rope_rows},       {426, true, gate_up_order},
    {427, false, order_plain},      {428, false, parts_none},     {428, false, parts_many},
    {429, false, parts_differ},     {430, false, no_layout},      {431, false, rows_ragged},
    {439, false, index_short},      {440, false, index_outside},  {432, false, packed_unused},    {433, false, hidden_missing}, {433, false, hidden_type},
    {434, false, logits_missing},   {435, false, head_elsewhere}, {436, false, head_reads_layers},
    {437, true, residual_result},
};

static void test_rules(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof rules / sizeof *rules; at++) {
        Arena arena = {0};
        Error err = {0};
        Graph g = tiny_graph(&tiny_plain, &arena), fused;
        assert_true(graph_verify(&g, &err));
        if (rules[at].fused) {
            assert_true(graph_fuse(&fused, &g, &arena, &err));
            g = fused;
        }
        rules[at].breaks(&g);
        bool accepted = graph_verify(&g, &err);
        if (accepted || err.id != rules[at].id)
            print_message("rule %d: found %d: %s\n", rules[at].id, err.id, err.message);
        assert_false(accepted);
        assert_int_equal(err.code, ERR_INTERNAL);
        assert_int_equal(err.id, rules[at].id);
        arena_free(&arena);
    }
}

static void test_all_rules(void **state) {
    (void)state;
    for (int id = 401; id <= 437; id++) { // 438 to 448: below and test_experts
        bool tried = false;
        for (size_t at = 0; at < sizeof rules / sizeof *rules; at++)
            tried = tried || rules[at].id == id;
        assert_true(tried);
    }
}

// Records of tile16: which K and groups are stored how.
static void test_layouts(void **state) {
    (void)state;
    static const struct {
        int bits;
        int64_t group, in, out;
        int stored_group;
        int64_t k_padded, rows;
    } cases[] = {
        {4, 128, 256, 30, 128, 256, 32}, {4, -1, 96, 16, 128, 128, 16},
        {4, 256, 512, 16, 128, 512, 16}, {4, 192, 384, 8, 64, 384, 16},
        {4, 64, 320, 17, 64, 320, 32},   {4, 32, 96, 16, 32, 128, 16},
        {4, 96, 192, 16, 32, 192, 16},   {8, 32, 96, 16, 32, 96, 16},
        {8, 64, 96, 16, 64, 128, 16},    {8, 128, 130 * 4, 1, 128, 640, 16},
        {16, -1, 70, 50, 0, 128, 64},
    };
    Arena arena = {0};
    Random random = {.state = 1};
    for (size_t at = 0; at < sizeof cases / sizeof *cases; at++) {
        Graph g = graph_new(&arena);
        const Weight *w = random_weight(&arena, &random, cases[at].bits, cases[at].group,
                                        cases[at].in, cases[at].out, 1, 2);
        graph_linear_weight(&g, "w", &w, 1);
        const PackedTensor *t = &g.packed[0];
        assert_int_equal(t->group, cases[at].stored_group);
        assert_int_equal(t->k_padded, cases[at].k_padded);
        assert_int_equal(t->rows, cases[at].rows);
        assert_int_equal(t->out_features, cases[at].out);
    }
    arena_free(&arena);
}

// More ops, values and tensors than the first allocation holds.
static void test_growth(void **state) {
    (void)state;
    Arena arena = {0};
    Error err = {0};
    TinySpec spec = tiny_plain;
    spec.layers = 20;
    Graph g = tiny_graph(&spec, &arena);
    assert_int_equal(g.op_count, 1 + 16 * 20 + 3);
    assert_true(graph_verify(&g, &err));
    arena_free(&arena);
}

static void test_print(void **state) {
    (void)state;
    Arena arena = {0};
    Error err = {0};
    Graph g = tiny_graph(&tiny_plain, &arena), fused;
    assert_true(graph_fuse(&fused, &g, &arena, &err));
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    graph_print(&fused, out);
    fclose(out);
    int lines = 0;
    for (size_t at = 0; at < size; at++)
        lines += text[at] == '\n';
    assert_int_equal(lines, fused.op_count);
    assert_non_null(strstr(text, "layers.0.q_proj+k_proj+v_proj[256x256 4-bit g128]"));
    assert_non_null(strstr(text, "linear    norm + rope_kv embed:f32[256]"));
    assert_non_null(strstr(text, "attention heads 4/2 x 32 rope:act[128]"));
    assert_non_null(strstr(text, "+ act_mul gelu_tanh"));
    assert_non_null(strstr(text, "-> linear:f32[50]"));
    free(text);
    arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),   cmocka_unit_test(test_all_rules),
        cmocka_unit_test(test_layouts), cmocka_unit_test(test_growth),
        cmocka_unit_test(test_print),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

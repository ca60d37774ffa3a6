// A llama-like graph of random weights, unfused, small enough to run through the oracle at once.
// Every field of the specification that can stop a fusion can be set.
#ifndef TINY_GRAPH_H
#define TINY_GRAPH_H

#include "compiler/compile.h"
#include "tests/random_weight.h"

typedef enum TinyLinear {
    TINY_Q,
    TINY_K,
    TINY_V,
    TINY_O,
    TINY_GATE,
    TINY_UP,
    TINY_DOWN,
    TINY_LINEARS
} TinyLinear;

typedef enum TinyMlp {
    MLP_SERIAL,         // reads the residual behind the attention
    MLP_PARALLEL_LATE,  // reads the residual before the attention, after it was added to
    MLP_PARALLEL_EARLY, // the same, normed before it is added to
} TinyMlp;

typedef struct TinySpec {
    int64_t hidden, intermediate, heads, kv_heads, head_dim, rotary, vocab;
    int layers;
    int bits[TINY_LINEARS];
    int64_t group[TINY_LINEARS]; // -1: one group
    bool bias;
    TinyMlp mlp;
    bool act_order[TINY_LINEARS];
} TinySpec;

static const TinySpec tiny_plain = {
    .hidden = 256,
    .intermediate = 64,
    .heads = 4,
    .kv_heads = 2,
    .head_dim = 32,
    .rotary = 32,
    .vocab = 50,
    .layers = 2,
    .bits = {4, 4, 4, 8, 8, 8, 16},
    .group = {128, 128, 128, 32, 64, 64, -1},
    .bias = true,
};

typedef struct Tiny {
    const TinySpec *spec;
    Graph *g;
    Arena *a;
    Random random;
    int layer;
    int inv_freq;
    int permuted_from, permuted; // values
    const int32_t *order;
} Tiny;

static inline int tiny_vector(Tiny *t, const char *name, int64_t count, int64_t stored) {
    float *values = ARENA_NEW(t->a, float, stored);
    for (int64_t at = 0; at < count; at++)
        values[at] = random_uniform(&t->random, -1, 1);
    return graph_vector(t->g, name, values, stored);
}

// Appends an op with one output and returns the output.
static inline int tiny_op(Tiny *t, OpKind kind, ValueType type, int64_t width, int a, int b,
                          Op **op) {
    int output = graph_value(t->g, op_name(kind), type, width);
    *op = graph_op(t->g, kind, t->layer);
    (*op)->inputs[0] = a;
    (*op)->inputs[1] = b;
    (*op)->output = output;
    return output;
}

// x in the order of the tensor's inputs; the last order is remembered.
static inline int tiny_permuted(Tiny *t, int packed, int x) {
    const PackedTensor *p = &t->g->packed[packed];
    if (!p->input_order)
        return x;
    const size_t bytes = (size_t)p->in_features * sizeof *p->input_order;
    if (x == t->permuted_from && memcmp(p->input_order, t->order, bytes) == 0)
        return t->permuted;
    Op *op;
    t->order = p->input_order;
    t->permuted_from = x;
    int index = graph_index(t->g, "order", t->order, p->in_features);
    t->permuted = tiny_op(t, OP_PERMUTE, VALUE_ACT, t->g->packed[packed].in_features, x, -1, &op);
    op->permute.order = index;
    return t->permuted;
}

static inline int tiny_norm(Tiny *t, int x) {
    Op *op;
    int y = tiny_op(t, OP_NORM, VALUE_ACT, t->spec->hidden, x, -1, &op);
    op->norm.weight = tiny_vector(t, "norm", t->spec->hidden, t->spec->hidden);
    op->norm.width = t->spec->hidden;
    op->norm.eps = 1e-5f;
    return y;
}

static inline int tiny_linear(Tiny *t, TinyLinear linear, int64_t in, int64_t out, int x) {
    static const char *const names[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                        "gate_proj", "up_proj", "down_proj"};
    Weight *w = random_weight(t->a, &t->random, t->spec->bits[linear], t->spec->group[linear], in,
                              out, 0.001f, 0.02f);
    w->module = arena_printf(t->a, "layers.%d.%s", t->layer, names[linear]);
    if (t->spec->act_order[linear]) // q, k, v see the same inputs, gate and up too
        random_act_order(w, t->a, linear <= TINY_V ? 1 : linear == TINY_UP ? TINY_GATE : linear);
    const Weight *part = w;
    Op *op;
    int packed = graph_linear_weight(t->g, w->module, &part, 1);
    x = tiny_permuted(t, packed, x);
    int y = tiny_op(t, OP_LINEAR, VALUE_ACT, out, x, -1, &op);
    op->linear.weight = packed;
    if (t->spec->bias && linear != TINY_O && linear != TINY_K)
        op->linear.bias = tiny_vector(t, "bias", out, t->g->packed[packed].rows);
    return y;
}

static inline int tiny_rope(Tiny *t, int64_t heads, int x) {
    Op *op;
    int y = tiny_op(t, OP_ROPE, VALUE_ACT, heads * t->spec->head_dim, x, -1, &op);
    op->rope.heads = heads;
    op->rope.head_dim = t->spec->head_dim;
    op->rope.inv_freq = t->inv_freq;
    op->rope.factor = 1.25f;
    return y;
}

static inline int tiny_attention(Tiny *t, int x) {
    const TinySpec *s = t->spec;
    int64_t q_width = s->heads * s->head_dim, kv_width = s->kv_heads * s->head_dim;
    int q = tiny_linear(t, TINY_Q, s->hidden, q_width, x);
    int k = tiny_linear(t, TINY_K, s->hidden, kv_width, x);
    int v = tiny_linear(t, TINY_V, s->hidden, kv_width, x);
    q = tiny_rope(t, s->heads, q);
    k = tiny_rope(t, s->kv_heads, k);
    Op *op = graph_op(t->g, OP_KV_APPEND, t->layer);
    op->inputs[0] = k;
    op->inputs[1] = v;
    op->kv_append.kv_heads = s->kv_heads;
    op->kv_append.head_dim = s->head_dim;
    int out = tiny_op(t, OP_ATTENTION, VALUE_ACT, q_width, q, -1, &op);
    op->attention.heads = s->heads;
    op->attention.kv_heads = s->kv_heads;
    op->attention.head_dim = s->head_dim;
    op->attention.scale = 0.2f;
    return tiny_linear(t, TINY_O, q_width, s->hidden, out);
}

static inline int tiny_mlp(Tiny *t, int x) {
    const TinySpec *s = t->spec;
    int gate = tiny_linear(t, TINY_GATE, s->hidden, s->intermediate, x);
    int up = tiny_linear(t, TINY_UP, s->hidden, s->intermediate, x);
    Op *op;
    int act = tiny_op(t, OP_ACT_MUL, VALUE_ACT, s->intermediate, gate, up, &op);
    op->act_mul.act = t->layer % 2 ? ACT_GELU_TANH : ACT_SILU;
    return tiny_linear(t, TINY_DOWN, s->intermediate, s->hidden, act);
}

static inline int tiny_layer(Tiny *t, int x) {
    Op *op;
    TinyMlp mlp = t->spec->mlp;
    int64_t hidden = t->spec->hidden;
    int y = tiny_attention(t, tiny_norm(t, x));
    int early = mlp == MLP_PARALLEL_EARLY ? tiny_norm(t, x) : -1;
    int added = tiny_op(t, OP_ADD, VALUE_F32, hidden, x, y, &op);
    int normed = early >= 0 ? early : tiny_norm(t, mlp == MLP_PARALLEL_LATE ? x : added);
    y = tiny_mlp(t, normed);
    return tiny_op(t, OP_ADD, VALUE_F32, hidden, added, y, &op);
}

static inline Graph tiny_graph(const TinySpec *spec, Arena *a) {
    Graph g = graph_new(a);
    Tiny t = {.spec = spec, .g = &g, .a = a, .random = {.state = 4711}, .layer = -1, .permuted_from = -1};
    float *frequencies = ARENA_NEW(a, float, spec->rotary / 2);
    for (int64_t at = 0; at < spec->rotary / 2; at++)
        frequencies[at] = 1 / (1 + (float)at);
    t.inv_freq = graph_vector(&g, "inv_freq", frequencies, spec->rotary / 2);
    Weight *table = random_weight(a, &t.random, 16, -1, spec->hidden, spec->vocab, 0, 1);
    const Weight *part = table;
    int packed = graph_linear_weight(&g, "embed", &part, 1);
    Op *op;
    int x = tiny_op(&t, OP_EMBED, VALUE_F32, spec->hidden, -1, -1, &op);
    op->embed.table = packed;
    for (t.layer = 0; t.layer < spec->layers; t.layer++)
        x = tiny_layer(&t, x);
    t.layer = -1;
    g.hidden = x;
    g.head_first = g.op_count;
    x = tiny_norm(&t, tiny_op(&t, OP_GATHER, VALUE_F32, spec->hidden, x, -1, &op));
    g.logits = tiny_op(&t, OP_LINEAR, VALUE_F32, spec->vocab, x, -1, &op);
    op->linear.weight = packed;
    return g;
}

static inline Config tiny_config(const TinySpec *spec) {
    return (Config){.dir = "tiny",
                    .name = "tiny",
                    .architecture = "Tiny",
                    .vocab_size = spec->vocab,
                    .hidden_size = spec->hidden,
                    .num_hidden_layers = spec->layers,
                    .num_attention_heads = spec->heads,
                    .num_key_value_heads = spec->kv_heads,
                    .head_dim = spec->head_dim,
                    .intermediate_size = spec->intermediate};
}

#endif

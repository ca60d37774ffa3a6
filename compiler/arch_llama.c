// LlamaForCausalLM (Llama 2, 3, 3.x, TinyLlama and everything that says it is one) to a graph.
//
//   h = embed[t]
//   per layer:  x = norm(h); q, k, v = x Wq, x Wk, x Wv (+ bias); rope(q), rope(k)
//               h += attention(q) Wo (+ bias)
//               m = norm(h); h += (act(m Wgate) * (m Wup)) Wdown (+ bias)
//   logits = norm(h) Whead
//
// Idea: one table of the linear modules of a layer gives their names, shapes and biases to the
// builder and to `check`. The graph is unfused: one op per line above.
//
// Source: transformers models/llama/modeling_llama.py.
// Non-goals: sliding windows, partial rotary embedding, quantized embeddings.
#include "compile.h"

#include <string.h>

static const char EMBED[] = "model.embed_tokens";
static const char FINAL_NORM[] = "model.norm.weight";
static const char HEAD[] = "lm_head";

typedef enum LayerLinear {
    Q_PROJ,
    K_PROJ,
    V_PROJ,
    O_PROJ,
    GATE_PROJ,
    UP_PROJ,
    DOWN_PROJ,
    LINEAR_COUNT
} LayerLinear;
typedef enum Width { HIDDEN, QUERIES, KEYS, INTERMEDIATE, WIDTH_COUNT } Width;

static const struct {
    const char *name;
    Width in, out;
    bool mlp; // its bias follows mlp_bias, else attention_bias
} LINEARS[LINEAR_COUNT] = {
    [Q_PROJ] = {"self_attn.q_proj", HIDDEN, QUERIES, false},
    [K_PROJ] = {"self_attn.k_proj", HIDDEN, KEYS, false},
    [V_PROJ] = {"self_attn.v_proj", HIDDEN, KEYS, false},
    [O_PROJ] = {"self_attn.o_proj", QUERIES, HIDDEN, false},
    [GATE_PROJ] = {"mlp.gate_proj", HIDDEN, INTERMEDIATE, true},
    [UP_PROJ] = {"mlp.up_proj", HIDDEN, INTERMEDIATE, true},
    [DOWN_PROJ] = {"mlp.down_proj", INTERMEDIATE, HIDDEN, true},
};

static int64_t width_of(const Config *c, Width width) {
    const int64_t widths[WIDTH_COUNT] = {
        [HIDDEN] = c->hidden_size,
        [QUERIES] = c->num_attention_heads * c->head_dim,
        [KEYS] = c->num_key_value_heads * c->head_dim,
        [INTERMEDIATE] = c->intermediate_size,
    };
    return widths[width];
}

// ---- modules ------------------------------------------------------------------------------------

static bool has_module(const Checkpoint *c, const char *module, Arena *a) {
    return checkpoint_find(c, arena_printf(a, "%s.qweight", module)) ||
           checkpoint_find(c, arena_printf(a, "%s.weight", module));
}

static LinearSpec layer_spec(const Config *c, int layer, LayerLinear linear, Arena *a) {
    return (LinearSpec){
        .module = arena_printf(a, "model.layers.%d.%s", layer, LINEARS[linear].name),
        .in_features = width_of(c, LINEARS[linear].in),
        .out_features = width_of(c, LINEARS[linear].out),
        .wants_bias = LINEARS[linear].mlp ? c->mlp_bias : c->attention_bias,
    };
}

// The head has its own weights unless it is tied. A file may hold a head although it says tied;
// then the tensors decide (head_weight).
static bool has_head(const Config *config, const Checkpoint *c, Arena *a) {
    bool tied = config->tie_present ? config->tie_word_embeddings : true;
    return !tied || has_module(c, HEAD, a);
}

static LinearSpec *llama_linears(const Config *config, const Checkpoint *c, Arena *a, int *count) {
    int layers = (int)config->num_hidden_layers, at = 0;
    LinearSpec *specs = ARENA_NEW(a, LinearSpec, layers * LINEAR_COUNT + 2);
    const LinearSpec embed = {EMBED, config->hidden_size, config->vocab_size, false};
    specs[at++] = embed;
    for (int layer = 0; layer < layers; layer++)
        for (int linear = 0; linear < LINEAR_COUNT; linear++)
            specs[at++] = layer_spec(config, layer, (LayerLinear)linear, a);
    if (has_head(config, c, a)) {
        specs[at] = embed;
        specs[at++].module = HEAD;
    }
    *count = at;
    return specs;
}

// ---- building -----------------------------------------------------------------------------------

typedef struct Builder {
    Graph *g;
    const Config *config;
    const Checkpoint *checkpoint;
    Arena *arena;
    Error *err;
    int layer; // -1: outside
    int inv_freq;
    float rope_factor;
    Activation act;
} Builder;

static const char *value_name(const Builder *b, const char *name) {
    return b->layer < 0 ? name : arena_printf(b->arena, "layers.%d.%s", b->layer, name);
}

// Appends an op with one output; input1 -1: none. Returns the value.
static int op_add(Builder *b, OpKind kind, const char *name, ValueType type, int64_t width,
                  int input0, int input1, Op **op) {
    *op = graph_op(b->g, kind, b->layer);
    (*op)->inputs[0] = input0;
    (*op)->inputs[1] = input1;
    int value = graph_value(b->g, value_name(b, name), type, width);
    (*op)->output = value;
    b->g->values[value].producer = b->g->op_count - 1;
    return value;
}

static bool weight_new(Builder *b, const LinearSpec *spec, const Weight **out) {
    Weight *w = ARENA_NEW(b->arena, Weight, 1);
    TRY(weight_open(w, b->checkpoint, &b->config->quant, spec->module, spec->in_features,
                    spec->out_features, spec->wants_bias, b->arena, b->err));
    *out = w;
    return true;
}

// A tensor [count] as a packed fp32 vector with zeros up to `room`.
static int vector_new(Builder *b, const Tensor *t, int64_t count, int64_t room) {
    float *values = ARENA_NEW(b->arena, float, room);
    tensor_read_f32(t, 0, count, values);
    return graph_vector(b->g, t->name, values, room);
}

static bool norm_weight(Builder *b, const char *name, int *packed) {
    int64_t width = b->config->hidden_size;
    const Tensor *t = checkpoint_find(b->checkpoint, name);
    if (!t)
        return fail(b->err, ERR_CORRUPT, 350, "%s: tensor %s is missing", b->checkpoint->dir, name);
    if (t->type != TENSOR_F16 && t->type != TENSOR_BF16 && t->type != TENSOR_F32)
        return fail(b->err, ERR_CORRUPT, 351, "%s: %s has dtype %s, expected F16, BF16 or F32",
                    t->file, name, tensor_type_name(t->type));
    if (t->rank != 1 || t->shape[0] != width) {
        char shape[160];
        return fail(b->err, ERR_CORRUPT, 352, "%s: %s is %s, expected [%lld] (hidden_size)",
                    t->file, name, shape_text(shape, sizeof shape, t->shape, t->rank),
                    (long long)width);
    }
    *packed = vector_new(b, t, width, width);
    const float *values = b->g->packed[*packed].values;
    for (int64_t at = 0; at < width; at++)
        if (!__builtin_isfinite(values[at]))
            return fail(b->err, ERR_CORRUPT, 353, "%s: %s holds NaN or infinity at element %lld",
                        t->file, name, (long long)at);
    return true;
}

static bool norm_add(Builder *b, const char *tensor, const char *name, int x, int *y) {
    int weight = -1;
    TRY(norm_weight(b, tensor, &weight));
    Op *op;
    *y = op_add(b, OP_NORM, name, VALUE_ACT, b->config->hidden_size, x, -1, &op);
    op->norm.weight = weight;
    op->norm.eps = (float)b->config->rms_norm_eps;
    return true;
}

static int linear_op(Builder *b, int packed, const Weight *w, const char *name, ValueType type,
                     int x) {
    int bias = -1;
    if (w->bias)
        bias = vector_new(b, w->bias, w->out_features, b->g->packed[packed].rows);
    Op *op;
    int y = op_add(b, OP_LINEAR, name, type, w->out_features, x, -1, &op);
    op->linear.weight = packed;
    op->linear.bias = bias;
    return y;
}

static bool linear_add(Builder *b, LayerLinear linear, const char *name, int x, int *y) {
    LinearSpec spec = layer_spec(b->config, b->layer, linear, b->arena);
    const Weight *w;
    TRY(weight_new(b, &spec, &w));
    int packed = graph_linear_weight(b->g, spec.module, &w, 1);
    *y = linear_op(b, packed, w, name, VALUE_ACT, x);
    return true;
}

static int rope_add(Builder *b, const char *name, int64_t heads, int x) {
    Op *op;
    int64_t head_dim = b->config->head_dim;
    int y = op_add(b, OP_ROPE, name, VALUE_ACT, heads * head_dim, x, -1, &op);
    op->rope.heads = heads;
    op->rope.head_dim = head_dim;
    op->rope.inv_freq = b->inv_freq;
    op->rope.factor = b->rope_factor;
    return y;
}

static bool attention_add(Builder *b, int *h) {
    const Config *c = b->config;
    const char *norm = arena_printf(b->arena, "model.layers.%d.input_layernorm.weight", b->layer);
    int x, q, k, v, o;
    TRY(norm_add(b, norm, "attn_norm", *h, &x));
    TRY(linear_add(b, Q_PROJ, "q", x, &q));
    TRY(linear_add(b, K_PROJ, "k", x, &k));
    TRY(linear_add(b, V_PROJ, "v", x, &v));
    q = rope_add(b, "q_rope", c->num_attention_heads, q);
    k = rope_add(b, "k_rope", c->num_key_value_heads, k);
    Op *op = graph_op(b->g, OP_KV_APPEND, b->layer);
    op->inputs[0] = k;
    op->inputs[1] = v;
    op->kv_append.kv_heads = c->num_key_value_heads;
    op->kv_append.head_dim = c->head_dim;
    int attended = op_add(b, OP_ATTENTION, "attn", VALUE_ACT, width_of(c, QUERIES), q, -1, &op);
    op->attention.heads = c->num_attention_heads;
    op->attention.kv_heads = c->num_key_value_heads;
    op->attention.head_dim = c->head_dim;
    op->attention.scale = 1 / __builtin_sqrtf((float)c->head_dim);
    TRY(linear_add(b, O_PROJ, "o", attended, &o));
    *h = op_add(b, OP_ADD, "attn_out", VALUE_F32, c->hidden_size, *h, o, &op);
    return true;
}

static bool mlp_add(Builder *b, int *h) {
    const Config *c = b->config;
    const char *norm =
        arena_printf(b->arena, "model.layers.%d.post_attention_layernorm.weight", b->layer);
    int m, gate, up, down;
    Op *op;
    TRY(norm_add(b, norm, "mlp_norm", *h, &m));
    TRY(linear_add(b, GATE_PROJ, "gate", m, &gate));
    TRY(linear_add(b, UP_PROJ, "up", m, &up));
    int s = op_add(b, OP_ACT_MUL, "act", VALUE_ACT, c->intermediate_size, gate, up, &op);
    op->act_mul.act = b->act;
    TRY(linear_add(b, DOWN_PROJ, "down", s, &down));
    *h = op_add(b, OP_ADD, "mlp_out", VALUE_F32, c->hidden_size, *h, down, &op);
    return true;
}

// The head's weights: its own, or the embedding's when there are none or they are equal.
static bool head_weight(Builder *b, int table, const Weight *embed, int *packed,
                        const Weight **head) {
    *packed = table;
    *head = embed;
    if (!has_head(b->config, b->checkpoint, b->arena))
        return true;
    LinearSpec spec = {HEAD, b->config->hidden_size, b->config->vocab_size, false};
    const Weight *own;
    TRY(weight_new(b, &spec, &own));
    const Tensor *x = own->weight, *y = embed->weight;
    if (x && x->type == y->type && !own->bias && memcmp(x->data, y->data, x->bytes) == 0)
        return true;
    *head = own;
    *packed = graph_linear_weight(b->g, HEAD, head, 1);
    return true;
}

static bool head_add(Builder *b, int table, const Weight *embed, int h) {
    int packed, x;
    const Weight *head;
    Op *op;
    b->layer = -1;
    b->g->hidden = h;
    b->g->head_first = b->g->op_count;
    x = op_add(b, OP_GATHER, "head_rows", VALUE_F32, b->config->hidden_size, h, -1, &op);
    TRY(norm_add(b, FINAL_NORM, "head_norm", x, &x));
    TRY(head_weight(b, table, embed, &packed, &head));
    b->g->logits = linear_op(b, packed, head, "logits", VALUE_F32, x);
    return true;
}

// Settings that this family has in other models, but not here.
static bool settings_check(Builder *b) {
    static const struct {
        const char *name;
        Activation act;
    } ACTS[] = {
        {"silu", ACT_SILU},
        {"swish", ACT_SILU},
        {"gelu_pytorch_tanh", ACT_GELU_TANH},
        {"gelu_new", ACT_GELU_TANH},
    };
    const Config *c = b->config;
    if (c->rope.partial_rotary_factor < 1)
        return fail(b->err, ERR_UNSUPPORTED, 354,
                    "%s/config.json: partial_rotary_factor %g is not supported", c->dir,
                    c->rope.partial_rotary_factor);
    for (size_t at = 0; at < sizeof ACTS / sizeof ACTS[0]; at++) {
        if (strcmp(ACTS[at].name, c->hidden_act) != 0)
            continue;
        b->act = ACTS[at].act;
        return true;
    }
    char text[40];
    return fail(b->err, ERR_UNSUPPORTED, 355,
                "%s/config.json: hidden_act \"%s\" is not supported; supported: silu, "
                "gelu_pytorch_tanh",
                c->dir, text_escape(text, sizeof text, c->hidden_act, strlen(c->hidden_act)));
}

static bool embed_add(Builder *b, int *table, const Weight **embed, int *h) {
    LinearSpec spec = {EMBED, b->config->hidden_size, b->config->vocab_size, false};
    TRY(weight_new(b, &spec, embed));
    if (!(*embed)->weight)
        return fail(b->err, ERR_UNSUPPORTED, 356, "%s: %s is quantized, which is not supported",
                    (*embed)->qweight->file, EMBED);
    *table = graph_linear_weight(b->g, EMBED, embed, 1);
    Op *op;
    *h = op_add(b, OP_EMBED, "embed", VALUE_F32, b->config->hidden_size, -1, -1, &op);
    op->embed.table = *table;
    return true;
}

static bool llama_build(Graph *g, const Config *config, const Checkpoint *c, int64_t max_seq_len,
                        Arena *a, Error *err) {
    Builder b = {.g = g, .config = config, .checkpoint = c, .arena = a, .err = err, .layer = -1};
    TRY(quant_require(c, &config->quant, err));
    TRY(settings_check(&b));
    int64_t pairs = config->head_dim / 2;
    float *inv_freq = ARENA_NEW(a, float, pairs);
    rope_frequencies(config, max_seq_len, inv_freq, &b.rope_factor);
    b.inv_freq = graph_vector(g, "inv_freq", inv_freq, pairs);
    int table = -1, h = -1;
    const Weight *embed;
    TRY(embed_add(&b, &table, &embed, &h));
    for (b.layer = 0; b.layer < config->num_hidden_layers; b.layer++) {
        TRY(attention_add(&b, &h));
        TRY(mlp_add(&b, &h));
    }
    return head_add(&b, table, embed, h);
}

const Arch arch_llama = {
    .architecture = "LlamaForCausalLM",
    .linears = llama_linears,
    .build = llama_build,
};

// A described decoder (decoder.h) to a graph, one op per operation; fuse.c joins them.
//
//   h = embed[t]
//   per layer:  x = norm(h); q, k, v = x Wq, x Wk, x Wv; rope(q), rope(k), with norms of q and k
//               h += post_norm(attention(q) Wo)
//               m = norm(h); h += post_norm(mlp(m)), dense or experts
//   logits = norm(h) Whead
//
// A weight whose inputs stand in another order (act-order) gets its input through a PERMUTE, which
// fuse.c folds into the producer.
#include "decoder_model.h"

#include <math.h>
#include <string.h>

// A permuted value, so that linears with the same order of inputs share it.
typedef struct Permuted {
    int from, to;
    const int32_t *order;
    int64_t count;
} Permuted;

enum { PERMUTED_KEPT = 8 };

typedef struct Builder {
    Graph *g;
    const Model *model;
    const Config *config;
    const Decoder *d;
    Arena *arena;
    Error *err;
    int layer; // -1: outside
    int inv_freq[DECODER_MAX_ROPES];
    float rope_factor[DECODER_MAX_ROPES];
    Permuted permuted[PERMUTED_KEPT];
    int permuted_count;
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

// ---- norms --------------------------------------------------------------------------------------

static bool norm_values(Builder *b, const char *name, int64_t width, float **out) {
    const Checkpoint *c = b->model->checkpoint;
    const Tensor *t = checkpoint_find(c, name);
    if (!t)
        return fail(b->err, ERR_CORRUPT, 350, "%s: tensor %s is missing", c->dir, name);
    if (t->type != TENSOR_F16 && t->type != TENSOR_BF16 && t->type != TENSOR_F32)
        return fail(b->err, ERR_CORRUPT, 351, "%s: %s has dtype %s, expected F16, BF16 or F32",
                    t->file, name, tensor_type_name(t->type));
    if (t->rank != 1 || t->shape[0] != width) {
        char shape[160];
        return fail(b->err, ERR_CORRUPT, 352, "%s: %s is %s, expected [%lld]", t->file, name,
                    shape_text(shape, sizeof shape, t->shape, t->rank), (long long)width);
    }
    float *values = ARENA_NEW(b->arena, float, width);
    tensor_read_f32(t, 0, width, values);
    for (int64_t at = 0; at < width; at++) {
        if (!isfinite(values[at]))
            return fail(b->err, ERR_CORRUPT, 353, "%s: %s holds NaN or infinity at element %lld",
                        t->file, name, (long long)at);
        values[at] += b->d->norm_adds_one ? 1 : 0;
    }
    *out = values;
    return true;
}

// The norm of every `width` elements of x; the tensor is named behind the layer, or whole outside.
static bool norm_add(Builder *b, const char *tensor, const char *name, int64_t width,
                     ValueType type, int x, int *y) {
    const char *full = b->layer < 0
                           ? arena_printf(b->arena, "%s%s.weight", b->d->prefix, tensor)
                           : arena_printf(b->arena, "%slayers.%d.%s.weight", b->d->prefix, b->layer,
                                          tensor);
    float *values = NULL;
    TRY(norm_values(b, full, width, &values));
    Op *op;
    *y = op_add(b, OP_NORM, name, type, b->g->values[x].width, x, -1, &op);
    op->norm.weight = graph_vector(b->g, full, values, width);
    op->norm.width = width;
    op->norm.eps = (float)b->config->rms_norm_eps;
    return true;
}

// ---- linears ------------------------------------------------------------------------------------

static bool weight_new(Builder *b, const LinearSpec *spec, const Weight **out) {
    Weight *w = ARENA_NEW(b->arena, Weight, 1);
    TRY(weight_open(w, b->model->checkpoint, &b->config->quant, spec->module, spec->in_features,
                    spec->out_features, spec->wants_bias, b->arena, b->err));
    *out = w;
    return true;
}

// x in the order that the packed tensor wants; the same value for the same order.
static int permute_add(Builder *b, const PackedTensor *t, int x) {
    int64_t count = t->in_features;
    if (!t->input_order)
        return x;
    for (int at = 0; at < b->permuted_count; at++) {
        const Permuted *p = &b->permuted[at];
        if (p->from == x && p->count == count &&
            memcmp(p->order, t->input_order, (size_t)count * sizeof *p->order) == 0)
            return p->to;
    }
    const int32_t *order = t->input_order;
    int index = graph_index(b->g, arena_printf(b->arena, "%s.order", t->name), order, count);
    Op *op;
    int y = op_add(b, OP_PERMUTE, "permuted", VALUE_ACT, count, x, -1, &op);
    op->permute.order = index;
    if (b->permuted_count < PERMUTED_KEPT)
        b->permuted[b->permuted_count++] = (Permuted){x, y, order, count};
    return y;
}

static int bias_add(Builder *b, const Weight *w, int64_t rows) {
    if (!w->bias)
        return -1;
    float *values = ARENA_NEW(b->arena, float, rows);
    for (int64_t n = 0; n < w->out_features; n++)
        values[n] = weight_bias(w, n);
    return graph_vector(b->g, arena_printf(b->arena, "%s.bias", w->module), values, rows);
}

static int linear_op(Builder *b, int packed, const Weight *w, const char *name, ValueType type,
                     int x) {
    x = permute_add(b, &b->g->packed[packed], x);
    int bias = bias_add(b, w, b->g->packed[packed].rows);
    Op *op;
    int y = op_add(b, OP_LINEAR, name, type, w->out_features, x, -1, &op);
    op->linear.weight = packed;
    op->linear.bias = bias;
    return y;
}

static int weight_linear(Builder *b, const Weight *w, const char *name, ValueType type, int x) {
    int packed = graph_linear_weight(b->g, w->module, &w, 1);
    return linear_op(b, packed, w, name, type, x);
}

static bool linear_add(Builder *b, ModuleRole role, const char *name, ValueType type, int x,
                       int *y) {
    LinearSpec spec = module_spec(b->model, b->layer, role, 0);
    const Weight *w;
    TRY(weight_new(b, &spec, &w));
    *y = weight_linear(b, w, name, type, x);
    return true;
}

// One of the modules that may stand together on disk: outputs [first, first + count) of `whole`,
// or, if that is NULL, a module of its own.
static bool slice_add(Builder *b, const Weight *whole, ModuleRole role, int64_t first,
                      const char *name, int x, int *y) {
    if (!whole)
        return linear_add(b, role, name, VALUE_ACT, x, y);
    LinearSpec spec = module_spec(b->model, b->layer, role, 0);
    Weight *w = ARENA_NEW(b->arena, Weight, 1);
    *w = weight_slice(whole, spec.module, first, spec.out_features);
    *y = weight_linear(b, w, name, VALUE_ACT, x);
    return true;
}

static bool fused_weight(Builder *b, ModuleRole role, const Weight **whole) {
    *whole = NULL;
    if (!model_fused(b->model, b->layer, role))
        return true;
    LinearSpec spec = module_spec(b->model, b->layer, role, 0);
    return weight_new(b, &spec, whole);
}

// ---- attention ----------------------------------------------------------------------------------

static int rope_add(Builder *b, const char *name, int64_t heads, int x) {
    int rope = b->d->layers[b->layer].rope;
    if (rope < 0)
        return x;
    Op *op;
    int64_t head_dim = b->config->head_dim;
    int y = op_add(b, OP_ROPE, name, VALUE_ACT, heads * head_dim, x, -1, &op);
    op->rope.heads = heads;
    op->rope.head_dim = head_dim;
    op->rope.inv_freq = b->inv_freq[rope];
    op->rope.factor = b->rope_factor[rope];
    return y;
}

static bool qkv_add(Builder *b, int x, int *q, int *k, int *v) {
    const Config *c = b->config;
    int64_t queries = c->num_attention_heads * c->head_dim;
    int64_t keys = c->num_key_value_heads * c->head_dim;
    const Weight *whole;
    TRY(fused_weight(b, ROLE_QKV, &whole));
    TRY(slice_add(b, whole, ROLE_Q, 0, "q", x, q));
    TRY(slice_add(b, whole, ROLE_K, queries, "k", x, k));
    TRY(slice_add(b, whole, ROLE_V, queries + keys, "v", x, v));
    if (b->d->q_norm) {
        TRY(norm_add(b, b->d->q_norm, "q_norm", c->head_dim, VALUE_ACT, *q, q));
        TRY(norm_add(b, b->d->k_norm, "k_norm", c->head_dim, VALUE_ACT, *k, k));
    }
    *q = rope_add(b, "q_rope", c->num_attention_heads, *q);
    *k = rope_add(b, "k_rope", c->num_key_value_heads, *k);
    return true;
}

static int attend_add(Builder *b, int q) {
    const Config *c = b->config;
    const LayerSpec *layer = &b->d->layers[b->layer];
    Op *op;
    int y = op_add(b, OP_ATTENTION, "attn", VALUE_ACT, c->num_attention_heads * c->head_dim, q, -1,
                   &op);
    op->attention.heads = c->num_attention_heads;
    op->attention.kv_heads = c->num_key_value_heads;
    op->attention.head_dim = c->head_dim;
    op->attention.scale = b->d->attention_scale;
    op->attention.softcap = b->d->attention_softcap;
    op->attention.window = layer->window;
    return y;
}

// h += scale * post_norm(y)
static bool residual_add(Builder *b, const char *post_norm, const char *name, int y, int *h) {
    Op *op;
    if (post_norm)
        TRY(norm_add(b, post_norm, arena_printf(b->arena, "%s_norm", name), b->config->hidden_size,
                     VALUE_F32, y, &y));
    *h = op_add(b, OP_ADD, name, VALUE_F32, b->config->hidden_size, *h, y, &op);
    if (b->d->residual_scale > 0)
        op->add.scale = b->d->residual_scale;
    return true;
}

static bool attention_add(Builder *b, int *h) {
    const Config *c = b->config;
    int x, q, k, v, o;
    TRY(norm_add(b, b->d->attn_norm, "attn_norm", c->hidden_size, VALUE_ACT, *h, &x));
    TRY(qkv_add(b, x, &q, &k, &v));
    Op *op = graph_op(b->g, OP_KV_APPEND, b->layer);
    op->inputs[0] = k;
    op->inputs[1] = v;
    op->kv_append.kv_heads = c->num_key_value_heads;
    op->kv_append.head_dim = c->head_dim;
    TRY(linear_add(b, ROLE_O, "o", VALUE_F32, attend_add(b, q), &o));
    return residual_add(b, b->d->attn_post_norm, "attn_out", o, h);
}

// ---- MLP ----------------------------------------------------------------------------------------

static bool dense_add(Builder *b, int m, int *y) {
    int64_t size = b->config->intermediate_size;
    int gate, up;
    const Weight *whole;
    Op *op;
    TRY(fused_weight(b, ROLE_GATE_UP, &whole));
    TRY(slice_add(b, whole, ROLE_GATE, 0, "gate", m, &gate));
    TRY(slice_add(b, whole, ROLE_UP, size, "up", m, &up));
    int s = op_add(b, OP_ACT_MUL, "act", VALUE_ACT, size, gate, up, &op);
    op->act_mul.act = b->d->act;
    return linear_add(b, ROLE_DOWN, "down", VALUE_F32, s, y);
}

// Experts whose weights are stored in one way: a stack of gate and up, and one of down.
typedef struct ExpertSet {
    const Weight **up, **down; // [count][2], [count]
    int32_t *slots;            // [experts]
    int count;
    int up_bits, down_bits; // of the first, as the checkpoint has them
} ExpertSet;

// Every expert joins the set of its bits: GPTQModel leaves experts that saw no calibration data
// unquantized.
static bool expert_sets(Builder *b, ExpertSet **out, int *count) {
    int64_t experts = b->d->experts;
    ExpertSet *sets = ARENA_NEW(b->arena, ExpertSet, experts);
    *count = 0;
    for (int expert = 0; expert < experts; expert++) {
        const Weight *w[3];
        for (int role = 0; role < 3; role++) {
            LinearSpec spec = module_spec(b->model, b->layer,
                                          (ModuleRole)((int)ROLE_EXPERT_GATE + role), expert);
            TRY(weight_new(b, &spec, &w[role]));
        }
        if (w[0]->bits != w[1]->bits)
            return fail(b->err, ERR_UNSUPPORTED, 361,
                        "%s: %s has %d bits, %s %d; gate and up of an expert must agree",
                        b->model->checkpoint->dir, w[0]->module, w[0]->bits, w[1]->module,
                        w[1]->bits);
        int at = 0;
        while (at < *count &&
               (sets[at].up_bits != w[0]->bits || sets[at].down_bits != w[2]->bits))
            at++;
        ExpertSet *set = &sets[at];
        if (at == *count) {
            ++*count;
            *set = (ExpertSet){.up = ARENA_NEW(b->arena, const Weight *, 2 * experts),
                               .down = ARENA_NEW(b->arena, const Weight *, experts),
                               .slots = ARENA_NEW(b->arena, int32_t, experts),
                               .up_bits = w[0]->bits,
                               .down_bits = w[2]->bits};
            for (int64_t e = 0; e < experts; e++)
                set->slots[e] = -1;
        }
        set->up[2 * set->count] = w[0];
        set->up[2 * set->count + 1] = w[1];
        set->down[set->count] = w[2];
        set->slots[expert] = set->count++;
    }
    *out = sets;
    return true;
}

static bool stack_add(Builder *b, const char *name, const Weight **parts, int part_count,
                      int experts, int *packed) {
    *packed = graph_experts_weight(b->g, name, parts, part_count, experts);
    if (*packed < 0)
        return fail(b->err, ERR_UNSUPPORTED, 362,
                    "%s: the experts of %s differ in the order of their inputs or in their groups "
                    "so that they cannot be stored together",
                    b->model->checkpoint->dir, name);
    return true;
}

static Op *experts_op(Builder *b, OpKind kind, const char *name, ValueType type, int64_t width,
                      int x, int routes, int packed, int slots, int *y) {
    Op *op;
    *y = op_add(b, kind, name, type, width, x, routes, &op);
    op->experts.weight = packed;
    op->experts.slots = slots;
    op->experts.top_k = b->d->top_k;
    op->experts.act = b->d->act;
    return op;
}

static bool expert_set_add(Builder *b, const ExpertSet *set, bool alone, int m, int routes,
                           int *y) {
    Graph *g = b->g;
    const char *base = arena_printf(b->arena, "%slayers.%d.%s", b->d->prefix, b->layer,
                                    b->d->expert);
    int up, down, h;
    TRY(stack_add(b, arena_printf(b->arena, "%s.gate+up", base), set->up, 2, set->count, &up));
    TRY(stack_add(b, arena_printf(b->arena, "%s.down", base), set->down, 1, set->count, &down));
    int slots = alone ? -1
                      : graph_index(g, arena_printf(b->arena, "%s.slots", base), set->slots,
                                    b->d->experts);
    PackedTensor *t = &g->packed[up];
    t->order = ROWS_GATE_UP;
    int64_t size = g->packed[down].in_features;
    if (g->packed[down].input_order) { // gate and up give their outputs in that order
        t->row_order = g->packed[down].input_order;
        t->out_features = 2 * size;
        t->rows = (int64_t)round_up((uint64_t)t->out_features, 16);
    }
    int order = -1;
    if (t->input_order)
        order = graph_index(g, arena_printf(b->arena, "%s.order", t->name), t->input_order,
                            set->count * t->in_features);
    Op *op = experts_op(b, OP_EXPERTS_UP, "experts_up", VALUE_ACT, b->d->top_k * size, m, routes,
                        up, slots, &h);
    op->experts.order = order;
    experts_op(b, OP_EXPERTS_DOWN, "experts_down", VALUE_F32, b->config->hidden_size, h, routes,
               down, slots, y);
    return true;
}

static bool experts_add(Builder *b, int m, int *h) {
    int logits, y, set_count = 0;
    Op *op;
    ExpertSet *sets = NULL;
    TRY(linear_add(b, ROLE_ROUTER, "router", VALUE_F32, m, &logits));
    int routes = op_add(b, OP_ROUTE, "routes", VALUE_F32, 2 * b->d->top_k, logits, -1, &op);
    op->route.experts = b->d->experts;
    op->route.top_k = b->d->top_k;
    op->route.normalize = b->d->normalize_routes;
    TRY(expert_sets(b, &sets, &set_count));
    if (set_count > 1 && b->d->mlp_post_norm)
        return fail(b->err, ERR_UNSUPPORTED, 363,
                    "%s: experts of different bits in a model with a norm behind them",
                    b->model->checkpoint->dir);
    for (int at = 0; at < set_count; at++) {
        TRY(expert_set_add(b, &sets[at], set_count == 1, m, routes, &y));
        TRY(residual_add(b, b->d->mlp_post_norm, "mlp_out", y, h));
    }
    return true;
}

static bool mlp_add(Builder *b, int *h) {
    int m, y;
    TRY(norm_add(b, b->d->mlp_norm, "mlp_norm", b->config->hidden_size, VALUE_ACT, *h, &m));
    if (b->d->layers[b->layer].moe)
        return experts_add(b, m, h);
    TRY(dense_add(b, m, &y));
    return residual_add(b, b->d->mlp_post_norm, "mlp_out", y, h);
}

// ---- head and embedding -------------------------------------------------------------------------

// The head's weights: its own, or the embedding's when there are none or they are equal.
static bool head_weight(Builder *b, int table, const Weight *embed, int *packed,
                        const Weight **head) {
    *packed = table;
    *head = embed;
    LinearSpec spec;
    if (!head_spec(b->model, &spec))
        return true;
    const Weight *own;
    TRY(weight_new(b, &spec, &own));
    const Tensor *x = own->weight, *y = embed->weight;
    if (x && x->type == y->type && !own->bias && memcmp(x->data, y->data, x->bytes) == 0)
        return true;
    *head = own;
    *packed = graph_linear_weight(b->g, spec.module, head, 1);
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
    TRY(norm_add(b, "norm", "head_norm", b->config->hidden_size, VALUE_ACT, x, &x));
    TRY(head_weight(b, table, embed, &packed, &head));
    b->g->logits = linear_op(b, packed, head, "logits", VALUE_F32, x);
    op = &b->g->ops[b->g->op_count - 1];
    if (b->d->logits_scale > 0)
        op->linear.scale = b->d->logits_scale;
    op->linear.softcap = b->d->logits_softcap;
    return true;
}

static bool embed_add(Builder *b, int *table, const Weight **embed, int *h) {
    LinearSpec spec = embed_spec(b->model);
    TRY(weight_new(b, &spec, embed));
    if (!(*embed)->weight)
        return fail(b->err, ERR_UNSUPPORTED, 356, "%s: %s is quantized, which is not supported",
                    (*embed)->qweight->file, spec.module);
    *table = graph_linear_weight(b->g, spec.module, embed, 1);
    Op *op;
    *h = op_add(b, OP_EMBED, "embed", VALUE_F32, b->config->hidden_size, -1, -1, &op);
    op->embed.table = *table;
    if (b->d->embed_scale > 0)
        op->embed.scale = b->d->embed_scale;
    return true;
}

static void ropes_add(Builder *b, int64_t max_seq_len) {
    int64_t pairs = b->config->head_dim / 2;
    for (int at = 0; at < b->d->rope_count; at++) {
        float *inv_freq = ARENA_NEW(b->arena, float, pairs);
        int64_t rotary = rope_frequencies(b->config, &b->d->ropes[at], max_seq_len, inv_freq,
                                          &b->rope_factor[at]);
        b->inv_freq[at] = graph_vector(b->g, at ? "local_inv_freq" : "inv_freq", inv_freq,
                                       rotary / 2);
    }
}

bool arch_build(const Arch *arch, Graph *g, const Config *c, const Checkpoint *checkpoint,
                int64_t max_seq_len, Arena *a, Error *err) {
    Model model;
    TRY(quant_require(checkpoint, &c->quant, err));
    TRY(model_open(&model, arch, c, checkpoint, a, err));
    Builder b = {.g = g, .model = &model, .config = c, .d = &model.d, .arena = a, .err = err};
    b.layer = -1;
    ropes_add(&b, max_seq_len);
    int table = -1, h = -1;
    const Weight *embed;
    TRY(embed_add(&b, &table, &embed, &h));
    for (b.layer = 0; b.layer < c->num_hidden_layers; b.layer++) {
        b.permuted_count = 0;
        TRY(attention_add(&b, &h));
        TRY(mlp_add(&b, &h));
    }
    return head_add(&b, table, embed, h);
}

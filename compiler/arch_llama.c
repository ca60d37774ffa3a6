// Llama 1, 2, 3, 3.1, 3.2 and whoever uses the class: pre-norm decoder, GQA, half-split RoPE on the
// whole head, SiLU-gated MLP.
// Source: transformers, models/llama/modeling_llama.py.
#include "compile.h"

#include <math.h>
#include <string.h>

// What the pieces of a layer share.
typedef struct Build {
    Graph *g;
    const Config *config;
    const Checkpoint *c;
    Arena *a;
    Error *err;
    int inv_freq; // packed
    float rope_factor;
    int64_t q_width, kv_width;
} Build;

// ---- values and weights -------------------------------------------------------------------------

static int value_new(Build *b, int layer, const char *name, ValueType type, int64_t width) {
    const char *full = layer < 0 ? name : arena_printf(b->a, "%s.%d", name, layer);
    return graph_value(b->g, full, type, width);
}

// A vector of the checkpoint as fp32.
static bool vector_open(Build *b, const char *name, int64_t count, int *packed) {
    const Tensor *t = checkpoint_find(b->c, name);
    char shape[96];
    if (!t)
        return fail(b->err, ERR_CORRUPT, 390, "%s: tensor %s is missing", b->c->dir, name);
    bool floats = t->type == TENSOR_F16 || t->type == TENSOR_BF16 || t->type == TENSOR_F32;
    if (!floats || t->rank != 1 || t->shape[0] != count)
        return fail(b->err, ERR_CORRUPT, 391, "%s: %s is %s %s, expected F16, BF16 or F32 [%lld]",
                    t->file, name, tensor_type_name(t->type),
                    shape_text(shape, sizeof shape, t->shape, t->rank), (long long)count);
    float *values = ARENA_NEW(b->a, float, count);
    tensor_read_f32(t, 0, count, values);
    for (int64_t at = 0; at < count; at++)
        if (!isfinite(values[at]))
            return fail(b->err, ERR_CORRUPT, 392, "%s: %s[%lld] is not finite", t->file, name,
                        (long long)at);
    *packed = graph_vector(b->g, t->name, values, count);
    return true;
}

static bool bias_open(Build *b, const Weight *w, int *packed) {
    *packed = -1;
    if (!w->bias)
        return true;
    // In packed row order, which is plain here: rows rounded up to 16.
    int64_t rows = (int64_t)round_up((uint64_t)w->out_features, 16);
    float *values = ARENA_NEW(b->a, float, rows);
    tensor_read_f32(w->bias, 0, w->out_features, values);
    *packed = graph_vector(b->g, w->bias->name, values, rows);
    return true;
}

static bool weight_packed(Build *b, const char *module, int64_t k, int64_t n, bool bias,
                          int *packed, int *packed_bias) {
    Weight *w = ARENA_NEW(b->a, Weight, 1);
    TRY(weight_open(w, b->c, &b->config->quant, module, k, n, bias, b->a, b->err));
    const Weight *parts[] = {w};
    *packed = graph_linear_weight(b->g, w->module, parts, 1);
    return bias_open(b, w, packed_bias);
}

// ---- ops ----------------------------------------------------------------------------------------

static bool linear_add(Build *b, int layer, const char *name, int64_t n, bool bias, int x,
                       int *output) {
    const char *module = arena_printf(b->a, "model.layers.%d.%s", layer, name);
    int packed, packed_bias;
    TRY(weight_packed(b, module, b->g->values[x].width, n, bias, &packed, &packed_bias));
    *output = value_new(b, layer, strrchr(name, '.') + 1, VALUE_ACT, n);
    Op *op = graph_op(b->g, OP_LINEAR, layer);
    op->inputs[0] = x;
    op->output = *output;
    op->linear.weight = packed;
    op->linear.bias = packed_bias;
    return true;
}

static bool norm_add(Build *b, int layer, const char *tensor, const char *name, int x, int *output) {
    int64_t width = b->g->values[x].width;
    int packed;
    TRY(vector_open(b, tensor, width, &packed));
    *output = value_new(b, layer, name, VALUE_ACT, width);
    Op *op = graph_op(b->g, OP_NORM, layer);
    op->inputs[0] = x;
    op->output = *output;
    op->norm.weight = packed;
    op->norm.eps = (float)b->config->rms_norm_eps;
    return true;
}

static int rope_add(Build *b, int layer, const char *name, int x, int64_t heads) {
    int output = value_new(b, layer, name, VALUE_ACT, b->g->values[x].width);
    Op *op = graph_op(b->g, OP_ROPE, layer);
    op->inputs[0] = x;
    op->output = output;
    op->rope.heads = heads;
    op->rope.head_dim = b->config->head_dim;
    op->rope.inv_freq = b->inv_freq;
    op->rope.factor = b->rope_factor;
    return output;
}

static int pair_add(Build *b, int layer, OpKind kind, const char *name, ValueType type, int left,
                    int right) {
    int output = value_new(b, layer, name, type, b->g->values[left].width);
    Op *op = graph_op(b->g, kind, layer);
    op->inputs[0] = left;
    op->inputs[1] = right;
    op->output = output;
    return output;
}

// ---- a layer ------------------------------------------------------------------------------------

static bool attention_add(Build *b, int layer, int x, int *output) {
    const Config *c = b->config;
    int q, k, v;
    TRY(linear_add(b, layer, "self_attn.q_proj", b->q_width, c->attention_bias, x, &q));
    TRY(linear_add(b, layer, "self_attn.k_proj", b->kv_width, c->attention_bias, x, &k));
    TRY(linear_add(b, layer, "self_attn.v_proj", b->kv_width, c->attention_bias, x, &v));
    q = rope_add(b, layer, "q_rope", q, c->num_attention_heads);
    k = rope_add(b, layer, "k_rope", k, c->num_key_value_heads);
    Op *append = graph_op(b->g, OP_KV_APPEND, layer);
    append->inputs[0] = k;
    append->inputs[1] = v;
    append->kv_append.kv_heads = c->num_key_value_heads;
    append->kv_append.head_dim = c->head_dim;
    int mixed = value_new(b, layer, "attention", VALUE_ACT, b->q_width);
    Op *op = graph_op(b->g, OP_ATTENTION, layer);
    op->inputs[0] = q;
    op->output = mixed;
    op->attention.heads = c->num_attention_heads;
    op->attention.kv_heads = c->num_key_value_heads;
    op->attention.head_dim = c->head_dim;
    op->attention.scale = (float)(1 / sqrt((double)c->head_dim));
    return linear_add(b, layer, "self_attn.o_proj", c->hidden_size, c->attention_bias, mixed,
                      output);
}

static bool mlp_add(Build *b, int layer, int x, int *output) {
    const Config *c = b->config;
    int gate, up;
    TRY(linear_add(b, layer, "mlp.gate_proj", c->intermediate_size, c->mlp_bias, x, &gate));
    TRY(linear_add(b, layer, "mlp.up_proj", c->intermediate_size, c->mlp_bias, x, &up));
    int product = pair_add(b, layer, OP_ACT_MUL, "product", VALUE_ACT, gate, up);
    b->g->ops[b->g->op_count - 1].act_mul.act = ACT_SILU;
    return linear_add(b, layer, "mlp.down_proj", c->hidden_size, c->mlp_bias, product, output);
}

static bool layer_add(Build *b, int layer, int *h) {
    int x, y;
    const char *prefix = arena_printf(b->a, "model.layers.%d.", layer);
    TRY(norm_add(b, layer, arena_printf(b->a, "%sinput_layernorm.weight", prefix), "attention_norm",
                 *h, &x));
    TRY(attention_add(b, layer, x, &y));
    *h = pair_add(b, layer, OP_ADD, "h_attention", VALUE_F32, *h, y);
    TRY(norm_add(b, layer, arena_printf(b->a, "%spost_attention_layernorm.weight", prefix),
                 "mlp_norm", *h, &x));
    TRY(mlp_add(b, layer, x, &y));
    *h = pair_add(b, layer, OP_ADD, "h", VALUE_F32, *h, y);
    return true;
}

// ---- head ---------------------------------------------------------------------------------------

static bool same_tensor(const Tensor *a, const Tensor *b) {
    return a->type == b->type && a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0;
}

// The head's packed weight: the embedding table when they are tied or byte-equal.
static bool head_weight(Build *b, int table, int *packed, int *bias) {
    const Config *c = b->config;
    const Tensor *embed = checkpoint_find(b->c, "model.embed_tokens.weight");
    const Tensor *head = checkpoint_find(b->c, "lm_head.weight");
    bool quantized = checkpoint_find(b->c, "lm_head.qweight") != NULL;
    *bias = -1;
    if (!quantized && (!head || same_tensor(embed, head))) {
        if (!head && c->tie_present && !c->tie_word_embeddings)
            return fail(b->err, ERR_CORRUPT, 393,
                        "%s: lm_head.weight is missing, and config.json says that the embeddings "
                        "are not tied", b->c->dir);
        *packed = table;
        return true;
    }
    return weight_packed(b, "lm_head", c->hidden_size, c->vocab_size, false, packed, bias);
}

static bool head_add(Build *b, int table) {
    Graph *g = b->g;
    int normed, packed, bias;
    g->head_first = g->op_count;
    int rows = value_new(b, -1, "head_rows", VALUE_F32, b->config->hidden_size);
    Op *gather = graph_op(g, OP_GATHER, -1);
    gather->inputs[0] = g->hidden;
    gather->output = rows;
    TRY(norm_add(b, -1, "model.norm.weight", "head_norm", rows, &normed));
    TRY(head_weight(b, table, &packed, &bias));
    g->logits = value_new(b, -1, "logits", VALUE_F32, b->config->vocab_size);
    Op *op = graph_op(g, OP_LINEAR, -1);
    op->inputs[0] = normed;
    op->output = g->logits;
    op->linear.weight = packed;
    op->linear.bias = bias;
    return true;
}

// ---- the graph ----------------------------------------------------------------------------------

static bool supported(const Config *c, Error *err) {
    if (strcmp(c->hidden_act, "silu") != 0)
        return fail(err, ERR_UNSUPPORTED, 394, "%s/config.json: hidden_act is \"%s\"; supported: silu",
                    c->dir, c->hidden_act);
    if (c->head_dim % 16 || c->rope.partial_rotary_factor != 1)
        return fail(err, ERR_UNSUPPORTED, 395,
                    "%s/config.json: head_dim %lld, partial_rotary_factor %g; supported: a multiple "
                    "of 16, all of it rotated", c->dir, (long long)c->head_dim,
                    c->rope.partial_rotary_factor);
    return true;
}

static bool embed_add(Build *b, int *table, int *h) {
    int bias;
    TRY(weight_packed(b, "model.embed_tokens", b->config->hidden_size, b->config->vocab_size, false,
                      table, &bias));
    if (b->g->packed[*table].bits != 16)
        return fail(b->err, ERR_UNSUPPORTED, 396, "%s: model.embed_tokens is quantized; supported: "
                    "a plain table", b->c->dir);
    *h = value_new(b, -1, "embedding", VALUE_F32, b->config->hidden_size);
    Op *op = graph_op(b->g, OP_EMBED, -1);
    op->output = *h;
    op->embed.table = *table;
    return true;
}

static bool llama_build(Graph *g, const Config *config, const Checkpoint *c, int64_t max_seq_len,
                        Arena *a, Error *err) {
    Build b = {.g = g, .config = config, .c = c, .a = a, .err = err};
    int table, h;
    TRY(supported(config, err));
    b.q_width = config->num_attention_heads * config->head_dim;
    b.kv_width = config->num_key_value_heads * config->head_dim;
    float *inv_freq = ARENA_NEW(a, float, config->head_dim / 2);
    int64_t count = rope_frequencies(config, max_seq_len, inv_freq, &b.rope_factor);
    TRY(embed_add(&b, &table, &h));
    b.inv_freq = graph_vector(g, "rope.inv_freq", inv_freq, count);
    for (int layer = 0; layer < (int)config->num_hidden_layers; layer++)
        TRY(layer_add(&b, layer, &h));
    g->hidden = h;
    return head_add(&b, table);
}

const Arch arch_llama = {
    .architecture = "LlamaForCausalLM",
    .build = llama_build,
};

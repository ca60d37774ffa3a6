// The oracle: runs a graph, fused or not, in plain loops and doubles. It knows nothing of targets,
// layouts or plans; every kernel and back end is tested against it, and it is itself tested against
// what Hugging Face transformers computed. Non-goal: speed, beyond being usable in tests and for the
// few tokens of a self-test, for which rows of weights are made one by one, by several threads.
#include "interp_product.h"

#include <assert.h>
#include <math.h>
#include <string.h>

typedef struct LayerCache {
    double *keys, *values; // [max_seq_len, kv_heads * head_dim]
} LayerCache;

struct Interp {
    const Graph *graph;
    Arena *arena;
    int64_t max_seq_len;
    int64_t vocab_size, kv_width; // kv_width = kv_heads * head_dim
    int64_t length;               // tokens in the cache
    double **values;              // [value_count]: [tokens of the last run, width]
    float **weights;              // [packed_count]: dequantized [N, K], made when first used
    LayerCache *caches;           // [layers]
    int threads;                  // 0: weights stay dequantized; else rows are made when needed
};

Interp *interp_new(const Graph *g, const Config *c, int64_t max_seq_len, Arena *a) {
    Interp *in = ARENA_NEW(a, Interp, 1);
    *in = (Interp){.graph = g,
                   .arena = a,
                   .max_seq_len = max_seq_len,
                   .vocab_size = c->vocab_size,
                   .kv_width = c->num_key_value_heads * c->head_dim,
                   .values = ARENA_NEW(a, double *, g->value_count),
                   .weights = ARENA_NEW(a, float *, g->packed_count),
                   .caches = ARENA_NEW(a, LayerCache, c->num_hidden_layers)};
    for (int64_t layer = 0; layer < c->num_hidden_layers; layer++) {
        in->caches[layer].keys = ARENA_NEW(a, double, max_seq_len * in->kv_width);
        in->caches[layer].values = ARENA_NEW(a, double, max_seq_len * in->kv_width);
    }
    return in;
}

const double *interp_value(const Interp *in, int value) {
    return in->values[value];
}

double interp_route_margin(const Interp *in, const Op *op, int64_t token) {
    const int64_t experts = op->route.experts, top_k = op->route.top_k;
    const double *logits = interp_value(in, op->inputs[0]) + token * experts;
    double margin = HUGE_VAL, limit = HUGE_VAL;
    for (int64_t j = 0; j <= top_k && j < experts; j++) { // one after the other, falling
        double next = -HUGE_VAL;
        for (int64_t e = 0; e < experts; e++)
            next = logits[e] < limit && logits[e] > next ? logits[e] : next;
        margin = limit - next;
        limit = next;
    }
    return top_k < experts ? margin : HUGE_VAL;
}

void interp_stream(Interp *in, int threads) {
    in->threads = threads < PRODUCT_MAX_THREADS ? threads : PRODUCT_MAX_THREADS;
}

static int threads_of(const Interp *in) {
    return in->threads ? in->threads : 1;
}

static const float *weights_of(Interp *in, int packed) {
    if (!in->weights[packed])
        in->weights[packed] = weights_dequantize(&in->graph->packed[packed], in->arena);
    return in->weights[packed];
}

// ---- functions of rows --------------------------------------------------------------------------

// Rows of `width`; with an order of `outs` elements, out[k] = normed[order[k]].
typedef struct NormSpec {
    const float *weight;
    const int32_t *order; // NULL: none
    int64_t width, outs;
    float eps;
} NormSpec;

static void norm_rows(const double *x, const NormSpec *n, int64_t rows, double *y) {
    for (int64_t t = 0; t < rows; t++, x += n->width, y += n->outs) {
        double squares = 0;
        for (int64_t i = 0; i < n->width; i++)
            squares += x[i] * x[i];
        double scale = 1 / sqrt(squares / (double)n->width + (double)n->eps);
        for (int64_t i = 0; i < n->outs; i++) {
            int64_t from = n->order ? n->order[i] : i;
            y[i] = from < 0 ? 0 : x[from] * scale * (double)n->weight[i];
        }
    }
}

static double softcap(double x, float cap) {
    return cap > 0 ? (double)cap * tanh(x / (double)cap) : x;
}

static double activation(Activation act, double x) {
    if (act == ACT_SILU)
        return x / (1 + exp(-x));
    if (act == ACT_GELU)
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

// Half-split pairs (i, i + r / 2) of each head, at positions first, first + 1, ...
// `stride` is the width of a row that holds more than these heads.
static void rope_rows(double *x, int64_t stride, int64_t heads, int64_t head_dim,
                      const PackedTensor *inv_freq, float factor, int64_t first, int64_t tokens) {
    int64_t half = inv_freq->count;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t head = 0; head < heads; head++)
            for (int64_t i = 0; i < half; i++) {
                // The angle is a product of floats in transformers too.
                double angle = (double)((float)(first + t) * inv_freq->values[i]);
                double c = cos(angle) * (double)factor, s = sin(angle) * (double)factor;
                double *pair = x + t * stride + head * head_dim + i;
                double low = pair[0], high = pair[half];
                pair[0] = low * c - high * s;
                pair[half] = high * c + low * s;
            }
}

static void cache_append(Interp *in, int layer, const double *k, const double *v, int64_t stride,
                         int64_t tokens) {
    size_t bytes = (size_t)in->kv_width * sizeof(double);
    for (int64_t t = 0; t < tokens; t++) {
        memcpy(in->caches[layer].keys + (in->length + t) * in->kv_width, k + t * stride, bytes);
        memcpy(in->caches[layer].values + (in->length + t) * in->kv_width, v + t * stride, bytes);
    }
}

// Over keys [first, visible).
static void attention_head(const Interp *in, const Op *op, const double *q, int64_t kv_head,
                           int64_t first, int64_t visible, double *scores, double *out) {
    const LayerCache *cache = &in->caches[op->layer];
    int64_t head_dim = op->attention.head_dim;
    double top = -HUGE_VAL, total = 0;
    for (int64_t j = first; j < visible; j++) {
        const double *key = cache->keys + j * in->kv_width + kv_head * head_dim;
        double score = 0;
        for (int64_t i = 0; i < head_dim; i++)
            score += q[i] * key[i];
        scores[j] = softcap(score * (double)op->attention.scale, op->attention.softcap);
        top = scores[j] > top ? scores[j] : top;
    }
    memset(out, 0, (size_t)head_dim * sizeof *out);
    for (int64_t j = first; j < visible; j++) {
        double weight = exp(scores[j] - top);
        const double *value = cache->values + j * in->kv_width + kv_head * head_dim;
        total += weight;
        for (int64_t i = 0; i < head_dim; i++)
            out[i] += weight * value[i];
    }
    for (int64_t i = 0; i < head_dim; i++)
        out[i] /= total;
}

// ---- ops ----------------------------------------------------------------------------------------

static void run_embed(Interp *in, const Op *op, const int32_t *ids, int64_t tokens) {
    const PackedTensor *table = &in->graph->packed[op->embed.table];
    int64_t width = table->in_features;
    float *row = ARENA_NEW(in->arena, float, width);
    for (int64_t t = 0; t < tokens; t++) {
        weight_row(table->parts[0], ids[t], row);
        for (int64_t i = 0; i < width; i++)
            in->values[op->output][t * width + i] = (double)row[i] * (double)op->embed.scale;
    }
}

// Which of y's features a packed row is; -1: padding.
static int64_t packed_feature(const PackedTensor *t, int64_t row) {
    if (t->order == ROWS_GATE_UP) { // also where row_order names others
        int64_t feature = row / 16 * 8 + row % 8;
        return feature < t->out_features / 2 ? row % 16 / 8 * (t->out_features / 2) + feature : -1;
    }
    int part;
    int64_t feature, first = 0;
    packed_row(t, row, &part, &feature);
    for (int before = 0; feature >= 0 && before < part; before++)
        first += t->parts[before]->out_features;
    return feature < 0 ? -1 : first + feature;
}

// y = scale * (y + bias), [tokens, N] in feature order.
static void linear_finish(const PackedTensor *t, const PackedTensor *bias, float scale,
                          int64_t tokens, double *y) {
    int64_t n = t->out_features;
    for (int64_t row = 0; bias && row < t->rows; row++) { // stored in packed row order
        int64_t feature = packed_feature(t, row);
        for (int64_t token = 0; feature >= 0 && token < tokens; token++)
            y[token * n + feature] += (double)bias->values[row];
    }
    for (int64_t i = 0; scale != 1 && i < tokens * n; i++)
        y[i] *= (double)scale;
}

static void epilogue_act_mul(const Op *op, const double *y, int64_t n, int64_t tokens,
                             double *out) {
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < n / 2; i++)
            out[t * n / 2 + i] = activation(op->linear.act, y[t * n + i]) * y[t * n + n / 2 + i];
}

static void epilogue_rope_kv(Interp *in, const Op *op, double *y, int64_t n, int64_t tokens,
                             double *out) {
    const PackedTensor *inv_freq = &in->graph->packed[op->linear.inv_freq];
    int64_t q_width = op->linear.heads * op->linear.head_dim;
    rope_rows(y, n, op->linear.heads + op->linear.kv_heads, op->linear.head_dim, inv_freq,
              op->linear.rope_factor, in->length, tokens);
    cache_append(in, op->layer, y + q_width, y + q_width + in->kv_width, n, tokens);
    for (int64_t t = 0; t < tokens; t++)
        memcpy(out + t * q_width, y + t * n, (size_t)q_width * sizeof *out);
}

static void run_linear(Interp *in, const Op *op, int64_t tokens) {
    const Graph *g = in->graph;
    int packed = op->linear.weight;
    const PackedTensor *t = &g->packed[packed];
    const double *x = in->values[op->inputs[0]];
    double *out = in->values[op->output];
    if (op->linear.prologue == PROLOGUE_NORM) {
        NormSpec norm = {.weight = g->packed[op->linear.norm_weight].values,
                         .width = g->values[op->inputs[0]].width,
                         .outs = t->in_features,
                         .eps = op->linear.eps};
        if (op->linear.norm_order >= 0)
            norm.order = g->packed[op->linear.norm_order].indices;
        double *normed = ARENA_NEW(in->arena, double, tokens * t->in_features);
        norm_rows(x, &norm, tokens, normed);
        x = normed;
    }
    int64_t n = t->out_features;
    double *y = ARENA_NEW(in->arena, double, tokens *n);
    const float *weights = in->threads ? NULL : weights_of(in, packed);
    product(&(Product){.t = t, .weights = weights, .x = x, .y = y, .tokens = tokens},
            threads_of(in));
    linear_finish(t, op->linear.bias < 0 ? NULL : &g->packed[op->linear.bias], op->linear.scale,
                  tokens, y);
    switch (op->linear.epilogue) {
    case EPILOGUE_STORE:
        for (int64_t i = 0; i < tokens * n; i++)
            out[i] = softcap(y[i], op->linear.softcap);
        break;
    case EPILOGUE_ADD:
        for (int64_t i = 0; i < tokens * n; i++)
            out[i] = in->values[op->inputs[1]][i] + y[i];
        break;
    case EPILOGUE_ACT_MUL:
        epilogue_act_mul(op, y, n, tokens, out);
        break;
    case EPILOGUE_ROPE_KV:
        epilogue_rope_kv(in, op, y, n, tokens, out);
        break;
    }
}

void interp_linear(const Graph *g, const Op *op, const double *x, int64_t tokens, double *y) {
    const PackedTensor *t = &g->packed[op->linear.weight];
    Arena arena = {0};
    const float *weights = weights_dequantize(t, &arena);
    product(&(Product){.t = t, .weights = weights, .x = x, .y = y, .tokens = tokens}, 1);
    linear_finish(t, op->linear.bias < 0 ? NULL : &g->packed[op->linear.bias], op->linear.scale,
                  tokens, y);
    arena_free(&arena);
}

static void run_attention(Interp *in, const Op *op, int64_t tokens) {
    int64_t heads = op->attention.heads, head_dim = op->attention.head_dim;
    int64_t per_kv = heads / op->attention.kv_heads, width = heads * head_dim;
    const int32_t *places =
        op->attention.places < 0 ? NULL : in->graph->packed[op->attention.places].indices;
    double *scores = ARENA_NEW(in->arena, double, in->length + tokens);
    double *row = ARENA_NEW(in->arena, double, width);
    for (int64_t t = 0; t < tokens; t++) {
        int64_t visible = in->length + t + 1, window = op->attention.window;
        int64_t first = window > 0 && visible > window ? visible - window : 0;
        double *out = in->values[op->output] + t * width;
        for (int64_t head = 0; head < heads; head++)
            attention_head(in, op, in->values[op->inputs[0]] + t * width + head * head_dim,
                           head / per_kv, first, visible, scores, row + head * head_dim);
        for (int64_t i = 0; i < width; i++)
            out[places ? places[i] : i] = row[i];
    }
}

// ---- experts ------------------------------------------------------------------------------------

static void route_token(const Op *op, const double *logits, double *routes) {
    int64_t experts = op->route.experts, top_k = op->route.top_k;
    double top = -HUGE_VAL, total = 0, chosen = 0;
    for (int64_t e = 0; e < experts; e++)
        top = logits[e] > top ? logits[e] : top;
    for (int64_t e = 0; e < experts; e++)
        total += exp(logits[e] - top);
    for (int64_t j = 0; j < top_k; j++) {
        int64_t best = -1;
        for (int64_t e = 0; e < experts; e++) {
            bool taken = false;
            for (int64_t before = 0; before < j; before++)
                taken = taken || (int64_t)routes[before] == e;
            if (!taken && (best < 0 || logits[e] > logits[best]))
                best = e;
        }
        routes[j] = (double)best;
        routes[top_k + j] = exp(logits[best] - top) / total;
        chosen += routes[top_k + j];
    }
    for (int64_t j = 0; op->route.normalize && j < top_k; j++)
        routes[top_k + j] /= chosen;
}

// y = W_e x of the expert in choice j of a token; false: it is not in this stack.
static bool expert_product(Interp *in, const Op *op, double choice, const double *x, double *y) {
    const Graph *g = in->graph;
    const PackedTensor *t = &g->packed[op->experts.weight];
    int64_t k = t->in_features, n = t->out_features, slot = (int64_t)choice;
    if (op->experts.slots >= 0)
        slot = g->packed[op->experts.slots].indices[slot];
    if (slot < 0)
        return false;
    const float *weights = in->threads ? NULL : weights_of(in, op->experts.weight) + slot * n * k;
    double *ordered = ARENA_NEW(in->arena, double, k);
    for (int64_t i = 0; i < k; i++) {
        int64_t from =
            op->experts.order < 0 ? i : g->packed[op->experts.order].indices[slot * k + i];
        ordered[i] = from < 0 ? 0 : x[from];
    }
    product(
        &(Product){.t = t, .weights = weights, .expert = slot, .x = ordered, .y = y, .tokens = 1},
        threads_of(in));
    return true;
}

static void run_experts(Interp *in, const Op *op, int64_t tokens) {
    const Graph *g = in->graph;
    const PackedTensor *t = &g->packed[op->experts.weight];
    bool up = op->kind == OP_EXPERTS_UP;
    int64_t top_k = op->experts.top_k, n = t->out_features;
    int64_t in_width = g->values[op->inputs[0]].width, out_width = g->values[op->output].width;
    double *y = ARENA_NEW(in->arena, double, n);
    for (int64_t token = 0; token < tokens; token++) {
        const double *routes = in->values[op->inputs[1]] + token * 2 * top_k;
        const double *x = in->values[op->inputs[0]] + token * in_width;
        double *out = in->values[op->output] + token * out_width;
        memset(out, 0, (size_t)out_width * sizeof *out);
        for (int64_t j = 0; j < top_k; j++) {
            const double *from = up ? x : x + j * t->in_features;
            if (!expert_product(in, op, routes[j], from, y))
                continue;
            for (int64_t i = 0; up && i < n / 2; i++)
                out[j * n / 2 + i] = activation(op->experts.act, y[i]) * y[n / 2 + i];
            for (int64_t i = 0; !up && i < n; i++)
                out[i] += routes[top_k + j] * y[i];
        }
    }
}

// ---- the rest -----------------------------------------------------------------------------------

static void run_norm(Interp *in, const Op *op, int64_t tokens) {
    const Graph *g = in->graph;
    int64_t width = op->norm.width, rows = tokens * g->values[op->inputs[0]].width / width;
    NormSpec norm = {.weight = g->packed[op->norm.weight].values,
                     .width = width,
                     .outs = op->norm.order < 0 ? width : g->values[op->output].width,
                     .eps = op->norm.eps};
    if (op->norm.order >= 0)
        norm.order = g->packed[op->norm.order].indices;
    norm_rows(in->values[op->inputs[0]], &norm, rows, in->values[op->output]);
}

static void run_permute(Interp *in, const Op *op, int64_t tokens) {
    const Graph *g = in->graph;
    const int32_t *order = g->packed[op->permute.order].indices;
    int64_t in_width = g->values[op->inputs[0]].width, out_width = g->values[op->output].width;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t k = 0; k < out_width; k++)
            in->values[op->output][t * out_width + k] =
                order[k] < 0 ? 0 : in->values[op->inputs[0]][t * in_width + order[k]];
}

static void run_simple(Interp *in, const Op *op, int64_t tokens) {
    const Graph *g = in->graph;
    const double *a = in->values[op->inputs[0]];
    const double *b = op->inputs[1] < 0 ? NULL : in->values[op->inputs[1]];
    int64_t width = g->values[op->inputs[0]].width;
    double *out = op->output < 0 ? NULL : in->values[op->output];
    switch (op->kind) {
    case OP_ROPE:
        memcpy(out, a, (size_t)(tokens * width) * sizeof *out);
        rope_rows(out, width, op->rope.heads, op->rope.head_dim, &g->packed[op->rope.inv_freq],
                  op->rope.factor, in->length, tokens);
        break;
    case OP_KV_APPEND:
        cache_append(in, op->layer, a, b, in->kv_width, tokens);
        break;
    case OP_ACT_MUL:
        for (int64_t i = 0; i < tokens * width; i++)
            out[i] = activation(op->act_mul.act, a[i]) * b[i];
        break;
    case OP_ADD:
        for (int64_t i = 0; i < tokens * width; i++)
            out[i] = a[i] + (double)op->add.scale * b[i];
        break;
    case OP_GATHER: // the oracle gives the logits of every token
        memcpy(out, a, (size_t)(tokens * width) * sizeof *out);
        break;
    case OP_ROUTE:
        for (int64_t t = 0; t < tokens; t++)
            route_token(op, a + t * width, out + t * 2 * op->route.top_k);
        break;
    case OP_NORM:
    case OP_PERMUTE:
    case OP_EXPERTS_UP:
    case OP_EXPERTS_DOWN:
    case OP_EMBED:
    case OP_LINEAR:
    case OP_ATTENTION:
    case OP_COUNT:
        assert(false);
    }
}

static void run_op(Interp *in, const Op *op, const int32_t *ids, int64_t tokens) {
    if (op->output >= 0)
        in->values[op->output] =
            ARENA_NEW(in->arena, double, tokens * in->graph->values[op->output].width);
    if (op->kind == OP_EMBED)
        run_embed(in, op, ids, tokens);
    else if (op->kind == OP_NORM)
        run_norm(in, op, tokens);
    else if (op->kind == OP_PERMUTE)
        run_permute(in, op, tokens);
    else if (op->kind == OP_EXPERTS_UP || op->kind == OP_EXPERTS_DOWN)
        run_experts(in, op, tokens);
    else if (op->kind == OP_LINEAR)
        run_linear(in, op, tokens);
    else if (op->kind == OP_ATTENTION)
        run_attention(in, op, tokens);
    else
        run_simple(in, op, tokens);
}

bool interp_run(Interp *in, const int32_t *ids, int count, double *logits, Error *err) {
    if (in->length + count > in->max_seq_len)
        return fail(err, ERR_RESOURCE, 480, "%lld tokens, the oracle was made for %lld",
                    (long long)in->length + count, (long long)in->max_seq_len);
    for (int at = 0; at < count; at++)
        if (ids[at] < 0 || ids[at] >= in->vocab_size)
            return fail(err, ERR_USAGE, 481, "token id %d is outside the vocabulary of %lld",
                        ids[at], (long long)in->vocab_size);
    for (int at = 0; at < in->graph->op_count; at++)
        run_op(in, &in->graph->ops[at], ids, count);
    in->length += count;
    memcpy(logits, in->values[in->graph->logits],
           (size_t)count * (size_t)in->vocab_size * sizeof *logits);
    return true;
}

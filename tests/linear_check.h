// What a linear op must give: inputs, the results in doubles, and the comparison of the worst
// element with its bound. Used on a GPU (gpu_linear.c) and emulated (unit/test_gpu_linear.c).
#ifndef LINEAR_CHECK_H
#define LINEAR_CHECK_H

#include "tests/kv_lab.h"
#include "tests/linear_lab.h"

enum { CHECK_TOKENS = 200 };

typedef struct Data {
    int64_t tokens; // up to CHECK_TOKENS
    uint16_t *x_half;
    float *x, *residual; // [tokens, ...]
    int32_t positions[CHECK_TOKENS], slots[CHECK_TOKENS];
    int32_t table[LAB_SLOTS * LAB_SEQ / LAB_PAGE];
    double *y;      // [tokens, rows]: before the epilogue
    double largest; // of |y|
} Data;

static inline uint16_t act_bits(const Case *c, float value) {
    return c->bf16 ? bfloat_from_float(value) : half_from_float(value);
}

static inline float act_value(const Case *c, uint16_t bits) {
    return c->bf16 ? bfloat_to_float(bits) : half_to_float(bits);
}

static inline void data_places(Data *d) {
    for (int m = 0; m < CHECK_TOKENS; m++) {
        d->slots[m] = m == 3 ? -1 : m % LAB_SLOTS;
        d->positions[m] = m / LAB_SLOTS * 5 % LAB_SEQ;
    }
    for (int i = 0; i < LAB_SLOTS * LAB_SEQ / LAB_PAGE; i++)
        d->table[i] = 1 + i * 5 % (LAB_PAGES - 1); // 5 and 64 have no common divisor
}

// One token's inputs of the products, in[K], from its x and the same as activations.
static inline void data_input(const Lab *lab, const float *x, const uint16_t *half, float *in) {
    const PackedTensor *t = &lab->graph.packed[lab->op->linear.weight];
    int64_t width = lab->graph.values[lab->x].width;
    const int32_t *order = lab->norm ? t->input_order : NULL;
    double squares = 0;
    for (int64_t i = 0; i < width; i++)
        squares += (double)x[i] * (double)x[i];
    double factor = 1 / sqrt(squares / (double)width + (double)lab->op->linear.eps);
    for (int64_t i = 0; i < t->in_features; i++) {
        int64_t from = order ? order[i] : i;
        double normed =
            from < 0 || !lab->norm ? 0 : (double)x[from] * factor * (double)lab->norm[i];
        in[i] = act_value(lab->c, lab->norm ? act_bits(lab->c, (float)normed) : half[i]);
    }
}

// Inputs of the products, [tokens, K], from x of one token after the other.
static inline float *data_inputs(Data *d, const Lab *lab, Arena *a) {
    Random r = {.state = 99};
    int64_t k = lab->graph.packed[lab->op->linear.weight].in_features;
    int64_t width = lab->graph.values[lab->x].width;
    float *in = ARENA_NEW(a, float, d->tokens *k);
    d->x_half = ARENA_NEW(a, uint16_t, d->tokens *width);
    d->x = ARENA_NEW(a, float, d->tokens *width);
    for (int64_t m = 0; m < d->tokens; m++) {
        float *x = d->x + m * width;
        for (int64_t i = 0; i < width; i++) {
            x[i] = random_normal(&r) * (m % 5 == 4 && i % 97 == 0 ? 30.0f : 1.0f);
            d->x_half[m * width + i] = act_bits(lab->c, x[i]);
        }
        data_input(lab, x, d->x_half + m * width, in + m * k);
    }
    return in;
}

// Packed row `at` in the order of the inputs; zeros for padding. raw, row: room for a row.
static inline void data_row(const PackedTensor *t, int64_t at, float *raw, float *row) {
    int part;
    int64_t n;
    packed_row(t, at, &part, &n);
    for (int64_t i = 0; i < t->in_features; i++)
        row[i] = 0;
    if (n < 0)
        return;
    weight_row(t->parts[part], n, t->input_order ? raw : row);
    for (int64_t i = 0; t->input_order && i < t->in_features; i++)
        row[i] = t->input_order[i] < 0 ? 0 : raw[t->input_order[i]];
}

static inline void data_make(Data *d, const Lab *lab, int64_t tokens, Arena *a) {
    Random r = {.state = 98};
    const PackedTensor *t = &lab->graph.packed[lab->op->linear.weight];
    int64_t k = t->in_features;
    *d = (Data){.tokens = tokens,
                .residual = ARENA_NEW(a, float, tokens * t->out_features),
                .y = ARENA_NEW(a, double, tokens * t->rows)};
    data_places(d);
    for (int64_t i = 0; i < tokens * t->out_features; i++)
        d->residual[i] = random_normal(&r);
    const float *in = data_inputs(d, lab, a);
    float *row = ARENA_NEW(a, float, k), *raw = ARENA_NEW(a, float, t->parts[0]->in_features);
    for (int64_t at = 0; at < t->rows; at++) {
        data_row(t, at, raw, row);
        for (int64_t m = 0; m < tokens; m++) {
            double sum = 0;
            for (int64_t i = 0; i < k; i++)
                sum += (double)row[i] * (double)in[m * k + i];
            sum = (sum + (lab->bias ? (double)lab->bias[at] : 0)) * (double)lab->op->linear.scale;
            d->y[m * t->rows + at] = sum;
            d->largest = fmax(d->largest, fabs(sum));
        }
    }
}

// ---- comparison ---------------------------------------------------------------------------------

typedef struct Result {
    unsigned char *arena, *kv;
    double worst; // error over its bound
    int64_t compared;
    char where[128];
} Result;

static inline void compare(Result *r, double found, double expected, double bound, int64_t token,
                           int64_t row) {
    double share = fabs(found - expected) / bound;
    r->compared++;
    if (share <= r->worst)
        return;
    r->worst = isnan(share) ? HUGE_VAL : share;
    snprintf(r->where, sizeof r->where, "token %lld row %lld: %.6g, expected %.6g",
             (long long)token, (long long)row, found, expected);
}

static inline double act_at(const Case *c, const unsigned char *base, int64_t index) {
    uint16_t bits;
    memcpy(&bits, base + index * 2, 2);
    return (double)act_value(c, bits);
}

static inline double float_at(const unsigned char *base, int64_t index) {
    float value;
    memcpy(&value, base + index * 4, 4);
    return (double)value;
}

// bf16 has three bits less than fp16.
static inline double act_step(const Run *run) {
    return run->lab->c->bf16 ? 8 : 1;
}

// Error of fp32 sums (relative to the largest one), and of rounding a result to an activation. The
// GEMM also rounds each weight.
static inline double sum_bound(const Run *run, const Data *d) {
    const PackedTensor *t = &run->lab->graph.packed[run->lab->op->linear.weight];
    bool rounded = !run->decode && t->bits != 16;
    double share = rounded ? 6e-4 * act_step(run) : run->lab->norm ? 2e-4 * act_step(run) : 3e-5;
    return d->largest * share + 1e-6;
}

static inline double act_bound(const Run *run, double value) {
    return fabs(value) * 6e-4 * act_step(run);
}

static inline const unsigned char *kv_row(const Run *run, const Data *d, const Result *r, int64_t m,
                                          int64_t head, bool value) {
    const ModelInfo *info = &run->lab->plan.info;
    int64_t position = d->positions[m], slot = d->slots[m];
    int64_t page = slot < 0 ? 0 : d->table[slot * (LAB_SEQ / LAB_PAGE) + position / LAB_PAGE];
    return r->kv + page * info->kv_page_bytes + LAB_LAYER * info->kv_layer_stride +
           (value ? info->kv_layer_stride / 2 : 0) +
           (head * LAB_PAGE + position % LAB_PAGE) * run->lab->c->head_dim * 2;
}

static inline void compare_rope(const Run *run, const Data *d, Result *r, const unsigned char *out,
                                int64_t m, int64_t tile, int i) {
    const Case *c = run->lab->c;
    int64_t rows = (c->heads + 2 * c->kv_heads) * c->head_dim, at = tile * 16 + i;
    double low = d->y[m * rows + at], high = d->y[m * rows + at + 8], bound = sum_bound(run, d) * 2;
    int64_t head = at / c->head_dim, in_head = tile % (c->head_dim / 16);
    bool rotated = head < c->heads + c->kv_heads;
    int64_t first = rotated ? in_head * 8 + i : in_head * 16 + i;
    int64_t second = rotated ? first + c->head_dim / 2 : first + 8;
    if (rotated) {
        float angle = (float)d->positions[m] * run->lab->inv_freq[first];
        double cosine = cos((double)angle), sine = sin((double)angle), x = low;
        double factor = (double)run->lab->op->linear.rope_factor;
        low = (x * cosine - high * sine) * factor;
        high = (high * cosine + x * sine) * factor;
    }
    const unsigned char *row = out + (m * c->heads + head) * c->head_dim * 2;
    if (head >= c->heads)
        row = kv_row(run, d, r, m, rotated ? head - c->heads : head - c->heads - c->kv_heads,
                     !rotated);
    int64_t flip = head < c->heads ? 0 : kv_lab_flip(c->head_dim, d->positions[m]);
    compare(r, act_at(c, row, first ^ flip), low, bound + act_bound(run, low) + 1e-4, m, at);
    compare(r, act_at(c, row, second ^ flip), high, bound + act_bound(run, high) + 1e-4, m, at + 8);
}

static inline double gate(Activation act, double x) {
    if (act == ACT_SILU)
        return x / (1 + exp(-x));
    if (act == ACT_GELU)
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

// Rows i and i + 8 of a tile.
static inline void compare_pair(const Run *run, const Data *d, Result *r, const unsigned char *out,
                                int64_t m, int64_t tile, int i) {
    const Lab *lab = run->lab;
    const PackedTensor *t = &lab->graph.packed[lab->op->linear.weight];
    double bound = sum_bound(run, d), cap = (double)lab->c->softcap;
    const double *y = d->y + m * t->rows + tile * 16 + i;
    if (lab->c->epilogue == EPILOGUE_ROPE_KV) {
        compare_rope(run, d, r, out, m, tile, i);
        return;
    }
    if (lab->c->epilogue == EPILOGUE_ACT_MUL) {
        int64_t feature = tile * 8 + i, features = t->out_features / 2;
        double value = gate(lab->c->act, y[0]) * y[8];
        if (feature < features)
            compare(r, act_at(lab->c, out, m * features + feature), value,
                    act_bound(run, value) + bound * (fabs(y[0]) + fabs(y[8]) + 1) + 1e-6, m,
                    feature);
        return;
    }
    for (int half = 0; half < 2; half++) {
        int64_t row = tile * 16 + i + 8 * half, at = m * t->out_features + row;
        if (row >= t->out_features)
            continue;
        double value = cap > 0 ? cap * tanh(y[8 * half] / cap) : y[8 * half];
        if (lab->c->epilogue == EPILOGUE_ADD)
            compare(r, float_at(out, at), value + (double)d->residual[at], bound + 1e-5, m, row);
        else if (lab->c->f32)
            compare(r, float_at(out, at), value, bound + cap * 1e-6, m, row);
        else
            compare(r, act_at(lab->c, out, at), value, bound + act_bound(run, value), m, row);
    }
}

// Everything behind the last output, up to the end of the buffer and its guard, is as it was
// filled.
static inline bool guards_hold(const Run *run, const Result *r, int64_t tokens) {
    const Value *v = &run->lab->graph.values[run->lab->op->output];
    const Buffer *b = &run->phase.buffers[run->phase.value_buffer[run->lab->op->output]];
    int64_t used = tokens * v->width * plan_value_elem(&run->lab->plan, run->lab->op->output);
    for (int64_t at = b->offset + used; at < b->offset + b->bytes + LAB_GUARD; at++)
        if (r->arena[at] != 0xff)
            return false;
    return true;
}

static inline const unsigned char *result_out(const Run *run, const Result *r) {
    return r->arena + run->phase.buffers[run->phase.value_buffer[run->lab->op->output]].offset;
}

// All outputs of the first `tokens` tokens.
static inline void compare_all(const Run *run, const Data *d, Result *r, int64_t tokens) {
    const PackedTensor *t = &run->lab->graph.packed[run->lab->op->linear.weight];
    for (int64_t m = 0; m < tokens; m++)
        for (int64_t pair = 0; pair < t->rows / 2; pair++)
            compare_pair(run, d, r, result_out(run, r), m, pair / 8, (int)(pair % 8));
    if (!guards_hold(run, r, tokens))
        compare(r, HUGE_VAL, 0, 1, tokens, -1);
}

#endif

// Products of the oracle: rows of dequantized weights, summed in doubles.
//
// Every sum is made by one thread in one order, so that neither the number of threads nor the
// vectors of the machine change a bit.
#include "interp_product.h"

#include <pthread.h>
#include <string.h>

// ---- rows of weights ----------------------------------------------------------------------------

// Row n of a part as the linear's inputs want it; n = -1: zeros. raw: room for a checkpoint row.
static void weight_ordered(const PackedTensor *t, const Weight *w, int64_t n, const int32_t *order,
                           float *raw, float *row) {
    if (n < 0) {
        memset(row, 0, (size_t)t->in_features * sizeof *row);
        return;
    }
    weight_row(w, n, order ? raw : row);
    for (int64_t k = 0; order && k < t->in_features; k++)
        row[k] = order[k] < 0 ? 0 : raw[order[k]];
}

// Row `row` of an expert's [N, K]: all parts below each other, in the order of their features (no
// row order).
static void row_dequantize(const PackedTensor *t, int64_t expert, int64_t row, float *raw,
                           float *out) {
    const Weight *const *parts = t->parts + expert * t->part_count;
    const int32_t *order = t->input_order ? t->input_order + expert * t->in_features : NULL;
    const int32_t *rows = t->row_order ? t->row_order + expert * t->out_features / 2 : NULL;
    int part = 0;
    for (int64_t features; part + 1 < t->part_count; part++) {
        features = rows ? t->out_features / 2 : parts[part]->out_features;
        if (row < features)
            break;
        row -= features;
    }
    weight_ordered(t, parts[part], rows ? rows[row] : row, order, raw, out);
}

float *weights_dequantize(const PackedTensor *t, Arena *a) {
    int64_t n = t->out_features, k = t->in_features;
    float *all = ARENA_NEW(a, float, t->experts *n *k);
    float *raw = ARENA_NEW(a, float, t->parts[0]->in_features);
    for (int64_t row = 0; row < t->experts * n; row++)
        row_dequantize(t, row / n, row % n, raw, all + row * k);
    return all;
}

// ---- sums ---------------------------------------------------------------------------------------

// Eight partial sums: independent, so that the loop is not one chain of additions.
static double dot_plain(const float *w, const double *x, int64_t count) {
    double sum[8] = {0};
    int64_t k = 0;
    for (; k + 8 <= count; k += 8)
        for (int lane = 0; lane < 8; lane++)
            sum[lane] += (double)w[k + lane] * x[k + lane];
    double rest = 0;
    for (; k < count; k++)
        rest += (double)w[k] * x[k];
    return rest + ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

#if defined(__x86_64__)
typedef float Floats __attribute__((vector_size(16), aligned(4), may_alias));
typedef double Doubles __attribute__((vector_size(32), aligned(8), may_alias));

// The same sums in two vectors: the same bits, since nothing is fused.
__attribute__((target("avx2"))) static double dot_avx2(const float *w, const double *x,
                                                       int64_t count) {
    Doubles low = {0}, high = {0};
    int64_t k = 0;
    for (; k + 8 <= count; k += 8) {
        const Floats *weights = (const void *)(w + k);
        const Doubles *inputs = (const void *)(x + k);
        low += __builtin_convertvector(weights[0], Doubles) * inputs[0];
        high += __builtin_convertvector(weights[1], Doubles) * inputs[1];
    }
    double rest = 0;
    for (; k < count; k++)
        rest += (double)w[k] * x[k];
    return rest + ((low[0] + low[1]) + (low[2] + low[3])) +
           ((high[0] + high[1]) + (high[2] + high[3]));
}
#endif

static double dot(const float *w, const double *x, int64_t count) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        return dot_avx2(w, x, count);
#endif
    return dot_plain(w, x, count);
}

// ---- products -----------------------------------------------------------------------------------

static void *product_run(void *argument) {
    const Product *p = argument;
    int64_t k = p->t->in_features, n = p->t->out_features;
    Arena arena = {0};
    float *raw = p->weights ? NULL : ARENA_NEW(&arena, float, p->t->parts[0]->in_features);
    float *made = p->weights ? NULL : ARENA_NEW(&arena, float, k);
    for (int64_t row = p->first; row < p->end; row++) {
        if (!p->weights)
            row_dequantize(p->t, p->expert, row, raw, made);
        const float *w = p->weights ? p->weights + row * k : made;
        for (int64_t token = 0; token < p->tokens; token++)
            p->y[token * n + row] = dot(w, p->x + token * k, k);
    }
    arena_free(&arena);
    return NULL;
}

void product(const Product *whole, int threads) {
    int started = 0;
    int64_t n = whole->t->out_features;
    pthread_t ids[PRODUCT_MAX_THREADS];
    Product parts[PRODUCT_MAX_THREADS];
    for (int at = 0; at < threads; at++) {
        parts[at] = *whole;
        parts[at].first = n * at / threads;
        parts[at].end = n * (at + 1) / threads;
    }
    while (started < threads - 1 &&
           pthread_create(&ids[started], NULL, product_run, &parts[started]) == 0)
        started++;
    for (int at = started; at < threads; at++)
        product_run(&parts[at]);
    for (int at = 0; at < started; at++)
        pthread_join(ids[at], NULL);
}

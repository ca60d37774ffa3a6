// A random linear module in memory, as gptq.c would describe one of a checkpoint.
#ifndef RANDOM_WEIGHT_H
#define RANDOM_WEIGHT_H

#include "compiler/compile.h"

#include <string.h>

typedef struct Random {
    uint64_t state; // not 0
} Random;

static inline uint32_t random_u32(Random *r) { // xorshift64*
    r->state ^= r->state >> 12;
    r->state ^= r->state << 25;
    r->state ^= r->state >> 27;
    return (uint32_t)(r->state * 0x2545f4914f6cdd1d >> 32);
}

static inline float random_uniform(Random *r, float low, float high) {
    return low + (high - low) * (float)(random_u32(r) >> 8) * 0x1p-24f;
}

// About normal, variance 1, between -6 and 6.
static inline float random_normal(Random *r) {
    float sum = 0;
    for (int i = 0; i < 12; i++)
        sum += random_uniform(r, -0.5f, 0.5f);
    return sum;
}

static inline Tensor *random_tensor(Arena *a, const char *name, TensorType type, int64_t rows,
                                    int64_t columns, size_t elem_bytes) {
    Tensor *t = ARENA_NEW(a, Tensor, 1);
    *t = (Tensor){.name = name, .file = "memory", .type = type, .rank = 2};
    t->shape[0] = rows;
    t->shape[1] = columns;
    t->bytes = (size_t)(rows * columns) * elem_bytes;
    t->data = arena_alloc(a, t->bytes);
    return t;
}

// bits 2 to 8 (5 to 7 in planes) or 16; group_size > 0, or -1: one group. Scales lie between scale_low and scale_high.
static inline Weight *random_weight(Arena *a, Random *r, int bits, int64_t group_size, int64_t in,
                                    int64_t out, float scale_low, float scale_high) {
    Weight *w = ARENA_NEW(a, Weight, 1);
    *w = (Weight){.module = "random",
                  .in_features = in,
                  .out_features = out,
                  .bits = bits,
                  .group_size = group_size > 0 ? group_size : in,
                  .sym = true,
                  .zeros = "-"};
    w->groups = ceil_div(in, w->group_size);
    if (bits == 16) {
        Tensor *plain = random_tensor(a, "random.weight", TENSOR_F16, out, in, 2);
        for (int64_t i = 0; i < in * out; i++) {
            uint16_t half = half_from_float(random_normal(r) * scale_high);
            memcpy((unsigned char *)(uintptr_t)plain->data + 2 * i, &half, 2);
        }
        w->weight = plain;
        w->groups = 0;
        return w;
    }
    Tensor *codes = random_tensor(a, "random.qweight", TENSOR_I32, in * bits / 32, out, 4);
    for (size_t i = 0; i < codes->bytes / 4; i++) {
        uint32_t word = random_u32(r);
        memcpy((unsigned char *)(uintptr_t)codes->data + 4 * i, &word, 4);
    }
    Tensor *scales = random_tensor(a, "random.scales", TENSOR_F16, w->groups, out, 2);
    for (int64_t i = 0; i < w->groups * out; i++) {
        uint16_t half = half_from_float(random_uniform(r, scale_low, scale_high));
        memcpy((unsigned char *)(uintptr_t)scales->data + 2 * i, &half, 2);
    }
    w->qweight = codes;
    w->scales = scales;
    w->scales_half = true;
    w->zeros_default = true;
    w->format = bits >= 5 && bits <= 7 ? QUANT_GPTQ_P : QUANT_GPTQ;
    return w;
}

// Gives a quantized module zero points of its own, all values of its width.
static inline void random_zeros(Weight *w, Arena *a, Random *r) {
    Tensor *zeros = random_tensor(a, "random.qzeros", TENSOR_I32, w->groups,
                                  ceil_div(w->out_features * w->bits, 32), 4);
    for (size_t i = 0; i < zeros->bytes / 4; i++) {
        uint32_t word = random_u32(r);
        memcpy((unsigned char *)(uintptr_t)zeros->data + 4 * i, &word, 4);
    }
    w->qzeros = zeros;
    w->zero_rule = ZERO_STORED;
    w->zeros_default = w->sym = false;
}

// Scales that are no fp16 numbers.
static inline void random_scales_f32(Weight *w, Arena *a, Random *r) {
    Tensor *scales = random_tensor(a, "random.scales", TENSOR_F32, w->groups, w->out_features, 4);
    for (int64_t i = 0; i < w->groups * w->out_features; i++) {
        float scale = random_uniform(r, -0.02f, 0.02f);
        memcpy((unsigned char *)(uintptr_t)scales->data + 4 * i, &scale, 4);
    }
    w->scales = scales;
    w->scales_half = false;
}

// Gives the inputs of a quantized module another order of groups, from `seed`; equal seeds and shapes
// give equal orders.
static inline void random_act_order(Weight *w, Arena *a, uint64_t seed) {
    Random r = {.state = seed};
    Tensor *t = random_tensor(a, "random.g_idx", TENSOR_I32, w->in_features, 1, 4);
    int32_t *index = (int32_t *)(uintptr_t)t->data;
    for (int64_t k = 0; k < w->in_features; k++)
        index[k] = (int32_t)(k / w->group_size);
    for (int64_t k = w->in_features - 1; k > 0; k--) {
        int64_t other = random_u32(&r) % (k + 1);
        int32_t kept = index[k];
        index[k] = index[other];
        index[other] = kept;
    }
    w->g_idx = t;
    w->act_order = true;
}

#endif

// What several CPU kernels do with a row of floats: loading and storing eight of them, activation
// functions, rotary embedding, addresses in the KV cache.
#ifndef ROWS_H
#define ROWS_H

#include "../runtime/step.h"
#include "simd.h"

extern const int64_t HOLE_HEADS, HOLE_KV_HEADS, HOLE_HEAD_DIM;
extern const int64_t HOLE_PAGE_TOKENS;   // tokens of one KV page
extern const int64_t HOLE_PAGES_PER_SEQ; // pages in a row of the page table
extern const int64_t HOLE_KV_PAGE_BYTES;
extern const int64_t HOLE_KV_LAYER_STRIDE; // bytes of keys and values of a layer in a page
extern const int64_t HOLE_KV_BF16;         // 1: elements of the KV cache are bf16, 0: fp16

enum { ACT_SILU, ACT_GELU_TANH, ACT_GELU }; // ORDER ACTIVATIONS

typedef struct KvCache {
    uint8_t *layer; // page 0 of the layer
    const int32_t *page_table;
} KvCache;

INLINE float float_bits(int64_t bits) {
    const uint32_t low = (uint32_t)bits;
    float value;
    memcpy(&value, &low, sizeof value);
    return value;
}

INLINE f8 f8_load(const float *p) {
    f8 v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void f8_store(float *p, f8 v) {
    memcpy(p, &v, sizeof v);
}
// The first `count` of 8, which may be none or more than 8.
INLINE f8 f8_load_some(const float *p, int64_t count) {
    if (count >= 8)
        return f8_load(p);
    f8 v = {0};
    for (int i = 0; i < count; i++)
        v[i] = p[i];
    return v;
}
INLINE void f8_store_some(float *p, f8 v, int64_t count) {
    if (count >= 8)
        f8_store(p, v);
    else
        for (int i = 0; i < count; i++)
            p[i] = v[i];
}

// The mean of the squares, in an order that depends on `count` only.
INLINE float mean_square(const float *x, int64_t count) {
    enum { CHAINS = 4 };
    vf acc[CHAINS][SUM_VECTORS] = {{vf_zero()}};
    int64_t at = 0;
    for (; at + CHAINS * SUMS <= count; at += CHAINS * SUMS) {
        UNROLL
        for (int chain = 0; chain < CHAINS; chain++) {
            UNROLL
            for (int i = 0; i < SUM_VECTORS; i++) {
                const vf v = vf_load(x + at + chain * SUMS + i * LANES);
                acc[chain][i] = vf_fma(v, v, acc[chain][i]);
            }
        }
    }
    vf sums[SUM_VECTORS];
    UNROLL
    for (int i = 0; i < SUM_VECTORS; i++)
        sums[i] = (acc[0][i] + acc[1][i]) + (acc[2][i] + acc[3][i]);
    float sum = vf_sum(sums);
    for (; at < count; at++)
        sum += x[at] * x[at];
    return sum / (float)count;
}

// x times the normal distribution at x, 0.5 (1 + erf(x / sqrt 2)). With z = |x| / sqrt 2 and
// t = 1 / (1 + z / 2): erfc(z) = t e^(-z^2 + p(t)), p by Chebyshev (Numerical Recipes, erfcc;
// relative error 1.2e-7). e^ makes an error of z^2 = x^2 / 2 a relative one, so x^2 is taken in an
// exact part and a small one.
INLINE f8 gelu(f8 x) {
    static const float p[] = {0.17087277f,  -0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f,
                              -0.18628806f, 0.09678418f,  0.37409196f, 1.00002368f,  -1.26551223f};
    const i8 negative = x < 0.0f;
    f8 a = (f8)((i8)x & INT32_MAX);
    const i8 far = a > 14.0f; // erfc is 0
    a = (f8)(((i8)a & ~far) | ((i8)(14.0f - (f8){0}) & far));
    const f8 t = 1.0f / (1.0f + 0.35355339059f * a);
    f8 sum = p[0] - (f8){0};
    UNROLL
    for (int i = 1; i < 10; i++)
        sum = sum * t + p[i];
    const f8 high = (f8)((i8)a & -4096), rest = 0.5f * (a - high) * (a + high);
    const f8 tail = 0.5f * t * f8_exp(-0.5f * high * high) * f8_exp(sum - rest);
    return x * (f8)(((i8)tail & negative) | ((i8)(1.0f - tail) & ~negative));
}

// silu(x) = x / (1 + e^-x); gelu by tanh is x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
INLINE f8 activate(f8 x, int64_t act) {
    if (act == ACT_GELU)
        return gelu(x);
    const f8 u = act == ACT_SILU ? x : 1.5957691216f * (x + 0.044715f * x * x * x);
    return x / (1.0f + f8_exp(-u));
}

// cap * tanh(x / cap)
INLINE f8 f8_softcap(f8 x, float cap) {
    return cap * f8_tanh(x / cap);
}
INLINE vf vf_softcap(vf x, float cap) {
    return cap * vf_tanh(x / cap);
}

// cos and sin of position * inv_freq, times `factor`. The angle is rounded to float like the
// reference's; it is reduced and evaluated in double, so that large positions lose nothing.
INLINE void rotation_some(int32_t position, f8 inv_freq, float factor, f8 *cosine, f8 *sine) {
    const d8 angle = __builtin_convertvector(inv_freq * (float)position, d8);
    const double round = 6755399441055744.0; // 1.5 * 2^52: adding it rounds to an integer
    const d8 shifted = angle * 0.6366197723675814 + round;
    const d8 n = shifted - round;
    const d8 r = (angle - n * 1.5707963267948966) - n * 6.123233995736766e-17, r2 = r * r;
    // Taylor, |r| <= pi / 4: the next terms are below 2e-9.
    const d8 s = r + r * r2 * (-1.0 / 6 + r2 * (1.0 / 120 + r2 * (-1.0 / 5040 + r2 / 362880)));
    const d8 c = 1.0 + r2 * (-0.5 + r2 * (1.0 / 24 + r2 * (-1.0 / 720 + r2 / 40320)));
    typedef int64_t l8 __attribute__((vector_size(64)));
    const l8 quadrant = (l8)shifted & 3;
    const l8 swap = (quadrant & 1) != 0;
    const l8 sign_s = (quadrant & 2) << 62, sign_c = ((quadrant + 1) & 2) << 62;
    const d8 sin_out = (d8)((((l8)s & ~swap) | ((l8)c & swap)) ^ sign_s);
    const d8 cos_out = (d8)((((l8)c & ~swap) | ((l8)s & swap)) ^ sign_c);
    *cosine = __builtin_convertvector(cos_out, f8) * factor;
    *sine = __builtin_convertvector(sin_out, f8) * factor;
}
INLINE void rotation(int32_t position, const float *inv_freq, float factor, f8 *cosine, f8 *sine) {
    rotation_some(position, f8_load(inv_freq), factor, cosine, sine);
}

// The elements of one token and head: keys (which = 0) or values (1). Slot -1 has page 0, where
// nobody reads.
INLINE uint8_t *kv_row(const KvCache *kv, int which, int32_t slot, int32_t position, int64_t head) {
    const int64_t page =
        slot < 0 ? 0 : kv->page_table[slot * HOLE_PAGES_PER_SEQ + position / HOLE_PAGE_TOKENS];
    return kv->layer + page * HOLE_KV_PAGE_BYTES + which * HOLE_KV_LAYER_STRIDE / 2 +
           (head * HOLE_PAGE_TOKENS + position % HOLE_PAGE_TOKENS) * HOLE_HEAD_DIM * 2;
}

// LANES elements at p; the pair in each 32-bit lane of v; 8 elements to p.
INLINE vf kv_load(const void *p) {
    return HOLE_KV_BF16 ? vf_bf16(p) : vf_half(p);
}
INLINE void kv_pairs(vi v, vf *low, vf *high) {
    if (HOLE_KV_BF16)
        vf_bf16_pairs(v, low, high);
    else
        vf_half_pairs(v, low, high);
}
INLINE void kv_store(void *p, f8 v) {
    if (HOLE_KV_BF16)
        f8_bf16_store(p, v);
    else
        f8_half_store(p, v);
}

#endif

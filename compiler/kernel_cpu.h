// What the CPU kernel families share. Their templates are templates/cpu_*.c, whose holes are the
// parameters set here.
#ifndef KERNEL_CPU_H
#define KERNEL_CPU_H

#include "../runtime/step.h"
#include "compile.h"

// The KV cache as the templates address it.
static inline void kv_params(Params *params, const Plan *p, int64_t heads, int64_t kv_heads,
                             int64_t head_dim) {
    params_set(params, "HEADS", heads);
    params_set(params, "KV_HEADS", kv_heads);
    params_set(params, "HEAD_DIM", head_dim);
    params_set(params, "PAGE_TOKENS", p->info.page_tokens);
    params_set(params, "PAGES_PER_SEQ", p->batch.pages_per_seq);
    params_set(params, "KV_PAGE_BYTES", p->info.kv_page_bytes);
    params_set(params, "KV_LAYER_STRIDE", p->info.kv_layer_stride);
    params_set(params, "KV_BF16", p->info.kv_dtype == DTYPE_BF16);
}

// ---- linears: twins of templates/tile16.h ------------------------------------------------------

enum { CPU_TOKENS_TOGETHER = 4, CPU_SCALE_BYTES = 8 /* BlockScale */ };

// The weights as product.h reads them.
static inline void cpu_weight_params(Params *params, const PackedTensor *t) {
    params_set(params, "K", t->in_features);
    params_set(params, "BITS", t->bits);
    params_set(params, "GROUP", t->bits == 16 ? 0 : t->group);
    params_set(params, "ZEROS", t->zeros);
    params_set(params, "SCALE_F32", t->scale_f32);
    params_set(params, "WEIGHT_BF16", t->bf16);
}

static inline bool cpu_weight_accepts(const PackedTensor *t, char reason[REASON_BYTES]) {
    const bool group = t->group == 16 || t->group == 32 || t->group == 64 || t->group == 128;
    if (t->bits == 16 || (group && (t->bits == 4 || t->bits == 8)))
        return true;
    snprintf(reason, REASON_BYTES, "stored as %d bits in groups of %d; it takes 4, 8 and 16 bits",
             t->bits, t->group);
    return false;
}

// Of one token's prepared inputs.
static inline int64_t cpu_code_bytes(const PackedTensor *t) {
    return t->k_padded * (t->bits == 16 ? 4 : 2);
}
static inline int64_t cpu_scale_bytes(const PackedTensor *t) {
    return (t->bits == 16 ? 1 : t->k_padded / t->group) * CPU_SCALE_BYTES;
}

// Limited by memory or by arithmetic, plus the barrier behind the step.
static inline Cost cpu_cost(const Problem *p, double bytes, double flops) {
    const double barrier_us = 0.5;
    const Target *t = p->plan->target;
    const double memory_us = bytes / (t->bandwidth_gbs * 1e3);
    const double compute_us = flops / (t->tensor_tflops * 1e6);
    return (Cost){.bytes = bytes,
                  .flops = flops,
                  .us = (memory_us > compute_us ? memory_us : compute_us) + barrier_us};
}

#endif

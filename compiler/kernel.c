// The table of kernel families. A new kernel is one file kernel_*.c, one line here and one test.
// plan.c asks every family of an op's kind and device; among equal costs the first one wins.
#include "compile.h"

#include <inttypes.h>
#include <string.h>

const Kernel *const kernel_table[] = {
    // ORDER KERNELS
    // CUDA
    &kernel_embed,
    &kernel_norm,
    &kernel_gather,
    &kernel_rope,
    &kernel_kv_append,
    &kernel_act_mul,
    &kernel_add,
    &kernel_permute,
    &kernel_route,
    &kernel_linear_decode,
    &kernel_linear_gemm,
    &kernel_linear_wgmma,
    &kernel_experts_up_decode,
    &kernel_experts_up_gemm,
    &kernel_experts_down_decode,
    &kernel_experts_down_gemm,
    &kernel_attention_decode,
    &kernel_attention_prefill,
    &kernel_attention_wgmma,
    // CPU
    &kernel_cpu_embed,
    &kernel_cpu_norm,
    &kernel_cpu_gather,
    &kernel_cpu_rope,
    &kernel_cpu_kv_append,
    &kernel_cpu_act_mul,
    &kernel_cpu_add,
    &kernel_cpu_permute,
    &kernel_cpu_route,
    &kernel_cpu_linear,
    &kernel_cpu_experts_up,
    &kernel_cpu_experts_down,
    &kernel_cpu_attention,
};

const int kernel_table_count = sizeof kernel_table / sizeof *kernel_table;

static const Param *param_find(const Params *p, const char *name) {
    for (int at = 0; at < p->count; at++)
        if (strcmp(p->items[at].name, name) == 0)
            return &p->items[at];
    return NULL;
}

// Do all candidates agree on it?
static bool param_common(const Params *all, int count, const Param *param) {
    for (int at = 0; at < count; at++) {
        const Param *other = param_find(&all[at], param->name);
        if (!other || other->value != param->value)
            return false;
    }
    return true;
}

const char *candidate_text(char *out, size_t size, const Params *all, int count, int which) {
    const Params *p = &all[which];
    size_t used = 0;
    out[0] = 0;
    for (int at = 0; at < p->count && used < size; at++) {
        const Param *param = &p->items[at];
        if (!param_common(all, count, param) && strcmp(param->name, "SHARED_BYTES") != 0)
            used += (size_t)snprintf(out + used, size - used, "%s%s=%" PRId64, used ? " " : "",
                                     param->name, param->value);
    }
    return out;
}

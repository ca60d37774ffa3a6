// The table of kernel families. A new kernel is one file kernel_*.c, one line here and one test.
// plan.c asks every family of an op's kind and device; among equal costs the first one wins.
#include "compile.h"

const Kernel *const kernel_table[] = { // ORDER KERNELS
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

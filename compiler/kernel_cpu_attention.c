// Attention on the CPU, templates/cpu_attention.c: one kernel for decode and prefill.
#include "kernel_cpu.h"

enum { STRIPE = 32, MAX_HEAD_DIM = 256, POSITIONS_TOGETHER = 4 }; // templates/cpu_attention.c

static bool accepts(const Problem *p, char reason[REASON_BYTES]) {
    const Op *op = p->op;
    if (op->attention.head_dim % STRIPE || op->attention.head_dim > MAX_HEAD_DIM) {
        snprintf(reason, REASON_BYTES, "head_dim %lld; it takes multiples of %d up to %d",
                 (long long)op->attention.head_dim, STRIPE, MAX_HEAD_DIM);
        return false;
    }
    if (p->plan->info.page_tokens % POSITIONS_TOGETHER) {
        snprintf(reason, REASON_BYTES, "KV pages of %lld tokens; it takes multiples of %d",
                 (long long)p->plan->info.page_tokens, POSITIONS_TOGETHER);
        return false;
    }
    return true;
}

static int candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    const Op *op = p->op;
    out[0] = (Params){.count = 0};
    kv_params(&out[0], p->plan, op->attention.heads, op->attention.kv_heads,
              op->attention.head_dim);
    params_set(&out[0], "SCALE", float_param(op->attention.scale));
    return 1;
}

// With a context as long as the phase's tokens; float arithmetic has half the rate of integers.
static Cost cost(const Problem *p, const Params *params) {
    const Op *op = p->op;
    (void)params;
    const double tokens = (double)p->max_tokens;
    const double width = (double)(op->attention.heads * op->attention.head_dim);
    const double kv_bytes = (double)(op->attention.kv_heads * op->attention.head_dim) * 4;
    return cpu_cost(p, tokens * (kv_bytes + 8 * width), 4 * tokens * tokens * width);
}

static void lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                  PhasePlan *phase) {
    const Op *op = p->op;
    Step *s = plan_step(plan, phase, op, "cpu_attention", "attention", params);
    s->cost = *predicted;
    step_value(plan, phase, s, op->inputs[0]);
    step_kv(s, plan, op->layer);
    step_address(s, REGION_BATCH, plan->batch.slots);
    step_address(s, REGION_BATCH, plan->batch.positions);
    step_address(s, REGION_BATCH, plan->batch.page_table);
    step_value(plan, phase, s, op->output);
}

const Kernel kernel_cpu_attention = {
    .name = "cpu_attention",
    .device = DEVICE_CPU,
    .op = OP_ATTENTION,
    .accepts = accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = lower,
};

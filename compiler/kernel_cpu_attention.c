// Attention on the CPU, templates/cpu_attention.c: one kernel for decode and prefill. Long sequences
// are cut into parts; in decode, where rows may be fewer than threads, parts are dealt out to threads
// and a second step merges.
#include "kernel_cpu.h"

enum {
    HEAD_DIM_UNIT = 8, // templates/cpu_attention.c
    MAX_HEAD_DIM = 256,
    POSITIONS_TOGETHER = 4,
    BLOCK = 32,
    SHORTEST_PART = 256, // positions; about 10 us for four query heads of 128
    PARTS_LIMIT = 16,    // of a row, which bounds the memory for their sums
};

static bool accepts(const Problem *p, char reason[REASON_BYTES]) {
    const Op *op = p->op;
    if (op->attention.head_dim % HEAD_DIM_UNIT || op->attention.head_dim > MAX_HEAD_DIM) {
        snprintf(reason, REASON_BYTES, "head_dim %lld; it takes multiples of %d up to %d",
                 (long long)op->attention.head_dim, HEAD_DIM_UNIT, MAX_HEAD_DIM);
        return false;
    }
    if (p->plan->info.page_tokens % POSITIONS_TOGETHER) {
        snprintf(reason, REASON_BYTES, "KV pages of %lld tokens; it takes multiples of %d",
                 (long long)p->plan->info.page_tokens, POSITIONS_TOGETHER);
        return false;
    }
    return true;
}

// Positions of a part and parts of a row.
typedef struct Split {
    int64_t positions, parts; // positions 0: rows are not cut
} Split;

static Split split_of(const Problem *p) {
    const int64_t window = p->op->attention.window, longest = p->plan->info.max_seq_len;
    const int64_t visible = window > 0 && window < longest ? window : longest;
    if (visible <= SHORTEST_PART)
        return (Split){0, 1};
    const int64_t even = (int64_t)round_up((uint64_t)ceil_div(visible, PARTS_LIMIT), BLOCK);
    const int64_t positions = even > SHORTEST_PART ? even : SHORTEST_PART;
    const bool anywhere = visible < longest; // a window may start inside a part
    return (Split){positions, ceil_div(visible, positions) + anywhere};
}

static int candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    const Op *op = p->op;
    out[0] = (Params){.count = 0};
    kv_params(&out[0], p->plan, op->attention.heads, op->attention.kv_heads,
              op->attention.head_dim);
    params_set_float(&out[0], "SCALE", op->attention.scale);
    params_set_float(&out[0], "SOFTCAP", op->attention.softcap);
    const int64_t window = op->attention.window;
    params_set(&out[0], "WINDOW", window < p->plan->info.max_seq_len ? window : 0);
    params_set(&out[0], "PLACES", op->attention.places >= 0);
    const Split split = split_of(p);
    params_set(&out[0], "SPLIT", split.positions);
    params_set(&out[0], "PARTS", split.parts);
    params_set(&out[0], "APART", split.positions > 0 && p->phase == PHASE_DECODE);
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

static void merge_lower(const Op *op, const Params *params, int parts, Plan *plan,
                        PhasePlan *phase) {
    Step *s = plan_step(plan, phase, op, "cpu_attention", "attention_merge", params);
    step_buffer(phase, s, parts, 0);
    step_address(s, REGION_BATCH, plan->batch.slots);
    step_address(s, REGION_BATCH, plan->batch.positions);
    step_weights_or_0(s, plan, op->attention.places);
    step_value(plan, phase, s, op->output);
}

static void lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                  PhasePlan *phase) {
    const Op *op = p->op;
    const bool cut = params_get(params, "APART") > 0;
    Step *s = plan_step(plan, phase, op, "cpu_attention", "attention", params);
    s->cost = *predicted;
    step_value(plan, phase, s, op->inputs[0]);
    step_kv(s, plan, op->layer);
    step_address(s, REGION_BATCH, plan->batch.slots);
    step_address(s, REGION_BATCH, plan->batch.positions);
    step_address(s, REGION_BATCH, plan->batch.page_table);
    step_weights_or_0(s, plan, op->attention.places);
    int parts = -1;
    if (cut) {
        const int64_t part_bytes = op->attention.heads * (op->attention.head_dim + 2) * 4;
        parts = plan_buffer(plan, phase, "attention parts",
                            p->max_tokens * params_get(params, "PARTS") * part_bytes);
        step_buffer(phase, s, parts, 0);
    } else {
        step_int(s, 0);
    }
    step_value(plan, phase, s, op->output);
    if (cut)
        merge_lower(op, params, parts, plan, phase);
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

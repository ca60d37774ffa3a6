// What knows heads on a GPU where no linear took it over: kernels/rope.cu and kv_append.cu.
#include "kernel_rows.h"

enum { APPEND_ELEMS = 8 }; // 16 bytes, what a thread of kv_append.cu copies

// ---- rope ---------------------------------------------------------------------------------------

static int64_t pairs_of(const Problem *p) {
    return p->plan->graph->packed[p->op->rope.inv_freq].count;
}

static int rope_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    const Op *op = p->op;
    int64_t pairs = pairs_of(p);
    out[0] = (Params){0};
    params_set(&out[0], "HEADS", op->rope.heads);
    params_set(&out[0], "HEAD_DIM", op->rope.head_dim);
    params_set(&out[0], "PAIRS", pairs);
    params_set_float(&out[0], "FACTOR_BITS", op->rope.factor);
    params_set(&out[0], "VECTOR", vector_of(pairs, op->rope.head_dim - 2 * pairs));
    return 1;
}

static void rope_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                       PhasePlan *phase) {
    const Lowering l = {p, params, cost, plan, phase};
    int64_t elems = p->op->rope.head_dim - pairs_of(p); // a pair is one
    Step *s = rows_step(&l, "kernels/rope.cu", "rope",
                        p->op->rope.heads * elems / params_get(params, "VECTOR"));
    rows_value(&l, s, p->op->inputs[0]);
    step_weights(s, plan, p->op->rope.inv_freq);
    step_address(s, REGION_BATCH, plan->batch.positions);
    rows_value(&l, s, p->op->output);
    step_tokens(s);
}

// ---- kv_append ----------------------------------------------------------------------------------

static bool append_accepts(const Problem *p, char reason[REASON_BYTES]) {
    if (p->op->kv_append.head_dim % APPEND_ELEMS == 0)
        return rows_accepts(p, reason);
    snprintf(reason, REASON_BYTES, "head_dim %lld, takes multiples of %d",
             (long long)p->op->kv_append.head_dim, APPEND_ELEMS);
    return false;
}

static int append_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    out[0] = (Params){0};
    params_set(&out[0], "KV_HEADS", p->op->kv_append.kv_heads);
    params_set(&out[0], "HEAD_DIM", p->op->kv_append.head_dim);
    params_kv(&out[0], p->plan);
    return 1;
}

static void append_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                         PhasePlan *phase) {
    const Lowering l = {p, params, cost, plan, phase};
    int64_t elems = 2 * p->op->kv_append.kv_heads * p->op->kv_append.head_dim;
    Step *s = rows_step(&l, "kernels/kv_append.cu", "kv_append", elems / APPEND_ELEMS);
    rows_value(&l, s, p->op->inputs[0]);
    rows_value(&l, s, p->op->inputs[1]);
    step_kv(s, plan, p->op->layer);
    step_address(s, REGION_BATCH, plan->batch.positions);
    step_address(s, REGION_BATCH, plan->batch.slots);
    step_address(s, REGION_BATCH, plan->batch.page_table);
    step_tokens(s);
}

// ---- the families -------------------------------------------------------------------------------

const Kernel kernel_rope = {
    .name = "rope",
    .device = DEVICE_CUDA,
    .op = OP_ROPE,
    .accepts = rows_accepts,
    .candidates = rope_candidates,
    .cost = rows_cost,
    .lower = rope_lower,
};

const Kernel kernel_kv_append = {
    .name = "kv_append",
    .device = DEVICE_CUDA,
    .op = OP_KV_APPEND,
    .accepts = append_accepts,
    .candidates = append_candidates,
    .cost = rows_cost,
    .lower = append_lower,
};

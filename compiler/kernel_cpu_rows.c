// Ops on rows and heads on the CPU that no linear took over: templates/cpu_rows.c and
// templates/cpu_heads.c. They are bound by memory and small beside the linears.
#include "kernel_cpu.h"

static const PackedTensor *packed_of(const Problem *p, int packed) {
    return &p->plan->graph->packed[packed];
}

static bool accepts(const Problem *p, char reason[REASON_BYTES]) {
    (void)p;
    (void)reason;
    return true;
}

static bool embed_accepts(const Problem *p, char reason[REASON_BYTES]) {
    const PackedTensor *t = packed_of(p, p->op->embed.table);
    if (t->bits == 16)
        return true;
    snprintf(reason, REASON_BYTES, "a table of %d bits; it takes 16", t->bits);
    return false;
}

enum { HEAD_DIM_UNIT = 8 }; // elements that templates/cpu_heads.c stores at a time

static bool kv_append_accepts(const Problem *p, char reason[REASON_BYTES]) {
    const int64_t head_dim = p->op->kv_append.head_dim;
    if (head_dim % HEAD_DIM_UNIT == 0)
        return true;
    snprintf(reason, REASON_BYTES, "head_dim %lld; it takes multiples of %d", (long long)head_dim,
             HEAD_DIM_UNIT);
    return false;
}

// ---- parameters ---------------------------------------------------------------------------------

static void embed_params(const Problem *p, Params *params) {
    const PackedTensor *t = packed_of(p, p->op->embed.table);
    params_set(params, "ROWS", t->out_features);
    params_set(params, "WEIGHT_BF16", t->bf16);
    params_set_float(params, "SCALE", p->op->embed.scale);
}

static void norm_params(const Problem *p, Params *params) {
    const Op *op = p->op;
    const int64_t groups = value_width(p, op->inputs[0]) / op->norm.width;
    params_set(params, "IN", op->norm.width);
    params_set(params, "GROUPS", groups);
    params_set(params, "WIDTH", value_width(p, op->output) / groups);
    params_set(params, "HAS_ORDER", op->norm.order >= 0);
    params_set_float(params, "EPS", op->norm.eps);
}

static void rope_params(const Problem *p, Params *params) {
    kv_params(params, p->plan, p->op->rope.heads, 0, p->op->rope.head_dim);
    params_set(params, "PAIRS", packed_of(p, p->op->rope.inv_freq)->count);
    params_set_float(params, "ROPE_FACTOR", p->op->rope.factor);
}

static void route_params(const Problem *p, Params *params) {
    params_set(params, "IN", p->op->route.experts);
    params_set(params, "TOP_K", p->op->route.top_k);
    params_set(params, "NORMALIZE", p->op->route.normalize);
}

static void kv_append_params(const Problem *p, Params *params) {
    kv_params(params, p->plan, 0, p->op->kv_append.kv_heads, p->op->kv_append.head_dim);
}

static void act_mul_params(const Problem *p, Params *params) {
    params_set(params, "ACT", p->op->act_mul.act);
}

static void add_params(const Problem *p, Params *params) {
    params_set_float(params, "SCALE", p->op->add.scale);
}

static void permute_params(const Problem *p, Params *params) {
    params_set(params, "IN", value_width(p, p->op->inputs[0]));
}

// Besides WIDTH, elements of a row of the output. NULL: none.
static void (*const params_of[OP_COUNT])(const Problem *p, Params *params) = {
    [OP_EMBED] = embed_params,         [OP_NORM] = norm_params,       [OP_ROPE] = rope_params,
    [OP_KV_APPEND] = kv_append_params, [OP_ACT_MUL] = act_mul_params, [OP_ADD] = add_params,
    [OP_PERMUTE] = permute_params,     [OP_ROUTE] = route_params,
};

static int candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    out[0] = (Params){.count = 0};
    if (p->op->output >= 0)
        params_set(&out[0], "WIDTH", value_width(p, p->op->output));
    if (params_of[p->op->kind])
        params_of[p->op->kind](p, &out[0]);
    return 1;
}

// Every input and output moves through memory once.
static Cost cost(const Problem *p, const Params *params) {
    (void)params;
    const Op *op = p->op;
    int64_t width = op->output >= 0 ? value_width(p, op->output) : 0;
    for (int at = 0; at < 3; at++)
        width += op->inputs[at] >= 0 ? value_width(p, op->inputs[at]) : 0;
    return cpu_cost(p, (double)(p->max_tokens * width * 4), 0);
}

// ---- steps: the operands in the order of the function's parameters ------------------------------

static void embed_lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                        PhasePlan *phase) {
    Step *s = plan_step(plan, phase, p->op, "cpu_rows", "embed", params);
    s->cost = *predicted;
    step_address(s, REGION_BATCH, plan->batch.token_ids);
    step_weights_ready(s, plan, p->op->embed.table);
    step_value(plan, phase, s, p->op->output);
}

static void norm_lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                       PhasePlan *phase) {
    Step *s = plan_step(plan, phase, p->op, "cpu_rows", "norm", params);
    s->cost = *predicted;
    step_value(plan, phase, s, p->op->inputs[0]);
    step_weights(s, plan, p->op->norm.weight);
    if (p->op->norm.order >= 0)
        step_weights(s, plan, p->op->norm.order);
    else
        step_int(s, 0);
    step_value(plan, phase, s, p->op->output);
}

static void rope_lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                       PhasePlan *phase) {
    Step *s = plan_step(plan, phase, p->op, "cpu_heads", "rope", params);
    s->cost = *predicted;
    step_value(plan, phase, s, p->op->inputs[0]);
    step_weights(s, plan, p->op->rope.inv_freq);
    step_address(s, REGION_BATCH, plan->batch.positions);
    step_value(plan, phase, s, p->op->output);
}

static void kv_append_lower(const Problem *p, const Params *params, const Cost *predicted,
                            Plan *plan, PhasePlan *phase) {
    Step *s = plan_step(plan, phase, p->op, "cpu_heads", "kv_append", params);
    s->cost = *predicted;
    step_value(plan, phase, s, p->op->inputs[0]);
    step_value(plan, phase, s, p->op->inputs[1]);
    step_kv(s, plan, p->op->layer);
    step_address(s, REGION_BATCH, plan->batch.slots);
    step_address(s, REGION_BATCH, plan->batch.positions);
    step_address(s, REGION_BATCH, plan->batch.page_table);
}

static void permute_lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                          PhasePlan *phase) {
    Step *s = plan_step(plan, phase, p->op, "cpu_rows", "permute", params);
    s->cost = *predicted;
    step_value(plan, phase, s, p->op->inputs[0]);
    step_weights(s, plan, p->op->permute.order);
    step_value(plan, phase, s, p->op->output);
}

static void gather_lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                         PhasePlan *phase) {
    Step *s = plan_step(plan, phase, p->op, "cpu_rows", "gather", params);
    s->cost = *predicted;
    step_value(plan, phase, s, p->op->inputs[0]);
    step_address(s, REGION_BATCH, plan->batch.head_rows);
    step_value(plan, phase, s, p->op->output);
}

// Inputs, then the output; the function is named after the op: act_mul, add, route.
static void values_lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                         PhasePlan *phase) {
    const Op *op = p->op;
    Step *s = plan_step(plan, phase, op, "cpu_rows", op_name(op->kind), params);
    s->cost = *predicted;
    for (int at = 0; at < 3; at++)
        if (op->inputs[at] >= 0)
            step_value(plan, phase, s, op->inputs[at]);
    step_value(plan, phase, s, op->output);
}

// ---- the families -------------------------------------------------------------------------------

const Kernel kernel_cpu_embed = {
    .name = "cpu_embed",
    .device = DEVICE_CPU,
    .op = OP_EMBED,
    .accepts = embed_accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = embed_lower,
};

const Kernel kernel_cpu_norm = {
    .name = "cpu_norm",
    .device = DEVICE_CPU,
    .op = OP_NORM,
    .accepts = accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = norm_lower,
};

const Kernel kernel_cpu_rope = {
    .name = "cpu_rope",
    .device = DEVICE_CPU,
    .op = OP_ROPE,
    .accepts = accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = rope_lower,
};

const Kernel kernel_cpu_kv_append = {
    .name = "cpu_kv_append",
    .device = DEVICE_CPU,
    .op = OP_KV_APPEND,
    .accepts = kv_append_accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = kv_append_lower,
};

const Kernel kernel_cpu_act_mul = {
    .name = "cpu_act_mul",
    .device = DEVICE_CPU,
    .op = OP_ACT_MUL,
    .accepts = accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = values_lower,
};

const Kernel kernel_cpu_add = {
    .name = "cpu_add",
    .device = DEVICE_CPU,
    .op = OP_ADD,
    .accepts = accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = values_lower,
};

const Kernel kernel_cpu_permute = {
    .name = "cpu_permute",
    .device = DEVICE_CPU,
    .op = OP_PERMUTE,
    .accepts = accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = permute_lower,
};

const Kernel kernel_cpu_route = {
    .name = "cpu_route",
    .device = DEVICE_CPU,
    .op = OP_ROUTE,
    .accepts = accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = values_lower,
};

const Kernel kernel_cpu_gather = {
    .name = "cpu_gather",
    .device = DEVICE_CPU,
    .op = OP_GATHER,
    .accepts = accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = gather_lower,
};

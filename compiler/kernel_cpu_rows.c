// Embedding, norm and gather on the CPU: templates/cpu_rows.c.
#include "kernel_cpu.h"

static bool accepts(const Problem *p, char reason[REASON_BYTES]) {
    (void)p;
    (void)reason;
    return true;
}

static bool embed_accepts(const Problem *p, char reason[REASON_BYTES]) {
    const PackedTensor *t = &p->plan->graph->packed[p->op->embed.table];
    if (t->bits == 16)
        return true;
    snprintf(reason, REASON_BYTES, "a table of %d bits; it takes 16", t->bits);
    return false;
}

static int candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    const Op *op = p->op;
    out[0] = (Params){.count = 0};
    params_set(&out[0], "WIDTH", value_width(p, op->output));
    if (op->kind == OP_EMBED)
        params_set(&out[0], "ROWS", p->plan->graph->packed[op->embed.table].out_features);
    if (op->kind == OP_NORM)
        params_set(&out[0], "EPS", float_param(op->norm.eps));
    return 1;
}

static Cost cost(const Problem *p, const Params *params) {
    (void)params;
    return cpu_cost(p, (double)(p->max_tokens * value_width(p, p->op->output) * 8), 0);
}

static void embed_lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                        PhasePlan *phase) {
    Step *s = plan_step(plan, phase, p->op, "cpu_rows", "embed", params);
    s->cost = *predicted;
    step_address(s, REGION_BATCH, plan->batch.token_ids);
    step_weights(s, plan, p->op->embed.table);
    step_value(plan, phase, s, p->op->output);
}

static void norm_lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                       PhasePlan *phase) {
    Step *s = plan_step(plan, phase, p->op, "cpu_rows", "norm", params);
    s->cost = *predicted;
    step_value(plan, phase, s, p->op->inputs[0]);
    step_weights(s, plan, p->op->norm.weight);
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

const Kernel kernel_cpu_gather = {
    .name = "cpu_gather",
    .device = DEVICE_CPU,
    .op = OP_GATHER,
    .accepts = accepts,
    .candidates = candidates,
    .cost = cost,
    .lower = gather_lower,
};

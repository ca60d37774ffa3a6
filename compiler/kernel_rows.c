// Embedding, norm and gather on a GPU: kernels/embed.cu, norm.cu, gather.cu. One block of 256 threads
// per token.
#include "compile.h"

#include "../runtime/step.h"

#include <string.h>

enum { ROW_THREADS = 256, NORM_WIDTH_LIMIT = 32768 };

static int64_t width_of(const Problem *p) {
    return p->plan->graph->values[p->op->output].width;
}

static bool rows_accepts(const Problem *p, char reason[REASON_BYTES]) {
    int64_t width = width_of(p);
    if (width % 8 == 0 && width <= NORM_WIDTH_LIMIT)
        return true;
    snprintf(reason, REASON_BYTES, "width %lld, takes multiples of 8 up to %d", (long long)width,
             NORM_WIDTH_LIMIT);
    return false;
}

static int64_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static int rows_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    const Op *op = p->op;
    out[0] = (Params){0};
    params_set(&out[0], "WIDTH", width_of(p));
    if (op->kind == OP_EMBED) {
        const PackedTensor *table = &p->plan->graph->packed[op->embed.table];
        params_set(&out[0], "K_PADDED", table->k_padded);
        params_set(&out[0], "VOCAB", table->out_features);
    } else if (op->kind == OP_NORM) {
        params_set(&out[0], "EPS_BITS", float_bits(op->norm.eps));
    } else {
        params_set(&out[0], "ROWS", p->plan->info.max_num_tokens);
    }
    return 1;
}

static Cost rows_cost(const Problem *p, const Params *params) {
    (void)params;
    const Target *t = p->plan->target;
    double bytes = (double)(p->max_tokens * width_of(p) * 8);
    return (Cost){.bytes = bytes, .us = 2 * t->launch_us + bytes / (t->bandwidth_gbs * 1e3)};
}

static Step *rows_step(const Problem *p, const char *source, const char *entry,
                       const Params *params, const Cost *cost, Plan *plan, PhasePlan *phase) {
    Step *s = plan_step(plan, phase, p->op, source, entry, params);
    s->grid[0] = s->grid[1] = s->grid[2] = 1;
    s->tokens_per_block = 1;
    s->block = ROW_THREADS;
    s->cost = *cost;
    return s;
}

static void embed_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                        PhasePlan *phase) {
    Step *s = rows_step(p, "kernels/embed.cu", "embed", params, cost, plan, phase);
    step_weights(s, plan, p->op->embed.table);
    step_address(s, REGION_BATCH, plan->batch.token_ids);
    step_value(plan, phase, s, p->op->output);
    step_tokens(s);
}

static void norm_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                       PhasePlan *phase) {
    Step *s = rows_step(p, "kernels/norm.cu", "rms_norm", params, cost, plan, phase);
    step_value(plan, phase, s, p->op->inputs[0]);
    step_weights(s, plan, p->op->norm.weight);
    step_value(plan, phase, s, p->op->output);
    step_tokens(s);
}

static void gather_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                         PhasePlan *phase) {
    Step *s = rows_step(p, "kernels/gather.cu", "gather", params, cost, plan, phase);
    step_value(plan, phase, s, p->op->inputs[0]);
    step_address(s, REGION_BATCH, plan->batch.head_rows);
    step_value(plan, phase, s, p->op->output);
    step_tokens(s);
}

const Kernel kernel_embed = {
    .name = "embed",
    .device = DEVICE_CUDA,
    .op = OP_EMBED,
    .accepts = rows_accepts,
    .candidates = rows_candidates,
    .cost = rows_cost,
    .lower = embed_lower,
};

const Kernel kernel_norm = {
    .name = "norm",
    .device = DEVICE_CUDA,
    .op = OP_NORM,
    .accepts = rows_accepts,
    .candidates = rows_candidates,
    .cost = rows_cost,
    .lower = norm_lower,
};

const Kernel kernel_gather = {
    .name = "gather",
    .device = DEVICE_CUDA,
    .op = OP_GATHER,
    .accepts = rows_accepts,
    .candidates = rows_candidates,
    .cost = rows_cost,
    .lower = gather_lower,
};

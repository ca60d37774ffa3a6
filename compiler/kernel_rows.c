// Embedding, norm, gather and the routes of experts on a GPU: kernels/embed.cu, norm.cu, gather.cu,
// route.cu. All are bound by launches and memory.
#include "kernel_rows.h"

enum {
    TOKENS_LIMIT = 65535,     // a grid's second dimension
    NORM_WIDTH_LIMIT = 32768, // registers of a block
    NORM_WARP_WIDTH = 512,    // rows up to it are a warp's
    NORM_HALF_WIDTH = 8192,   // rows up to it are those of 8 warps, others of 16
    NORM_BLOCK_WARPS = 8,
    EXPERTS_LIMIT = 1024, // registers of a warp
    ROUTE_TOKENS = 4,     // of a block
};

bool rows_accepts(const Problem *p, char reason[REASON_BYTES]) {
    if (p->max_tokens <= TOKENS_LIMIT)
        return true;
    snprintf(reason, REASON_BYTES, "steps of %lld tokens, takes up to %d", (long long)p->max_tokens,
             TOKENS_LIMIT);
    return false;
}

Cost rows_cost(const Problem *p, const Params *params) {
    (void)params;
    const Target *t = p->plan->target;
    const Op *op = p->op;
    int64_t token_bytes = 0;
    for (int at = -1; at < 3; at++) {
        int value = at < 0 ? op->output : op->inputs[at];
        if (value >= 0)
            token_bytes += value_width(p, value) * plan_value_elem(p->plan, value);
    }
    double bytes = (double)(p->max_tokens * token_bytes);
    return (Cost){.bytes = bytes, .us = 2 * t->launch_us + bytes / (t->bandwidth_gbs * 1e3)};
}

Step *rows_step(const Lowering *l, const char *source, const char *entry, int64_t items) {
    Step *s = plan_step(l->plan, l->phase, l->p->op, source, entry, l->params);
    s->grid[0] = (int)ceil_div(items, ROW_THREADS);
    s->tokens_per_block = 1;
    s->block = ROW_THREADS;
    s->cost = *l->cost;
    return s;
}

void rows_value(const Lowering *l, Step *s, int value) {
    step_value(l->plan, l->phase, s, value);
}

// ---- embed --------------------------------------------------------------------------------------

static const PackedTensor *table_of(const Problem *p) {
    return &p->plan->graph->packed[p->op->embed.table];
}

static bool embed_accepts(const Problem *p, char reason[REASON_BYTES]) {
    if (table_of(p)->bits == 16 && table_of(p)->in_features % 2 == 0)
        return rows_accepts(p, reason);
    snprintf(reason, REASON_BYTES, "a table of %d bits and %lld columns, takes 16 bits and pairs",
             table_of(p)->bits, (long long)table_of(p)->in_features);
    return false;
}

static int embed_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    out[0] = (Params){0};
    params_set(&out[0], "WIDTH", table_of(p)->in_features);
    params_set(&out[0], "K_PADDED", table_of(p)->k_padded);
    params_set(&out[0], "VOCAB", table_of(p)->out_features);
    params_set_float(&out[0], "SCALE_BITS", p->op->embed.scale);
    return 1;
}

static void embed_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                        PhasePlan *phase) {
    const Lowering l = {p, params, cost, plan, phase};
    Step *s = rows_step(&l, "kernels/embed.cu", "embed", 1);
    step_weights(s, plan, p->op->embed.table);
    step_address(s, REGION_BATCH, plan->batch.token_ids);
    rows_value(&l, s, p->op->output);
    step_tokens(s);
}

// ---- norm ---------------------------------------------------------------------------------------

static bool norm_accepts(const Problem *p, char reason[REASON_BYTES]) {
    if (p->op->norm.width <= NORM_WIDTH_LIMIT)
        return rows_accepts(p, reason);
    snprintf(reason, REASON_BYTES, "rows of %lld elements, takes up to %d",
             (long long)p->op->norm.width, NORM_WIDTH_LIMIT);
    return false;
}

void norm_params(Params *out, const Problem *p, const NormShape *n) {
    int64_t rows = value_width(p, n->input) / n->width;
    bool by_warp = n->width <= NORM_WARP_WIDTH;
    int64_t block_rows = rows < NORM_BLOCK_WARPS ? rows : NORM_BLOCK_WARPS;
    int64_t warps = n->width <= NORM_HALF_WIDTH ? NORM_BLOCK_WARPS : 2 * NORM_BLOCK_WARPS;
    *out = (Params){0};
    params_set(out, "WIDTH", n->width);
    params_set(out, "OUT_WIDTH", n->out_width);
    params_set(out, "ROWS", rows);
    params_set(out, "IN_F32", value_is_f32(p, n->input));
    params_set(out, "OUT_F32", n->out_f32);
    params_set(out, "HAS_ORDER", n->order >= 0);
    params_set_float(out, "EPS_BITS", n->eps);
    params_set(out, "ROW_WARPS", by_warp ? 1 : warps);
    params_set(out, "BLOCK_ROWS", by_warp ? block_rows : 1);
}

void norm_step(const Lowering *l, const NormShape *n, int buffer) {
    int64_t block_rows = params_get(l->params, "BLOCK_ROWS");
    Step *s = rows_step(l, "kernels/norm.cu", "rms_norm", 1);
    s->grid[0] = (int)ceil_div(params_get(l->params, "ROWS"), block_rows);
    s->block = (int)(32 * block_rows * params_get(l->params, "ROW_WARPS"));
    rows_value(l, s, n->input);
    step_weights(s, l->plan, n->weight);
    step_weights_or_0(s, l->plan, n->order);
    step_buffer(l->phase, s, buffer, 0);
    step_tokens(s);
}

static NormShape norm_shape(const Problem *p) {
    const Op *op = p->op;
    int64_t rows = value_width(p, op->inputs[0]) / op->norm.width;
    return (NormShape){.input = op->inputs[0],
                       .weight = op->norm.weight,
                       .order = op->norm.order,
                       .width = op->norm.width,
                       .out_width = value_width(p, op->output) / rows,
                       .out_f32 = value_is_f32(p, op->output),
                       .eps = op->norm.eps};
}

static int norm_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    NormShape n = norm_shape(p);
    norm_params(&out[0], p, &n);
    return 1;
}

static void norm_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                       PhasePlan *phase) {
    const Lowering l = {p, params, cost, plan, phase};
    NormShape n = norm_shape(p);
    norm_step(&l, &n, plan_value(plan, phase, p->op->output));
}

// ---- gather -------------------------------------------------------------------------------------

static int gather_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    out[0] = (Params){0};
    params_set(&out[0], "WIDTH", value_width(p, p->op->output));
    params_set(&out[0], "ROWS", p->plan->info.max_num_tokens);
    return 1;
}

static void gather_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                         PhasePlan *phase) {
    const Lowering l = {p, params, cost, plan, phase};
    Step *s = rows_step(&l, "kernels/gather.cu", "gather", 1);
    rows_value(&l, s, p->op->inputs[0]);
    step_address(s, REGION_BATCH, plan->batch.head_rows);
    rows_value(&l, s, p->op->output);
    step_tokens(s);
}

// ---- route --------------------------------------------------------------------------------------

static bool route_accepts(const Problem *p, char reason[REASON_BYTES]) {
    if (p->op->route.experts <= EXPERTS_LIMIT)
        return rows_accepts(p, reason);
    snprintf(reason, REASON_BYTES, "%lld experts, takes up to %d", (long long)p->op->route.experts,
             EXPERTS_LIMIT);
    return false;
}

static int route_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    out[0] = (Params){0};
    params_set(&out[0], "EXPERTS", p->op->route.experts);
    params_set(&out[0], "TOP_K", p->op->route.top_k);
    params_set(&out[0], "NORMALIZE", p->op->route.normalize);
    params_set(&out[0], "BLOCK_TOKENS", ROUTE_TOKENS);
    return 1;
}

static void route_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                        PhasePlan *phase) {
    const Lowering l = {p, params, cost, plan, phase};
    Step *s = rows_step(&l, "kernels/route.cu", "route", 1);
    s->tokens_per_block = ROUTE_TOKENS;
    s->block = 32 * ROUTE_TOKENS;
    rows_value(&l, s, p->op->inputs[0]);
    rows_value(&l, s, p->op->output);
    step_tokens(s);
}

// ---- the families -------------------------------------------------------------------------------

const Kernel kernel_embed = {
    .name = "embed",
    .device = DEVICE_CUDA,
    .op = OP_EMBED,
    .accepts = embed_accepts,
    .candidates = embed_candidates,
    .cost = rows_cost,
    .lower = embed_lower,
};

const Kernel kernel_norm = {
    .name = "norm",
    .device = DEVICE_CUDA,
    .op = OP_NORM,
    .accepts = norm_accepts,
    .candidates = norm_candidates,
    .cost = rows_cost,
    .lower = norm_lower,
};

const Kernel kernel_gather = {
    .name = "gather",
    .device = DEVICE_CUDA,
    .op = OP_GATHER,
    .accepts = rows_accepts,
    .candidates = gather_candidates,
    .cost = rows_cost,
    .lower = gather_lower,
};

const Kernel kernel_route = {
    .name = "route",
    .device = DEVICE_CUDA,
    .op = OP_ROUTE,
    .accepts = route_accepts,
    .candidates = route_candidates,
    .cost = rows_cost,
    .lower = route_lower,
};

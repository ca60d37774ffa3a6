// Linears of many tokens: kernels/linear_gemm.cu, mma.sync on tiles of rows x tokens. A norm in
// front becomes a step of its own: with many tokens it would be repeated by every row block.
#include "kernel_linear.h"
#include "kernel_rows.h"

#include "../runtime/step.h"

enum {
    STEP_K = 64,
    X_ROW_BYTES = 2 * STEP_K,
    WARPS = 8,
    ROW_WARPS = 4,
    STAGES_LIMIT = 4,
    STAGES_LEAST = 3,
    SUMS_LIMIT = 128,    // fp32 sums of a thread; beyond them it spills
    SUMS_SHARED_SM = 64, // up to here two blocks share a multiprocessor's registers
    RASTER_ROWS = 16,
    BLOCK_RESERVED = 1024, // shared memory that the driver keeps per block
    CHUNK_BYTES = 16,      // of scales and zero points that a thread copies per step
};

// Scales and zero points of a row tile in one step.
static int64_t head_bytes(const PackedTensor *t) {
    Record r = record_geometry(t);
    int64_t groups = t->bits == 16 ? 0 : t->group >= STEP_K ? 1 : STEP_K / t->group;
    return groups * (r.scale_bytes + r.zero_bytes);
}

static int64_t stage_bytes(const PackedTensor *t, GemmVariant v) {
    int64_t tile_bytes = head_bytes(t) + STEP_K / record_geometry(t).tile_k * TILE_BYTES;
    return ROW_WARPS * v.warp_tiles * tile_bytes + (int64_t)v.block_tokens * X_ROW_BYTES;
}

static int thread_sums(GemmVariant v) {
    return v.warp_tiles * v.block_tokens / 16 * 4;
}

// Two blocks of a multiprocessor leave 128 registers to a thread: enough for 64 sums only where
// dequantization is short. Rotating pairs of 256 tokens, and the longer dequantizations with them,
// ask for more than 255. (Both seen in the register counts of ptxas 13.0.)
static bool registers_fit(const Problem *p, GemmVariant v) {
    const PackedTensor *t = linear_weight(p);
    bool experts = p->op->kind != OP_LINEAR; // tables of choices
    bool lean = t->bits != 8 && t->group != 32 && linear_is_lean(p) && !experts;
    bool rope = p->op->linear.epilogue == EPILOGUE_ROPE_KV;
    if (v.block_tokens > 128 && (rope || !linear_is_lean(p)))
        return false;
    int limit = v.ctas_per_sm == 1 ? SUMS_LIMIT : lean ? SUMS_SHARED_SM : SUMS_SHARED_SM / 2;
    return thread_sums(v) <= limit;
}

bool gemm_params(const Problem *p, GemmVariant v, Params *out) {
    const PackedTensor *t = linear_weight(p);
    if (!registers_fit(p, v) || ROW_WARPS * v.warp_tiles * head_bytes(t) > WARPS * 32 * CHUNK_BYTES)
        return false;
    int64_t limit =
        (p->plan->target->shared_bytes + BLOCK_RESERVED) / v.ctas_per_sm - BLOCK_RESERVED;
    int least = v.stages ? v.stages : STAGES_LEAST;
    for (v.stages = v.stages ? v.stages : STAGES_LIMIT; v.stages >= least; v.stages--)
        if (v.stages * stage_bytes(t, v) <= limit)
            break;
    if (v.stages < least)
        return false;
    *out = (Params){0};
    linear_params(out, p);
    params_set(out, "BLOCK_TOKENS", v.block_tokens);
    params_set(out, "WARP_TILES", v.warp_tiles);
    params_set(out, "STAGES", v.stages);
    params_set(out, "RASTER_ROWS", RASTER_ROWS);
    params_set(out, "CTAS_PER_SM", v.ctas_per_sm);
    params_set(out, "SHARED_BYTES", v.stages * stage_bytes(t, v));
    return true;
}

bool linear_many_accepts(const Problem *p, char reason[REASON_BYTES]) {
    const PackedTensor *t = linear_weight(p);
    Record r = record_geometry(t);
    if (t->rows / TILE_ROWS * (t->k_padded / r.k) * r.bytes > UINT32_MAX ||
        p->max_tokens * t->in_features > UINT32_MAX) {
        snprintf(reason, REASON_BYTES, "offsets of [%lld, %lld] or of its inputs pass 32 bits",
                 (long long)t->out_features, (long long)t->in_features);
        return false;
    }
    return linear_supported(p, reason);
}

static int candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    static const GemmVariant variants[] = {
        {.block_tokens = 128, .warp_tiles = 2}, {.block_tokens = 128, .warp_tiles = 4},
        {.block_tokens = 128, .warp_tiles = 1}, {.block_tokens = 64, .warp_tiles = 1},
        {.block_tokens = 64, .warp_tiles = 2},  {.block_tokens = 32, .warp_tiles = 1},
        {.block_tokens = 32, .warp_tiles = 2},
    };
    int count = 0;
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        GemmVariant v = variants[i];
        v.ctas_per_sm = 2;
        if (gemm_params(p, v, &out[count])) {
            count++;
            continue;
        }
        v.ctas_per_sm = 1;
        count += gemm_params(p, v, &out[count]);
    }
    return count;
}

static int row_blocks(const Problem *p, const Params *params) {
    int64_t tiles = ROW_WARPS * params_get(params, "WARP_TILES");
    return (int)ceil_div(linear_weight(p)->rows / TILE_ROWS, tiles);
}

// Share of the tensor peak that a multiprocessor reaches: mma.sync is the slow path from Hopper on,
// and small tiles wait for shared memory.
static double efficiency(const Problem *p, const Params *params) {
    double path =
        p->plan->target->compute_major == 9 || p->plan->target->compute_major == 10 ? 0.5 : 0.75;
    double tokens = (double)params_get(params, "BLOCK_TOKENS");
    double rows = 64.0 * (double)params_get(params, "WARP_TILES");
    double shape = rows * tokens / (rows * tokens + 32 * (rows + tokens));
    return path * shape / (128.0 / (128 + 64));
}

static Cost cost(const Problem *p, const Params *params) {
    const Target *t = p->plan->target;
    const PackedTensor *w = linear_weight(p);
    int64_t block_tokens = params_get(params, "BLOCK_TOKENS");
    double block_rows = 64.0 * (double)params_get(params, "WARP_TILES");
    double blocks = row_blocks(p, params) * (double)ceil_div(p->max_tokens, block_tokens);
    double turns = (double)ceil_div((int64_t)blocks, t->sms); // of the fullest multiprocessor
    double block_flops = 2 * block_rows * (double)block_tokens * (double)w->k_padded;
    double compute_us =
        turns * block_flops / (t->tensor_tflops / t->sms * efficiency(p, params) * 1e6);
    return linear_many_cost(p, compute_us, blocks);
}

double linear_norm_us(const Problem *p) {
    const Target *t = p->plan->target;
    double bytes = (double)(p->max_tokens * linear_weight(p)->in_features * 6);
    return t->launch_us + 1.5 + bytes / (t->bandwidth_gbs * 1e3);
}

Cost linear_many_cost(const Problem *p, double compute_us, double blocks) {
    const Target *t = p->plan->target;
    const PackedTensor *w = linear_weight(p);
    double bytes = (double)w->bytes + (double)(p->max_tokens * linear_token_bytes(p));
    // One block keeps about 12 KB of weights under way, a third of what the latency asks for.
    double in_use = blocks < t->sms ? blocks / t->sms : 1;
    double memory_us = bytes / (t->bandwidth_gbs * 1e3 * 0.7 * in_use);
    double norm_us = p->op->linear.prologue == PROLOGUE_NORM ? linear_norm_us(p) : 0;
    double ramp_us = 3.0; // first stage and last epilogue
    return (Cost){
        .bytes = bytes,
        .flops = 2.0 * (double)p->max_tokens * (double)w->in_features * (double)w->out_features,
        .us = t->launch_us + ramp_us + norm_us + (compute_us > memory_us ? compute_us : memory_us)};
}

int linear_norm_step(const Problem *p, Plan *plan, PhasePlan *phase) {
    const Op *op = p->op;
    const PackedTensor *w = linear_weight(p);
    int buffer = plan_buffer(plan, phase, "normed", p->max_tokens * w->in_features * 2);
    const NormShape shape = {.input = op->inputs[0],
                             .weight = op->linear.norm_weight,
                             .order = op->linear.norm_order,
                             .width = p->plan->graph->values[op->inputs[0]].width,
                             .out_width = w->in_features,
                             .eps = op->linear.eps};
    Params params;
    Cost cost = {0}; // it is in that of the linear
    norm_params(&params, p, &shape);
    norm_step(&(Lowering){p, &params, &cost, plan, phase}, &shape, buffer);
    return buffer;
}

Step *linear_many_step(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                       PhasePlan *phase, const char *source, const char *entry) {
    const Op *op = p->op;
    bool norm = op->linear.prologue == PROLOGUE_NORM;
    int normed = norm ? linear_norm_step(p, plan, phase) : -1;
    Step *s = plan_step(plan, phase, op, source, entry, params);
    if (norm)
        step_buffer(phase, s, normed, 0);
    else
        step_value(plan, phase, s, op->inputs[0]);
    step_weights(s, plan, op->linear.weight);
    linear_operands(s, p, plan, phase);
    s->cost = *predicted;
    return s;
}

static void lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                  PhasePlan *phase) {
    Step *s = linear_many_step(p, params, predicted, plan, phase, "kernels/linear_gemm.cu",
                               "linear_gemm");
    s->grid[0] = row_blocks(p, params);
    s->tokens_per_block = (int)params_get(params, "BLOCK_TOKENS");
    s->block = WARPS * 32;
    s->shared_bytes = (int)params_get(params, "SHARED_BYTES");
}

const Kernel kernel_linear_gemm = {.name = "linear_gemm",
                                   .device = DEVICE_CUDA,
                                   .op = OP_LINEAR,
                                   .accepts = linear_many_accepts,
                                   .candidates = candidates,
                                   .cost = cost,
                                   .lower = lower};

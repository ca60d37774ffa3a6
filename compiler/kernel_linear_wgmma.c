// Linears of many tokens on Hopper: kernels/linear_wgmma.cu. A norm in front becomes a step of its
// own, as for kernel_linear_gemm.c.
#include "kernel_linear.h"

#include "../runtime/step.h"

enum {
    STEP_K         = 64,
    X_ROW_BYTES    = 2 * STEP_K,
    GROUP_THREADS  = 128, // of a warpgroup, of which one copies
    GROUP_TILES    = 4,   // row tiles of a consumer
    STAGE_ALIGN    = 1024,
    STAGES_LIMIT   = 8,
    STAGES_LEAST   = 3,
    BARRIER_BYTES  = 16, // of a stage
    RASTER_ROWS    = 16,
    CHUNK_BYTES    = 16, // of scales and zero points that a thread copies per step
};

// Bytes of a row tile in one step.
static int64_t tile_bytes(const PackedTensor *t, int64_t *head) {
    Record r = record_geometry(t);
    int64_t groups = t->bits == 16 ? 0 : t->group >= STEP_K ? 1 : STEP_K / t->group;
    *head = groups * (r.scale_bytes + r.zero_bytes);
    return *head + STEP_K / r.tile_k * TILE_BYTES;
}

static int64_t stage_bytes(const PackedTensor *t, WgmmaVariant v) {
    int64_t head, weights = v.consumers * GROUP_TILES * tile_bytes(t, &head);
    return (int64_t)round_up((uint64_t)(v.block_tokens * X_ROW_BYTES + weights), STAGE_ALIGN);
}

// 256 tokens leave too few registers for long dequantizations and for rotating pairs.
static bool registers_fit(const Problem *p, WgmmaVariant v) {
    bool rope = p->op->linear.epilogue == EPILOGUE_ROPE_KV;
    return v.block_tokens <= 128 || (linear_is_lean(p) && !rope);
}

bool wgmma_params(const Problem *p, WgmmaVariant v, Params *out) {
    const PackedTensor *t = linear_weight(p);
    int64_t head, limit = p->plan->target->shared_bytes - STAGE_ALIGN;
    tile_bytes(t, &head);
    if (!registers_fit(p, v) ||
        v.consumers * GROUP_TILES * head > GROUP_THREADS * CHUNK_BYTES)
        return false;
    int least = v.stages ? v.stages : STAGES_LEAST;
    for (v.stages = v.stages ? v.stages : STAGES_LIMIT; v.stages >= least; v.stages--)
        if (v.stages * (stage_bytes(t, v) + BARRIER_BYTES) <= limit)
            break;
    if (v.stages < least)
        return false;
    *out = (Params){0};
    linear_params(out, p);
    params_set(out, "BLOCK_TOKENS", v.block_tokens);
    params_set(out, "CONSUMERS", v.consumers);
    params_set(out, "STAGES", v.stages);
    params_set(out, "RASTER_ROWS", RASTER_ROWS);
    params_set(out, "SHARED_BYTES",
               STAGE_ALIGN + v.stages * (stage_bytes(t, v) + BARRIER_BYTES));
    return true;
}

static bool accepts(const Problem *p, char reason[REASON_BYTES]) {
    if (p->plan->target->compute_major != 9 || !p->plan->target->exact) {
        snprintf(reason, REASON_BYTES, "wgmma is of sm_90a only");
        return false;
    }
    return linear_many_accepts(p, reason);
}

static int candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    static const WgmmaVariant variants[] = {
        {.block_tokens = 256, .consumers = 2}, {.block_tokens = 128, .consumers = 2},
        {.block_tokens = 64, .consumers = 2},  {.block_tokens = 128, .consumers = 1},
        {.block_tokens = 64, .consumers = 1},  {.block_tokens = 32, .consumers = 1},
    };
    int count = 0;
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        count += wgmma_params(p, variants[i], &out[count]);
    return count;
}

static int row_blocks(const Problem *p, const Params *params) {
    return (int)ceil_div(linear_weight(p)->rows / TILE_ROWS,
                         GROUP_TILES * params_get(params, "CONSUMERS"));
}

// Share of the tensor peak that a multiprocessor reaches: small blocks wait for shared memory.
static double efficiency(const Params *params) {
    double tokens = (double)params_get(params, "BLOCK_TOKENS");
    double rows = 64.0 * (double)params_get(params, "CONSUMERS");
    double shape = rows * tokens / (rows * tokens + 16 * (rows + tokens));
    return 0.8 * shape / (128.0 * 256 / (128 * 256 + 16 * (128 + 256)));
}

static Cost cost(const Problem *p, const Params *params) {
    const Target *t = p->plan->target;
    const PackedTensor *w = linear_weight(p);
    int64_t block_tokens = params_get(params, "BLOCK_TOKENS");
    double block_rows = 64.0 * (double)params_get(params, "CONSUMERS");
    double blocks = row_blocks(p, params) * (double)ceil_div(p->max_tokens, block_tokens);
    double turns = (double)ceil_div((int64_t)blocks, t->sms); // of the fullest multiprocessor
    double block_flops = 2 * block_rows * (double)block_tokens * (double)w->k_padded;
    double compute_us = turns * (block_flops / (t->tensor_tflops / t->sms * efficiency(params) * 1e6) + 2);
    return linear_many_cost(p, compute_us, blocks);
}

static void lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                  PhasePlan *phase) {
    Step *s = linear_many_step(p, params, predicted, plan, phase, "kernels/linear_wgmma.cu",
                               "linear_wgmma");
    s->grid[0] = row_blocks(p, params);
    s->tokens_per_block = (int)params_get(params, "BLOCK_TOKENS");
    s->block = GROUP_THREADS * (1 + (int)params_get(params, "CONSUMERS"));
    s->shared_bytes = (int)params_get(params, "SHARED_BYTES");
}

const Kernel kernel_linear_wgmma = {.name = "linear_wgmma",
                                    .device = DEVICE_CUDA,
                                    .op = OP_LINEAR,
                                    .accepts = accepts,
                                    .candidates = candidates,
                                    .cost = cost,
                                    .lower = lower};

// Linears of many tokens on Hopper: kernels/linear_wgmma.cu. A norm in front becomes a step of its
// own, as for kernel_linear_gemm.c.
#include "kernel_linear.h"

#include "../runtime/step.h"

#include <math.h>

#define COPY_BYTES_PER_US  55e3  // of one multiprocessor, from the second-level cache
#define CACHE_BYTES_PER_US 6.3e6 // of all
#define ALONE_GAIN         0.3   // of clocks, where few multiprocessors share the chip's power

enum {
    STEP_K = 64,
    X_ROW_BYTES = 2 * STEP_K,
    GROUP_THREADS = 128, // of a warpgroup, of which one copies
    GROUP_TILES = 4,     // row tiles of a consumer
    STAGE_ALIGN = 1024,
    STAGES_LIMIT = 16,
    STAGES_LEAST = 3,
    BARRIER_BYTES = 16, // of a stage
    RASTER_ROWS = 16,
    BOX_ROWS = 8,       // a swizzle repeats after as many
    STAGED_TOKENS = 32, // at least, for results through a stage
    PLACE_BYTES = 16,   // of a token, for EPILOGUE_ROPE_KV
    THREAD_CHUNKS = 8,  // of tiles, at most
    CHUNK_BYTES = 16,   // of scales and zero points that a thread copies per step
};

// Bytes of a row tile in one step.
static int64_t tile_bytes(const PackedTensor *t, int64_t *head) {
    Record r = record_geometry(t);
    int64_t groups = t->bits == 16 ? 0 : t->group >= STEP_K ? 1 : STEP_K / t->group;
    *head = groups * (r.scale_bytes + r.zero_bytes);
    return *head + STEP_K / r.tile_k * TILE_BYTES;
}

static int64_t stage_bytes(const PackedTensor *t, WgmmaVariant v) {
    int64_t head, weights = v.row_groups * GROUP_TILES * tile_bytes(t, &head);
    return (int64_t)round_up((uint64_t)(v.block_tokens * X_ROW_BYTES + weights + BARRIER_BYTES),
                             STAGE_ALIGN);
}

// Behind the ring: places of tokens where no stage has them, partial sums.
static int64_t rest_bytes(const Problem *p, WgmmaVariant v) {
    int parts = (v.k_groups > v.cluster ? v.k_groups : v.cluster) - 1;
    int64_t part = (int64_t)v.row_groups * GROUP_THREADS * (v.block_tokens / 2) * 4;
    bool places = p->op->linear.epilogue == EPILOGUE_ROPE_KV && v.block_tokens < STAGED_TOKENS;
    return parts * part + (places ? v.block_tokens * PLACE_BYTES : 0);
}

// A thread holds BLOCK_TOKENS / 2 sums and the fragments of two steps. 256 tokens leave too little
// for long dequantizations; with more consumers there is less for each, and less for epilogues.
static bool registers_fit(const Problem *p, WgmmaVariant v) {
    const PackedTensor *t = linear_weight(p);
    int consumers = v.row_groups * v.k_groups, epilogue = (int)p->op->linear.epilogue;
    bool short_steps = t->bits == 16 || (t->bits == 4 && t->group >= STEP_K);
    if (consumers > 4 || v.block_tokens / v.spread % BOX_ROWS != 0)
        return false;
    if (consumers == 4 && v.block_tokens >= 64)
        return v.block_tokens == 64 && short_steps && linear_is_lean(p) &&
               epilogue != EPILOGUE_ROPE_KV;
    if (consumers == 4 && v.block_tokens == 32)
        return short_steps;
    if (consumers == 3 && v.block_tokens >= 128)
        return v.block_tokens == 128 && epilogue != EPILOGUE_ROPE_KV;
    if (v.block_tokens <= 128)
        return true;
    if (t->scale_f32 || t->group == 16 || (v.even && t->bits == 16))
        return false;
    // seen in the spills of ptxas 13.0
    return epilogue != EPILOGUE_ADD || !(v.even ? t->bits == 8 : t->zeros);
}

// Warps that copy the weights of a step: as few as have a chunk of scales for each thread, and whole
// tiles, so that steps are on their way side by side; a thread keeps where its chunks are.
static int copy_warps(const PackedTensor *t, WgmmaVariant v) {
    int64_t head, tile = tile_bytes(t, &head) - head, warps = tile / TILE_BYTES;
    int64_t row_tiles = v.row_groups * GROUP_TILES;
    while (row_tiles * head > warps * 32 * CHUNK_BYTES ||
           row_tiles * tile > warps * 32 * CHUNK_BYTES * THREAD_CHUNKS)
        warps *= 2;
    return (int)warps;
}

// Can so many stages be told apart? The twin of the kernel's assertions.
static bool stages_fit(const PackedTensor *t, WgmmaVariant v, int stages) {
    int copiers = GROUP_THREADS / 32 / copy_warps(t, v);
    int common = v.k_groups == 3 ? 3 * copiers : v.k_groups > copiers ? v.k_groups : copiers;
    return stages % v.k_groups == 0 && (stages % copiers == 0 || stages >= common);
}

bool wgmma_params(const Problem *p, WgmmaVariant v, Params *out) {
    const PackedTensor *t = linear_weight(p);
    int64_t head, limit = p->plan->target->shared_bytes - STAGE_ALIGN - rest_bytes(p, v);
    tile_bytes(t, &head);
    if (!registers_fit(p, v) || copy_warps(t, v) > GROUP_THREADS / 32 ||
        v.row_groups * GROUP_TILES * head > GROUP_THREADS * CHUNK_BYTES ||
        ceil_div(t->k_padded, STEP_K) < v.cluster * v.k_groups)
        return false;
    int least = v.stages ? v.stages : STAGES_LEAST;
    for (v.stages = v.stages ? v.stages : STAGES_LIMIT; v.stages >= least; v.stages--)
        if (stages_fit(t, v, v.stages) && v.stages * stage_bytes(t, v) <= limit)
            break;
    if (v.stages < least)
        return false;
    *out = (Params){0};
    linear_params(out, p);
    params_set(out, "BLOCK_TOKENS", v.block_tokens);
    params_set(out, "ROW_GROUPS", v.row_groups);
    params_set(out, "K_GROUPS", v.k_groups);
    params_set(out, "CLUSTER", v.cluster);
    params_set(out, "SPREAD", v.spread);
    params_set(out, "EVEN", v.even);
    params_set(out, "COPY_WARPS", copy_warps(t, v));
    params_set(out, "STAGES", v.stages);
    params_set(out, "RASTER_ROWS", RASTER_ROWS / v.spread);
    params_set(out, "SHARED_BYTES", STAGE_ALIGN + v.stages * stage_bytes(t, v) + rest_bytes(p, v));
    return true;
}

static bool accepts(const Problem *p, char reason[REASON_BYTES]) {
    if (p->plan->target->compute_major != 9 || !p->plan->target->exact) {
        snprintf(reason, REASON_BYTES, "wgmma is of sm_90a only");
        return false;
    }
    return linear_many_accepts(p, reason);
}

// An even split depends on the number of blocks of tokens. Batches of one bucket are to have the same
// bits, so there is but one block of them.
static bool may_split(const Problem *p, WgmmaVariant v) {
    return !p->plan->batch_invariant &&
           (p->phase == PHASE_PREFILL || p->max_tokens <= v.block_tokens);
}

static int candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    static const WgmmaVariant variants[] = {
        {256, 2, 1, 1, 1, 0, 0}, {256, 2, 1, 1, 2, 0, 0}, {256, 2, 1, 1, 1, 1, 0},
        {256, 2, 1, 1, 2, 1, 0}, {256, 1, 1, 1, 2, 0, 0}, {128, 3, 1, 1, 1, 0, 0},
        {128, 3, 1, 2, 1, 0, 0}, {128, 3, 1, 1, 1, 1, 0}, {128, 2, 1, 1, 1, 0, 0},
        {128, 2, 1, 2, 1, 0, 0}, {128, 1, 2, 1, 1, 0, 0}, {128, 1, 2, 2, 1, 0, 0},
        {64, 4, 1, 1, 1, 0, 0},  {64, 3, 1, 1, 1, 1, 0},  {64, 2, 2, 1, 1, 0, 0},
        {64, 2, 1, 1, 1, 0, 0},  {64, 1, 3, 1, 1, 0, 0},  {64, 1, 3, 2, 1, 0, 0},
        {32, 4, 1, 1, 1, 1, 0},  {32, 3, 1, 1, 1, 1, 0},  {32, 2, 2, 1, 1, 0, 0},
        {32, 2, 2, 1, 1, 1, 0},  {32, 1, 3, 1, 1, 0, 0},  {32, 1, 3, 2, 1, 0, 0},
        {32, 1, 4, 2, 1, 0, 0},  {16, 2, 2, 1, 1, 0, 0},  {16, 1, 4, 1, 1, 0, 0},
        {16, 1, 4, 2, 1, 0, 0},
    };
    int count = 0;
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        if (!variants[i].even || may_split(p, variants[i]))
            count += wgmma_params(p, variants[i], &out[count]);
    return count;
}

// Groups of blocks that share x.
static int spread_blocks(const Problem *p, const Params *params) {
    return (int)ceil_div(linear_weight(p)->rows / TILE_ROWS, GROUP_TILES *
                                                                 params_get(params, "ROW_GROUPS") *
                                                                 params_get(params, "SPREAD"));
}

static int64_t consumer_rows(const Params *params) {
    return GROUP_TILES * TILE_ROWS * params_get(params, "ROW_GROUPS");
}

// Microseconds of one step of 64 k in a block while so many blocks run: what the tensor cores need, or
// the latency of a step that few consumers cannot hide, or the copies. Fitted to an H200
// (docs/performance.md).
static double step_us(const Problem *p, const Params *params, double blocks) {
    const PackedTensor *t = linear_weight(p);
    const Target *target = p->plan->target;
    double tokens = (double)params_get(params, "BLOCK_TOKENS");
    double rows = 64.0 * (double)params_get(params, "ROW_GROUPS");
    double k = STEP_K, row_bytes = X_ROW_BYTES; // of x
    double flops = 2 * rows * tokens * k;
    double gain = 1 + ALONE_GAIN * (1 - blocks / target->sms);
    double products = flops / (target->tensor_tflops / target->sms * 0.92 * gain * 1e6);
    double latency = (0.19 + 0.0006 * tokens) / (double)params_get(params, "K_GROUPS");
    double bytes =
        rows * k * t->bits / 8 + tokens * row_bytes / (double)params_get(params, "SPREAD");
    double copies = bytes / fmin(COPY_BYTES_PER_US, CACHE_BYTES_PER_US / blocks);
    double longest = products > latency ? products : latency;
    return longest > copies ? longest : copies;
}

static Cost cost(const Problem *p, const Params *params) {
    const Target *t = p->plan->target;
    const PackedTensor *w = linear_weight(p);
    double cluster = (double)params_get(params, "CLUSTER");
    double blocks = cluster * (double)params_get(params, "SPREAD"); // of a cluster
    int64_t work =
        spread_blocks(p, params) * ceil_div(p->max_tokens, params_get(params, "BLOCK_TOKENS"));
    double turns = (double)ceil_div(work, t->sms / (int)blocks), split_us = 0;
    double in_use = (double)work * blocks, at_once = fmin(in_use / turns, t->sms);
    double steps = (double)ceil_div(w->k_padded, STEP_K) / cluster;
    double parts = (double)params_get(params, "K_GROUPS") > 1 || cluster > 1 ? 1.0 : 0.0;
    double store_us = 0.5 + 0.008 * (double)params_get(params, "BLOCK_TOKENS");
    if (params_get(params, "EVEN")) { // parts of tiles to memory and back
        double bytes = (double)(consumer_rows(params) * params_get(params, "BLOCK_TOKENS")) * 4;
        turns = (double)work / (double)(t->sms / (int)blocks);
        in_use = at_once = t->sms;
        split_us = 1.0 + (1 + ceil(1 / turns)) * bytes / COPY_BYTES_PER_US;
    }
    double compute_us = turns * (steps * step_us(p, params, at_once) + store_us + parts) + split_us;
    return linear_many_cost(p, compute_us, in_use);
}

static void lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                  PhasePlan *phase) {
    Step *s = linear_many_step(p, params, predicted, plan, phase, "kernels/linear_wgmma.cu",
                               "linear_wgmma");
    int64_t cluster = params_get(params, "CLUSTER") * params_get(params, "SPREAD");
    int64_t block_tokens = params_get(params, "BLOCK_TOKENS");
    int64_t work = spread_blocks(p, params) * ceil_div(p->max_tokens, block_tokens);
    int64_t clusters = plan->target->sms / cluster; // they take work in turn
    int64_t consumers = params_get(params, "ROW_GROUPS") * params_get(params, "K_GROUPS");
    bool even = params_get(params, "EVEN");
    s->grid[0] = (int)(cluster * (work < clusters && !even ? work : clusters));
    if (even) {
        int64_t sums = consumer_rows(params) * block_tokens; // of a block
        step_buffer(phase, s, plan_buffer(plan, phase, "parts", s->grid[0] * sums * 4), 0);
        step_buffer(phase, s, plan_counts(plan, phase, s->grid[0] * 4), 0);
    } else {
        step_int(s, 0);
        step_int(s, 0);
    }
    s->block = GROUP_THREADS * (1 + (int)consumers);
    s->shared_bytes = (int)params_get(params, "SHARED_BYTES");
    s->map_columns = (int)params_get(params, "IN_FEATURES");
    s->map_rows = (int)(block_tokens / params_get(params, "SPREAD"));
}

const Kernel kernel_linear_wgmma = {.name = "linear_wgmma",
                                    .device = DEVICE_CUDA,
                                    .op = OP_LINEAR,
                                    .sums = "K_GROUPS CLUSTER",
                                    .tied = "EVEN",
                                    .accepts = accepts,
                                    .candidates = candidates,
                                    .cost = cost,
                                    .lower = lower};

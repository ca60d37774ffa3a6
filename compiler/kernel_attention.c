// Attention on a GPU: kernels/attention_decode.cu for rows of different sequences (and for a few
// tokens of some), for many tokens of some sequences kernels/attention_wgmma.cu on Hopper and
// kernels/attention_prefill.cu elsewhere. The constants here are twins of those at the top of the
// files.
#include "kernel_rows.h"

enum {
    WARP_LANES = 32,
    PREFILL_THREADS = 128,
    HEAD_DIM_UNIT = 8,
    MAX_HEAD_DIM = 256,
    PAGE_STEP = 16, // a warp of the decode kernel reads 16 keys of one page
    DECODE_MAX_SPLITS = 64,
    BULK_MAJOR = 9,           // compute capability with bulk copies
    STAGE_BARRIER_BYTES = 16, // full and empty
    DECODE_STAGES_LIMIT = 6,
    DECODE_MAX_PREFILL = 16, // tokens of one sequence that the decode kernel may take
    BLOCK_ROWS = 64,         // of the prefill kernel: tokens times heads of a group
    WIDE_HEAD_DIM = 128,     // above it, tiles of keys are smaller and queries in shared memory
    ROW_PADDING = 16,
    MMA_K = 16,             // rows are filled up to it
    TYPICAL_CONTEXT = 1024, // for predicted times
    GROUP_THREADS = 128,    // of a warpgroup: 64 rows
    GROUP_ROWS = 64,
    COLUMN_BYTES = 128, // of a swizzled tile
    SHARED_ALIGN = 1024,
    SLOT_BARRIER_BYTES = 16,
    SLOTS_LEAST = 3,
    SLOTS_LIMIT = 8,
};

static int64_t group_heads(const Problem *p) {
    return p->op->attention.heads / p->op->attention.kv_heads;
}

static bool supported(const Problem *p, char reason[REASON_BYTES]) {
    TRY(rows_accepts(p, reason));
    int64_t head_dim = p->op->attention.head_dim, page = p->plan->info.page_tokens;
    if (head_dim % HEAD_DIM_UNIT != 0 || head_dim > MAX_HEAD_DIM) {
        snprintf(reason, REASON_BYTES, "head_dim %lld, takes multiples of %d up to %d",
                 (long long)head_dim, HEAD_DIM_UNIT, MAX_HEAD_DIM);
        return false;
    }
    if (page % PAGE_STEP != 0) {
        snprintf(reason, REASON_BYTES, "KV pages of %lld tokens, takes multiples of %d",
                 (long long)page, PAGE_STEP);
        return false;
    }
    return true;
}

// A window that holds every sequence is none.
static int64_t window_of(const Problem *p) {
    int64_t window = p->op->attention.window;
    return window > 0 && window < p->plan->info.max_seq_len ? window : 0;
}

// Keys that a token sees, of so many up to its own.
static int64_t visible(const Problem *p, int64_t keys) {
    int64_t window = window_of(p);
    return window > 0 && window < keys ? window : keys;
}

static void attention_params(Params *out, const Problem *p) {
    const Op *op = p->op;
    *out = (Params){0};
    params_set(out, "HEADS", op->attention.heads);
    params_set(out, "KV_HEADS", op->attention.kv_heads);
    params_set(out, "HEAD_DIM", op->attention.head_dim);
    params_kv(out, p->plan);
    params_set_float(out, "SCALE_BITS", op->attention.scale);
    params_set(out, "WINDOW", window_of(p));
    params_set_float(out, "SOFTCAP_BITS", op->attention.softcap > 0 ? op->attention.softcap : 0);
    params_set(out, "HAS_PLACES", op->attention.places >= 0);
}

static int64_t kv_bytes(const Problem *p, int64_t keys) {
    return keys * p->op->attention.kv_heads * p->op->attention.head_dim * 4;
}

static double pair_flops(const Problem *p) {
    return 4.0 * (double)(p->op->attention.heads * p->op->attention.head_dim);
}

static int64_t row_bytes(const Problem *p) { // q and out of a token
    return p->op->attention.heads * p->op->attention.head_dim * 4;
}

// The operands that all three kernels begin and end with.
static void step_reads(Step *s, const Op *op, Plan *plan, PhasePlan *phase) {
    step_value(plan, phase, s, op->inputs[0]);
    step_kv(s, plan, op->layer);
    step_address(s, REGION_BATCH, plan->batch.positions);
    step_address(s, REGION_BATCH, plan->batch.slots);
    step_address(s, REGION_BATCH, plan->batch.page_table);
}

static void step_writes(Step *s, const Op *op, Plan *plan, PhasePlan *phase) {
    step_weights_or_0(s, plan, op->attention.places);
    step_value(plan, phase, s, op->output);
    step_tokens(s);
}

// ---- decode -------------------------------------------------------------------------------------

// Tiles of 8 query heads in one block, and blocks that share a KV head.
static int64_t decode_tiles(const Problem *p) {
    return group_heads(p) > 8 && p->op->attention.head_dim <= WIDE_HEAD_DIM ? 2 : 1;
}
static int64_t decode_blocks(const Problem *p) {
    return ceil_div(ceil_div(group_heads(p), 8), decode_tiles(p));
}
static int64_t decode_heads(const Problem *p) { // of a block
    int64_t heads = 8 * decode_tiles(p);
    return group_heads(p) < heads ? group_heads(p) : heads;
}

// How a block of the decode kernel is cut.
typedef struct DecodeShape {
    int64_t warps, stages, shared_bytes;
    int64_t blocks; // that a multiprocessor holds
} DecodeShape;

static int64_t decode_stages(const Problem *p, int64_t warps, int64_t limit, int64_t *bytes) {
    int64_t head_dim = p->op->attention.head_dim;
    int64_t stage = warps * 2 * PAGE_STEP * head_dim * 2 + STAGE_BARRIER_BYTES;
    int64_t state = (int64_t)round_up((uint64_t)(decode_heads(p) * (head_dim + 4 + 2) * 4), 16);
    int64_t rest = warps * state + 16;
    int64_t stages = limit > rest ? (limit - rest) / stage : 0;
    stages = stages < DECODE_STAGES_LIMIT ? stages : DECODE_STAGES_LIMIT;
    *bytes = stages * stage + rest;
    return stages;
}

// Two blocks for each multiprocessor where three stages fit, so that one reads while the other adds
// up.
static bool decode_shape(const Problem *p, DecodeShape *out) {
    static const struct {
        int warps, blocks, stages;
    } wanted[] = {{4, 2, 3}, {4, 1, 3}, {4, 1, 2}, {2, 2, 2}, {2, 1, 2}};
    int64_t block = p->plan->target->shared_bytes;
    for (size_t at = 0; at < sizeof wanted / sizeof *wanted; at++) {
        // a multiprocessor has 1 KiB more than a block may have, and each block needs 1 KiB
        int64_t limit = (block + SHARED_ALIGN) / wanted[at].blocks - SHARED_ALIGN, bytes;
        int64_t stages = decode_stages(p, wanted[at].warps, limit, &bytes);
        *out = (DecodeShape){wanted[at].warps, stages, bytes, wanted[at].blocks};
        if (stages >= wanted[at].stages)
            return true;
    }
    return false;
}

static bool decode_accepts(const Problem *p, char reason[REASON_BYTES]) {
    bool other_takes = group_heads(p) <= BLOCK_ROWS;
    if (p->phase == PHASE_PREFILL && p->max_tokens > DECODE_MAX_PREFILL && other_takes) {
        snprintf(reason, REASON_BYTES, "%lld tokens of one sequence, reads the keys once for each",
                 (long long)p->max_tokens);
        return false;
    }
    DecodeShape shape;
    TRY(supported(p, reason));
    if (!decode_shape(p, &shape)) {
        snprintf(reason, REASON_BYTES,
                 "a block has %d bytes of shared memory, two stages need %lld",
                 p->plan->target->shared_bytes, (long long)shape.shared_bytes);
        return false;
    }
    return true;
}

// One token of one sequence shall fill the chip once, with one block of each multiprocessor: beside
// it the next kernel's block has room to fetch its weights. Bulk copies by a warp of their own are up
// to a tenth faster then; with more rows, whose parts are short, each warp had better copy its keys
// (1 and 64 rows on an H200). Both make the same sums.
static int decode_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    DecodeShape shape;
    if (!decode_shape(p, &shape))
        return 0;
    int64_t units = p->op->attention.kv_heads * decode_blocks(p);
    int64_t splits = p->plan->target->sms / units;
    int64_t longest = visible(p, p->plan->info.max_seq_len);
    int64_t useful =
        ceil_div(longest + (window_of(p) ? PAGE_STEP - 1 : 0), PAGE_STEP * shape.warps);
    splits = splits < useful ? splits : useful;
    splits = splits < DECODE_MAX_SPLITS ? splits : DECODE_MAX_SPLITS;
    attention_params(&out[0], p);
    params_set(&out[0], "SPLITS", splits > 1 ? splits : 1);
    params_set(&out[0], "WARPS", shape.warps);
    params_set(&out[0], "STAGES", shape.stages);
    params_set(&out[0], "SHARED_BYTES", shape.shared_bytes);
    bool can_bulk = p->plan->target->compute_major >= BULK_MAJOR;
    bool bulk = can_bulk && p->max_tokens == 1;
    out[1] = out[0];
    params_set(&out[0], "LOAD_BULK", bulk);
    params_set(&out[1], "LOAD_BULK", !bulk);
    return can_bulk ? 2 : 1;
}

static Cost decode_cost(const Problem *p, const Params *params) {
    (void)params;
    const Target *t = p->plan->target;
    int64_t keys = visible(p, TYPICAL_CONTEXT);
    Cost cost = {
        .bytes = (double)(p->max_tokens * (kv_bytes(p, keys) + row_bytes(p))),
        .flops = (double)(p->max_tokens * keys) * pair_flops(p),
    };
    cost.us = 4 * t->launch_us + cost.bytes / (t->bandwidth_gbs * 1e3);
    return cost;
}

static int64_t decode_record_floats(const Problem *p) {
    int64_t heads = decode_heads(p);
    return (int64_t)round_up((uint64_t)(heads * (p->op->attention.head_dim + 2) + 1), 4);
}

static void decode_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                         PhasePlan *phase) {
    const Op *op = p->op;
    int64_t shared = params_get(params, "SHARED_BYTES"), block = plan->target->shared_bytes;
    int64_t splits = params_get(params, "SPLITS");
    int64_t rows = p->max_tokens * op->attention.kv_heads * decode_blocks(p);
    int records =
        plan_buffer(plan, phase, "attention_records", rows * splits * decode_record_floats(p) * 4);
    int64_t fit = (block + SHARED_ALIGN) / (shared + SHARED_ALIGN);
    int64_t resident = plan->target->sms * (p->max_tokens == 1 ? 1 : fit);
    resident = rows * splits < resident ? rows * splits : resident;
    Step *s = plan_step(plan, phase, op, "kernels/attention_decode.cu", "attention_decode", params);
    s->grid[0] = (int)resident;
    s->block = WARP_LANES * (int)(params_get(params, "WARPS") + params_get(params, "LOAD_BULK"));
    s->shared_bytes = (int)shared;
    s->cost = *cost;
    step_reads(s, op, plan, phase);
    step_buffer(phase, s, records, 0);
    step_buffer(phase, s, plan_counts(plan, phase, rows * 4), 0);
    step_writes(s, op, plan, phase);
}

const Kernel kernel_attention_decode = {
    .name = "attention_decode",
    .device = DEVICE_CUDA,
    .op = OP_ATTENTION,
    .accepts = decode_accepts,
    .candidates = decode_candidates,
    .cost = decode_cost,
    .lower = decode_lower,
};

// ---- prefill ------------------------------------------------------------------------------------

static int64_t prefill_shared_bytes(const Problem *p) {
    int64_t head_dim = p->op->attention.head_dim;
    int64_t stride = (int64_t)round_up((uint64_t)head_dim, MMA_K) * 2 + ROW_PADDING;
    return head_dim > WIDE_HEAD_DIM ? (2 * 32 + BLOCK_ROWS) * stride : 2 * 64 * stride;
}

static bool prefill_accepts(const Problem *p, char reason[REASON_BYTES]) {
    if (p->phase != PHASE_PREFILL) {
        snprintf(reason, REASON_BYTES, "one row of each sequence, takes runs of them");
        return false;
    }
    if (group_heads(p) > BLOCK_ROWS) {
        snprintf(reason, REASON_BYTES, "%lld query heads per KV head, takes up to %d",
                 (long long)group_heads(p), BLOCK_ROWS);
        return false;
    }
    if (prefill_shared_bytes(p) > p->plan->target->shared_bytes) {
        snprintf(reason, REASON_BYTES, "needs %lld bytes of shared memory, a block has %d",
                 (long long)prefill_shared_bytes(p), p->plan->target->shared_bytes);
        return false;
    }
    return supported(p, reason);
}

static int prefill_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    attention_params(&out[0], p);
    params_set(&out[0], "SHARED_BYTES", prefill_shared_bytes(p));
    return 1;
}

// The tokens are the whole sequence; mma.sync by warps of 16 rows reaches about a quarter of the
// tensor peak.
static Cost prefill_cost(const Problem *p, const Params *params) {
    (void)params;
    const Target *t = p->plan->target;
    double tokens = (double)p->max_tokens, window = (double)visible(p, p->max_tokens);
    double pairs = tokens * window - window * (window - 1) / 2;
    Cost cost = {
        .bytes = (double)(kv_bytes(p, p->max_tokens) + p->max_tokens * row_bytes(p)),
        .flops = pairs * pair_flops(p),
    };
    cost.us = 6 * t->launch_us + cost.flops / (0.25e6 * t->tensor_tflops) +
              cost.bytes / (t->bandwidth_gbs * 1e3);
    return cost;
}

static void prefill_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                          PhasePlan *phase) {
    const Op *op = p->op;
    Step *s =
        plan_step(plan, phase, op, "kernels/attention_prefill.cu", "attention_prefill", params);
    s->grid[0] = (int)op->attention.kv_heads;
    s->tokens_per_block = (int)(BLOCK_ROWS / group_heads(p));
    s->block = PREFILL_THREADS;
    s->shared_bytes = (int)prefill_shared_bytes(p);
    s->cost = *cost;
    step_reads(s, op, plan, phase);
    step_writes(s, op, plan, phase);
}

const Kernel kernel_attention_prefill = {
    .name = "attention_prefill",
    .device = DEVICE_CUDA,
    .op = OP_ATTENTION,
    .accepts = prefill_accepts,
    .candidates = prefill_candidates,
    .cost = prefill_cost,
    .lower = prefill_lower,
};

// ---- prefill on Hopper --------------------------------------------------------------------------

typedef struct WgmmaTiles {
    int head_dim, consumers, keys;
} WgmmaTiles;

// Scores, weights and outputs of a thread, 5 / 8 * keys + head_dim / 2, fit its 232 registers.
static const WgmmaTiles wgmma_tiles[] = {{64, 2, 128}, {96, 2, 128}, {128, 2, 128}, {256, 2, 64}};

static const WgmmaTiles *wgmma_find(const Problem *p) {
    for (size_t at = 0; at < sizeof wgmma_tiles / sizeof *wgmma_tiles; at++)
        if (wgmma_tiles[at].head_dim == p->op->attention.head_dim)
            return &wgmma_tiles[at];
    return NULL;
}

static bool wgmma_accepts(const Problem *p, char reason[REASON_BYTES]) {
    const Target *t = p->plan->target;
    if (t->compute_major != 9 || !t->exact) {
        snprintf(reason, REASON_BYTES, "wgmma is of sm_90a only");
        return false;
    }
    const WgmmaTiles *tiles = wgmma_find(p);
    if (!tiles) {
        snprintf(reason, REASON_BYTES, "head_dim %lld, takes 64, 96, 128 and 256",
                 (long long)p->op->attention.head_dim);
        return false;
    }
    int64_t page = p->plan->info.page_tokens;
    if (tiles->keys % page != 0 && page % tiles->keys != 0) {
        snprintf(reason, REASON_BYTES, "KV pages of %lld tokens do not fit tiles of %d keys",
                 (long long)page, tiles->keys);
        return false;
    }
    return prefill_accepts(p, reason);
}

static bool wgmma_params(const Problem *p, const WgmmaTiles *tiles, Params *out) {
    int64_t columns = ceil_div(p->op->attention.head_dim * 2, COLUMN_BYTES);
    int64_t queries = columns * tiles->consumers * GROUP_ROWS * COLUMN_BYTES;
    int64_t slot = columns * tiles->keys * COLUMN_BYTES;
    int64_t rest = SHARED_ALIGN + queries + SLOT_BARRIER_BYTES;
    int64_t slots = (p->plan->target->shared_bytes - rest) / (slot + SLOT_BARRIER_BYTES);
    slots = slots < SLOTS_LIMIT ? slots : SLOTS_LIMIT;
    attention_params(out, p);
    params_set(out, "CONSUMERS", tiles->consumers);
    params_set(out, "KEYS", tiles->keys);
    params_set(out, "SLOTS", slots);
    params_set(out, "SHARED_BYTES", rest + slots * (slot + SLOT_BARRIER_BYTES));
    return slots >= SLOTS_LEAST;
}

static int wgmma_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    return wgmma_params(p, wgmma_find(p), &out[0]) ? 1 : 0;
}

static Cost wgmma_cost(const Problem *p, const Params *params) {
    Cost cost = prefill_cost(p, params);
    const Target *t = p->plan->target;
    cost.us = 8 * t->launch_us + cost.flops / (0.6e6 * t->tensor_tflops) +
              cost.bytes / (t->bandwidth_gbs * 1e3);
    return cost;
}

static void wgmma_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                        PhasePlan *phase) {
    const Op *op = p->op;
    Step *s = plan_step(plan, phase, op, "kernels/attention_wgmma.cu", "attention_wgmma", params);
    int64_t consumers = params_get(params, "CONSUMERS");
    int64_t tokens = consumers * GROUP_ROWS / group_heads(p);
    int64_t works = ceil_div(p->max_tokens, tokens) * op->attention.kv_heads;
    s->grid[0] = (int)(works < plan->target->sms ? works : plan->target->sms); // take them in turn
    s->block = GROUP_THREADS * (1 + (int)consumers);
    s->shared_bytes = (int)params_get(params, "SHARED_BYTES");
    s->cost = *cost;
    step_reads(s, op, plan, phase);
    step_writes(s, op, plan, phase);
}

const Kernel kernel_attention_wgmma = {
    .name = "attention_wgmma",
    .device = DEVICE_CUDA,
    .op = OP_ATTENTION,
    .accepts = wgmma_accepts,
    .candidates = wgmma_candidates,
    .cost = wgmma_cost,
    .lower = wgmma_lower,
};

// Linears of experts on a GPU: EXPERTS_UP and EXPERTS_DOWN. A choice is one expert of one token,
// number token * top_k + j; both ops make one row of results per choice, and EXPERTS_DOWN then
// sums the rows of each token in the order of its choices, so that the same token gives the same
// bits in any batch.
//
//   few tokens   linear_decode.cu, EXPERTS: a block per (row tiles, choice) takes up to eight
//                choices of one expert together
//   many tokens  experts_sort.cu, then linear_gemm.cu, EXPERTS: tiles of choices of one expert
//
// The linears' own code computes parameters: it is asked about an op with the fields of a linear.
#include "kernel_linear.h"
#include "kernel_rows.h"

enum {
    CHOICES_TOGETHER = 8, // tokens of a block of the decode kernel: one mma tile
    STACK_LIMIT = 1024,   // threads of experts_sort.cu
    SORT_THREADS = 1024,
    GRID_LIMIT = 65535,
    TILE_WORDS = 4,
    TILES_TURNS = 16, // blocks that share the tiles of a row block, per block of tokens
    GEMM_THREADS = 256,
    DECODE_EPILOGUE_WARPS = 2,
    GEMM_BLOCK_WARPS_ROWS = 4, // row tiles of a block are this times WARP_TILES
};

static const PackedTensor *stack_of(const Problem *p) {
    return &p->plan->graph->packed[p->op->experts.weight];
}

static bool is_up(const Problem *p) {
    return p->op->kind == OP_EXPERTS_UP;
}

// The op as a linear: the same union, so that nothing of p->op->experts may be read from it.
static Op linear_of(const Problem *p) {
    Op op = {.kind = p->op->kind, .layer = p->op->layer, .inputs = {p->op->inputs[0], -1, -1}};
    op.output = p->op->output;
    op.linear.weight = p->op->experts.weight;
    op.linear.bias = op.linear.norm_weight = op.linear.norm_order = op.linear.inv_freq = -1;
    op.linear.prologue = PROLOGUE_NONE;
    op.linear.scale = 1;
    op.linear.epilogue = is_up(p) ? EPILOGUE_ACT_MUL : EPILOGUE_STORE;
    op.linear.act = p->op->experts.act;
    return op;
}

static bool accepts_stack(const Problem *p, char reason[REASON_BYTES]) {
    Op op = linear_of(p);
    Problem linear = *p;
    linear.op = &op;
    if (stack_of(p)->experts > STACK_LIMIT) {
        snprintf(reason, REASON_BYTES, "%d experts, takes up to %d", stack_of(p)->experts,
                 STACK_LIMIT);
        return false;
    }
    return rows_accepts(p, reason) && linear_supported(&linear, reason);
}

// Parameters of both kernels.
static void experts_params(Params *params, const Problem *p) {
    const Op *op = p->op;
    params_set(params, "TOP_K", op->experts.top_k);
    params_set(params, "HAS_SLOTS", op->experts.slots >= 0);
    params_set(params, "EXPERT_BYTES", stack_of(p)->expert_bytes);
}

static int64_t choices(const Problem *p) {
    return p->max_tokens * p->op->experts.top_k;
}

// Experts of the stack that so many choices meet, if all are equally likely.
static double experts_met(const Problem *p) {
    double experts = stack_of(p)->experts, missed = 1;
    for (int64_t at = 0; at < choices(p) && missed > 1e-3; at++)
        missed *= 1 - 1 / experts;
    return experts * (1 - missed);
}

static double expert_us(const Problem *p, double count) {
    return count * (double)stack_of(p)->expert_bytes / (p->plan->target->bandwidth_gbs * 1e3);
}

static Cost cost_of(const Problem *p, double us) {
    const PackedTensor *t = stack_of(p);
    return (Cost){.bytes = experts_met(p) * (double)t->expert_bytes,
                  .flops =
                      2.0 * (double)choices(p) * (double)t->in_features * (double)t->out_features,
                  .us = us};
}

// fp32 rows of choices to the token's sum, kernels/experts_sum.cu
static void lower_sum(const Lowering *l, int rows) {
    const Op *op = l->p->op;
    Params params = {0};
    int64_t width = value_width(l->p, op->output), vector = vector_of(width, 4);
    params_set(&params, "WIDTH", width);
    params_set(&params, "TOP_K", op->experts.top_k);
    Cost none = {0}; // it is in that of the op
    const Lowering sum = {l->p, &params, &none, l->plan, l->phase};
    Step *s = rows_step(&sum, "kernels/experts_sum.cu", "experts_sum", width / vector);
    step_buffer(l->phase, s, rows, 0);
    rows_value(&sum, s, op->inputs[1]);
    rows_value(&sum, s, op->output);
    step_tokens(s);
}

// The buffer for rows of choices: the output itself, or what lower_sum reads.
static int rows_buffer(const Lowering *l) {
    const Problem *p = l->p;
    if (is_up(p))
        return plan_value(l->plan, l->phase, p->op->output);
    return plan_buffer(l->plan, l->phase, "experts.rows",
                       choices(p) * stack_of(p)->out_features * 4);
}

// ---- few tokens ---------------------------------------------------------------------------------

static bool decode_candidate(const Problem *p, int tiles, Params *out) {
    Op op = linear_of(p);
    Problem linear = *p;
    linear.op = &op;
    linear.max_tokens = p->max_tokens < CHOICES_TOGETHER ? p->max_tokens : CHOICES_TOGETHER;
    DecodeVariant v = decode_variant(&linear);
    v.tiles = tiles;
    if (!decode_params(&linear, v, out))
        return false;
    experts_params(out, p);
    params_set(out, "X_SHARE", is_up(p) ? p->op->experts.top_k : 1);
    params_set(out, "HAS_ORDER", p->op->experts.order >= 0);
    params_set(out, "NORM_WIDTH",
               is_up(p) ? value_width(p, p->op->inputs[0]) : stack_of(p)->in_features);
    return true;
}

static bool decode_accepts(const Problem *p, char reason[REASON_BYTES]) {
    Params params;
    if (p->max_tokens > DECODE_TOKENS_LIMIT || choices(p) > GRID_LIMIT) {
        snprintf(reason, REASON_BYTES, "%lld tokens, takes up to %d", (long long)p->max_tokens,
                 DECODE_TOKENS_LIMIT);
        return false;
    }
    if (!accepts_stack(p, reason))
        return false;
    if (decode_candidate(p, 1, &params))
        return true;
    snprintf(reason, REASON_BYTES, "%d bytes of shared memory do not hold a record per warp",
             p->plan->target->shared_bytes);
    return false;
}

static int decode_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    int count = 0;
    for (int tiles = 1; tiles <= 2; tiles++)
        count += decode_candidate(p, tiles, &out[count]);
    return count;
}

// Blocks along the rows: as many as keep all multiprocessors busy with the experts that are met.
static int decode_row_blocks(const Problem *p, const Params *params) {
    int64_t passes = ceil_div(stack_of(p)->rows / TILE_ROWS, params_get(params, "TILES"));
    int64_t resident = p->plan->target->sms * params_get(params, "CTAS_PER_SM");
    int64_t wanted = ceil_div(resident, (int64_t)experts_met(p) + 1);
    return (int)(wanted < passes ? wanted : passes);
}

static Cost decode_cost(const Problem *p, const Params *params) {
    const Target *t = p->plan->target;
    double met = experts_met(p), reads = (double)choices(p) / (double)CHOICES_TOGETHER;
    double blocks = decode_row_blocks(p, params) * met;
    double resident = (double)t->sms * (double)params_get(params, "CTAS_PER_SM");
    double idle = blocks < resident ? resident / blocks : 1;
    double launches = is_up(p) ? 1 : 2;
    double read_us = expert_us(p, met > reads ? met : reads) * idle;
    return cost_of(p, launches * (t->launch_us + 2) + read_us);
}

static void decode_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                         PhasePlan *phase) {
    const Op *op = p->op;
    const Lowering l = {p, params, cost, plan, phase};
    int rows = rows_buffer(&l);
    Step *s = plan_step(plan, phase, op, "kernels/linear_decode.cu", "experts_decode", params);
    step_value(plan, phase, s, op->inputs[0]);
    step_weights(s, plan, op->experts.weight);
    step_value(plan, phase, s, op->inputs[1]);
    step_weights_or_0(s, plan, op->experts.slots);
    step_weights_or_0(s, plan, op->experts.order);
    step_buffer(phase, s, rows, 0);
    step_tokens(s);
    s->grid[0] = decode_row_blocks(p, params);
    s->grid[1] = (int)choices(p);
    s->block = ((int)params_get(params, "WARPS") + DECODE_EPILOGUE_WARPS) * 32;
    s->shared_bytes = (int)params_get(params, "SHARED_BYTES");
    s->cost = *cost;
    if (!is_up(p))
        lower_sum(&l, rows);
}

// ---- many tokens --------------------------------------------------------------------------------

static bool gemm_candidate(const Problem *p, GemmVariant v, Params *out) {
    Op op = linear_of(p);
    Problem linear = *p;
    linear.op = &op;
    if (!gemm_params(&linear, v, out))
        return false;
    experts_params(out, p);
    // With an order every choice has its own row.
    params_set(out, "X_SHARE", is_up(p) && p->op->experts.order < 0 ? p->op->experts.top_k : 1);
    return true;
}

static bool gemm_accepts(const Problem *p, char reason[REASON_BYTES]) {
    const PackedTensor *t = stack_of(p);
    if (t->expert_bytes > UINT32_MAX || choices(p) * t->in_features > UINT32_MAX ||
        choices(p) > INT32_MAX / 2) {
        snprintf(reason, REASON_BYTES, "offsets of [%lld, %lld] or of its inputs pass 32 bits",
                 (long long)t->out_features, (long long)t->in_features);
        return false;
    }
    return accepts_stack(p, reason);
}

static int gemm_candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    static const GemmVariant variants[] = {
        {.block_tokens = 128, .warp_tiles = 2}, {.block_tokens = 128, .warp_tiles = 1},
        {.block_tokens = 64, .warp_tiles = 2},  {.block_tokens = 64, .warp_tiles = 1},
        {.block_tokens = 32, .warp_tiles = 2},  {.block_tokens = 32, .warp_tiles = 1},
    };
    int count = 0;
    for (size_t at = 0; at < sizeof variants / sizeof *variants; at++) {
        GemmVariant v = variants[at];
        for (v.ctas_per_sm = 2; v.ctas_per_sm >= 1; v.ctas_per_sm--)
            if (gemm_candidate(p, v, &out[count])) {
                count++;
                break;
            }
    }
    return count;
}

static int gemm_row_blocks(const Problem *p, const Params *params) {
    int64_t tiles = GEMM_BLOCK_WARPS_ROWS * params_get(params, "WARP_TILES");
    return (int)ceil_div(stack_of(p)->rows / TILE_ROWS, tiles);
}

// Tiles of choices at most: full ones, and one more per expert and for the choices of other stacks.
static int64_t tiles_most(const Problem *p, const Params *params) {
    int64_t parts = stack_of(p)->experts + 1, all = choices(p);
    return all / params_get(params, "BLOCK_TOKENS") + (parts < all ? parts : all);
}

static Cost gemm_cost(const Problem *p, const Params *params) {
    const Target *t = p->plan->target;
    double block_tokens = (double)params_get(params, "BLOCK_TOKENS");
    double rows = 64.0 * (double)params_get(params, "WARP_TILES");
    double tiles = (double)choices(p) / block_tokens + experts_met(p) / 2;
    double path = t->compute_major == 9 || t->compute_major == 10 ? 0.5 : 0.75;
    double shape = rows * block_tokens / (rows * block_tokens + 32 * (rows + block_tokens));
    double flops = 2 * tiles * block_tokens * rows * gemm_row_blocks(p, params) *
                   (double)stack_of(p)->k_padded;
    double compute_us = flops / (t->tensor_tflops * path * shape * 1.5 * 1e6);
    double memory_us = expert_us(p, experts_met(p)) * 1.4;
    double sum_bytes = is_up(p) ? 0 : (double)choices(p) * (double)stack_of(p)->out_features * 8;
    double others_us = 2 * t->launch_us + 8 + sum_bytes / (t->bandwidth_gbs * 1e3);
    return cost_of(p, others_us + (compute_us > memory_us ? compute_us : memory_us));
}

// Buffers of experts_sort.cu, behind each other in one: choices, then tiles.
typedef struct Sorted {
    int buffer;
    int64_t tiles_at;
} Sorted;

static Sorted lower_sort(const Lowering *l) {
    const Problem *p = l->p;
    const Op *op = p->op;
    Sorted sorted = {.tiles_at = (int64_t)round_up((uint64_t)choices(p) * 4, 256)};
    int64_t tiles_bytes = (1 + tiles_most(p, l->params)) * TILE_WORDS * 4;
    sorted.buffer = plan_buffer(l->plan, l->phase, "experts.tiles", sorted.tiles_at + tiles_bytes);
    Params params = {0};
    params_set(&params, "EXPERTS", stack_of(p)->experts);
    params_set(&params, "TOP_K", op->experts.top_k);
    params_set(&params, "HAS_SLOTS", op->experts.slots >= 0);
    params_set(&params, "BLOCK_TOKENS", params_get(l->params, "BLOCK_TOKENS"));
    Step *s = plan_step(l->plan, l->phase, op, "kernels/experts_sort.cu", "experts_sort", &params);
    step_value(l->plan, l->phase, s, op->inputs[1]);
    step_weights_or_0(s, l->plan, op->experts.slots);
    step_buffer(l->phase, s, sorted.buffer, 0);
    step_buffer(l->phase, s, sorted.buffer, sorted.tiles_at);
    step_tokens(s);
    s->block = SORT_THREADS;
    return sorted;
}

// A row of inputs for each choice, in the order that its expert wants, kernels/experts_permute.cu
static int lower_permute(const Lowering *l) {
    const Problem *p = l->p;
    const Op *op = p->op;
    int64_t width = stack_of(p)->in_features;
    int buffer = plan_buffer(l->plan, l->phase, "experts.inputs", choices(p) * width * 2);
    Params params = {0};
    params_set(&params, "IN_WIDTH", value_width(p, op->inputs[0]));
    params_set(&params, "WIDTH", width);
    params_set(&params, "TOP_K", op->experts.top_k);
    params_set(&params, "HAS_SLOTS", op->experts.slots >= 0);
    Cost none = {0};
    const Lowering permute = {p, &params, &none, l->plan, l->phase};
    Step *s = rows_step(&permute, "kernels/experts_permute.cu", "experts_permute", width / 8);
    s->grid[2] = (int)op->experts.top_k;
    rows_value(&permute, s, op->inputs[0]);
    rows_value(&permute, s, op->inputs[1]);
    step_weights_or_0(s, l->plan, op->experts.slots);
    step_weights(s, l->plan, op->experts.order);
    step_buffer(l->phase, s, buffer, 0);
    step_tokens(s);
    return buffer;
}

static void gemm_lower(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                       PhasePlan *phase) {
    const Op *op = p->op;
    const Lowering l = {p, params, cost, plan, phase};
    Sorted sorted = lower_sort(&l);
    bool permuted = is_up(p) && op->experts.order >= 0;
    int inputs = permuted ? lower_permute(&l) : plan_value(plan, phase, op->inputs[0]);
    int rows = rows_buffer(&l);
    Step *s = plan_step(plan, phase, op, "kernels/linear_gemm.cu", "experts_gemm", params);
    step_buffer(phase, s, inputs, 0);
    step_weights(s, plan, op->experts.weight);
    step_buffer(phase, s, sorted.buffer, 0);
    step_buffer(phase, s, sorted.buffer, sorted.tiles_at);
    step_buffer(phase, s, rows, 0);
    s->grid[0] = gemm_row_blocks(p, params);
    s->grid[2] = TILES_TURNS;
    s->tokens_per_block = (int)params_get(params, "BLOCK_TOKENS");
    s->block = GEMM_THREADS;
    s->shared_bytes = (int)params_get(params, "SHARED_BYTES");
    s->cost = *cost;
    if (!is_up(p))
        lower_sum(&l, rows);
}

// ---- the families -------------------------------------------------------------------------------

const Kernel kernel_experts_up_decode = {
    .name = "experts_decode",
    .device = DEVICE_CUDA,
    .op = OP_EXPERTS_UP,
    .sums = "WARPS",
    .accepts = decode_accepts,
    .candidates = decode_candidates,
    .cost = decode_cost,
    .lower = decode_lower,
};

const Kernel kernel_experts_down_decode = {
    .name = "experts_decode",
    .device = DEVICE_CUDA,
    .op = OP_EXPERTS_DOWN,
    .sums = "WARPS",
    .accepts = decode_accepts,
    .candidates = decode_candidates,
    .cost = decode_cost,
    .lower = decode_lower,
};

const Kernel kernel_experts_up_gemm = {
    .name = "experts_gemm",
    .device = DEVICE_CUDA,
    .op = OP_EXPERTS_UP,
    .accepts = gemm_accepts,
    .candidates = gemm_candidates,
    .cost = gemm_cost,
    .lower = gemm_lower,
};

const Kernel kernel_experts_down_gemm = {
    .name = "experts_gemm",
    .device = DEVICE_CUDA,
    .op = OP_EXPERTS_DOWN,
    .accepts = gemm_accepts,
    .candidates = gemm_candidates,
    .cost = gemm_cost,
    .lower = gemm_lower,
};

// Linears of few tokens: kernels/linear_decode.cu, which is bound by reading the weights once.
//
// How K is split over warps fixes the order of every sum, so it is chosen by the shape and never by
// the number of tokens: a sequence's tokens do not depend on what else is in its batch. What else
// varies (row tiles together, stages, phases of K) changes the time only.
#include "../runtime/step.h"
#include "kernel_linear.h"

#include <math.h>

enum {
    WARPS_LIMIT = 16,
    WARPS_ENOUGH = 8,     // fewer only if K has fewer records
    IN_FLIGHT = 48 << 10, // bytes per multiprocessor under way: twice what latency asks for
    STAGES_LEAST = 3,
    STAGES_LIMIT = 12,
    EPILOGUE_WARPS = 2,
    REGISTERS = 65536, // of a multiprocessor
    PARTIAL_BYTES = 512,
    BLOCK_RESERVED = 1024, // shared memory that the driver keeps per block
    CLUSTER_MAJOR = 9,     // with clusters, as far as measured
    CLUSTER_BARRIERS = 32, // bytes
};

static int64_t records(const PackedTensor *t) {
    return t->k_padded / record_geometry(t).k;
}

// Warps whose rings of the fewest stages fit the shared memory, with eight tokens.
static int warps_limit(const Problem *p) {
    Record r = record_geometry(linear_weight(p));
    int64_t each = STAGES_LEAST * r.bytes + 8 * 2 * r.k + 2 * PARTIAL_BYTES;
    int64_t warps = (p->plan->target->shared_bytes - BLOCK_RESERVED) / each;
    return warps < WARPS_LIMIT ? (int)warps : WARPS_LIMIT;
}

// The most even split of the records, the larger count among equals.
static int split_warps(int64_t count, int limit) {
    int best = 1;
    double best_use = 0;
    for (int warps = limit; warps >= 1; warps--) {
        if (warps > count || (warps < WARPS_ENOUGH && count >= WARPS_ENOUGH))
            continue;
        double use = (double)count / (double)(ceil_div(count, warps) * warps);
        if (use > best_use + 0.05) {
            best = warps;
            best_use = use;
        }
    }
    return best;
}

DecodeVariant decode_variant(const Problem *p) {
    int warps = split_warps(records(linear_weight(p)), warps_limit(p));
    int ctas = WARPS_LIMIT / warps;
    return (DecodeVariant){
        .warps = warps, .tiles = 1, .ctas_per_sm = ctas > 4 ? 4 : ctas, .cluster = 1};
}

DecodeVariant decode_cluster(const Problem *p, int cluster) {
    int64_t count = ceil_div(records(linear_weight(p)), cluster);
    return (DecodeVariant){.warps = split_warps(count, warps_limit(p)),
                           .tiles = 1,
                           .ctas_per_sm = 1,
                           .cluster = cluster};
}

// ---- shared memory, the twin of the constants in the kernel -------------------------------------

typedef struct Shape {
    int64_t records, record_k, record_bytes;
    int64_t tokens, halves;
    bool norm, experts;
} Shape;

static Shape shape_of(const Problem *p, DecodeVariant v) {
    const PackedTensor *t = linear_weight(p);
    Record r = record_geometry(t);
    return (Shape){.records = t->k_padded / r.k,
                   .record_k = r.k,
                   .record_bytes = r.bytes,
                   .tokens = p->max_tokens,
                   .halves = ceil_div(p->max_tokens, 8),
                   .norm = p->op->linear.prologue == PROLOGUE_NORM && !v.apart,
                   .experts = p->op->kind != OP_LINEAR};
}

static int64_t shared_bytes(const Shape *s, DecodeVariant v, int64_t phases) {
    int64_t slice = ceil_div(ceil_div(s->records, v.cluster * v.warps), phases) * s->record_k;
    int64_t staged = phases == 1 ? ceil_div(s->records, v.cluster) * s->record_k : v.warps * slice;
    int64_t bytes = v.warps * v.stages * v.tiles * s->record_bytes;
    bytes += s->tokens * (staged * 2 + 16);
    bytes += 2 * v.warps * v.tiles * s->halves * PARTIAL_BYTES;
    bytes += s->norm ? s->tokens * v.warps * 4 : 0;
    bytes = (int64_t)round_up((uint64_t)bytes, 8);
    bytes += v.bulk ? v.warps * v.stages * 8 : 0;
    bytes += s->experts ? s->tokens * 4 : 0;
    if (v.cluster == 1)
        return bytes;
    int64_t parts = 2 * (v.cluster - 1) * v.tiles * s->halves * PARTIAL_BYTES;
    return (int64_t)round_up((uint64_t)bytes, 16) + parts + CLUSTER_BARRIERS;
}

static int64_t shared_limit(const Target *t, int ctas_per_sm) {
    return (t->shared_bytes + BLOCK_RESERVED) / ctas_per_sm - BLOCK_RESERVED;
}

// Stages that keep enough bytes under way.
static int useful_stages(const Shape *s, DecodeVariant v) {
    int64_t stage = (int64_t)v.warps * v.tiles * v.ctas_per_sm * s->record_bytes;
    int64_t stages = ceil_div(IN_FLIGHT, stage) + 1;
    return stages > STAGES_LIMIT   ? STAGES_LIMIT
           : stages < STAGES_LEAST ? STAGES_LEAST
                                   : (int)stages;
}

// Registers that a thread needs, a little more than ptxas was seen to take.
static int registers(const Problem *p, const Shape *s, DecodeVariant v) {
    bool rope = p->op->linear.epilogue == EPILOGUE_ROPE_KV;
    bool fine = linear_weight(p)->group == 32;
    int halves = (int)s->halves, needed = 64 + 10 * v.tiles * halves + (rope ? 16 : 0);
    if (linear_is_lean(p))
        return needed + (fine && v.tiles > 1 ? 16 : 0);
    return needed + (v.tiles > 1 ? 16 + 8 * halves : 0) + (halves > 3 ? 32 * v.tiles - 16 : 0);
}

// Fewer blocks per multiprocessor where they would not leave enough registers.
static bool registers_fit(const Problem *p, const Shape *s, DecodeVariant *v) {
    int threads = (v->warps + EPILOGUE_WARPS) * 32, needed = registers(p, s, *v);
    while (v->ctas_per_sm > 1 && REGISTERS / (threads * v->ctas_per_sm) < needed)
        v->ctas_per_sm--;
    return REGISTERS / threads >= needed;
}

// The fewest phases of K first, then the most stages.
static bool fit(const Problem *p, const Shape *s, DecodeVariant *v, int64_t *phases) {
    int wanted = v->stages ? v->stages : useful_stages(s, *v);
    int least = v->stages ? wanted : STAGES_LEAST;
    int64_t limit = shared_limit(p->plan->target, v->ctas_per_sm);
    int64_t most = ceil_div(s->records, v->cluster * v->warps);
    for (*phases = 1; *phases <= most; ++*phases)
        for (v->stages = wanted; v->stages >= least; v->stages--)
            if (shared_bytes(s, *v, *phases) <= limit)
                return true;
    return false;
}

// More than 12 warps leave 128 registers, more than 16 leave 96. Staging K in phases, beside scales
// of small groups or where warps have different numbers of records, asks for more (seen in the
// spills of ptxas 13.0).
static bool phases_fit(const Problem *p, const Shape *s, DecodeVariant v, int64_t phases) {
    const PackedTensor *t = linear_weight(p);
    int warps = v.warps + EPILOGUE_WARPS;
    bool fine = t->bits != 16 && t->group <= 32;
    if (warps > 12 && v.tiles * s->halves >= 8)
        return false;
    if (phases == 1 || warps <= 12)
        return true;
    if (warps <= 16)
        return !fine || s->halves <= 3;
    if (fine)
        return v.tiles == 1 && s->halves <= (linear_is_lean(p) ? 3 : 1);
    if (!linear_is_lean(p) && s->halves > 2)
        return false;
    return s->records % (v.cluster * v.warps) == 0 || v.tiles * s->halves <= 3;
}

bool decode_params(const Problem *p, DecodeVariant v, Params *out) {
    Shape s = shape_of(p, v);
    int64_t phases, width = p->plan->graph->values[p->op->inputs[0]].width;
    if (v.cluster > 1 && (s.norm || s.experts || p->plan->target->compute_major != CLUSTER_MAJOR))
        return false;
    if (!registers_fit(p, &s, &v))
        return false;
    DecodeVariant alone = v;
    alone.ctas_per_sm = 1;
    if (!fit(p, &s, &v, &phases)) {
        v = alone;
        if (!fit(p, &s, &v, &phases))
            return false;
    }
    if (!phases_fit(p, &s, v, phases))
        return false;
    *out = (Params){0};
    linear_params(out, p);
    params_set(out, "TOKENS_MAX", p->max_tokens);
    params_set(out, "WARPS", v.warps);
    params_set(out, "CLUSTER", v.cluster);
    params_set(out, "STAGES", v.stages);
    params_set(out, "TILES", v.tiles);
    params_set(out, "X_PHASES", phases);
    params_set(out, "LOAD_BULK", v.bulk);
    params_set(out, "CTAS_PER_SM", v.ctas_per_sm);
    params_set(out, "PROLOGUE", s.norm ? PROLOGUE_NORM : PROLOGUE_NONE);
    params_set_float(out, "EPS_BITS", s.norm ? p->op->linear.eps : 0);
    params_set(out, "HAS_ORDER", s.norm && p->op->linear.norm_order >= 0);
    params_set(out, "NORM_WIDTH", v.apart ? linear_weight(p)->in_features : width);
    params_set(out, "SHARED_BYTES", shared_bytes(&s, v, phases));
    return true;
}

// ---- the family ---------------------------------------------------------------------------------

static bool accepts(const Problem *p, char reason[REASON_BYTES]) {
    if (p->max_tokens > DECODE_TOKENS_LIMIT) {
        snprintf(reason, REASON_BYTES, "%lld tokens, takes up to %d", (long long)p->max_tokens,
                 DECODE_TOKENS_LIMIT);
        return false;
    }
    if (!linear_supported(p, reason))
        return false;
    Params params;
    if (!decode_params(p, decode_variant(p), &params)) {
        snprintf(reason, REASON_BYTES, "%d bytes of shared memory do not hold a record per warp",
                 p->plan->target->shared_bytes);
        return false;
    }
    return true;
}

// Does a block hold all activations, of eight tokens at least?
static bool is_staged_once(const Problem *p) {
    Problem eight = *p;
    Params params;
    if (eight.max_tokens < 8)
        eight.max_tokens = 8;
    return decode_params(&eight, decode_variant(p), &params) &&
           params_get(&params, "X_PHASES") == 1;
}

// Each with one tile of rows and with two.
static int tiles_offer(const Problem *p, DecodeVariant v, Params *out) {
    int count = 0;
    for (v.tiles = 1; v.tiles <= 2; v.tiles++)
        count += decode_params(p, v, &out[count]);
    return count;
}

// Clusters hold activations that one block would have to stage again and again: of as few blocks as
// do, and for fewer tokens, too, so that these buckets can have one order of sums.
static int clusters_offer(const Problem *p, Params *out) {
    int count = 0;
    for (int cluster = 2; cluster <= 4 && !count && !is_staged_once(p); cluster *= 2) {
        Params both[2] = {0};
        int offered = tiles_offer(p, decode_cluster(p, cluster), both);
        for (int at = 0; at < offered; at++)
            if (params_get(&both[at], "X_PHASES") == 1)
                out[count++] = both[at];
    }
    return count;
}

static int candidates(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]) {
    DecodeVariant v = decode_variant(p);
    int count = tiles_offer(p, v, out);
    if (p->max_tokens > 8 && v.warps > WARPS_ENOUGH) {
        DecodeVariant half = v;
        half.warps = (v.warps + 1) / 2; // leave room for tiles beside the activations
        half.tiles = 2;
        count += decode_params(p, half, &out[count]);
    }
    if (p->op->linear.prologue == PROLOGUE_NORM && p->op->linear.norm_order >= 0) {
        v.apart = true; // else every block gathers the activations of all tokens by itself
        count += tiles_offer(p, v, &out[count]);
    }
    return count + clusters_offer(p, &out[count]);
}

static bool norm_apart(const Problem *p, const Params *params) {
    return p->op->linear.prologue == PROLOGUE_NORM &&
           params_get(params, "PROLOGUE") == PROLOGUE_NONE;
}

static int64_t passes(const Problem *p, const Params *params) {
    return ceil_div(linear_weight(p)->rows / TILE_ROWS, params_get(params, "TILES"));
}

// Clusters that the chip has multiprocessors for. Those of four do not fill all GPCs, which differ from
// chip to chip: an H200 of 132 multiprocessors runs 30 of them at the same time.
static int64_t chip_clusters(const Problem *p, const Params *params, bool at_once) {
    int64_t cluster = params_get(params, "CLUSTER");
    int64_t most = p->plan->target->sms * params_get(params, "CTAS_PER_SM") / cluster;
    return at_once && cluster > 2 ? most - most / 11 : most;
}

static int64_t clusters(const Problem *p, const Params *params, bool at_once) {
    int64_t wanted = passes(p, params), most = chip_clusters(p, params, at_once);
    return wanted < most ? wanted : most;
}

// Reading weights at the pace of the fullest block, or feeding the tensor cores from shared memory,
// whichever takes longer; activations come from the second-level cache, at about its rate.
static Cost cost(const Problem *p, const Params *params) {
    const Target *t = p->plan->target;
    const PackedTensor *w = linear_weight(p);
    double halves = (double)ceil_div(params_get(params, "TOKENS_MAX"), 8);
    double cluster = (double)params_get(params, "CLUSTER");
    double blocks = (double)clusters(p, params, true) * cluster;
    double turns = ceil((double)passes(p, params) * cluster / blocks);
    double full = turns * blocks / (double)passes(p, params) / cluster; // 1: all equally loaded
    if (cluster > 1) // multiprocessors that no cluster has
        full *= t->sms / blocks > 1 ? t->sms / blocks : 1;
    double stream_us = (double)w->bytes * full / (t->bandwidth_gbs * 1e3);
    // wavefronts of 128 bytes per 512 bytes of weights: in, out, and fragments of activations
    double tile_k = (double)record_geometry(w).tile_k;
    double waves = 8 + tile_k / 8 * halves / (double)params_get(params, "TILES");
    double clock_ghz = 1.6, in_use = blocks < t->sms ? blocks : t->sms;
    double shared_us = (double)w->bytes * full / 512 * waves / (in_use * clock_ghz * 1e3);
    double x_reads = params_get(params, "X_PHASES") > 1 ? turns : 1;
    double elem = params_get(params, "PROLOGUE") == PROLOGUE_NORM ? 4 : 2;
    double norm_us = norm_apart(p, params) ? linear_norm_us(p) : 0;
    double x_bytes =
        (double)p->max_tokens * (double)w->in_features * elem * blocks / cluster * x_reads;
    double x_us = x_bytes / (1.3 * t->bandwidth_gbs * 1e3);
    // first bytes, sum over warps, epilogue; tiles that come together come later, but hand over less
    // often (fitted to an H200)
    double ramp_us = 1.4 + 0.6 * (double)params_get(params, "TILES") + 0.19 * (turns - 1);
    double busy_us = stream_us > shared_us ? stream_us : shared_us;
    return (Cost){.bytes = (double)w->bytes + (double)(p->max_tokens * linear_token_bytes(p)),
                  .flops = 2.0 * (double)p->max_tokens * (double)w->in_features *
                           (double)w->out_features,
                  .us = t->launch_us + norm_us + ramp_us + busy_us + x_us};
}

// A kernel starts while the one in front of it ends: where a multiprocessor is free early and has
// room for two blocks, it would get two, another one none, and all wait for those. So a block takes
// more shared memory than is left beside as many as there are to be.
static int launch_shared_bytes(const Problem *p, const Params *params) {
    const Target *t = p->plan->target;
    int64_t bytes = params_get(params, "SHARED_BYTES");
    int64_t more = shared_limit(t, (int)params_get(params, "CTAS_PER_SM") + 1) + 16;
    return (int)(t->compute_major < STEP_OVERLAP_MAJOR || bytes > more ? bytes : more);
}

static void lower(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                  PhasePlan *phase) {
    const Op *op = p->op;
    int normed = norm_apart(p, params) ? linear_norm_step(p, plan, phase) : -1;
    Step *s = plan_step(plan, phase, op, "kernels/linear_decode.cu", "linear_decode", params);
    if (normed >= 0)
        step_buffer(phase, s, normed, 0);
    else
        step_value(plan, phase, s, op->inputs[0]);
    step_weights(s, plan, op->linear.weight);
    if (params_get(params, "PROLOGUE") == PROLOGUE_NORM)
        step_weights(s, plan, op->linear.norm_weight);
    else
        step_int(s, 0);
    linear_operands(s, p, plan, phase);
    if (params_get(params, "HAS_ORDER"))
        step_weights(s, plan, op->linear.norm_order);
    else
        step_int(s, 0);
    int cluster = (int)params_get(params, "CLUSTER");
    s->grid[0] = (int)clusters(p, params, false) * cluster;
    s->cluster_blocks = cluster > 1 ? cluster : 0;
    s->block = ((int)params_get(params, "WARPS") + EPILOGUE_WARPS) * 32;
    s->shared_bytes = launch_shared_bytes(p, params);
    s->cost = *predicted;
}

const Kernel kernel_linear_decode = {.name = "linear_decode",
                                     .device = DEVICE_CUDA,
                                     .op = OP_LINEAR,
                                     .sums = "WARPS CLUSTER PROLOGUE",
                                     .accepts = accepts,
                                     .candidates = candidates,
                                     .cost = cost,
                                     .lower = lower};

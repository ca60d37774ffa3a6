// (1) out = epilogue(prologue(x) W^T + bias) for few tokens, bound by reading W once.
//
// (2) Operands, in this order; each is an 8-byte slot, unused ones are 0:
//     x            PROLOGUE_NONE: act [tokens, K]; PROLOGUE_NORM: fp32 [tokens, NORM_WIDTH], used
//                  as act(x * rsqrt(mean(x^2) + eps) * norm_weight)
//     weights      layout tile16 [ROWS / 16, k_padded], aligned to 16 bytes
//     norm_weight  fp32 [K]
//     bias         fp32 [ROWS], packed row order
//     out, kv, inv_freq, positions, slots, page_table   epilogue.cuh
//     tokens       1 .. TOKENS_MAX
//     order        int32 [K], HAS_ORDER: input k is x[order[k]], 0 where that is -1
//     With EXPERTS the entry is experts_decode, whose operands stand there.
//
// (3) Layout tile16 and the fragment words are drawn in docs/kernels.md. Shared memory:
//
//     ring      [WARPS][STAGES][TILES][RECORD_BYTES]   weights under way, private to a warp
//     x         [TOKENS_MAX][X_STRIDE]                 activations, one row per token
//     partials  [2][WARPS][TILES][HALVES][32 lanes][4] fp32 sums of a pass, by parity of the pass
//     squares   [TOKENS_MAX][WARPS]                    PROLOGUE_NORM: parts of sum x^2
//     barriers  [WARPS][STAGES]                        LOAD_BULK: mbarriers
//     parts     [2][CLUSTER - 1][TILES][HALVES][32 lanes][4]  fp32 sums of the other blocks, by parity
//     sent, taken  [2]                                 mbarriers of those, CLUSTER > 1
//     pairs     [TOKENS_MAX]                           EXPERTS: what the block's tokens are
//
// (4) Bytes: ROWS * k_padded * (BITS + 16 / GROUP) / 8 once (fp32 scales, zero points: 16 bits
//     more each per group); 2 * tokens * N * K flops. On an H200 the read rate is 3 TB/s at 64 MiB
//     and 4.6 at 4 GiB (docs/performance.md has the table).
//
// (5) Parameters: BITS, GROUP, ZEROS, SCALE_F32, WEIGHT_BF16 (dequant.cuh); IN_FEATURES = K,
//     multiple of 8; ROWS, OUT_FEATURES; HAS_ORDER; NORM_WIDTH, K without HAS_ORDER; TOKENS_MAX
//     1..32; WARPS of a block that split K, 1..24; CLUSTER, blocks that do, 1, 2 or 4, more than one
//     from sm_90 on and without a norm; STAGES of a ring, 2..; TILES that share activations, 1..4;
//     X_PHASES in which K is staged, 1..; LOAD_BULK 0, or 1 from sm_90 on; CTAS_PER_SM; PROLOGUE 0
//     none, 1 norm, with EPS_BITS (fp32); EPILOGUE and its parameters (epilogue.cuh);
//     SHARED_BYTES, as the launch reserves them; EXPERTS: linears of a stack, 0 for an ordinary
//     linear, and then TOP_K of them per token, EXPERT_BYTES of each, HAS_SLOTS, and X_SHARE
//     choices that share a row of x: TOP_K or 1. The sum of an output depends on K, BITS, GROUP,
//     WARPS and CLUSTER only: not on the number of tokens.
//
// (6) A pass is TILES row tiles; block b does passes b, b + grid, ...; the records of a row tile
//     are split over WARPS compute warps, each a contiguous range of K; lane l feeds itself and its
//     warp from a ring that runs ahead over the ends of passes. Two more warps, one per parity of
//     the pass, add up the partial sums in the order of the warps and run the epilogue, so that its
//     latency is nobody else's.
//
//         compute warps:  ring -> dequant -> mma -> partials[p] --full[p]--> epilogue warp p
//                                            ^------------------empty[p]----------'
//
//     Where the activations of a long K do not fit one block, a cluster shares a pass: each block has
//     a part of K, and the epilogue warps of the others send their sums to those of the first.
//
// (7) Read from the bottom: linear_decode, linear_decode_body, compute_warps, record_sums; then
//     decode_stream.cuh (weights), decode_stage.cuh (activations), decode_parts.cuh (clusters).
#include "ptx.cuh"
#include "reduce.cuh"
#include "dequant.cuh"
#include "epilogue.cuh"
#if EXPERTS
#include "experts.cuh"
#endif

#define PROLOGUE_NONE 0 // ORDER PROLOGUES (compiler/compile.h)
#define PROLOGUE_NORM 1

static_assert(IN_FEATURES % 8 == 0 && IN_FEATURES > 0, "IN_FEATURES");
static_assert(TOKENS_MAX >= 1 && TOKENS_MAX <= 32, "TOKENS_MAX");
static_assert(WARPS >= 1 && WARPS <= 24, "WARPS");
static_assert(STAGES >= 2 && TILES >= 1 && TILES <= 4 && X_PHASES >= 1, "STAGES, TILES, X_PHASES");
static_assert(PROLOGUE == PROLOGUE_NONE || PROLOGUE == PROLOGUE_NORM, "PROLOGUE");
static_assert(PROLOGUE == PROLOGUE_NORM || EXPERTS || !HAS_ORDER, "HAS_ORDER");
static_assert(HAS_ORDER || NORM_WIDTH == IN_FEATURES, "NORM_WIDTH");
static_assert(!EXPERTS || PROLOGUE == PROLOGUE_NONE, "EXPERTS");
static_assert(CLUSTER == 1 || ((CLUSTER == 2 || CLUSTER == 4) && PROLOGUE == PROLOGUE_NONE && !EXPERTS),
              "CLUSTER");

constexpr int HALVES = (TOKENS_MAX + 7) / 8; // mma n8 tiles of tokens
constexpr int COMPUTE_THREADS = WARPS * WARP_LANES;
constexpr int EPILOGUE_WARPS = 2;
constexpr int THREADS = COMPUTE_THREADS + EPILOGUE_WARPS * WARP_LANES;
constexpr int HANDOVER_THREADS = COMPUTE_THREADS + WARP_LANES;

constexpr int RECORDS = (IN_FEATURES + RECORD_K - 1) / RECORD_K;
constexpr int K_PADDED = RECORDS * RECORD_K;
constexpr s64 ROW_TILE_BYTES = (s64)RECORDS * RECORD_BYTES;
constexpr int ROW_TILES = ROWS / TILE_ROWS;
constexpr int PASSES = (ROW_TILES + TILES - 1) / TILES;

// In one phase all of the block's K lies in its natural order; in several, warp w's part of phase p is
// a slice of PHASE_RECORDS records at w * SLICE_K.
constexpr int ALL_WARPS = CLUSTER * WARPS;
constexpr int BLOCK_RECORDS = (RECORDS + CLUSTER - 1) / CLUSTER;   // at most
constexpr int WARP_RECORDS = (RECORDS + ALL_WARPS - 1) / ALL_WARPS; // at most
constexpr int PHASE_RECORDS = (WARP_RECORDS + X_PHASES - 1) / X_PHASES;
constexpr int SLICE_K = PHASE_RECORDS * RECORD_K;
constexpr int STAGED_K = X_PHASES == 1 ? BLOCK_RECORDS * RECORD_K : WARPS * SLICE_K;
constexpr int X_STRIDE = STAGED_K * 2 + 16; // 16 more than a multiple of 128 where K allows:
                                            // ldmatrix reads 8 rows without a bank conflict
constexpr int RING_STAGE_BYTES = TILES * RECORD_BYTES;
constexpr int RING_BYTES = STAGES * RING_STAGE_BYTES;

constexpr int X_AT = WARPS * RING_BYTES;
constexpr int PARTIALS_AT = X_AT + TOKENS_MAX * X_STRIDE;
constexpr int PARTIAL_BYTES = WARP_LANES * 16;
constexpr int PARTIALS_BYTES = WARPS * TILES * HALVES * PARTIAL_BYTES; // of one parity
constexpr int SQUARES_AT = PARTIALS_AT + 2 * PARTIALS_BYTES;
constexpr int SQUARES_BYTES = PROLOGUE == PROLOGUE_NORM ? TOKENS_MAX * WARPS * 4 : 0;
constexpr int BARRIERS_AT = (SQUARES_AT + SQUARES_BYTES + 7) / 8 * 8;
constexpr int BARRIERS_BYTES = LOAD_BULK ? WARPS * STAGES * 8 : 0;
constexpr int PAIRS_AT = BARRIERS_AT + BARRIERS_BYTES;
constexpr int PAIRS_BYTES = EXPERTS ? TOKENS_MAX * 4 : 0;
constexpr int PARTS_AT = (PAIRS_AT + PAIRS_BYTES + 15) / 16 * 16; // CLUSTER > 1
constexpr int PART_BYTES = TILES * HALVES * PARTIAL_BYTES;       // of a block and parity
constexpr int SENT_AT = PARTS_AT + 2 * (CLUSTER - 1) * PART_BYTES;
constexpr int TAKEN_AT = SENT_AT + 16;
static_assert(SHARED_BYTES == (CLUSTER > 1 ? TAKEN_AT + 16 : PAIRS_AT + PAIRS_BYTES),
              "compiler/kernel_linear_decode.c");

enum { BAR_COMPUTE = 1, BAR_FULL = 2, BAR_EMPTY = 4 }; // FULL and EMPTY: one per parity

struct Operands {
    const void *x;
    const u8 *weights;
    const float *norm_weight;
    const s32 *order;
    EpilogueOperands epilogue;
    int tokens;
    u32 pairs; // EXPERTS: shared address of the choices that the block's tokens are
};

// The passes first, first + step, ... of one block, and its part of K in them.
struct WorkRange {
    int first, step;
    int rank; // in the cluster
};

#include "decode_stream.cuh"
#include "decode_stage.cuh"

// ---- compute warps ------------------------------------------------------------------------------

typedef float Sums[TILES][HALVES][4]; // of one lane: rows r, r + 8 and two tokens each

// sums += scale * group. scales: shared address of the group's scales.
__device__ __forceinline__ void group_add(float sums[HALVES][4], const float group[HALVES][4],
                                          u32 scales, int lane) {
    float low, high;
    sum_factors(&low, &high, scales + lane_scales(lane));
#pragma unroll // sums stay in registers
    for (int half = 0; half < HALVES; half++) {
        sums[half][0] += low * group[half][0];
        sums[half][1] += low * group[half][1];
        sums[half][2] += high * group[half][2];
        sums[half][3] += high * group[half][3];
    }
}

// One k16 step of one tile. `first`: the group starts here.
__device__ __forceinline__ void step_sums(float group[HALVES][4], const u32 a[4],
                                          const u32 b[HALVES][4], int step, bool first) {
#pragma unroll // group stays in registers
    for (int half = 0; half < HALVES; half++) {
        u32 b0 = b[half][step % 2 * 2], b1 = b[half][step % 2 * 2 + 1];
        if (first) {
            mma_m16n8k16_act_zero(group[half], a[0], a[1], a[2], a[3], b0, b1);
        } else {
            mma_m16n8k16_act(group[half], a[0], a[1], a[2], a[3], b0, b1);
        }
    }
}

__device__ __forceinline__ void tile_load(u32 words[4], u32 shared) {
    uint4 v = ld_shared_v4(shared);
    words[0] = v.x;
    words[1] = v.y;
    words[2] = v.z;
    words[3] = v.w;
}

// Adds the products of one record of all TILES tiles. stage: shared address of the record;
// x[half]: where this lane's ldmatrix row of the record's first 32 k lies.
__device__ __forceinline__ void record_sums(Sums sums, u32 stage, const u32 x[HALVES], int lane) {
    float group[TILES][HALVES][4];
    u32 words[TILES][4];
    Zeros<false> zeros[TILES];
#pragma unroll // steps index registers
    for (int pair = 0; pair < RECORD_STEPS / 2; pair++) {
        u32 b[HALVES][4]; // two k16 steps
#pragma unroll // b stays in registers
        for (int half = 0; half < HALVES; half++) {
            ldmatrix_x4(b[half], x[half] + pair * 64);
        }
#pragma unroll // sums stay in registers
        for (int i = 0; i < 2 * TILES; i++) {
            int t = i / 2, step = pair * 2 + i % 2;
            u32 record = stage + t * RECORD_BYTES, a[4];
            if (step % TILE_STEPS == 0) {
                tile_load(words[t],
                          record + RECORD_HEAD_BYTES + step / TILE_STEPS * TILE_BYTES + lane * 16);
            }
            if (step % GROUP_STEPS == 0) {
                zeros[t] = zeros_load<false>(record + RECORD_ZEROS_AT +
                                             step / GROUP_STEPS * ZERO_BLOCK_BYTES +
                                             lane_zeros(lane));
            }
            dequant_step(a, words[t], step % TILE_STEPS, zeros[t]);
            if (BITS == 16) {
                step_sums(sums[t], a, b, step, false);
                continue;
            }
            step_sums(group[t], a, b, step, step % GROUP_STEPS == 0);
            if (step % GROUP_STEPS == GROUP_STEPS - 1) {
                u32 scales = record + step / GROUP_STEPS * SCALE_BLOCK_BYTES;
                group_add(sums[t], group[t], scales, lane);
            }
        }
    }
}

__device__ __forceinline__ void sums_clear(Sums sums) {
#pragma unroll // sums stay in registers
    for (int i = 0; i < TILES * HALVES * 4; i++) {
        sums[i / (HALVES * 4)][i / 4 % HALVES][i % 4] = 0.0f;
    }
}

// Shared address of this lane's four partial sums of a warp, in the buffer of a parity.
__device__ __forceinline__ u32 partial_at(u32 shared, int parity, int warp, int t, int half) {
    return shared + PARTIALS_AT + parity * PARTIALS_BYTES +
           ((warp * TILES + t) * HALVES + half) * PARTIAL_BYTES + threadIdx.x % WARP_LANES * 16;
}

// warp: in the block.
__device__ __forceinline__ void sums_hand_over(const Sums sums, u32 shared, int warp, int turn) {
    if (turn >= 2) {
        bar_sync(BAR_EMPTY + turn % 2, HANDOVER_THREADS);
    }
#pragma unroll // sums stay in registers
    for (int i = 0; i < TILES * HALVES; i++) {
        const float *v = sums[i / HALVES][i % HALVES];
        st_shared_v4_f32(partial_at(shared, turn % 2, warp, i / HALVES, i % HALVES),
                         make_float4(v[0], v[1], v[2], v[3]));
    }
    bar_arrive(BAR_FULL + turn % 2, HANDOVER_THREADS);
}

__device__ __forceinline__ void prologue(const Operands &o, u32 shared, int rank) {
#if PROLOGUE == PROLOGUE_NORM
    NormConstants constants;
    if (NORM_STAGES || !HAS_ORDER) {
        norm_constants(constants, o);
    }
    griddepcontrol_wait();
    x_norm(o, shared, constants);
#else
    griddepcontrol_wait();
#endif
    if (X_PHASES == 1 && (PROLOGUE == PROLOGUE_NONE || !NORM_STAGES)) {
        x_stage(o, shared, 0, rank);
    }
    bar_sync(BAR_COMPUTE, COMPUTE_THREADS);
}

// Where this lane's row of an ldmatrix of four 8 x 8 parts (k 0-7, 8-15, 16-23, 24-31) lies, for
// the first k of the warp. Behind the last token that one again, whose sums nobody uses.
__device__ __forceinline__ void staged_rows(u32 x[HALVES], const Operands &o, u32 shared, int warp,
                                            int rank, int lane) {
    int before = warp_first_record(warp) - warp_first_record(rank * WARPS);
    int k      = X_PHASES == 1 ? before * RECORD_K : (warp - rank * WARPS) * SLICE_K;
#pragma unroll // x stays in registers
    for (int half = 0; half < HALVES; half++) {
        int token = half * 8 + lane % 8;
        token = token < o.tokens ? token : o.tokens - 1;
        x[half] = shared + X_AT + token * X_STRIDE + k * 2 + lane / 8 * 16;
    }
}

__device__ __forceinline__ void compute_warps(const Operands &o, WorkRange range, u32 shared) {
    int in_block = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    int warp = range.rank * WARPS + in_block;
    Stream stream = stream_open(o, range, shared, warp, lane); // before anything that waits
    int records = stream.records;
    prologue(o, shared, range.rank);
    u32 first[HALVES];
    staged_rows(first, o, shared, warp, range.rank, lane);
    int turn = 0;
    for (int pass = range.first; pass < PASSES; pass += range.step, turn++) {
        Sums sums;
        sums_clear(sums);
        for (int phase = 0; phase < X_PHASES; phase++) {
            if (X_PHASES > 1) {
                bar_sync(BAR_COMPUTE, COMPUTE_THREADS); // the phase before has been read
                x_stage(o, shared, phase, range.rank);
                bar_sync(BAR_COMPUTE, COMPUTE_THREADS);
            }
            u32 x[HALVES];
#pragma unroll // x stays in registers
            for (int half = 0; half < HALVES; half++) {
                x[half] = first[half];
            }
            int end = (phase + 1) * PHASE_RECORDS < records ? (phase + 1) * PHASE_RECORDS : records;
#pragma unroll 1 // a record is long enough
            for (int record = phase * PHASE_RECORDS; record < end; record++) {
                stream_wait(stream);
                stream_fetch(stream, o, warp, lane);
                record_sums(sums, stream.ring + stream.read_at, x, lane);
                stream_next(stream);
#pragma unroll // x stays in registers
                for (int half = 0; half < HALVES; half++) {
                    x[half] += RECORD_K * 2;
                }
            }
        }
        sums_hand_over(sums, shared, in_block, turn);
    }
}

// ---- epilogue warps -----------------------------------------------------------------------------

// Sum of the partial sums of all compute warps, in their order.
__device__ __forceinline__ float4 partials_sum(u32 shared, int parity, int t, int half) {
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    // All loads of many warps at once fill the registers until they spill.
    constexpr int AT_ONCE = WARPS * TILES * HALVES >= 32 ? 4 : WARPS;
#pragma unroll AT_ONCE
    for (int warp = 0; warp < WARPS; warp++) {
        float4 v = ld_shared_v4_f32(partial_at(shared, parity, warp, t, half));
        sum.x += v.x;
        sum.y += v.y;
        sum.z += v.z;
        sum.w += v.w;
    }
    return sum;
}

#if CLUSTER > 1
#include "decode_parts.cuh"
#endif

// The passes of one parity.
__device__ __forceinline__ void epilogue_warp(const Operands &o, WorkRange range, u32 shared,
                                              int parity) {
    int lane = threadIdx.x % WARP_LANES, r = lane / 4, column = lane % 4 * 2;
    TokenPlace places[HALVES][2];
#if CLUSTER > 1
    int turn = 0;
    cluster_wait();
#endif
    griddepcontrol_wait();
#pragma unroll // places stay in registers
    for (int i = 0; i < HALVES * 2; i++) {
        int token = i / 2 * 8 + column + i % 2;
        places[i / 2][i % 2] = token_place(o.epilogue, token < o.tokens ? token : o.tokens - 1);
    }
    for (int pass = range.first + parity * range.step; pass < PASSES; pass += 2 * range.step) {
        PairBias bias[TILES];
        PairBefore before[TILES][HALVES][2];
#pragma unroll // bias stays in registers
        for (int t = 0; t < TILES; t++) {
            if (pass * TILES + t < ROW_TILES && range.rank == 0) {
                bias[t] = pair_bias(o.epilogue, pass * TILES + t, r);
            }
        }
#pragma unroll // before stays in registers
        for (int i = 0; i < TILES * HALVES * 2; i++) {
            int t = i / (HALVES * 2), half = i / 2 % HALVES, token = half * 8 + column + i % 2;
            if (token < o.tokens && pass * TILES + t < ROW_TILES && range.rank == 0) {
                before[t][half][i % 2] = pair_before(o.epilogue, places[half][i % 2],
                                                     pass * TILES + t, r, out_row(o, token));
            }
        }
        float4 sums[TILES][HALVES];
        bar_sync(BAR_FULL + parity, HANDOVER_THREADS);
#pragma unroll // sums stay in registers
        for (int i = 0; i < TILES * HALVES; i++) {
            sums[i / HALVES][i % HALVES] = partials_sum(shared, parity, i / HALVES, i % HALVES);
        }
        bool more = pass + 2 * range.step < PASSES;
        if (more) {
            bar_arrive(BAR_EMPTY + parity, HANDOVER_THREADS);
        }
#if CLUSTER > 1
        if (range.rank > 0) {
            part_send(sums, shared, parity, range.rank, turn++);
            continue;
        }
        parts_add(sums, shared, parity, turn++, more);
#endif
#pragma unroll // sums stay in registers
        for (int i = 0; i < TILES * HALVES * 2; i++) {
            int t = i / (HALVES * 2), half = i / 2 % HALVES, token = half * 8 + column + i % 2;
            float4 sum = sums[t][half];
            if (token < o.tokens && pass * TILES + t < ROW_TILES) {
                pair_store(o.epilogue, places[half][i % 2], before[t][half][i % 2], bias[t],
                           pass * TILES + t, r, out_row(o, token), i % 2 ? sum.y : sum.x,
                           i % 2 ? sum.w : sum.z);
            }
        }
    }
}

// ---- the kernel ---------------------------------------------------------------------------------

extern __shared__ __align__(128) u8 block_shared[];

__device__ __forceinline__ void linear_decode_body(const Operands &o, WorkRange range, u32 shared) {
    griddepcontrol_launch_dependents();
#if CLUSTER > 1
    parts_open(shared);
#endif
    int warp = threadIdx.x / WARP_LANES;
    if (warp < WARPS) {
        compute_warps(o, range, shared);
    } else {
        epilogue_warp(o, range, shared, warp - WARPS);
    }
}

#if CLUSTER > 1
#define CLUSTER_BOUNDS __cluster_dims__(CLUSTER, 1, 1)
#else
#define CLUSTER_BOUNDS
#endif

#if !EXPERTS
extern "C" __global__ void CLUSTER_BOUNDS __launch_bounds__(THREADS, CTAS_PER_SM)
    linear_decode(const void *x, const void *weights, const void *norm_weight, const void *bias,
                  void *out, void *kv, const void *inv_freq, const void *positions,
                  const void *slots, const void *page_table, long long tokens, const void *order) {
    Operands o = {x,
                  (const u8 *)weights,
                  (const float *)norm_weight,
                  (const s32 *)order,
                  {(const float *)bias, out, (u8 *)kv, (const float *)inv_freq,
                   (const s32 *)positions, (const s32 *)slots, (const s32 *)page_table},
                  (int)tokens,
                  0};
    WorkRange range = {(int)blockIdx.x / CLUSTER, (int)gridDim.x / CLUSTER,
                       (int)blockIdx.x % CLUSTER};
    linear_decode_body(o, range, shared_address(block_shared));
}
#else

// ---- experts ------------------------------------------------------------------------------------

// This block's rows of one choice whose expert is in another stack.
__device__ __forceinline__ void zeros_store(const Operands &o, WorkRange range, int choice) {
    TokenPlace place = {0, nullptr};
    PairBefore before = {0.0f, 0.0f};
    PairBias bias = {0.0f, 0.0f};
    for (int tile = range.first * TILES; tile < ROW_TILES; tile += range.step * TILES) {
        int pair = tile * 8 + (int)threadIdx.x;
        if (threadIdx.x < TILES * 8 && pair / 8 < ROW_TILES) {
            pair_store(o.epilogue, place, before, bias, pair / 8, pair % 8, choice, 0.0f, 0.0f);
        }
    }
}

// x       act [tokens * TOP_K / X_SHARE, NORM_WIDTH]
// weights layout tile16 [EXPERTS], EXPERT_BYTES each
// routes  fp32 [tokens, 2 * TOP_K]: numbers of experts, then what this kernel does not read
// slots   int32 [routed experts], HAS_SLOTS: which of the stack an expert is, -1: none
// order   int32 [EXPERTS, K], HAS_ORDER
// out     act or fp32 [tokens * TOP_K, N or N / 2]
extern "C" __global__ void __launch_bounds__(THREADS, CTAS_PER_SM)
    experts_decode(const void *x, const void *weights, const void *routes, const void *slots,
                   const void *order, void *out, long long tokens) {
    int mine = (int)blockIdx.y, choices = (int)tokens * TOP_K;
    if (mine >= choices) {
        return;
    }
    griddepcontrol_wait();
    int expert = choice_expert((const float *)routes, mine);
    int slot = HAS_SLOTS ? (s32)ld_global_u32((const s32 *)slots + expert) : expert;
    WorkRange range = {(int)blockIdx.x, (int)gridDim.x, 0};
    Operands o = {x,       (const u8 *)weights + (s64)slot * EXPERT_BYTES,
                  nullptr, (const s32 *)order + (s64)slot * (HAS_ORDER ? IN_FEATURES : 0),
                  {},      0,
                  shared_address(block_shared) + PAIRS_AT};
    o.epilogue.out = out;
    if (slot < 0) {
        zeros_store(o, range, mine);
        return;
    }
    o.tokens = choices_find((const float *)routes, choices, mine, expert, o.pairs);
    __syncthreads();
    if (o.tokens > 0) {
        linear_decode_body(o, range, shared_address(block_shared));
    }
}
#endif

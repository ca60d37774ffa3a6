// (1) out = epilogue(x W^T + bias) for many tokens on Hopper, by wgmma.
//
// (2) Operands, in this order; each but the first is an 8-byte slot, unused ones are 0:
//     x        tensor map of act [tokens, K]: boxes of BLOCK_TOKENS / SPREAD tokens and 64 k in the
//              128-byte swizzle (runtime/tensor_map.h)
//     weights  layout tile16 [ROWS / 16, k_padded], aligned to 16 bytes
//     bias     fp32 [ROWS], packed row order
//     out, kv, inv_freq, positions, slots, page_table   epilogue.cuh
//     tokens   1 ..
//     parts    EVEN: fp32, for each block BLOCK_SUMS sums of a part of a tile
//     counts   EVEN: u32 for each block, zeros before and behind the kernel
//
// (3) Layout tile16 and the fragment words are drawn in docs/kernels.md. A stage in
//     shared memory, of STAGES, aligned to 1024:
//
//     x        [BLOCK_TOKENS][64]          act, in the 128-byte swizzle of wgmma.cuh
//     weights  [BLOCK_TILES][STEP_BYTES]   gemm.cuh
//     barriers "full" and "empty", 8 bytes each, at its end
//
// (4) 2 * tokens * N * K flops. Every block reads x once for its rows, from the second-level cache,
//     which gives 6.5 TB/s on an H200: 128 rows and 256 tokens would take more than that. So SPREAD
//     blocks of a cluster, which have the same tokens, read a part of x each and send it to all. A
//     step of 64 k keeps the tensor cores busy for 2 * BLOCK_TOKENS cycles of each warpgroup; its
//     dequantization, 13 (4 bits) instructions per 8 weights, runs meanwhile. With few tokens the
//     latency of a step decides, and steps are made side by side.
//
// (5) Parameters: those of gemm.cuh; BLOCK_TOKENS 16, 32, 64, 128 or 256; ROW_GROUPS 1 to 4
//     warpgroups of 64 rows; K_GROUPS 1 to 4 warpgroups that take turns at the steps of the same
//     rows; CLUSTER 1, 2 or 4 blocks that each have a part of K; SPREAD 1, 2 or 4; EVEN 0 or 1, not
//     with CLUSTER; COPY_WARPS 1, 2 or 4; STAGES 2..; SHARED_BYTES, as the launch reserves them. A
//     cluster has CLUSTER * SPREAD blocks: block SPREAD * i + j has part i of K and row block j of
//     the group.
//     The sum of an output depends on K, BITS, GROUP, K_GROUPS and CLUSTER only; with EVEN on the
//     number of row blocks, of token blocks and of blocks, too.
//
// (6) Grid {blocks, any, 1}, of which as many as the machine holds at once: clusters take work in
//     turn, SPREAD row blocks of 64 * ROW_GROUPS rows x BLOCK_TOKENS. With EVEN what does not fill the
//     last turn is split evenly along K (stream-K, arXiv:2301.03598): each has a range of steps, one
//     tile behind the other. Who has the first steps of a tile adds up what the others have left in
//     memory; they begin with that, and it ends with this, so that it seldom waits. A block waits for
//     later blocks only, so that fewer than all at once do no harm; two clusters at once are enough.
//
//     warpgroup 0      copies: a ring of STAGES, barriers "full" and "empty"; COPY_WARPS of its warps
//                      copy the weights of a step, one thread asks for its tokens. It runs ahead
//                      into the next work while the results of this one are stored
//     warpgroup 1 ..   words of a tile -> fragments -> wgmma
//
//     A consumer turns the next step's words into fragments while the products of this one run; a
//     stage is empty when the products of the step behind it have been issued and its own are done,
//     in all blocks that get the same tokens. Results pass through a stage on their way out.
//     Partial sums meet in shared memory, in a fixed order: those of K_GROUPS, then of the cluster.
//
// (7) Read from the bottom: linear_wgmma, segment_sums, produce.
#include "ptx.cuh"

constexpr int GROUP_THREADS = 4 * WARP_LANES;
constexpr int CONSUMERS     = ROW_GROUPS * K_GROUPS;
constexpr int THREADS       = (CONSUMERS + 1) * GROUP_THREADS;
constexpr int BLOCK_TILES   = 4 * ROW_GROUPS;
// A step is copied by as few threads as its weights allow, so that several are on their way at once.
constexpr int COPY_THREADS = COPY_WARPS * WARP_LANES;
constexpr int COPIERS      = 4 / COPY_WARPS;

#include "gemm.cuh"
#include "turns.cuh"
#include "wgmma.cuh"

static_assert(ROW_GROUPS >= 1 && K_GROUPS >= 1 && CONSUMERS <= 4, "ROW_GROUPS, K_GROUPS");
static_assert(COPY_WARPS == 1 || COPY_WARPS == 2 || COPY_WARPS == 4, "COPY_WARPS");
static_assert(CLUSTER == 1 || CLUSTER == 2 || CLUSTER == 4, "CLUSTER");
static_assert((SPREAD == 1 || SPREAD == 2 || SPREAD == 4) && CLUSTER * SPREAD <= 8, "SPREAD");
static_assert(!EVEN || CLUSTER == 1, "EVEN");
static_assert(BLOCK_TOKENS / SPREAD % 8 == 0, "a box has whole groups of 8 rows");
static_assert(STAGES >= 2 && STAGES % K_GROUPS == 0, "STAGES");
// A copier that waits for a stage to be empty must not be two rounds ahead of who empties it: its own
// step before, or that of another copier, then was of the same group.
constexpr int COMMON = K_GROUPS == 3 ? 3 * COPIERS : K_GROUPS > COPIERS ? K_GROUPS : COPIERS;
static_assert(STAGES % COPIERS == 0 || STAGES >= COMMON, "STAGES, COPY_WARPS");

constexpr int SUMS        = BLOCK_TOKENS / 2;           // of a thread
constexpr int WEIGHTS_AT  = BLOCK_TOKENS * X_ROW_BYTES; // in a stage
constexpr int STAGE_ALIGN = 1024;
constexpr int BARRIERS    = 16; // bytes
constexpr int STAGE_BYTES =
    (WEIGHTS_AT + BLOCK_TILES * STEP_BYTES + BARRIERS + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
constexpr int FULL_AT  = STAGE_BYTES - BARRIERS;
constexpr int EMPTY_AT = FULL_AT + BARRIERS / 2;

constexpr int STAGED_ROOM = FULL_AT;
#include "staged.cuh"

// Results go through a stage of the ring: behind the last step of a segment the producer leaves one
// out, a step without data, and runs on.
constexpr bool STAGED = CAN_BE_STAGED && BLOCK_TOKENS >= 32;
constexpr int HOLE    = STAGED ? 1 : 0;
// Behind the ring: places of tokens if they are not in that stage; partial sums of a consumer or of a
// block.
constexpr int PARTS       = (K_GROUPS > CLUSTER ? K_GROUPS : CLUSTER) - 1;
constexpr int PART_BYTES  = ROW_GROUPS * GROUP_THREADS * SUMS * 4;
constexpr int RING_BYTES  = STAGES * STAGE_BYTES;
constexpr int PARTS_AT =
    RING_BYTES + (EPILOGUE == EPILOGUE_ROPE_KV && !STAGED ? BLOCK_TOKENS * PLACE_BYTES : 0);
static_assert(SHARED_BYTES == STAGE_ALIGN + PARTS_AT + PARTS * PART_BYTES,
              "compiler/kernel_linear_wgmma.c");

// Registers of a thread of the producer and of a consumer. A block has what a launch gives it, 64 K
// by the number of threads, rounded down to a multiple of 8: the consumers may get no more than the
// producer leaves, else they wait for ever.
constexpr int LAUNCH_REGISTERS   = 65536 / THREADS / 8 * 8;
constexpr int PRODUCER_REGISTERS = CONSUMERS == 4 ? 64 : 56;
constexpr int CONSUMER_REGISTERS =
    CONSUMERS == 1 ? LAUNCH_REGISTERS
                   : (LAUNCH_REGISTERS + (LAUNCH_REGISTERS - PRODUCER_REGISTERS) / CONSUMERS) / 8 * 8;

struct Ring {
    u32 shared;       // aligned to 1024
    int part, member; // of K, of the blocks that share x
};

// Steps are counted through all work of a block; each has its stage, and there the phase of the
// barriers. A stage is always consumed by the same k group, which is why the groups change parts from
// segment to segment: one that asked for the next round of a stage that another has yet to get would
// find the barrier open, for it knows even from odd rounds only.
struct Place {
    u32 stage, parity;
};
__device__ __forceinline__ Place place_of(Ring ring, u32 step) {
    return {ring.shared + step % STAGES * STAGE_BYTES, step / STAGES & 1};
}
// The place of the step COUNT steps later; what is added and compared in each step instead of the
// division.
template <int COUNT> __device__ __forceinline__ void place_advance(Place &p, Ring ring) {
    p.stage += COUNT % STAGES * STAGE_BYTES;
    p.parity ^= COUNT / STAGES & 1;
    if (p.stage >= ring.shared + RING_BYTES) {
        p.stage -= RING_BYTES;
        p.parity ^= 1;
    }
}

// ---- the producer -------------------------------------------------------------------------------

// x of a step: this block's part of it, to all blocks that share it.
__device__ __forceinline__ void x_copy(const TensorMap *x, WorkBlock b, Ring ring, u32 stage,
                                       int step) {
    constexpr int PART_TOKENS = BLOCK_TOKENS / SPREAD;
    u32 full = stage + FULL_AT;
    mbarrier_arrive_expect_tx(full, BLOCK_TOKENS * X_ROW_BYTES);
    if constexpr (SPREAD == 1) {
        cp_async_bulk_tensor(stage, x, step * STEP_K, b.token, full);
    } else {
        constexpr u32 ALL = (1u << SPREAD) - 1;
        cp_async_bulk_tensor_spread(stage + ring.member * PART_TOKENS * X_ROW_BYTES, x,
                                    step * STEP_K, b.token + ring.member * PART_TOKENS, full,
                                    (u16)(ALL << ring.part * SPREAD));
    }
}

// Copies the weights of the steps of one work that are this copier's turn, and x. The first STAGES
// weights of a kernel are under way before it waits for x.
__device__ __forceinline__ void produce(const Operands &o, const TensorMap *x, WorkBlock b, Ring ring,
                                        Segment share, u32 &done, u32 copier, u32 thread) {
    WeightFeed feed = weights_open(b, thread);
    u32 steps = share.last - share.first, ahead = 0;
    if (done == 0) {
        ahead = steps < STAGES ? steps : STAGES;
        for (u32 step = copier; step < ahead; step += COPIERS) {
            weights_copy(o, feed, ring.shared + step * STAGE_BYTES + WEIGHTS_AT,
                         share.first + step, thread);
        }
        griddepcontrol_wait(); // x is the work of the kernel before
    }
    // the first step behind `done` whose number is this copier's
    u32 step = (copier + COPIERS - done % COPIERS) % COPIERS;
    Place at = place_of(ring, done + step);
#pragma unroll 1 // a step is long enough
    for (; step < steps + HOLE; step += COPIERS) {
        if (step >= ahead) {
            mbarrier_wait_parity(at.stage + EMPTY_AT, at.parity ^ 1);
        }
        if (step >= ahead && step < steps) {
            weights_copy(o, feed, at.stage + WEIGHTS_AT, share.first + step, thread);
        }
        if (thread == 0 && step < steps) {
            x_copy(x, b, ring, at.stage, share.first + step);
        } else if (thread == 0) {
            mbarrier_arrive(at.stage + FULL_AT); // in its place
        }
        __syncwarp(); // the next barrier of the cluster is one of whole warps
        cp_async_arrive(at.stage + FULL_AT);
        place_advance<COPIERS>(at, ring);
    }
    done += steps + HOLE;
}

// ---- a consumer ---------------------------------------------------------------------------------

// Where a lane's weights and scales are in a stage: bytes from its beginning.
struct LaneAt {
    u32 words, scales, zeros;
};
__device__ __forceinline__ LaneAt lane_at(int warp, int lane) {
    u32 tile  = WEIGHTS_AT + warp * STEP_BYTES;
    LaneAt at = {tile + STEP_HEAD_BYTES + lane * 16, tile + lane_scales(lane),
                 tile + STEP_ZEROS_AT + lane_zeros(lane)};
    opaque(at.words); // else they are computed again in each step, to save registers
    opaque(at.scales);
    return at;
}

// The fragments of a step: [k16 step][4].
__device__ __forceinline__ void fragments_make(u32 a[STEP_K / 16][4], u32 stage, LaneAt at) {
    constexpr int STEPS_OF_GROUP = BITS == 16 || GROUP >= STEP_K ? STEP_K / 16 : GROUP / 16;
    u32 words[4], scales[2];
    Zeros<true> zeros;
#pragma unroll // steps index registers
    for (int step = 0; step < STEP_K / 16; step++) {
        if (BITS != 16 && step % STEPS_OF_GROUP == 0) {
            int group = step / STEPS_OF_GROUP;
            weight_scales(scales, stage + at.scales + group * SCALE_BLOCK_BYTES);
            zeros = zeros_load<true>(stage + at.zeros + group * ZERO_BLOCK_BYTES);
        }
        if (step % TILE_STEPS == 0) {
            uint4 v = ld_shared_v4(stage + at.words + step / TILE_STEPS * TILE_BYTES);
            words[0] = v.x;
            words[1] = v.y;
            words[2] = v.z;
            words[3] = v.w;
        }
        dequant_scaled_step(a[step], words, step % TILE_STEPS, scales, zeros);
    }
}

// One step: fragments while the products of the last step run, then its own products.
__device__ __forceinline__ void step_products(float *sums, u32 a[STEP_K / 16][4], Place at,
                                              LaneAt weights) {
    mbarrier_wait_parity(at.stage + FULL_AT, at.parity);
    fragments_make(a, at.stage, weights);
    u64 x = wgmma_tokens(at.stage);
    wgmma_hold<SUMS>(sums);
    wgmma_fence();
#pragma unroll // a stays in registers
    for (int step = 0; step < STEP_K / 16; step++) {
        wgmma_step<BLOCK_TOKENS>(sums, a[step], wgmma_columns(x, step * 32));
    }
    wgmma_commit();
}

__device__ __forceinline__ void stage_release(Ring ring, u32 stage, int lane) {
    u32 empty = stage + EMPTY_AT;
    if constexpr (SPREAD == 1) {
        if (lane == 0) {
            mbarrier_arrive(empty);
        }
    } else if (lane < SPREAD) {
        mbarrier_arrive_cluster(cluster_address(empty, ring.part * SPREAD + lane));
    }
}

// The products of the steps first, first + K_GROUPS, ... < last; counted through all work, as `warp`
// is through the block's row tiles.
__device__ __forceinline__ void products(float *sums, Ring ring, u32 first, u32 last, int warp,
                                         int lane) {
    u32 even[STEP_K / 16][4], odd[STEP_K / 16][4];
#pragma unroll // sums stay in registers
    for (int i = 0; i < SUMS; i++) {
        sums[i] = 0.0f;
    }
    LaneAt weights = lane_at(warp, lane);
    Place at       = place_of(ring, first);
    u32 step = first, before = 0; // the stage of the step before
#pragma unroll 1 // two steps are long enough
    for (; step + K_GROUPS < last; step += 2 * K_GROUPS) {
        step_products(sums, even, at, weights);
        wgmma_wait<1>(); // the step before this one
        if (step != first) {
            stage_release(ring, before, lane);
        }
        before = at.stage;
        place_advance<K_GROUPS>(at, ring);
        step_products(sums, odd, at, weights);
        wgmma_wait<1>();
        stage_release(ring, before, lane);
        before = at.stage;
        place_advance<K_GROUPS>(at, ring);
    }
    wgmma_wait<0>();
    if (step != first) {
        stage_release(ring, before, lane);
    }
    if (step < last) { // an odd number of them
        step_products(sums, even, at, weights);
        wgmma_wait<0>();
        stage_release(ring, at.stage, lane);
    }
    wgmma_hold<SUMS>(sums);
}

enum { BARRIER_CONSUMERS = 1 };

__device__ __forceinline__ void consumers_sync() {
    bar_sync(BARRIER_CONSUMERS, CONSUMERS * GROUP_THREADS);
}

// Sums of other consumers or blocks at `part`, as [sum][thread].
__device__ __forceinline__ u32 part_at(Ring ring, int part, int row_group) {
    return ring.shared + PARTS_AT + part * PART_BYTES + row_group * GROUP_THREADS * SUMS * 4 +
           threadIdx.x % GROUP_THREADS * 4;
}
__device__ __forceinline__ void part_add(float *sums, u32 part) {
#pragma unroll // sums stay in registers
    for (int i = 0; i < SUMS; i++) {
        sums[i] += ld_shared_f32(part + i * GROUP_THREADS * 4);
    }
}

// The sums of all K_GROUPS, in those of the first.
__device__ __forceinline__ void groups_add(float *sums, Ring ring, int row_group, int k_group) {
    if constexpr (K_GROUPS > 1) {
        consumers_sync(); // nobody reads the sums of the work before
        if (k_group > 0) {
            u32 part = part_at(ring, k_group - 1, row_group);
#pragma unroll // sums stay in registers
            for (int i = 0; i < SUMS; i++) {
                st_shared_f32(part + i * GROUP_THREADS * 4, sums[i]);
            }
        }
        consumers_sync();
        for (int group = 1; group < K_GROUPS && k_group == 0; group++) {
            part_add(sums, part_at(ring, group - 1, row_group));
        }
    }
}

// The sums of all blocks that have a part of K, in those of the first.
__device__ __forceinline__ void cluster_add(float *sums, Ring ring, int row_group, int k_group) {
    if constexpr (CLUSTER > 1) {
        cluster_sync(); // nobody reads the sums before
        if (ring.part > 0 && k_group == 0) {
            u32 part = cluster_address(part_at(ring, ring.part - 1, row_group), ring.member);
#pragma unroll // sums stay in registers
            for (int i = 0; i < SUMS; i++) {
                st_cluster_f32(part + i * GROUP_THREADS * 4, sums[i]);
            }
        }
        cluster_sync();
        for (int other = 1; other < CLUSTER && ring.part == 0 && k_group == 0; other++) {
            part_add(sums, part_at(ring, other - 1, row_group));
        }
    }
}

// ---- EVEN: tiles of several blocks --------------------------------------------------------------

#if EVEN
constexpr int BLOCK_SUMS = ROW_GROUPS * GROUP_THREADS * SUMS;

struct Parts {
    float *sums; // [blocks][BLOCK_SUMS]
    u32 *counts; // [blocks]
};

// A thread's sums of block `block`, fours of them as [four][thread].
__device__ __forceinline__ float *part_sums(Parts p, int block, int row_group) {
    u32 thread = row_group * GROUP_THREADS + threadIdx.x % GROUP_THREADS;
    opaque(thread); // else the address stays in registers through all products
    return p.sums + (s64)block * BLOCK_SUMS + thread * 4;
}

__device__ __forceinline__ void part_leave(const float *sums, Parts p, int block, int row_group,
                                           int k_group) {
    float *to = part_sums(p, block, row_group);
#pragma unroll // sums stay in registers
    for (int i = 0; i < SUMS && k_group == 0; i += 4) {
        st_global_v4_f32(to + i * ROW_GROUPS * GROUP_THREADS,
                         make_float4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]));
    }
    consumers_sync();
    if (threadIdx.x == GROUP_THREADS) {
        fence_acq_rel_gpu();
        st_release_gpu_u32(p.counts + block, 1);
    }
}

__device__ __forceinline__ void part_fetch(float *sums, Parts p, int block, int row_group,
                                           int k_group) {
    if (threadIdx.x == GROUP_THREADS) {
        while (ld_acquire_gpu_u32(p.counts + block) == 0) {
        }
        st_global_u32(p.counts + block, 0); // for the next kernel
    }
    consumers_sync();
    const float *from = part_sums(p, block, row_group);
#pragma unroll // sums stay in registers
    for (int i = 0; i < SUMS && k_group == 0; i += 4) {
        float4 v = ld_global_v4_f32(from + i * ROW_GROUPS * GROUP_THREADS);
        sums[i] += v.x;
        sums[i + 1] += v.y;
        sums[i + 2] += v.z;
        sums[i + 3] += v.w;
    }
}

// Are all sums of the tile here now? Others' are added in the order of their steps.
__device__ __forceinline__ bool parts_add(float *sums, Parts p, const Turns &t, Segment s, int at,
                                          int member, int row_group, int k_group) {
    if (s.first > 0) {
        part_leave(sums, p, at * SPREAD + member, row_group, k_group);
        return false;
    }
    int other = at;
    while ((other = turns_other(&t, s, other)) >= 0) {
        part_fetch(sums, p, other * SPREAD + member, row_group, k_group);
    }
    return true;
}
#endif

// ---- results ------------------------------------------------------------------------------------

// The stage without data behind the last step, here until it is released.
__device__ __forceinline__ u32 hole_take(Ring ring, u32 number) {
    Place at = place_of(ring, number);
    mbarrier_wait_parity(at.stage + FULL_AT, at.parity);
    return at.stage;
}

// Nobody reads it any more. Whose stage it is releases it, as any other step.
__device__ __forceinline__ void hole_release(Ring ring, u32 number, int group) {
    consumers_sync();
    if (group == (int)(number % K_GROUPS)) {
        stage_release(ring, place_of(ring, number).stage, threadIdx.x % WARP_LANES);
    }
}

// STAGED_TOKENS at a time.
__device__ __forceinline__ void results_stage(const Operands &o, WorkBlock b, Ring ring,
                                              const float sums[BLOCK_TOKENS / 8][4], u32 number,
                                              int k_group, int warp) {
    constexpr int THREADS_THERE = CONSUMERS * GROUP_THREADS;
    int thread  = (int)threadIdx.x - GROUP_THREADS;
    u32 results = hole_take(ring, number), places = results + STAGED_BYTES;
#pragma unroll // sums stay in registers
    for (int first = 0; first < BLOCK_TOKENS; first += STAGED_TOKENS) {
        if (first > 0) {
            consumers_sync(); // the results before are read
        }
#if EPILOGUE == EPILOGUE_ROPE_KV
        places_store(o, b, STAGED_TOKENS, places, thread, THREADS_THERE);
        consumers_sync();
#endif
        if (k_group == 0) {
            staged_write(o, b, results, places, sums + first / 8, b.row_tile + warp, warp);
            if (first + STAGED_TOKENS == BLOCK_TOKENS) {
                fence_proxy_async(); // the next copies into the stage are those of another proxy
            }
        }
        consumers_sync();
        staged_store(o, b, results, places, thread, THREADS_THERE);
        b.token += STAGED_TOKENS;
    }
}

// From the fragments.
__device__ __forceinline__ void results_store(const Operands &o, WorkBlock b, Ring ring,
                                              const float sums[1][BLOCK_TOKENS / 8][4], int k_group,
                                              int warp) {
    u32 places = ring.shared + RING_BYTES;
#if EPILOGUE == EPILOGUE_ROPE_KV
    consumers_sync(); // nobody reads those of the work before
    places_store(o, b, BLOCK_TOKENS, places, (int)threadIdx.x - GROUP_THREADS,
                 CONSUMERS * GROUP_THREADS);
    consumers_sync();
#endif
    if (k_group == 0) {
        sums_store<1, BLOCK_TOKENS / 8>(o, b, places, sums, b.row_tile + warp, 0);
    }
}

// The sums of a segment, complete only in k group 0 of part 0.
__device__ __forceinline__ void segment_sums(float *sums, Ring ring, Segment share, u32 &done,
                                             int row_group, int k_group, int warp) {
    u32 steps = share.last - share.first;
    products(sums, ring, done + k_group, done + steps, warp, threadIdx.x % WARP_LANES);
    done += steps + HOLE;
    groups_add(sums, ring, row_group, k_group);
    cluster_add(sums, ring, row_group, k_group);
}

// ---- the kernel ---------------------------------------------------------------------------------

__device__ __forceinline__ int block_number() {
    return (int)(blockIdx.y * gridDim.x + blockIdx.x);
}

extern __shared__ __align__(128) u8 block_shared[];

constexpr int CLUSTER_BLOCKS = CLUSTER * SPREAD;

__device__ __forceinline__ Ring ring_open() {
    int rank  = (int)blockIdx.x % CLUSTER_BLOCKS;
    u32 shared = (shared_address(block_shared) + STAGE_ALIGN - 1) & ~(u32)(STAGE_ALIGN - 1);
    opaque(shared);
    Ring ring = {shared, rank / SPREAD, rank % SPREAD};
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            u32 at = ring.shared + stage * STAGE_BYTES;
            mbarrier_init(at + FULL_AT, COPY_THREADS + 1); // who asks for x arrives for it too
            mbarrier_init(at + EMPTY_AT, SPREAD * ROW_GROUPS * 4);
        }
        fence_mbarrier_init();
    }
    if constexpr (SPREAD > 1) {
        cluster_sync(); // others use these barriers
    } else {
        __syncthreads();
    }
    return ring;
}

__device__ __forceinline__ WorkBlock member_block(int id, int token_blocks, Ring ring) {
    WorkBlock b = work_block(id, token_blocks);
    b.row_tile += ring.member * BLOCK_TILES;
    return b;
}

#if CLUSTER * SPREAD > 1
#define CLUSTER_BOUNDS __cluster_dims__(CLUSTER * SPREAD, 1, 1)
#else
#define CLUSTER_BOUNDS
#endif

extern "C" __global__ void CLUSTER_BOUNDS __launch_bounds__(THREADS, 1)
    linear_wgmma(const __grid_constant__ TensorMap x, const void *weights, const void *bias,
                 void *out, void *kv, const void *inv_freq, const void *positions,
                 const void *slots, const void *page_table, long long tokens, void *parts,
                 void *counts) {
    griddepcontrol_launch_dependents();
    Operands o = operands_of(nullptr, weights, bias, out, kv, inv_freq, positions, slots,
                             page_table, tokens);
    Ring ring        = ring_open();
    int token_blocks = ((int)tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    int clusters     = (int)(gridDim.x * gridDim.y) / CLUSTER_BLOCKS;
    int number       = block_number() / CLUSTER_BLOCKS;
    Turns turns      = turns_open(number, clusters, ROW_BLOCKS * token_blocks, ring.part);
    Segment share;
    u32 done = 0; // steps
    // Each role has a loop of its own: behind a common one nobody could tell how many registers a
    // thread has.
    if (threadIdx.x < GROUP_THREADS) {
        if constexpr (CONSUMERS > 1) {
            registers_less<PRODUCER_REGISTERS>();
        }
        if (threadIdx.x == 0) {
            prefetch_tensor_map(&x);
        }
        while (turns_next(&turns, &share)) {
            produce(o, &x, member_block(share.id, token_blocks, ring), ring, share, done,
                    threadIdx.x / COPY_THREADS, threadIdx.x % COPY_THREADS);
            if (CLUSTER > 1) { // cluster_add
                cluster_sync();
                cluster_sync();
            }
        }
        cp_async_wait_all(); // nothing is written behind the block's end
    } else {
        if constexpr (CONSUMERS > 1) {
            registers_more<CONSUMER_REGISTERS>();
        }
        griddepcontrol_wait(); // the epilogue reads and writes what the kernel before may use
        // from a lane, so that the compiler knows that a warp's threads agree
        int consumer = (int)__shfl_sync(FULL_MASK, threadIdx.x / GROUP_THREADS, 0) - 1;
#pragma unroll 1 // fewer registers
        while (turns_next(&turns, &share)) {
            int row_group = consumer % ROW_GROUPS, group = consumer / ROW_GROUPS;
            int warp    = row_group * 4 + threadIdx.x / WARP_LANES % 4;
            int k_group = (group + K_GROUPS - (int)(done % K_GROUPS)) % K_GROUPS;
            float sums[1][BLOCK_TOKENS / 8][4];
            segment_sums(&sums[0][0][0], ring, share, done, row_group, k_group, warp);
            bool complete = ring.part == 0;
#if EVEN
            complete = parts_add(&sums[0][0][0], {(float *)parts, (u32 *)counts}, turns, share,
                                 number, ring.member, row_group, k_group);
#endif
            WorkBlock b = member_block(share.id, token_blocks, ring);
            if constexpr (STAGED) {
                if (complete) {
                    results_stage(o, b, ring, sums[0], done - HOLE, k_group, warp);
                } else {
                    hole_take(ring, done - HOLE);
                }
                if (turns_more(&turns)) {
                    hole_release(ring, done - HOLE, group);
                }
            } else if (complete) {
                results_store(o, b, ring, sums, k_group, warp);
            }
        }
    }
    if constexpr (SPREAD > 1) {
        cluster_sync(); // others may still arrive at this block's barriers
    }
}

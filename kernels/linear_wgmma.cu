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
// (7) Read from the bottom: linear_wgmma, segment_sums. Then, in this order:
//     turns.cuh               which work is whose
//     wgmma_ring.cuh          stages and their barriers
//     wgmma_produce.cuh       weights and tokens into the ring
//     wgmma_products.cuh      fragments and products
//     wgmma_parts.cuh         sums of k groups, of a cluster, EVEN: of other blocks
//     wgmma_results.cuh       from sums to memory
#include "ptx.cuh"

constexpr int CLUSTER_BLOCKS = CLUSTER * SPREAD;
constexpr int GROUP_THREADS  = 4 * WARP_LANES;
constexpr int CONSUMERS      = ROW_GROUPS * K_GROUPS;
constexpr int THREADS        = (CONSUMERS + 1) * GROUP_THREADS;
constexpr int BLOCK_TILES    = 4 * ROW_GROUPS;
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

enum { BARRIER_CONSUMERS = 1 };

__device__ __forceinline__ void consumers_sync() {
    bar_sync(BARRIER_CONSUMERS, CONSUMERS * GROUP_THREADS);
}

#include "wgmma_ring.cuh"
#include "wgmma_produce.cuh"
#include "wgmma_products.cuh"
#include "wgmma_parts.cuh"
#include "wgmma_results.cuh"

// The sums of a segment, complete only in k group 0 of part 0.
__device__ __forceinline__ void segment_sums(float *sums, Ring ring, Segment share, u32 &done,
                                             int row_group, int k_group, int warp) {
    u32 steps = share.last - share.first;
    products(sums, ring, done + k_group, done + steps, warp, threadIdx.x % WARP_LANES);
    done += steps + HOLE;
    groups_add(sums, ring, row_group, k_group);
    cluster_add(sums, ring, row_group, k_group);
}

__device__ __forceinline__ int block_number() {
    return (int)(blockIdx.y * gridDim.x + blockIdx.x);
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

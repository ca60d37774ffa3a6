// (1) out = epilogue(x W^T + bias) for many tokens on Hopper, by wgmma.
//
// (2) Operands, in this order; each is an 8-byte slot, unused ones are 0:
//     x        act [tokens, K]
//     weights  layout tile16 [ROWS / 16, k_padded], aligned to 16 bytes
//     bias     fp32 [ROWS], packed row order
//     out, kv, inv_freq, positions, slots, page_table   epilogue.cuh
//     tokens   1 ..
//
// (3) Layout tile16 and the fragment words are drawn in docs/kernels.md. A stage in
//     shared memory, of STAGES, aligned to 1024:
//
//     x        [BLOCK_TOKENS][64]          act, in the 128-byte swizzle of wgmma.cuh
//     weights  [BLOCK_TILES][STEP_BYTES]   gemm.cuh
//
// (4) 2 * tokens * N * K flops. Every block reads all of x, from the second-level cache, which gives
//     6.5 TB/s on an H200: with 64 tokens and 64 rows that is four times what the weights are, so
//     blocks of many rows are fast where there are enough rows for all multiprocessors. A step of 64 k keeps the tensor cores busy for 2 * BLOCK_TOKENS
//     cycles of each warpgroup; its dequantization, 13 (4 bits) instructions per 8 weights, runs
//     meanwhile. With few tokens the latency of a step decides, and steps are made side by side.
//
// (5) Parameters: those of gemm.cuh; BLOCK_TOKENS 16, 32, 64, 128 or 256; ROW_GROUPS 1 to 4
//     warpgroups of 64 rows; K_GROUPS 1 to 4 warpgroups that take turns at the steps of the same
//     rows; CLUSTER 1, 2 or 4 blocks that each have a part of K; COPY_WARPS 1, 2 or 4; STAGES 2..; SHARED_BYTES, as the
//     launch reserves them.
//     The sum of an output depends on K, BITS, GROUP, K_GROUPS and CLUSTER only.
//
// (6) Grid {blocks, any, 1}: blocks (clusters) take work in turn, 64 * ROW_GROUPS rows x BLOCK_TOKENS:
//
//     warpgroup 0      copies: a ring of STAGES, barriers "full" and "empty"; COPY_WARPS of its warps
//                      make a step. It runs ahead into the next work while the results of this
//                      one are stored
//     warpgroup 1 ..   words of a tile -> fragments -> wgmma
//
//     A consumer turns the next step's words into fragments while the products of this one run; a
//     stage is empty when the products of the step behind it have been issued and its own are done.
//     Partial sums meet in shared memory, in a fixed order: those of K_GROUPS, then of the cluster.
//
// (7) Read from the bottom: linear_wgmma, consume, produce.
#include "ptx.cuh"

constexpr int GROUP_THREADS = 4 * WARP_LANES;
constexpr int CONSUMERS     = ROW_GROUPS * K_GROUPS;
constexpr int THREADS       = (CONSUMERS + 1) * GROUP_THREADS;
constexpr int BLOCK_TILES   = 4 * ROW_GROUPS;
// A step is copied by as few threads as its weights allow, so that several are on their way at once.
constexpr int COPY_THREADS = COPY_WARPS * WARP_LANES;
constexpr int COPIERS      = 4 / COPY_WARPS;

#include "gemm.cuh"
#include "staged.cuh"
#include "wgmma.cuh"

static_assert(ROW_GROUPS >= 1 && K_GROUPS >= 1 && CONSUMERS <= 4, "ROW_GROUPS, K_GROUPS");
static_assert(CLUSTER == 1 || CLUSTER == 2 || CLUSTER == 4, "CLUSTER");
static_assert(STAGES >= 2, "STAGES");

constexpr int SUMS        = BLOCK_TOKENS / 2;           // of a thread
constexpr int WEIGHTS_AT  = BLOCK_TOKENS * X_ROW_BYTES; // in a stage
constexpr int STAGE_ALIGN = 1024;
constexpr int STAGE_BYTES =
    (WEIGHTS_AT + BLOCK_TILES * STEP_BYTES + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
// Behind the ring: barriers, places of tokens, partial sums of a consumer or of a block.
constexpr int PARTS       = (K_GROUPS > CLUSTER ? K_GROUPS : CLUSTER) - 1;
constexpr int PART_BYTES  = ROW_GROUPS * GROUP_THREADS * SUMS * 4;
constexpr int BARRIERS_AT = STAGES * STAGE_BYTES; // full, then empty
constexpr int PLACES_AT   = BARRIERS_AT + STAGES * 16;
constexpr int PARTS_AT =
    PLACES_AT + (EPILOGUE == EPILOGUE_ROPE_KV ? BLOCK_TOKENS * PLACE_BYTES : 0);
static_assert(SHARED_BYTES == STAGE_ALIGN + PARTS_AT + PARTS * PART_BYTES,
              "compiler/kernel_linear_wgmma.c");

// A block that has one work only has its ring to itself when the products are done.
constexpr bool STAGED = CAN_BE_STAGED && K_GROUPS == 1 && CLUSTER == 1 && BLOCK_TOKENS >= 32 &&
                        STAGED_BYTES <= BARRIERS_AT;

// Registers of a thread of the producer and of a consumer. A block has what a launch gives it, 64 K
// by the number of threads, rounded down to a multiple of 8: the consumers may get no more than the
// producer leaves, else they wait for ever.
constexpr int LAUNCH_REGISTERS   = 65536 / THREADS / 8 * 8;
constexpr int PRODUCER_REGISTERS = CONSUMERS == 4 ? 40 : 56;
constexpr int CONSUMER_REGISTERS =
    CONSUMERS == 1 ? LAUNCH_REGISTERS
                   : (LAUNCH_REGISTERS + (LAUNCH_REGISTERS - PRODUCER_REGISTERS) / CONSUMERS) / 8 * 8;

struct Ring {
    u32 shared; // aligned to 1024
    __device__ __forceinline__ u32 stage(int at) const {
        return shared + at * STAGE_BYTES;
    }
    __device__ __forceinline__ u32 full(int at) const {
        return shared + BARRIERS_AT + at * 8;
    }
    __device__ __forceinline__ u32 empty(int at) const {
        return shared + BARRIERS_AT + (STAGES + at) * 8;
    }
};

// Steps are counted through all work of a block.
__device__ __forceinline__ int stage_of(u32 step) {
    return (int)(step % STAGES);
}
__device__ __forceinline__ u32 parity_of(u32 step) {
    return step / STAGES & 1;
}

// What a block has of K: steps [first, last).
struct Share {
    int first, last;
};
__device__ __forceinline__ Share share_of(int rank) {
    return {STEPS * rank / CLUSTER, STEPS * (rank + 1) / CLUSTER};
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    while (!mbarrier_try_wait_parity(barrier, parity)) {
    }
}

// ---- the producer -------------------------------------------------------------------------------

constexpr int X_ROW_CHUNKS   = X_ROW_BYTES / 16;
constexpr int X_TOKENS_APART = COPY_THREADS / X_ROW_CHUNKS; // from one chunk of a thread to its next
constexpr int X_CHUNKS       = BLOCK_TOKENS / X_TOKENS_APART;

// A thread's chunks of x: every X_TOKENS_APART-th token, `count` of which exist.
struct XFeed {
    const act_t *from; // at step 0
    u32 to;            // in a stage
    int count;
};

__device__ __forceinline__ XFeed x_open(const Operands &o, WorkBlock b, u32 thread) {
    u32 row = thread / X_ROW_CHUNKS, chunk = thread % X_ROW_CHUNKS;
    int token = b.token + (int)row;
    XFeed f   = {o.x + (s64)token * IN_FEATURES + chunk * 8,
                 row * X_ROW_BYTES + (chunk ^ row % 8) * 16,
                 (o.tokens - token + X_TOKENS_APART - 1) / X_TOKENS_APART};
    return f;
}

// X_TOKENS_APART is 4 with one warp: the swizzle of every second chunk is another one.
__device__ __forceinline__ void x_copy(const XFeed &f, u32 stage, int step, u32 thread) {
    constexpr bool WHOLE = IN_FEATURES % STEP_K == 0;
    int k     = step * STEP_K;
    int count = WHOLE || k + (int)(thread % X_ROW_CHUNKS) * 8 < IN_FEATURES ? f.count : 0;
    const act_t *from = f.from + k;
    u32 to = stage + f.to;
#pragma unroll // copies in flight
    for (int i = 0; i < X_CHUNKS; i++) {
        u32 place = to + i * X_TOKENS_APART * X_ROW_BYTES;
        cp_async_16_zfill(X_TOKENS_APART % 8 && i % 2 ? place ^ 4 * 16 : place,
                          from + (s64)i * X_TOKENS_APART * IN_FEATURES, i < count ? 16 : 0);
    }
}

// Copies the weights of the steps of one work that are this copier's turn, and x. The first STAGES
// weights of a kernel are under way before it waits for x.
__device__ __forceinline__ void produce(const Operands &o, WorkBlock b, Ring ring, Share share,
                                        u32 &done, u32 copier, u32 thread) {
    WeightFeed feed = weights_open(b, thread);
    XFeed x         = x_open(o, b, thread);
    u32 steps = share.last - share.first, ahead = 0;
    if (done == 0) {
        ahead = steps < STAGES ? steps : STAGES;
        for (u32 step = copier; step < ahead; step += COPIERS) {
            weights_copy(o, feed, ring.stage(step) + WEIGHTS_AT, share.first + step, thread);
        }
        griddepcontrol_wait(); // x is the work of the kernel before
    }
    // the first step behind `done` whose number is this copier's
    u32 number = done + (copier + COPIERS - done % COPIERS) % COPIERS;
#pragma unroll 1 // a step is long enough
    for (; number < done + steps; number += COPIERS) {
        u32 step = number - done, stage = ring.stage(stage_of(number));
        if (step >= ahead) {
            barrier_wait(ring.empty(stage_of(number)), parity_of(number) ^ 1);
            weights_copy(o, feed, stage + WEIGHTS_AT, share.first + step, thread);
        }
        x_copy(x, stage, share.first + step, thread);
        cp_async_arrive(ring.full(stage_of(number)));
    }
    done += steps;
}

// ---- a consumer ---------------------------------------------------------------------------------

// The fragments of a step: [k16 step][4]. tile: shared address of this warp's row tile.
__device__ __forceinline__ void fragments_make(u32 a[STEP_K / 16][4], u32 tile, int lane) {
    constexpr int STEPS_OF_GROUP = BITS == 16 || GROUP >= STEP_K ? STEP_K / 16 : GROUP / 16;
    u32 words[4], scales[2];
    Zeros<true> zeros;
#pragma unroll // steps index registers
    for (int step = 0; step < STEP_K / 16; step++) {
        if (BITS != 16 && step % STEPS_OF_GROUP == 0) {
            int group = step / STEPS_OF_GROUP;
            weight_scales(scales, tile + group * SCALE_BLOCK_BYTES, lane);
            zeros = zeros_load<true>(tile + STEP_ZEROS_AT + group * ZERO_BLOCK_BYTES, lane);
        }
        if (step % TILE_STEPS == 0) {
            uint4 v = ld_shared_v4(tile + STEP_HEAD_BYTES + step / TILE_STEPS * TILE_BYTES +
                                   lane * 16);
            words[0] = v.x;
            words[1] = v.y;
            words[2] = v.z;
            words[3] = v.w;
        }
        dequant_scaled_step(a[step], words, step % TILE_STEPS, scales, zeros);
    }
}

// One step: fragments while the products of the last step run, then its own products.
__device__ __forceinline__ void step_products(float *sums, u32 a[STEP_K / 16][4], Ring ring,
                                              u32 step_number, int warp, int lane) {
    barrier_wait(ring.full(stage_of(step_number)), parity_of(step_number));
    u32 stage = ring.stage(stage_of(step_number));
    fragments_make(a, stage + WEIGHTS_AT + warp * STEP_BYTES, lane);
    fence_proxy_async(); // the copies of x, for wgmma
    wgmma_hold<SUMS>(sums);
    wgmma_fence();
#pragma unroll // a stays in registers
    for (int step = 0; step < STEP_K / 16; step++) {
        wgmma_step<BLOCK_TOKENS>(sums, a[step], wgmma_tokens(stage + step * 32));
    }
    wgmma_commit();
}

__device__ __forceinline__ void stage_release(Ring ring, u32 step, int lane) {
    if (lane == 0) {
        mbarrier_arrive(ring.empty(stage_of(step)));
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
    u32 step = first;
#pragma unroll 1 // two steps are long enough
    for (; step + K_GROUPS < last; step += 2 * K_GROUPS) {
        step_products(sums, even, ring, step, warp, lane);
        wgmma_wait<1>(); // the step before this one
        if (step != first) {
            stage_release(ring, step - K_GROUPS, lane);
        }
        step_products(sums, odd, ring, step + K_GROUPS, warp, lane);
        wgmma_wait<1>();
        stage_release(ring, step, lane);
    }
    wgmma_wait<0>();
    if (step != first) {
        stage_release(ring, step - K_GROUPS, lane);
    }
    if (step < last) { // an odd number of them
        step_products(sums, even, ring, step, warp, lane);
        wgmma_wait<0>();
        stage_release(ring, step, lane);
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

// The sums of all blocks of the cluster, in those of its first one.
__device__ __forceinline__ void cluster_add(float *sums, Ring ring, int row_group, int k_group,
                                            int rank) {
    if constexpr (CLUSTER > 1) {
        cluster_sync(); // nobody reads the sums before
        if (rank > 0 && k_group == 0) {
            u32 part = cluster_address(part_at(ring, rank - 1, row_group), 0);
#pragma unroll // sums stay in registers
            for (int i = 0; i < SUMS; i++) {
                st_cluster_f32(part + i * GROUP_THREADS * 4, sums[i]);
            }
        }
        cluster_sync();
        for (int other = 1; other < CLUSTER && rank == 0 && k_group == 0; other++) {
            part_add(sums, part_at(ring, other - 1, row_group));
        }
    }
}

__device__ __forceinline__ void consume(const Operands &o, WorkBlock b, Ring ring, Share share,
                                        u32 &done, int rank) {
    int consumer = threadIdx.x / GROUP_THREADS - 1, lane = threadIdx.x % WARP_LANES;
    int row_group = consumer % ROW_GROUPS, k_group = consumer / ROW_GROUPS;
    int warp = row_group * 4 + threadIdx.x / WARP_LANES % 4;
    float sums[1][BLOCK_TOKENS / 8][4];
    float *flat = &sums[0][0][0];
    u32 steps   = share.last - share.first;
    products(flat, ring, done + k_group, done + steps, warp, lane);
    done += steps;
    groups_add(flat, ring, row_group, k_group);
    cluster_add(flat, ring, row_group, k_group, rank);
    int thread = (int)threadIdx.x - GROUP_THREADS;
    u32 places = ring.shared + PLACES_AT;
#if EPILOGUE == EPILOGUE_ROPE_KV
    if (!STAGED) {
        consumers_sync(); // nobody reads the places of the work before
    }
    places_store(o, b, places, thread, CONSUMERS * GROUP_THREADS);
    consumers_sync();
#endif
    if constexpr (STAGED) {
        if (EPILOGUE != EPILOGUE_ROPE_KV) {
            consumers_sync(); // nobody's products read the ring any more
        }
        staged_write(o, b, ring.shared, places, sums[0], b.row_tile + warp, warp);
        consumers_sync();
        staged_store(o, b, ring.shared, places, thread, CONSUMERS * GROUP_THREADS);
    } else if (k_group == 0 && rank == 0) {
        sums_store<1, BLOCK_TOKENS / 8>(o, b, places, sums, b.row_tile + warp, 0);
    }
}

// ---- the kernel ---------------------------------------------------------------------------------

__device__ __forceinline__ int block_number() {
    return (int)(blockIdx.y * gridDim.x + blockIdx.x);
}

extern __shared__ __align__(128) u8 block_shared[];

__device__ __forceinline__ Ring ring_open() {
    Ring ring = {(shared_address(block_shared) + STAGE_ALIGN - 1) & ~(u32)(STAGE_ALIGN - 1)};
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            mbarrier_init(ring.full(stage), COPY_THREADS);
            mbarrier_init(ring.empty(stage), ROW_GROUPS * 4);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    return ring;
}

#if CLUSTER > 1
#define CLUSTER_BOUNDS __cluster_dims__(CLUSTER, 1, 1)
#else
#define CLUSTER_BOUNDS
#endif

extern "C" __global__ void CLUSTER_BOUNDS __launch_bounds__(THREADS, 1)
    linear_wgmma(const void *x, const void *weights, const void *bias, void *out, void *kv,
                 const void *inv_freq, const void *positions, const void *slots,
                 const void *page_table, long long tokens) {
    griddepcontrol_launch_dependents();
    Operands o = operands_of(x, weights, bias, out, kv, inv_freq, positions, slots, page_table,
                             tokens);
    Ring ring        = ring_open();
    int token_blocks = ((int)tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    int rank = (int)blockIdx.x % CLUSTER, turn = (int)(gridDim.x * gridDim.y) / CLUSTER;
    Share share = share_of(rank);
    int works   = ROW_BLOCKS * token_blocks, first = block_number() / CLUSTER;
    u32 done    = 0; // steps
    // Each role has a loop of its own: behind a common one nobody could tell how many registers a
    // thread has.
    if (threadIdx.x < GROUP_THREADS) {
        if constexpr (CONSUMERS > 1) {
            registers_less<PRODUCER_REGISTERS>();
        }
        for (int id = first; id < works; id += turn) {
            produce(o, work_block(id, token_blocks), ring, share, done,
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
        for (int id = first; id < works; id += turn) {
            consume(o, work_block(id, token_blocks), ring, share, done, rank);
        }
    }
}

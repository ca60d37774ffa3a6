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
// (4) 2 * tokens * N * K flops. A step of 64 k keeps the tensor cores busy for 2 * BLOCK_TOKENS
//     cycles of each consumer; its dequantization, 13 (4 bits) instructions per 8 weights, runs
//     meanwhile.
//
// (5) Parameters: those of gemm.cuh; BLOCK_TOKENS 32, 64, 128 or 256; CONSUMERS 1 or 2
//     warpgroups; STAGES 2..; SHARED_BYTES, as the launch reserves them.
//     The sum of an output depends on K, BITS and GROUP only.
//
// (6) grid (row blocks, token blocks). A block is CONSUMERS + 1 warpgroups and makes 64 *
//     CONSUMERS rows x BLOCK_TOKENS:
//
//     warpgroup 0      copies: a ring of STAGES, barriers "full" and "empty"
//     warpgroup 1 ..   64 rows each, all tokens: words of a tile -> fragments -> wgmma
//
//     A consumer turns the next step's words into fragments while the products of this one run; a
//     stage is empty when the products of the step behind it have been issued and its own are done.
//
// (7) Read from the bottom: linear_wgmma, consume, produce.
#include "ptx.cuh"

constexpr int GROUP_THREADS = 4 * WARP_LANES;
constexpr int COPY_THREADS  = GROUP_THREADS;
constexpr int THREADS       = (CONSUMERS + 1) * GROUP_THREADS;
constexpr int BLOCK_TILES   = 4 * CONSUMERS;

#include "gemm.cuh"
#include "wgmma.cuh"

static_assert(CONSUMERS == 1 || CONSUMERS == 2, "CONSUMERS");
static_assert(STAGES >= 2, "STAGES");

constexpr int WEIGHTS_AT  = BLOCK_TOKENS * X_ROW_BYTES; // in a stage
constexpr int STAGE_ALIGN = 1024;
constexpr int STAGE_BYTES =
    (WEIGHTS_AT + BLOCK_TILES * STEP_BYTES + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
constexpr int BARRIERS_AT = STAGES * STAGE_BYTES; // full, then empty
static_assert(SHARED_BYTES == STAGE_ALIGN + BARRIERS_AT + STAGES * 16,
              "compiler/kernel_linear_wgmma.c");
static_assert(BLOCK_TOKENS * PLACE_BYTES <= BARRIERS_AT, "places");

// Registers of a thread of the producer and of a consumer: 64 K of them for the block.
constexpr int PRODUCER_REGISTERS = 56;
constexpr int CONSUMER_REGISTERS = CONSUMERS == 2 ? 224 : 240;

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

// A place in the ring, and which turn it is.
struct Turn {
    int stage;
    u32 parity;
};

__device__ __forceinline__ void turn_next(Turn &t) {
    t.stage++;
    if (t.stage == STAGES) {
        t.stage = 0;
        t.parity ^= 1;
    }
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    while (!mbarrier_try_wait_parity(barrier, parity)) {
    }
}

// ---- the producer -------------------------------------------------------------------------------

constexpr int X_ROW_CHUNKS   = X_ROW_BYTES / 16;
constexpr int X_TOKENS_APART = COPY_THREADS / X_ROW_CHUNKS; // from one chunk of a thread to its next
constexpr int X_CHUNKS       = BLOCK_TOKENS / X_TOKENS_APART;

__device__ __forceinline__ void x_copy(const Operands &o, WorkBlock b, u32 stage, int step,
                                       u32 thread) {
    int token = b.token + (int)(thread / X_ROW_CHUNKS), k = step * STEP_K + thread % X_ROW_CHUNKS * 8;
    u32 row  = thread / X_ROW_CHUNKS, chunk = thread % X_ROW_CHUNKS;
    u32 to   = stage + row * X_ROW_BYTES + (chunk ^ row % 8) * 16;
    bool in  = IN_FEATURES % STEP_K == 0 || k < IN_FEATURES;
    const act_t *from = o.x + (s64)token * IN_FEATURES + k;
#pragma unroll // copies in flight
    for (int i = 0; i < X_CHUNKS; i++) {
        bool exists = in && token + i * X_TOKENS_APART < o.tokens;
        cp_async_16_zfill(to + i * X_TOKENS_APART * X_ROW_BYTES,
                          exists ? from + (s64)i * X_TOKENS_APART * IN_FEATURES : o.x,
                          exists ? 16 : 0);
    }
}

__device__ __forceinline__ void produce(const Operands &o, WorkBlock b, Ring ring, u32 thread) {
    WeightFeed feed = weights_open(b, thread);
    Turn turn       = {0, 1}; // empty from the start
    griddepcontrol_wait();    // x is the work of the kernel before
#pragma unroll 1 // a step is long enough
    for (int step = 0; step < STEPS; step++) {
        barrier_wait(ring.empty(turn.stage), turn.parity);
        u32 stage = ring.stage(turn.stage);
        weights_copy(o, feed, stage + WEIGHTS_AT, step, thread);
        x_copy(o, b, stage, step, thread);
        cp_async_arrive(ring.full(turn.stage));
        turn_next(turn);
    }
    cp_async_commit();
    cp_async_wait<0>(); // nothing is written behind the block's end
}

// ---- a consumer ---------------------------------------------------------------------------------

constexpr int SUMS = BLOCK_TOKENS / 2; // of a thread

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
                                              Turn turn, int warp, int lane) {
    barrier_wait(ring.full(turn.stage), turn.parity);
    u32 stage = ring.stage(turn.stage);
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

// Fragments belong to their products until the wait that stands before this.
__device__ __forceinline__ void fragments_hold(u32 a[STEP_K / 16][4]) {
#pragma unroll // a stays in registers
    for (int step = 0; step < STEP_K / 16; step++) {
        wgmma_hold(a[step]);
    }
}

__device__ __forceinline__ void stage_release(Ring ring, int stage, int lane) {
    if (lane == 0) {
        mbarrier_arrive(ring.empty(stage));
    }
}

__device__ __forceinline__ void consume(const Operands &o, WorkBlock b, Ring ring, int warp,
                                        int lane) {
    float sums[1][BLOCK_TOKENS / 8][4];
    float *flat = &sums[0][0][0];
    u32 even[STEP_K / 16][4], odd[STEP_K / 16][4] = {};
#pragma unroll // sums stay in registers
    for (int i = 0; i < SUMS; i++) {
        flat[i] = 0.0f;
    }
    Turn turn = {0, 0};
    int last  = 0; // stage of the step before
#pragma unroll 1 // two steps are long enough
    for (int step = 0; step < STEPS; step += 2) {
        step_products(flat, even, ring, turn, warp, lane);
        wgmma_wait<1>(); // the step before this one
        fragments_hold(odd);
        if (step > 0) {
            stage_release(ring, last, lane);
        }
        last = turn.stage;
        turn_next(turn);
        if (STEPS % 2 == 0 || step + 1 < STEPS) {
            step_products(flat, odd, ring, turn, warp, lane);
            wgmma_wait<1>();
            fragments_hold(even);
            stage_release(ring, last, lane);
            last = turn.stage;
            turn_next(turn);
        }
    }
    wgmma_wait<0>();
    wgmma_hold<SUMS>(flat);
#if EPILOGUE == EPILOGUE_ROPE_KV
    constexpr int PRODUCTS_DONE = 1; // barrier
    bar_sync(PRODUCTS_DONE, CONSUMERS * GROUP_THREADS); // the ring has been read
    places_store(o, b, ring.shared, threadIdx.x - GROUP_THREADS, CONSUMERS * GROUP_THREADS);
    bar_sync(PRODUCTS_DONE, CONSUMERS * GROUP_THREADS);
#endif
    sums_store<1, BLOCK_TOKENS / 8>(o, b, ring.shared, sums, b.row_tile + warp, 0);
}

// ---- the kernel ---------------------------------------------------------------------------------

extern __shared__ __align__(128) u8 block_shared[];

__device__ __forceinline__ Ring ring_open() {
    Ring ring = {(shared_address(block_shared) + STAGE_ALIGN - 1) & ~(u32)(STAGE_ALIGN - 1)};
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            mbarrier_init(ring.full(stage), COPY_THREADS);
            mbarrier_init(ring.empty(stage), CONSUMERS * 4);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    return ring;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    linear_wgmma(const void *x, const void *weights, const void *bias, void *out, void *kv,
                 const void *inv_freq, const void *positions, const void *slots,
                 const void *page_table, long long tokens) {
    griddepcontrol_launch_dependents();
    Operands o = {(const act_t *)x,
                  (const u8 *)weights,
                  {(const float *)bias, out, (u8 *)kv, (const float *)inv_freq,
                   (const s32 *)positions, (const s32 *)slots, (const s32 *)page_table},
                  (int)tokens,
                  nullptr};
    WorkBlock b = work_block();
    Ring ring   = ring_open();
    if (threadIdx.x < GROUP_THREADS) {
        registers_less<PRODUCER_REGISTERS>();
        produce(o, b, ring, threadIdx.x);
    } else {
        registers_more<CONSUMER_REGISTERS>();
        griddepcontrol_wait(); // the epilogue reads and writes what the kernel before may use
        consume(o, b, ring, threadIdx.x / WARP_LANES - 4, threadIdx.x % WARP_LANES);
    }
}

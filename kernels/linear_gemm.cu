// (1) out = epilogue(x W^T + bias) for many tokens, on the tensor cores through mma.sync.
//
// (2) Operands, in this order; each is an 8-byte slot, unused ones are 0:
//     x        act [tokens, K]
//     weights  layout tile16 [ROWS / 16, k_padded], aligned to 16 bytes
//     bias     fp32 [ROWS], packed row order
//     out, kv, inv_freq, positions, slots, page_table   epilogue.cuh
//     tokens   1 ..
//     With EXPERTS the entry is experts_gemm, whose operands stand there.
//
// (3) Layout tile16 and the fragment words are drawn in docs/kernels.md. A stage in
//     shared memory, of STAGES:
//
//     weights  [BLOCK_TILES][STEP_BYTES]   of 64 k of each row tile: scales, zero points, tiles
//     x        [BLOCK_TOKENS][64]          act; 16-byte chunk c of token t stands at c ^ (t % 8),
//                                          so that ldmatrix reads 8 tokens without a bank conflict
//
// (4) 2 * tokens * N * K flops. mma.sync reaches about 62 % of the wgmma peak on Hopper, all of the
//     peak on Ampere and Ada. A step of 64 k is 4 * BLOCK_ROWS / 16 * BLOCK_TOKENS / 8 mma, against
//     13 (4 bits) instructions of dequantization per 8 weights and 1 ldmatrix per 16 x 16 of x.
//
// (5) Parameters: BITS, GROUP, ZEROS, SCALE_F32, WEIGHT_BF16 (dequant.cuh); IN_FEATURES = K,
//     multiple of 8; ROWS, OUT_FEATURES; EXPERTS: linears of a stack, 0 for an ordinary linear,
//     and then EXPERT_BYTES of each and X_SHARE choices of experts that share a row of x;
//     BLOCK_TOKENS 32, 64, 128 or 256; WARP_TILES 1, 2 or 4: row tiles of a warp; STAGES 2..;
//     RASTER_ROWS: row blocks that walk over the tokens together; CTAS_PER_SM; EPILOGUE and its
//     parameters (epilogue.cuh); SHARED_BYTES, as the launch reserves them.
//     The sum of an output depends on K, BITS and GROUP only.
//
// (6) grid (row blocks, token blocks); a block of 8 warps makes BLOCK_ROWS x BLOCK_TOKENS outputs:
//
//               tokens 0 ..          BLOCK_TOKENS / 2 ..
//     rows 0    warp 0               warp 4               a warp: WARP_TILES * 16 rows
//          ..   warp 1               warp 5
//               warp 2               warp 6
//               warp 3               warp 7
//
//     K runs in steps of 64 through a ring of STAGES in shared memory, filled by cp.async. Weights
//     are multiplied by their scales in fp16 before the mma: with so many tokens that costs less
//     than scaling the sums of each group.
//
// (7) Read from the bottom: linear_gemm, linear_gemm_body, step_products.
#include "ptx.cuh"

static_assert(BLOCK_TOKENS == 32 || BLOCK_TOKENS == 64 || BLOCK_TOKENS == 128 ||
                  BLOCK_TOKENS == 256,
              "BLOCK_TOKENS");
static_assert(WARP_TILES == 1 || WARP_TILES == 2 || WARP_TILES == 4, "WARP_TILES");
static_assert(STAGES >= 2, "STAGES");

constexpr int ROW_WARPS = 4, TOKEN_WARPS = 2;
constexpr int THREADS = ROW_WARPS * TOKEN_WARPS * WARP_LANES;
constexpr int COPY_THREADS = THREADS;
constexpr int SPREAD = 1;
constexpr int BLOCK_TILES = ROW_WARPS * WARP_TILES;
constexpr int WARP_TOKENS = BLOCK_TOKENS / TOKEN_WARPS;
constexpr int TOKEN_TILES = WARP_TOKENS / 8; // mma n8 tiles of a warp

#include "gemm.cuh"

constexpr int X_AT = BLOCK_TILES * STEP_BYTES; // in a stage
constexpr int STAGE_BYTES = X_AT + BLOCK_TOKENS * X_ROW_BYTES;
static_assert(SHARED_BYTES == STAGES * STAGE_BYTES, "compiler/kernel_linear_gemm.c");
static_assert(BLOCK_TOKENS * PLACE_BYTES <= SHARED_BYTES, "places");

// ---- filling a stage ----------------------------------------------------------------------------

constexpr int X_ROW_CHUNKS = X_ROW_BYTES / 16;
constexpr int X_CHUNKS = BLOCK_TOKENS * X_ROW_CHUNKS / THREADS; // of a thread
constexpr int X_TOKENS_APART = THREADS / X_ROW_CHUNKS;          // from one to its next

struct Feed {
    u32 x[X_CHUNKS]; // elements from o.x, at step 0
    WeightFeed weights;
};

__device__ __forceinline__ Feed feed_open(const Operands &o, WorkBlock b) {
    Feed f;
    u32 thread = threadIdx.x;
#pragma unroll // f stays in registers
    for (int i = 0; i < X_CHUNKS; i++) {
        int token = b.token + (int)(thread / X_ROW_CHUNKS) + i * X_TOKENS_APART;
        token = token < o.tokens ? token : o.tokens - 1;
        f.x[i] = (u32)x_row_of(o, token) * IN_FEATURES + thread % X_ROW_CHUNKS * 8;
    }
    f.weights = weights_open(b, thread);
    return f;
}

__device__ __forceinline__ void x_copy(const Operands &o, const Feed &f, u32 stage, u32 step) {
    u32 token = threadIdx.x / X_ROW_CHUNKS, chunk = threadIdx.x % X_ROW_CHUNKS;
    u32 to = stage + X_AT + token * X_ROW_BYTES + (chunk ^ token % 8) * 16;
    bool exists = IN_FEATURES % STEP_K == 0 || step * STEP_K + chunk * 8 < IN_FEATURES;
#pragma unroll // f stays in registers
    for (int i = 0; i < X_CHUNKS; i++) {
        cp_async_16_zfill(to + i * X_TOKENS_APART * X_ROW_BYTES,
                          o.x + f.x[i] + (exists ? step * STEP_K : 0), exists ? 16 : 0);
    }
}

// ---- products -----------------------------------------------------------------------------------

typedef float Sums[WARP_TILES][TOKEN_TILES][4];

__device__ __forceinline__ void words_load(u32 words[4], u32 shared) {
    uint4 v = ld_shared_v4(shared);
    words[0] = v.x;
    words[1] = v.y;
    words[2] = v.z;
    words[3] = v.w;
}

// Shared address of this lane's row for the ldmatrix of k16 step `step` of the first 16 tokens:
// matrices (tokens 0-7, k 0-7), (0-7, 8-15), (8-15, 0-7), (8-15, 8-15).
__device__ __forceinline__ u32 x_row(u32 x, int step, int lane) {
    int row = lane / 16 * 8 + lane % 8, chunk = step * 2 + lane / 8 % 2;
    return x + row * X_ROW_BYTES + (chunk ^ lane % 8) * 16;
}

// All products of one stage. weights, x: shared addresses of this warp's rows and tokens.
__device__ __forceinline__ void step_products(Sums sums, u32 weights, u32 x, int lane) {
    constexpr int STEP_OF_GROUP = BITS == 16 || GROUP >= STEP_K ? STEP_K / 16 : GROUP / 16;
    u32 words[WARP_TILES][4], scales[WARP_TILES][2];
    Zeros<true> zeros[WARP_TILES];
#pragma unroll // steps index registers
    for (int step = 0; step < STEP_K / 16; step++) {
        u32 a[WARP_TILES][4], at = x_row(x, step, lane);
#pragma unroll // a stays in registers
        for (int t = 0; t < WARP_TILES; t++) {
            u32 tile = weights + t * STEP_BYTES;
            if (BITS != 16 && step % STEP_OF_GROUP == 0) {
                int group = step / STEP_OF_GROUP;
                weight_scales(scales[t], tile + group * SCALE_BLOCK_BYTES + lane_scales(lane));
                zeros[t] = zeros_load<true>(tile + STEP_ZEROS_AT + group * ZERO_BLOCK_BYTES +
                                            lane_zeros(lane));
            }
            if (step % TILE_STEPS == 0) {
                words_load(words[t], tile + STEP_HEAD_BYTES + step / TILE_STEPS * TILE_BYTES +
                                         lane * 16);
            }
            dequant_scaled_step(a[t], words[t], step % TILE_STEPS, scales[t], zeros[t]);
        }
#pragma unroll // sums stay in registers
        for (int pair = 0; pair < TOKEN_TILES / 2; pair++) {
            u32 b[4];
            ldmatrix_x4(b, at + pair * 16 * X_ROW_BYTES);
#pragma unroll // sums stay in registers
            for (int t = 0; t < WARP_TILES; t++) {
                mma_m16n8k16_act(sums[t][pair * 2], a[t][0], a[t][1], a[t][2], a[t][3], b[0], b[1]);
                mma_m16n8k16_act(sums[t][pair * 2 + 1], a[t][0], a[t][1], a[t][2], a[t][3], b[2],
                                 b[3]);
            }
        }
    }
}

// ---- the kernel ---------------------------------------------------------------------------------

extern __shared__ __align__(128) u8 block_shared[];

__device__ __forceinline__ void stages_open(const Operands &o, const Feed &f, u32 shared) {
    for (int step = 0; step < STAGES - 1 && step < STEPS; step++) {
        weights_copy(o, f.weights, shared + step * STAGE_BYTES, step, threadIdx.x);
    }
    griddepcontrol_wait(); // x is the work of the kernel before
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < STEPS) {
            x_copy(o, f, shared + step * STAGE_BYTES, step);
        }
        cp_async_commit();
    }
}

__device__ __forceinline__ void linear_gemm_body(const Operands &o, WorkBlock b, u32 shared) {
    int warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    u32 weights_at = warp % ROW_WARPS * WARP_TILES * STEP_BYTES;
    u32 x_at = X_AT + warp / ROW_WARPS * WARP_TOKENS * X_ROW_BYTES;
    Sums sums;
#pragma unroll // sums stay in registers
    for (int i = 0; i < WARP_TILES * TOKEN_TILES * 4; i++) {
        sums[i / (TOKEN_TILES * 4)][i / 4 % TOKEN_TILES][i % 4] = 0.0f;
    }
    Feed feed = feed_open(o, b);
    stages_open(o, feed, shared);
    u32 read_at = shared, fetch_at = shared + (STAGES - 1) * STAGE_BYTES;
#pragma unroll 1 // a step is long enough
    for (int step = 0; step < STEPS; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads(); // the stage has arrived for all, and the one before it has been read
        if (step + STAGES - 1 < STEPS) {
            weights_copy(o, feed.weights, fetch_at, step + STAGES - 1, threadIdx.x);
            x_copy(o, feed, fetch_at, step + STAGES - 1);
        }
        cp_async_commit(); // an empty group too: the wait counts groups
        step_products(sums, read_at + weights_at, read_at + x_at, lane);
        fetch_at = read_at;
        read_at = read_at + STAGE_BYTES == shared + SHARED_BYTES ? shared : read_at + STAGE_BYTES;
    }
#if EPILOGUE == EPILOGUE_ROPE_KV
    __syncthreads(); // the ring has been read
    places_store(o, b, BLOCK_TOKENS, shared, threadIdx.x, THREADS);
    __syncthreads();
#endif
    sums_store<WARP_TILES, TOKEN_TILES>(o, b, shared, sums,
                                        b.row_tile + warp % ROW_WARPS * WARP_TILES,
                                        warp / ROW_WARPS * WARP_TOKENS);
}

#if !EXPERTS
extern "C" __global__ void __launch_bounds__(THREADS, CTAS_PER_SM)
    linear_gemm(const void *x, const void *weights, const void *bias, void *out, void *kv,
                const void *inv_freq, const void *positions, const void *slots,
                const void *page_table, long long tokens) {
    griddepcontrol_launch_dependents();
    Operands o = operands_of(x, weights, bias, out, kv, inv_freq, positions, slots, page_table,
                             tokens);
    linear_gemm_body(o, work_block(blockIdx.y * gridDim.x + blockIdx.x, gridDim.y),
                     shared_address(block_shared));
}
#else

// ---- experts ------------------------------------------------------------------------------------

// Rows of choices whose expert is in another stack.
__device__ __forceinline__ void zeros_store(const Operands &o, int row_tile) {
    TokenPlace place = {0, nullptr};
    PairBefore before = {0.0f, 0.0f};
    PairBias bias = {0.0f, 0.0f};
    for (int i = threadIdx.x; i < o.tokens * BLOCK_TILES * 8; i += THREADS) {
        int tile = row_tile + i / 8 % BLOCK_TILES, out = out_row(o, i / (8 * BLOCK_TILES));
        if (tile < ROW_TILES) {
            pair_store(o.epilogue, place, before, bias, tile, i % 8, out, 0.0f, 0.0f);
        }
    }
}

// x       act [rows, K]: row choice / X_SHARE
// weights layout tile16 [EXPERTS], EXPERT_BYTES each
// choices int32 [tokens * top_k], by expert (experts_sort.cu)
// tiles   int32 {count, -, -, -}, then count times {linear of the stack or -1, first choice in
//         choices, how many, -}: up to BLOCK_TOKENS choices of one expert
// out     act or fp32 [tokens * top_k, N or N / 2]
// Grid (row blocks, any, any): blocks with one row block take turns at the tiles.
extern "C" __global__ void __launch_bounds__(THREADS, CTAS_PER_SM)
    experts_gemm(const void *x, const void *weights, const void *choices, const void *tiles,
                 void *out) {
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    Operands o = {(const act_t *)x, nullptr, {}, 0, nullptr};
    WorkBlock b = {(int)blockIdx.x * BLOCK_TILES, 0};
    o.epilogue.out = out;
    int count = (int)ld_global_u32(tiles), turn = (int)(gridDim.y * gridDim.z);
    for (int at = (int)(blockIdx.y * gridDim.z + blockIdx.z); at < count; at += turn) {
        uint4 tile = ld_global_v4((const uint4 *)tiles + 1 + at);
        o.weights = (const u8 *)weights + (s64)(int)tile.x * EXPERT_BYTES;
        o.choices = (const s32 *)choices + tile.y;
        o.tokens = (int)tile.z;
        if ((int)tile.x < 0) {
            zeros_store(o, b.row_tile);
            continue;
        }
        linear_gemm_body(o, b, shared_address(block_shared));
        __syncthreads(); // the ring has been read
    }
}
#endif

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
#include "dequant.cuh"
#include "epilogue.cuh"

static_assert(IN_FEATURES % 8 == 0 && IN_FEATURES > 0, "IN_FEATURES");
static_assert(BLOCK_TOKENS == 32 || BLOCK_TOKENS == 64 || BLOCK_TOKENS == 128 ||
                  BLOCK_TOKENS == 256,
              "BLOCK_TOKENS");
static_assert(WARP_TILES == 1 || WARP_TILES == 2 || WARP_TILES == 4, "WARP_TILES");
static_assert(STAGES >= 2 && RASTER_ROWS >= 1, "STAGES, RASTER_ROWS");

constexpr int ROW_WARPS = 4, TOKEN_WARPS = 2;
constexpr int THREADS = ROW_WARPS * TOKEN_WARPS * WARP_LANES;
constexpr int BLOCK_TILES = ROW_WARPS * WARP_TILES;
constexpr int WARP_TOKENS = BLOCK_TOKENS / TOKEN_WARPS;
constexpr int TOKEN_TILES = WARP_TOKENS / 8; // mma n8 tiles of a warp

constexpr int STEP_K = 64;
constexpr int STEP_TILES = STEP_K / TILE_K;
constexpr int STEP_GROUPS = BITS == 16        ? 0
                            : GROUP >= STEP_K ? 1
                                              : STEP_K / (BITS == 16 ? 1 : GROUP);
constexpr int STEP_ZEROS_AT = STEP_GROUPS * SCALE_BLOCK_BYTES;
constexpr int STEP_HEAD_BYTES = STEP_ZEROS_AT + STEP_GROUPS * ZERO_BLOCK_BYTES;
constexpr int STEP_BYTES = STEP_HEAD_BYTES + STEP_TILES * TILE_BYTES;
constexpr int RECORDS = (IN_FEATURES + RECORD_K - 1) / RECORD_K;
constexpr int TILES_ALONG_K = RECORDS * RECORD_TILES;
constexpr int GROUPS_ALONG_K = RECORDS * RECORD_GROUPS;
constexpr int STEPS = (RECORDS * RECORD_K + STEP_K - 1) / STEP_K;
constexpr s64 ROW_TILE_BYTES = (s64)RECORDS * RECORD_BYTES;
constexpr int ROW_TILES = ROWS / TILE_ROWS;
constexpr int ROW_BLOCKS = (ROW_TILES + BLOCK_TILES - 1) / BLOCK_TILES;

constexpr int X_ROW_BYTES = STEP_K * 2;
constexpr int X_AT = BLOCK_TILES * STEP_BYTES; // in a stage
constexpr int STAGE_BYTES = X_AT + BLOCK_TOKENS * X_ROW_BYTES;
constexpr int PLACE_BYTES = 16; // EPILOGUE_ROPE_KV: the places of the tokens, over the ring
static_assert(SHARED_BYTES == STAGES * STAGE_BYTES, "compiler/kernel_linear_gemm.c");
static_assert(BLOCK_TOKENS * PLACE_BYTES <= SHARED_BYTES, "places");

struct Operands {
    const act_t *x;
    const u8 *weights;
    EpilogueOperands epilogue;
    int tokens;
    const s32 *choices; // EXPERTS: [tokens], rows of the results
};

// What one block makes.
struct WorkBlock {
    int row_tile; // first
    int token;    // first
};

// Row of the results, and of x, for a token.
__device__ __forceinline__ int out_row(const Operands &o, int token) {
    return EXPERTS ? (int)ld_global_u32(o.choices + token) : token;
}
__device__ __forceinline__ int x_row_of(const Operands &o, int token) {
#if EXPERTS
    return out_row(o, token) / X_SHARE;
#else
    return token;
#endif
}

// ---- filling a stage ----------------------------------------------------------------------------

// Every thread copies the same chunks of 16 bytes in every step, so it keeps where they come from
// at step 0 and adds what is the same for all threads.
constexpr int X_ROW_CHUNKS = X_ROW_BYTES / 16;
constexpr int X_CHUNKS = BLOCK_TOKENS * X_ROW_CHUNKS / THREADS; // of a thread
constexpr int X_TOKENS_APART = THREADS / X_ROW_CHUNKS;          // from one to its next
constexpr int TILE_CHUNKS = STEP_TILES * WARP_LANES;            // of a row tile
constexpr int ALL_TILE_CHUNKS = BLOCK_TILES * TILE_CHUNKS;
constexpr int THREAD_TILE_CHUNKS = (ALL_TILE_CHUNKS + THREADS - 1) / THREADS;
constexpr int ROW_TILES_APART = THREADS / TILE_CHUNKS;
constexpr int BLOCK_CHUNKS = SCALE_BLOCK_BYTES / 16;  // of a scale block
constexpr int SCALE_CHUNKS = STEP_ZEROS_AT / 16;      // of a row tile
constexpr int HEAD_CHUNKS = STEP_HEAD_BYTES / 16;     // the same with the zero points
static_assert(BLOCK_TILES * HEAD_CHUNKS <= THREADS, "one chunk of scales per thread");
static_assert(ROW_TILES * ROW_TILE_BYTES < 1ll << 32, "offsets of 32 bits");

struct Feed {
    u32 x[X_CHUNKS];               // elements from o.x
    u32 tiles[THREAD_TILE_CHUNKS]; // bytes from o.weights
    u32 head;                      // bytes from o.weights: scales, zero points
};

// Where scale block `group`, zero point block `group` and tile `tile` along K stand in a row tile.
constexpr u32 GROUPS_OF_RECORD = RECORD_GROUPS > 0 ? RECORD_GROUPS : 1;
__device__ __forceinline__ u32 group_at(u32 group) {
    return group / GROUPS_OF_RECORD * RECORD_BYTES + group % GROUPS_OF_RECORD * SCALE_BLOCK_BYTES;
}
__device__ __forceinline__ u32 zeros_at(u32 group) {
    return group / GROUPS_OF_RECORD * RECORD_BYTES + RECORD_ZEROS_AT +
           group % GROUPS_OF_RECORD * ZERO_BLOCK_BYTES;
}
__device__ __forceinline__ u32 tile_at(u32 tile) {
    constexpr u32 TILES = RECORD_TILES;
    return tile / TILES * RECORD_BYTES + RECORD_HEAD_BYTES + tile % TILES * TILE_BYTES;
}

// Row tiles behind the last one repeat it, tokens too: nobody uses their sums.
__device__ __forceinline__ u32 row_tile_at(int row_tile) {
    return (u32)(row_tile < ROW_TILES ? row_tile : ROW_TILES - 1) * (u32)ROW_TILE_BYTES;
}

__device__ __forceinline__ Feed feed_open(const Operands &o, WorkBlock b) {
    Feed f;
    u32 thread = threadIdx.x;
#pragma unroll // f stays in registers
    for (int i = 0; i < X_CHUNKS; i++) {
        int token = b.token + (int)(thread / X_ROW_CHUNKS) + i * X_TOKENS_APART;
        token = token < o.tokens ? token : o.tokens - 1;
        f.x[i] = (u32)x_row_of(o, token) * IN_FEATURES + thread % X_ROW_CHUNKS * 8;
    }
#pragma unroll // f stays in registers
    for (int i = 0; i < THREAD_TILE_CHUNKS; i++) {
        int tile = b.row_tile + (int)(thread / TILE_CHUNKS) + i * ROW_TILES_APART;
        u32 chunk = thread % TILE_CHUNKS;
        f.tiles[i] = row_tile_at(tile) + tile_at(chunk / WARP_LANES) + chunk % WARP_LANES * 16;
    }
    constexpr u32 CHUNKS = HEAD_CHUNKS > 0 ? HEAD_CHUNKS : 1;
    u32 part = thread % CHUNKS;
    f.head = row_tile_at(b.row_tile + (int)(thread / CHUNKS));
    if (!ZEROS || part < SCALE_CHUNKS) {
        f.head += group_at(part / BLOCK_CHUNKS) + part % BLOCK_CHUNKS * 16;
    } else {
        f.head += zeros_at((part - SCALE_CHUNKS) / 2) + part % 2 * 16;
    }
    return f;
}

// Behind the end of K come zeros, which dequantize to finite weights; the activations are zeros
// there.
__device__ __forceinline__ void weights_copy(const Operands &o, const Feed &f, u32 stage,
                                             u32 step) {
    constexpr u32 STEPS_OF_GROUP = BITS == 16 || GROUP <= STEP_K ? 1 : GROUP / STEP_K;
    constexpr bool WHOLE = TILES_ALONG_K % STEP_TILES == 0;
    u32 thread = threadIdx.x;
    u32 tiles_at = tile_at(step * STEP_TILES) - tile_at(0);
    u32 to =
        stage + thread / TILE_CHUNKS * STEP_BYTES + STEP_HEAD_BYTES + thread % TILE_CHUNKS * 16;
    u32 tile = step * STEP_TILES + thread % TILE_CHUNKS / WARP_LANES;
    bool exists = WHOLE || tile < TILES_ALONG_K;
#pragma unroll // f stays in registers
    for (int i = 0; i < THREAD_TILE_CHUNKS; i++) {
        if (ALL_TILE_CHUNKS % THREADS == 0 || thread + i * THREADS < ALL_TILE_CHUNKS) {
            cp_async_16_zfill(to + i * ROW_TILES_APART * STEP_BYTES,
                              o.weights + f.tiles[i] + (exists ? tiles_at : 0), exists ? 16 : 0);
        }
    }
    if (HEAD_CHUNKS > 0 && thread < BLOCK_TILES * HEAD_CHUNKS) {
        constexpr u32 CHUNKS = HEAD_CHUNKS > 0 ? HEAD_CHUNKS : 1;
        u32 group = step / STEPS_OF_GROUP * STEP_GROUPS; // the first of a record
        u32 part = thread % CHUNKS;
        u32 of_step = !ZEROS || part < SCALE_CHUNKS ? part / BLOCK_CHUNKS
                                                    : (part - SCALE_CHUNKS) / 2;
        exists = WHOLE || group + of_step < GROUPS_ALONG_K;
        cp_async_16_zfill(stage + thread / CHUNKS * STEP_BYTES + part * 16,
                          o.weights + f.head + (exists ? group_at(group) : 0), exists ? 16 : 0);
    }
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
                weight_scales(scales[t], tile + group * SCALE_BLOCK_BYTES, lane);
                zeros[t] = zeros_load<true>(tile + STEP_ZEROS_AT + group * ZERO_BLOCK_BYTES, lane);
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

// ---- epilogue -----------------------------------------------------------------------------------

#if EPILOGUE == EPILOGUE_ROPE_KV
__device__ __forceinline__ void places_store(const Operands &o, WorkBlock b, u32 shared) {
    for (int i = threadIdx.x; i < BLOCK_TOKENS; i += THREADS) {
        if (b.token + i < o.tokens) {
            TokenPlace place = token_place(o.epilogue, b.token + i);
            u64 page = (u64)place.page;
            st_shared_v4(shared + i * PLACE_BYTES,
                         make_uint4((u32)place.position, 0, (u32)page, (u32)(page >> 32)));
        }
    }
    __syncthreads();
}
#endif

__device__ __forceinline__ TokenPlace place_load(u32 shared, int row) {
    TokenPlace place = {0, nullptr};
#if EPILOGUE == EPILOGUE_ROPE_KV
    uint4 v = ld_shared_v4(shared + row * PLACE_BYTES);
    place.position = (int)v.x;
    place.page = (u8 *)((u64)v.w << 32 | v.z);
#endif
    return place;
}

__device__ __forceinline__ void sums_store(const Operands &o, WorkBlock b, u32 shared,
                                           const Sums sums) {
    int warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES, r = lane / 4;
    int first_tile = b.row_tile + warp % ROW_WARPS * WARP_TILES;
    int first_row = warp / ROW_WARPS * WARP_TOKENS + lane % 4 * 2;
#pragma unroll // sums stay in registers
    for (int i = 0; i < TOKEN_TILES * 2; i++) {
        int row = first_row + i / 2 * 8 + i % 2, token = b.token + row;
        if (token < o.tokens) {
            TokenPlace place = place_load(shared, row);
            int out = out_row(o, token);
#pragma unroll // sums stay in registers
            for (int t = 0; t < WARP_TILES; t++) {
                int tile = first_tile + t;
                if (tile < ROW_TILES) {
                    PairBias bias = pair_bias(o.epilogue, tile, r);
                    PairBefore before = pair_before(o.epilogue, place, tile, r, out);
                    pair_store(o.epilogue, place, before, bias, tile, r, out, sums[t][i / 2][i % 2],
                               sums[t][i / 2][i % 2 + 2]);
                }
            }
        }
    }
}

// ---- the kernel ---------------------------------------------------------------------------------

extern __shared__ __align__(128) u8 block_shared[];

__device__ __forceinline__ void stages_open(const Operands &o, const Feed &f, u32 shared) {
    for (int step = 0; step < STAGES - 1 && step < STEPS; step++) {
        weights_copy(o, f, shared + step * STAGE_BYTES, step);
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
            weights_copy(o, feed, fetch_at, step + STAGES - 1);
            x_copy(o, feed, fetch_at, step + STAGES - 1);
        }
        cp_async_commit(); // an empty group too: the wait counts groups
        step_products(sums, read_at + weights_at, read_at + x_at, lane);
        fetch_at = read_at;
        read_at = read_at + STAGE_BYTES == shared + SHARED_BYTES ? shared : read_at + STAGE_BYTES;
    }
#if EPILOGUE == EPILOGUE_ROPE_KV
    __syncthreads(); // the ring has been read
    places_store(o, b, shared);
#endif
    sums_store(o, b, shared, sums);
}

#if !EXPERTS
// Row blocks go in bands of RASTER_ROWS that walk over the tokens together, so that a band's
// weights and the tokens near it stay in the second-level cache.
__device__ __forceinline__ WorkBlock work_block() {
    int id = blockIdx.y * gridDim.x + blockIdx.x;
    int band = id / (RASTER_ROWS * (int)gridDim.y);
    int first = band * RASTER_ROWS;
    int rows = ROW_BLOCKS - first < RASTER_ROWS ? ROW_BLOCKS - first : RASTER_ROWS;
    int rest = id - first * (int)gridDim.y;
    WorkBlock b = {(first + rest % rows) * BLOCK_TILES, rest / rows * BLOCK_TOKENS};
    return b;
}

extern "C" __global__ void __launch_bounds__(THREADS, CTAS_PER_SM)
    linear_gemm(const void *x, const void *weights, const void *bias, void *out, void *kv,
                const void *inv_freq, const void *positions, const void *slots,
                const void *page_table, long long tokens) {
    griddepcontrol_launch_dependents();
    Operands o = {(const act_t *)x,
                  (const u8 *)weights,
                  {(const float *)bias, out, (u8 *)kv, (const float *)inv_freq,
                   (const s32 *)positions, (const s32 *)slots, (const s32 *)page_table},
                  (int)tokens,
                  nullptr};
    linear_gemm_body(o, work_block(), shared_address(block_shared));
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

// What: what the linears of many tokens have in common: steps of 64 k, copies of packed weights
//     into a stage of shared memory, the order of blocks, results from mma fragments.
// Idea: weights of a step lie in a stage as [BLOCK_TILES][STEP_BYTES], for each row tile scales, zero
//     points and tiles (docs/kernels.md), whatever kernel multiplies them.
// Parameters: those of dequant.cuh and epilogue.cuh; IN_FEATURES, ROWS, EXPERTS, EXPERT_BYTES,
//     X_SHARE, RASTER_ROWS; and before this is included BLOCK_TILES, row tiles of a block,
//     BLOCK_TOKENS, COPY_THREADS, the threads that copy, numbered 0 .., and SPREAD, blocks that have
//     the same tokens and share x.
#ifndef GEMM_CUH
#define GEMM_CUH

#define ADDS_IN_MEMORY 1
#include "dequant.cuh"
#include "epilogue.cuh"

static_assert(IN_FEATURES % 8 == 0 && IN_FEATURES > 0, "IN_FEATURES");
static_assert(RASTER_ROWS >= 1, "RASTER_ROWS");

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
constexpr int SPREAD_TILES = SPREAD * BLOCK_TILES;
constexpr int ROW_BLOCKS = (ROW_TILES + SPREAD_TILES - 1) / SPREAD_TILES; // or groups of SPREAD

constexpr int X_ROW_BYTES = STEP_K * 2;
constexpr int PLACE_BYTES = 16; // EPILOGUE_ROPE_KV: the places of the tokens, in shared memory

struct Operands {
    const act_t *x;
    const u8 *weights;
    EpilogueOperands epilogue;
    int tokens;
    const s32 *choices; // EXPERTS: [tokens], rows of the results
};

// From the slots that linear_gemm and linear_wgmma take.
__device__ __forceinline__ Operands operands_of(const void *x, const void *weights,
                                                const void *bias, void *out, void *kv,
                                                const void *inv_freq, const void *positions,
                                                const void *slots, const void *page_table,
                                                long long tokens) {
    return {(const act_t *)x,
            (const u8 *)weights,
            {(const float *)bias, out, (u8 *)kv, (const float *)inv_freq, (const s32 *)positions,
             (const s32 *)slots, (const s32 *)page_table},
            (int)tokens,
            nullptr};
}

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

// Block `id` of row blocks x token_blocks (the first of its group). Row blocks go in bands of RASTER_ROWS that walk over the
// tokens together, so that a band's weights and the tokens near it stay in the second-level cache.
__device__ __forceinline__ WorkBlock work_block(int id, int token_blocks) {
    int band  = id / (RASTER_ROWS * token_blocks);
    int first = band * RASTER_ROWS;
    int rows  = ROW_BLOCKS - first < RASTER_ROWS ? ROW_BLOCKS - first : RASTER_ROWS;
    int rest  = id - first * token_blocks;
    WorkBlock b = {(first + rest % rows) * SPREAD_TILES, rest / rows * BLOCK_TOKENS};
    return b;
}

// ---- copies of weights --------------------------------------------------------------------------

// Every thread copies the same chunks of 16 bytes in every step, so it keeps where they come from
// at step 0 and adds what is the same for all threads.
constexpr int TILE_CHUNKS = STEP_TILES * WARP_LANES;            // of a row tile
constexpr int ALL_TILE_CHUNKS = BLOCK_TILES * TILE_CHUNKS;
constexpr int THREAD_TILE_CHUNKS = (ALL_TILE_CHUNKS + COPY_THREADS - 1) / COPY_THREADS;
constexpr int ROW_TILES_APART = COPY_THREADS / TILE_CHUNKS;
constexpr int BLOCK_CHUNKS = SCALE_BLOCK_BYTES / 16;  // of a scale block
constexpr int SCALE_CHUNKS = STEP_ZEROS_AT / 16;      // of a row tile
constexpr int HEAD_CHUNKS = STEP_HEAD_BYTES / 16;     // the same with the zero points
constexpr int THREAD_HEAD_CHUNKS = (BLOCK_TILES * HEAD_CHUNKS + COPY_THREADS - 1) / COPY_THREADS;
static_assert(COPY_THREADS % TILE_CHUNKS == 0, "row tiles of a thread are a fixed number apart");
static_assert(THREAD_HEAD_CHUNKS <= 1, "one chunk of scales per thread");
static_assert(ROW_TILES * ROW_TILE_BYTES < 1ll << 32, "offsets of 32 bits");

struct WeightFeed {
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

__device__ __forceinline__ WeightFeed weights_open(WorkBlock b, u32 thread) {
    WeightFeed f;
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
__device__ __forceinline__ void weights_copy(const Operands &o, const WeightFeed &f,
                                             u32 stage, u32 step, u32 thread) {
    constexpr u32 STEPS_OF_GROUP = BITS == 16 || GROUP <= STEP_K ? 1 : GROUP / STEP_K;
    constexpr bool WHOLE = TILES_ALONG_K % STEP_TILES == 0;
    u32 tiles_at = tile_at(step * STEP_TILES) - tile_at(0);
    u32 to =
        stage + thread / TILE_CHUNKS * STEP_BYTES + STEP_HEAD_BYTES + thread % TILE_CHUNKS * 16;
    u32 tile = step * STEP_TILES + thread % TILE_CHUNKS / WARP_LANES;
    bool exists = WHOLE || tile < TILES_ALONG_K;
#pragma unroll // f stays in registers
    for (int i = 0; i < THREAD_TILE_CHUNKS; i++) {
        if (ALL_TILE_CHUNKS % COPY_THREADS == 0 || thread + i * COPY_THREADS < ALL_TILE_CHUNKS) {
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

// ---- results ------------------------------------------------------------------------------------

#if EPILOGUE == EPILOGUE_ROPE_KV
// Who calls it synchronizes the threads behind it.
__device__ __forceinline__ void places_store(const Operands &o, WorkBlock b, int count, u32 shared,
                                             int thread, int threads) {
    for (int i = thread; i < count; i += threads) {
        if (b.token + i < o.tokens) {
            TokenPlace place = token_place(o.epilogue, b.token + i);
            u64 page = (u64)place.page;
            st_shared_v4(shared + i * PLACE_BYTES,
                         make_uint4((u32)place.position, 0, (u32)page, (u32)(page >> 32)));
        }
    }
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

// The sums of TILES row tiles and TOKENS n8 tiles of tokens, as fragments of this lane; tokens count
// from the block's first one.
template <int TILES, int TOKENS>
__device__ __forceinline__ void sums_store(const Operands &o, WorkBlock b, u32 shared,
                                           const float sums[TILES][TOKENS][4], int first_tile,
                                           int first_token) {
    constexpr int AT_ONCE = TILES > 1 ? 2 : TOKENS > 16 ? 4 : 8; // tokens: loads under way
    constexpr int TOGETHER = AT_ONCE < TOKENS * 2 ? AT_ONCE : TOKENS * 2;
    int lane = threadIdx.x % WARP_LANES, r = lane / 4;
    int first_row = first_token + lane % 4 * 2;
    PairBias bias[TILES];
#pragma unroll // bias stays in registers
    for (int t = 0; t < TILES; t++) {
        bias[t] = pair_bias(o.epilogue, first_tile + t < ROW_TILES ? first_tile + t : 0, r);
    }
#pragma unroll // sums stay in registers
    for (int some = 0; some < TOKENS * 2; some += TOGETHER) {
        PairBefore before[TOGETHER][TILES];
        TokenPlace place[TOGETHER];
#pragma unroll // before stays in registers
        for (int i = 0; i < TOGETHER; i++) {
            int row = first_row + (some + i) / 2 * 8 + i % 2, token = b.token + row;
            if (token < o.tokens) {
                place[i] = place_load(shared, row);
#pragma unroll // before stays in registers
                for (int t = 0; t < TILES; t++) {
                    if (first_tile + t < ROW_TILES) {
                        before[i][t] = pair_before(o.epilogue, place[i], first_tile + t, r,
                                                   out_row(o, token));
                    }
                }
            }
        }
#pragma unroll // sums stay in registers
        for (int i = 0; i < TOGETHER; i++) {
            int at = some + i, token = b.token + first_row + at / 2 * 8 + at % 2;
            if (token < o.tokens) {
#pragma unroll // sums stay in registers
                for (int t = 0; t < TILES; t++) {
                    if (first_tile + t < ROW_TILES) {
                        pair_store(o.epilogue, place[i], before[i][t], bias[t], first_tile + t, r,
                                   out_row(o, token), sums[t][at / 2][at % 2],
                                   sums[t][at / 2][at % 2 + 2]);
                    }
                }
            }
        }
    }
}

#endif

// (1) out[t][h] = sum over j of softmax_j(cap(q[t][h] . k[j] * scale)) v[j], for `tokens` tokens t,
//     runs of consecutive ones of several sequences; k and v of KV head h / (HEADS / KV_HEADS) of
//     slot slots[t]; j = 0 .. positions[t], of them the last WINDOW (if any).
//
// (2) operand     dtype  shape                      notes
//     q           act    [tokens, HEADS, HEAD_DIM]  rotated
//     kv          act    pages, see attention.cuh   of this layer, with k and v of all the tokens
//     positions   int32  [tokens]                   in a run one follows the other
//     slots       int32  [tokens]                   of a run the same; -1: out is left alone
//     page_table  int32  [slots, PAGES_PER_SEQ]
//     places      int32  [HEADS * HEAD_DIM]         null without HAS_PLACES
//     out         act    [tokens, HEADS, HEAD_DIM]
//     tokens      int64
//
// (3) A block's rows are (token, head of the group): row r is token r / GROUP_HEADS of the block
//     and head r % GROUP_HEADS, so that few tokens fill the rows too. In shared memory, rows of
//     keys, values (and queries where HEAD_DIM > 128) are HEAD_DIM elements, 8 zeros where that is
//     no multiple of 16, and 8 more:
//
//       row 0   |e0 ............ e(HEAD_DIM-1)| (8 zeros) | 16 bytes of padding |
//       row 1   ...              the stride is an odd number of 16 bytes: ldmatrix has no conflicts
//
//     Fragments are those of mma m16n8k16 (ptx.cuh): queries A, keys B by ldmatrix, values B by
//     ldmatrix.trans; the accumulators of scores are, packed to 16 bits, the A of the second
//     product.
//
// (4) Flops: 4 * HEADS * HEAD_DIM * (pairs of query and key). 2048 tokens, 32 heads of 128: 34
//     GFLOP a layer, causal; mma.sync gives at most about 600 TFLOP/s on an H200, and with 16 rows
//     a warp shared memory feeds half of that. Times: docs/performance.md.
//
// (5) the parameters of attention.cuh, and SHARED_BYTES, as the launch reserves them.
//
// (6) Grid {KV_HEADS, ceil(tokens / BLOCK_TOKENS), 1}, 128 threads, warp w has rows 16 w .. + 15.
//     The last tokens come first: they have the most keys. Where runs meet, a block has a part for
//     each. Per tile of keys, values arrive while scores are made, and the next keys while scores
//     become weights and meet the values. With a window, the tiles before that of the part's first
//     token are skipped.
//
// (7) Read: load_tile; load_query; scores, mask, softmax, add_values; store_rows; attend_block is
//     the loop.
#include "ptx.cuh"
#include "attention.cuh"

constexpr int WARPS          = 4;
constexpr int THREADS        = WARPS * WARP_LANES;
constexpr int BLOCK_ROWS     = WARPS * 16;
constexpr int BLOCK_TOKENS   = BLOCK_ROWS / GROUP_HEADS;
constexpr int KEYS           = HEAD_DIM > 128 ? 32 : 64; // of a tile
constexpr bool QUERY_SHARED  = HEAD_DIM > 128;           // else in registers
constexpr int STEPS          = (HEAD_DIM + 15) / 16; // of k16, in q k^T
constexpr bool PADDED        = HEAD_DIM % 16 != 0;   // the right half of the last step is zeros
constexpr int STRIDE         = STEPS * 32 + 16;
constexpr int TILE_BYTES     = KEYS * STRIDE;
constexpr int VALUES_AT      = TILE_BYTES;
constexpr int QUERY_AT       = 2 * TILE_BYTES;
constexpr int CHUNKS         = HEAD_DIM / 8; // of 16 bytes, in a row of the cache
constexpr bool PAGE_PER_TILE = PAGE_TOKENS % KEYS == 0;
// Below every maximum, far above NO_SCORE times the scale: where a window leaves a row no key of a
// tile, the weights are 2^-huge = 0. (Against a maximum of NO_SCORE * scale itself the rounding of
// that product, in a fused multiply-add, would be 2^+huge.)
constexpr float LEAST_MAX = -1e20f;
static_assert(BLOCK_TOKENS >= 1, "at most 64 query heads per KV head");
static_assert(SHARED_BYTES == 2 * TILE_BYTES + (QUERY_SHARED ? BLOCK_ROWS * STRIDE : 0), "launch");

struct Block { // or the part of it that is of one sequence
    KvHead head;
    int first_token, tokens;
    int start; // position of the first token
    int end;   // keys that its last token sees, but for those before a window
};

// ---- loads --------------------------------------------------------------------------------------

// The zeros behind every row, which no copy touches. Seen by all after the next barrier.
__device__ __forceinline__ void clear_padding(u32 shared) {
    constexpr int ROWS = SHARED_BYTES / STRIDE;
    for (int row = (int)threadIdx.x; PADDED && row < ROWS; row += THREADS) {
        st_shared_v4(shared + (u32)(row * STRIDE + ROW_BYTES), make_uint4(0, 0, 0, 0));
    }
}

// A tile of keys or values; rows behind the end repeat the last key and are masked later.
__device__ __forceinline__ void load_tile(u32 shared, const Block &b, s32 page, int first,
                                          s64 values_at) {
#pragma unroll // copies in flight
    for (int at = 0; at < KEYS * CHUNKS; at += THREADS) {
        int chunk = at + (int)threadIdx.x, row = chunk / CHUNKS, column = chunk % CHUNKS;
        if (KEYS * CHUNKS % THREADS == 0 || row < KEYS) {
            int key     = min(first + row, b.end - 1);
            s32 of_key  = PAGE_PER_TILE ? page : kv_page(b.head, key);
            const u8 *p = kv_row(b.head, of_key, key) + values_at + kv_chunk(key, column) * 16;
            cp_async_16(shared + (u32)(row * STRIDE + column * 16), p);
        }
    }
    cp_async_commit();
}

__device__ __forceinline__ s32 tile_page(const Block &b, int first) {
    return PAGE_PER_TILE ? kv_page(b.head, min(first, b.end - 1)) : 0;
}

// The query of row r of the block; rows behind the last repeat it.
__device__ __forceinline__ s64 token_at(const Block &b, int r) {
    return (s64)(b.first_token + r / GROUP_HEADS) * (HEADS * HEAD_DIM);
}
__device__ __forceinline__ int head_at(int r, int kv_index) {
    return (kv_index * GROUP_HEADS + r % GROUP_HEADS) * HEAD_DIM;
}
__device__ __forceinline__ s64 query_at(const Block &b, int r, int kv_index) {
    r = min(r, b.tokens * GROUP_HEADS - 1);
    return token_at(b, r) + head_at(r, kv_index);
}

// Plain loads, not ld.nc: the kernel before may still write q while this one runs.
__device__ __forceinline__ void load_query_registers(u32 query[STEPS][4], const act_t *q,
                                                     const Block &b, int kv_index) {
    int lane = (int)threadIdx.x % WARP_LANES, c = lane % 4;
    int row = (int)threadIdx.x / WARP_LANES * 16 + lane / 4;
    const act_t *low = q + query_at(b, row, kv_index), *high = q + query_at(b, row + 8, kv_index);
#pragma unroll // fragments stay in registers
    for (int step = 0; step < STEPS; step++) {
        query[step][0] = ld_global_u32(low + step * 16 + 2 * c);
        query[step][1] = ld_global_u32(high + step * 16 + 2 * c);
        bool half      = PADDED && step == STEPS - 1;
        query[step][2] = half ? 0 : ld_global_u32(low + step * 16 + 2 * c + 8);
        query[step][3] = half ? 0 : ld_global_u32(high + step * 16 + 2 * c + 8);
    }
}

__device__ __forceinline__ void load_query_shared(u32 shared, const act_t *q, const Block &b,
                                                  int kv_index) {
    for (int chunk = (int)threadIdx.x; chunk < BLOCK_ROWS * CHUNKS; chunk += THREADS) {
        int row = chunk / CHUNKS, column = chunk % CHUNKS;
        cp_async_16(shared + (u32)(row * STRIDE + column * 16),
                    q + query_at(b, row, kv_index) + column * 8);
    }
    cp_async_commit();
}

// ---- one tile of keys ---------------------------------------------------------------------------

struct State {
    float out[STEPS * 2][4]; // n8 tiles of HEAD_DIM: (row g; 2c, 2c+1), (row g + 8; ...)
    float max[2], sum[2];    // rows g, g + 8; sum: over this lane's keys only
};

// Address of row `lane % 16` of a 16 x 16 matrix, its right half for lanes 16 .. 31: ldmatrix gives
// the quarters (rows 0-7, left), (8-15, left), (0-7, right), (8-15, right).
__device__ __forceinline__ u32 matrix_address(u32 shared, int row, int column_bytes) {
    int lane = (int)threadIdx.x % WARP_LANES;
    return shared + (u32)((row + lane % 16) * STRIDE + column_bytes + lane / 16 * 16);
}

__device__ __forceinline__ void scores(float score[KEYS / 8][4], const u32 query[STEPS][4],
                                       u32 query_shared, u32 keys) {
    int row = (int)threadIdx.x / WARP_LANES * 16;
#pragma unroll // scores stay in registers
    for (int tile = 0; tile < KEYS / 8; tile++) {
        score[tile][0] = score[tile][1] = score[tile][2] = score[tile][3] = 0.0f;
    }
#pragma unroll // fragments stay in registers
    for (int step = 0; step < STEPS; step++) {
        u32 a[4] = {query[step][0], query[step][1], query[step][2], query[step][3]};
        if (QUERY_SHARED) {
            ldmatrix_x4(a, matrix_address(query_shared, row, step * 32));
        }
#pragma unroll // fragments stay in registers
        for (int pair = 0; pair < KEYS / 16; pair++) {
            u32 b[4];
            ldmatrix_x4(b, matrix_address(keys, pair * 16, step * 32));
            mma_m16n8k16_act(score[2 * pair], a[0], a[1], a[2], a[3], b[0], b[2]);
            mma_m16n8k16_act(score[2 * pair + 1], a[0], a[1], a[2], a[3], b[1], b[3]);
        }
    }
#pragma unroll // scores stay in registers
    for (int at = 0; SOFTCAP_BITS && at < KEYS / 2; at++) {
        score[at / 4][at % 4] = capped(score[at / 4][at % 4]);
    }
}

__device__ __forceinline__ bool counts(int key, int position) {
    return key <= position && (!WINDOW || key > position - (int)WINDOW);
}

// A key of the tile counts for a row from the window's start to the row's own position.
__device__ __forceinline__ void mask(float score[KEYS / 8][4], const Block &b, int first) {
    int lane = (int)threadIdx.x % WARP_LANES;
    int row  = (int)threadIdx.x / WARP_LANES * 16 + lane / 4;
    int low = b.start + row / GROUP_HEADS - first, high = b.start + (row + 8) / GROUP_HEADS - first;
#pragma unroll // scores stay in registers
    for (int tile = 0; tile < KEYS / 8; tile++) {
        int key        = tile * 8 + lane % 4 * 2;
        score[tile][0] = counts(key, low) ? score[tile][0] : NO_SCORE;
        score[tile][1] = counts(key + 1, low) ? score[tile][1] : NO_SCORE;
        score[tile][2] = counts(key, high) ? score[tile][2] : NO_SCORE;
        score[tile][3] = counts(key + 1, high) ? score[tile][3] : NO_SCORE;
    }
}

// Do all keys of the tile count for all rows of the block?
__device__ __forceinline__ bool all_count(const Block &b, int first) {
    return first + KEYS <= b.start + 1 && (!WINDOW || first >= first_key(b.end - 1));
}

// Scores become weights, 2^(score * scale - max); out and sum are brought to the new maximum.
__device__ __forceinline__ void softmax(State &s, float score[KEYS / 8][4]) {
    const float scale = score_scale();
#pragma unroll // the state stays in registers
    for (int half = 0; half < 2; half++) {
        float most = NO_SCORE;
#pragma unroll // scores stay in registers
        for (int tile = 0; tile < KEYS / 8; tile++) {
            most = fmaxf(most, fmaxf(score[tile][2 * half], score[tile][2 * half + 1]));
        }
        most = fmaxf(most, shfl_xor_f32(most, 1));
        most = fmaxf(most, shfl_xor_f32(most, 2));
        most = fmaxf(most * scale, s.max[half]);
        float shrink = ex2_approx(s.max[half] - most), sum = 0.0f;
        s.max[half]  = most;
#pragma unroll // scores stay in registers
        for (int tile = 0; tile < KEYS / 8; tile++) {
            score[tile][2 * half]     = ex2_approx(score[tile][2 * half] * scale - most);
            score[tile][2 * half + 1] = ex2_approx(score[tile][2 * half + 1] * scale - most);
            sum += score[tile][2 * half] + score[tile][2 * half + 1];
        }
        s.sum[half] = s.sum[half] * shrink + sum;
#pragma unroll // the state stays in registers
        for (int tile = 0; tile < STEPS * 2; tile++) {
            s.out[tile][2 * half] *= shrink;
            s.out[tile][2 * half + 1] *= shrink;
        }
    }
}

__device__ __forceinline__ void add_values(State &s, const float score[KEYS / 8][4], u32 values) {
#pragma unroll // fragments stay in registers
    for (int step = 0; step < KEYS / 16; step++) {
        u32 a0 = act2_from_f32(score[2 * step][0], score[2 * step][1]);
        u32 a1 = act2_from_f32(score[2 * step][2], score[2 * step][3]);
        u32 a2 = act2_from_f32(score[2 * step + 1][0], score[2 * step + 1][1]);
        u32 a3 = act2_from_f32(score[2 * step + 1][2], score[2 * step + 1][3]);
#pragma unroll // fragments stay in registers
        for (int pair = 0; pair < STEPS; pair++) {
            u32 b[4];
            ldmatrix_x4_trans(b, matrix_address(values, step * 16, pair * 32));
            mma_m16n8k16_act(s.out[2 * pair], a0, a1, a2, a3, b[0], b[1]);
            mma_m16n8k16_act(s.out[2 * pair + 1], a0, a1, a2, a3, b[2], b[3]);
        }
    }
}

// ---- a block ------------------------------------------------------------------------------------

__device__ __forceinline__ void store_rows(State &s, const s32 *places, act_t *out, const Block &b,
                                           int kv_index) {
    int lane = (int)threadIdx.x % WARP_LANES;
#pragma unroll // the state stays in registers
    for (int half = 0; half < 2; half++) {
        int row   = (int)threadIdx.x / WARP_LANES * 16 + lane / 4 + 8 * half;
        float sum = s.sum[half];
        sum += shfl_xor_f32(sum, 1);
        sum += shfl_xor_f32(sum, 2);
        if (row < b.tokens * GROUP_HEADS) {
            float scale = 1.0f / sum;
            int head    = head_at(row, kv_index) + lane % 4 * 2;
            act_t *p    = out + token_at(b, row);
#pragma unroll // the state stays in registers
            for (int tile = 0; tile < CHUNKS; tile++) {
                store_pair(p, places, head + tile * 8, s.out[tile][2 * half] * scale,
                           s.out[tile][2 * half + 1] * scale);
            }
        }
    }
}

// A function of its own, so that what is the same in all parts is not kept in registers from one to
// the next: with heads of 256 they would not suffice.
__device__ __noinline__ void attend_block(Block b, const act_t *q, const s32 *places,
                                             act_t *out, int kv_index, u32 shared) {
    u32 query[STEPS][4];
    State state;
#pragma unroll // the state stays in registers
    for (int at = 0; at < STEPS * 2 * 4; at++) {
        state.out[at / 4][at % 4] = 0.0f;
    }
    state.max[0] = state.max[1] = LEAST_MAX;
    state.sum[0] = state.sum[1] = 0.0f;
    int first = first_key(b.start) / KEYS * KEYS;
    s32 page  = tile_page(b, first);
    clear_padding(shared);
    load_tile(shared, b, page, first, 0);
    if (QUERY_SHARED) {
        load_query_shared(shared + QUERY_AT, q, b, kv_index);
    } else {
        load_query_registers(query, q, b, kv_index);
    }
    for (; first < b.end; first += KEYS) {
        s32 next_page = tile_page(b, first + KEYS);
        cp_async_wait<0>();
        __syncthreads(); // keys are there, and nobody reads the last values
        load_tile(shared + VALUES_AT, b, page, first, KV_VALUES_AT);
        float score[KEYS / 8][4];
        scores(score, query, shared + QUERY_AT, shared);
        if (!all_count(b, first)) {
            mask(score, b, first);
        }
        cp_async_wait<0>();
        __syncthreads(); // values are there, and nobody reads these keys
        page = next_page;
        if (first + KEYS < b.end) {
            load_tile(shared, b, page, first + KEYS, 0);
        }
        softmax(state, score);
        add_values(state, score, shared + VALUES_AT);
    }
    store_rows(state, places, out, b, kv_index);
}

extern "C" __global__ void __launch_bounds__(THREADS, HEAD_DIM <= 64 ? 3 : 2)
    attention_prefill(const act_t *q, const u8 *kv, const s32 *positions, const s32 *slots,
                      const s32 *page_table, const s32 *places, act_t *out, s64 tokens) {
    extern __shared__ __align__(16) u8 shared[];
    griddepcontrol_launch_dependents();
    griddepcontrol_wait(); // q and the new keys are the work of the kernel before
    int kv_index = (int)blockIdx.x;
    int first = (int)(gridDim.y - 1 - blockIdx.y) * BLOCK_TOKENS;
    int last  = min(first + BLOCK_TOKENS, (int)tokens);
    while (first < last) {
        Block b;
        b.first_token = first;
        b.tokens      = run_end(slots, first, last) - first;
        b.start       = positions[first];
        b.end         = b.start + b.tokens;
        if (slots[first] >= 0) {
            b.head = kv_head(kv, page_table, slots[first], kv_index);
            attend_block(b, q, places, out, kv_index, shared_address(shared));
        }
        first += b.tokens;
        if (first < last) {
            __syncthreads(); // nobody reads the last values
        }
    }
}

// (1) out[t][h] = sum over j of softmax_j(cap(q[t][h] . k[j] * scale)) v[j], for one token t of
//     each of many sequences; k and v of KV head h / (HEADS / KV_HEADS) of slot slots[t]; j = 0 ..
//     positions[t], of them the last WINDOW (if any).
//
// (2) operand     dtype  shape                          notes
//     q           act    [tokens, HEADS, HEAD_DIM]      rotated
//     kv          act    pages, see attention.cuh       of this layer, with the new k and v
//     positions   int32  [tokens]
//     slots       int32  [tokens]                       -1: an empty row, out is 0
//     page_table  int32  [slots, PAGES_PER_SEQ]
//     partial     fp32   [tokens, KV_HEADS, SPLITS, RECORD]   between the two entries, see (3)
//     places      int32  [HEADS * HEAD_DIM]             null without HAS_PLACES
//     out         act    [tokens, HEADS, HEAD_DIM]
//     tokens      int64
//
// (3) The weights of mma m16n8k16 are keys and values, so that the 8 columns are query heads and no
//     accumulator is wasted; loads go from memory straight to fragments, 16 bytes a lane, since the
//     order of a contraction is free. Lane l, g = l / 4, c = l % 4:
//
//       scores^T = K Q^T   16 keys x 8 heads, k16 steps 2 u and 2 u + 1 of unit u (32 elements)
//         lane reads K[key g, key g + 8][32 u + 8 c .. + 7] and Q[head g][the same]
//       words 0, 1 are step 2 u (k 2c, 2c+1 and 2c+8, 2c+9), words 2, 3 step 2 u + 1
//       accumulators: (key g; heads 2c, 2c+1), (key g + 8; heads 2c, 2c+1)
//       P^T: two 8 x 8 transposes in registers (movmatrix) make them the other operand of
//       out^T += V^T P^T   16 elements x 8 heads, contraction over the 16 keys
//         lane reads V[keys 2c, 2c+1, 2c+8, 2c+9][64 u + 8 g .. + 7]: tile i = 0..3 of unit u has
//         rows g, g + 8 = elements 64 u + 8 g + 2 i, + 1, so word i of two keys, byte-permuted
//       accumulators of unit u: heads 2c, 2c+1; 8 consecutive elements 64 u + 8 g ..
//
//     What is left of HEAD_DIM after units of 64 (32) is read in units of 32, 16 and 8 by 8, 4 and
//     2 bytes (8 and 4); the other half of a unit of 8 is zeros. A record of `partial`:
//     out[GROUP_HEADS][HEAD_DIM] before division, then max[GROUP_HEADS] (in exponents of 2) and
//     sum[GROUP_HEADS], padded to 4 floats.
//
// (4) Bytes: KV_HEADS * length * HEAD_DIM * 4 per row. 8 KV heads of 128, 1024 tokens: 4.2 MB, 1.0
//     us at 4.1 TB/s on an H200, where latency decides: about 3 us and 1.5 for the merge. 8192
//     tokens: 33.6 MB, 8.2 us. Times: docs/performance.md.
//
// (5) the parameters of attention.cuh, and SPLITS, the parts at most in which a row's keys are cut,
//     1 .. 64. Where the cuts are depends on the row's length only, never on the batch. With a
//     window, the cuts are of what it leaves, from a multiple of 16 on.
//
// (6) attention_decode: grid {KV_HEADS * BLOCKS, tokens, SPLITS}, 128 threads: a block has one part
//     of one row's keys, warp w every fourth run of 16; blocks behind the last part leave at once.
//     attention_merge: grid {KV_HEADS, tokens, 1}, 128 threads.
//
// (7) Read: Split, load_keys, load_values, scores, softmax, add_values; attend_warp is the loop;
//     block_merge; then the entries.
#include "ptx.cuh"
#include "attention.cuh"

constexpr int WARPS      = 4;
constexpr int THREADS    = WARPS * WARP_LANES;
constexpr int RUN        = 16;          // keys of a warp in one go
constexpr int STEP       = WARPS * RUN; // keys of the block in one go
constexpr int TILES_ALL  = (GROUP_HEADS + 7) / 8;
constexpr int TILES      = TILES_ALL > 1 && HEAD_DIM <= 128 ? 2 : 1; // of 8 heads, in one block
constexpr int BLOCKS     = (TILES_ALL + TILES - 1) / TILES;          // that share a KV head
constexpr int BLOCK_ROWS = TILES * 8;
constexpr int RECORD     = (GROUP_HEADS * HEAD_DIM + 2 * GROUP_HEADS + 3) / 4 * 4;
static_assert(SPLITS >= 1 && SPLITS <= 64, "SPLITS");

constexpr int KEY_UNITS   = HEAD_DIM / 32;
constexpr int VALUE_UNITS = HEAD_DIM / 64;
constexpr bool REST_32    = HEAD_DIM % 64 >= 32; // of values
constexpr bool REST_16    = HEAD_DIM % 32 >= 16;
constexpr bool REST_8     = HEAD_DIM % 16 != 0;
constexpr int STEPS_16    = HEAD_DIM / 16;        // that are whole
constexpr int KEY_STEPS   = STEPS_16 + REST_8; // of k16
constexpr int OUT_TILES   = STEPS_16 + REST_8; // of 16 elements
constexpr bool AHEAD      = HEAD_DIM <= 192; // keys and values of a run fit the registers together
constexpr int HEAD_STRIDE = HEAD_DIM + 4;  // in shared memory: spreads the heads over the banks

// The keys [begin, end) of part `part`; those before `seen` do not count.
struct Split {
    int begin, end, parts, seen;
};

__device__ __forceinline__ Split split_of(int length, int part) {
    int seen = first_key(length - 1), start = seen / RUN * RUN;
    int run = (length - start + SPLITS * STEP - 1) / (SPLITS * STEP) * STEP;
    return {start + part * run, min(length, start + (part + 1) * run),
            (length - start + run - 1) / run, seen};
}

// ---- loads --------------------------------------------------------------------------------------

struct Keys {
    u32 words[2][KEY_STEPS][2]; // [key g, g + 8][step][k 2c, 2c + 8]
};
struct Values {
    u32 words[4][OUT_TILES]; // [key 2c, 2c+1, 2c+8, 2c+9][tile]
};

// A row in units of 32: 16 bytes a lane, then 8.
__device__ __forceinline__ void load_row_32(u32 words[KEY_STEPS][2], const u8 *row, int c) {
#pragma unroll // fragments stay in registers
    for (int unit = 0; unit < KEY_UNITS; unit++) {
        uint4 v = ld_global_v4(row + unit * 64 + c * 16);
        words[2 * unit][0]     = v.x;
        words[2 * unit][1]     = v.y;
        words[2 * unit + 1][0] = v.z;
        words[2 * unit + 1][1] = v.w;
    }
    if (REST_16) {
        uint2 v = ld_global_v2(row + KEY_UNITS * 64 + c * 8);
        words[STEPS_16 - 1][0] = v.x;
        words[STEPS_16 - 1][1] = v.y;
    }
    if (REST_8) {
        words[KEY_STEPS - 1][0] = ld_global_u32(row + STEPS_16 * 32 + c * 4);
        words[KEY_STEPS - 1][1] = 0;
    }
}

// A row in units of 64, 32, 16 and 8.
__device__ __forceinline__ void load_row_64(u32 words[OUT_TILES], const u8 *row, int g) {
#pragma unroll // fragments stay in registers
    for (int unit = 0; unit < VALUE_UNITS; unit++) {
        uint4 v = ld_global_v4(row + unit * 128 + g * 16);
        words[4 * unit]     = v.x;
        words[4 * unit + 1] = v.y;
        words[4 * unit + 2] = v.z;
        words[4 * unit + 3] = v.w;
    }
    if (REST_32) {
        uint2 v = ld_global_v2(row + VALUE_UNITS * 128 + g * 8);
        words[4 * VALUE_UNITS]     = v.x;
        words[4 * VALUE_UNITS + 1] = v.y;
    }
    if (REST_16) {
        words[STEPS_16 - 1] = ld_global_u32(row + (STEPS_16 - 1) * 32 + g * 4);
    }
    if (REST_8) {
        words[OUT_TILES - 1] = ld_global_u16(row + STEPS_16 * 32 + g * 2);
    }
}

// Rows behind the end of the part are read at its last key: their weight will be 0.
__device__ __forceinline__ void load_keys(Keys &keys, const KvHead &head, s32 page, int first,
                                          int end) {
    int g = (int)threadIdx.x % WARP_LANES / 4, c = (int)threadIdx.x % 4;
#pragma unroll // fragments stay in registers
    for (int half = 0; half < 2; half++) {
        int key = min(first + g + 8 * half, end - 1);
        load_row_32(keys.words[half], kv_row(head, page, key), c);
    }
}
__device__ __forceinline__ void load_values(Values &values, const KvHead &head, s32 page, int first,
                                            int end) {
    int g = (int)threadIdx.x % WARP_LANES / 4, c = (int)threadIdx.x % 4;
#pragma unroll // fragments stay in registers
    for (int at = 0; at < 4; at++) {
        int key = min(first + 2 * c + at % 2 + 8 * (at / 2), end - 1);
        load_row_64(values.words[at], kv_row(head, page, key) + KV_VALUES_AT, g);
    }
}

// Columns behind the last head of the block read that one again; nobody stores them.
__device__ __forceinline__ void load_queries(u32 queries[TILES][KEY_STEPS][2], const act_t *q,
                                             int heads) {
    int g = (int)threadIdx.x % WARP_LANES / 4, c = (int)threadIdx.x % 4;
#pragma unroll // fragments stay in registers
    for (int tile = 0; tile < TILES; tile++) {
        int head = min(tile * 8 + g, heads - 1);
        load_row_32(queries[tile], (const u8 *)(q + head * HEAD_DIM), c);
    }
}

// ---- one run of 16 keys -------------------------------------------------------------------------

// What a lane has for heads 2c and 2c + 1 of each tile.
struct State {
    float out[TILES][OUT_TILES][4]; // tile i: (element; 2c), (element; 2c+1), (element + 1; ...)
    float max[TILES][2];            // of scores, in exponents of 2; lanes of equal c agree
    float sum[TILES][2];            // over this lane's keys only
};

__device__ __forceinline__ void state_clear(State &s) {
#pragma unroll // the state stays in registers
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll // the state stays in registers
        for (int at = 0; at < OUT_TILES * 4; at++) {
            s.out[tile][at / 4][at % 4] = 0.0f;
        }
        s.max[tile][0] = s.max[tile][1] = NO_SCORE;
        s.sum[tile][0] = s.sum[tile][1] = 0.0f;
    }
}

__device__ __forceinline__ void scores(float score[4], const Keys &keys,
                                       const u32 queries[KEY_STEPS][2]) {
    score[0] = score[1] = score[2] = score[3] = 0.0f;
#pragma unroll // fragments stay in registers
    for (int step = 0; step < KEY_STEPS; step++) {
        mma_m16n8k16_act(score, keys.words[0][step][0], keys.words[1][step][0],
                         keys.words[0][step][1], keys.words[1][step][1], queries[step][0],
                         queries[step][1]);
    }
    if (SOFTCAP_BITS) {
#pragma unroll // scores stay in registers
        for (int at = 0; at < 4; at++) {
            score[at] = capped(score[at]);
        }
    }
}

// Scores become weights (2^(score - max)); out and sum are brought to the new maximum.
__device__ __forceinline__ void softmax(State &s, int tile, float score[4], int first,
                                        const Split &split) {
    int g = (int)threadIdx.x % WARP_LANES / 4;
    const float scale = score_scale();
    bool low_counts = first + g < split.end && (!WINDOW || first + g >= split.seen);
    bool high_counts = first + g + 8 < split.end && (!WINDOW || first + g + 8 >= split.seen);
#pragma unroll // the state stays in registers
    for (int column = 0; column < 2; column++) {
        float low  = low_counts ? score[column] * scale : NO_SCORE;
        float high = high_counts ? score[2 + column] * scale : NO_SCORE;
        float most = fmaxf(low, high);
        most = fmaxf(most, shfl_xor_f32(most, 4));
        most = fmaxf(most, shfl_xor_f32(most, 8));
        most = fmaxf(most, shfl_xor_f32(most, 16));
        most = fmaxf(most, s.max[tile][column]);
        float shrink = ex2_approx(s.max[tile][column] - most);
        s.max[tile][column] = most;
        score[column]       = ex2_approx(low - most);
        score[2 + column]   = ex2_approx(high - most);
        s.sum[tile][column] = s.sum[tile][column] * shrink + (score[column] + score[2 + column]);
#pragma unroll // the state stays in registers
        for (int at = 0; at < OUT_TILES; at++) {
            s.out[tile][at][column] *= shrink;
            s.out[tile][at][2 + column] *= shrink;
        }
    }
}

__device__ __forceinline__ void add_values(float out[OUT_TILES][4], const Values &values,
                                           const float weight[4]) {
    u32 low  = movmatrix_trans(act2_from_f32(weight[0], weight[1]));
    u32 high = movmatrix_trans(act2_from_f32(weight[2], weight[3]));
#pragma unroll // fragments stay in registers
    for (int tile = 0; tile < OUT_TILES; tile++) {
        u32 a = values.words[0][tile], b = values.words[1][tile];
        u32 c = values.words[2][tile], d = values.words[3][tile];
        mma_m16n8k16_act(out[tile], prmt(a, b, 0x5410), prmt(a, b, 0x7632), prmt(c, d, 0x5410),
                         prmt(c, d, 0x7632), low, high);
    }
}

// ---- a warp's part of a part --------------------------------------------------------------------

// Keys of the next run are loaded while this run's values are used, and the other way round; wide
// heads leave no registers for that.
__device__ __forceinline__ void attend_warp(State &s, const KvHead &head, Split split,
                                            const u32 queries[TILES][KEY_STEPS][2]) {
    int first = split.begin + (int)threadIdx.x / WARP_LANES * RUN, last = split.end - 1;
    if (first > last) {
        return;
    }
    Keys keys;
    Values values;
    s32 page = kv_page(head, first), next_page = 0;
    if (AHEAD) {
        load_keys(keys, head, page, first, split.end);
        load_values(values, head, page, first, split.end);
        next_page = kv_page(head, min(first + STEP, last));
    }
    for (; first <= last; first += STEP) {
        bool more = AHEAD && first + STEP <= last;
        float score[TILES][4];
        if (!AHEAD) {
            page = kv_page(head, first);
            load_keys(keys, head, page, first, split.end);
        }
#pragma unroll // the state stays in registers
        for (int tile = 0; tile < TILES; tile++) {
            scores(score[tile], keys, queries[tile]);
        }
        if (!AHEAD) {
            load_values(values, head, page, first, split.end);
        }
        if (more) {
            page = next_page;
            load_keys(keys, head, page, first + STEP, split.end);
            next_page = kv_page(head, min(first + 2 * STEP, last));
        }
#pragma unroll // the state stays in registers
        for (int tile = 0; tile < TILES; tile++) {
            softmax(s, tile, score[tile], first, split);
            add_values(s.out[tile], values, score[tile]);
        }
        if (more) {
            load_values(values, head, page, first + STEP, split.end);
        }
    }
}

// ---- the warps of a block together --------------------------------------------------------------

struct Shared {
    float out[WARPS][BLOCK_ROWS][HEAD_STRIDE];
    float max[WARPS][BLOCK_ROWS], sum[WARPS][BLOCK_ROWS];
};
static_assert(sizeof(Shared) <= 48 * 1024, "static shared memory");

// Elements e and e + 1 of tile `tile`, as drawn in (3).
__device__ __forceinline__ int tile_element(int tile, int g) {
    if (tile < VALUE_UNITS * 4) {
        return tile / 4 * 64 + 8 * g + 2 * (tile % 4);
    }
    if (REST_32 && tile < VALUE_UNITS * 4 + 2) {
        return VALUE_UNITS * 64 + 4 * g + 2 * (tile - VALUE_UNITS * 4);
    }
    return REST_8 && tile == STEPS_16 ? STEPS_16 * 16 + g : (STEPS_16 - 1) * 16 + 2 * g;
}

__device__ __forceinline__ void warp_store(Shared &shared, State &s) {
    int g = (int)threadIdx.x % WARP_LANES / 4, c = (int)threadIdx.x % 4;
    int warp = (int)threadIdx.x / WARP_LANES;
#pragma unroll // the state stays in registers
    for (int at = 0; at < TILES * 2; at++) {
        int tile = at / 2, column = at % 2, row = tile * 8 + 2 * c + column;
        float sum = s.sum[tile][column];
        sum += shfl_xor_f32(sum, 4);
        sum += shfl_xor_f32(sum, 8);
        sum += shfl_xor_f32(sum, 16);
        if (g == 0) {
            shared.max[warp][row] = s.max[tile][column];
            shared.sum[warp][row] = sum;
        }
#pragma unroll // the state stays in registers
        for (int out = 0; out < OUT_TILES; out++) {
            float *to = &shared.out[warp][row][tile_element(out, g)];
            if (REST_8 && out == STEPS_16) {
                *to = s.out[tile][out][column];
            } else {
                *(float2 *)to = make_float2(s.out[tile][out][column], s.out[tile][out][2 + column]);
            }
        }
    }
}

// Adds up the warps in their order and writes one record. `heads`: of this block.
__device__ __forceinline__ void block_merge(Shared &shared, float *record, int first_head,
                                            int heads) {
    for (int at = (int)threadIdx.x * 4; at < heads * HEAD_DIM; at += THREADS * 4) {
        int row = at / HEAD_DIM, element = at % HEAD_DIM;
        float most = NO_SCORE, sum = 0.0f;
        float4 out = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        for (int warp = 0; warp < WARPS; warp++) {
            most = fmaxf(most, shared.max[warp][row]);
        }
        for (int warp = 0; warp < WARPS; warp++) {
            float factor = ex2_approx(shared.max[warp][row] - most);
            float4 v     = *(const float4 *)&shared.out[warp][row][element];
            out.x += factor * v.x;
            out.y += factor * v.y;
            out.z += factor * v.z;
            out.w += factor * v.w;
            sum += factor * shared.sum[warp][row];
        }
        *(float4 *)(record + first_head * HEAD_DIM + at) = out;
        if (element == 0) {
            record[GROUP_HEADS * HEAD_DIM + first_head + row]               = most;
            record[GROUP_HEADS * HEAD_DIM + GROUP_HEADS + first_head + row] = sum;
        }
    }
}

__device__ __forceinline__ float *record_of(float *partial, s64 token, int kv, int part) {
    return partial + ((token * KV_HEADS + kv) * SPLITS + part) * RECORD;
}

// ---- entries ------------------------------------------------------------------------------------

// One block at least: without that ptxas 13.0 spills wide heads in order to fit one more.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention_decode(const act_t *q, const u8 *kv, const s32 *positions, const s32 *slots,
                     const s32 *page_table, float *partial, s64 tokens) {
    __shared__ __align__(16) Shared shared;
    griddepcontrol_launch_dependents();
    s64 token = blockIdx.y;
    int kv_index = (int)blockIdx.x / BLOCKS, part = (int)blockIdx.z;
    if (token >= tokens) {
        return;
    }
    griddepcontrol_wait(); // q and the new keys are the work of the kernel before
    int slot = slots[token], length = positions[token] + 1;
    if (slot < 0 || length <= 0) {
        return;
    }
    Split split = split_of(length, part);
    if (split.begin >= split.end) {
        return;
    }
    int first_head = (int)blockIdx.x % BLOCKS * BLOCK_ROWS;
    int heads      = min(GROUP_HEADS - first_head, BLOCK_ROWS);
    KvHead head    = kv_head(kv, page_table, slot, kv_index);
    u32 queries[TILES][KEY_STEPS][2];
    load_queries(queries, q + (token * HEADS + kv_index * GROUP_HEADS + first_head) * HEAD_DIM,
                 heads);
    State state;
    state_clear(state);
    attend_warp(state, head, split, queries);
    warp_store(shared, state);
    __syncthreads();
    block_merge(shared, record_of(partial, token, kv_index, part), first_head, heads);
}

// Adds up the parts of a row in their order.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_merge(const float *partial, const s32 *positions, const s32 *slots,
                    const s32 *places, act_t *out, s64 tokens) {
    griddepcontrol_launch_dependents();
    s64 token = blockIdx.y;
    int kv_index = (int)blockIdx.x;
    if (token >= tokens) {
        return;
    }
    griddepcontrol_wait();
    int length = slots[token] < 0 ? 0 : positions[token] + 1;
    int parts  = length > 0 ? split_of(length, 0).parts : 0;
    act_t *row = out + token * (HEADS * HEAD_DIM);
    const float *records = partial + (token * KV_HEADS + kv_index) * SPLITS * RECORD;
    for (int at = (int)threadIdx.x * 4; at < GROUP_HEADS * HEAD_DIM; at += THREADS * 4) {
        const float *most_of = records + GROUP_HEADS * HEAD_DIM + at / HEAD_DIM;
        float most = NO_SCORE, sum = 0.0f;
        float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8 // loads in flight
        for (int part = 0; part < parts; part++) {
            most = fmaxf(most, most_of[part * RECORD]);
        }
#pragma unroll 8 // loads in flight
        for (int part = 0; part < parts; part++) {
            float factor = ex2_approx(most_of[part * RECORD] - most);
            float4 v     = *(const float4 *)(records + part * RECORD + at);
            total.x += factor * v.x;
            total.y += factor * v.y;
            total.z += factor * v.z;
            total.w += factor * v.w;
            sum += factor * most_of[part * RECORD + GROUP_HEADS];
        }
        float scale = parts > 0 ? 1.0f / sum : 0.0f;
        store_pair(row, places, kv_index * GROUP_HEADS * HEAD_DIM + at, total.x * scale,
                   total.y * scale);
        store_pair(row, places, kv_index * GROUP_HEADS * HEAD_DIM + at + 2, total.z * scale,
                   total.w * scale);
    }
}

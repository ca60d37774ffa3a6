// What: what a warp of attention_decode does with 16 keys and values: out += softmax(Q K^T) V, unnormed.
// Idea: keys and values are the A operand of mma m16n8k16, query heads its 8 columns, drawn in part (3) of
//     attention_decode.cu. Maxima are whole numbers, exponents of 2: what is brought to another maximum is
//     multiplied by a power of 2, which rounds nothing.
// Parameters: the constants of attention_decode.cu.
#ifndef ATTENTION_RUN_CUH
#define ATTENTION_RUN_CUH

// B fragments: k 16 step + 2c .. and + 8, head g. Columns behind the last head of the block read
// that one again; nobody stores them. Plain loads: the kernel before may write q while this one runs.
__device__ __forceinline__ void load_queries(u32 queries[TILES][STEPS][2], const Operands &o,
                                             const Segment &s) {
    int g = (int)threadIdx.x % WARP_LANES / 4, c = (int)threadIdx.x % 4;
#pragma unroll // fragments stay in registers
    for (int tile = 0; tile < TILES; tile++) {
        int head       = s.first_head + min(tile * 8 + g, s.heads - 1);
        const act_t *q = o.q + ((s64)s.token * HEADS + head) * HEAD_DIM + 2 * c;
#pragma unroll // fragments stay in registers
        for (int step = 0; step < STEPS; step++) {
            bool half              = PADDED && step == STEPS - 1;
            queries[tile][step][0] = ld_global_u32(q + step * 16);
            queries[tile][step][1] = half ? 0 : ld_global_u32(q + step * 16 + 8);
        }
    }
}

// What a lane has for heads 2c and 2c + 1 of each tile.
struct State {
    float out[TILES][STEPS][4]; // (element g; 2c), (g; 2c+1), (element g + 8; ...) of 16
    float max[TILES][2];        // of scores, in exponents of 2; lanes of equal c agree
    float sum[TILES][2];        // over this lane's keys only
};

__device__ __forceinline__ void state_clear(State &s) {
#pragma unroll // the state stays in registers
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll // the state stays in registers
        for (int at = 0; at < STEPS * 4; at++) {
            s.out[tile][at / 4][at % 4] = 0.0f;
        }
        s.max[tile][0] = s.max[tile][1] = NO_SCORE;
        s.sum[tile][0] = s.sum[tile][1] = 0.0f;
    }
}

// Where a lane's row of eight elements lies for ldmatrix: in step 0, and in others.
__device__ __forceinline__ u32 row_at(u32 tile, int row, int half) {
    return tile + (u32)(row * ROW_BYTES + kv_chunk(row, half) * 16);
}
__device__ __forceinline__ u32 step_at(u32 row, int step) {
    constexpr u32 EXCHANGED = KV_SPREAD * 16 - 1; // rows are aligned to it
    u32 bytes = (u32)step * 32;
    return (row ^ (bytes & EXCHANGED)) + (bytes & ~EXCHANGED);
}

__device__ __forceinline__ void scores(float score[TILES][4], u32 keys,
                                       const u32 queries[TILES][STEPS][2]) {
    int lane = (int)threadIdx.x % WARP_LANES;
    // quarters of 16 x 16: (keys 0-7, left), (8-15, left), (0-7, right), (8-15, right)
    u32 row = row_at(keys, lane % 16, lane / 16);
    float odd[TILES][4]; // of every other step: half the way from the first product to the last
#pragma unroll // scores stay in registers
    for (int at = 0; at < TILES * 4; at++) {
        score[at / 4][at % 4] = odd[at / 4][at % 4] = 0.0f;
    }
#pragma unroll // fragments stay in registers
    for (int step = 0; step < STEPS; step++) {
        u32 a[4];
        ldmatrix_x4(a, step_at(row, step));
        if (PADDED && step == STEPS - 1) {
            a[2] = a[3] = 0; // behind the row is another one
        }
#pragma unroll // fragments stay in registers
        for (int tile = 0; tile < TILES; tile++) {
            mma_m16n8k16_act(step % 2 ? odd[tile] : score[tile], a[0], a[1], a[2], a[3],
                             queries[tile][step][0], queries[tile][step][1]);
        }
    }
#pragma unroll // scores stay in registers
    for (int at = 0; at < TILES * 4; at++) {
        score[at / 4][at % 4] += odd[at / 4][at % 4];
    }
#pragma unroll // scores stay in registers
    for (int at = 0; SOFTCAP_BITS && at < TILES * 4; at++) {
        score[at / 4][at % 4] = capped(score[at / 4][at % 4]);
    }
}

// Scores become weights (2^(score - max)); out and sum are brought to the new maximum. It is rounded
// up to a whole number: so whatever is brought to another maximum is multiplied by a power of 2,
// which rounds nothing, and sums do not depend on when that is done.
__device__ __forceinline__ void softmax(State &s, int tile, float score[4], int first,
                                        const Segment &segment) {
    int g = (int)threadIdx.x % WARP_LANES / 4;
    const float scale = score_scale();
    int low_key = first + g, high_key = first + g + 8;
    bool low_counts  = low_key < segment.end && (!WINDOW || low_key >= segment.seen);
    bool high_counts = high_key < segment.end && (!WINDOW || high_key >= segment.seen);
#pragma unroll // the state stays in registers
    for (int column = 0; column < 2; column++) {
        float low  = low_counts ? score[column] * scale : NO_SCORE;
        float high = high_counts ? score[2 + column] * scale : NO_SCORE;
        float most = fmaxf(low, high);
        most = fmaxf(most, shfl_xor_f32(most, 4));
        most = fmaxf(most, shfl_xor_f32(most, 8));
        most = fmaxf(most, shfl_xor_f32(most, 16));
        most = fmaxf(ceilf(most), s.max[tile][column]);
        float shrink = ex2_approx(s.max[tile][column] - most);
        s.max[tile][column] = most;
        score[column]       = ex2_approx(low - most);
        score[2 + column]   = ex2_approx(high - most);
        s.sum[tile][column] = s.sum[tile][column] * shrink + (score[column] + score[2 + column]);
#pragma unroll // the state stays in registers
        for (int at = 0; at < STEPS; at++) {
            s.out[tile][at][column] *= shrink;
            s.out[tile][at][2 + column] *= shrink;
        }
    }
}

__device__ __forceinline__ void add_values(State &s, u32 values, const float weight[TILES][4]) {
    int lane = (int)threadIdx.x % WARP_LANES;
    u32 low[TILES], high[TILES];
#pragma unroll // fragments stay in registers
    for (int tile = 0; tile < TILES; tile++) {
        low[tile]  = movmatrix_trans(act2_from_f32(weight[tile][0], weight[tile][1]));
        high[tile] = movmatrix_trans(act2_from_f32(weight[tile][2], weight[tile][3]));
    }
    // transposed quarters: (keys 0-7, left), (0-7, right), (8-15, left), (8-15, right)
    u32 row = row_at(values, lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll // fragments stay in registers
    for (int step = 0; step < STEPS; step++) {
        u32 a[4];
        ldmatrix_x4_trans(a, step_at(row, step));
#pragma unroll // fragments stay in registers
        for (int tile = 0; tile < TILES; tile++) {
            mma_m16n8k16_act(s.out[tile][step], a[0], a[1], a[2], a[3], low[tile], high[tile]);
        }
    }
}

__device__ __forceinline__ void run_use(State &s, const Segment &segment, int first, u32 keys,
                                        const u32 queries[TILES][STEPS][2]) {
    float score[TILES][4];
    scores(score, keys, queries);
#pragma unroll // the state stays in registers
    for (int tile = 0; tile < TILES; tile++) {
        softmax(s, tile, score[tile], first, segment);
    }
    add_values(s, keys + VALUES_AT, score);
}

#endif

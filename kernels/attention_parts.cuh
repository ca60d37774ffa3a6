// What: how attention_decode adds up: the warps of a part, the parts of a row, the records of several
//     blocks; then the row is divided by its sum and stored.
// Idea: one order for all, warps in theirs, then parts in theirs, in one accumulator. From a row's first
//     part on sums stay in registers; parts that a block begins with in the middle of a row leave a record
//     each (drawn in part (3) of attention_decode.cu), and whoever comes last to the row adds them up.
//     The same sums must give the same bits wherever they are made: products and additions are written
//     out, so that the compiler has no choice which of them to fuse.
// Parameters: SPLITS; the constants of attention_decode.cu.
#ifndef ATTENTION_PARTS_CUH
#define ATTENTION_PARTS_CUH

// Four neighbouring outs of a head.
struct Fold {
    float4 out;
    float max, sum;
};

__device__ __forceinline__ float4 scaled(float4 v, float factor) {
    return make_float4(__fmul_rn(v.x, factor), __fmul_rn(v.y, factor), __fmul_rn(v.z, factor),
                       __fmul_rn(v.w, factor));
}
__device__ __forceinline__ float4 added(float4 to, float4 v, float factor) {
    return make_float4(__fmaf_rn(v.x, factor, to.x), __fmaf_rn(v.y, factor, to.y),
                       __fmaf_rn(v.z, factor, to.z), __fmaf_rn(v.w, factor, to.w));
}

// a becomes what a and the part behind it, b, are together.
__device__ __forceinline__ void fold(Fold &a, const Fold &b) {
    float most = fmaxf(a.max, b.max);
    float of_a = ex2_approx(a.max - most), of_b = ex2_approx(b.max - most);
    a.out = added(scaled(a.out, of_a), b.out, of_b);
    a.sum = __fmaf_rn(b.sum, of_b, __fmul_rn(a.sum, of_a));
    a.max = most;
}

// The warps that attend.
__device__ __forceinline__ void warps_sync() {
    bar_sync(1, THREADS);
}

__device__ __forceinline__ u32 state_at(u32 shared, int warp) {
    return shared + (u32)(STATES_AT + warp * STATE_BYTES);
}
constexpr int MAX_AT = BLOCK_HEADS * HEAD_STRIDE * 4, SUM_AT = MAX_AT + BLOCK_HEADS * 4;

__device__ __forceinline__ void warp_store(u32 shared, const State &s) {
    int g = (int)threadIdx.x % WARP_LANES / 4, c = (int)threadIdx.x % 4;
    u32 state = state_at(shared, (int)threadIdx.x / WARP_LANES);
#pragma unroll // the state stays in registers
    for (int at = 0; at < TILES * 2; at++) {
        int tile = at / 2, column = at % 2, row = tile * 8 + 2 * c + column;
        float sum = s.sum[tile][column];
        sum += shfl_xor_f32(sum, 4);
        sum += shfl_xor_f32(sum, 8);
        sum += shfl_xor_f32(sum, 16);
        if (row < BLOCK_HEADS) {
            if (g == 0) {
                st_shared_f32(state + (u32)(MAX_AT + row * 4), s.max[tile][column]);
                st_shared_f32(state + (u32)(SUM_AT + row * 4), sum);
            }
#pragma unroll // the state stays in registers
            for (int step = 0; step < STEPS; step++) {
                u32 to = state + (u32)((row * HEAD_STRIDE + step * 16 + g) * 4);
                st_shared_f32(to, s.out[tile][step][column]);
                if (!PADDED || step < STEPS - 1) {
                    st_shared_f32(to + 32, s.out[tile][step][2 + column]);
                }
            }
        }
    }
}

// Outs at .. at + 3 of the part whose states the warps have stored.
__device__ __forceinline__ Fold warps_fold(u32 shared, int at) {
    int row = at / HEAD_DIM, element = at % HEAD_DIM;
    Fold f[WARPS], all;
    all.max = NO_SCORE;
#pragma unroll // loads in flight
    for (int warp = 0; warp < WARPS; warp++) {
        u32 state   = state_at(shared, warp);
        f[warp].out = ld_shared_v4_f32(state + (u32)((row * HEAD_STRIDE + element) * 4));
        f[warp].max = ld_shared_f32(state + (u32)(MAX_AT + row * 4));
        f[warp].sum = ld_shared_f32(state + (u32)(SUM_AT + row * 4));
        all.max     = fmaxf(all.max, f[warp].max);
    }
    all.out = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    all.sum = 0.0f;
#pragma unroll // f stays in registers
    for (int warp = 0; warp < WARPS; warp++) {
        float factor = ex2_approx(f[warp].max - all.max);
        all.out      = added(all.out, f[warp].out, factor);
        all.sum      = __fmaf_rn(f[warp].sum, factor, all.sum);
    }
    return all;
}

__device__ __forceinline__ float *record_of(const Operands &o, const Segment &s, int part) {
    return o.records + (((s64)s.token * ROW_UNITS + s.unit) * SPLITS + part) * RECORD;
}

// `parts`: how many the record of part `part` holds; it is the first of them.
__device__ __forceinline__ void record_store(const Operands &o, const Segment &s, int part,
                                             int parts, int at, const Fold &f) {
    float *record = record_of(o, s, part);
    int row       = at / HEAD_DIM;
    st_global_v4_f32(record + at, f.out);
    if (at % HEAD_DIM == 0) {
        st_global_f32(record + OUTS + row, f.max);
        st_global_f32(record + OUTS + BLOCK_HEADS + row, f.sum);
    }
    if (at == 0) {
        st_global_f32(record + OUTS + 2 * BLOCK_HEADS, (float)parts);
    }
}

__device__ __forceinline__ void out_store(const Operands &o, const Segment &s, int at,
                                          const Fold &f) {
    float4 v   = scaled(f.out, 1.0f / f.sum);
    act_t *row = o.out + (s64)s.token * (HEADS * HEAD_DIM);
    store_pair(row, o.places, s.first_head * HEAD_DIM + at, v.x, v.y);
    store_pair(row, o.places, s.first_head * HEAD_DIM + at + 2, v.z, v.w);
}

// The warps' states of part `part` become one. From a row's first part on they are added up.
__device__ __forceinline__ void part_end(const Operands &o, const Segment &s, int part, u32 shared,
                                         const State &state, Fold folds[FOLDS]) {
    warp_store(shared, state);
    warps_sync();
#pragma unroll // folds stay in registers
    for (int i = 0; i < FOLDS; i++) {
        int at = ((int)threadIdx.x + i * THREADS) * 4;
        if (at < s.heads * HEAD_DIM) {
            Fold f = warps_fold(shared, at);
            if (!KEEPS || s.first_part > 0) {
                record_store(o, s, part, 1, at, f);
            } else if (part == 0) {
                folds[i] = f;
            } else {
                fold(folds[i], f);
            }
        }
    }
    warps_sync();
}

// Outs at .. at + 3 of a row from its records, in the order of its parts. The first one says which
// parts it holds; what would be their own records is read, but not used.
__device__ __forceinline__ Fold records_fold(const Operands &o, const Segment &s, int at) {
    constexpr int AT_ONCE = 16;
    int row  = at / HEAD_DIM;
    Fold all = {make_float4(0.0f, 0.0f, 0.0f, 0.0f), NO_SCORE, 0.0f};
    float has = ld_global_f32(record_of(o, s, 0) + OUTS + 2 * BLOCK_HEADS);
    for (int part = 0; part < s.parts; part += AT_ONCE) {
        Fold f[AT_ONCE];
        float most = all.max;
#pragma unroll // loads in flight
        for (int i = 0; i < AT_ONCE; i++) {
            const float *record = record_of(o, s, min(part + i, s.parts - 1));
            f[i].out = ld_global_v4_f32(record + at);
            f[i].max = ld_global_f32(record + OUTS + row);
            f[i].sum = ld_global_f32(record + OUTS + BLOCK_HEADS + row);
        }
#pragma unroll // f stays in registers
        for (int i = 0; i < AT_ONCE; i++) {
            int of = part + i;
            bool counts = of < s.parts && (of == 0 || of >= (int)has);
            f[i].max = counts ? f[i].max : NO_SCORE;
            f[i].sum = counts ? f[i].sum : 0.0f;
            f[i].out = counts ? f[i].out : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            most     = fmaxf(most, f[i].max);
        }
        float shrink = ex2_approx(all.max - most);
        all.out = scaled(all.out, shrink);
        all.sum = __fmul_rn(all.sum, shrink);
        all.max = most;
#pragma unroll // f stays in registers
        for (int i = 0; i < AT_ONCE; i++) {
            float factor = ex2_approx(f[i].max - most);
            all.out = added(all.out, f[i].out, factor);
            all.sum = __fmaf_rn(f[i].sum, factor, all.sum);
        }
    }
    return all;
}

// Is this block the last one that comes to the row? What others stored is visible then.
__device__ __forceinline__ bool row_complete(const Operands &o, const Segment &s, u32 shared) {
    warps_sync(); // all of this block's records are written
    if (threadIdx.x == 0) {
        u32 *count = o.counts + (s64)s.token * ROW_UNITS + s.unit;
        u32 mine   = (u32)(s.last_part - s.first_part);
        bool last  = atom_acq_rel_gpu_add_u32(count, mine) + mine == (u32)s.parts;
        if (last) {
            st_global_u32(count, 0);
        }
        st_shared_u32(shared + FLAG_AT, last);
    }
    warps_sync();
    return ld_shared_u32(shared + FLAG_AT) != 0;
}

__device__ __forceinline__ void segment_end(const Operands &o, const Segment &s, u32 shared,
                                            const Fold folds[FOLDS]) {
    bool whole = KEEPS && s.last_part - s.first_part == s.parts;
#pragma unroll // folds stay in registers
    for (int i = 0; i < FOLDS; i++) {
        int at = ((int)threadIdx.x + i * THREADS) * 4;
        if (KEEPS && at < s.heads * HEAD_DIM && s.first_part == 0) {
            if (whole) {
                out_store(o, s, at, folds[i]);
            } else {
                record_store(o, s, 0, s.last_part, at, folds[i]);
            }
        }
    }
    if (whole || !row_complete(o, s, shared)) {
        return;
    }
    for (int at = (int)threadIdx.x * 4; at < s.heads * HEAD_DIM; at += THREADS * 4) {
        out_store(o, s, at, records_fold(o, s, at));
    }
}

#endif

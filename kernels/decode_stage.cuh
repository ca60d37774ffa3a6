// What: the activations of linear_decode, in shared memory: once for each block if they fit, else phase by
//     phase.
// Idea: 16-bit rows are copied as they are. A norm in front (PROLOGUE_NORM) takes one pass over the fp32 row,
//     which stays in registers between the sum of squares and the scaling; with an order of inputs the
//     row is gathered at the same time. What does not depend on x is loaded before the wait for it.
// Parameters: PROLOGUE, HAS_ORDER, NORM_WIDTH, X_PHASES; the constants of linear_decode.cu, behind which
//     it is included, and decode_stream.cuh.
#ifndef DECODE_STAGE_CUH
#define DECODE_STAGE_CUH

// K index of 8 staged elements, or -1 if no weight of the phase reads them.
__device__ __forceinline__ int staged_k(int at, int phase, int rank) {
    if (X_PHASES == 1) {
        return warp_first_record(rank * WARPS) * RECORD_K + at;
    }
    int warp = rank * WARPS + at / SLICE_K, first = warp_first_record(warp);
    int record = first + phase * PHASE_RECORDS + at % SLICE_K / RECORD_K;
    return record < warp_first_record(warp + 1) ? record * RECORD_K + at % RECORD_K : -1;
}

// Row of the results, and of x, for a token of the block.
__device__ __forceinline__ int out_row(const Operands &o, int token) {
    return EXPERTS ? (int)ld_shared_u32(o.pairs + token * 4) : token;
}
__device__ __forceinline__ int x_row(const Operands &o, int token) {
#if EXPERTS
    return out_row(o, token) / X_SHARE;
#else
    return token;
#endif
}

// Eight activations from k on in the order of the inputs, before a norm's weights.
__device__ __forceinline__ void x_gather(float x[8], const Operands &o, int token, int k) {
    uint4 a = ld_nc_v4(o.order + k), b = ld_nc_v4(o.order + k + 4);
    const u32 from[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    s64 row = (s64)x_row(o, token) * NORM_WIDTH;
#pragma unroll // x stays in registers
    for (int i = 0; i < 8; i++) {
        x[i] = 0.0f;
        if ((s32)from[i] >= 0) {
            x[i] = PROLOGUE == PROLOGUE_NORM
                       ? ld_global_f32((const float *)o.x + row + from[i])
                       : act_to_f32(ld_global_u16((const act_t *)o.x + row + from[i]));
        }
    }
}

__device__ __forceinline__ u32 norm_pair(float a, float b, float factor, float wa, float wb) {
    return act2_from_f32(a * factor * wa, b * factor * wb);
}

// Eight activations of a token from k on, as they enter the products.
__device__ __forceinline__ uint4 x_load(const Operands &o, int token, int k, float factor) {
    uint4 v = make_uint4(0, 0, 0, 0); // K is padded with zeros
    if (k < 0 || k >= IN_FEATURES) {
        return v;
    }
    if (PROLOGUE == PROLOGUE_NONE && !HAS_ORDER) {
        return ld_global_v4((const act_t *)o.x + (s64)x_row(o, token) * IN_FEATURES + k);
    }
    float4 a, b;
    if (HAS_ORDER) {
        float x[8];
        x_gather(x, o, token, k);
        a = make_float4(x[0], x[1], x[2], x[3]);
        b = make_float4(x[4], x[5], x[6], x[7]);
    } else {
        const float *x = (const float *)o.x + (s64)token * IN_FEATURES + k;
        a = ld_global_v4_f32(x);
        b = ld_global_v4_f32(x + 4);
    }
    if (PROLOGUE == PROLOGUE_NONE) {
        return make_uint4(act2_from_f32(a.x, a.y), act2_from_f32(a.z, a.w),
                          act2_from_f32(b.x, b.y), act2_from_f32(b.z, b.w));
    }
    float4 wa = ld_global_v4_f32(o.norm_weight + k), wb = ld_global_v4_f32(o.norm_weight + k + 4);
    v.x = norm_pair(a.x, a.y, factor, wa.x, wa.y);
    v.y = norm_pair(a.z, a.w, factor, wa.z, wa.w);
    v.z = norm_pair(b.x, b.y, factor, wb.x, wb.y);
    v.w = norm_pair(b.z, b.w, factor, wb.z, wb.w);
    return v;
}

// rsqrt(mean(x^2) + eps) of a token, from the parts of all warps.
__device__ __forceinline__ float norm_factor(u32 shared, int token) {
    if (PROLOGUE == PROLOGUE_NONE) {
        return 1.0f;
    }
    float sum = 0.0f;
    for (int warp = 0; warp < WARPS; warp++) {
        sum += ld_shared_f32(shared + SQUARES_AT + (token * WARPS + warp) * 4);
    }
    return rsqrt_approx(sum * (1.0f / NORM_WIDTH) + __uint_as_float(EPS_BITS));
}

// Stages what phase `phase` needs of all tokens. Loads go out in batches, ahead of their use.
__device__ __forceinline__ void x_stage(const Operands &o, u32 shared, int phase, int rank) {
    constexpr int CHUNKS = STAGED_K / 8;
    constexpr int BATCH = PROLOGUE == PROLOGUE_NORM || HAS_ORDER ? 1 : 4;
    int total = o.tokens * CHUNKS;
    for (int first = threadIdx.x; first < total; first += BATCH * COMPUTE_THREADS) {
        uint4 v[BATCH];
#pragma unroll // v stays in registers
        for (int i = 0; i < BATCH; i++) {
            int chunk = first + i * COMPUTE_THREADS, token = chunk / CHUNKS;
            if (chunk < total) {
                float factor = norm_factor(shared, token);
                v[i] = x_load(o, token, staged_k(chunk % CHUNKS * 8, phase, rank), factor);
            }
        }
#pragma unroll // v stays in registers
        for (int i = 0; i < BATCH; i++) {
            int chunk = first + i * COMPUTE_THREADS, token = chunk / CHUNKS;
            if (chunk < total) {
                st_shared_v4(shared + X_AT + token * X_STRIDE + chunk % CHUNKS * 16, v[i]);
            }
        }
    }
}

// Chunks of four elements per thread: of a row, and of what is staged of it. With an order they
// differ, and a thread holds both.
constexpr int NORM_CHUNKS = ((NORM_WIDTH + 3) / 4 + COMPUTE_THREADS - 1) / COMPUTE_THREADS;
constexpr int STAGE_CHUNKS = (IN_FEATURES / 4 + COMPUTE_THREADS - 1) / COMPUTE_THREADS;
constexpr int HELD_CHUNKS = HAS_ORDER ? NORM_CHUNKS + STAGE_CHUNKS : NORM_CHUNKS;
constexpr int NORM_TOKENS = HELD_CHUNKS >= 8 || TOKENS_MAX == 1 ? 1
                            : 8 / HELD_CHUNKS < TOKENS_MAX      ? 8 / HELD_CHUNKS
                                                                : TOKENS_MAX; // held at a time
// From registers, in the pass that makes the sums of squares.
constexpr bool NORM_STAGES = X_PHASES == 1 && (!HAS_ORDER || HELD_CHUNKS <= 8);

// What a thread needs of the weights' side: loaded before the block waits for x.
struct NormConstants {
    float4 w[STAGE_CHUNKS];
    uint4 order[STAGE_CHUNKS]; // HAS_ORDER
};

__device__ __forceinline__ void norm_constants(NormConstants &c, const Operands &o) {
#pragma unroll // c stays in registers
    for (int i = 0; i < STAGE_CHUNKS; i++) {
        int k = (i * COMPUTE_THREADS + (int)threadIdx.x) * 4;
        c.w[i] = k < IN_FEATURES ? ld_global_v4_f32(o.norm_weight + k)
                                 : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (HAS_ORDER) {
            c.order[i] = k < IN_FEATURES ? ld_nc_v4(o.order + k) : make_uint4(~0u, ~0u, ~0u, ~0u);
        }
    }
}

__device__ __forceinline__ float ordered_load(const float *row, u32 from) {
    return (s32)from < 0 ? 0.0f : ld_global_f32(row + from);
}

__device__ __forceinline__ void norm_gather(float4 x[STAGE_CHUNKS], const float *row,
                                            const uint4 order[STAGE_CHUNKS]) {
#pragma unroll // x stays in registers
    for (int i = 0; i < STAGE_CHUNKS; i++) {
        x[i] = make_float4(ordered_load(row, order[i].x), ordered_load(row, order[i].y),
                           ordered_load(row, order[i].z), ordered_load(row, order[i].w));
    }
}

// This thread's part of a token: four elements of every COMPUTE_THREADS * 4.
__device__ __forceinline__ void norm_load(float4 x[NORM_CHUNKS], const float *row) {
#pragma unroll // x stays in registers
    for (int i = 0; i < NORM_CHUNKS; i++) {
        int k = (i * COMPUTE_THREADS + (int)threadIdx.x) * 4;
        if (NORM_WIDTH % 4 == 0) {
            x[i] = k < NORM_WIDTH ? ld_global_v4_f32(row + k) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        } else {
            x[i].x = k < NORM_WIDTH ? ld_global_f32(row + k) : 0.0f;
            x[i].y = k + 1 < NORM_WIDTH ? ld_global_f32(row + k + 1) : 0.0f;
            x[i].z = k + 2 < NORM_WIDTH ? ld_global_f32(row + k + 2) : 0.0f;
            x[i].w = k + 3 < NORM_WIDTH ? ld_global_f32(row + k + 3) : 0.0f;
        }
    }
}

__device__ __forceinline__ float norm_squares(const float4 x[NORM_CHUNKS]) {
    float sum = 0.0f;
#pragma unroll // x stays in registers
    for (int i = 0; i < NORM_CHUNKS; i++) {
        sum += x[i].x * x[i].x + x[i].y * x[i].y + x[i].z * x[i].z + x[i].w * x[i].w;
    }
    return warp_sum(sum);
}

__device__ __forceinline__ void norm_store(const float4 x[STAGE_CHUNKS],
                                           const float4 w[STAGE_CHUNKS], u32 row, float factor) {
#pragma unroll // x stays in registers
    for (int i = 0; i < STAGE_CHUNKS; i++) {
        int k = (i * COMPUTE_THREADS + (int)threadIdx.x) * 4;
        if (k < IN_FEATURES) {
            st_shared_v2(row + k * 2,
                         make_uint2(norm_pair(x[i].x, x[i].y, factor, w[i].x, w[i].y),
                                    norm_pair(x[i].z, x[i].w, factor, w[i].z, w[i].w)));
        } else if (k < K_PADDED) {
            st_shared_v2(row + k * 2, make_uint2(0, 0));
        }
    }
}

// Sums of squares of all tokens; with NORM_STAGES also the staging.
__device__ __forceinline__ void x_norm(const Operands &o, u32 shared, const NormConstants &c) {
    int warp = threadIdx.x / WARP_LANES;
    for (int first = 0; first < o.tokens; first += NORM_TOKENS) {
        float4 x[NORM_TOKENS][NORM_CHUNKS], ordered[NORM_TOKENS][STAGE_CHUNKS];
#pragma unroll // x stays in registers
        for (int i = 0; i < NORM_TOKENS; i++) {
            int token = first + i < o.tokens ? first + i : o.tokens - 1;
            const float *row = (const float *)o.x + (s64)token * NORM_WIDTH;
            norm_load(x[i], row);
            if (HAS_ORDER && NORM_STAGES) {
                norm_gather(ordered[i], row, c.order);
            }
        }
#pragma unroll // x stays in registers
        for (int i = 0; i < NORM_TOKENS; i++) {
            float sum = norm_squares(x[i]);
            if (threadIdx.x % WARP_LANES == 0 && first + i < o.tokens) {
                st_shared_f32(shared + SQUARES_AT + ((first + i) * WARPS + warp) * 4, sum);
            }
        }
        bar_sync(BAR_COMPUTE, COMPUTE_THREADS);
#pragma unroll // x stays in registers
        for (int i = 0; i < NORM_TOKENS; i++) {
            if (NORM_STAGES && first + i < o.tokens) {
                norm_store(HAS_ORDER ? ordered[i] : x[i], c.w,
                           shared + X_AT + (first + i) * X_STRIDE, norm_factor(shared, first + i));
            }
        }
    }
    for (int k = STAGE_CHUNKS * COMPUTE_THREADS * 4 + (int)threadIdx.x * 4;
         NORM_STAGES && k < K_PADDED; k += COMPUTE_THREADS * 4) {
        for (int token = 0; token < o.tokens; token++) {
            st_shared_v2(shared + X_AT + token * X_STRIDE + k * 2, make_uint2(0, 0));
        }
    }
}

#endif

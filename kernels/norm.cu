// (1) out[t][k] = x[t][k] / sqrt(mean over k of x[t][k]^2 + eps) * w[k]        (RMSNorm)
//
// (2) operand   dtype  shape            notes
//     x         fp32   [tokens, WIDTH]  the residual stream
//     w         fp32   [WIDTH]
//     out       fp16   [tokens, WIDTH]
//     tokens    int64
//
// (3) Layouts: all plain row-major. Thread i of a block holds elements 4 i .. 4 i + 3 of every
//     slice of 1024: slice s, thread i -> k = 1024 s + 4 i, one 16-byte load.
//
// (4) Bytes: tokens * WIDTH * 6 (x once, out once; w stays in L2). 2048 tokens x 4096: 50 MB, 12 us
//     at 4.1 TB/s on an H200; one token: launch and two round trips to L2, about 2 us. Times:
//     docs/performance.md.
//
// (5) WIDTH     elements of a token, multiple of 4, up to 32768
//     EPS_BITS  eps as the bits of a float
//
// (6) One block of 256 threads per token: grid {1, tokens, 1}. The token stays in registers between
//     the sum and the scaling.
//
// (7) Read: load_token, then norm_token, then the entry.
#include "ptx.cuh"
#include "reduce.cuh"

constexpr int THREADS = 256;
constexpr int WARPS   = THREADS / WARP_LANES;
constexpr int SLICE   = THREADS * 4; // elements that the block reads in one go
constexpr int SLICES  = (WIDTH + SLICE - 1) / SLICE;
static_assert(WIDTH % 4 == 0 && WIDTH > 0 && SLICES <= 32, "the token must fit the registers");

__device__ __forceinline__ void load_token(float4 values[SLICES], const float *x) {
#pragma unroll // values stay in registers
    for (int slice = 0; slice < SLICES; slice++) {
        int k = slice * SLICE + (int)threadIdx.x * 4;
        values[slice] = k < WIDTH ? ld_global_v4_f32(x + k) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
}

__device__ __forceinline__ void store_token(const float4 values[SLICES], float scale,
                                            const float *w, act_t *out) {
#pragma unroll // values stay in registers
    for (int slice = 0; slice < SLICES; slice++) {
        int k = slice * SLICE + (int)threadIdx.x * 4;
        if (k < WIDTH) {
            float4 weight = ld_global_v4_f32(w + k), v = values[slice];
            st_global_u32(out + k, act2_from_f32(v.x * scale * weight.x, v.y * scale * weight.y));
            st_global_u32(out + k + 2,
                          act2_from_f32(v.z * scale * weight.z, v.w * scale * weight.w));
        }
    }
}

// One token by the whole block. `scratch`: WARPS floats.
__device__ __forceinline__ void norm_token(const float *x, const float *w, act_t *out,
                                           float *scratch) {
    float4 values[SLICES];
    load_token(values, x);
    float squares = 0.0f;
#pragma unroll // values stay in registers
    for (int slice = 0; slice < SLICES; slice++) {
        float4 v = values[slice];
        squares += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    }
    float mean = block_sum<WARPS>(squares, scratch) * (1.0f / WIDTH);
    store_token(values, 1.0f / sqrtf(mean + __uint_as_float(EPS_BITS)), w, out);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rms_norm(const float *x, const float *w, act_t *out, s64 tokens) {
    __shared__ float scratch[WARPS];
    s64 token = blockIdx.y;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (token < tokens) {
        norm_token(x + token * WIDTH, w, out + token * WIDTH, scratch);
    }
}

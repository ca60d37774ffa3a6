// (1) The TOP_K experts of a token with the largest logits, the lower number first among equals,
//     and their weights: w[j] = exp(logit of expert j) / sum of exp(logit) over all experts, or
//     over the chosen ones with NORMALIZE. Numbers are valid and different even where logits are
//     not numbers.
//
// (2) operand  dtype  shape               notes
//     logits   fp32   [tokens, EXPERTS]
//     out      fp32   [tokens, 2, TOP_K]  numbers as floats by falling logit, then weights
//     tokens   int64
//
// (3) Layouts: plain row-major. Lane l holds experts l, l + 32, ...
//
// (4) Bytes: tokens * EXPERTS * 4; latency decides: TOP_K rounds of two warp reductions. Times:
//     docs/performance.md.
//
// (5) EXPERTS       up to 1024
//     TOP_K         up to EXPERTS
//     NORMALIZE     0 or 1
//     BLOCK_TOKENS  tokens of a block
//
// (6) Grid {1, ceil(tokens / BLOCK_TOKENS), 1}, a warp per token.
//
// (7) Read: order_of, choose, route_token, then the entry.
#include "ptx.cuh"
#include "reduce.cuh"

constexpr int THREADS = BLOCK_TOKENS * WARP_LANES;
constexpr int SHARE   = (EXPERTS + WARP_LANES - 1) / WARP_LANES; // experts of a lane
constexpr u32 TAKEN   = 0;                                       // below every order
static_assert(EXPERTS > 0 && EXPERTS <= 1024 && TOP_K > 0 && TOP_K <= EXPERTS, "experts");

// An integer that is larger for a larger logit; not a number is below them all.
__device__ __forceinline__ u32 order_of(float logit) {
    u32 bits = __float_as_uint(logit + 0.0f); // no -0
    u32 at   = bits >> 31 ? ~bits : bits | 0x80000000u;
    return logit == logit ? max(at, 2u) : 1u;
}

__device__ __forceinline__ float power(float logit, float most) {
    return ex2_approx((logit - most) * 1.4426950408889634f);
}

// The largest of what is left; every lane gets its number, its owner marks it.
__device__ __forceinline__ int choose(u32 order[SHARE]) {
    u32 mine = TAKEN, number = EXPERTS;
#pragma unroll // orders stay in registers
    for (int at = 0; at < SHARE; at++) {
        if (order[at] > mine) {
            mine   = order[at];
            number = (u32)at * WARP_LANES + threadIdx.x % WARP_LANES;
        }
    }
    u32 most = __reduce_max_sync(FULL_MASK, mine);
    number   = __reduce_min_sync(FULL_MASK, mine == most ? number : FULL_MASK);
#pragma unroll // orders stay in registers
    for (int at = 0; at < SHARE; at++) {
        bool found = number == (u32)at * WARP_LANES + threadIdx.x % WARP_LANES;
        order[at]  = found ? TAKEN : order[at];
    }
    return (int)number;
}

__device__ __forceinline__ void route_token(const float *logits, float *out) {
    int lane = (int)threadIdx.x % WARP_LANES;
    float logit[SHARE], most = -3.4e38f, sum = 0.0f, chosen = 0.0f;
    u32 order[SHARE];
#pragma unroll // logits stay in registers
    for (int at = 0; at < SHARE; at++) {
        int expert = at * WARP_LANES + lane;
        bool real  = expert < EXPERTS;
        logit[at]  = real ? ld_global_f32(logits + expert) : 0.0f;
        order[at]  = real ? order_of(logit[at]) : TAKEN;
        most       = real ? fmaxf(most, logit[at]) : most;
    }
    most = warp_max(most);
#pragma unroll // logits stay in registers
    for (int at = 0; at < SHARE; at++) {
        sum += at * WARP_LANES + lane < EXPERTS ? power(logit[at], most) : 0.0f;
    }
    sum = warp_sum(sum);
    for (int first = 0; first < TOP_K; first += WARP_LANES) {
        // lane j keeps number first + j
        int count = min(TOP_K - first, WARP_LANES), kept = 0;
        for (int j = 0; j < count; j++) {
            int number = choose(order);
            kept       = j == lane ? number : kept;
        }
        if (lane < count) {
            out[first + lane]         = (float)kept;
            out[TOP_K + first + lane] = power(ld_global_f32(logits + kept), most);
            chosen += out[TOP_K + first + lane];
        }
    }
    float total = NORMALIZE ? warp_sum(chosen) : sum;
    for (int j = lane; j < TOP_K; j += WARP_LANES) {
        out[TOP_K + j] = out[TOP_K + j] / total; // this lane wrote it
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    route(const float *logits, float *out, s64 tokens) {
    s64 token = (s64)blockIdx.y * BLOCK_TOKENS + threadIdx.x / WARP_LANES;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (token < tokens) {
        route_token(logits + token * EXPERTS, out + token * 2 * TOP_K);
    }
}

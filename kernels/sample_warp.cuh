// What: maxima and sums of 64-bit integers over the lanes of a warp.
// Idea: integers are exact, so any order gives the same. (reduce.cuh has those of floats, and scans.)
#ifndef SAMPLE_WARP_CUH
#define SAMPLE_WARP_CUH

__device__ __forceinline__ u64 warp_max_u64(u64 x) {
#pragma unroll // shuffle distances are immediates
    for (int lanes = WARP_LANES / 2; lanes > 0; lanes /= 2) {
        u64 other = __shfl_xor_sync(FULL_MASK, x, lanes);
        x         = other > x ? other : x;
    }
    return x;
}
__device__ __forceinline__ u64 warp_sum_u64(u64 x) {
#pragma unroll // shuffle distances are immediates
    for (int lanes = WARP_LANES / 2; lanes > 0; lanes /= 2) {
        x += __shfl_xor_sync(FULL_MASK, x, lanes);
    }
    return x;
}

#endif

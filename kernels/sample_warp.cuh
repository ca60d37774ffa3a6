// What: maxima and sums of 64-bit integers over the lanes of a warp.
// Idea: integers are exact, so any order gives the same. (reduce.cuh is for floats.)
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
// Sum over the lanes up to and with this one.
__device__ __forceinline__ u64 warp_scan_u64(u64 x) {
    int lane = (int)threadIdx.x % WARP_LANES;
#pragma unroll // shuffle distances are immediates
    for (int lanes = 1; lanes < WARP_LANES; lanes *= 2) {
        u64 other = __shfl_up_sync(FULL_MASK, x, lanes);
        x += lane >= lanes ? other : 0;
    }
    return x;
}

#endif

// What: sums and maxima over the lanes of a warp and the warps of a block.
// Idea: always the same tree, so that the same input gives the same bits.
// Non-goals: reductions between blocks; kernels that need one write partial results and sum them in
//     a fixed order.
#ifndef REDUCE_CUH
#define REDUCE_CUH

// Every lane gets the sum over the warp.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll // shuffle distances are immediates
    for (int lanes = WARP_LANES / 2; lanes > 0; lanes /= 2) {
        x += shfl_xor_f32(x, lanes);
    }
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll // shuffle distances are immediates
    for (int lanes = WARP_LANES / 2; lanes > 0; lanes /= 2) {
        x = fmaxf(x, shfl_xor_f32(x, lanes));
    }
    return x;
}

// The sum of the lanes up to and with this one; of integers, for which any tree gives the same.
template <class T> __device__ __forceinline__ T warp_scan(T x) {
    int lane = (int)threadIdx.x % WARP_LANES;
#pragma unroll // shuffle distances are immediates
    for (int lanes = 1; lanes < WARP_LANES; lanes *= 2) {
        T below = __shfl_up_sync(FULL_MASK, x, lanes);
        x += lane >= lanes ? below : 0;
    }
    return x;
}

// Sum over the BLOCK_WARPS warps of the block, for all threads. `scratch`: as many floats in shared
// memory that nobody else uses; may be reused after the next __syncthreads().
template <int BLOCK_WARPS> __device__ __forceinline__ float block_sum(float x, float *scratch) {
    x = warp_sum(x);
    if (threadIdx.x % WARP_LANES == 0) {
        scratch[threadIdx.x / WARP_LANES] = x;
    }
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < BLOCK_WARPS; warp++) {
        sum += scratch[warp];
    }
    return sum;
}

#endif

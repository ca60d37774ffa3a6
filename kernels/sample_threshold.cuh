// What: the lowest key that top-k and top-p keep, and whether the lists are enough to find it.
// Idea: the higher a key, the less lies above it: tokens (top-k) or weight (top-p). So the key is searched
//     between 0 and that of the maximum, with PIVOTS keys in each pass over the candidates.
// Parameters: VOCAB; the constants of sample.cu and sample_source.cuh, behind which it is included.
#ifndef SAMPLE_THRESHOLD_CUH
#define SAMPLE_THRESHOLD_CUH

// For all threads: sums over the block of PIVOTS values each.
__device__ __forceinline__ void block_sums(u64 values[PIVOTS], DrawShared *shared) {
    int lane = (int)threadIdx.x % WARP_LANES, warp = (int)threadIdx.x / WARP_LANES;
    __syncthreads(); // the last use of sums is over
#pragma unroll // values stay in registers
    for (int pivot = 0; pivot < PIVOTS; pivot++) {
        u64 sum = warp_sum_u64(values[pivot]);
        if (lane == 0) {
            shared->sums[pivot][warp] = sum;
        }
    }
    __syncthreads();
#pragma unroll // values stay in registers
    for (int pivot = 0; pivot < PIVOTS; pivot++) {
        values[pivot] = warp_sum_u64(lane < DRAW_WARPS ? shared->sums[pivot][lane] : 0);
    }
}

// The lowest key v for which the measure of the keys above v is less than `limit`; the measure of a
// key is 1 or its W. Only keys of `least` or more count. Searched with PIVOTS pivots a pass.
__device__ __forceinline__ u32 lowest_kept(const Source &source, const Row &row, bool by_weight,
                                           u32 least, u64 limit, DrawShared *shared) {
    u32 low = 0, high = key_of(row.max);
    while (low < high) {
        u32 step = (high - low) / (PIVOTS + 1) + 1;
        u64 above[PIVOTS];
#pragma unroll // above stays in registers
        for (int pivot = 0; pivot < PIVOTS; pivot++) {
            above[pivot] = 0;
        }
#pragma unroll 4 // loads in flight
        for (int at = (int)threadIdx.x; at < source.count; at += DRAW_THREADS) {
            u32 key     = source.key(at);
            u64 measure = by_weight ? weight(row, key_value(key)) : 1;
            measure     = key >= least ? measure : 0;
#pragma unroll // above stays in registers
            for (int pivot = 0; pivot < PIVOTS; pivot++) {
                above[pivot] += key > (u64)low + (u64)step * (u32)pivot ? measure : 0;
            }
        }
        block_sums(above, shared);
        // above falls from pivot to pivot: the first one below the limit is the new upper end.
        u32 from = low;
        bool found = false;
#pragma unroll // above stays in registers
        for (int pivot = 0; pivot < PIVOTS; pivot++) {
            u64 at = (u64)from + (u64)step * (u32)pivot;
            if (!found && at < high) {
                if (above[pivot] < limit) {
                    high  = (u32)at;
                    found = true;
                } else {
                    low = (u32)at + 1;
                }
            }
        }
    }
    return high;
}

// Sum of W over the keys of `least` or more.
__device__ __forceinline__ u64 mass_kept(const Source &source, const Row &row, u32 least,
                                         DrawShared *shared) {
    u64 sums[PIVOTS] = {0};
#pragma unroll 4 // loads in flight
    for (int at = (int)threadIdx.x; at < source.count; at += DRAW_THREADS) {
        u32 key = source.key(at);
        sums[0] += key >= least ? weight(row, key_value(key)) : 0;
    }
    block_sums(sums, shared);
    return sums[0];
}

__device__ __forceinline__ u64 top_p_limit(const Row &row, u64 mass) {
    u64 share = (u64)(fmaxf(row.p.top_p, 0.0f) * 4294967296.0f);
    u64 limit = __umul64hi(mass, share << 32);
    return limit > 1 ? limit : 1;
}

// The lowest key that top-k and top-p keep. `mass`: sum of W over the whole row.
__device__ __forceinline__ u32 threshold(const Source &source, const Row &row, u64 mass,
                                         DrawShared *shared) {
    u32 least = 0;
    if (row.p.top_k > 0 && row.p.top_k < VOCAB) {
        least = lowest_kept(source, row, false, 0, (u64)row.p.top_k, shared);
        mass  = mass_kept(source, row, least, shared);
    }
    if (row.p.top_p < 1.0f) {
        least = max(least, lowest_kept(source, row, true, least, top_p_limit(row, mass), shared));
    }
    return least;
}

// Whether the kept set lies inside of the lists, which cover `distance` and hold `count` tokens.
__device__ __forceinline__ bool list_is_enough(const Row &row, const Source &source,
                                               float distance, u64 mass, DrawShared *shared) {
    if (distance * row.scale >= 40.0f) {
        return true; // W = 0 outside
    }
    if (row.p.top_k > 0 && row.p.top_k < VOCAB) {
        return source.count >= row.p.top_k;
    }
    return mass_kept(source, row, 0, shared) >= top_p_limit(row, mass);
}

#endif

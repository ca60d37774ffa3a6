// What: the row's random number, and the token that it falls on.
// Idea: sums of weights in the order of ids: of each warp first, then within the warp where the sum passes
//     the random number. Without thresholds the chunks' sums name the chunk, and only that one is read.
// Source: philox. Parameters: VOCAB; the constants of sample.cu, sample_source.cuh and sample_chunks.cuh,
//     behind which it is included.
#ifndef SAMPLE_PICK_CUH
#define SAMPLE_PICK_CUH

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), first word.
__device__ __forceinline__ u32 philox(const SampleParams &p) {
    u32 c0 = (u32)p.step, c1 = 0, c2 = 0, c3 = 0, k0 = p.seed_low, k1 = p.seed_high;
    for (int round = 0; round < 10; round++) {
        u32 high0 = __umulhi(0xd2511f53u, c0), low0 = 0xd2511f53u * c0;
        u32 high1 = __umulhi(0xcd9e8d57u, c2), low1 = 0xcd9e8d57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return c0;
}

__device__ __forceinline__ u64 kept_weight(const Row &row, u32 key, u32 least) {
    u64 w = key >= least ? weight(row, key_value(key)) : 0;
    return w >= row.min_weight ? w : 0;
}

// The token at which the running sum of kept W passes r; r < 0 as a u64 (all ones): r is drawn
// here. Warp w takes a contiguous part of the source.
__device__ __forceinline__ u32 draw(const Source &source, const Row &row, u32 least, u64 r,
                                    DrawShared *shared) {
    int lane = (int)threadIdx.x % WARP_LANES, warp = (int)threadIdx.x / WARP_LANES;
    int part  = (source.count + DRAW_THREADS - 1) / DRAW_THREADS * WARP_LANES;
    int first = warp * part, last = min(first + part, source.count);
    u64 mass = 0;
#pragma unroll 4 // loads in flight
    for (int at = first + lane; at < last; at += WARP_LANES) {
        mass += kept_weight(row, source.key(at), least);
    }
    mass = warp_sum_u64(mass);
    __syncthreads(); // the last use of sums is over
    if (lane == 0) {
        shared->sums[0][warp] = mass;
    }
    __syncthreads();
    u64 own  = lane < DRAW_WARPS ? shared->sums[0][lane] : 0;
    u64 upto = warp_scan(own); // through warp `lane`
    if (r == ~(u64)0) {
        r = __umul64hi(__shfl_sync(FULL_MASK, upto, WARP_LANES - 1), (u64)philox(row.p) << 32);
    }
    u32 passed = __ballot_sync(FULL_MASK, upto > r);
    int owner  = passed ? __ffs((int)passed) - 1 : DRAW_WARPS - 1;
    u64 before = __shfl_sync(FULL_MASK, upto - own, owner);
    if (warp == owner) {
        u64 rest = r - before;
        for (int from = first; from < last; from += WARP_LANES) {
            int at    = from + lane;
            u64 w     = at < last ? kept_weight(row, source.key(at), least) : 0;
            u64 sum   = warp_scan(w);
            u32 lanes = __ballot_sync(FULL_MASK, sum > rest);
            if (lanes) {
                if (lane == __ffs((int)lanes) - 1) {
                    shared->chosen = source.id(at);
                }
                break;
            }
            rest -= __shfl_sync(FULL_MASK, sum, WARP_LANES - 1);
        }
    }
    __syncthreads();
    return shared->chosen;
}

// Without thresholds: the chunk by the chunks' sums, then the token in it.
__device__ __forceinline__ u32 draw_by_chunks(const Row &row, const Chunk *chunks,
                                              DrawShared *shared) {
    int lane   = (int)threadIdx.x % WARP_LANES;
    u64 low    = warp_scan(chunk_mass(chunks, lane));
    u64 high   = warp_scan(chunk_mass(chunks, lane + WARP_LANES));
    u64 middle = __shfl_sync(FULL_MASK, low, WARP_LANES - 1);
    u64 total  = middle + __shfl_sync(FULL_MASK, high, WARP_LANES - 1);
    u64 r      = __umul64hi(total, (u64)philox(row.p) << 32);
    bool upper = r >= middle;
    u64 upto   = upper ? middle + high : low; // sum through the lane's chunk
    int owner  = __ffs((int)__ballot_sync(FULL_MASK, upto > r)) - 1;
    int chunk  = owner + (upper ? WARP_LANES : 0);
    r -= __shfl_sync(FULL_MASK, upto, owner) - chunks[chunk].mass;
    int first = chunk * CHUNK_TOKENS;
    Source source = {&row, nullptr, nullptr, first, min(CHUNK_TOKENS, VOCAB - first)};
    return draw(source, row, 0, r, shared);
}

#endif

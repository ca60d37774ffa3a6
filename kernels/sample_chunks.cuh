// What: the Chunks of a row: what sample_max and sample_mass write into one, and what all of them say.
// Idea: a warp has neighbouring tokens of the chunk, lane by lane, and keeps them in registers. The list is
//     in the order of ids: where a warp's tokens begin in it is how many the warps before it have.
// Parameters: VOCAB; the constants of sample.cu, sample_row.cuh and sample_warp.cuh, behind which it is
//     included.
#ifndef SAMPLE_CHUNKS_CUH
#define SAMPLE_CHUNKS_CUH

// ---- sample_max: the best token of each chunk ---------------------------------------------------

__device__ __forceinline__ int chunk_token(int chunk, int at) {
    return chunk * CHUNK_TOKENS + (int)threadIdx.x / WARP_LANES * (CHUNK_LANE * WARP_LANES) +
           at * WARP_LANES + (int)threadIdx.x % WARP_LANES;
}

__device__ __forceinline__ void max_chunk(const Row &row, int chunk, Chunk *out, u64 *shared) {
    u64 best = 0;
#pragma unroll // all loads at once
    for (int at = 0; at < CHUNK_LANE; at++) {
        int id = chunk_token(chunk, at);
        if (id < VOCAB) {
            u64 found = (u64)key_of(score(row, id)) << 32 | (u32)~id;
            best      = found > best ? found : best;
        }
    }
    best = warp_max_u64(best);
    if (threadIdx.x % WARP_LANES == 0) {
        shared[threadIdx.x / WARP_LANES] = best;
    }
    __syncthreads();
    if (threadIdx.x < WARP_LANES) {
        best = warp_max_u64(threadIdx.x < CHUNK_WARPS ? shared[threadIdx.x] : 0);
        if (threadIdx.x == 0) {
            out->best = best;
        }
    }
}

// Lane l of every warp looks at chunks l and l + 32.
__device__ __forceinline__ u64 row_best(const Chunk *chunks) {
    int lane = (int)threadIdx.x % WARP_LANES;
    u64 a    = lane < CHUNKS ? chunks[lane].best : 0;
    u64 b    = lane + WARP_LANES < CHUNKS ? chunks[lane + WARP_LANES].best : 0;
    return warp_max_u64(a > b ? a : b);
}
__device__ __forceinline__ u64 chunk_mass(const Chunk *chunks, int chunk) {
    return chunk < CHUNKS ? chunks[chunk].mass : 0;
}
// Tokens within window `index`, of the chunks before `end`.
__device__ __forceinline__ u32 window_tokens(const Chunk *chunks, int index, int end) {
    int lane  = (int)threadIdx.x % WARP_LANES;
    u32 count = lane < end ? chunks[lane].counts[index] : 0;
    if (CHUNKS > WARP_LANES) {
        count += lane + WARP_LANES < end ? chunks[lane + WARP_LANES].counts[index] : 0;
    }
    return __reduce_add_sync(FULL_MASK, count);
}

// ---- sample_mass: sum of W, and the list of large tokens, of each chunk -------------------------

struct MassShared {
    u64 mass[CHUNK_WARPS];
    u32 counts[WINDOWS][CHUNK_WARPS];
};

// Counts per window and the sum of W of this warp's tokens: all of them if a threshold follows,
// else only those that min-p keeps, since then the draw uses this sum as it is.
__device__ __forceinline__ void mass_warp(const Row &row, int chunk, const float s[CHUNK_LANE],
                                          MassShared *shared) {
    u64 mass            = 0;
    u32 counts[WINDOWS] = {0, 0, 0};
#pragma unroll // s stays in registers
    for (int at = 0; at < CHUNK_LANE; at++) {
        if (chunk_token(chunk, at) < VOCAB) {
            u64 w = weight(row, s[at]);
            mass += row.thresholds || w >= row.min_weight ? w : 0;
            float distance = row.max - s[at];
#pragma unroll // counts stay in registers
            for (int index = 0; index < WINDOWS; index++) {
                counts[index] += distance <= window(index);
            }
        }
    }
    int warp = (int)threadIdx.x / WARP_LANES;
    mass     = warp_sum_u64(mass);
#pragma unroll // counts stay in registers
    for (int index = 0; index < WINDOWS; index++) {
        counts[index] = __reduce_add_sync(FULL_MASK, counts[index]);
        shared->counts[index][warp] = counts[index];
    }
    shared->mass[warp] = mass;
}

// Writes this warp's tokens within the window to the list, in the order of their ids.
__device__ __forceinline__ void list_warp(const Row &row, int chunk, const float s[CHUNK_LANE],
                                          float distance, u32 first, Chunk *out) {
    u32 before = (1u << threadIdx.x % WARP_LANES) - 1;
#pragma unroll // s stays in registers
    for (int at = 0; at < CHUNK_LANE; at++) {
        int id    = chunk_token(chunk, at);
        bool take = id < VOCAB && row.max - s[at] <= distance;
        u32 lanes = __ballot_sync(FULL_MASK, take);
        if (take) {
            u32 to        = first + (u32)__popc(lanes & before);
            out->keys[to] = key_of(s[at]);
            out->ids[to]  = (u32)id;
        }
        first += (u32)__popc(lanes);
    }
}

__device__ __forceinline__ void mass_chunk(Row &row, int chunk, const Chunk *chunks, Chunk *out,
                                           MassShared *shared) {
    row.max = key_value((u32)(row_best(chunks) >> 32));
    float s[CHUNK_LANE];
#pragma unroll // all loads at once
    for (int at = 0; at < CHUNK_LANE; at++) {
        int id = chunk_token(chunk, at);
        s[at]  = id < VOCAB ? score(row, id) : never();
    }
    mass_warp(row, chunk, s, shared);
    __syncthreads();
    int stored = 0, warp = (int)threadIdx.x / WARP_LANES;
    u32 first = 0;
    for (int index = 0; index < WINDOWS; index++) {
        u32 total = 0, before = 0;
        for (int other = 0; other < CHUNK_WARPS; other++) {
            before += other < warp ? shared->counts[index][other] : 0;
            total += shared->counts[index][other];
        }
        if (total <= CHUNK_LIST) {
            stored = index + 1;
            first  = before;
        }
        if (threadIdx.x == 0) {
            out->counts[index] = total;
        }
    }
    if (stored > 0) {
        list_warp(row, chunk, s, window(stored - 1), first, out);
    }
    if (threadIdx.x == 0) {
        u64 mass = 0;
        for (int other = 0; other < CHUNK_WARPS; other++) {
            mass += shared->mass[other];
        }
        out->mass   = mass;
        out->stored = (u32)stored;
    }
}

#endif

// What: the shared memory of sample_draw, and where it finds its candidates.
// Idea: the lists of all chunks, gathered in shared memory; or the row itself, which is read again for each
//     pass over the candidates.
// Parameters: VOCAB; the constants of sample.cu, sample_row.cuh and sample_chunks.cuh, behind which it is
//     included.
#ifndef SAMPLE_SOURCE_CUH
#define SAMPLE_SOURCE_CUH

struct DrawShared {
    u64 sums[PIVOTS][DRAW_WARPS];
    float floats[DRAW_WARPS];
    u32 chosen;
    u32 keys[LIST_TOKENS], ids[LIST_TOKENS];
};

// Where candidates come from, in the order of their ids: the lists in shared memory, or, where
// `keys` is NULL, the row itself from token `first` on.
struct Source {
    const Row *row;
    const u32 *keys, *ids;
    int first, count;
    __device__ __forceinline__ u32 key(int at) const {
        return keys ? keys[at] : key_of(score(*row, first + at));
    }
    __device__ __forceinline__ u32 id(int at) const {
        return keys ? ids[at] : (u32)(first + at);
    }
};

// Copies the lists into shared memory, cut to the largest window that all of them cover and that
// fits. Returns its index, -1 if there is none, and the number of tokens.
__device__ __forceinline__ int lists_load(const Row &row, const Chunk *chunks, DrawShared *shared,
                                          int *count) {
    int lane   = (int)threadIdx.x % WARP_LANES;
    u32 stored = min(lane < CHUNKS ? chunks[lane].stored : WINDOWS,
                     lane + WARP_LANES < CHUNKS ? chunks[lane + WARP_LANES].stored : WINDOWS);
    stored     = __reduce_min_sync(FULL_MASK, stored);
    int chosen = -1;
    for (int index = 0; index < (int)stored; index++) {
        u32 total = window_tokens(chunks, index, CHUNKS);
        if (total <= LIST_TOKENS) {
            chosen = index;
            *count = (int)total;
        }
    }
    if (chosen < 0) {
        return -1;
    }
    float distance = window(chosen);
    // A warp per chunk keeps the order of ids.
    for (int chunk = (int)threadIdx.x / WARP_LANES; chunk < CHUNKS; chunk += DRAW_WARPS) {
        const Chunk *c = chunks + chunk;
        u32 to = window_tokens(chunks, chosen, chunk), have = c->counts[c->stored - 1];
        for (u32 from = 0; from < have; from += WARP_LANES) {
            u32 at    = from + (u32)lane;
            u32 key   = at < have ? c->keys[at] : 0;
            bool take = at < have && row.max - key_value(key) <= distance;
            u32 lanes = __ballot_sync(FULL_MASK, take);
            if (take) {
                u32 slot           = to + (u32)__popc(lanes & ((1u << lane) - 1));
                shared->keys[slot] = key;
                shared->ids[slot]  = c->ids[at];
            }
            to += (u32)__popc(lanes);
        }
    }
    __syncthreads();
    return chosen;
}

#endif

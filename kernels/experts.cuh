// What: which choices of experts a block of experts_decode (linear_decode.cu) makes.
// Idea: a choice is one of the TOP_K experts of a token: number token * TOP_K + j. Block (., c)
//     makes the products of choice c and of the following choices of the same expert, if c is the
//     first, the 9th, ... of its expert (TOKENS_MAX 8); else it has nothing to do. Every block
//     finds that out by itself, by ballots over the routes: there are few of them.
// Parameters: TOP_K, TOKENS_MAX.
#ifndef EXPERTS_CUH
#define EXPERTS_CUH

__device__ __forceinline__ int choice_expert(const float *routes, int choice) {
    return (int)ld_global_f32(routes + (s64)(choice / TOP_K) * 2 * TOP_K + choice % TOP_K);
}

// Writes the choices of this block to shared memory; returns how many there are.
__device__ __forceinline__ int choices_find(const float *routes, int choices, int mine, int expert,
                                            u32 pairs) {
    int lane = threadIdx.x % WARP_LANES, found = 0, rank = 0;
    for (int first = 0; first < choices; first += WARP_LANES) {
        int choice = first + lane;
        bool same = choice < choices && choice_expert(routes, choice) == expert;
        u32 all = __ballot_sync(FULL_MASK, same);
        if (mine >= first && mine < first + WARP_LANES) {
            rank = found + __popc(all & ((1u << mine % WARP_LANES) - 1));
        }
        int place = found + __popc(all & ((1u << lane) - 1)) - rank;
        if (threadIdx.x < WARP_LANES && same && choice >= mine && place < TOKENS_MAX) {
            st_shared_u32(pairs + place * 4, (u32)choice);
        }
        found += __popc(all);
    }
    int left = found - rank;
    return rank % TOKENS_MAX != 0 ? 0 : left < TOKENS_MAX ? left : TOKENS_MAX;
}

#endif

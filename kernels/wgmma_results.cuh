// What: from complete sums of linear_wgmma to results in memory.
// Idea: where they are STAGED, through the stage that the producer left without data behind the last step
//     of a segment, the hole; it is released as any other stage. Else from the fragments.
// Parameters: EPILOGUE; the constants of linear_wgmma.cu, staged.cuh and wgmma_ring.cuh, behind which it
//     is included.
#ifndef WGMMA_RESULTS_CUH
#define WGMMA_RESULTS_CUH

// The stage without data behind the last step, here until it is released.
__device__ __forceinline__ u32 hole_take(Ring ring, u32 number) {
    Place at = place_of(ring, number);
    mbarrier_wait_parity(at.stage + FULL_AT, at.parity);
    return at.stage;
}

// Nobody reads it any more. Whose stage it is releases it, as any other step.
__device__ __forceinline__ void hole_release(Ring ring, u32 number, int group) {
    consumers_sync();
    if (group == (int)(number % K_GROUPS)) {
        stage_release(ring, place_of(ring, number).stage, threadIdx.x % WARP_LANES);
    }
}

// STAGED_TOKENS at a time.
__device__ __forceinline__ void results_stage(const Operands &o, WorkBlock b, Ring ring,
                                              const float sums[BLOCK_TOKENS / 8][4], u32 number,
                                              int k_group, int warp) {
    constexpr int THREADS_THERE = CONSUMERS * GROUP_THREADS;
    int thread  = (int)threadIdx.x - GROUP_THREADS;
    u32 results = hole_take(ring, number), places = results + STAGED_BYTES;
#pragma unroll // sums stay in registers
    for (int first = 0; first < BLOCK_TOKENS; first += STAGED_TOKENS) {
        if (first > 0) {
            consumers_sync(); // the results before are read
        }
#if EPILOGUE == EPILOGUE_ROPE_KV
        places_store(o, b, STAGED_TOKENS, places, thread, THREADS_THERE);
        consumers_sync();
#endif
        if (k_group == 0) {
            staged_write(o, b, results, places, sums + first / 8, b.row_tile + warp, warp);
            if (first + STAGED_TOKENS == BLOCK_TOKENS) {
                fence_proxy_async(); // the next copies into the stage are those of another proxy
            }
        }
        consumers_sync();
        staged_store(o, b, results, places, thread, THREADS_THERE);
        b.token += STAGED_TOKENS;
    }
}

// From the fragments.
__device__ __forceinline__ void results_store(const Operands &o, WorkBlock b, Ring ring,
                                              const float sums[1][BLOCK_TOKENS / 8][4], int k_group,
                                              int warp) {
    u32 places = ring.shared + RING_BYTES;
#if EPILOGUE == EPILOGUE_ROPE_KV
    consumers_sync(); // nobody reads those of the work before
    places_store(o, b, BLOCK_TOKENS, places, (int)threadIdx.x - GROUP_THREADS,
                 CONSUMERS * GROUP_THREADS);
    consumers_sync();
#endif
    if (k_group == 0) {
        sums_store<1, BLOCK_TOKENS / 8>(o, b, places, sums, b.row_tile + warp, 0);
    }
}

#endif

// What: the producer of linear_wgmma: weights and tokens of each step on their way into the ring.
// Idea: a copier is COPY_WARPS warps, which take every COPIERS-th step: its weights by cp.async, its tokens
//     as a box of a tensor map, for which one thread asks. They are up to STAGES steps ahead of the
//     consumers, also over the end of one work and into the next.
// Source: PTX ISA, cp.async.mbarrier.arrive, cp.async.bulk.tensor. Parameters: STAGES, SPREAD, COPY_WARPS;
//     the constants of linear_wgmma.cu, gemm.cuh and wgmma_ring.cuh, behind which it is included.
#ifndef WGMMA_PRODUCE_CUH
#define WGMMA_PRODUCE_CUH

// x of a step: this block's part of it, to all blocks that share it.
__device__ __forceinline__ void x_copy(const TensorMap *x, WorkBlock b, Ring ring, u32 stage,
                                       int step) {
    constexpr int PART_TOKENS = BLOCK_TOKENS / SPREAD;
    u32 full = stage + FULL_AT;
    mbarrier_arrive_expect_tx(full, BLOCK_TOKENS * X_ROW_BYTES);
    if constexpr (SPREAD == 1) {
        cp_async_bulk_tensor(stage, x, step * STEP_K, b.token, full);
    } else {
        constexpr u32 ALL = (1u << SPREAD) - 1;
        cp_async_bulk_tensor_spread(stage + ring.member * PART_TOKENS * X_ROW_BYTES, x,
                                    step * STEP_K, b.token + ring.member * PART_TOKENS, full,
                                    (u16)(ALL << ring.part * SPREAD));
    }
}

// Copies the weights of the steps of one work that are this copier's turn, and x. The first STAGES
// weights of a kernel are under way before it waits for x.
__device__ __forceinline__ void produce(const Operands &o, const TensorMap *x, WorkBlock b, Ring ring,
                                        Segment share, u32 &done, u32 copier, u32 thread) {
    WeightFeed feed = weights_open(b, thread);
    u32 steps = share.last - share.first, ahead = 0;
    if (done == 0) {
        ahead = steps < STAGES ? steps : STAGES;
        for (u32 step = copier; step < ahead; step += COPIERS) {
            weights_copy(o, feed, ring.shared + step * STAGE_BYTES + WEIGHTS_AT,
                         share.first + step, thread);
        }
        griddepcontrol_wait(); // x is the work of the kernel before
    }
    // the first step behind `done` whose number is this copier's
    u32 step = (copier + COPIERS - done % COPIERS) % COPIERS;
    Place at = place_of(ring, done + step);
#pragma unroll 1 // a step is long enough
    for (; step < steps + HOLE; step += COPIERS) {
        if (step >= ahead) {
            mbarrier_wait_parity(at.stage + EMPTY_AT, at.parity ^ 1);
        }
        if (step >= ahead && step < steps) {
            weights_copy(o, feed, at.stage + WEIGHTS_AT, share.first + step, thread);
        }
        if (thread == 0 && step < steps) {
            x_copy(x, b, ring, at.stage, share.first + step);
        } else if (thread == 0) {
            mbarrier_arrive(at.stage + FULL_AT); // in its place
        }
        __syncwarp(); // the next barrier of the cluster is one of whole warps
        cp_async_arrive(at.stage + FULL_AT);
        place_advance<COPIERS>(at, ring);
    }
    done += steps + HOLE;
}

#endif

// What: the ring of linear_wgmma: stages of shared memory, through which all steps of a block go.
// Idea: the number of a step says its stage, and there the phase of two barriers: "full" counts the threads
//     that copy and the bytes of x, "empty" the warps that have read, in all blocks that share x.
// Source: PTX ISA, mbarrier. Parameters: STAGES, SPREAD; the constants of linear_wgmma.cu, behind which it
//     is included.
#ifndef WGMMA_RING_CUH
#define WGMMA_RING_CUH

struct Ring {
    u32 shared;       // aligned to 1024
    int part, member; // of K, of the blocks that share x
};

// Steps are counted through all work of a block; each has its stage, and there the phase of the
// barriers. A stage is always consumed by the same k group, which is why the groups change parts from
// segment to segment: one that asked for the next round of a stage that another has yet to get would
// find the barrier open, for it knows even from odd rounds only.
struct Place {
    u32 stage, parity;
};
__device__ __forceinline__ Place place_of(Ring ring, u32 step) {
    return {ring.shared + step % STAGES * STAGE_BYTES, step / STAGES & 1};
}
// The place of the step COUNT steps later; what is added and compared in each step instead of the
// division.
template <int COUNT> __device__ __forceinline__ void place_advance(Place &p, Ring ring) {
    p.stage += COUNT % STAGES * STAGE_BYTES;
    p.parity ^= COUNT / STAGES & 1;
    if (p.stage >= ring.shared + RING_BYTES) {
        p.stage -= RING_BYTES;
        p.parity ^= 1;
    }
}

__device__ __forceinline__ void stage_release(Ring ring, u32 stage, int lane) {
    u32 empty = stage + EMPTY_AT;
    if constexpr (SPREAD == 1) {
        if (lane == 0) {
            mbarrier_arrive(empty);
        }
    } else if (lane < SPREAD) {
        mbarrier_arrive_cluster(cluster_address(empty, ring.part * SPREAD + lane));
    }
}

extern __shared__ __align__(128) u8 block_shared[];

__device__ __forceinline__ Ring ring_open() {
    int rank  = (int)blockIdx.x % CLUSTER_BLOCKS;
    u32 shared = (shared_address(block_shared) + STAGE_ALIGN - 1) & ~(u32)(STAGE_ALIGN - 1);
    opaque(shared);
    Ring ring = {shared, rank / SPREAD, rank % SPREAD};
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            u32 at = ring.shared + stage * STAGE_BYTES;
            mbarrier_init(at + FULL_AT, COPY_THREADS + 1); // who asks for x arrives for it too
            mbarrier_init(at + EMPTY_AT, SPREAD * ROW_GROUPS * 4);
        }
        fence_mbarrier_init();
    }
    if constexpr (SPREAD > 1) {
        cluster_sync(); // others use these barriers
    } else {
        __syncthreads();
    }
    return ring;
}

#endif

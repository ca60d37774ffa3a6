// What: how linear_wgmma adds up: the k groups of a block, the blocks of a cluster, and with EVEN the blocks
//     that have steps of the same tile.
// Idea: always in their order, in the registers of the first. The others leave their sums in its shared
//     memory, between two barriers that all pass; with EVEN in global memory, behind them a count for
//     which the first waits.
// Parameters: K_GROUPS, CLUSTER, EVEN; the constants of linear_wgmma.cu, turns.cuh and wgmma_ring.cuh,
//     behind which it is included.
#ifndef WGMMA_PARTS_CUH
#define WGMMA_PARTS_CUH

// Sums of other consumers or blocks at `part`, as [sum][thread].
__device__ __forceinline__ u32 part_at(Ring ring, int part, int row_group) {
    return ring.shared + PARTS_AT + part * PART_BYTES + row_group * GROUP_THREADS * SUMS * 4 +
           threadIdx.x % GROUP_THREADS * 4;
}
__device__ __forceinline__ void part_add(float *sums, u32 part) {
#pragma unroll // sums stay in registers
    for (int i = 0; i < SUMS; i++) {
        sums[i] += ld_shared_f32(part + i * GROUP_THREADS * 4);
    }
}

// The sums of all K_GROUPS, in those of the first.
__device__ __forceinline__ void groups_add(float *sums, Ring ring, int row_group, int k_group) {
    if constexpr (K_GROUPS > 1) {
        consumers_sync(); // nobody reads the sums of the work before
        if (k_group > 0) {
            u32 part = part_at(ring, k_group - 1, row_group);
#pragma unroll // sums stay in registers
            for (int i = 0; i < SUMS; i++) {
                st_shared_f32(part + i * GROUP_THREADS * 4, sums[i]);
            }
        }
        consumers_sync();
        for (int group = 1; group < K_GROUPS && k_group == 0; group++) {
            part_add(sums, part_at(ring, group - 1, row_group));
        }
    }
}

// The sums of all blocks that have a part of K, in those of the first.
__device__ __forceinline__ void cluster_add(float *sums, Ring ring, int row_group, int k_group) {
    if constexpr (CLUSTER > 1) {
        cluster_sync(); // nobody reads the sums before
        if (ring.part > 0 && k_group == 0) {
            u32 part = cluster_address(part_at(ring, ring.part - 1, row_group), ring.member);
#pragma unroll // sums stay in registers
            for (int i = 0; i < SUMS; i++) {
                st_cluster_f32(part + i * GROUP_THREADS * 4, sums[i]);
            }
        }
        cluster_sync();
        for (int other = 1; other < CLUSTER && ring.part == 0 && k_group == 0; other++) {
            part_add(sums, part_at(ring, other - 1, row_group));
        }
    }
}

// ---- EVEN: tiles of several blocks --------------------------------------------------------------

#if EVEN
constexpr int BLOCK_SUMS = ROW_GROUPS * GROUP_THREADS * SUMS;

struct Parts {
    float *sums; // [blocks][BLOCK_SUMS]
    u32 *counts; // [blocks]
};

// A thread's sums of block `block`, fours of them as [four][thread].
__device__ __forceinline__ float *part_sums(Parts p, int block, int row_group) {
    u32 thread = row_group * GROUP_THREADS + threadIdx.x % GROUP_THREADS;
    opaque(thread); // else the address stays in registers through all products
    return p.sums + (s64)block * BLOCK_SUMS + thread * 4;
}

__device__ __forceinline__ void part_leave(const float *sums, Parts p, int block, int row_group,
                                           int k_group) {
    float *to = part_sums(p, block, row_group);
#pragma unroll // sums stay in registers
    for (int i = 0; i < SUMS && k_group == 0; i += 4) {
        st_global_v4_f32(to + i * ROW_GROUPS * GROUP_THREADS,
                         make_float4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]));
    }
    consumers_sync();
    if (threadIdx.x == GROUP_THREADS) {
        fence_acq_rel_gpu();
        st_release_gpu_u32(p.counts + block, 1);
    }
}

__device__ __forceinline__ void part_fetch(float *sums, Parts p, int block, int row_group,
                                           int k_group) {
    if (threadIdx.x == GROUP_THREADS) {
        while (ld_acquire_gpu_u32(p.counts + block) == 0) {
        }
        st_global_u32(p.counts + block, 0); // for the next kernel
    }
    consumers_sync();
    const float *from = part_sums(p, block, row_group);
#pragma unroll // sums stay in registers
    for (int i = 0; i < SUMS && k_group == 0; i += 4) {
        float4 v = ld_global_v4_f32(from + i * ROW_GROUPS * GROUP_THREADS);
        sums[i] += v.x;
        sums[i + 1] += v.y;
        sums[i + 2] += v.z;
        sums[i + 3] += v.w;
    }
}

// Are all sums of the tile here now? Others' are added in the order of their steps.
__device__ __forceinline__ bool parts_add(float *sums, Parts p, const Turns &t, Segment s, int at,
                                          int member, int row_group, int k_group) {
    if (s.first > 0) {
        part_leave(sums, p, at * SPREAD + member, row_group, k_group);
        return false;
    }
    int other = at;
    while ((other = turns_other(&t, s, other)) >= 0) {
        part_fetch(sums, p, other * SPREAD + member, row_group, k_group);
    }
    return true;
}
#endif

#endif

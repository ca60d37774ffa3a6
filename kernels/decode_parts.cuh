// What: sums of linear_decode from the other blocks of a cluster, each of which has a part of K.
// Idea: the epilogue warp of a parity sends its block's sums to the shared memory of the first block
//     (st.async), which counts the bytes on a barrier "sent"; who adds them there arrives at "taken" of
//     every sender, for the next but one pass. The first block waits for all sums and does not tell a
//     sender that its last ones are taken, so nothing is written behind a block's end.
// Source: PTX ISA, st.async and mbarrier. Parameters: CLUSTER, more than 1; the constants of
//     linear_decode.cu, behind which it is included.
#ifndef DECODE_PARTS_CUH
#define DECODE_PARTS_CUH

// Before any block of the cluster sends: called by all threads, cluster_wait by those that send.
__device__ __forceinline__ void parts_open(u32 shared) {
    if (threadIdx.x == 0) {
        for (int parity = 0; parity < 2; parity++) {
            mbarrier_init(shared + SENT_AT + parity * 8, 1);
            mbarrier_init(shared + TAKEN_AT + parity * 8, 1);
        }
        fence_mbarrier_init();
    }
    __syncwarp();
    cluster_arrive();
}

// Where the sums of block `rank` come: shared address in the first block, of this lane's tile and half.
__device__ __forceinline__ u32 part_at(u32 shared, int parity, int rank, int i) {
    return shared + PARTS_AT + (parity * (CLUSTER - 1) + rank - 1) * PART_BYTES + i * PARTIAL_BYTES +
           threadIdx.x % WARP_LANES * 16;
}

// Of the turn-th pass of a parity.
__device__ __forceinline__ void part_send(const float4 sums[TILES][HALVES], u32 shared, int parity,
                                          int rank, int turn) {
    if (turn > 0) { // the sums before have been read
        mbarrier_wait_parity(shared + TAKEN_AT + parity * 8, turn - 1 & 1);
    }
    u32 sent = cluster_address(shared + SENT_AT + parity * 8, 0);
#pragma unroll // sums stay in registers
    for (int i = 0; i < TILES * HALVES; i++) {
        st_async_v4_f32(cluster_address(part_at(shared, parity, rank, i), 0),
                        sums[i / HALVES][i % HALVES], sent);
    }
}

// Adds those of the other blocks in their order. more: they will send again.
__device__ __forceinline__ void parts_add(float4 sums[TILES][HALVES], u32 shared, int parity,
                                          int turn, bool more) {
    int lane = threadIdx.x % WARP_LANES;
    u32 sent = shared + SENT_AT + parity * 8;
    if (lane == 0) {
        mbarrier_arrive_expect_tx(sent, (CLUSTER - 1) * PART_BYTES);
    }
    mbarrier_wait_parity_cluster(sent, turn & 1);
#pragma unroll // sums stay in registers
    for (int i = 0; i < (CLUSTER - 1) * TILES * HALVES; i++) {
        int part = i % (TILES * HALVES);
        float4 v = ld_shared_v4_f32(part_at(shared, parity, 1 + i / (TILES * HALVES), part));
        float4 &sum = sums[part / HALVES][part % HALVES];
        sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
    __syncwarp();
    if (more && lane > 0 && lane < CLUSTER) {
        mbarrier_arrive_cluster(cluster_address(shared + TAKEN_AT + parity * 8, lane));
    }
}

#endif

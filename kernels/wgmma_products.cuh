// What: what a consumer of linear_wgmma does with its steps: sums += W x^T, W as fragments in registers.
// Idea: the words of a step become fragments while the products of the step before run, so two sets of
//     fragments take turns; a stage is released when the products that read it are done.
// Parameters: K_GROUPS; the constants of linear_wgmma.cu, gemm.cuh, wgmma.cuh and wgmma_ring.cuh, behind
//     which it is included.
#ifndef WGMMA_PRODUCTS_CUH
#define WGMMA_PRODUCTS_CUH

// Where a lane's weights and scales are in a stage: bytes from its beginning.
struct LaneAt {
    u32 words, scales, zeros;
};
__device__ __forceinline__ LaneAt lane_at(int warp, int lane) {
    u32 tile  = WEIGHTS_AT + warp * STEP_BYTES;
    LaneAt at = {tile + STEP_HEAD_BYTES + lane * 16, tile + lane_scales(lane),
                 tile + STEP_ZEROS_AT + lane_zeros(lane)};
    opaque(at.words); // else they are computed again in each step, to save registers
    opaque(at.scales);
    return at;
}

// The fragments of a step: [k16 step][4].
__device__ __forceinline__ void fragments_make(u32 a[STEP_K / 16][4], u32 stage, LaneAt at) {
    constexpr int STEPS_OF_GROUP = BITS == 16 || GROUP >= STEP_K ? STEP_K / 16 : GROUP / 16;
    u32 words[4], scales[2];
    Zeros<true> zeros;
#pragma unroll // steps index registers
    for (int step = 0; step < STEP_K / 16; step++) {
        if (BITS != 16 && step % STEPS_OF_GROUP == 0) {
            int group = step / STEPS_OF_GROUP;
            weight_scales(scales, stage + at.scales + group * SCALE_BLOCK_BYTES);
            zeros = zeros_load<true>(stage + at.zeros + group * ZERO_BLOCK_BYTES);
        }
        if (step % TILE_STEPS == 0) {
            uint4 v = ld_shared_v4(stage + at.words + step / TILE_STEPS * TILE_BYTES);
            words[0] = v.x;
            words[1] = v.y;
            words[2] = v.z;
            words[3] = v.w;
        }
        dequant_scaled_step(a[step], words, step % TILE_STEPS, scales, zeros);
    }
}

// One step: fragments while the products of the last step run, then its own products.
__device__ __forceinline__ void step_products(float *sums, u32 a[STEP_K / 16][4], Place at,
                                              LaneAt weights) {
    mbarrier_wait_parity(at.stage + FULL_AT, at.parity);
    fragments_make(a, at.stage, weights);
    u64 x = wgmma_tokens(at.stage);
    wgmma_hold<SUMS>(sums);
    wgmma_fence();
#pragma unroll // a stays in registers
    for (int step = 0; step < STEP_K / 16; step++) {
        wgmma_step<BLOCK_TOKENS>(sums, a[step], wgmma_columns(x, step * 32));
    }
    wgmma_commit();
}

// The products of the steps first, first + K_GROUPS, ... < last; counted through all work, as `warp`
// is through the block's row tiles.
__device__ __forceinline__ void products(float *sums, Ring ring, u32 first, u32 last, int warp,
                                         int lane) {
    u32 even[STEP_K / 16][4], odd[STEP_K / 16][4];
#pragma unroll // sums stay in registers
    for (int i = 0; i < SUMS; i++) {
        sums[i] = 0.0f;
    }
    LaneAt weights = lane_at(warp, lane);
    Place at       = place_of(ring, first);
    u32 step = first, before = 0; // the stage of the step before
#pragma unroll 1 // two steps are long enough
    for (; step + K_GROUPS < last; step += 2 * K_GROUPS) {
        step_products(sums, even, at, weights);
        wgmma_wait<1>(); // the step before this one
        if (step != first) {
            stage_release(ring, before, lane);
        }
        before = at.stage;
        place_advance<K_GROUPS>(at, ring);
        step_products(sums, odd, at, weights);
        wgmma_wait<1>();
        stage_release(ring, before, lane);
        before = at.stage;
        place_advance<K_GROUPS>(at, ring);
    }
    wgmma_wait<0>();
    if (step != first) {
        stage_release(ring, before, lane);
    }
    if (step < last) { // an odd number of them
        step_products(sums, even, at, weights);
        wgmma_wait<0>();
        stage_release(ring, at.stage, lane);
    }
    wgmma_hold<SUMS>(sums);
}

#endif

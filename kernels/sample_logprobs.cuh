// What: log probabilities of the drawn token and of the most likely ones, for rows that ask for them.
// Idea: of the logits as they are, but for NaN and infinities. Each thread has the best of its tokens that
//     are left; the best of the block is the next one, and only the thread that had it looks again.
// Parameters: VOCAB, MAX_TOP; the constants of sample.cu and sample_source.cuh, behind which it is
//     included.
#ifndef SAMPLE_LOGPROBS_CUH
#define SAMPLE_LOGPROBS_CUH

__device__ __forceinline__ u64 block_max_u64(u64 x, DrawShared *shared) {
    int lane = (int)threadIdx.x % WARP_LANES, warp = (int)threadIdx.x / WARP_LANES;
    x        = warp_max_u64(x);
    __syncthreads(); // the last use of sums is over
    if (lane == 0) {
        shared->sums[0][warp] = x;
    }
    __syncthreads();
    return warp_max_u64(lane < DRAW_WARPS ? shared->sums[0][lane] : 0);
}

// The largest key << 32 | ~id below `limit` among a thread's tokens before `end`; 0: none.
__device__ __forceinline__ u64 thread_best(const Row &row, int end, u64 limit) {
    u64 best = 0;
#pragma unroll 4 // loads in flight
    for (int id = (int)threadIdx.x; id < end; id += DRAW_THREADS) {
        u64 found = (u64)key_of(cleaned(ld_global_f32(row.logits + id))) << 32 | (u32)~id;
        best      = found > best && found < limit ? found : best;
    }
    return best;
}

// The most likely token is found again and again among what each thread has left.
__device__ __forceinline__ void logprobs_row(const Row &row, u32 token, SampleResult *out,
                                             DrawShared *shared) {
    float max   = key_value((u32)(block_max_u64(thread_best(row, VOCAB, ~(u64)0), shared) >> 32));
    float total = 0.0f;
#pragma unroll 4 // loads in flight
    for (int id = (int)threadIdx.x; id < VOCAB; id += DRAW_THREADS) {
        total += ex2_approx((cleaned(ld_global_f32(row.logits + id)) - max) * 1.44269504f);
    }
    total       = block_sum<DRAW_WARPS>(total, shared->floats);
    float below = lg2_approx(total) * 0.69314718f;
    int asked   = min(row.p.logprobs - 1, min(MAX_TOP, row.tokens));
    u64 mine    = asked > 0 ? thread_best(row, row.tokens, ~(u64)0) : 0;
    for (int rank = 0; rank < asked; rank++) {
        u64 best = block_max_u64(mine, shared);
        if (mine == best) {
            out->top_ids[rank]      = (s32)~(u32)best;
            out->top_logprobs[rank] = key_value((u32)(best >> 32)) - max - below;
            mine                    = thread_best(row, row.tokens, best);
        }
    }
    if (threadIdx.x == 0) {
        out->logprob   = cleaned(ld_global_f32(row.logits + token)) - max - below;
        out->top_count = asked > 0 ? asked : 0;
    }
}

#endif

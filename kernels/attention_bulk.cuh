// What: runs of keys as attention_decode uses them, copied by one more warp (from sm_90 on).
// Idea: that warp copies tiles of STEP keys and values, up to STAGES ahead of their use, by bulk copies:
//     one thread, no registers, whatever a page has side by side in one piece. It waits for the kernel
//     before when it meets the first keys of this step; what lies behind the last key of a row is not
//     copied. Two barriers for each stage: "full" counts bytes, "empty" the warps that have read.
// Parameters: STAGES; the constants of attention_decode.cu. attention_feed.cuh is the other way.
#ifndef ATTENTION_BULK_CUH
#define ATTENTION_BULK_CUH

enum { BARRIER_FULL = 0, BARRIER_EMPTY = 8 };

__device__ __forceinline__ u32 barrier_of(u32 shared, int stage, int which) {
    return shared + (u32)(BARRIERS_AT + stage * 16 + which);
}
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    while (!mbarrier_try_wait_parity(barrier, parity)) {
    }
}

__device__ __forceinline__ void barriers_init(u32 shared) {
    for (int stage = 0; stage < STAGES && threadIdx.x == 0; stage++) {
        mbarrier_init(barrier_of(shared, stage, BARRIER_FULL), 1);
        mbarrier_init(barrier_of(shared, stage, BARRIER_EMPTY), WARPS);
    }
    fence_proxy_async();
}

// Keys and values [from, to) of a tile that begins at key `first`, page by page.
__device__ __forceinline__ void tile_copy(const Segment &s, int first, int from, int to, u32 stage,
                                          u32 full) {
    while (from < to) {
        int rows     = min(PAGE_TOKENS - from % PAGE_TOKENS, to - from);
        const u8 *p  = kv_row(s.head, kv_page(s.head, from), from);
        u32 place    = stage + (u32)((from - first) * ROW_BYTES);
        cp_async_bulk(place, p, (u32)(rows * ROW_BYTES), full);
        cp_async_bulk(place + VALUES_AT, p + KV_VALUES_AT, (u32)(rows * ROW_BYTES), full);
        from += rows;
    }
}

// All copies of the block, by one thread.
__device__ __forceinline__ void produce(const Operands &o, Units left, u32 shared) {
    Segment s;
    bool waited = false;
    int stage   = 0;
    u32 parity  = 1;
    while (segment_next(o, left, s)) {
        for (int first = s.begin; first < s.end; first += STEP) {
            int last = min(first + STEP, s.end), old = min(max(first, s.old), last);
            u32 full = barrier_of(shared, stage, BARRIER_FULL);
            u32 to   = shared + (u32)(stage * STAGE_BYTES);
            barrier_wait(barrier_of(shared, stage, BARRIER_EMPTY), parity);
            mbarrier_arrive_expect_tx(full, (u32)((last - first) * 2 * ROW_BYTES));
            tile_copy(s, first, first, old, to, full);
            if (old < last && !waited) {
                griddepcontrol_wait();
                waited = true;
            }
            tile_copy(s, first, old, last, to, full);
            stage = stage_next(stage);
            parity ^= stage == 0;
        }
    }
}

// Where a warp is in the ring.
struct Runs {
    u32 shared;
    int stage;
    u32 parity;
};

// Where the warp's keys of the stage are.
__device__ __forceinline__ u32 run_keys(const Runs &r) {
    return r.shared + (u32)(r.stage * STAGE_BYTES +
                            (int)threadIdx.x / WARP_LANES * (RUN * ROW_BYTES));
}

__device__ __forceinline__ void runs_open(Runs &r, const Units &u, u32 shared) {
    r.shared = shared;
    r.stage  = 0;
    r.parity = 0;
}

// Waits for the kernel before, which makes q.
__device__ __forceinline__ void runs_begin(const Operands &o, Runs &r) {
    griddepcontrol_wait();
}

// What is behind the last key gets weights of 0, which no infinity must meet.
__device__ __forceinline__ void values_clear(u32 values, int rows) {
    int lane = (int)threadIdx.x % WARP_LANES;
    for (int at = rows * CHUNKS + lane; at < RUN * CHUNKS; at += WARP_LANES) {
        st_shared_v4(values + (u32)(at * 16), make_uint4(0, 0, 0, 0));
    }
    fence_proxy_async(); // before the next copy to this place
    __syncwarp();
}

// The warp's run of the next stage, which begins at key `first`, is there.
__device__ __forceinline__ void run_wait(const Operands &o, Runs &r, const Segment &s, int first) {
    barrier_wait(barrier_of(r.shared, r.stage, BARRIER_FULL), r.parity);
    if (first < s.end && first + RUN > s.end) {
        values_clear(run_keys(r) + VALUES_AT, s.end - first);
    }
}

// It may be written over.
__device__ __forceinline__ void run_release(Runs &r) {
    __syncwarp(); // all lanes have read
    if (threadIdx.x % WARP_LANES == 0) {
        mbarrier_arrive(barrier_of(r.shared, r.stage, BARRIER_EMPTY));
    }
    r.parity ^= r.stage + 1 == STAGES;
    r.stage = stage_next(r.stage);
}

#endif

// What: runs of keys as attention_decode uses them, copied by the warp that uses them.
// Idea: each warp copies its runs of all segments of the block, in order, STAGES - 1 ahead of their use
//     (cp.async): so the next segment is on its way while the last one ends, and no barrier is needed.
//     Pages are fetched for 32 runs at once. When the ring is filled for the first time, keys of earlier
//     steps are copied before the wait for the kernel before, those of this step behind it.
// Parameters: STAGES; the constants of attention_decode.cu. attention_bulk.cuh is the other way.
#ifndef ATTENTION_FEED_CUH
#define ATTENTION_FEED_CUH

// What a warp copies next.
struct Feed {
    Units left;
    Segment s;
    u32 ring;  // of this warp: its keys of stage 0
    s32 pages; // of run `next / 32 * 32 + lane`
    int next, runs; // to be copied; of the segment
    int stage;
};

// Which keys of a run are copied. What earlier steps wrote needs not wait for the kernel before.
enum { COPY_ALL, COPY_OLD, COPY_NEW };

// Copies the keys and values of the next run, if there is one; rows behind the end are zeros.
// Returns whether a run may hold keys of this step.
template <int WHICH> __device__ __forceinline__ bool run_copy(const Operands &o, Feed &feed) {
    if (feed.next == feed.runs) {
        feed.next = 0;
        feed.runs = segment_next(o, feed.left, feed.s) ? segment_runs(feed.s) : 0;
    }
    int lane = (int)threadIdx.x % WARP_LANES, first = run_first(feed.s, feed.next);
    bool some_new = false;
    if (feed.runs > 0) {
        if (first < feed.s.end) {
            some_new = first + RUN > feed.s.old;
            if (feed.next % WARP_LANES == 0) {
                int of_lane = run_first(feed.s, feed.next + lane);
                feed.pages  = kv_page(feed.s.head, min(of_lane, feed.s.end - 1));
            }
            s32 page       = __shfl_sync(FULL_MASK, feed.pages, feed.next % WARP_LANES);
            const u8 *from = kv_row(feed.s.head, page, first);
            u32 to         = feed.ring + (u32)(feed.stage * STAGE_BYTES);
#pragma unroll // copies in flight
            for (int at = 0; at < RUN * CHUNKS; at += WARP_LANES) {
                int chunk = at + lane, row = chunk / CHUNKS;
                bool is_old = first + row < feed.s.old;
                bool wanted = WHICH == COPY_ALL || is_old == (WHICH == COPY_OLD);
                if (wanted && (RUN * CHUNKS % WARP_LANES == 0 || row < RUN)) {
                    int bytes   = first + row < feed.s.end ? 16 : 0;
                    const u8 *p = from + chunk * 16;
                    u32 place   = to + (u32)(chunk * 16);
                    cp_async_16_zfill(place, p, bytes);
                    cp_async_16_zfill(place + VALUES_AT, p + KV_VALUES_AT, bytes);
                }
            }
        }
        feed.next++;
        feed.stage = stage_next(feed.stage);
    }
    cp_async_commit();
    return some_new;
}

// Fills the ring for the first time, and waits for the kernel before, which makes q and the keys
// and values of this step's tokens.
__device__ __forceinline__ void feed_open(const Operands &o, Feed &feed) {
    Feed again = feed;
    bool some_new = false;
#pragma unroll 1 // a ring
    for (int ahead = 0; ahead < STAGES - 1; ahead++) {
        some_new |= run_copy<COPY_OLD>(o, feed);
    }
    griddepcontrol_wait();
#pragma unroll 1 // a ring
    for (int ahead = 0; some_new && ahead < STAGES - 1; ahead++) {
        run_copy<COPY_NEW>(o, again);
    }
}

// Where a warp is in the ring: what it uses, what it copies.
struct Runs {
    u32 shared;
    int stage;
    Feed feed;
};

// Where the warp's keys of the stage are.
__device__ __forceinline__ u32 run_keys(const Runs &r) {
    return r.shared + (u32)(r.stage * STAGE_BYTES +
                            (int)threadIdx.x / WARP_LANES * (RUN * ROW_BYTES));
}

__device__ __forceinline__ void runs_open(Runs &r, const Units &u, u32 shared) {
    r.shared    = shared;
    r.stage     = 0;
    r.feed.left = u;
    r.feed.ring = run_keys(r);
    r.feed.next = r.feed.runs = r.feed.stage = 0;
}

// The first copies, and the wait for the kernel before.
__device__ __forceinline__ void runs_begin(const Operands &o, Runs &r) {
    feed_open(o, r.feed);
}

// The warp's run of the next stage, which begins at key `first`, is there.
__device__ __forceinline__ void run_wait(const Operands &o, Runs &r, const Segment &s, int first) {
    run_copy<COPY_ALL>(o, r.feed);
    cp_async_wait<STAGES - 1>();
    __syncwarp(); // the copies of all lanes are there
}

// It may be written over.
__device__ __forceinline__ void run_release(Runs &r) {
    __syncwarp(); // all lanes have read
    r.stage = stage_next(r.stage);
}

#endif

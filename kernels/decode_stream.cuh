// What: the weights of linear_decode, as they come to a compute warp.
// Idea: a ring of STAGES records belongs to one warp, whose lanes fill it STAGES - 1 ahead (cp.async) or have
//     it filled (bulk copies, with a barrier for each stage). It runs on over the ends of passes, so
//     that the next rows are on their way while the sums of these are handed over.
// Parameters: LOAD_BULK, STAGES, TILES; the constants of linear_decode.cu, behind which it is included.
#ifndef DECODE_STREAM_CUH
#define DECODE_STREAM_CUH

// Warps count through all blocks of the cluster.
__device__ __forceinline__ int warp_first_record(int warp) {
    return warp * RECORDS / ALL_WARPS;
}

struct Stream {
    const u8 *next;  // record to fetch next, of the first tile of its pass
    int record;      // its number in this warp's range
    int records;     // in this warp's range
    int pass, step;  // the pass of `next`, and how far it is to the following one
    u32 ring;        // shared address of stage 0
    u32 fetch_at;    // offset of the stage to fill next
    u32 read_at;     // offset of the stage to read next
    u32 barriers;    // LOAD_BULK: shared address of the barrier of stage 0
    u32 parity;      // LOAD_BULK: of the barriers on this round of the ring
};

__device__ __forceinline__ const u8 *stream_start(const Operands &o, int pass, int warp) {
    return o.weights + (s64)pass * TILES * ROW_TILE_BYTES + warp_first_record(warp) * RECORD_BYTES;
}

// Tile t of a pass; behind the last one, that one again, whose sums nobody uses.
__device__ __forceinline__ s64 tile_offset(int pass, int t) {
    return pass * TILES + t < ROW_TILES ? t * ROW_TILE_BYTES : 0;
}

__device__ __forceinline__ void record_copy(const Stream &s, int lane) {
    for (int t = 0; t < TILES; t++) {
        const u8 *from = s.next + tile_offset(s.pass, t);
        u32 to = s.ring + s.fetch_at + t * RECORD_BYTES;
#if LOAD_BULK
        if (lane == 0) {
            u32 barrier = s.barriers + s.fetch_at / RING_STAGE_BYTES * 8;
            if (t == 0) {
                mbarrier_arrive_expect_tx(barrier, RING_STAGE_BYTES);
            }
            cp_async_bulk(to, from, RECORD_BYTES, barrier);
        }
#else
        if (lane < RECORD_HEAD_BYTES / 16) {
            cp_async_16(to + lane * 16, from + lane * 16);
        }
        for (int tile = 0; tile < RECORD_TILES; tile++) {
            int at = RECORD_HEAD_BYTES + tile * TILE_BYTES + lane * 16;
            cp_async_16(to + at, from + at);
        }
#endif
    }
}

// Fills the next stage of the ring, if there is anything left to fetch.
__device__ __forceinline__ void stream_fetch(Stream &s, const Operands &o, int warp, int lane) {
    if (s.pass < PASSES) {
        record_copy(s, lane);
        s.next += RECORD_BYTES;
        if (++s.record == s.records) {
            s.record = 0;
            s.pass += s.step;
            s.next = stream_start(o, s.pass, warp);
        }
        s.fetch_at =
            s.fetch_at + RING_STAGE_BYTES == RING_BYTES ? 0 : s.fetch_at + RING_STAGE_BYTES;
    }
#if !LOAD_BULK
    cp_async_commit(); // an empty group too: stream_wait counts groups
#endif
}

__device__ __forceinline__ Stream stream_open(const Operands &o, WorkRange range, u32 shared,
                                              int warp, int lane) {
    int in_block = warp - range.rank * WARPS;
    Stream s;
    s.records = warp_first_record(warp + 1) - warp_first_record(warp);
    s.record = 0;
    s.pass = s.records > 0 ? range.first : PASSES;
    s.step = range.step;
    s.next = stream_start(o, range.first, warp);
    s.ring = shared + in_block * RING_BYTES;
    s.fetch_at = s.read_at = 0;
    s.barriers = shared + BARRIERS_AT + in_block * STAGES * 8;
    s.parity = 0;
#if LOAD_BULK
    if (lane == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            mbarrier_init(s.barriers + stage * 8, 1);
        }
        fence_proxy_async();
    }
    __syncwarp();
#endif
    for (int stage = 0; stage < STAGES - 1; stage++) {
        stream_fetch(s, o, warp, lane);
    }
    return s;
}

// Until the stage at read_at has arrived, for all lanes; the one read before it is free then.
__device__ __forceinline__ void stream_wait(const Stream &s) {
#if LOAD_BULK
    u32 barrier = s.barriers + s.read_at / RING_STAGE_BYTES * 8;
    while (!mbarrier_try_wait_parity(barrier, s.parity)) {
    }
#else
    cp_async_wait<STAGES - 2>();
#endif
    __syncwarp();
}

__device__ __forceinline__ void stream_next(Stream &s) {
    s.read_at += RING_STAGE_BYTES;
    if (s.read_at == RING_BYTES) {
        s.read_at = 0;
        s.parity ^= 1;
    }
}

#endif

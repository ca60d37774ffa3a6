// (1) out[t][h] = sum over j of softmax_j(cap(q[t][h] . k[j] * scale)) v[j], for one token t of
//     each of many sequences; k and v of KV head h / (HEADS / KV_HEADS) of slot slots[t]; j = 0 ..
//     positions[t], of them the last WINDOW (if any).
//
// (2) operand     dtype  shape                          notes
//     q           act    [tokens, HEADS, HEAD_DIM]      rotated
//     kv          act    pages, see attention.cuh       of this layer, with the new k and v
//     positions   int32  [tokens]
//     slots       int32  [tokens]                       -1: an empty row, out is 0
//     page_table  int32  [slots, PAGES_PER_SEQ]
//     records     fp32   [tokens, KV_HEADS * BLOCKS, SPLITS, RECORD]    scratch, see (3)
//     counts      uint32 [tokens, KV_HEADS * BLOCKS]    zeros, before and after
//     places      int32  [HEADS * HEAD_DIM]             null without HAS_PLACES
//     out         act    [tokens, HEADS, HEAD_DIM]
//     tokens      int64
//
// (3) The weights of mma m16n8k16 are keys and values, so that the 8 columns are query heads and no
//     accumulator is wasted:
//
//       scores^T = K Q^T     16 keys x 8 heads, K by ldmatrix
//       P^T                  two 8 x 8 transposes in registers (movmatrix) make it the B of
//       out^T += V^T P^T     16 elements x 8 heads a tile, V by ldmatrix.trans
//
//     Shared memory: a ring of STAGES tiles of STEP keys, then their values, rows as in the pages
//     (kv_layout.cuh); a warp uses 16 keys and values of each. Then the states of the warps.
//
//     A record: out[BLOCK_HEADS][HEAD_DIM] before division, max[BLOCK_HEADS] (in exponents of 2),
//     sum[BLOCK_HEADS], how many parts it holds, padded to 4 floats.
//
// (4) Bytes: KV_HEADS * length * HEAD_DIM * 4 per row; 8 KV heads of 128: 4.2 MB for 1024 tokens,
//     33.6 for 8192. An H200 reads 4.2 to 4.6 TB/s; a run of 16 keys takes a multiprocessor 400
//     cycles to read and a warp about 800 to use. Times: docs/performance.md.
//
// (5) the parameters of attention.cuh; SPLITS 1 .. 64, the parts at most in which a row's keys are
//     cut; WARPS 2 or 4; STAGES 2 ..; LOAD_BULK 0: each warp copies its keys (cp.async), 1: one more
//     warp copies them all, from sm_90 on; SHARED_BYTES, as the launch reserves them.
//     Where the cuts are depends on the row's length only. The warps of a part are added up in their
//     order, then the parts in theirs, in one accumulator: so a row's bits do not depend on which
//     block had which part, nor on what else is in the batch. With a window, the cuts are of what it
//     leaves, from a multiple of 16 on.
//
// (6) Grid {blocks, 1, 1}, 32 * WARPS threads, with LOAD_BULK 32 more. All parts of all rows and KV
//     heads, one behind the other, are dealt out in equal runs, so a block may begin and end inside
//     of a row. Parts from the first of a row on are added up in registers (KEEPS); others leave a
//     record each. Whoever comes last to a row that several blocks share adds up its records.
//     What earlier steps wrote (positions, slots, pages, keys of tokens before this step's) is read
//     before the block waits for the kernel before it; behind the wait are q and the new keys.
//
// (7) Read from the bottom: attention_decode, produce or feed_open; attend, run_use; part_end,
//     segment_end.
#include "ptx.cuh"
#include "attention.cuh"

constexpr int THREADS     = WARPS * WARP_LANES;
constexpr int RUN         = 16;          // keys of a warp in one go
constexpr int STEP        = WARPS * RUN; // keys of the block in one go
constexpr int TILES_ALL   = (GROUP_HEADS + 7) / 8;
constexpr int TILES       = TILES_ALL > 1 && HEAD_DIM <= 128 ? 2 : 1; // of 8 heads, in one block
constexpr int BLOCKS      = (TILES_ALL + TILES - 1) / TILES;          // that share a KV head
constexpr int BLOCK_HEADS = GROUP_HEADS < TILES * 8 ? GROUP_HEADS : TILES * 8;
constexpr int ROW_UNITS   = KV_HEADS * BLOCKS;
constexpr int STEPS       = (HEAD_DIM + 15) / 16; // of 16 elements
constexpr bool PADDED     = HEAD_DIM % 16 != 0;   // the right half of the last step is zeros
constexpr int CHUNKS      = HEAD_DIM / 8;         // of 16 bytes, in a row of the cache
constexpr int VALUES_AT   = STEP * ROW_BYTES; // of a stage
constexpr int STAGE_BYTES = 2 * VALUES_AT;
constexpr int HEAD_STRIDE = HEAD_DIM + 4; // floats in shared memory: spreads the heads over the banks
constexpr int STATE_BYTES = (BLOCK_HEADS * (HEAD_STRIDE + 2) * 4 + 15) / 16 * 16;
constexpr int STATES_AT   = STAGES * STAGE_BYTES;
constexpr int FLAG_AT     = STATES_AT + WARPS * STATE_BYTES;
constexpr int BARRIERS_AT = FLAG_AT + 16; // LOAD_BULK: full and empty of each stage
constexpr int OUTS        = BLOCK_HEADS * HEAD_DIM;
constexpr int RECORD      = (OUTS + 2 * BLOCK_HEADS + 1 + 3) / 4 * 4;
constexpr int FOLDS       = (OUTS + THREADS * 4 - 1) / (THREADS * 4); // groups of 4 outs of a thread
constexpr bool KEEPS       = FOLDS <= 4; // adds up in registers; else parts always leave records
static_assert(SPLITS >= 1 && SPLITS <= 64, "SPLITS");
static_assert((WARPS == 2 || WARPS == 4) && STAGES >= 2, "WARPS, STAGES");
static_assert(SHARED_BYTES == BARRIERS_AT + STAGES * 16, "kernel_attention.c");
static_assert(!LOAD_BULK || PTX_ARCH == 0 || PTX_ARCH >= 900, "LOAD_BULK");

struct Operands {
    const act_t *q;
    const u8 *kv;
    const s32 *positions, *slots, *page_table;
    float *records;
    u32 *counts;
    const s32 *places;
    act_t *out;
    int tokens;
};

// ---- what is to be done -------------------------------------------------------------------------

// The keys of a row: from `start` on in `parts` parts of `part_keys`; those before `seen` do not
// count.
struct Row {
    int slot, length, start, seen, part_keys, parts;
};

__device__ __forceinline__ Row row_open(const Operands &o, int token) {
    Row r;
    int last    = (int)ld_global_u32(o.positions + token); // at the same time as the slot
    r.slot      = (int)ld_global_u32(o.slots + token);
    r.length    = r.slot < 0 ? 0 : last + 1;
    r.seen      = first_key(r.length - 1);
    r.start     = r.seen / RUN * RUN;
    int keys    = r.length - r.start;
    r.part_keys = (keys + SPLITS * STEP - 1) / (SPLITS * STEP) * STEP;
    r.parts     = keys > 0 ? (keys + r.part_keys - 1) / r.part_keys : 0;
    return r;
}

// Units are parts of rows and blocks of heads: all of row 0, those of its first heads first, ...
struct Units {
    int first, last; // of this block
    int token, base; // the row that holds `first`, and the row's first unit
};

__device__ __forceinline__ int lane_units(const Operands &o, int token) {
    return token < o.tokens ? row_open(o, token).parts * ROW_UNITS : 0;
}

// The sum over all rows, of which `mine` is what the first 32 of them have.
__device__ __forceinline__ int units_total(const Operands &o, int mine) {
    int total = (int)__reduce_add_sync(FULL_MASK, (u32)mine);
    for (int token = WARP_LANES; token < o.tokens; token += WARP_LANES) {
        mine = lane_units(o, token + (int)threadIdx.x % WARP_LANES);
        total += (int)__reduce_add_sync(FULL_MASK, (u32)mine);
    }
    return total;
}

__device__ __forceinline__ Units units_open(const Operands &o) {
    int lane = (int)threadIdx.x % WARP_LANES, mine = lane_units(o, lane);
    int total = units_total(o, mine), block = (int)blockIdx.x;
    int blocks = min((int)gridDim.x, total);
    Units u = {0, 0, 0, 0};
    if (block >= blocks) {
        return u;
    }
    u.first = (int)((s64)total * block / blocks);
    u.last  = (int)((s64)total * (block + 1) / blocks);
    for (int token = 0;; token += WARP_LANES) {
        int end = mine;
#pragma unroll // a scan
        for (int apart = 1; apart < WARP_LANES; apart *= 2) {
            int before = __shfl_up_sync(FULL_MASK, end, apart);
            end += lane >= apart ? before : 0;
        }
        u32 behind = __ballot_sync(FULL_MASK, u.base + end > u.first);
        if (behind) {
            int at  = __ffs((int)behind) - 1;
            u.token = token + at;
            u.base += __shfl_sync(FULL_MASK, end - mine, at);
            return u;
        }
        u.base += __shfl_sync(FULL_MASK, end, WARP_LANES - 1);
        mine = lane_units(o, token + WARP_LANES + lane);
    }
}

// Parts [first_part, last_part) of one row and one block of heads.
struct Segment {
    KvHead head;
    int token, unit;          // unit: of the row, less than ROW_UNITS
    int first_head, heads;    // in the row of q
    int first_part, last_part, parts;
    int part_keys, begin, end, seen; // keys [begin, end)
    int old;                         // keys before it are of earlier steps
};

__device__ __forceinline__ Segment segment_of(const Operands &o, const Row &row, int token,
                                              int local, int count) {
    Segment s;
    s.token       = token;
    s.unit        = local / row.parts;
    s.first_part  = local % row.parts;
    s.last_part   = min(s.first_part + count, row.parts);
    s.parts       = row.parts;
    s.part_keys   = row.part_keys;
    s.begin       = row.start + s.first_part * row.part_keys;
    s.end         = min(row.length, row.start + s.last_part * row.part_keys);
    s.seen        = row.seen;
    s.old         = row.length - o.tokens; // the step has at most so many tokens of the sequence
    int kv_index  = s.unit / BLOCKS, of_group = s.unit % BLOCKS * (TILES * 8);
    s.first_head  = kv_index * GROUP_HEADS + of_group;
    s.heads       = min(GROUP_HEADS - of_group, TILES * 8);
    s.head        = kv_head(o.kv, o.page_table, row.slot, kv_index);
    return s;
}

// ---- loads --------------------------------------------------------------------------------------

// The segments of this block that are left; false: none.
__device__ __forceinline__ bool segment_next(const Operands &o, Units &u, Segment &s) {
    while (u.first < u.last) {
        Row row = row_open(o, u.token);
        int all = row.parts * ROW_UNITS, local = u.first - u.base;
        if (local < all) {
            s = segment_of(o, row, u.token, local, u.last - u.first);
            u.first += s.last_part - s.first_part;
            return true;
        }
        u.base += all;
        u.token++;
    }
    return false;
}

__device__ __forceinline__ int segment_runs(const Segment &s) {
    return (s.end - s.begin + STEP - 1) / STEP;
}

__device__ __forceinline__ int run_first(const Segment &s, int run) {
    return s.begin + (run * WARPS + (int)threadIdx.x / WARP_LANES) * RUN;
}

__device__ __forceinline__ int stage_next(int stage) {
    return stage + 1 == STAGES ? 0 : stage + 1;
}

#if LOAD_BULK
// A warp of its own copies tiles of STEP keys and values, up to STAGES ahead of their use. It waits
// for the kernel before when it meets the first keys of this step; what lies behind the last key of
// a row is not copied.

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

// By one thread.
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
#else
// The warp's runs of all segments, in order, STAGES - 1 ahead of their use: so the next segment is on
// its way while the last one ends. Pages are fetched for 32 runs at once.
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
#endif

// The stages as a warp uses them: its run of each is there after `run_wait`, and may be written over
// after `run_release`.
struct Runs {
    u32 shared;
    int stage;
#if LOAD_BULK
    u32 parity;
#else
    Feed feed;
#endif
};

// Where the warp's keys of the stage are.
__device__ __forceinline__ u32 run_keys(const Runs &r) {
    return r.shared + (u32)(r.stage * STAGE_BYTES +
                            (int)threadIdx.x / WARP_LANES * (RUN * ROW_BYTES));
}

#if LOAD_BULK
// What is behind the last key gets weights of 0, which no infinity must meet.
__device__ __forceinline__ void values_clear(u32 values, int rows) {
    int lane = (int)threadIdx.x % WARP_LANES;
    for (int at = rows * CHUNKS + lane; at < RUN * CHUNKS; at += WARP_LANES) {
        st_shared_v4(values + (u32)(at * 16), make_uint4(0, 0, 0, 0));
    }
    fence_proxy_async(); // before the next copy to this place
    __syncwarp();
}
#endif

__device__ __forceinline__ void run_wait(const Operands &o, Runs &r, const Segment &s, int first) {
#if LOAD_BULK
    barrier_wait(barrier_of(r.shared, r.stage, BARRIER_FULL), r.parity);
    if (first < s.end && first + RUN > s.end) {
        values_clear(run_keys(r) + VALUES_AT, s.end - first);
    }
#else
    run_copy<COPY_ALL>(o, r.feed);
    cp_async_wait<STAGES - 1>();
    __syncwarp(); // the copies of all lanes are there
#endif
}

__device__ __forceinline__ void run_release(Runs &r) {
    __syncwarp(); // all lanes have read
#if LOAD_BULK
    if (threadIdx.x % WARP_LANES == 0) {
        mbarrier_arrive(barrier_of(r.shared, r.stage, BARRIER_EMPTY));
    }
    r.parity ^= r.stage + 1 == STAGES;
#endif
    r.stage = stage_next(r.stage);
}

// B fragments: k 16 step + 2c .. and + 8, head g. Columns behind the last head of the block read
// that one again; nobody stores them. Plain loads: the kernel before may write q while this one runs.
__device__ __forceinline__ void load_queries(u32 queries[TILES][STEPS][2], const Operands &o,
                                             const Segment &s) {
    int g = (int)threadIdx.x % WARP_LANES / 4, c = (int)threadIdx.x % 4;
#pragma unroll // fragments stay in registers
    for (int tile = 0; tile < TILES; tile++) {
        int head       = s.first_head + min(tile * 8 + g, s.heads - 1);
        const act_t *q = o.q + ((s64)s.token * HEADS + head) * HEAD_DIM + 2 * c;
#pragma unroll // fragments stay in registers
        for (int step = 0; step < STEPS; step++) {
            bool half              = PADDED && step == STEPS - 1;
            queries[tile][step][0] = ld_global_u32(q + step * 16);
            queries[tile][step][1] = half ? 0 : ld_global_u32(q + step * 16 + 8);
        }
    }
}

// ---- one run of 16 keys -------------------------------------------------------------------------

// What a lane has for heads 2c and 2c + 1 of each tile.
struct State {
    float out[TILES][STEPS][4]; // (element g; 2c), (g; 2c+1), (element g + 8; ...) of 16
    float max[TILES][2];        // of scores, in exponents of 2; lanes of equal c agree
    float sum[TILES][2];        // over this lane's keys only
};

__device__ __forceinline__ void state_clear(State &s) {
#pragma unroll // the state stays in registers
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll // the state stays in registers
        for (int at = 0; at < STEPS * 4; at++) {
            s.out[tile][at / 4][at % 4] = 0.0f;
        }
        s.max[tile][0] = s.max[tile][1] = NO_SCORE;
        s.sum[tile][0] = s.sum[tile][1] = 0.0f;
    }
}

// Where a lane's row of eight elements lies for ldmatrix: in step 0, and in others.
__device__ __forceinline__ u32 row_at(u32 tile, int row, int half) {
    return tile + (u32)(row * ROW_BYTES + kv_chunk(row, half) * 16);
}
__device__ __forceinline__ u32 step_at(u32 row, int step) {
    constexpr u32 EXCHANGED = KV_SPREAD * 16 - 1; // rows are aligned to it
    u32 bytes = (u32)step * 32;
    return (row ^ (bytes & EXCHANGED)) + (bytes & ~EXCHANGED);
}

__device__ __forceinline__ void scores(float score[TILES][4], u32 keys,
                                       const u32 queries[TILES][STEPS][2]) {
    int lane = (int)threadIdx.x % WARP_LANES;
    // quarters of 16 x 16: (keys 0-7, left), (8-15, left), (0-7, right), (8-15, right)
    u32 row = row_at(keys, lane % 16, lane / 16);
    float odd[TILES][4]; // of every other step: half the way from the first product to the last
#pragma unroll // scores stay in registers
    for (int at = 0; at < TILES * 4; at++) {
        score[at / 4][at % 4] = odd[at / 4][at % 4] = 0.0f;
    }
#pragma unroll // fragments stay in registers
    for (int step = 0; step < STEPS; step++) {
        u32 a[4];
        ldmatrix_x4(a, step_at(row, step));
        if (PADDED && step == STEPS - 1) {
            a[2] = a[3] = 0; // behind the row is another one
        }
#pragma unroll // fragments stay in registers
        for (int tile = 0; tile < TILES; tile++) {
            mma_m16n8k16_act(step % 2 ? odd[tile] : score[tile], a[0], a[1], a[2], a[3],
                             queries[tile][step][0], queries[tile][step][1]);
        }
    }
#pragma unroll // scores stay in registers
    for (int at = 0; at < TILES * 4; at++) {
        score[at / 4][at % 4] += odd[at / 4][at % 4];
    }
#pragma unroll // scores stay in registers
    for (int at = 0; SOFTCAP_BITS && at < TILES * 4; at++) {
        score[at / 4][at % 4] = capped(score[at / 4][at % 4]);
    }
}

// Scores become weights (2^(score - max)); out and sum are brought to the new maximum. It is rounded
// up to a whole number: so whatever is brought to another maximum is multiplied by a power of 2,
// which rounds nothing, and sums do not depend on when that is done.
__device__ __forceinline__ void softmax(State &s, int tile, float score[4], int first,
                                        const Segment &segment) {
    int g = (int)threadIdx.x % WARP_LANES / 4;
    const float scale = score_scale();
    int low_key = first + g, high_key = first + g + 8;
    bool low_counts  = low_key < segment.end && (!WINDOW || low_key >= segment.seen);
    bool high_counts = high_key < segment.end && (!WINDOW || high_key >= segment.seen);
#pragma unroll // the state stays in registers
    for (int column = 0; column < 2; column++) {
        float low  = low_counts ? score[column] * scale : NO_SCORE;
        float high = high_counts ? score[2 + column] * scale : NO_SCORE;
        float most = fmaxf(low, high);
        most = fmaxf(most, shfl_xor_f32(most, 4));
        most = fmaxf(most, shfl_xor_f32(most, 8));
        most = fmaxf(most, shfl_xor_f32(most, 16));
        most = fmaxf(ceilf(most), s.max[tile][column]);
        float shrink = ex2_approx(s.max[tile][column] - most);
        s.max[tile][column] = most;
        score[column]       = ex2_approx(low - most);
        score[2 + column]   = ex2_approx(high - most);
        s.sum[tile][column] = s.sum[tile][column] * shrink + (score[column] + score[2 + column]);
#pragma unroll // the state stays in registers
        for (int at = 0; at < STEPS; at++) {
            s.out[tile][at][column] *= shrink;
            s.out[tile][at][2 + column] *= shrink;
        }
    }
}

__device__ __forceinline__ void add_values(State &s, u32 values, const float weight[TILES][4]) {
    int lane = (int)threadIdx.x % WARP_LANES;
    u32 low[TILES], high[TILES];
#pragma unroll // fragments stay in registers
    for (int tile = 0; tile < TILES; tile++) {
        low[tile]  = movmatrix_trans(act2_from_f32(weight[tile][0], weight[tile][1]));
        high[tile] = movmatrix_trans(act2_from_f32(weight[tile][2], weight[tile][3]));
    }
    // transposed quarters: (keys 0-7, left), (0-7, right), (8-15, left), (8-15, right)
    u32 row = row_at(values, lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll // fragments stay in registers
    for (int step = 0; step < STEPS; step++) {
        u32 a[4];
        ldmatrix_x4_trans(a, step_at(row, step));
#pragma unroll // fragments stay in registers
        for (int tile = 0; tile < TILES; tile++) {
            mma_m16n8k16_act(s.out[tile][step], a[0], a[1], a[2], a[3], low[tile], high[tile]);
        }
    }
}

__device__ __forceinline__ void run_use(State &s, const Segment &segment, int first, u32 keys,
                                        const u32 queries[TILES][STEPS][2]) {
    float score[TILES][4];
    scores(score, keys, queries);
#pragma unroll // the state stays in registers
    for (int tile = 0; tile < TILES; tile++) {
        softmax(s, tile, score[tile], first, segment);
    }
    add_values(s, keys + VALUES_AT, score);
}

// ---- parts --------------------------------------------------------------------------------------
//
// The same sums must give the same bits wherever they are made: products and additions are written
// out, so that the compiler has no choice which of them to fuse.

// Four neighbouring outs of a head.
struct Fold {
    float4 out;
    float max, sum;
};

__device__ __forceinline__ float4 scaled(float4 v, float factor) {
    return make_float4(__fmul_rn(v.x, factor), __fmul_rn(v.y, factor), __fmul_rn(v.z, factor),
                       __fmul_rn(v.w, factor));
}
__device__ __forceinline__ float4 added(float4 to, float4 v, float factor) {
    return make_float4(__fmaf_rn(v.x, factor, to.x), __fmaf_rn(v.y, factor, to.y),
                       __fmaf_rn(v.z, factor, to.z), __fmaf_rn(v.w, factor, to.w));
}

// a becomes what a and the part behind it, b, are together.
__device__ __forceinline__ void fold(Fold &a, const Fold &b) {
    float most = fmaxf(a.max, b.max);
    float of_a = ex2_approx(a.max - most), of_b = ex2_approx(b.max - most);
    a.out = added(scaled(a.out, of_a), b.out, of_b);
    a.sum = __fmaf_rn(b.sum, of_b, __fmul_rn(a.sum, of_a));
    a.max = most;
}

// The warps that attend.
__device__ __forceinline__ void warps_sync() {
    bar_sync(1, THREADS);
}

__device__ __forceinline__ u32 state_at(u32 shared, int warp) {
    return shared + (u32)(STATES_AT + warp * STATE_BYTES);
}
constexpr int MAX_AT = BLOCK_HEADS * HEAD_STRIDE * 4, SUM_AT = MAX_AT + BLOCK_HEADS * 4;

__device__ __forceinline__ void warp_store(u32 shared, const State &s) {
    int g = (int)threadIdx.x % WARP_LANES / 4, c = (int)threadIdx.x % 4;
    u32 state = state_at(shared, (int)threadIdx.x / WARP_LANES);
#pragma unroll // the state stays in registers
    for (int at = 0; at < TILES * 2; at++) {
        int tile = at / 2, column = at % 2, row = tile * 8 + 2 * c + column;
        float sum = s.sum[tile][column];
        sum += shfl_xor_f32(sum, 4);
        sum += shfl_xor_f32(sum, 8);
        sum += shfl_xor_f32(sum, 16);
        if (row < BLOCK_HEADS) {
            if (g == 0) {
                st_shared_f32(state + (u32)(MAX_AT + row * 4), s.max[tile][column]);
                st_shared_f32(state + (u32)(SUM_AT + row * 4), sum);
            }
#pragma unroll // the state stays in registers
            for (int step = 0; step < STEPS; step++) {
                u32 to = state + (u32)((row * HEAD_STRIDE + step * 16 + g) * 4);
                st_shared_f32(to, s.out[tile][step][column]);
                if (!PADDED || step < STEPS - 1) {
                    st_shared_f32(to + 32, s.out[tile][step][2 + column]);
                }
            }
        }
    }
}

// Outs at .. at + 3 of the part whose states the warps have stored.
__device__ __forceinline__ Fold warps_fold(u32 shared, int at) {
    int row = at / HEAD_DIM, element = at % HEAD_DIM;
    Fold f[WARPS], all;
    all.max = NO_SCORE;
#pragma unroll // loads in flight
    for (int warp = 0; warp < WARPS; warp++) {
        u32 state   = state_at(shared, warp);
        f[warp].out = ld_shared_v4_f32(state + (u32)((row * HEAD_STRIDE + element) * 4));
        f[warp].max = ld_shared_f32(state + (u32)(MAX_AT + row * 4));
        f[warp].sum = ld_shared_f32(state + (u32)(SUM_AT + row * 4));
        all.max     = fmaxf(all.max, f[warp].max);
    }
    all.out = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    all.sum = 0.0f;
#pragma unroll // f stays in registers
    for (int warp = 0; warp < WARPS; warp++) {
        float factor = ex2_approx(f[warp].max - all.max);
        all.out      = added(all.out, f[warp].out, factor);
        all.sum      = __fmaf_rn(f[warp].sum, factor, all.sum);
    }
    return all;
}

__device__ __forceinline__ float *record_of(const Operands &o, const Segment &s, int part) {
    return o.records + (((s64)s.token * ROW_UNITS + s.unit) * SPLITS + part) * RECORD;
}

// `parts`: how many the record of part `part` holds; it is the first of them.
__device__ __forceinline__ void record_store(const Operands &o, const Segment &s, int part,
                                             int parts, int at, const Fold &f) {
    float *record = record_of(o, s, part);
    int row       = at / HEAD_DIM;
    st_global_v4_f32(record + at, f.out);
    if (at % HEAD_DIM == 0) {
        st_global_f32(record + OUTS + row, f.max);
        st_global_f32(record + OUTS + BLOCK_HEADS + row, f.sum);
    }
    if (at == 0) {
        st_global_f32(record + OUTS + 2 * BLOCK_HEADS, (float)parts);
    }
}

__device__ __forceinline__ void out_store(const Operands &o, const Segment &s, int at,
                                          const Fold &f) {
    float4 v   = scaled(f.out, 1.0f / f.sum);
    act_t *row = o.out + (s64)s.token * (HEADS * HEAD_DIM);
    store_pair(row, o.places, s.first_head * HEAD_DIM + at, v.x, v.y);
    store_pair(row, o.places, s.first_head * HEAD_DIM + at + 2, v.z, v.w);
}

// The warps' states of part `part` become one. From a row's first part on they are added up.
__device__ __forceinline__ void part_end(const Operands &o, const Segment &s, int part, u32 shared,
                                         const State &state, Fold folds[FOLDS]) {
    warp_store(shared, state);
    warps_sync();
#pragma unroll // folds stay in registers
    for (int i = 0; i < FOLDS; i++) {
        int at = ((int)threadIdx.x + i * THREADS) * 4;
        if (at < s.heads * HEAD_DIM) {
            Fold f = warps_fold(shared, at);
            if (!KEEPS || s.first_part > 0) {
                record_store(o, s, part, 1, at, f);
            } else if (part == 0) {
                folds[i] = f;
            } else {
                fold(folds[i], f);
            }
        }
    }
    warps_sync();
}

// Outs at .. at + 3 of a row from its records, in the order of its parts. The first one says which
// parts it holds; what would be their own records is read, but not used.
__device__ __forceinline__ Fold records_fold(const Operands &o, const Segment &s, int at) {
    constexpr int AT_ONCE = 16;
    int row  = at / HEAD_DIM;
    Fold all = {make_float4(0.0f, 0.0f, 0.0f, 0.0f), NO_SCORE, 0.0f};
    float has = ld_global_f32(record_of(o, s, 0) + OUTS + 2 * BLOCK_HEADS);
    for (int part = 0; part < s.parts; part += AT_ONCE) {
        Fold f[AT_ONCE];
        float most = all.max;
#pragma unroll // loads in flight
        for (int i = 0; i < AT_ONCE; i++) {
            const float *record = record_of(o, s, min(part + i, s.parts - 1));
            f[i].out = ld_global_v4_f32(record + at);
            f[i].max = ld_global_f32(record + OUTS + row);
            f[i].sum = ld_global_f32(record + OUTS + BLOCK_HEADS + row);
        }
#pragma unroll // f stays in registers
        for (int i = 0; i < AT_ONCE; i++) {
            int of = part + i;
            bool counts = of < s.parts && (of == 0 || of >= (int)has);
            f[i].max = counts ? f[i].max : NO_SCORE;
            f[i].sum = counts ? f[i].sum : 0.0f;
            f[i].out = counts ? f[i].out : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            most     = fmaxf(most, f[i].max);
        }
        float shrink = ex2_approx(all.max - most);
        all.out = scaled(all.out, shrink);
        all.sum = __fmul_rn(all.sum, shrink);
        all.max = most;
#pragma unroll // f stays in registers
        for (int i = 0; i < AT_ONCE; i++) {
            float factor = ex2_approx(f[i].max - most);
            all.out = added(all.out, f[i].out, factor);
            all.sum = __fmaf_rn(f[i].sum, factor, all.sum);
        }
    }
    return all;
}

// Is this block the last one that comes to the row? What others stored is visible then.
__device__ __forceinline__ bool row_complete(const Operands &o, const Segment &s, u32 shared) {
    warps_sync(); // all of this block's records are written
    if (threadIdx.x == 0) {
        u32 *count = o.counts + (s64)s.token * ROW_UNITS + s.unit;
        u32 mine   = (u32)(s.last_part - s.first_part);
        bool last  = atom_acq_rel_gpu_add_u32(count, mine) + mine == (u32)s.parts;
        if (last) {
            st_global_u32(count, 0);
        }
        st_shared_u32(shared + FLAG_AT, last);
    }
    warps_sync();
    return ld_shared_u32(shared + FLAG_AT) != 0;
}

__device__ __forceinline__ void segment_end(const Operands &o, const Segment &s, u32 shared,
                                            const Fold folds[FOLDS]) {
    bool whole = KEEPS && s.last_part - s.first_part == s.parts;
#pragma unroll // folds stay in registers
    for (int i = 0; i < FOLDS; i++) {
        int at = ((int)threadIdx.x + i * THREADS) * 4;
        if (KEEPS && at < s.heads * HEAD_DIM && s.first_part == 0) {
            if (whole) {
                out_store(o, s, at, folds[i]);
            } else {
                record_store(o, s, 0, s.last_part, at, folds[i]);
            }
        }
    }
    if (whole || !row_complete(o, s, shared)) {
        return;
    }
    for (int at = (int)threadIdx.x * 4; at < s.heads * HEAD_DIM; at += THREADS * 4) {
        out_store(o, s, at, records_fold(o, s, at));
    }
}

// ---- a block ------------------------------------------------------------------------------------

__device__ __forceinline__ void attend(const Operands &o, const Segment &s, Runs &r) {
    u32 queries[TILES][STEPS][2];
    State state;
    Fold folds[FOLDS];
    load_queries(queries, o, s);
    int runs = segment_runs(s), of_part = s.part_keys / STEP, run = 0;
    for (int part = s.first_part; part < s.last_part; part++) {
        state_clear(state);
        int last = min(runs, run + of_part);
        for (; run < last; run++) {
            int first = run_first(s, run);
            run_wait(o, r, s, first);
            if (first < s.end) {
                run_use(state, s, first, run_keys(r), queries);
            }
            run_release(r);
        }
        part_end(o, s, part, r.shared, state, folds);
    }
    segment_end(o, s, r.shared, folds);
}

// Rows without a sequence.
__device__ __forceinline__ void empty_rows_clear(const Operands &o) {
    for (int token = (int)blockIdx.x; token < o.tokens; token += (int)gridDim.x) {
        if (row_open(o, token).parts == 0) {
            act_t *row = o.out + (s64)token * (HEADS * HEAD_DIM);
            for (int at = (int)threadIdx.x * 8; at < HEADS * HEAD_DIM; at += THREADS * 8) {
                st_global_v4(row + at, make_uint4(0, 0, 0, 0));
            }
        }
    }
}

// What the warps do, but for the one that copies.
__device__ __forceinline__ void consume(const Operands &o, Units u, u32 shared) {
    Runs r;
    Segment s;
    r.shared  = shared;
    r.stage   = 0;
#if !LOAD_BULK
    r.feed.left = u;
    r.feed.ring = run_keys(r);
    r.feed.next = r.feed.runs = r.feed.stage = 0;
#endif
    bool some = segment_next(o, u, s);
#if LOAD_BULK
    r.parity = 0;
    griddepcontrol_wait(); // for q
#else
    feed_open(o, r.feed);
#endif
    while (some) {
        attend(o, s, r);
        some = segment_next(o, u, s);
    }
    empty_rows_clear(o);
}

extern __shared__ __align__(128) u8 block_shared[];

extern "C" __global__ void __launch_bounds__(THREADS + LOAD_BULK * WARP_LANES, 1)
    attention_decode(const act_t *q, const u8 *kv, const s32 *positions, const s32 *slots,
                     const s32 *page_table, float *records, u32 *counts, const s32 *places,
                     act_t *out, s64 tokens) {
    u32 shared = shared_address(block_shared);
    Operands o = {q, kv, positions, slots, page_table, records, counts, places, out, (int)tokens};
    griddepcontrol_launch_dependents();
    Units u = units_open(o);
#if LOAD_BULK
    barriers_init(shared);
    __syncthreads();
    if (threadIdx.x >= THREADS) {
        if (threadIdx.x == THREADS) {
            produce(o, u, shared);
        }
        return;
    }
#endif
    consume(o, u, shared);
}

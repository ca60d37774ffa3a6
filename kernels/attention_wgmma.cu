// (1) out[t][h] = sum over j of softmax_j(cap(q[t][h] . k[j] * scale)) v[j], for tokens t, runs of
//     consecutive ones of several sequences; k and v of KV head h / (HEADS / KV_HEADS) of slot
//     slots[t]; j = 0 .. positions[t], of them the last WINDOW (if any). On Hopper, by wgmma.
//
// (2) operand     dtype  shape                          notes
//     q           act    [tokens, HEADS, HEAD_DIM]      rotated
//     kv          act    pages, see attention.cuh       of this layer, with the new k and v
//     positions   int32  [tokens]                       in a run one follows the other
//     slots       int32  [tokens]                       of a run the same; -1: nothing is done
//     page_table  int32  [slots, PAGES_PER_SEQ]
//     places      int32  [HEADS * HEAD_DIM]             null without HAS_PLACES
//     out         act    [tokens, HEADS, HEAD_DIM]
//     tokens      int64
//
// (3) Rows of a work are (token, head of the group), the heads of a token side by side. Tiles in
//     shared memory are columns of 64 elements, [rows][64] in the 128-byte swizzle of
//     wgmma_shared.cuh, HEAD_DIM / 64 of them one behind the other, the last one half full if
//     HEAD_DIM is 96:
//
//       queries [ROWS], then a ring of SLOTS tiles [KEYS], keys and values in the order of use:
//       K0 K1 V0 K2 V1 .. K(n-1) V(n-2) V(n-1), then those of the next work
//
//     Accumulators of scores, packed to 16 bits, are the A fragments of the second product.
//
// (4) Flops: 4 * HEADS * HEAD_DIM * (pairs of query and key). 2048 tokens, 32 heads of 128: 34
//     GFLOP a layer, causal; 8192: 550. A tile of 128 keys keeps the tensor cores busy for 1024
//     cycles of each consumer; its 64 exponentials of a thread take 512 of another unit. Times:
//     docs/performance.md.
//
// (5) the parameters of attention.cuh; CONSUMERS, 2 warpgroups of 64 rows; KEYS 64 or 128 of a
//     tile; SLOTS 3 ..; SHARED_BYTES, as the launch reserves them. Tiles start at multiples of KEYS
//     and are taken from the last to the first, so that a row's sums depend on its own position
//     only, not on where a prompt was cut.
//
// (6) Grid {blocks, 1, 1}, (CONSUMERS + 1) * 128 threads: blocks take works in turn, those of the
//     last tokens first (of one sequence the longest), every second turn backwards. A work is a KV
//     head and BLOCK_TOKENS tokens; where runs meet in it, it has a part for each.
//
//     warpgroup 0      copies, 16 bytes a lane, into the ring; it runs ahead into the next work
//     warpgroup 1 ..   the scores of the next tile and the values of this one are multiplied while
//                      the consumer beside it is at its exponentials: they take turns (the named
//                      barriers BARRIER_TURN)
//
// (7) Read from the bottom: attention_wgmma, consume, produce; a tile: step.
#include "ptx.cuh"
#include "attention.cuh"
#include "wgmma_shared.cuh"

constexpr int GROUP_THREADS = 4 * WARP_LANES;
constexpr int THREADS       = (CONSUMERS + 1) * GROUP_THREADS;
constexpr int ROWS          = CONSUMERS * 64;
constexpr int BLOCK_TOKENS  = ROWS / GROUP_HEADS;
constexpr int COLUMN_BYTES  = 128;
constexpr int COLUMNS       = (ROW_BYTES + COLUMN_BYTES - 1) / COLUMN_BYTES;
constexpr int QUERY_BYTES   = COLUMNS * ROWS * COLUMN_BYTES;
constexpr int SLOT_BYTES    = COLUMNS * KEYS * COLUMN_BYTES;
constexpr int ALIGN         = 1024;
constexpr int BARRIERS_AT   = QUERY_BYTES + SLOTS * SLOT_BYTES; // full, empty of slots, of queries
constexpr int SCORES        = KEYS / 2;                         // of a thread
constexpr int OUTS          = HEAD_DIM / 2;
constexpr int STEPS         = HEAD_DIM / 16; // of k16, in q k^T
// Below every maximum, far above NO_SCORE times the scale: where a row has no key in a tile, the
// weights are 2^-huge = 0.
constexpr float LEAST_MAX = -1e20f;
static_assert(HEAD_DIM == 64 || HEAD_DIM == 96 || HEAD_DIM == 128 || HEAD_DIM == 256, "HEAD_DIM");
static_assert(CONSUMERS == 2, "CONSUMERS"); // three leave too few registers
static_assert(KEYS == 64 || KEYS == 128, "KEYS");
static_assert(SLOTS >= 3 && BLOCK_TOKENS >= 1, "SLOTS, heads of a group");
static_assert(KEYS % PAGE_TOKENS == 0 || PAGE_TOKENS % KEYS == 0, "PAGE_TOKENS");
static_assert(SHARED_BYTES == ALIGN + BARRIERS_AT + (SLOTS + 1) * 16, "kernel_attention.c");

// Registers of a thread, as in linear_wgmma.cu. With less than 40 the producer spills.
constexpr int LAUNCH_REGISTERS   = 65536 / THREADS / 8 * 8;
constexpr int PRODUCER_REGISTERS = 40;
constexpr int CONSUMER_REGISTERS =
    (LAUNCH_REGISTERS + (LAUNCH_REGISTERS - PRODUCER_REGISTERS) / CONSUMERS) / 8 * 8;

// ---- works --------------------------------------------------------------------------------------

struct Operands {
    const act_t *q;
    const u8 *kv;
    const s32 *page_table, *places;
    act_t *out;
    const s32 *positions, *slots;
    int tokens;
};

struct Work { // or the part of it that is of one sequence
    KvHead head;
    int kv_index;
    int first_token, tokens;
    int start;       // position of its first token
    int end;         // keys that its last token sees, but for those before a window
    int top, bottom; // first keys of its last and its first tile
};

__device__ __forceinline__ int work_count(const Operands &o) {
    return (o.tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS * KV_HEADS;
}

// The work of this block in a turn; behind the last one: -1 or a number that is too large.
__device__ __forceinline__ int work_number(int turn) {
    int blocks = (int)gridDim.x, block = (int)blockIdx.x;
    return turn * blocks + (turn % 2 ? blocks - 1 - block : block);
}

// The tokens of a work.
__device__ __forceinline__ int work_first(const Operands &o, int number) {
    int blocks = (o.tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    return (blocks - 1 - number / KV_HEADS) * BLOCK_TOKENS;
}
__device__ __forceinline__ int work_last(const Operands &o, int number) {
    return min(work_first(o, number) + BLOCK_TOKENS, o.tokens);
}

// The part that begins with token `first`, of slot `slot`.
__device__ __forceinline__ Work work_open(const Operands &o, int number, int first, int slot) {
    Work w;
    w.kv_index    = number % KV_HEADS;
    w.first_token = first;
    w.tokens      = run_end(o.slots, first, work_last(o, number)) - first;
    w.start       = o.positions[first];
    w.end         = w.start + w.tokens;
    w.top         = (w.end - 1) / KEYS * KEYS;
    w.bottom      = first_key(w.start) / KEYS * KEYS;
    w.head        = kv_head(o.kv, o.page_table, slot, w.kv_index);
    return w;
}

// ---- shared memory ------------------------------------------------------------------------------

struct Ring {
    u32 shared; // aligned to 1024
    __device__ __forceinline__ u32 queries() const {
        return shared;
    }
    __device__ __forceinline__ u32 slot(u32 at) const {
        return shared + QUERY_BYTES + at * SLOT_BYTES;
    }
    __device__ __forceinline__ u32 full(u32 at) const {
        return shared + BARRIERS_AT + at * 8;
    }
    __device__ __forceinline__ u32 empty(u32 at) const {
        return shared + BARRIERS_AT + (SLOTS + at) * 8;
    }
    __device__ __forceinline__ u32 queries_full() const {
        return shared + BARRIERS_AT + SLOTS * 16;
    }
    __device__ __forceinline__ u32 queries_empty() const {
        return shared + BARRIERS_AT + SLOTS * 16 + 8;
    }
};

// A place in the ring, through all works of a block.
struct Cursor {
    u32 at, parity;
};

__device__ __forceinline__ Cursor cursor_next(Cursor c) {
    bool wraps = c.at + 1 == SLOTS;
    return {wraps ? 0 : c.at + 1, wraps ? c.parity ^ 1 : c.parity};
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    while (!mbarrier_try_wait_parity(barrier, parity)) {
    }
}

// ---- the producer -------------------------------------------------------------------------------

constexpr int ROW_CHUNKS     = ROW_BYTES / 16;
constexpr int ROW_LANES      = COLUMNS * 8;               // threads for a row, some idle for 96
constexpr int PASS_ROWS      = GROUP_THREADS / ROW_LANES; // copied by all threads in one go
constexpr int PAGES_PER_TILE = KEYS > PAGE_TOKENS ? KEYS / PAGE_TOKENS : 1;
static_assert(16 % PASS_ROWS == 0, "the rows of a pass lie in one page");

// What one thread copies: chunk `chunk` of every PASS_ROWS-th row.
struct Copier {
    int row, chunk;
};

// Its place in a tile of ROWS_OF_TILE rows in pass `pass`.
template <int ROWS_OF_TILE> __device__ __forceinline__ u32 copier_place(const Copier &c, int pass) {
    u32 row = (u32)(c.row + pass * PASS_ROWS), chunk = (u32)c.chunk;
    return chunk / 8 * (ROWS_OF_TILE * COLUMN_BYTES) + row * COLUMN_BYTES +
           (chunk % 8 ^ row % 8) * 16;
}

// The same for chunk `chunk` as it lies in a row of the cache: with 64 elements a row is exchanged there
// as the tile is, and is copied as it is.
__device__ __forceinline__ u32 kv_place(const Copier &c, int pass) {
    Copier exchanged = c;
    exchanged.chunk  = kv_chunk(c.row + pass * PASS_ROWS, c.chunk);
    return copier_place<KEYS>(exchanged, pass);
}

__device__ __forceinline__ void queries_copy(const Operands &o, const Work &w, const Copier &c,
                                             u32 shared) {
    const act_t *base = o.q + w.kv_index * (GROUP_HEADS * HEAD_DIM) + c.chunk * 8;
    int rows          = w.tokens * GROUP_HEADS;
#pragma unroll 1 // copies do not wait for each other
    for (int pass = 0; pass < ROWS / PASS_ROWS; pass++) {
        int row = c.row + pass * PASS_ROWS, token = w.first_token + row / GROUP_HEADS;
        const act_t *from = base + (s64)token * (HEADS * HEAD_DIM) + row % GROUP_HEADS * HEAD_DIM;
        cp_async_16_zfill(shared + copier_place<ROWS>(c, pass), row < rows ? from : base,
                          row < rows ? 16 : 0);
    }
}

// Keys (values_at = 0) or values from position `first` on; zeros behind the end.
__device__ __forceinline__ void tile_copy(const Work &w, const Copier &c, int first, s64 values_at,
                                          u32 shared) {
    int inside = PAGE_TOKENS > KEYS ? first % PAGE_TOKENS : 0;
    s32 pages[PAGES_PER_TILE];
#pragma unroll // pages stay in registers
    for (int at = 0; at < PAGES_PER_TILE; at++) {
        pages[at] = kv_page(w.head, min(first + at * PAGE_TOKENS, w.end - 1));
    }
#pragma unroll // copies in flight
    for (int at = 0; at < PAGES_PER_TILE; at++) {
        constexpr int PASSES = KEYS / PAGES_PER_TILE / PASS_ROWS;
        const u8 *page       = w.head.keys + pages[at] * (s64)KV_PAGE_BYTES + values_at +
                         (inside + c.row) * ROW_BYTES + c.chunk * 16;
        int left = w.end - (first + c.row + at * PASSES * PASS_ROWS); // rows that exist
#pragma unroll // copies in flight
        for (int pass = 0; pass < PASSES; pass++) {
            cp_async_16_zfill(shared + kv_place(c, at * PASSES + pass),
                              page + pass * (PASS_ROWS * ROW_BYTES),
                              pass * PASS_ROWS < left ? 16 : 0);
        }
    }
}

__device__ __forceinline__ void slot_copy(const Work &w, const Copier &c, int first, s64 values_at,
                                          Ring ring, Cursor &cursor) {
    barrier_wait(ring.empty(cursor.at), cursor.parity ^ 1);
    if (c.chunk < ROW_CHUNKS) {
        tile_copy(w, c, first, values_at, ring.slot(cursor.at));
    }
    cp_async_arrive(ring.full(cursor.at));
    cursor = cursor_next(cursor);
}

__device__ __forceinline__ void produce(const Operands &o, const Work &w, const Copier &c,
                                        Ring ring, Cursor &cursor, u32 turn) {
    int first = w.top;
    barrier_wait(ring.queries_empty(), turn % 2 ^ 1);
    if (c.chunk < ROW_CHUNKS) {
        queries_copy(o, w, c, ring.queries());
    }
    cp_async_arrive(ring.queries_full());
    slot_copy(w, c, first, 0, ring, cursor);
#pragma unroll 1 // a tile is long enough
    for (; first > w.bottom; first -= KEYS) {
        slot_copy(w, c, first - KEYS, 0, ring, cursor);
        slot_copy(w, c, first, KV_VALUES_AT, ring, cursor);
    }
    slot_copy(w, c, first, KV_VALUES_AT, ring, cursor);
}

// ---- a consumer ---------------------------------------------------------------------------------

enum { BARRIER_TURN = 1 }; // .. CONSUMERS

struct Consumer {
    Ring ring;
    int index; // of the warpgroup
    u32 queries;
    Cursor next;   // slot
    int low, high; // positions of this thread's rows g and g + 8
    int column;    // of its first score
    bool releases; // one lane of a warp
};

struct State {
    float out[OUTS]; // n8 tiles of HEAD_DIM: (row g; 2c, 2c+1), (row g + 8; ...)
    float max[2], sum[2];
};

// The first of this thread's two rows of the work. Computed anew for each, as far as the compiler
// knows: kept from one work to the next, what depends on it would take registers from the tiles.
__device__ __forceinline__ int row_of(const Consumer &c) {
    int row = c.index * 64 + (int)threadIdx.x % GROUP_THREADS / WARP_LANES * 16 +
              (int)threadIdx.x % WARP_LANES / 4;
    return hidden_s32(row);
}

__device__ __forceinline__ void turn_wait(const Consumer &c) {
    bar_sync(BARRIER_TURN + c.index, 2 * GROUP_THREADS);
}
__device__ __forceinline__ void turn_pass(const Consumer &c) {
    bar_arrive(BARRIER_TURN + (c.index + 1 == CONSUMERS ? 0 : c.index + 1), 2 * GROUP_THREADS);
}

__device__ __forceinline__ void slot_wait(const Consumer &c, Cursor slot) {
    barrier_wait(c.ring.full(slot.at), slot.parity);
    fence_proxy_async(); // the copies, for wgmma
}
__device__ __forceinline__ void slot_release(const Consumer &c, Cursor slot) {
    if (c.releases) {
        mbarrier_arrive(c.ring.empty(slot.at));
    }
}

__device__ __forceinline__ void scores_start(float *score, const Consumer &c, Cursor slot) {
    u32 keys = c.ring.slot(slot.at);
    wgmma_hold<SCORES>(score);
    wgmma_fence();
#pragma unroll // scores stay in registers
    for (int step = 0; step < STEPS; step++) {
        u32 in_column = step % 4 * 32;
        u64 a = wgmma_tokens(c.queries + step / 4 * (ROWS * COLUMN_BYTES) + in_column);
        u64 b = wgmma_tokens(keys + step / 4 * (KEYS * COLUMN_BYTES) + in_column);
        wgmma_shared_step<KEYS>(score, a, b, step > 0);
    }
    wgmma_commit();
}

__device__ __forceinline__ void values_start(float *out, const u32 weights[KEYS / 16][4],
                                             const Consumer &c, Cursor slot) {
    u32 values = c.ring.slot(slot.at);
    wgmma_hold<OUTS>(out);
    wgmma_fence();
#pragma unroll // weights stay in registers
    for (int step = 0; step < KEYS / 16; step++) {
        wgmma_step<HEAD_DIM, 1>(out, weights[step],
                                wgmma_rows(values + step * (16 * COLUMN_BYTES),
                                           KEYS * COLUMN_BYTES));
    }
    wgmma_commit();
}

__device__ __forceinline__ bool counts(int key, int position) {
    return key <= position && (!WINDOW || key > position - (int)WINDOW);
}

// Caps scores; those of keys that a row does not see become NO_SCORE.
template <bool MASK>
__device__ __forceinline__ void scores_finish(float *score, const Consumer &c, int first) {
    int low = c.low - first - c.column, high = c.high - first - c.column;
#pragma unroll // scores stay in registers
    for (int at = 0; at < SCORES; at++) {
        if (SOFTCAP_BITS) {
            score[at] = capped(score[at]);
        }
        if (MASK) {
            bool sees = counts(at / 4 * 8 + at % 2, at % 4 < 2 ? low : high);
            score[at] = sees ? score[at] : NO_SCORE;
        }
    }
}

// Scores become weights, 2^(score * scale - max), and are added to the sum; shrink: what brings the
// rows' sums and outputs to the new maximum.
__device__ __forceinline__ void softmax(State &s, float *score, float shrink[2]) {
    const float scale = score_scale();
#pragma unroll // the state stays in registers
    for (int half = 0; half < 2; half++) {
        float most = NO_SCORE;
#pragma unroll // scores stay in registers
        for (int at = 2 * half; at < SCORES; at += 4) {
            most = fmaxf(most, fmaxf(score[at], score[at + 1]));
        }
        most         = fmaxf(most, shfl_xor_f32(most, 1));
        most         = fmaxf(most, shfl_xor_f32(most, 2));
        most         = fmaxf(most * scale, s.max[half]);
        shrink[half] = ex2_approx(s.max[half] - most);
        s.max[half]  = most;
        float sum    = 0.0f;
#pragma unroll // scores stay in registers
        for (int at = 2 * half; at < SCORES; at += 4) {
            score[at]     = ex2_approx(score[at] * scale - most);
            score[at + 1] = ex2_approx(score[at + 1] * scale - most);
            sum += score[at] + score[at + 1];
        }
        s.sum[half] = s.sum[half] * shrink[half] + sum;
    }
}

__device__ __forceinline__ void weights_pack(u32 weights[KEYS / 16][4], const float *score) {
#pragma unroll // weights stay in registers
    for (int at = 0; at < SCORES / 2; at++) {
        weights[at / 4][at % 4] = act2_from_f32(score[2 * at], score[2 * at + 1]);
    }
}

// The scores of tile `tile` and the values of the one behind it, whose weights are given; then the
// weights of this one.
template <bool MASK>
__device__ __forceinline__ void step(State &s, u32 weights[KEYS / 16][4], Consumer &c, int first) {
    float score[SCORES], shrink[2];
    Cursor keys = c.next, values = cursor_next(keys);
    c.next = cursor_next(values);
    slot_wait(c, keys);
    turn_wait(c);
    scores_start(score, c, keys);
    slot_wait(c, values);
    values_start(s.out, weights, c, values);
    turn_pass(c);
    wgmma_wait<1>();
    wgmma_hold<SCORES>(score);
    slot_release(c, keys);
    scores_finish<MASK>(score, c, first);
    softmax(s, score, shrink);
    wgmma_wait<0>();
    wgmma_hold<OUTS>(s.out);
    slot_release(c, values);
    weights_pack(weights, score);
#pragma unroll // the state stays in registers
    for (int at = 0; at < OUTS; at++) {
        s.out[at] *= shrink[at / 2 % 2];
    }
}

__device__ __forceinline__ void rows_store(State &s, const Operands &o, const Work &w,
                                           const Consumer &c) {
#pragma unroll // the state stays in registers
    for (int half = 0; half < 2; half++) {
        int row   = row_of(c) + 8 * half;
        float sum = s.sum[half];
        sum += shfl_xor_f32(sum, 1);
        sum += shfl_xor_f32(sum, 2);
        if (row < w.tokens * GROUP_HEADS) {
            float scale = 1.0f / sum;
            int head = (w.kv_index * GROUP_HEADS + row % GROUP_HEADS) * HEAD_DIM + c.column;
            act_t *p = o.out + (s64)(w.first_token + row / GROUP_HEADS) * (HEADS * HEAD_DIM);
#pragma unroll // the state stays in registers
            for (int tile = 0; tile < HEAD_DIM / 8; tile++) {
                store_pair(p, o.places, head + tile * 8, s.out[tile * 4 + 2 * half] * scale,
                           s.out[tile * 4 + 2 * half + 1] * scale);
            }
        }
    }
}

__device__ __forceinline__ void consume(const Operands &o, const Work &w, Consumer &c, u32 turn) {
    State s;
    u32 weights[KEYS / 16][4];
    int row = row_of(c);
    c.low  = w.start + row / GROUP_HEADS;
    c.high = w.start + (row + 8) / GROUP_HEADS;
#pragma unroll // the state stays in registers
    for (int at = 0; at < OUTS; at++) {
        s.out[at] = 0.0f;
    }
    s.max[0] = s.max[1] = LEAST_MAX;
    s.sum[0] = s.sum[1] = 0.0f;
    int first = w.top;
    {
        float score[SCORES], shrink[2];
        barrier_wait(c.ring.queries_full(), turn % 2);
        slot_wait(c, c.next);
        scores_start(score, c, c.next);
        wgmma_wait<0>();
        wgmma_hold<SCORES>(score);
        slot_release(c, c.next);
        c.next = cursor_next(c.next);
        scores_finish<true>(score, c, first);
        softmax(s, score, shrink);
        weights_pack(weights, score);
    }
    // From here down to `open` all rows see all keys, and below it those of a window's start.
    int open = WINDOW ? first_key(w.end - 1) : 0;
#pragma unroll 1 // a tile is long enough
    for (first -= KEYS; first >= w.bottom && first + KEYS > w.start + 1; first -= KEYS) {
        step<true>(s, weights, c, first);
    }
#pragma unroll 1 // a tile is long enough
    for (; first >= w.bottom && first >= open; first -= KEYS) {
        step<false>(s, weights, c, first);
    }
    if (WINDOW) {
#pragma unroll 1 // a tile is long enough
        for (; first >= w.bottom; first -= KEYS) {
            step<true>(s, weights, c, first);
        }
    }
    if (c.releases) {
        mbarrier_arrive(c.ring.queries_empty());
    }
    slot_wait(c, c.next);
    values_start(s.out, weights, c, c.next);
    wgmma_wait<0>();
    wgmma_hold<OUTS>(s.out);
    slot_release(c, c.next);
    c.next = cursor_next(c.next);
    rows_store(s, o, w, c);
}

// ---- the kernel ---------------------------------------------------------------------------------

extern __shared__ __align__(128) u8 block_shared[];

__device__ __forceinline__ Ring ring_open() {
    Ring ring = {(shared_address(block_shared) + ALIGN - 1) & ~(u32)(ALIGN - 1)};
    if (threadIdx.x == 0) {
        for (u32 slot = 0; slot < SLOTS; slot++) {
            mbarrier_init(ring.full(slot), GROUP_THREADS);
            mbarrier_init(ring.empty(slot), CONSUMERS * 4);
        }
        mbarrier_init(ring.queries_full(), GROUP_THREADS);
        mbarrier_init(ring.queries_empty(), CONSUMERS * 4);
        fence_mbarrier_init();
    }
    __syncthreads();
    return ring;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention_wgmma(const act_t *q, const u8 *kv, const s32 *positions, const s32 *slots,
                    const s32 *page_table, const s32 *places, act_t *out, s64 tokens) {
    griddepcontrol_launch_dependents();
    Ring ring = ring_open();
    griddepcontrol_wait(); // q and the new keys are the work of the kernel before
    Operands o = {q, kv, page_table, places, out, positions, slots, (int)tokens};
    int works  = work_count(o);
    u32 done   = 0; // parts
    // Each role has a loop of its own: behind a common one nobody could tell how many registers a
    // thread has.
    if (threadIdx.x < GROUP_THREADS) {
        registers_less<PRODUCER_REGISTERS>();
        Copier c   = {(int)threadIdx.x / ROW_LANES, (int)threadIdx.x % ROW_LANES};
        Cursor cursor = {0, 0};
        for (int turn = 0; work_number(turn) < works; turn++) {
            int number = work_number(turn);
#pragma unroll 1 // one part, nearly always
            for (int first = work_first(o, number); first < work_last(o, number);) {
                Work w = work_open(o, number, first, o.slots[first]);
                if (o.slots[first] >= 0) {
                    produce(o, w, c, ring, cursor, done++);
                }
                first += w.tokens;
            }
        }
        cp_async_wait_all(); // nothing is written behind the block's end
    } else {
        registers_more<CONSUMER_REGISTERS>();
        Consumer c;
        c.ring     = ring;
        c.index    = (int)threadIdx.x / GROUP_THREADS - 1;
        c.queries  = ring.queries() + (u32)c.index * (64 * COLUMN_BYTES);
        c.next     = {0, 0};
        c.column   = (int)threadIdx.x % 4 * 2;
        c.releases = threadIdx.x % WARP_LANES == 0;
        if (c.index == CONSUMERS - 1) {
            turn_pass(c); // the first consumer begins
        }
        for (int turn = 0; work_number(turn) < works; turn++) {
            int number = work_number(turn);
#pragma unroll 1 // one part, nearly always
            for (int first = work_first(o, number); first < work_last(o, number);) {
                Work w = work_open(o, number, first, o.slots[first]);
                if (o.slots[first] >= 0) {
                    consume(o, w, c, done++);
                }
                first += w.tokens;
            }
        }
        if (c.index == 0) {
            turn_wait(c); // what the last consumer has passed on
        }
    }
}

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
// (7) Read from the bottom: attention_decode, consume, attend. Then, in this order:
//     attention_units.cuh     what a block is to do
//     attention_feed.cuh      keys and values to shared memory, by the warps that use them,
//     attention_bulk.cuh      or by a warp of their own: LOAD_BULK
//     attention_run.cuh       16 keys and values
//     attention_parts.cuh     sums of warps, parts, blocks
#include "ptx.cuh"
#include "reduce.cuh"
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

__device__ __forceinline__ int stage_next(int stage) {
    return stage + 1 == STAGES ? 0 : stage + 1;
}

#include "attention_units.cuh"
#if LOAD_BULK
#include "attention_bulk.cuh"
#else
#include "attention_feed.cuh"
#endif
#include "attention_run.cuh"
#include "attention_parts.cuh"

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
    runs_open(r, u, shared);
    bool some = segment_next(o, u, s);
    runs_begin(o, r);
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

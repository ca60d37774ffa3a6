// (1) y[k] = x[k] / sqrt(mean over the row of x^2 + eps), out[k] = y[k] * w[k]           (RMSNorm)
//     With HAS_ORDER out[k] = y[order[k]] * w[k], 0 where order[k] is -1.
//
// (2) operand   dtype         shape                     notes
//     x         fp32 or act   [tokens, ROWS, WIDTH]     fp32: the residual stream
//     w         fp32          [OUT_WIDTH]
//     order     int32         [OUT_WIDTH]               null without HAS_ORDER
//     out       fp32 or act   [tokens, ROWS, OUT_WIDTH]
//     tokens    int64
//
// (3) Layouts: all plain row-major. Thread i of the T that share a row holds elements V i .. V i +
//     V - 1 of every slice of T V: slice s, thread i -> k = T V s + V i. V is 4 where it divides
//     WIDTH, else 2 or 1.
//
// (4) Bytes: tokens * ROWS * (WIDTH + OUT_WIDTH) elements; w stays in L2. 2048 tokens x 4096 of
//     fp32 to act: 50 MB, 12 us at 4.1 TB/s on an H200; one token: launch and two round trips to
//     L2, about 2 us. Times: docs/performance.md.
//
// (5) WIDTH      elements that are normed together, up to 32768
//     OUT_WIDTH  elements of a row of out; WIDTH without HAS_ORDER
//     ROWS       rows of a token: 1, or heads
//     IN_F32, OUT_F32, HAS_ORDER   0 or 1
//     EPS_BITS   eps as the bits of a float
//     ROW_WARPS, BLOCK_ROWS   warps that share a row, rows of a block; one of them is 1
//
// (6) Grid {ceil(ROWS / BLOCK_ROWS), tokens, 1}, 32 * ROW_WARPS * BLOCK_ROWS threads: a warp a row
//     where rows are short and many, else a block. The row stays in registers between the sum and
//     the scaling; with an order it is read again, from L1.
//
// (7) Read: load_row, row_factor, store_row, ordered_open, ordered_store, then the entry.
#include "ptx.cuh"
#include "reduce.cuh"
#include "rows.cuh"

constexpr int ROW_THREADS = ROW_WARPS * WARP_LANES;
constexpr int THREADS     = ROW_THREADS * BLOCK_ROWS;
constexpr int V           = vector_of(WIDTH, 4);
constexpr int SLICE       = ROW_THREADS * V; // elements that are read in one go
constexpr int SLICES      = (WIDTH + SLICE - 1) / SLICE;
static_assert(WIDTH > 0 && WIDTH <= 32768 && ROWS > 0, "the row must fit the registers");
static_assert(ROW_WARPS == 1 || BLOCK_ROWS == 1, "a block has rows of a warp, or one row");
static_assert(HAS_ORDER || OUT_WIDTH == WIDTH, "only an order changes the width");

__device__ __forceinline__ int row_thread() {
    return (int)threadIdx.x % ROW_THREADS;
}

__device__ __forceinline__ void load_row(float values[SLICES][V], const void *x, s64 row) {
#pragma unroll // values stay in registers
    for (int slice = 0; slice < SLICES; slice++) {
        int k = slice * SLICE + row_thread() * V;
        if (k < WIDTH) {
            load_elems<IN_F32, V>(values[slice], x, row * WIDTH + k);
        } else {
#pragma unroll // values stay in registers
            for (int i = 0; i < V; i++) {
                values[slice][i] = 0.0f;
            }
        }
    }
}

// 1 / sqrt(mean + eps), for every thread of the row. `scratch`: ROW_WARPS floats.
__device__ __forceinline__ float row_factor(const float values[SLICES][V], float *scratch) {
    float squares = 0.0f;
#pragma unroll // values stay in registers
    for (int slice = 0; slice < SLICES; slice++) {
        float sum = 0.0f;
#pragma unroll // values stay in registers
        for (int i = 0; i < V; i++) {
            sum += values[slice][i] * values[slice][i];
        }
        squares += sum;
    }
    float sum;
    if constexpr (ROW_WARPS == 1) {
        sum = warp_sum(squares);
    } else {
        sum = block_sum<ROW_WARPS>(squares, scratch);
    }
    return 1.0f / sqrtf(sum * (1.0f / WIDTH) + __uint_as_float(EPS_BITS));
}

__device__ __forceinline__ void store_row(const float values[SLICES][V], float factor,
                                          const float *w, void *out, s64 row) {
#pragma unroll // values stay in registers
    for (int slice = 0; slice < SLICES; slice++) {
        int k = slice * SLICE + row_thread() * V;
        if (k < WIDTH) {
            float y[V];
            load_elems<true, V>(y, w, k);
#pragma unroll // values stay in registers
            for (int i = 0; i < V; i++) {
                y[i] = values[slice][i] * factor * y[i];
            }
            store_elems<OUT_F32, V>(out, row * WIDTH + k, y);
        }
    }
}

// Elements of a thread that are gathered together, so that one round trip serves them all.
constexpr int THREAD_ELEMS = (OUT_WIDTH + ROW_THREADS - 1) / ROW_THREADS;
constexpr int AT_ONCE      = THREAD_ELEMS < 16 ? THREAD_ELEMS : 16;

// Where the elements first, first + ROW_THREADS, ... come from, and their weights. They are constants.
struct Ordered {
    s32 from[AT_ONCE];
    float w[AT_ONCE];
};
__device__ __forceinline__ void ordered_open(Ordered &o, const float *w, const s32 *order, int first) {
#pragma unroll // o stays in registers
    for (int i = 0; i < AT_ONCE; i++) {
        int k     = first + i * ROW_THREADS;
        o.from[i] = k < OUT_WIDTH ? (s32)ld_global_u32(order + k) : -1;
        o.w[i]    = k < OUT_WIDTH ? ld_global_f32(w + k) : 0.0f;
    }
}

__device__ __forceinline__ void ordered_store(const Ordered &o, const void *x, float factor, void *out,
                                              s64 row, int first) {
    float y[AT_ONCE];
#pragma unroll // y stays in registers
    for (int i = 0; i < AT_ONCE; i++) {
        y[i] = 0.0f;
        if (o.from[i] >= 0) {
            load_elems<IN_F32, 1>(&y[i], x, row * WIDTH + o.from[i]);
        }
    }
#pragma unroll // y stays in registers
    for (int i = 0; i < AT_ONCE; i++) {
        int k   = first + i * ROW_THREADS;
        float z = y[i] * factor * o.w[i];
        if (k < OUT_WIDTH) {
            store_elems<OUT_F32, 1>(out, row * OUT_WIDTH + k, &z);
        }
    }
}

// One block at least: without that ptxas 13.0 spills in order to fit one more (WIDTH 5000, sm_80).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    rms_norm(const void *x, const float *w, const s32 *order, void *out, s64 tokens) {
    __shared__ float scratch[ROW_WARPS];
    s64 token = blockIdx.y;
    int at    = (int)blockIdx.x * BLOCK_ROWS + (int)threadIdx.x / ROW_THREADS; // of the token
    griddepcontrol_launch_dependents();
#if HAS_ORDER
    Ordered ordered; // before anything that waits
    ordered_open(ordered, w, order, row_thread());
#endif
    griddepcontrol_wait();
    if (token >= tokens || at >= ROWS) {
        return;
    }
    s64 row = token * ROWS + at;
    float values[SLICES][V];
    load_row(values, x, row);
    float factor = row_factor(values, scratch);
#if HAS_ORDER
    for (int first = row_thread(); first < OUT_WIDTH; first += AT_ONCE * ROW_THREADS) {
        if (first != row_thread()) {
            ordered_open(ordered, w, order, first);
        }
        ordered_store(ordered, x, factor, out, row, first);
    }
#else
    store_row(values, factor, w, out, row);
#endif
}

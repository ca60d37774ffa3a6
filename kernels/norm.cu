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
// (7) Read: load_row, row_factor, store_row, store_ordered, then the entry.
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

__device__ __forceinline__ void store_ordered(const void *x, float factor, const float *w,
                                              const s32 *order, void *out, s64 row) {
    for (int k = row_thread(); k < OUT_WIDTH; k += ROW_THREADS) {
        s32 from = (s32)ld_global_u32(order + k);
        float y  = 0.0f;
        if (from >= 0) {
            load_elems<IN_F32, 1>(&y, x, row * WIDTH + from);
            y = y * factor * ld_global_f32(w + k);
        }
        store_elems<OUT_F32, 1>(out, row * OUT_WIDTH + k, &y);
    }
}

// One block at least: without that ptxas 13.0 spills in order to fit one more (WIDTH 5000, sm_80).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    rms_norm(const void *x, const float *w, const s32 *order, void *out, s64 tokens) {
    __shared__ float scratch[ROW_WARPS];
    s64 token = blockIdx.y;
    int at    = (int)blockIdx.x * BLOCK_ROWS + (int)threadIdx.x / ROW_THREADS; // of the token
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (token >= tokens || at >= ROWS) {
        return;
    }
    s64 row = token * ROWS + at;
    float values[SLICES][V];
    load_row(values, x, row);
    float factor = row_factor(values, scratch);
    if constexpr (HAS_ORDER) {
        store_ordered(x, factor, w, order, out, row);
    } else {
        store_row(values, factor, w, out, row);
    }
}

// (1) One of these, by OPERATION:
//       ACT_MUL  out[k] = act(a[k]) * b[k]
//       ADD      out[k] = a[k] + scale * b[k]
//       PERMUTE  out[k] = a[order[k]], 0 where order[k] is -1
//
// (2) operand    dtype        shape             notes
//     a          act          [tokens, WIDTH]   fp32 for ADD: the residual stream
//     b          act          [tokens, WIDTH]   fp32 or act for ADD, by B_F32
//     order      int32        [WIDTH]           for PERMUTE, in the place of b
//     out        act          [tokens, WIDTH]   fp32 for ADD; may be a
//     tokens     int64
//     For PERMUTE a is [tokens, IN_WIDTH], and out is not a.
//
// (3) Layouts: all plain row-major.
//
// (4) Bytes: each operand once. 2048 tokens x 4096 of ADD with act: 84 MB, 20 us at 4.1 TB/s on an
//     H200; one token: launch and two round trips to L2, about 2 us. Times: docs/performance.md.
//
// (5) OPERATION   0, 1, 2 in the order of (1)
//     WIDTH       elements of a token
//     ACT         ACT_MUL: see activation.cuh
//     B_F32, SCALE_BITS   ADD; the scale as the bits of a float
//     IN_WIDTH    PERMUTE
//     VECTOR      1, 2, 4 or 8; divides WIDTH
//
// (6) Grid {ceil(WIDTH / VECTOR / 256), tokens, 1}, 256 threads, each VECTOR elements.
//
// (7) Read: the operation, then the entry.
#include "ptx.cuh"
#include "rows.cuh"

#define ACT_MUL 0 // ORDER ELEMENTWISE (compiler/kernel_elementwise.c)
#define ADD     1
#define PERMUTE 2

constexpr int THREADS = 256;
constexpr int V       = VECTOR;
static_assert(OPERATION >= ACT_MUL && OPERATION <= PERMUTE, "OPERATION");
static_assert(WIDTH > 0 && WIDTH % V == 0, "VECTOR");

// Elements first .. first + V - 1 of a token.
#if OPERATION == ACT_MUL
#include "activation.cuh"
__device__ __forceinline__ void item(const void *a, const void *b, void *out, s64 token,
                                     int first) {
    float x[V], y[V];
    load_elems<false, V>(x, a, token * WIDTH + first);
    load_elems<false, V>(y, b, token * WIDTH + first);
#pragma unroll // elements stay in registers
    for (int i = 0; i < V; i++) {
        x[i] = activation(x[i]) * y[i];
    }
    store_elems<false, V>(out, token * WIDTH + first, x);
}
#elif OPERATION == ADD
__device__ __forceinline__ void item(const void *a, const void *b, void *out, s64 token,
                                     int first) {
    float x[V], y[V];
    load_elems<true, V>(x, a, token * WIDTH + first);
    load_elems<B_F32, V>(y, b, token * WIDTH + first);
#pragma unroll // elements stay in registers
    for (int i = 0; i < V; i++) {
        x[i] += __uint_as_float(SCALE_BITS) * y[i];
    }
    store_elems<true, V>(out, token * WIDTH + first, x);
}
#else
__device__ __forceinline__ void item(const void *a, const void *order, void *out, s64 token,
                                     int first) {
    float x[V];
#pragma unroll // elements stay in registers
    for (int i = 0; i < V; i++) {
        s32 from = ((const s32 *)order)[first + i];
        x[i]     = 0.0f;
        if (from >= 0) {
            load_elems<false, 1>(&x[i], a, token * IN_WIDTH + from);
        }
    }
    store_elems<false, V>(out, token * WIDTH + first, x);
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS)
    elementwise(const void *a, const void *b, void *out, s64 tokens) {
    s64 token = blockIdx.y;
    int first = (int)(blockIdx.x * THREADS + threadIdx.x) * V;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (token < tokens && first < WIDTH) {
        item(a, b, out, token, first);
    }
}

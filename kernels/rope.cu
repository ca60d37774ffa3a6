// (1) For each head, i < PAIRS and the angle a = positions[t] * inv_freq[i]:
//       out[i]         = x[i] cos a - x[i + PAIRS] sin a
//       out[i + PAIRS] = x[i + PAIRS] cos a + x[i] sin a       cos and sin times the factor
//     and elements from 2 PAIRS on are copied.
//
// (2) operand    dtype  shape                      notes
//     x          act    [tokens, HEADS, HEAD_DIM]
//     inv_freq   fp32   [PAIRS]
//     positions  int32  [tokens]
//     out        act    [tokens, HEADS, HEAD_DIM]
//     tokens     int64
//
// (3) Layouts: plain row-major.
//
// (4) Bytes: tokens * HEADS * HEAD_DIM * 4. 2048 tokens, 40 heads of 128: 42 MB, 10 us at 4.1 TB/s
//     on an H200; one token: launch and two round trips to L2, about 2 us. Times:
//     docs/performance.md.
//
// (5) HEADS, HEAD_DIM
//     PAIRS        of a head, 2 PAIRS <= HEAD_DIM
//     FACTOR_BITS  the factor as the bits of a float
//     VECTOR       1, 2, 4 or 8; divides PAIRS and what is left of HEAD_DIM
//
// (6) Grid {ceil(items of a token / 256), tokens, 1}, 256 threads. An item is VECTOR pairs, or as
//     many elements that do not rotate.
//
// (7) Read: rotate_item, copy_item, then the entry.
#include "ptx.cuh"
#include "rope.cuh"
#include "rows.cuh"

constexpr int THREADS    = 256;
constexpr int V          = VECTOR;
constexpr int REST       = HEAD_DIM - 2 * PAIRS; // elements of a head that do not rotate
constexpr int HEAD_TURNS = PAIRS / V;            // items of a head that rotate
constexpr int HEAD_ITEMS = HEAD_TURNS + REST / V;
static_assert(HEADS > 0 && PAIRS > 0 && REST >= 0, "heads");
static_assert(PAIRS % V == 0 && REST % V == 0, "VECTOR");

// Pairs first .. first + V - 1 of the head at `head`.
__device__ __forceinline__ void rotate_item(const act_t *x, const float *inv_freq, int position,
                                            act_t *out, s64 head, int first) {
    float low[V], high[V], freq[V];
    load_elems<false, V>(low, x, head + first);
    load_elems<false, V>(high, x, head + PAIRS + first);
    load_elems<true, V>(freq, inv_freq, first);
#pragma unroll // pairs stay in registers
    for (int i = 0; i < V; i++) {
        float cosine, sine, a = low[i], b = high[i];
        rope_cos_sin(&cosine, &sine, position, freq[i], __uint_as_float(FACTOR_BITS));
        low[i]  = a * cosine - b * sine;
        high[i] = b * cosine + a * sine;
    }
    store_elems<false, V>(out, head + first, low);
    store_elems<false, V>(out, head + PAIRS + first, high);
}

__device__ __forceinline__ void copy_item(const act_t *x, act_t *out, s64 at) {
    float same[V];
    load_elems<false, V>(same, x, at);
    store_elems<false, V>(out, at, same);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    rope(const act_t *x, const float *inv_freq, const s32 *positions, act_t *out, s64 tokens) {
    s64 token = blockIdx.y;
    int item  = (int)(blockIdx.x * THREADS + threadIdx.x);
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (token >= tokens || item >= HEADS * HEAD_ITEMS) {
        return;
    }
    s64 head    = (token * HEADS + item / HEAD_ITEMS) * HEAD_DIM;
    int of_head = item % HEAD_ITEMS;
    if (of_head < HEAD_TURNS) {
        rotate_item(x, inv_freq, (s32)ld_global_u32(positions + token), out, head, of_head * V);
    } else {
        copy_item(x, out, head + 2 * PAIRS + (of_head - HEAD_TURNS) * V);
    }
}

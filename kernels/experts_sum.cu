// (1) out[t] = sum over j of weight of choice j * y[t, j], in the order of j.
//
// (2) operand  dtype  shape                   notes
//     y        fp32   [tokens, TOP_K, WIDTH]  what the experts of a token gave
//     routes   fp32   [tokens, 2 * TOP_K]     numbers of experts, then their weights
//     out      fp32   [tokens, WIDTH]
//     tokens   int64
//
// (3) Layouts: plain row-major. A thread has V elements, 4 where that divides WIDTH, else 2 or 1.
//
// (4) Bytes: tokens * WIDTH * (TOP_K + 1) * 4: 2048 tokens x 2048 x 8 choices 151 MB, 37 us at 4.1
//     TB/s; few tokens: launch and a round trip to L2.
//
// (5) WIDTH, TOP_K
//
// (6) Grid {ceil(WIDTH / V / 256), tokens, 1}, 256 threads.
//
// (7) Read: the entry.
#include "ptx.cuh"
#include "rows.cuh"

constexpr int THREADS = 256;
constexpr int V = vector_of(WIDTH, 4);
static_assert(WIDTH > 0 && TOP_K > 0, "WIDTH, TOP_K");

extern "C" __global__ void __launch_bounds__(THREADS)
    experts_sum(const float *y, const float *routes, float *out, s64 tokens) {
    s64 token = blockIdx.y;
    int at = (int)(blockIdx.x * THREADS + threadIdx.x) * V;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (token >= tokens || at >= WIDTH) {
        return;
    }
    float sum[V];
#pragma unroll // sum stays in registers
    for (int i = 0; i < V; i++) {
        sum[i] = 0.0f;
    }
    for (int j = 0; j < TOP_K; j++) {
        float x[V], weight = ld_global_f32(routes + token * 2 * TOP_K + TOP_K + j);
        load_elems<true, V>(x, y, (token * TOP_K + j) * WIDTH + at);
#pragma unroll // sum stays in registers
        for (int i = 0; i < V; i++) {
            sum[i] += weight * x[i];
        }
    }
    store_elems<true, V>(out, token * WIDTH + at, sum);
}

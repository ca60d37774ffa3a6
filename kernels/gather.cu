// (1) out[r][k] = x[head_rows[r]][k]; a row outside of [0, ROWS) gives zeros.
//
// (2) operand    dtype  shape          notes
//     x          fp32   [ROWS, WIDTH]  the residual stream of the last step
//     head_rows  int32  [rows]
//     out        fp32   [rows, WIDTH]
//     rows       int64
//
// (3) Layouts: plain row-major.
//
// (4) Bytes: rows * WIDTH * 8: at most a few dozen rows, so launch and latency, about 2 us.
//
// (5) WIDTH  elements of a row; a thread takes 4 of them at a time, or 2 or 1 if they divide it
//     ROWS   rows that x has room for
//
// (6) One block of 256 threads per row: grid {1, rows, 1}.
//
// (7) Read: the entry.
#include "ptx.cuh"
#include "rows.cuh"

constexpr int THREADS = 256;
constexpr int V       = vector_of(WIDTH, 4);
static_assert(WIDTH > 0 && ROWS > 0, "shape");

extern "C" __global__ void __launch_bounds__(THREADS)
    gather(const float *x, const s32 *head_rows, float *out, s64 rows) {
    s64 row = blockIdx.y;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (row >= rows) {
        return;
    }
    s64 from   = head_rows[row];
    bool known = from >= 0 && from < ROWS;
    for (int k = (int)threadIdx.x * V; k < WIDTH; k += THREADS * V) {
        float v[V] = {};
        if (known) {
            load_elems<true, V>(v, x, from * WIDTH + k);
        }
        store_elems<true, V>(out, row * WIDTH + k, v);
    }
}

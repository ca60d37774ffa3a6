// (1) out[t, j][k] = x[t][order[e][k]], 0 where that is -1, for expert e of choice j of a token.
//
// (2) operand  dtype  shape                  notes
//     x        act    [tokens, IN_WIDTH]
//     routes   fp32   [tokens, 2 * TOP_K]    numbers of experts, then their weights
//     slots    int32  [routed experts]       HAS_SLOTS: linear of the stack, -1: none; else null
//     order    int32  [linears, WIDTH]
//     out      act    [tokens, TOP_K, WIDTH] not written where the stack has no linear
//     tokens   int64
//
// (3) Layouts: plain row-major. A thread has eight elements.
//
// (4) Bytes: tokens * TOP_K * WIDTH * (2 + 2 + 4), the order from L2.
//
// (5) IN_WIDTH, WIDTH multiple of 8, TOP_K, HAS_SLOTS
//
// (6) Grid {ceil(WIDTH / 8 / 256), tokens, TOP_K}, 256 threads.
//
// (7) Read: the entry.
#include "ptx.cuh"

constexpr int THREADS = 256;
static_assert(WIDTH % 8 == 0 && IN_WIDTH > 0 && TOP_K > 0, "WIDTH, IN_WIDTH, TOP_K");

extern "C" __global__ void __launch_bounds__(THREADS)
    experts_permute(const act_t *x, const float *routes, const s32 *slots, const s32 *order,
                    act_t *out, s64 tokens) {
    s64 token = blockIdx.y, choice = token * TOP_K + blockIdx.z;
    int at = (int)(blockIdx.x * THREADS + threadIdx.x) * 8;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (token >= tokens || at >= WIDTH) {
        return;
    }
    int slot = (int)ld_global_f32(routes + token * 2 * TOP_K + blockIdx.z);
    if (HAS_SLOTS) {
        slot = (s32)ld_global_u32(slots + slot);
    }
    if (slot < 0) {
        return;
    }
    uint4 a = ld_nc_v4(order + (s64)slot * WIDTH + at);
    uint4 b = ld_nc_v4(order + (s64)slot * WIDTH + at + 4);
    const u32 from[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    u32 v[8];
#pragma unroll // v stays in registers
    for (int i = 0; i < 8; i++) {
        v[i] = (s32)from[i] < 0 ? 0 : ld_global_u16(x + token * IN_WIDTH + from[i]);
    }
    st_global_v4(out + choice * WIDTH + at, make_uint4(v[0] | v[1] << 16, v[2] | v[3] << 16,
                                                       v[4] | v[5] << 16, v[6] | v[7] << 16));
}

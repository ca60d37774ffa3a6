// What: the forms of wgmma that attention takes (sm_90a): A and B in shared memory, and A in
//     registers with a B whose rows are its contraction (values: a row for each key).
// Idea: tiles are [rows][64] of 16 bits in the 128-byte swizzle: rows of 128 bytes, 16-byte chunk c
//     of row r at c ^ (r % 8), aligned to 1024. Wider rows are several such columns one behind the
//     other.
// Source: PTX ISA, "Asynchronous warpgroup level matrix instructions", shared memory layouts.
#ifndef WGMMA_SHARED_CUH
#define WGMMA_SHARED_CUH

#include "wgmma.cuh"

// The same number, about which the compiler knows nothing.
__device__ __forceinline__ int hidden_s32(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

// D = A B + (add ? D : 0), A and B K-major in shared memory.
#define WGMMA_SHARED_STEP(n, sums, place_a, place_b, place_add)                                    \
    asm volatile("{.reg .pred add; setp.ne.u32 add, %" #place_add ", 0; "                          \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." WGMMA_INPUTS                    \
                 " {" WGMMA_PLACES_##sums "}, %" #place_a ", %" #place_b ", add, 1, 1, 0, 0;}"     \
                 : WGMMA_SUMS_##sums(0)                                                            \
                 : "l"(a), "l"(b), "r"(add))

template <int N>
__device__ __forceinline__ void wgmma_shared_step(float *d, u64 a, u64 b, u32 add) {
    if constexpr (N == 128) {
        WGMMA_SHARED_STEP(128, 64, 64, 65, 66);
    } else {
        static_assert(N == 64, "N");
        WGMMA_SHARED_STEP(64, 32, 32, 33, 34);
    }
}

#endif

// What: the forms of wgmma that attention takes (sm_90a): A and B in shared memory, and A in
//     registers with a B whose rows are its contraction (values: a row for each key).
// Idea: tiles are [rows][64] of 16 bits in the 128-byte swizzle: rows of 128 bytes, 16-byte chunk c
//     of row r at c ^ (r % 8), aligned to 1024. Wider rows are several such columns one behind the
//     other.
// Source: PTX ISA, "Asynchronous warpgroup level matrix instructions", shared memory layouts.
#ifndef WGMMA_SHARED_CUH
#define WGMMA_SHARED_CUH

#include "wgmma.cuh"

// B of k16 steps along the rows of a tile: 64 columns of it, and the next 64 at `column_bytes`.
__device__ __forceinline__ u64 wgmma_rows(u32 shared, u32 column_bytes) {
    constexpr u64 EIGHT_ROWS = 1024 >> 4, SWIZZLE_128 = 1;
    return SWIZZLE_128 << 62 | EIGHT_ROWS << 32 | (u64)(column_bytes >> 4) << 16 |
           (u64)(shared >> 4 & 0x3fff);
}

// The same number, about which the compiler knows nothing.
__device__ __forceinline__ int hidden_s32(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

#define WGMMA_PLACES_48                                                                            \
    WGMMA_PLACES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, " WGMMA_TEN_LESS_2
#define WGMMA_TEN_LESS_2 "%40, %41, %42, %43, %44, %45, %46, %47"
#define WGMMA_SUMS_48(i) WGMMA_SUMS_32(i), WGMMA_SUMS_16(i + 32)

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

// D += A B, B by wgmma_rows.
#define WGMMA_ROWS_STEP(n, sums, a0, a1, a2, a3, place_b)                                          \
    asm volatile("{.reg .pred add; setp.eq.u32 add, 0, 0; "                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." WGMMA_INPUTS                    \
                 " {" WGMMA_PLACES_##sums "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, "          \
                 "%" #place_b ", add, 1, 1, 1;}"                                                   \
                 : WGMMA_SUMS_##sums(0)                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

template <int N> __device__ __forceinline__ void wgmma_rows_step(float *d, const u32 a[4], u64 b) {
    if constexpr (N == 256) {
        WGMMA_ROWS_STEP(256, 128, 128, 129, 130, 131, 132);
    } else if constexpr (N == 128) {
        WGMMA_ROWS_STEP(128, 64, 64, 65, 66, 67, 68);
    } else if constexpr (N == 96) {
        WGMMA_ROWS_STEP(96, 48, 48, 49, 50, 51, 52);
    } else {
        static_assert(N == 64, "N");
        WGMMA_ROWS_STEP(64, 32, 32, 33, 34, 35, 36);
    }
}

#endif

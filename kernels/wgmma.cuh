// What: wgmma of sm_90a with A in registers, and what it needs around it.
// Idea: a warpgroup multiplies 64 rows, 16 of each warp in the fragments of mma.m16n8k16, with N
//     tokens in shared memory; D are the fragments of N / 8 such mma one behind the other. The
//     products run while the warps go on: the registers of A and D belong to them until a wait.
// Source: PTX ISA, "Asynchronous warpgroup level matrix instructions".
#ifndef WGMMA_CUH
#define WGMMA_CUH

#if ACT_BF16
#define WGMMA_INPUTS "bf16.bf16"
#else
#define WGMMA_INPUTS "f16.f16"
#endif

// B is a tile [rows][64] of 16 bits, rows of 128 bytes, in which 16-byte chunk c of row r stands at
// c ^ (r % 8), aligned to 1024. Groups of 8 rows are 1024 bytes apart.
//
// With k16 steps along its columns: `shared` is the tile plus 32 bytes for each step; the leading
// offset does not count in this layout.
__device__ __forceinline__ u64 wgmma_tile(u32 shared, u32 leading_bytes) {
    constexpr u64 EIGHT_ROWS = 1024 >> 4, SWIZZLE_128 = 1;
    return SWIZZLE_128 << 62 | EIGHT_ROWS << 32 | (u64)(leading_bytes >> 4) << 16 |
           (u64)(shared >> 4 & 0x3fff);
}
__device__ __forceinline__ u64 wgmma_tokens(u32 shared) {
    return wgmma_tile(shared, 16);
}
// The same tile from a column on, given in bytes. An address in shared memory never carries further.
__device__ __forceinline__ u64 wgmma_columns(u64 tokens, u32 bytes) {
    return (tokens >> 32) << 32 | (u32)((u32)tokens + (bytes >> 4));
}
// Along its rows: 64 columns, and the next 64 at `column_bytes`.
__device__ __forceinline__ u64 wgmma_rows(u32 shared, u32 column_bytes) {
    return wgmma_tile(shared, column_bytes);
}

// Before the first product, and after registers of A or D were written by anything else.
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most PENDING of the newest groups are under way.
template <int PENDING> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// The compiler must not move uses of these registers over a wait.
template <int COUNT> __device__ __forceinline__ void wgmma_hold(float *d) {
#pragma unroll // d stays in registers
    for (int i = 0; i < COUNT; i++) {
        asm volatile("" : "+f"(d[i])::"memory");
    }
}
// D += A B for 64 rows and N tokens, 16, 32, 64, 96, 128 or 256: N / 2 sums of a thread, whose places
// in the text of the instruction and whose operands are lists that grow by doubling.
#define WGMMA_TEN(t) "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t \
                     "7, %" #t "8, %" #t "9, "
#define WGMMA_PLACES_8   "%0, %1, %2, %3, %4, %5, %6, %7"
#define WGMMA_PLACES_16  WGMMA_PLACES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_PLACES_32                                                                            \
    WGMMA_PLACES_16 ", %16, %17, %18, %19, " WGMMA_TEN(2) "%30, %31"
#define WGMMA_PLACES_40 WGMMA_PLACES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, "
#define WGMMA_PLACES_48 WGMMA_PLACES_40 "%40, %41, %42, %43, %44, %45, %46, %47"
#define WGMMA_PLACES_64 WGMMA_PLACES_40 WGMMA_TEN(4) WGMMA_TEN(5) "%60, %61, %62, %63"
#define WGMMA_PLACES_128                                                                           \
    WGMMA_PLACES_64 ", %64, %65, %66, %67, %68, %69, " WGMMA_TEN(7) WGMMA_TEN(8) WGMMA_TEN(9)      \
    WGMMA_TEN(10) WGMMA_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_SUMS_4(i)   "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_SUMS_8(i)   WGMMA_SUMS_4(i), WGMMA_SUMS_4(i + 4)
#define WGMMA_SUMS_16(i)  WGMMA_SUMS_8(i), WGMMA_SUMS_8(i + 8)
#define WGMMA_SUMS_32(i)  WGMMA_SUMS_16(i), WGMMA_SUMS_16(i + 16)
#define WGMMA_SUMS_48(i)  WGMMA_SUMS_32(i), WGMMA_SUMS_16(i + 32)
#define WGMMA_SUMS_64(i)  WGMMA_SUMS_32(i), WGMMA_SUMS_32(i + 32)
#define WGMMA_SUMS_128(i) WGMMA_SUMS_64(i), WGMMA_SUMS_64(i + 64)

// a0 .. a3, b, rows: the places behind the sums.
#define WGMMA_STEP(n, sums, a0, a1, a2, a3, place_b, place_rows)                                   \
    asm volatile("{.reg .pred add; setp.eq.u32 add, 0, 0; "                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." WGMMA_INPUTS                    \
                 " {" WGMMA_PLACES_##sums "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, "          \
                 "%" #place_b ", add, 1, 1, %" #place_rows ";}"                                    \
                 : WGMMA_SUMS_##sums(0)                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ALONG_ROWS))

// ALONG_ROWS 0: B by wgmma_tokens, its rows are columns of D. 1: by wgmma_rows, its rows are the
// contraction.
template <int N, int ALONG_ROWS = 0>
__device__ __forceinline__ void wgmma_step(float *d, const u32 a[4], u64 b) {
    if constexpr (N == 256) {
        WGMMA_STEP(256, 128, 128, 129, 130, 131, 132, 133);
    } else if constexpr (N == 128) {
        WGMMA_STEP(128, 64, 64, 65, 66, 67, 68, 69);
    } else if constexpr (N == 96) {
        WGMMA_STEP(96, 48, 48, 49, 50, 51, 52, 53);
    } else if constexpr (N == 64) {
        WGMMA_STEP(64, 32, 32, 33, 34, 35, 36, 37);
    } else if constexpr (N == 32) {
        WGMMA_STEP(32, 16, 16, 17, 18, 19, 20, 21);
    } else {
        static_assert(N == 16, "N");
        WGMMA_STEP(16, 8, 8, 9, 10, 11, 12, 13);
    }
}

#endif

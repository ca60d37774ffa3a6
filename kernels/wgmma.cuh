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

// B: [tokens][64] of 16 bits, rows of 128 bytes, in which 16-byte chunk c of row t stands at c ^
// (t % 8); `shared` aligned to 1024 plus 32 bytes for each k16 step. Groups of 8 rows are 1024 bytes
// apart; the leading offset does not count in this layout.
__device__ __forceinline__ u64 wgmma_tokens(u32 shared) {
    constexpr u64 EIGHT_ROWS = 1024 >> 4, SWIZZLE_128 = 1;
    return SWIZZLE_128 << 62 | EIGHT_ROWS << 32 | 1ull << 16 | (u64)(shared >> 4 & 0x3fff);
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
// D += A B for 64 rows and 16, 32, 64, 128 or 256 tokens: TOKENS / 2 sums of a thread, whose places
// in the text of the instruction and whose operands are lists that grow by doubling.
#define WGMMA_TEN(t) "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t \
                     "7, %" #t "8, %" #t "9, "
#define WGMMA_PLACES_8   "%0, %1, %2, %3, %4, %5, %6, %7"
#define WGMMA_PLACES_16  WGMMA_PLACES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_PLACES_32                                                                            \
    WGMMA_PLACES_16 ", %16, %17, %18, %19, " WGMMA_TEN(2) "%30, %31"
#define WGMMA_PLACES_64                                                                            \
    WGMMA_PLACES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, " WGMMA_TEN(4) WGMMA_TEN(5)         \
    "%60, %61, %62, %63"
#define WGMMA_PLACES_128                                                                           \
    WGMMA_PLACES_64 ", %64, %65, %66, %67, %68, %69, " WGMMA_TEN(7) WGMMA_TEN(8) WGMMA_TEN(9)      \
    WGMMA_TEN(10) WGMMA_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_SUMS_4(i)   "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_SUMS_8(i)   WGMMA_SUMS_4(i), WGMMA_SUMS_4(i + 4)
#define WGMMA_SUMS_16(i)  WGMMA_SUMS_8(i), WGMMA_SUMS_8(i + 8)
#define WGMMA_SUMS_32(i)  WGMMA_SUMS_16(i), WGMMA_SUMS_16(i + 16)
#define WGMMA_SUMS_64(i)  WGMMA_SUMS_32(i), WGMMA_SUMS_32(i + 32)
#define WGMMA_SUMS_128(i) WGMMA_SUMS_64(i), WGMMA_SUMS_64(i + 64)

// a0 .. a3, b: the places behind the sums.
#define WGMMA_STEP(tokens, sums, a0, a1, a2, a3, place_b)                                          \
    asm volatile("{.reg .pred add; setp.eq.u32 add, 0, 0; "                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #tokens "k16.f32." WGMMA_INPUTS               \
                 " {" WGMMA_PLACES_##sums "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #place_b \
                 ", add, 1, 1, 0;}"                                                                \
                 : WGMMA_SUMS_##sums(0)                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

template <int TOKENS> __device__ __forceinline__ void wgmma_step(float *d, const u32 a[4], u64 b) {
    if constexpr (TOKENS == 256) {
        WGMMA_STEP(256, 128, 128, 129, 130, 131, 132);
    } else if constexpr (TOKENS == 128) {
        WGMMA_STEP(128, 64, 64, 65, 66, 67, 68);
    } else if constexpr (TOKENS == 64) {
        WGMMA_STEP(64, 32, 32, 33, 34, 35, 36);
    } else if constexpr (TOKENS == 32) {
        WGMMA_STEP(32, 16, 16, 17, 18, 19, 20);
    } else {
        WGMMA_STEP(16, 8, 8, 9, 10, 11, 12);
    }
}

#endif

// What: packed weights of layout tile16 (docs/kernels.md) to A fragments of mma.m16n8k16.
// Idea: the only file of kernels/ that knows BITS. A code is placed in the mantissa of an fp16 1024
//     and the offset is subtracted in fp16, which is exact: fragments hold integers, the scale of
//     their group multiplies fp32 sums. The high nibbles of 4-bit words stay where they are, which
//     makes rows r + 8 sixteen times as large; that factor goes with the scale.
// Source: the fp16 trick of "Who Says Elephants Can't Run" (Kim et al., 2022), as in Marlin.
// Parameters: BITS 4, 8, 16; GROUP 32, 64, 128 (0 with 16 bits).
#ifndef DEQUANT_CUH
#define DEQUANT_CUH

static_assert(BITS == 4 || BITS == 8 || BITS == 16, "BITS");
static_assert(BITS == 16 ? GROUP == 0 : GROUP == 32 || GROUP == 64 || GROUP == 128, "GROUP");

constexpr int TILE_ROWS = 16;
constexpr int TILE_BYTES = 512;
constexpr int SCALE_BLOCK_BYTES = 32;
constexpr int TILE_K = TILE_BYTES * 8 / BITS / TILE_ROWS;
constexpr int RECORD_K = BITS == 16 ? 64 : GROUP > TILE_K ? GROUP : TILE_K;
constexpr int RECORD_TILES = RECORD_K / TILE_K;
constexpr int RECORD_GROUPS = BITS == 16 ? 0 : RECORD_K / (BITS == 16 ? 1 : GROUP);
constexpr int RECORD_SCALE_BYTES = RECORD_GROUPS * SCALE_BLOCK_BYTES;
constexpr int RECORD_BYTES = RECORD_SCALE_BYTES + RECORD_TILES * TILE_BYTES;
constexpr int RECORD_STEPS = RECORD_K / 16; // k16 steps of an mma
constexpr int TILE_STEPS = TILE_K / 16;
constexpr int GROUP_STEPS = BITS == 16 ? RECORD_STEPS : GROUP / 16;

// A fragment of k16 step `step` of a tile, from this lane's four words of the tile.
__device__ __forceinline__ void dequant_step(u32 a[4], const u32 words[4], int step) {
    if constexpr (BITS == 4) {
        constexpr u32 LOW = 0x000f000f, HIGH = 0x00f000f0, ONE = 0x64006400; // 1024, 1024
        constexpr u32 LOW_ZERO = 0x64086408, HIGH_ZERO = 0x64806480;         // 1024 + 8, + 8 * 16
        u32 word = words[step], next = words[step] >> 8;
        a[0] = sub_f16x2(lop3<0xea>(word, LOW, ONE), LOW_ZERO); // (word & LOW) | ONE
        a[1] = sub_f16x2(lop3<0xea>(word, HIGH, ONE), HIGH_ZERO);
        a[2] = sub_f16x2(lop3<0xea>(next, LOW, ONE), LOW_ZERO);
        a[3] = sub_f16x2(lop3<0xea>(next, HIGH, ONE), HIGH_ZERO);
    } else if constexpr (BITS == 8) {
        constexpr u32 ONE = 0x64646464, ZERO = 0x64806480; // 1024 + 128
        u32 row = words[2 * step], row8 = words[2 * step + 1];
        a[0] = sub_f16x2(prmt(row, ONE, 0x4240), ZERO); // bytes 0 and 2: k0, k0 + 1
        a[1] = sub_f16x2(prmt(row8, ONE, 0x4240), ZERO);
        a[2] = sub_f16x2(prmt(row, ONE, 0x4341), ZERO); // bytes 1 and 3: k0 + 8, k0 + 9
        a[3] = sub_f16x2(prmt(row8, ONE, 0x4341), ZERO);
    } else {
        a[0] = words[0];
        a[1] = words[1];
        a[2] = words[2];
        a[3] = words[3];
    }
}

// The same, each weight times its scale, rounded to fp16: scales[0] holds the scale of row r twice,
// scales[1] that of row r + 8.
__device__ __forceinline__ void dequant_scaled_step(u32 a[4], const u32 words[4], int step,
                                                    const u32 scales[2]) {
    dequant_step(a, words, step);
    if constexpr (BITS == 4) { // the high nibbles again, now brought down to their value, exactly
        constexpr u32 HIGH = 0x00f000f0, ONE = 0x64006400;
        constexpr u32 SIXTEENTH = 0x2c002c00, ZERO = 0xd480d480; // 1 / 16, -(1024 + 8 * 16) / 16
        a[1] = fma_f16x2(lop3<0xea>(words[step], HIGH, ONE), SIXTEENTH, ZERO);
        a[3] = fma_f16x2(lop3<0xea>(words[step] >> 8, HIGH, ONE), SIXTEENTH, ZERO);
    }
    if constexpr (BITS != 16) {
        a[0] = mul_f16x2(a[0], scales[0]);
        a[1] = mul_f16x2(a[1], scales[1]);
        a[2] = mul_f16x2(a[2], scales[0]);
        a[3] = mul_f16x2(a[3], scales[1]);
    }
}

// Factors of the rows r and r + 8 from the word that holds both scales.
__device__ __forceinline__ void dequant_scales(float *low, float *high, u32 scales) {
    *low = f16x2_low(scales);
    *high = f16x2_high(scales) * (BITS == 4 ? 0.0625f : 1.0f);
}

#endif

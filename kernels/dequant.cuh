// What: packed weights of layout tile16 (docs/kernels.md) to A fragments of mma.m16n8k16.
// Idea: the only file of kernels/ that knows BITS and how zero points and scales are stored. A
//     code is placed in the mantissa of a number whose last bit counts ones (fp16 1024, bf16 128,
//     fp32 2^23), and that number plus the zero point is subtracted, which is exact: fragments
//     hold code - zero, and a zero point of its own costs no instruction per weight. The high
//     nibbles of 4-bit words stay where they are in fp16, which makes rows r + 8 sixteen times as
//     large; linear_decode lets that factor go with the scale. bf16 has too short a mantissa for
//     it.
// Source: the fp16 trick of "Who Says Elephants Can't Run" (Kim et al., 2022), as in Marlin.
// Parameters: BITS 4, 8, 16; GROUP 16, 32, 64, 128 (0 with 16 bits); ZEROS 1: a zero point per
//     group, else 2^(BITS - 1); SCALE_F32 1: scales are fp32, not fp16; WEIGHT_BF16 1: 16-bit
//     weights are bf16, as activations then are.
#ifndef DEQUANT_CUH
#define DEQUANT_CUH

static_assert(BITS == 4 || BITS == 8 || BITS == 16, "BITS");
static_assert(BITS == 16 ? GROUP == 0 : GROUP == 16 || GROUP == 32 || GROUP == 64 || GROUP == 128,
              "GROUP");
static_assert(BITS == 16 ? !ZEROS && !SCALE_F32 : !WEIGHT_BF16, "ZEROS, SCALE_F32, WEIGHT_BF16");
static_assert(BITS != 16 || WEIGHT_BF16 == ACT_BF16, "WEIGHT_BF16");

constexpr int TILE_ROWS = 16;
constexpr int TILE_BYTES = 512;
constexpr int SCALE_BLOCK_BYTES = SCALE_F32 ? 64 : 32;
constexpr int ZERO_BLOCK_BYTES = ZEROS ? 32 : 0;
constexpr int TILE_K = TILE_BYTES * 8 / BITS / TILE_ROWS;
constexpr int RECORD_K = BITS == 16 ? 64 : GROUP > TILE_K ? GROUP : TILE_K;
constexpr int RECORD_TILES = RECORD_K / TILE_K;
constexpr int RECORD_GROUPS = BITS == 16 ? 0 : RECORD_K / (BITS == 16 ? 1 : GROUP);
constexpr int RECORD_ZEROS_AT = RECORD_GROUPS * SCALE_BLOCK_BYTES;
constexpr int RECORD_HEAD_BYTES = RECORD_ZEROS_AT + RECORD_GROUPS * ZERO_BLOCK_BYTES;
constexpr int RECORD_BYTES = RECORD_HEAD_BYTES + RECORD_TILES * TILE_BYTES;
constexpr int RECORD_STEPS = RECORD_K / 16; // k16 steps of an mma
constexpr int TILE_STEPS = TILE_K / 16;
constexpr int GROUP_STEPS = BITS == 16 ? RECORD_STEPS : GROUP / 16;

// ---- zero points --------------------------------------------------------------------------------

// What is subtracted from the rows r and r + 8 of a group, in the form that dequant_step takes.
// SCALED: in the form that dequant_scaled_step takes.
template <bool SCALED> struct Zeros {
    u32 rows[2];
};

// Of every group, where none has a zero point of its own.
template <bool SCALED> __device__ __forceinline__ Zeros<SCALED> zeros_middle() {
    if constexpr (BITS == 4 && ACT_BF16) {
        return {{0xc308c308, 0xc308c308}}; // -(128 + 8)
    } else if constexpr (BITS == 4) {
        return {{0x64086408, SCALED ? 0xd480d480 : 0x64806480}}; // 1024 + 8; -(64 + 8), + 8 * 16
    } else if constexpr (ACT_BF16) {
        return {{0x4b000080, 0x4b000080}}; // 2^23 + 128
    } else {
        return {{0x64806480, 0x64806480}}; // 1024 + 128
    }
}

__device__ __forceinline__ u32 twice_bf16(float x) {
    return cvt_rn_bf16x2_f32(x, x);
}

// From the word that holds the zero points of both rows as fp16 numbers.
template <bool SCALED> __device__ __forceinline__ Zeros<SCALED> zeros_from(u32 pair) {
    float low = f16x2_low(pair), high = f16x2_high(pair);
    if constexpr (BITS == 4 && ACT_BF16) {
        return {{twice_bf16(-128.0f - low), twice_bf16(-128.0f - high)}};
    } else if constexpr (ACT_BF16) {
        return {{__float_as_uint(8388608.0f + low), __float_as_uint(8388608.0f + high)}};
    } else {
        // row r: 1024 + z; row r + 8: 1024 + 16 z, or -(64 + z), or 1024 + z
        constexpr u32 FACTORS = BITS == 8 ? 0x3c003c00 : SCALED ? 0xbc003c00 : 0x4c003c00;
        constexpr u32 OFFSETS = BITS == 4 && SCALED ? 0xd4006400 : 0x64006400;
        u32 both = fma_f16x2(pair, FACTORS, OFFSETS);
        return {{prmt(both, 0, 0x1010), prmt(both, 0, 0x3232)}};
    }
}

// Where a lane's pair of rows stands among the zero points, and among the scales, of a group: bytes.
__device__ __forceinline__ u32 lane_zeros(int lane) {
    return lane / 4 * 4;
}
__device__ __forceinline__ u32 lane_scales(int lane) {
    return lane / 4 * (SCALE_F32 ? 8 : 4);
}

// at: shared address of the lane's pair of zero points.
template <bool SCALED>
__device__ __forceinline__ Zeros<SCALED> zeros_load(u32 at) {
    if constexpr (ZEROS) {
        return zeros_from<SCALED>(ld_shared_u32(at));
    } else {
        return zeros_middle<SCALED>();
    }
}

// ---- codes --------------------------------------------------------------------------------------

// Bytes FIRST and FIRST + 2 of a word, less the zero point, as a pair of bf16.
template <int FIRST> __device__ __forceinline__ u32 bytes_bf16(u32 word, u32 zero) {
    constexpr u32 ONE = 0x4b000000; // 2^23
    float low = __uint_as_float(prmt(word, ONE, 0x7440 + FIRST)) - __uint_as_float(zero);
    float high = __uint_as_float(prmt(word, ONE, 0x7442 + FIRST)) - __uint_as_float(zero);
    return cvt_rn_bf16x2_f32(low, high);
}

// 1024 + 16 * code to 16 * (code - zero), or to code - zero, both exact.
template <bool SCALED> __device__ __forceinline__ u32 high_rows(u32 x, u32 zero) {
    constexpr u32 SIXTEENTH = 0x2c002c00;
    return SCALED ? fma_f16x2(x, SIXTEENTH, zero) : sub_f16x2(x, zero);
}

// A fragment of k16 step `step` of a tile, from this lane's four words of the tile.
template <bool SCALED>
__device__ __forceinline__ void codes_step(u32 a[4], const u32 words[4], int step,
                                           const Zeros<SCALED> &zeros) {
    if constexpr (BITS == 4 && ACT_BF16) {
        constexpr u32 LOW = 0x000f000f, ONE = 0x43004300, UNIT = 0x3f803f80; // 128 and 1, twice
        u32 word = words[step];
        a[0] = fma_bf16x2(lop3<0xea>(word, LOW, ONE), UNIT, zeros.rows[0]); // (word & LOW) | ONE
        a[1] = fma_bf16x2(lop3<0xea>(word >> 4, LOW, ONE), UNIT, zeros.rows[1]);
        a[2] = fma_bf16x2(lop3<0xea>(word >> 8, LOW, ONE), UNIT, zeros.rows[0]);
        a[3] = fma_bf16x2(lop3<0xea>(word >> 12, LOW, ONE), UNIT, zeros.rows[1]);
    } else if constexpr (BITS == 4) {
        constexpr u32 LOW = 0x000f000f, HIGH = 0x00f000f0, ONE = 0x64006400; // 1024, 1024
        u32 word = words[step], next = words[step] >> 8;
        a[0] = sub_f16x2(lop3<0xea>(word, LOW, ONE), zeros.rows[0]);
        if (SCALED) { // ptxas keeps this order, which is the one that was measured
            a[2] = sub_f16x2(lop3<0xea>(next, LOW, ONE), zeros.rows[0]);
            a[1] = high_rows<SCALED>(lop3<0xea>(word, HIGH, ONE), zeros.rows[1]);
        } else {
            a[1] = high_rows<SCALED>(lop3<0xea>(word, HIGH, ONE), zeros.rows[1]);
            a[2] = sub_f16x2(lop3<0xea>(next, LOW, ONE), zeros.rows[0]);
        }
        a[3] = high_rows<SCALED>(lop3<0xea>(next, HIGH, ONE), zeros.rows[1]);
    } else if constexpr (BITS == 8) {
        constexpr u32 ONE = 0x64646464;
        u32 row = words[2 * step], row8 = words[2 * step + 1];
        if constexpr (ACT_BF16) {
            a[0] = bytes_bf16<0>(row, zeros.rows[0]); // k0, k0 + 1
            a[1] = bytes_bf16<0>(row8, zeros.rows[1]);
            a[2] = bytes_bf16<1>(row, zeros.rows[0]); // k0 + 8, k0 + 9
            a[3] = bytes_bf16<1>(row8, zeros.rows[1]);
        } else {
            a[0] = sub_f16x2(prmt(row, ONE, 0x4240), zeros.rows[0]); // bytes 0 and 2
            a[1] = sub_f16x2(prmt(row8, ONE, 0x4240), zeros.rows[1]);
            a[2] = sub_f16x2(prmt(row, ONE, 0x4341), zeros.rows[0]); // bytes 1 and 3
            a[3] = sub_f16x2(prmt(row8, ONE, 0x4341), zeros.rows[1]);
        }
    } else {
        a[0] = words[0];
        a[1] = words[1];
        a[2] = words[2];
        a[3] = words[3];
    }
}

// For sums that are multiplied by their group's scale afterwards: integers.
__device__ __forceinline__ void dequant_step(u32 a[4], const u32 words[4], int step,
                                             const Zeros<false> &zeros) {
    codes_step<false>(a, words, step, zeros);
}

// ---- scales -------------------------------------------------------------------------------------

// Factors of the sums of rows r and r + 8. at: shared address of the lane's pair of scales.
__device__ __forceinline__ void sum_factors(float *low, float *high, u32 at) {
    if constexpr (SCALE_F32) {
        float2 pair = ld_shared_v2_f32(at);
        *low = pair.x;
        *high = pair.y;
    } else {
        u32 pair = ld_shared_u32(at);
        *low = f16x2_low(pair);
        *high = f16x2_high(pair);
    }
    *high *= BITS == 4 && !ACT_BF16 ? 0.0625f : 1.0f;
}

// Scales of the rows r and r + 8 for dequant_scaled_step: in the activations' dtype, each twice in
// a word; with SCALE_F32 fp32. at: shared address of the lane's pair.
__device__ __forceinline__ void weight_scales(u32 scales[2], u32 at) {
    if constexpr (SCALE_F32) {
        uint2 pair = ld_shared_v2(at);
        scales[0] = pair.x;
        scales[1] = pair.y;
        return;
    }
    u32 pair = ld_shared_u32(at);
    if constexpr (ACT_BF16) {
        scales[0] = twice_bf16(f16x2_low(pair));
        scales[1] = twice_bf16(f16x2_high(pair));
    } else {
        scales[0] = prmt(pair, 0, 0x1010);
        scales[1] = prmt(pair, 0, 0x3232);
    }
}

__device__ __forceinline__ u32 weights_scaled(u32 pair, u32 scale) {
    if constexpr (SCALE_F32) {
        float factor = __uint_as_float(scale);
        return act2_from_f32(act2_low(pair) * factor, act2_high(pair) * factor);
    } else if constexpr (ACT_BF16) {
        return fma_bf16x2(pair, scale, 0); // a product; bf16 mul is new in sm_90
    } else {
        return mul_f16x2(pair, scale);
    }
}

// The same fragment, each weight times its scale, rounded to the activations' dtype.
__device__ __forceinline__ void dequant_scaled_step(u32 a[4], const u32 words[4], int step,
                                                    const u32 scales[2], const Zeros<true> &zeros) {
    codes_step<true>(a, words, step, zeros);
    if constexpr (BITS != 16) {
        a[0] = weights_scaled(a[0], scales[0]);
        a[1] = weights_scaled(a[1], scales[1]);
        a[2] = weights_scaled(a[2], scales[0]);
        a[3] = weights_scaled(a[3], scales[1]);
    }
}

#endif

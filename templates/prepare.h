// Prepares one record of one token's inputs for product.h (layout in tile16.h):
//
//   scale = max |x| of the group / 32767, code = round(x / scale)
//
// 16-bit codes keep the error of a linear below 5e-5 of its exact result.
#ifndef PREPARE_H
#define PREPARE_H

#include "simd.h"
#include "tile16.h"

enum { RECORD_INPUTS = 128 }; // at most

// Tokens that one product takes: `stored` places.
typedef struct Prepared {
    uint8_t *codes;
    BlockScale *scales;
    int64_t stored;
} Prepared;

// out[tile] is `stride` bytes apart.
static void record_quantize(const float x[RECORD_INPUTS], uint8_t *out, int64_t stride,
                            BlockScale *scales, int64_t scale_stride) {
    int32_t codes[RECORD_INPUTS] __attribute__((aligned(64)));
    for (int64_t group = 0; group < record_groups(); group++) {
        const float *from = x + group * HOLE_GROUP;
        vf largest = vf_zero();
        for (int64_t k = 0; k < HOLE_GROUP; k += LANES) {
            const vf v = vf_load(from + k);
            largest = vf_max(largest, vf_max(v, -v));
        }
        const float max = vf_largest(largest);
        const float inverse = max > 0 ? 32767.0f / max : 0;
        vi sum = vi_zero();
        for (int64_t k = 0; k < HOLE_GROUP; k += LANES) {
            const vi code = vi_round(vf_load(from + k) * inverse);
            sum += code;
            vi_store(codes + group * HOLE_GROUP + k, code);
        }
        int32_t total = 0;
        for (int lane = 0; lane < LANES; lane++)
            total += sum[lane];
        scales[group * scale_stride] = (BlockScale){max / 32767.0f, total};
    }
    const int64_t steps = tile_k() / 16;
    for (int64_t tile = 0; tile < record_tiles(); tile++) {
        int16_t *to = (int16_t *)(void *)(out + tile * stride);
        const int32_t *from = codes + tile * tile_k();
        for (int64_t h = 0; h < 2; h++)
            for (int64_t c = 0; c < 4; c++)
                for (int64_t j = 0; j < steps; j++, to += 2) {
                    to[0] = (int16_t)from[16 * j + 8 * h + 2 * c];
                    to[1] = (int16_t)from[16 * j + 8 * h + 2 * c + 1];
                }
    }
}

static void record_permute(const float x[RECORD_INPUTS], float *out) {
    for (int64_t k16 = 0; k16 < record_k(); k16 += 16)
        for (int64_t c = 0; c < 4; c++)
            for (int64_t h = 0; h < 2; h++, out += 2) {
                out[0] = x[k16 + 8 * h + 2 * c];
                out[1] = x[k16 + 8 * h + 2 * c + 1];
            }
}

// The codes of a tile as bytes, for products of bytes (tile16.h).
INLINE void tile_split(uint8_t *tile) {
    const int64_t half = tile_k() / 2;
    uint16_t codes[64];
    memcpy(codes, tile, (size_t)tile_k() * sizeof *codes);
    for (int64_t at = 0; at < half; at++)
        for (int64_t odd = 0; odd < 2; odd++) {
            tile[2 * at + odd] = (uint8_t)codes[at + odd * half];
            tile[tile_k() + 2 * at + odd] = (uint8_t)(codes[at + odd * half] >> 8);
        }
}

// x: the record's inputs, zero behind K.
static void record_store(const Prepared *to, int64_t token, int64_t record,
                         const float x[RECORD_INPUTS]) {
    if (HOLE_BITS == 16) {
        float *floats = (float *)(void *)to->codes;
        record_permute(x, floats + token * k_padded() + record * record_k());
        return;
    }
    const int64_t token0 = token / TOKEN_BLOCK * TOKEN_BLOCK, left = to->stored - token0;
    const int64_t stored = left < TOKEN_BLOCK ? left : TOKEN_BLOCK; // of this block
    const int64_t place = record * record_k() * stored + (token - token0) * tile_k();
    uint8_t *codes = to->codes + (token0 * k_padded() + place) * 2;
    record_quantize(x, codes, stored * tile_k() * 2,
                    to->scales + token0 * groups() + record * record_groups() * stored + token -
                        token0,
                    stored);
    for (int64_t tile = 0; BYTE_DOTS && to->stored <= FEW_TOKENS && tile < record_tiles(); tile++)
        tile_split(codes + tile * stored * tile_k() * 2);
}

#endif

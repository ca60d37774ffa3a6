// The product of a packed linear with prepared tokens (tile16.h), for the kernels that include this:
// each defines what it does with the result, finish().
//
//   y[token][row] = sum over groups g of  (w_scale[g][row] * x_scale[g][token])
//                                         * sum over k in g of (code[row][k] - zero) * x[token][k]
//
// The inner sum is exact in 32-bit integers (codes of at most 8 bits, 16-bit activations, groups of
// at most 128), and groups are added in the order of k. So every way of computing it gives the same
// bits: few tokens or many, at any place in the batch, with any vector length and any number of
// threads.
//
//   few tokens   The weights are read once, in order, as they lie: 64 bytes at a time hold two
//                rows, whose lanes are summed at the end of a record: all of them, or those of each
//                group of a tile. Zero points are taken off the sums. Bound by memory.
//   many tokens  Records of two row tiles are unpacked to int16 with one row in each lane, and used
//                by 128 tokens. 2 vectors x 8 tokens of sums stay in registers; each multiply reads
//                one pair of activations into all lanes. Bound by the multiplier.
//
// Unquantized weights (16 bits) are multiplied in float, for three tokens at once, with the same
// order of additions for any number of tokens.
//
// Non-goals: activations in 8 bits (the error would be 50 times larger), splitting K.
#ifndef PRODUCT_H
#define PRODUCT_H

#include "../runtime/step.h"
#include "simd.h"
#include "tile16.h"

extern const int64_t HOLE_WEIGHT_BF16; // 1: weights of 16 bits are bf16, else fp16

enum {
    ROWS = 16,                  // of a row tile
    PIECES = ROWS / LANES,      // vectors of a row tile
    HALF = LANES / 2,           // places of 64 bytes whose rows fill a vector
    UNIT = LANES == 16 ? 2 : 1, // row tiles that the kernel for many tokens takes at once
    UNIT_ROWS = UNIT * ROWS,
    RECORD_MAX_K = 128,
    GROUPS_MAX = 4, // of a record
    FLOAT_TOKENS = LANES == 16  ? 3
                   : LANES == 4 ? 2
                                : 1, // 8 vectors of sums each
    PREFETCH_BYTES = 4096,
};

typedef struct Product {
    const uint8_t *weights;
    const uint8_t *x;
    const BlockScale *x_scales;
    int64_t tokens;
} Product;

// What finish() needs; the includer's.
typedef struct Finish Finish;
// Takes the 16 rows of a row tile for a token, in the order of vectors (tile16.h).
INLINE void finish(const Finish *f, int64_t tile, int64_t token, const vf y[PIECES]);

static inline int64_t steps(void) { // of 16 inputs in a tile
    return tile_k() / 16;
}

// ---- few tokens ---------------------------------------------------------------------------------

// Adds to acc[2 i + h] the products of row place + i + 8 h with x, 4 bits, one tile. The rows with
// h = 1 come out times 16: their nibbles stay where they are.
INLINE void tile_dot4(vi acc[LANES], const uint8_t *tile, const uint8_t *x) {
    UNROLL
    for (int part = 0; part < 64; part += VECTOR_BYTES) {
        const vi x0 = vi_load(x + part), x1 = vi_load(x + 64 + part);
        UNROLL
        for (int i = 0; i < HALF; i++) {
            const vi w = vi_load(tile + 64 * i + part), w1 = vi_srl16(w, 8);
            acc[2 * i] = vi_dot16(acc[2 * i], w & 0x000f000f, x0);
            acc[2 * i + 1] = vi_dot16(acc[2 * i + 1], w & 0x00f000f0, x0);
            acc[2 * i] = vi_dot16(acc[2 * i], w1 & 0x000f000f, x1);
            acc[2 * i + 1] = vi_dot16(acc[2 * i + 1], w1 & 0x00f000f0, x1);
        }
    }
}

// 8 bits: acc[i] has the row place + i in its even lanes and the one 8 below in its odd lanes.
INLINE void tile_dot8(vi acc[HALF], const uint8_t *tile, const uint8_t *x) {
    UNROLL
    for (int part = 0; part < 64; part += VECTOR_BYTES) {
        const vi x0 = vi_double(x + part / 2), x1 = vi_double(x + 32 + part / 2);
        UNROLL
        for (int i = 0; i < HALF; i++) {
            const vi w = vi_load(tile + 64 * i + part);
            acc[i] = vi_dot16(acc[i], w & 0x00ff00ff, x0);
            acc[i] = vi_dot16(acc[i], vi_srl16(w, 8), x1);
        }
    }
}

#if BYTE_DOTS
// The same in products of bytes: a code of an input is 256 * high + low, with an unsigned low byte and a
// signed high one (tile16.h).
typedef struct ByteSums {
    vi low[LANES], high[LANES];
    vi inputs; // 8 bits: sum of the high bytes themselves, for weights that are taken as code - 128
} ByteSums;

INLINE void tile_dot4_bytes(ByteSums *s, const uint8_t *tile, const uint8_t *x) {
    UNROLL
    for (int part = 0; part < 64; part += VECTOR_BYTES) {
        const vi low = vi_load(x + part), high = vi_load(x + 64 + part);
        UNROLL
        for (int i = 0; i < HALF; i++) {
            const vi w = vi_load(tile + 64 * i + part);
            const vi row = w & 0x0f0f0f0f, below = vi_srl16(w, 4) & 0x0f0f0f0f;
            s->low[2 * i] = vi_dot_u8(s->low[2 * i], row, low);
            s->high[2 * i] = vi_dot_s8(s->high[2 * i], row, high);
            s->low[2 * i + 1] = vi_dot_u8(s->low[2 * i + 1], below, low);
            s->high[2 * i + 1] = vi_dot_s8(s->high[2 * i + 1], below, high);
        }
    }
}

INLINE void tile_dot8_bytes(ByteSums *s, const uint8_t *tile, const uint8_t *x) {
    UNROLL
    for (int part = 0; part < 64; part += VECTOR_BYTES) {
        const vi low = vi_double(x + part / 2), high = vi_double(x + 32 + part / 2);
        s->inputs = vi_dot_s8(s->inputs, vi_set(0x01010101), high);
        UNROLL
        for (int i = 0; i < HALF; i++) {
            const vi w = vi_load(tile + 64 * i + part);
            s->low[i] = vi_dot_u8(s->low[i], w, low);
            s->high[i] = vi_dot_s8(s->high[i], w ^ (int32_t)0x80808080, high);
        }
    }
}

INLINE void record_dots(vi acc[LANES], const uint8_t *tiles, const uint8_t *x, int64_t x_stride) {
    ByteSums s = {.inputs = vi_zero()};
    for (int64_t tile = 0; tile < record_tiles(); tile++) {
        if (HOLE_BITS == 4)
            tile_dot4_bytes(&s, tiles + tile * TILE_BYTES, x + tile * x_stride);
        else
            tile_dot8_bytes(&s, tiles + tile * TILE_BYTES, x + tile * x_stride);
    }
    UNROLL
    for (int i = 0; i < LANES; i++)
        acc[i] = s.low[i] + (vi)((vu)(s.high[i] + s.inputs * 128) << 8);
}
#else
INLINE void record_dots(vi acc[LANES], const uint8_t *tiles, const uint8_t *x, int64_t x_stride) {
    for (int64_t tile = 0; tile < record_tiles(); tile++) {
        if (HOLE_BITS == 4)
            tile_dot4(acc, tiles + tile * TILE_BYTES, x + tile * x_stride);
        else
            tile_dot8(acc, tiles + tile * TILE_BYTES, x + tile * x_stride);
    }
}
#endif

// The code that means 0 of the rows of vector `piece`.
INLINE vi zero_codes(const uint8_t *record, int64_t group, int piece) {
    if (!HOLE_ZEROS)
        return vi_set(zero_code());
    return vi_round(vf_half(record + zeros_at() + 32 * group + 2 * LANES * piece));
}

INLINE vf weight_scales(const uint8_t *record, int64_t group, int piece) {
    const uint8_t *from = record + scale_bytes() * group;
    if (HOLE_SCALE_F32)
        return vf_load((const float *)(const void *)from + LANES * piece);
    return vf_half(from + 2 * LANES * piece);
}

// Sums of the groups of a record for the rows of vector `piece`, zero point not yet taken off.
INLINE void record_sums(vi sums[GROUPS_MAX], const uint8_t *tiles, const uint8_t *x,
                        int64_t x_stride, int piece) {
    vi acc[LANES] = {vi_zero()};
    record_dots(acc, tiles + 64 * HALF * piece, x, x_stride);
    if (HOLE_GROUP >= tile_k())
        sums[0] = HOLE_BITS == 8 ? vi_rows2(acc) : vi_rows(acc);
    else if (HOLE_BITS == 8)
        vi_steps2(acc, sums);
    else
        vi_steps4(acc, sums);
    if (HOLE_BITS == 4 && HOLE_GROUP == 32) {
        sums[0] += sums[1];
        sums[1] = sums[2] + sums[3];
    }
    UNROLL
    for (int group = 0; group < GROUPS_MAX; group++)
        if (HOLE_BITS == 4 && !BYTE_DOTS && group < record_groups())
            sums[group] = vi_sra_pair(sums[group], 0, 4);
}

static void product_few(const Product *p, const Finish *f, int64_t first_tile, int64_t last_tile) {
    const int64_t x_stride = p->tokens * tile_k() * 2;
    for (int64_t tile = first_tile; tile < last_tile; tile++) {
        const uint8_t *record = p->weights + tile * records() * record_bytes();
        vf y[FEW_TOKENS][PIECES] = {{vf_zero()}};
        for (int64_t at = 0; at < records(); at++, record += record_bytes()) {
            for (int64_t line = 0; line < record_bytes(); line += 64)
                __builtin_prefetch(record + PREFETCH_BYTES + line);
            const uint8_t *x = p->x + at * record_tiles() * x_stride;
            for (int64_t token = 0; token < p->tokens; token++, x += tile_k() * 2) {
                COMPILER_BARRIER(); // else the unpacked record waits on the stack for the next one
                const BlockScale *scales = p->x_scales + at * record_groups() * p->tokens + token;
                UNROLL
                for (int piece = 0; piece < PIECES; piece++) {
                    vi sums[GROUPS_MAX];
                    record_sums(sums, record + tiles_at(), x, x_stride, piece);
                    UNROLL
                    for (int group = 0; group < GROUPS_MAX; group++) {
                        if (group >= record_groups())
                            continue;
                        const BlockScale *scale = scales + group * p->tokens;
                        const vi zero = zero_codes(record, group, piece) * scale->sum;
                        y[token][piece] = vf_fma(vf_from_vi(sums[group] - zero),
                                                 weight_scales(record, group, piece) * scale->scale,
                                                 y[token][piece]);
                    }
                }
            }
        }
        for (int64_t token = 0; token < p->tokens; token++)
            finish(f, tile, token, y[token]);
    }
}

// ---- many tokens --------------------------------------------------------------------------------

// The dwords of a 4-bit tile as [4 c + j][r]: 4 x 4 blocks, turned round.
INLINE void tile_turn4(const uint8_t *tile, uint32_t turned[16][8]) {
    for (int r = 0; r < 8; r += 4) {
        UNROLL
        for (int c = 0; c < 4; c++) {
            u4 row[4];
            UNROLL
            for (int i = 0; i < 4; i++)
                memcpy(&row[i], tile + 64 * (r + i) + 16 * c, 16);
            const u4 a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
            const u4 b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
            const u4 d = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
            const u4 e = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
            const u4 column[4] = {__builtin_shufflevector(a, b, 0, 1, 4, 5),
                                  __builtin_shufflevector(a, b, 2, 3, 6, 7),
                                  __builtin_shufflevector(d, e, 0, 1, 4, 5),
                                  __builtin_shufflevector(d, e, 2, 3, 6, 7)};
            UNROLL
            for (int j = 0; j < 4; j++)
                memcpy(&turned[4 * c + j][r], &column[j], 16);
        }
    }
}

// The pairs of dwords of an 8-bit tile as [2 c + j][r][h].
INLINE void tile_turn8(const uint8_t *tile, uint32_t turned[8][16]) {
    for (int r = 0; r < 8; r += 2) {
        UNROLL
        for (int c = 0; c < 4; c++) {
            u4 row[2];
            memcpy(&row[0], tile + 64 * r + 16 * c, 16);
            memcpy(&row[1], tile + 64 * (r + 1) + 16 * c, 16);
            const u4 first = __builtin_shufflevector(row[0], row[1], 0, 1, 4, 5);
            const u4 second = __builtin_shufflevector(row[0], row[1], 2, 3, 6, 7);
            memcpy(&turned[2 * c][2 * r], &first, 16);
            memcpy(&turned[2 * c + 1][2 * r], &second, 16);
        }
    }
}

// The number in both halves of each lane.
INLINE vi vi_both(vi v) {
    return (v & 0xffff) | (vi)((vu)v << 16);
}

// Unpacks a tile to pairs of int16, the zero point taken off: out[pair][row], UNIT_ROWS apart.
INLINE void tile_unpack(const uint8_t *record, int64_t at, uint32_t *out) {
    uint32_t turned[128] __attribute__((aligned(64)));
    const uint8_t *tile = record + tiles_at() + at * TILE_BYTES;
    const int pairs_of_half = HOLE_BITS == 4 ? 16 : 8;
    vi minus_zero[GROUPS_MAX][PIECES];
    for (int64_t group = 0; group < record_groups(); group++) {
        UNROLL
        for (int piece = 0; piece < PIECES; piece++)
            minus_zero[group][piece] = vi_both(-zero_codes(record, group, piece));
    }
    if (HOLE_BITS == 4)
        tile_turn4(tile, (uint32_t(*)[8])turned);
    else
        tile_turn8(tile, (uint32_t(*)[16])turned);
    for (int pair = 0; pair < pairs_of_half; pair++) { // [c][j]
        const int64_t group = HOLE_GROUP < tile_k() ? pair % steps() * 16 / HOLE_GROUP : 0;
        UNROLL
        for (int piece = 0; piece < PIECES; piece++) {
            vi w[2];
            if (HOLE_BITS == 4) {
                const vi both = vi_double(turned + 8 * pair + HALF * piece);
                w[0] = vi_srl_pair(both, 0, 4) & 0x000f000f;
                w[1] = vi_srl_pair(both, 8, 12) & 0x000f000f;
            } else {
                const vi both = vi_load(turned + 16 * pair + LANES * piece);
                w[0] = both & 0x00ff00ff;
                w[1] = vi_srl16(both, 8);
            }
            UNROLL
            for (int h = 0; h < 2; h++)
                vi_store(out + (h * pairs_of_half + pair) * UNIT_ROWS + LANES * piece,
                         vi_add16(w[h], minus_zero[group][piece]));
        }
    }
}

// The sums of one group for 2 vectors of rows and `count` tokens, scaled and added to y.
// w: the record's pairs [pair][UNIT_ROWS]; x: the first of these tokens in the record's first tile.
INLINE void block_group(float *y, const uint32_t *w, const vf w_scale[2], const uint8_t *x,
                        int64_t x_stride, const BlockScale *x_scale, int64_t group, int count) {
    const int64_t first = group * HOLE_GROUP / tile_k();
    const int64_t tiles = HOLE_GROUP < tile_k() ? 1 : HOLE_GROUP / tile_k();
    vi acc[2][8];
    UNROLL
    for (int token = 0; token < count; token++)
        acc[0][token] = acc[1][token] = vi_zero();
    for (int64_t tile = first; tile < first + tiles; tile++) {
        const uint32_t *w_tile = w + tile * tile_k() / 2 * UNIT_ROWS;
        const uint8_t *x_tile = x + tile * x_stride;
        const int64_t pairs = (HOLE_GROUP < tile_k() ? HOLE_GROUP : tile_k()) / 2;
        UNROLL_BY_4
        for (int64_t i = 0; i < pairs; i++) {
            // A group of a part of a tile: of the pairs [h][c][j] those whose j belongs to it.
            const int64_t own = HOLE_GROUP / 16;
            const int64_t pair =
                HOLE_GROUP < tile_k() ? i / own * steps() + i % own + own * group : i;
            const vi w0 = vi_load(w_tile + pair * UNIT_ROWS);
            const vi w1 = vi_load(w_tile + pair * UNIT_ROWS + LANES);
            UNROLL
            for (int token = 0; token < count; token++) {
                const vi both = vi_broadcast(x_tile + token * tile_k() * 2 + pair * 4);
                acc[0][token] = vi_dot16(acc[0][token], w0, both);
                acc[1][token] = vi_dot16(acc[1][token], w1, both);
            }
        }
    }
    UNROLL
    for (int token = 0; token < count; token++) {
        UNROLL
        for (int v = 0; v < 2; v++) {
            float *to = y + token * UNIT_ROWS + v * LANES;
            vf_store(to, vf_fma(vf_from_vi(acc[v][token]), w_scale[v] * x_scale[token].scale,
                                vf_load(to)));
        }
    }
}

// All tokens of a block with the unpacked record w.
INLINE void block_record(float *y, const uint32_t *w, const uint8_t *const record[UNIT],
                         const uint8_t *x, const BlockScale *x_scales, int64_t stored) {
    const int64_t x_stride = stored * tile_k() * 2;
    for (int64_t group = 0; group < record_groups(); group++) {
        const BlockScale *scales = x_scales + group * stored;
        for (int row = 0; row < UNIT_ROWS; row += 2 * LANES) {
            vf w_scale[2];
            UNROLL
            for (int v = 0; v < 2; v++)
                w_scale[v] = weight_scales(record[(row + v * LANES) / ROWS], group,
                                           (row + v * LANES) % ROWS / LANES);
            int64_t token = 0;
            for (; token + 8 <= stored; token += 8)
                block_group(y + token * UNIT_ROWS + row, w + row, w_scale, x + token * tile_k() * 2,
                            x_stride, scales + token, group, 8);
            if (token < stored)
                block_group(y + token * UNIT_ROWS + row, w + row, w_scale, x + token * tile_k() * 2,
                            x_stride, scales + token, group, 4);
        }
    }
}

static void product_many(const Product *p, const Finish *f, int64_t first_tile, int64_t last_tile) {
    uint32_t w[RECORD_MAX_K / 2 * UNIT_ROWS] __attribute__((aligned(64)));
    float y[TOKEN_BLOCK * UNIT_ROWS] __attribute__((aligned(64)));
    for (int64_t token0 = 0; token0 < p->tokens; token0 += TOKEN_BLOCK) {
        const int64_t left = p->tokens - token0, count = left < TOKEN_BLOCK ? left : TOKEN_BLOCK;
        const int64_t stored = block_stored(count);
        const uint8_t *x = p->x + token0 * k_padded() * 2;
        const BlockScale *x_scales = p->x_scales + token0 * groups();
        for (int64_t tile = first_tile; tile < last_tile; tile += UNIT) {
            const int64_t tiles = last_tile - tile < UNIT ? last_tile - tile : UNIT;
            memset(y, 0, (size_t)(stored * UNIT_ROWS) * sizeof *y);
            for (int64_t at = 0; at < records(); at++) {
                const uint8_t *record[UNIT];
                UNROLL
                for (int i = 0; i < UNIT; i++) { // without a second tile, the first one again
                    const int64_t from = i < tiles ? tile + i : tile;
                    record[i] = p->weights + (from * records() + at) * record_bytes();
                    for (int64_t t = 0; t < record_tiles(); t++)
                        tile_unpack(record[i], t, w + t * tile_k() / 2 * UNIT_ROWS + i * ROWS);
                }
                block_record(y, w, record, x + at * record_k() * stored * 2,
                             x_scales + at * record_groups() * stored, stored);
            }
            for (int64_t token = 0; token < count; token++) {
                for (int64_t i = 0; i < tiles; i++) {
                    vf rows[PIECES];
                    UNROLL
                    for (int piece = 0; piece < PIECES; piece++)
                        rows[piece] = vf_load(y + token * UNIT_ROWS + i * ROWS + piece * LANES);
                    finish(f, tile + i, token0 + token, rows);
                }
            }
        }
    }
}

// ---- unquantized weights ------------------------------------------------------------------------

// The rows of places [piece * HALF, + HALF) of a row tile for `count` tokens, x: [token][k_padded].
INLINE void float_rows(const uint8_t *tiles, const float *x, int piece, int count,
                       vf y[FLOAT_TOKENS][PIECES]) {
    vf acc[FLOAT_TOKENS][HALF][SUM_VECTORS];
    UNROLL
    for (int token = 0; token < count; token++)
        memset(acc[token], 0, sizeof acc[token]);
    const uint8_t *tile = tiles + 64 * HALF * piece;
    for (int64_t k = 0; k < k_padded(); k += 16, tile += TILE_BYTES) {
        __builtin_prefetch(tile + PREFETCH_BYTES);
        UNROLL
        for (int part = 0; part < 32; part += LANES) { // pieces of a place's 64 bytes
            const int sums = part / LANES % SUM_VECTORS;
            vf both[FLOAT_TOKENS];
            UNROLL
            for (int token = 0; token < count; token++)
                both[token] = vf_double2(x + token * k_padded() + k + part / 2);
            UNROLL
            for (int i = 0; i < HALF; i++) {
                const uint8_t *from = tile + 64 * i + 2 * part;
                const vf w = HOLE_WEIGHT_BF16 ? vf_bf16(from) : vf_half(from);
                UNROLL
                for (int token = 0; token < count; token++)
                    acc[token][i][sums] = vf_fma(w, both[token], acc[token][i][sums]);
            }
        }
    }
    UNROLL
    for (int token = 0; token < count; token++)
        y[token][piece] = vf_rows2((const vf(*)[SUM_VECTORS])acc[token]);
}

INLINE void float_tile(const Product *p, const Finish *f, int64_t tile, int64_t token0, int count) {
    const uint8_t *tiles = p->weights + tile * records() * record_bytes();
    const float *x = (const float *)(const void *)p->x + token0 * k_padded();
    vf y[FLOAT_TOKENS][PIECES];
    UNROLL
    for (int piece = 0; piece < PIECES; piece++)
        float_rows(tiles, x, piece, count, y);
    UNROLL
    for (int token = 0; token < count; token++)
        finish(f, tile, token0 + token, y[token]);
}

static void product_float(const Product *p, const Finish *f, int64_t first_tile,
                          int64_t last_tile) {
    for (int64_t tile = first_tile; tile < last_tile; tile++) {
        int64_t token = 0;
        for (; token + FLOAT_TOKENS <= p->tokens; token += FLOAT_TOKENS)
            float_tile(p, f, tile, token, FLOAT_TOKENS);
        for (; token < p->tokens; token++)
            float_tile(p, f, tile, token, 1);
    }
}

// Row tiles from `first` on whose weights may be read, one at least.
INLINE int64_t tiles_ready(const StepRun *run, const Product *p, int64_t first, int64_t last) {
    const int64_t bytes = records() * record_bytes();
    if (!run->ready)
        return last;
    return first +
           run->ready(run, p->weights + first * bytes, bytes, (last - first) * bytes) / bytes;
}

// Row tiles [first, last) of the product, and finish() for each of them and each token.
static void product(const StepRun *run, const Product *p, const Finish *f, int64_t first,
                    int64_t last) {
    for (int64_t end; first < last; first = end) {
        end = tiles_ready(run, p, first, last);
        if (HOLE_BITS == 16)
            product_float(p, f, first, end);
        else if (p->tokens <= FEW_TOKENS)
            product_few(p, f, first, end);
        else
            product_many(p, f, first, end);
    }
}

#endif

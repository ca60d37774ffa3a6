// y = W x with packed weights and prepared activations, then one epilogue.
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
//                rows, whose lanes are summed at the end of a group. Bound by memory.
//   many tokens  Records of two row tiles are unpacked to int16 with one row in each lane, and used
//                by 128 tokens. 2 vectors x 8 tokens of sums stay in registers; each multiply reads
//                one pair of activations into all lanes. Bound by the multiplier.
//
// Unquantized weights (16 bits) are multiplied in float, for three tokens at once, with the same
// order of additions for any number of tokens.
//
// Work is split by row tiles. Non-goals: activations in 8 bits (the error would be 50 times
// larger), splitting K.
#include "tile16.h"

#include "rows.h"
#include "simd.h"

extern const int64_t HOLE_N;           // outputs
extern const int64_t HOLE_EPILOGUE;    // ORDER EPILOGUES
extern const int64_t HOLE_ACT;         // ORDER ACTIVATIONS
extern const int64_t HOLE_BIAS;        // 1: there is one
extern const int64_t HOLE_ROPE_FACTOR; // bits of the float

void linear(const StepRun *run, int32_t thread, const uint8_t *weights, const float *bias,
            const uint8_t *x, const BlockScale *x_scales, float *out, const float *residual,
            const float *inv_freq, uint8_t *kv, const int32_t *slots, const int32_t *positions,
            const int32_t *page_table);

enum {
    ROWS = 16,                  // of a row tile
    PIECES = ROWS / LANES,      // vectors of a row tile
    HALF = LANES / 2,           // places of 64 bytes whose rows fill a vector
    UNIT = LANES == 16 ? 2 : 1, // row tiles that the kernel for many tokens takes at once
    UNIT_ROWS = UNIT * ROWS,
    RECORD_MAX_K = 128,
    FLOAT_TOKENS = LANES == 16 ? 3 : 2, // 8 vectors of sums each
    PREFETCH_BYTES = 4096,
};

enum { EPILOGUE_STORE, EPILOGUE_ADD, EPILOGUE_ACT_MUL, EPILOGUE_ROPE_KV };

typedef struct Linear {
    const uint8_t *weights;
    const float *bias; // packed row order
    const uint8_t *x;
    const BlockScale *x_scales;
    float *out;            // [tokens, width of the output]
    const float *residual; // [tokens, N]
    const float *inv_freq; // [head_dim / 2]
    KvCache kv;
    const int32_t *slots, *positions;
    int64_t tokens;
} Linear;

// ---- epilogues: `low` are the rows 0 to 7 of the tile, `high` 8 to 15 ---------------------------

static void finish_store(const Linear *l, int64_t tile, int64_t token, f8 low, f8 high) {
    const int64_t at = token * HOLE_N + tile * ROWS;
    if (HOLE_EPILOGUE == EPILOGUE_ADD) {
        low += f8_load_some(l->residual + at, HOLE_N - tile * ROWS);
        high += f8_load_some(l->residual + at + 8, HOLE_N - tile * ROWS - 8);
    }
    f8_store_some(l->out + at, low, HOLE_N - tile * ROWS);
    f8_store_some(l->out + at + 8, high, HOLE_N - tile * ROWS - 8);
}

static void finish_act_mul(const Linear *l, int64_t tile, int64_t token, f8 gate, f8 up) {
    const int64_t width = HOLE_N / 2;
    const f8 value = activate(gate, HOLE_ACT) * up;
    f8_store_some(l->out + token * width + tile * 8, value, width - tile * 8);
}

static void finish_rope_kv(const Linear *l, int64_t tile, int64_t token, f8 low, f8 high) {
    const int64_t tiles_of_head = HOLE_HEAD_DIM / ROWS, head = tile / tiles_of_head;
    const int64_t at = tile % tiles_of_head;
    if (head >= HOLE_HEADS + 2 * HOLE_KV_HEADS) // padding
        return;
    if (head >= HOLE_HEADS + HOLE_KV_HEADS) {
        uint8_t *to = kv_row(&l->kv, 1, l->slots[token], l->positions[token],
                             head - HOLE_HEADS - HOLE_KV_HEADS);
        f8_half_store(to + 2 * at * ROWS, low);
        f8_half_store(to + 2 * (at * ROWS + 8), high);
        return;
    }
    f8 cosine, sine;
    rotation(l->positions[token], l->inv_freq + 8 * at, float_bits(HOLE_ROPE_FACTOR), &cosine,
             &sine);
    const f8 first = low * cosine - high * sine, second = high * cosine + low * sine;
    if (head < HOLE_HEADS) {
        float *to = l->out + (token * HOLE_HEADS + head) * HOLE_HEAD_DIM + 8 * at;
        f8_store(to, first);
        f8_store(to + HOLE_HEAD_DIM / 2, second);
    } else {
        uint8_t *to = kv_row(&l->kv, 0, l->slots[token], l->positions[token], head - HOLE_HEADS);
        f8_half_store(to + 2 * 8 * at, first);
        f8_half_store(to + 2 * (8 * at + HOLE_HEAD_DIM / 2), second);
    }
}

INLINE void finish(const Linear *l, int64_t tile, int64_t token, const vf y[PIECES]) {
    f8 low, high;
    vf_split(y, &low, &high);
    if (HOLE_BIAS) {
        low += f8_load(l->bias + tile * ROWS);
        high += f8_load(l->bias + tile * ROWS + 8);
    }
    if (HOLE_EPILOGUE == EPILOGUE_ROPE_KV)
        finish_rope_kv(l, tile, token, low, high);
    else if (HOLE_EPILOGUE == EPILOGUE_ACT_MUL)
        finish_act_mul(l, tile, token, low, high);
    else
        finish_store(l, tile, token, low, high);
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

// Sums of group `group` of a record for the rows of vector `piece`, zero point not yet taken off.
INLINE vi group_sums(const uint8_t *tiles, const uint8_t *x, int64_t x_stride, int64_t group,
                     int piece) {
    const int64_t first = group * HOLE_GROUP / tile_k();
    const int64_t count = HOLE_GROUP < tile_k() ? 1 : HOLE_GROUP / tile_k();
    tiles += 64 * HALF * piece;
    vi acc[LANES] = {vi_zero()};
    for (int64_t tile = first; tile < first + count; tile++) {
        if (HOLE_BITS == 4)
            tile_dot4(acc, tiles + tile * TILE_BYTES, x + tile * x_stride);
        else
            tile_dot8(acc, tiles + tile * TILE_BYTES, x + tile * x_stride);
    }
    if (HOLE_BITS == 8)
        return vi_rows2(acc);
    if (HOLE_GROUP < tile_k()) { // lanes 4 c + j: group 0 has j < 2
        UNROLL
        for (int i = 0; i < LANES; i++)
            acc[i] = vi_quads(acc[i], group == 0);
    }
    return vi_sra_pair(vi_rows(acc), 0, 4);
}

static void linear_few(const Linear *l, int64_t first_tile, int64_t last_tile) {
    const int64_t x_stride = l->tokens * tile_k() * 2;
    for (int64_t tile = first_tile; tile < last_tile; tile++) {
        const uint8_t *record = l->weights + tile * records() * record_bytes();
        vf y[FEW_TOKENS][PIECES] = {{vf_zero()}};
        for (int64_t at = 0; at < records(); at++, record += record_bytes()) {
            for (int64_t line = 0; line < record_bytes(); line += 64)
                __builtin_prefetch(record + PREFETCH_BYTES + line);
            const uint8_t *x = l->x + at * record_tiles() * x_stride;
            for (int64_t token = 0; token < l->tokens; token++, x += tile_k() * 2) {
                COMPILER_BARRIER(); // else the unpacked record waits on the stack for the next one
                for (int64_t group = 0; group < record_groups(); group++) {
                    const BlockScale *scale =
                        l->x_scales + (at * record_groups() + group) * l->tokens + token;
                    UNROLL
                    for (int piece = 0; piece < PIECES; piece++) {
                        const vi sums =
                            group_sums(record + record_groups() * 32, x, x_stride, group, piece);
                        const vf w_scale = vf_half(record + 32 * group + 2 * LANES * piece);
                        y[token][piece] = vf_fma(vf_from_vi(sums - scale->zero),
                                                 w_scale * scale->scale, y[token][piece]);
                    }
                }
            }
        }
        for (int64_t token = 0; token < l->tokens; token++)
            finish(l, tile, token, y[token]);
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

// Unpacks a tile to pairs of int16, the zero point taken off: out[pair][row], UNIT_ROWS apart.
INLINE void tile_unpack(const uint8_t *tile, uint32_t *out) {
    uint32_t turned[128] __attribute__((aligned(64)));
    const int pairs_of_half = HOLE_BITS == 4 ? 16 : 8;
    if (HOLE_BITS == 4)
        tile_turn4(tile, (uint32_t(*)[8])turned);
    else
        tile_turn8(tile, (uint32_t(*)[16])turned);
    for (int pair = 0; pair < pairs_of_half; pair++) {
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
            const vi minus_zero =
                vi_set(HOLE_BITS == 4 ? (int32_t)0xfff8fff8 : (int32_t)0xff80ff80);
            UNROLL
            for (int h = 0; h < 2; h++)
                vi_store(out + (h * pairs_of_half + pair) * UNIT_ROWS + LANES * piece,
                         vi_add16(w[h], minus_zero));
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
            // A group of half a tile: the pairs [h][c][j] with j / 2 == group.
            const int64_t pair = HOLE_GROUP < tile_k() ? i / 2 * 4 + i % 2 + 2 * group : i;
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
                w_scale[v] = vf_half(record[(row + v * LANES) / ROWS] + 32 * group +
                                     (row + v * LANES) % ROWS * 2);
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

static void linear_many(const Linear *l, int64_t first_tile, int64_t last_tile) {
    uint32_t w[RECORD_MAX_K / 2 * UNIT_ROWS] __attribute__((aligned(64)));
    float y[TOKEN_BLOCK * UNIT_ROWS] __attribute__((aligned(64)));
    for (int64_t token0 = 0; token0 < l->tokens; token0 += TOKEN_BLOCK) {
        const int64_t left = l->tokens - token0, count = left < TOKEN_BLOCK ? left : TOKEN_BLOCK;
        const int64_t stored = tokens_stored(count);
        const uint8_t *x = l->x + token0 * k_padded() * 2;
        const BlockScale *x_scales = l->x_scales + token0 * groups();
        for (int64_t tile = first_tile; tile < last_tile; tile += UNIT) {
            const int64_t tiles = last_tile - tile < UNIT ? last_tile - tile : UNIT;
            memset(y, 0, (size_t)(stored * UNIT_ROWS) * sizeof *y);
            for (int64_t at = 0; at < records(); at++) {
                const uint8_t *record[UNIT];
                UNROLL
                for (int i = 0; i < UNIT; i++) { // without a second tile, the first one again
                    const int64_t from = i < tiles ? tile + i : tile;
                    record[i] = l->weights + (from * records() + at) * record_bytes();
                    for (int64_t t = 0; t < record_tiles(); t++)
                        tile_unpack(record[i] + record_groups() * 32 + t * TILE_BYTES,
                                    w + t * tile_k() / 2 * UNIT_ROWS + i * ROWS);
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
                    finish(l, tile + i, token0 + token, rows);
                }
            }
        }
    }
}

// ---- unquantized weights ------------------------------------------------------------------------

// The rows of places [piece * HALF, + HALF) of a row tile for `count` tokens, x: [token][k_padded].
INLINE void float_rows(const uint8_t *tiles, const float *x, int piece, int count,
                       vf y[FLOAT_TOKENS][PIECES]) {
    vf acc[FLOAT_TOKENS][HALF];
    UNROLL
    for (int token = 0; token < count; token++) {
        UNROLL
        for (int i = 0; i < HALF; i++)
            acc[token][i] = vf_zero();
    }
    const uint8_t *tile = tiles + 64 * HALF * piece;
    for (int64_t k = 0; k < k_padded(); k += 16, tile += TILE_BYTES) {
        __builtin_prefetch(tile + PREFETCH_BYTES);
        UNROLL
        for (int part = 0; part < 32; part += LANES) { // halves of a place's 64 bytes
            vf both[FLOAT_TOKENS];
            UNROLL
            for (int token = 0; token < count; token++)
                both[token] = vf_double2(x + token * k_padded() + k + part / 2);
            UNROLL
            for (int i = 0; i < HALF; i++) {
                const vf w = vf_half(tile + 64 * i + 2 * part);
                UNROLL
                for (int token = 0; token < count; token++)
                    acc[token][i] = vf_fma(w, both[token], acc[token][i]);
            }
        }
    }
    UNROLL
    for (int token = 0; token < count; token++)
        y[token][piece] = vf_rows2(acc[token]);
}

INLINE void float_tile(const Linear *l, int64_t tile, int64_t token0, int count) {
    const uint8_t *tiles = l->weights + tile * records() * record_bytes();
    const float *x = (const float *)(const void *)l->x + token0 * k_padded();
    vf y[FLOAT_TOKENS][PIECES];
    UNROLL
    for (int piece = 0; piece < PIECES; piece++)
        float_rows(tiles, x, piece, count, y);
    UNROLL
    for (int token = 0; token < count; token++)
        finish(l, tile, token0 + token, y[token]);
}

static void linear_float(const Linear *l, int64_t first_tile, int64_t last_tile) {
    for (int64_t tile = first_tile; tile < last_tile; tile++) {
        int64_t token = 0;
        for (; token + FLOAT_TOKENS <= l->tokens; token += FLOAT_TOKENS)
            float_tile(l, tile, token, FLOAT_TOKENS);
        for (; token < l->tokens; token++)
            float_tile(l, tile, token, 1);
    }
}

void linear(const StepRun *run, int32_t thread, const uint8_t *weights, const float *bias,
            const uint8_t *x, const BlockScale *x_scales, float *out, const float *residual,
            const float *inv_freq, uint8_t *kv, const int32_t *slots, const int32_t *positions,
            const int32_t *page_table) {
    const Linear l = {weights,          bias,  x,         x_scales,   out, residual, inv_freq,
                      {kv, page_table}, slots, positions, run->tokens};
    const int64_t tiles = (HOLE_N + ROWS - 1) / ROWS;
    const int64_t first = tiles * thread / run->threads;
    const int64_t last = tiles * (thread + 1) / run->threads;
    if (HOLE_BITS == 16)
        linear_float(&l, first, last);
    else if (l.tokens <= FEW_TOKENS)
        linear_few(&l, first, last);
    else
        linear_many(&l, first, last);
}

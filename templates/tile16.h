// The packed weights of a linear (layout tile16, drawn in docs/kernels.md) and the prepared
// activations that the CPU kernels read with them, as constants of one specialized kernel.
//
// Weights: row tiles of 16 rows; in each, records along K; a record is its scales (16 halves or
// floats for each group; number 2 r + h is row r + 8 h), its zero points if it has any (16 halves
// for each group), and then tiles of 512 bytes. A tile is 16 rows x TILE_K inputs. The 64 bytes at
// 64 r of a tile belong to the rows r and r + 8.
//
// Rows in a vector stand in the order of the scales: r, r + 8, r + 1, r + 9, ...
//
// Activations, 4 and 8 bits: int16 codes and, for each group, a scale and the sum of its codes. Tokens stand in blocks of TOKEN_BLOCK; in a block, for each
// tile along K, for each token, TILE_K codes as pairs (k, k + 1) in the order in which a tile
// stores them: [h][c][j] with k = 16 j + 8 h + 2 c. A block of m tokens holds tokens_stored(m).
// With BYTE_DOTS (simd.h) and FEW_TOKENS at most, a tile's codes are their TILE_K low bytes and then
// their TILE_K high bytes, each in the order of the weights that they are multiplied with: the first
// half of the codes at even places, the second half at odd ones.
// Activations, 16 bits: floats, for each token [k / 16][c][h][2] with k % 16 = 2 c + 8 h.
#ifndef TILE16_H
#define TILE16_H

#include <stdint.h>

extern const int64_t HOLE_K;         // inputs
extern const int64_t HOLE_BITS;      // 4, 8, 16
extern const int64_t HOLE_GROUP;     // inputs per scale: 16, 32, 64, 128; 0 with 16 bits
extern const int64_t HOLE_ZEROS;     // 1: there are zero points, else 2^(BITS - 1) means 0
extern const int64_t HOLE_SCALE_F32; // 1: scales are floats, else halves

enum {
    TILE_BYTES = 512,
    TOKEN_BLOCK = 128, // one block's codes of a layer stay in the second-level cache
    FEW_TOKENS = 2,    // up to here each token reads the packed weights itself
};

typedef struct BlockScale {
    float scale;
    int32_t sum; // of the codes
} BlockScale;

static inline int64_t tile_k(void) {
    return HOLE_BITS == 4 ? 64 : HOLE_BITS == 8 ? 32 : 16;
}
static inline int64_t record_k(void) {
    return HOLE_BITS == 16 ? 64 : HOLE_GROUP < tile_k() ? tile_k() : HOLE_GROUP;
}
static inline int64_t record_groups(void) {
    return HOLE_BITS == 16 ? 0 : record_k() / HOLE_GROUP;
}
static inline int64_t record_tiles(void) {
    return record_k() / tile_k();
}
static inline int64_t scale_bytes(void) { // of a group
    return HOLE_SCALE_F32 ? 64 : 32;
}
static inline int64_t zeros_at(void) { // in a record
    return record_groups() * scale_bytes();
}
static inline int64_t tiles_at(void) {
    return zeros_at() + (HOLE_ZEROS ? record_groups() * 32 : 0);
}
static inline int64_t record_bytes(void) {
    return tiles_at() + record_tiles() * TILE_BYTES;
}
static inline int64_t records(void) { // of a row tile
    return (HOLE_K + record_k() - 1) / record_k();
}
static inline int64_t k_padded(void) {
    return records() * record_k();
}
static inline int64_t groups(void) {
    return records() * record_groups();
}
static inline int32_t zero_code(void) {
    return HOLE_BITS == 4 ? 8 : 128;
}
// The kernel for many tokens takes four at a time.
static inline int64_t block_stored(int64_t tokens) {
    return tokens <= FEW_TOKENS ? tokens : (tokens + 3) / 4 * 4;
}
// All blocks of `tokens` tokens. Tokens that are multiplied as floats are stored one by one.
static inline int64_t tokens_stored(int64_t tokens) {
    return HOLE_BITS == 16
               ? tokens
               : tokens / TOKEN_BLOCK * TOKEN_BLOCK + block_stored(tokens % TOKEN_BLOCK);
}

#endif

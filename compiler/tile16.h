// Geometry of the weight layout tile16, which docs/kernels.md draws: what pack.c writes and every
// linear kernel reads.
#ifndef TILE16_H
#define TILE16_H

#include "compile.h"

enum {
    TILE_ROWS = 16,
    TILE_BYTES = 512,
    SCALE_BLOCK_BYTES = 32, // of 16 fp16
    TENSOR_ALIGN = 256,     // of tensors in SEGMENT_WEIGHTS
};

// A record is the unit along K: the scale blocks of its groups, their zero point blocks (if the tensor
// has zero points), then its tiles. A scale block is 16 fp16 or fp32, a zero point block 16 fp16;
// index 2 * r + h of a block is row r + 8 * h of the tile.
typedef struct Record {
    int64_t k;      // inputs that it covers
    int64_t tile_k; // inputs of one tile: 64 (4 bits), 32 (8 bits), 16 (16 bits)
    int tiles;
    int groups;      // 0 for 16 bits
    int scale_bytes; // of one scale block: 32 or 64
    int zero_bytes;  // of one zero point block: 32, or 0 without zero points
    int64_t bytes;
} Record;

// Needs bits 4, 8 or 16; group 16, 32, 64 or 128 (0 for 16 bits); zeros, scale_f32.
Record record_geometry(const PackedTensor *t);

#endif

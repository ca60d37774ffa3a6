// Geometry of the weight layout tile16, which docs/kernels.md draws: what pack.c writes and every
// linear kernel reads.
#ifndef TILE16_H
#define TILE16_H

#include "compile.h"

enum { TILE_ROWS = 16, TILE_BYTES = 512, SCALE_BLOCK_BYTES = 32 };

// A record is the unit along K: first the scales of its groups, then its tiles.
typedef struct Record {
    int64_t k;      // inputs that it covers
    int64_t tile_k; // inputs of one tile: 64 (4 bits), 32 (8 bits), 16 (16 bits)
    int tiles;
    int groups; // scale blocks of 32 bytes; 0 for 16 bits
    int64_t bytes;
} Record;

// bits 4, 8 or 16; group 32, 64 or 128 (0 for 16 bits).
Record record_geometry(int bits, int group);

#endif

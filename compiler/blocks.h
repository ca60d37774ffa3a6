// Packed weights on their way to the file.
//
// Threads pack pieces of any size, nearly in order. They are put together in memory to blocks of 2 MiB,
// each of which is checked and written as a whole, once: a block that the system gets in one piece it
// also keeps in one piece, and then a process maps it with one entry of its page table
// (runtime/device_cpu.c). Pieces that touch each other's pages would leave pages of 4 KiB.
#ifndef BLOCKS_H
#define BLOCKS_H

#include "compile.h"

typedef struct Blocks Blocks;

// For `bytes` bytes at `base`, a multiple of 2 MiB if that is to be of use. checks: as of weights_pack.
Blocks *blocks_open(int fd, int64_t base, int64_t bytes, int threads, uint64_t *checks, Arena *a);
// Every byte once. Threads must take their pieces in the order of `at`: one that is too far ahead waits
// for those before it. False: a block could not be written.
bool blocks_put(Blocks *b, int64_t at, const void *data, int64_t size);
// When all bytes are there: 0, or errno of the first block that could not be written.
int blocks_close(Blocks *b);

#endif

// Tensor maps: how a kernel is told about a matrix that the copy engine of sm_90 reads box by box. A map
// is 128 bytes whose form only the driver knows, and a parameter of the kernel as a whole, in the place
// of the matrix's address. A map costs the host less than a launch, so each launch has its own.
#ifndef TENSOR_MAP_H
#define TENSOR_MAP_H

#include <stdint.h>

typedef struct TensorMap { // CUtensorMap
    _Alignas(64) uint64_t opaque[16];
} TensorMap;

// cuTensorMapEncodeTiled: (map, type, rank, address, sizes, strides, box, element strides, interleave,
// swizzle, promotion, fill); the innermost dimension first, the stride of which is left out.
typedef int32_t TensorMapEncode(TensorMap *map, int type, uint32_t rank, void *address,
                                const uint64_t *sizes, const uint64_t *strides, const uint32_t *box,
                                const uint32_t *element_strides, int interleave, int swizzle,
                                int promotion, int fill);

// act [rows, columns] at the device's `address` (a multiple of 16; columns: of 8), in boxes of box_rows
// (at most 256) x 64 in the 128-byte swizzle. What a box has outside of the matrix is 0. Returns the
// driver's error code.
static inline int32_t tensor_map(TensorMapEncode *encode, TensorMap *map, uint64_t address,
                                 int64_t rows, int64_t columns, int32_t box_rows) {
    enum { UINT16 = 1, BOX_COLUMNS = 64, INTERLEAVE_NONE = 0, SWIZZLE_128B = 3, L2_256B = 3, ZEROS = 0 };
    const uint64_t sizes[2] = {(uint64_t)columns, (uint64_t)rows}, stride = 2 * (uint64_t)columns;
    const uint32_t box[2] = {BOX_COLUMNS, (uint32_t)box_rows}, every[2] = {1, 1};
    return encode(map, UINT16, 2, (void *)(uintptr_t)address, sizes, &stride, box, every,
                  INTERLEAVE_NONE, SWIZZLE_128B, L2_256B, ZEROS);
}

#endif
